# SPDX-License-Identifier: GPL-3.0-or-later
"""Data sets with several noise models for one real set, and scores of the pickers that are trained on them.

    python benchmarks/noise_models.py --map MAP --map-pixel-size 5 --real 'UNLABELLED/*.mrc' --pixel-size 5 --out OUT \\
        --minutes 40 [--scorer PICKING --labelled LABELLED --topaz ENV --diameter 250] [--realism REALISM]

The noise models are white noise, the measured noise spectrum without and with contaminants, the trained noise
translator, and trainings with one part changed. --kinds selects them. Only the micrographs of --real are used for
training and for measuring the noise. The simulation has the values of --particles, --distance and so on, or with
--settings FILE those that 'cryogem measure' has found.

PICKING and REALISM are Python programs that are not part of this repository. ENV is an environment with Topaz.
PICKING takes --topaz ENV --train MICROGRAPHS --coordinates TABLE --test LABELLED --diameter Å --pixel Å --seeds N,
--limit N (the largest number of MICROGRAPHS that it uses) and --general; TABLE is a STAR file, or text with image_name,
x_coord and y_coord. It trains Topaz on the set, or fine-tunes Topaz's general model (--general), and prints one line
for each seed: 'seed 0: AUPRC 0.90'. REALISM runs in ENV, takes --pixel Å GENERATED REAL, and prints how far the sets
are apart.

Without --steps, the program measures the speed of the training and takes the number of steps that fit into --minutes.
The picks of each set and seed stay in OUT/picks; benchmarks/compare_pickers.py reads them. All scores are added to
OUT/scores.txt.
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
"""Default of --kinds."""
TRAININGS = {
    "trained": [],
    "unguided": ["--contrastive-form", "unguided"],
    "published_loss": ["--contrastive-form", "published"],
    "published_networks": ["--generator", "published", "--discriminator", "patch"],
    "from_white_noise": ["--noise", "gaussian"],
    "no_ice": ["--no-ice"],
}
"""Flags of each training; each but the first has one part changed."""
WRAPPER = """#!/bin/sh
# Runs {python}, and copies the picks before they are overwritten.
{python} "$@" || exit
[ "$3" = precision_recall_curve ] || exit 0
cp picks.txt {picks}/picks_$(ls {picks} | wc -l).txt
"""


def cryogem(*arguments):
    """Run one stage of the program; its output goes to the terminal."""
    command = [sys.executable, "-m", "cryogem_scipion", *map(str, arguments)]
    print("+", shlex.join(command[2:]), file=sys.stderr, flush=True)
    subprocess.run(command, check=True, stdout=sys.stderr)


def make_sets(args):
    """Make the simulation and the data sets that do not exist yet."""
    out = args.out
    out.mkdir(parents=True, exist_ok=True)
    sim = out / "sim"
    if not (sim / "manifest.json").exists():
        cryogem("simulate", *simulation_settings(args), "--micrographs", 24, "--out", sim)
    real = ["--real", *args.real, "--real-pixel-size", args.real_pixel_size or args.pixel_size, "--real-contrast",
            args.real_contrast]
    common = ["--simulation", sim, "--micrographs", args.micrographs, "--no-extract", "--seed", args.seed,
              *(["--visible-particles"] if args.visible_particles else [])]
    without_training = {"gaussian": ["--noise", "gaussian", *real], "gaussian01": ["--noise", "gaussian", "--snr", 0.1],
                        "stationary": ["--noise", "spectrum", "--no-contaminants", *real],
                        "spectrum": ["--noise", "spectrum", *(["--snr", args.snr] if args.snr else []), *real]}
    for kind, flags in without_training.items():
        if kind in args.kinds and not (out / kind / "manifest.json").exists():
            cryogem("generate", *flags, *common, "--out", out / kind)
    for kind, flags in TRAININGS.items():
        if kind not in args.kinds:
            continue
        run = out / ("run" if kind == "trained" else f"run_{kind}")
        model = run / "model.safetensors"
        if args.minutes and not model.exists():
            steps = args.steps or steps_within_minutes(args, sim, real)
            start = time.monotonic()
            cryogem("train", *real, "--simulation", sim, "--steps", steps, "--out", run, "--seed", args.seed, *flags,
                    *args.train)
            print(f"training: {steps} steps in {(time.monotonic() - start) / 60:.1f} min", file=sys.stderr)
        if model.exists() and not (out / kind / "manifest.json").exists():
            cryogem("generate", "--model", model, *common, "--out", out / kind)


def simulation_settings(args):
    """Flags of the simulation: the file of measured settings, or the values that a person has chosen."""
    if args.settings:
        return ["--config", args.settings]
    flags = ["--volume", args.map, "--volume-pixel-size", args.map_pixel_size, "--pixel-size", args.pixel_size,
             "--particles-mean", args.particles, "--particles-sigma", args.particles_sigma, "--particle-distance",
             args.distance, "--defocus-min", args.defocus[0], "--defocus-max", args.defocus[1],
             "--amplitude-contrast", args.amplitude_contrast]
    return flags + (["--micrograph-size", *args.micrograph_size] if args.micrograph_size else [])


def steps_within_minutes(args, sim, real):
    """Number of steps that fit into --minutes, from the speed of a training of 30 steps."""
    folder = args.out / "speed"
    cryogem("train", *real, "--simulation", sim, "--steps", 30, "--out", folder, *args.train)
    rows = (folder / "losses.csv").read_text().splitlines()
    speed = float(rows[-1].split(",")[rows[0].split(",").index("steps_per_second")])
    return max(100, int(speed * 60 * (args.minutes - 2)))


def scores(args, kind):
    """Yield one line for each score of a data set."""
    folder = args.out / kind
    if args.scorer:
        topaz = wrapped_topaz(args, args.out / "picks" / (kind + "_general" * args.general))
        lines = output_of([sys.executable, args.scorer, "--topaz", topaz, "--train", f"{folder}/micrographs/*.mrc",
                      "--coordinates", f"{folder}/particles.star", "--test", args.labelled, "--diameter",
                      args.diameter, "--pixel", args.pixel_size, "--seeds", args.seeds, "--limit", args.micrographs,
                      *(["--general"] if args.general else [])])
        values = [float(value) for value in re.findall(r"seed \d+: AUPRC ([\d.]+)", lines)]
        mean = sum(values) / len(values)
        yield (f"{kind:11} {'general model, fine-tuned' if args.general else 'from scratch':26} AUPRC {mean:.3f} "
               f"({min(values):.3f} to {max(values):.3f}, {len(values)} seeds)")
    if args.realism:
        lines = output_of([f"{args.topaz}/bin/python", args.realism, "--pixel", args.pixel_size,
                      f"{folder}/micrographs/*.mrc", args.real[0]])
        yield f"{kind:11} realism " + ", ".join(lines.split("\n")[1:]).strip(", ")


def wrapped_topaz(args, picks):
    """Folder that stands for Topaz's environment; its Python copies the picks of each seed to ``picks``."""
    shutil.rmtree(picks, ignore_errors=True)
    picks.mkdir(parents=True)
    script = args.out / "wrapped_topaz/bin/python"
    script.parent.mkdir(parents=True, exist_ok=True)
    python = Path(args.topaz).resolve() / "bin/python"
    script.write_text(WRAPPER.format(python=shlex.quote(str(python)), picks=shlex.quote(str(picks.resolve()))))
    script.chmod(0o755)
    return script.parents[1].resolve()


def output_of(command):
    """Standard output of a program."""
    return subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True).stdout


def main():
    """Make the data sets and print their scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", metavar="FILE", help="settings.json of 'cryogem measure'; it replaces the map "
                        "and the values of the simulation")
    parser.add_argument("--map", help="density map of the specimen")
    parser.add_argument("--map-pixel-size", type=float, help="Å")
    parser.add_argument("--real", nargs="+", required=True,
                        help="patterns of the real micrographs; REALISM gets the first pattern only")
    parser.add_argument("--pixel-size", type=float, required=True, help="of the generated and labelled micrographs (Å)")
    parser.add_argument("--real-pixel-size", type=float, help="of the real micrographs (Å), if it differs")
    parser.add_argument("--out", type=Path, required=True, help="folder for all files")
    parser.add_argument("--micrographs", type=int, default=12, help="of each data set")
    parser.add_argument("--particles", type=float, default=85, help="mean number on a micrograph")
    parser.add_argument("--particles-sigma", type=float, default=13, help="standard deviation of that number")
    parser.add_argument("--distance", type=float, default=150, help="smallest distance of two particles (Å)")
    parser.add_argument("--defocus", type=float, nargs=2, default=(10000, 25000), help="lowest and highest (Å)")
    parser.add_argument("--amplitude-contrast", type=float, default=0.1)
    parser.add_argument("--micrograph-size", type=int, nargs=2, metavar=("Y", "X"), help="pixels; default: 1024 1024")
    parser.add_argument("--real-contrast", default="auto", help="of the real micrographs: auto, dark or bright")
    parser.add_argument("--snr", type=float, help="signal-to-noise ratio of 'spectrum'; default: measured")
    parser.add_argument("--visible-particles", action="store_true", help="generate sets with this flag")
    parser.add_argument("--minutes", type=float, default=40, help="length of a training; 0: no training")
    parser.add_argument("--steps", type=int, help="steps of a training, instead of --minutes")
    parser.add_argument("--train", nargs=argparse.REMAINDER, default=[],
                        help="more flags for 'cryogem train'; must come last")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", default=KINDS, metavar="KIND",
                        choices=dict.fromkeys((*KINDS, *TRAININGS)),
                        help=f"data sets to make and to score: {', '.join(dict.fromkeys((*KINDS, *TRAININGS)))}")
    parser.add_argument("--scorer", metavar="PICKING", help="program that trains and scores pickers")
    parser.add_argument("--realism", metavar="REALISM", help="program that compares two sets of micrographs")
    parser.add_argument("--labelled", help="folder of labelled micrographs to score on")
    parser.add_argument("--topaz", metavar="ENV", help="environment with Topaz")
    parser.add_argument("--diameter", type=float, help="of the particle (Å)")
    parser.add_argument("--seeds", type=int, default=5, help="pickers for each data set")
    parser.add_argument("--general", action="store_true",
                        help="fine-tune Topaz's general model instead of training from scratch")
    args = parser.parse_args()
    if not args.settings and not (args.map and args.map_pixel_size):
        parser.error("give --map and --map-pixel-size, or --settings")
    make_sets(args)
    for kind in args.kinds:
        if (args.out / kind / "manifest.json").exists():
            for line in scores(args, kind):
                print(f"- {line}", flush=True)
                with (args.out / "scores.txt").open("a") as file:
                    file.write(line + "\n")


if __name__ == "__main__":
    main()
