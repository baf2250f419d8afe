# SPDX-License-Identifier: GPL-3.0-or-later
"""Scores of pickers that are trained on labels of other micrographs of the same set.

    python benchmarks/expert_labels.py --labelled LABELLED --pixel-size 3 --diameter 125 --scorer PICKING --topaz ENV \\
        --out OUT

The labelled micrographs are divided into --folds parts. Pickers learn from all parts but one, and are scored on that
one. OUT/picks/labels (with --general: OUT/picks/labels_general) holds the picks of each seed on all micrographs, in the
form of benchmarks/noise_models.py, which also says what PICKING and ENV are.
"""
import argparse
import json
import re
import shutil
import sys
from pathlib import Path

import pandas as pd
from noise_models import output_of, wrapped_topaz


def write_fold(files, folder):
    """Links to some labelled micrographs, and the table of their particles for PICKING; its path."""
    shutil.rmtree(folder, ignore_errors=True)  # links to other micrographs of an earlier run
    folder.mkdir(parents=True)
    rows = []
    for file in files:
        for path in (file, file.with_suffix(".json")):
            (folder / path.name).symlink_to(path.absolute())
        rows += [(file.stem, round(particle["x"]), round(particle["y"]))
                 for particle in json.loads(file.with_suffix(".json").read_text("utf-8"))["particles"]]
    pd.DataFrame(rows, columns=["image_name", "x_coord", "y_coord"]).to_csv(folder / "particles.tsv", sep="\t",
                                                                            index=False)
    return folder / "particles.tsv"


def main():
    """Train and score the pickers of all parts, and print the mean of each seed over the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labelled", type=Path, required=True, help="folder of mic_*.mrc and mic_*.json")
    parser.add_argument("--pixel-size", type=float, required=True, help="Å")
    parser.add_argument("--diameter", type=float, required=True, help="of the particle (Å)")
    parser.add_argument("--folds", type=int, default=2, help="number of parts")
    parser.add_argument("--seeds", type=int, default=5, help="pickers for each part")
    parser.add_argument("--general", action="store_true",
                        help="fine-tune Topaz's general model instead of training from scratch")
    parser.add_argument("--scorer", metavar="PICKING", required=True)
    parser.add_argument("--topaz", metavar="ENV", required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    files = sorted(args.labelled.glob("mic_*.mrc"))
    scores, picks = [], []
    for fold in range(args.folds):
        folder = args.out / "labels" / str(fold)
        training = [file for number, file in enumerate(files) if number % args.folds != fold]
        coordinates = write_fold(training, folder / "training")
        write_fold(files[fold::args.folds], folder / "test")
        picks.append(folder / "picks")
        lines = output_of([sys.executable, args.scorer, "--topaz", wrapped_topaz(args, picks[-1]), "--train",
                           f"{folder}/training/mic_*.mrc", "--coordinates", coordinates, "--test", folder / "test",
                           "--diameter", args.diameter, "--pixel", args.pixel_size, "--seeds", args.seeds,
                           *(["--general"] if args.general else [])])
        scores.append([float(value) for value in re.findall(r"seed \d+: AUPRC ([\d.]+)", lines)])
    all_picks = args.out / ("picks/labels" + "_general" * args.general)
    shutil.rmtree(all_picks, ignore_errors=True)
    all_picks.mkdir(parents=True)
    for seed in range(args.seeds):
        pd.concat([pd.read_csv(folder / f"picks_{seed}.txt", sep="\t") for folder in picks]).to_csv(
            all_picks / f"picks_{seed}.txt", sep="\t", index=False)
    means = [sum(values) / len(values) for values in zip(*scores, strict=True)]
    print(f"- labels of {len(files) - len(files) // args.folds} other fields: AUPRC {sum(means) / len(means):.3f} "
          f"({min(means):.3f} to {max(means):.3f}, {len(means)} seeds)")


if __name__ == "__main__":
    main()
