# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether one data set makes a better picker than another, beyond the chance of micrographs and seeds.

    python benchmarks/bootstrap.py --labelled world/labelled --diameter 250 --pixel-size 5 \\
        spectrum=runs/world/picks/spectrum trained=runs/world/picks/trained

A folder of picks holds ``picks_0.txt`` and so on, one file for each seed, as ``benchmarks/world.py`` keeps them of
its scorer: a table of image_name, x_coord, y_coord and score, in pixels of micrographs made --scale times smaller.
Every set is compared with the first: labelled micrographs and seeds are drawn again with replacement, the same ones
for both, and the difference of their mean AUPRC is taken; its 2.5 and 97.5 percentiles are printed.
"""
import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

from cryogem_scipion.engine.scoring.matching import match_positions
from cryogem_scipion.engine.scoring.picks import precision_recall_curve


def particles(folder, scale):
    """Positions of the countable particles on each labelled micrograph, in pixels of the picks."""
    found = {}
    for path in sorted(Path(folder).glob("*.json")):
        inside = [one for one in json.loads(path.read_text())["particles"] if one["inside"]]
        found[path.stem] = np.array([[round(one["x"] / scale), round(one["y"] / scale)] for one in inside], float)
    return found


def judged(path, truth, radius):
    """For each labelled micrograph, hits and scores of its picks."""
    table = pd.read_csv(path, sep="\t")
    result = []
    for name, positions in truth.items():
        rows = table[table["image_name"] == name]
        partner = match_positions(rows[["x_coord", "y_coord"]].to_numpy(float), positions, radius)
        result.append(((partner >= 0).astype(int), rows["score"].to_numpy(float)))
    return result


def precision(picks, counts, chosen):
    """AUPRC of the picks of some micrographs taken together."""
    hits, scores = (np.concatenate([picks[number][part] for number in chosen]) for part in (0, 1))
    return precision_recall_curve(hits, scores, sum(counts[number] for number in chosen)).auprc


def main():
    """Print each set's scores, and its difference from the first with an interval."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--labelled", required=True)
    parser.add_argument("--diameter", type=float, required=True)
    parser.add_argument("--pixel-size", type=float, required=True)
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--draws", type=int, default=2000)
    args = parser.parse_args()
    truth = particles(args.labelled, args.scale)
    counts = [len(positions) for positions in truth.values()]
    radius = max(2, round(args.diameter / args.pixel_size / args.scale / 4))
    found = {}
    for name, folder in (one.split("=", 1) for one in args.sets):
        found[name] = [judged(path, truth, radius) for path in sorted(Path(folder).glob("picks_*.txt"))]
    seeds = min(map(len, found.values()))
    if not seeds:
        raise SystemExit("a folder has no picks_*.txt")
    random = np.random.default_rng(0)
    draws = [(random.integers(len(truth), size=len(truth)), random.integers(seeds, size=seeds))
             for _ in range(args.draws)]
    drawn = {name: np.array([np.mean([precision(picks[seed], counts, chosen) for seed in some])
                             for chosen, some in draws]) for name, picks in found.items()}
    first = next(iter(found))
    for name, picks in found.items():
        each = [precision(one, counts, range(len(truth))) for one in picks[:seeds]]
        line = f"{name:12} AUPRC {np.mean(each):.3f} ({min(each):.3f} to {max(each):.3f}, {seeds} seeds)"
        if name != first:
            change = drawn[name] - drawn[first]
            low, high = np.percentile(change, [2.5, 97.5])
            line += f"; against {first} {change.mean():+.3f}, 95 % {low:+.3f} to {high:+.3f}"
        print(line)


if __name__ == "__main__":
    main()
