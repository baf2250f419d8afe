# SPDX-License-Identifier: GPL-3.0-or-later
"""Data sets for a real set with known truth: white noise, measured spectrum without and with contaminants, trained
translator, and the translator without one of its parts; then their scores.

    python benchmarks/world.py --map map.mrc --map-pixel-size 5 --real 'world/unlabelled/*.mrc' --pixel-size 5 \\
        --out runs/world --minutes 40 [--scorer picking.py --labelled world/labelled --topaz ENV --diameter 250] \\
        [--realism realism.py]

Only the micrographs named by --real are learned from. The scorers are programs of their own: one that trains Topaz on
a set and prints its AUPRC on labelled micrographs, one that compares a set with the real one. Training ends after
--minutes: its speed is measured first, then the number of steps is chosen. --kinds says what is made and scored. The
scorer's picks are kept in OUT/picks, one folder for each set, for benchmarks/bootstrap.py.
"""
import argparse
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

KINDS = ("gaussian", "gaussian01", "stationary", "spectrum", "trained")
"""What is made when nothing is said."""
TRAININGS = {
    "trained": [],
    "unguided": ["--contrastive-form", "unguided"],
    "published_loss": ["--contrastive-form", "published"],
    "published_networks": ["--generator", "published", "--discriminator", "patch"],
    "from_white_noise": ["--noise", "gaussian"],
    "no_ice": ["--no-ice"],
}
"""Flags of each training; all but the first leave something out."""
KEEPING = """#!/bin/sh
# Runs {python}, and keeps the picks that are about to be judged.
{python} "$@" || exit
[ "$3" = precision_recall_curve ] || exit 0
cp picks.txt {picks}/picks_$(ls {picks} | wc -l).txt
"""


def cryogem(*arguments):
    """Run one stage; its output goes to the terminal."""
    command = [sys.executable, "-m", "cryogem_scipion", *map(str, arguments)]
    print("+", shlex.join(command[2:]), flush=True)
    subprocess.run(command, check=True)


def make_sets(args):
    """Make the simulation and every data set that is not there yet."""
    out = args.out
    out.mkdir(parents=True, exist_ok=True)
    sim = out / "sim"
    if not (sim / "manifest.json").exists():
        cryogem("simulate", "--volume", args.map, "--volume-pixel-size", args.map_pixel_size, "--pixel-size",
                args.pixel_size, "--micrographs", 24, "--particles-mean", args.particles, "--particles-sigma",
                args.particles_sigma, "--particle-distance", args.distance, "--defocus-min", args.defocus[0],
                "--defocus-max", args.defocus[1], "--out", sim)
    real = ["--real", *args.real, "--real-pixel-size", args.pixel_size]
    common = ["--simulation", sim, "--micrographs", args.micrographs, "--no-extract", "--seed", args.seed]
    ways = {"gaussian": ["--noise", "gaussian", *real], "gaussian01": ["--noise", "gaussian", "--snr", 0.1],
            "stationary": ["--noise", "spectrum", "--no-contaminants", *real],
            "spectrum": ["--noise", "spectrum", *real]}
    for kind, flags in ways.items():
        if kind in args.kinds and not (out / kind / "manifest.json").exists():
            cryogem("generate", *flags, *common, "--out", out / kind)
    for kind, flags in TRAININGS.items():
        if kind not in args.kinds:
            continue
        run = out / ("run" if kind == "trained" else f"run_{kind}")
        model = run / "model.safetensors"
        if args.minutes and not model.exists():
            steps = args.steps or chosen_steps(args, sim, real)
            start = time.monotonic()
            cryogem("train", *real, "--simulation", sim, "--steps", steps, "--out", run, "--seed", args.seed, *flags,
                    *args.train)
            print(f"training: {steps} steps in {(time.monotonic() - start) / 60:.1f} min", flush=True)
        if model.exists() and not (out / kind / "manifest.json").exists():
            cryogem("generate", "--model", model, *common, "--out", out / kind)


def chosen_steps(args, sim, real):
    """Steps that fit into the minutes, from the time of twenty steps after ten to warm up."""
    folder = args.out / "speed"
    cryogem("train", *real, "--simulation", sim, "--steps", 30, "--out", folder, *args.train)
    rows = (folder / "losses.csv").read_text().splitlines()
    speed = float(rows[-1].split(",")[rows[0].split(",").index("steps_per_second")])
    return max(100, int(speed * 60 * (args.minutes - 2)))


def scores(args, kind):
    """Yield the lines that the scorers print for one data set."""
    folder = args.out / kind
    if args.scorer:
        topaz = keeping(args, args.out / "picks" / (kind + "_general" * args.general))
        lines = said([sys.executable, args.scorer, "--topaz", topaz, "--train", f"{folder}/micrographs/*.mrc",
                      "--coordinates", f"{folder}/particles.star", "--test", args.labelled, "--diameter",
                      args.diameter, "--pixel", args.pixel_size, "--seeds", args.seeds,
                      *(["--general"] if args.general else [])])
        values = [float(value) for value in re.findall(r"seed \d+: AUPRC ([\d.]+)", lines)]
        mean = sum(values) / len(values)
        yield (f"{kind:11} {'general model, fine-tuned' if args.general else 'from scratch':26} AUPRC {mean:.3f} "
               f"({min(values):.3f} to {max(values):.3f}, {len(values)} seeds)")
    if args.realism:
        lines = said([f"{args.topaz}/bin/python", args.realism, "--pixel", args.pixel_size,
                      f"{folder}/micrographs/*.mrc", args.real[0]])
        yield f"{kind:11} realism " + ", ".join(lines.split("\n")[1:]).strip(", ")


def keeping(args, picks):
    """A stand-in for Topaz's environment that keeps the picks of every seed, which the scorer overwrites."""
    shutil.rmtree(picks, ignore_errors=True)
    picks.mkdir(parents=True)
    script = args.out / "keeping/bin/python"
    script.parent.mkdir(parents=True, exist_ok=True)
    python = Path(args.topaz).resolve() / "bin/python"
    script.write_text(KEEPING.format(python=shlex.quote(str(python)), picks=shlex.quote(str(picks.resolve()))))
    script.chmod(0o755)
    return script.parents[1].resolve()


def said(command):
    """What a program prints."""
    return subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True).stdout


def main():
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--map", required=True)
    parser.add_argument("--map-pixel-size", type=float, required=True)
    parser.add_argument("--real", nargs="+", required=True)
    parser.add_argument("--pixel-size", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--micrographs", type=int, default=12)
    parser.add_argument("--particles", type=float, default=85)
    parser.add_argument("--particles-sigma", type=float, default=13)
    parser.add_argument("--distance", type=float, default=150)
    parser.add_argument("--defocus", type=float, nargs=2, default=(10000, 25000))
    parser.add_argument("--minutes", type=float, default=40, help="of training; 0 leaves it out")
    parser.add_argument("--steps", type=int, help="instead of minutes")
    parser.add_argument("--train", nargs=argparse.REMAINDER, default=[], help="more flags for 'cryogem train'; last")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=dict.fromkeys((*KINDS, *TRAININGS)))
    parser.add_argument("--scorer")
    parser.add_argument("--realism")
    parser.add_argument("--labelled")
    parser.add_argument("--topaz")
    parser.add_argument("--diameter", type=float)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--general", action="store_true", help="score by fine-tuning the picker's general model")
    args = parser.parse_args()
    make_sets(args)
    for kind in args.kinds:
        if (args.out / kind / "manifest.json").exists():
            for line in scores(args, kind):
                print(line, flush=True)
                with (args.out / "scores.txt").open("a") as file:
                    file.write(line + "\n")


if __name__ == "__main__":
    main()
