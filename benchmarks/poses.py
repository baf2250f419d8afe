# SPDX-License-Identifier: GPL-3.0-or-later
"""Pose estimators trained on generated particles, and their errors on particles whose poses are known.

    python benchmarks/poses.py --train spectrum=GEN1 gaussian=GEN2 --held-out other=GEN3 --labelled WORLD --out FOLDER

GEN1, GEN2 and GEN3 are folders that 'cryogem generate' wrote, with extracted particles. On each --train folder,
'cryogem train-poses' trains an estimator, once for each seed; 'cryogem assign-poses' gives poses to the particles of
the --held-out folders and to the labelled particles. Settings may be chosen by the first, not by the second. WORLD
holds acquisition.json and labelled/mic_*.mrc, each with a mic_*.json whose "particles" have x, y (px), matrix (RELION's
matrix A) and inside; particles that are not inside are left out. They are cut around their true centres, and a second
time around centres with a random error of --picker-error Å along x and y, as pickers make. A third table is without
CTFs.

--leave-one-out adds an estimator that is trained on the labelled particles themselves: those of all other micrographs,
once for each seed.

No pose is refined against a map by another program.
"""
import argparse
import json
import logging
import math
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from markdown_table import MarkdownTable

from cryogem_scipion.engine.io.dataset import EXTRACTED, PARTICLES, read_table, write_table
from cryogem_scipion.engine.io.mrc import read_mrc, write_mrc
from cryogem_scipion.engine.scoring.alignment import random_pose_errors, rotation_angles
from cryogem_scipion.engine.scoring.particles import relion_matrices
from cryogem_scipion.engine.settings import AssignPosesSettings, TrainPosesSettings
from cryogem_scipion.engine.simulation.projection import euler_angles
from cryogem_scipion.engine.stages import assign_poses, train_poses

ANGLES = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
ORIGIN = ["rlnOriginXAngst", "rlnOriginYAngst"]
DEFOCUS = ["rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"]


def cut_labelled(world, box, picker_error, out):
    """Cut the labelled particles, protein bright, and write their table; returns its path."""
    acquisition = json.loads((world / "acquisition.json").read_text("utf-8"))
    pixel_size, random = acquisition["sampling_rate"], np.random.default_rng(0)
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for path in sorted((world / "labelled").glob("*.json")):
        micrograph, labels, images = read_mrc(path.with_suffix(".mrc"), 2)[0], json.loads(path.read_text("utf-8")), []
        for particle in labels["particles"]:
            centre = np.array([particle["x"], particle["y"]])
            coordinate = np.floor(centre + random.normal(0, picker_error, 2) / pixel_size)
            x, y = coordinate.astype(int) - box // 2
            if particle["inside"] and min(x, y) >= 0 and y + box <= len(micrograph) and x + box <= len(micrograph[0]):
                images.append(-micrograph[y:y + box, x:x + box])
                matrix = torch.tensor(particle["matrix"], dtype=torch.float64).reshape(1, 3, 3)
                rows.append({
                    "rlnImageName": f"{len(images):06d}@{path.stem}.mrcs", "rlnMicrographName": f"{path.stem}.mrc",
                    "rlnOpticsGroup": 1, **dict(zip(ANGLES, euler_angles(matrix)[0].tolist(), strict=True)),
                    **dict(zip(ORIGIN, (coordinate - centre) * pixel_size, strict=True)),
                    "rlnDefocusU": labels["defocus_u"], "rlnDefocusV": labels["defocus_v"],
                    "rlnDefocusAngle": labels["defocus_angle"]})
        write_mrc(out / f"{path.stem}.mrcs", np.stack(images), pixel_size, stack=True)
    optics = pd.DataFrame([{
        "rlnOpticsGroup": 1, "rlnOpticsGroupName": "world", "rlnVoltage": acquisition["voltage_kv"],
        "rlnSphericalAberration": acquisition["cs_mm"], "rlnAmplitudeContrast": acquisition["amplitude_contrast"],
        "rlnImagePixelSize": pixel_size, "rlnImageSize": box, "rlnImageDimensionality": 2}])
    write_table(out / PARTICLES, "particles", optics, pd.DataFrame(rows))
    return out / PARTICLES


def with_rows(star, name, change):
    """Write a table beside another one, with other rows; returns its path."""
    optics, rows = read_table(star, "particles")
    write_table(star.with_name(name), "particles", optics, change(rows))
    return star.with_name(name)


def errors(model, star, out):
    """Angles (degrees) and distances (Å) between assigned and true poses, and the confidences."""
    assign_poses.run(AssignPosesSettings(model=model, particles=star, out=out))
    found, truth = (read_table(path, "particles")[1] for path in (out / PARTICLES, star))
    first, second = (relion_matrices(rows[ANGLES].to_numpy(float)) for rows in (found, truth))
    angles = rotation_angles(first @ second.transpose(0, 2, 1))
    shifts = np.linalg.norm(found[ORIGIN].to_numpy(float) - truth[ORIGIN].to_numpy(float), axis=1)
    return angles, shifts, found["rlnMaxValueProbDistribution"].to_numpy(float)


def leave_one_out(star, tests, settings, out):
    """Errors of estimators that are trained on the labelled particles of all other micrographs."""
    collected = {name: [] for name in tests}
    names = list(dict.fromkeys(read_table(star, "particles")[1]["rlnMicrographName"]))
    for number, micrograph in enumerate(names):
        def same(rows, micrograph=micrograph):
            return rows["rlnMicrographName"] == micrograph

        others = with_rows(star, f"others_{number}.star", lambda rows, same=same: rows[~same(rows)])
        train_poses.run(TrainPosesSettings(particles=others, out=out / f"model_{number}", **settings))
        for name, test in tests.items():
            one = with_rows(test, f"one_{number}.star", lambda rows, same=same: rows[same(rows)])
            collected[name].append(errors(out / f"model_{number}/model.safetensors", one, out / f"{name}_{number}"))
    return {name: tuple(map(np.concatenate, zip(*parts, strict=True))) for name, parts in collected.items()}


def main():
    """Print the table: median error (lowest and highest seed), particles within 15° and 30°, shift, confidence."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs="*", default=[], metavar="NAME=FOLDER", help="sets to train on")
    parser.add_argument("--held-out", nargs="*", default=[], metavar="NAME=FOLDER", help="generated sets to score on")
    parser.add_argument("--labelled", type=Path, metavar="WORLD", help="folder with labelled micrographs to score on")
    parser.add_argument("--leave-one-out", action="store_true", help="also train on labelled particles")
    parser.add_argument("--diameter", type=float, help="diameter (Å) of the circle; default: that of each set")
    parser.add_argument("--box", type=int, default=76, help="box size (px) of the labelled particles")
    parser.add_argument("--picker-error", type=float, default=8.0, help="error (Å) of the coordinates along x and y")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each set")
    parser.add_argument("--steps", type=int, default=TrainPosesSettings.model_fields["steps"].default)
    parser.add_argument("--out", type=Path, required=True, help="folder for all models and poses")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    tests = {name: Path(folder) / EXTRACTED for name, folder in (text.split("=", 1) for text in args.held_out)}
    if args.labelled:
        tests["labelled"] = cut_labelled(args.labelled, args.box, 0.0, args.out / "labelled")
        tests["picked"] = cut_labelled(args.labelled, args.box, args.picker_error, args.out / "picked")
        tests["without CTF"] = with_rows(tests["labelled"], "no_ctf.star", lambda rows: rows.drop(columns=DEFOCUS))
    common = {"steps": args.steps, "diameter_angstrom": args.diameter}
    results = {}
    for name, folder in (text.split("=", 1) for text in args.train):
        for seed in range(args.seeds):
            out = args.out / f"{name}_{seed}"
            train_poses.run(TrainPosesSettings(particles=folder, out=out / "model", seed=seed, **common))
            for test, star in tests.items():
                found = errors(out / "model/model.safetensors", star, out / test.replace(" ", "_"))
                results.setdefault(name, {}).setdefault(test, []).append(found)
    if args.leave_one_out:
        both = {name: tests[name] for name in ("labelled", "picked")}
        found = [leave_one_out(tests["labelled"], both, {**common, "seed": seed}, args.out / f"leave_one_out_{seed}")
                 for seed in range(args.seeds)]
        results["labelled, leave one out"] = {name: [one[name] for one in found] for name in both}
    table = MarkdownTable("trained on", *(f"{test} ({len(read_table(star, 'particles')[1])} particles)"
                                          for test, star in tests.items()))
    for name, cells in results.items():
        table.row(name, *(summary(cells[test]) if test in cells else "–" for test in tests))
    print(f"\nEach cell: median error (lowest and highest of {args.seeds} seeds), particles within 15°, within 30°, "
          f"median error of the shift, mean confidence. Chance gives a median of "
          f"{np.median(random_pose_errors(np.eye(3)[None])):.0f}°.")


def summary(runs):
    """One cell of the table."""
    medians = [np.median(angles) for angles, _, _ in runs]
    interval = f" ({min(medians):.2f}–{max(medians):.2f})" if len(runs) > 1 else ""
    angles, shifts, confidence = (np.concatenate(values) for values in zip(*runs, strict=True))
    assert not math.isnan(angles.sum())
    return (f"{np.mean(medians):.2f}°{interval}, {np.mean(angles < 15):.1%}, {np.mean(angles < 30):.1%}, "
            f"{np.median(shifts):.1f} Å, {confidence.mean():.3f}")


if __name__ == "__main__":
    main()
