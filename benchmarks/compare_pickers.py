# SPDX-License-Identifier: GPL-3.0-or-later
"""Difference of the AUPRC of pickers trained on different data sets, with its 95 % interval (bootstrap).

    python benchmarks/compare_pickers.py --labelled LABELLED --diameter 250 --pixel-size 5 \\
        spectrum=OUT/picks/spectrum trained=OUT/picks/trained

A folder of picks holds one file for each seed: ``picks_0.txt``, ``picks_1.txt`` and so on. benchmarks/noise_models.py
writes them. Each is a table with the columns image_name, x_coord, y_coord and score. Coordinates are pixels of
micrographs that are --scale times smaller than the labelled ones.

LABELLED holds a mic_*.json for each micrograph, whose "particles" have x, y (px) and inside. Each set is compared with
the first one: labelled micrographs and seeds are drawn again with replacement, the same ones for both sets. The
interval goes from the 2.5 to the 97.5 percentile of the difference of their mean AUPRC.
"""
import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

from cryogem_scipion.engine.scoring.matching import match_positions
from cryogem_scipion.engine.scoring.picks import precision_recall_curve


def true_positions(folder, scale):
    """Positions (x, y) of the particles that count on each labelled micrograph, in pixels of the picks."""
    positions = {}
    for path in sorted(Path(folder).glob("*.json")):
        inside = [particle for particle in json.loads(path.read_text())["particles"] if particle["inside"]]
        positions[path.stem] = np.array(
            [[round(particle["x"] / scale), round(particle["y"] / scale)] for particle in inside], float)
    return positions


def hits_and_scores(path, truth, radius):
    """For each labelled micrograph: which picks are hits (0 or 1), and the scores of the picks."""
    table = pd.read_csv(path, sep="\t")
    result = []
    for name, positions in truth.items():
        rows = table[table["image_name"] == name]
        partner = match_positions(rows[["x_coord", "y_coord"]].to_numpy(float), positions, radius)
        result.append(((partner >= 0).astype(int), rows["score"].to_numpy(float)))
    return result


def pooled_auprc(picks, particle_counts, micrographs):
    """AUPRC of the picks of some micrographs (indices) taken together."""
    hits, scores = (np.concatenate([picks[index][part] for index in micrographs]) for part in (0, 1))
    return precision_recall_curve(hits, scores, sum(particle_counts[index] for index in micrographs)).auprc


def main():
    """Print the AUPRC of each set, and its difference from the first set with the interval."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="NAME=FOLDER", help="picks of one set; the first is the reference")
    parser.add_argument("--labelled", required=True, help="folder of the labelled micrographs' JSON files")
    parser.add_argument("--diameter", type=float, required=True, help="diameter of the particle (Å)")
    parser.add_argument("--pixel-size", type=float, required=True, help="of the labelled micrographs (Å)")
    parser.add_argument("--scale", type=int, default=2, help="factor by which micrographs were reduced for picking")
    parser.add_argument("--draws", type=int, default=2000, help="bootstrap draws")
    args = parser.parse_args()
    truth = true_positions(args.labelled, args.scale)
    particle_counts = [len(positions) for positions in truth.values()]
    radius = max(2, round(args.diameter / args.pixel_size / args.scale / 4))
    picks = {}
    for name, folder in (argument.split("=", 1) for argument in args.sets):
        picks[name] = [hits_and_scores(path, truth, radius) for path in sorted(Path(folder).glob("picks_*.txt"))]
    seeds = min(map(len, picks.values()))
    if not seeds:
        raise SystemExit("a folder has no picks_*.txt")
    random = np.random.default_rng(0)
    draws = [(random.integers(len(truth), size=len(truth)), random.integers(seeds, size=seeds))
             for _ in range(args.draws)]
    drawn_auprc = {name: np.array([np.mean([pooled_auprc(of_seeds[seed], particle_counts, micrographs)
                                            for seed in drawn_seeds])
                                   for micrographs, drawn_seeds in draws]) for name, of_seeds in picks.items()}
    reference = next(iter(picks))
    for name, of_seeds in picks.items():
        auprc = [pooled_auprc(of_seed, particle_counts, range(len(truth))) for of_seed in of_seeds[:seeds]]
        line = f"{name:12} AUPRC {np.mean(auprc):.3f} ({min(auprc):.3f} to {max(auprc):.3f}, {seeds} seeds)"
        if name != reference:
            difference = drawn_auprc[name] - drawn_auprc[reference]
            low, high = np.percentile(difference, [2.5, 97.5])
            line += f"; against {reference} {difference.mean():+.3f}, 95 % {low:+.3f} to {high:+.3f}"
        print(line)


if __name__ == "__main__":
    main()
