# SPDX-License-Identifier: GPL-3.0-or-later
"""Noise that is measured for a given signal-to-noise ratio: are signal and noise together as real micrographs?

    python benchmarks/given_ratios.py --real 'MICROGRAPHS/*.mrc' --simulation SIM --out OUT

SIM is a folder of ``cryogem simulate`` whose ratio was measured, such as ``OUT/sim`` of benchmarks/measurement.py. For
each factor, ``cryogem generate --noise spectrum --snr`` gets the factor times this ratio, and ``cryogem evaluate``
compares the generated micrographs with the real ones. *Halves* is the mean distance between half of the generated and
half of the real micrographs, *floor* that between two halves of the real ones. A ratio at which particles alone have
more power than the real micrographs is refused, and the table has the words of the refusal.
"""
import argparse
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

from markdown_table import MarkdownTable

FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)
DISTANCES = {"spectrum": "spectrum (log₁₀)", "histogram": "intensities (σ)"}
"""Distances of ``cryogem evaluate`` that are printed, by their names in evaluation.json."""


def cryogem(*arguments):
    """Run one stage of the program; return its error messages, or nothing if it succeeds."""
    command = [sys.executable, "-m", "cryogem_scipion", *map(str, arguments)]
    print("+", shlex.join(command[2:]), file=sys.stderr, flush=True)
    process = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
    if process.returncode not in (0, 2):
        raise SystemExit(process.stderr)
    return process.stderr.strip().splitlines()[-1] if process.returncode else ""


def generated_and_compared(args, snr, folder):
    """The distances for a ratio, by their names; or the words with which the ratio was refused."""
    real = ["--real", *args.real, *(["--real-pixel-size", args.real_pixel_size] if args.real_pixel_size else [])]
    if not (folder / "gen/manifest.json").exists():
        refusal = cryogem("generate", "--noise", "spectrum", "--snr", f"{snr:.3g}", *real, "--simulation",
                          args.simulation, "--micrographs", args.micrographs, "--no-extract", "--threads",
                          args.threads, "--seed", args.seed, "--out", folder / "gen")
        if refusal:
            return refusal
    if not (folder / "report/manifest.json").exists():
        problem = cryogem("evaluate", "--generated", folder / "gen/micrographs/*.mrc", *real, "--no-two-sample",
                          "--threads", args.threads, "--seed", args.seed, "--out", folder / "report")
        if problem:
            raise SystemExit(problem)
    return json.loads((folder / "report/evaluation.json").read_text())["figures"]


def cells(distance):
    """Halves and floor of one distance; bold where the halves lie above the floor."""
    halves, floor = (f"{distance[name]:.3g}" for name in ("halves", "floor"))
    return f"**{halves}**" if distance["halves"] > distance["floor"] else halves, floor


def main():
    """Generate and compare one set for each ratio, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", nargs="+", required=True, help="patterns of the real micrographs")
    parser.add_argument("--real-pixel-size", type=float, help="Å; default: that of the headers")
    parser.add_argument("--simulation", type=Path, required=True, help="simulation with a measured ratio")
    parser.add_argument("--factors", type=float, nargs="+", default=FACTORS, help="of the measured ratio")
    parser.add_argument("--micrographs", type=int, default=12, help="to generate for each ratio")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="folder; finished stages are not repeated")
    args = parser.parse_args()
    measured = json.loads((args.simulation / "manifest.json").read_text())["contrast"]["snr"]
    table = MarkdownTable("ratio / measured", "ratio", *(cell for label in DISTANCES.values()
                                                         for cell in (f"{label}, halves", "floor")))
    refusals = {}

    def print_row(label, ratio, folder):
        found = generated_and_compared(args, ratio, folder)
        if isinstance(found, str):
            refusals[label] = found
            table.row(label, f"{ratio:.3g}", *(["refused"] + ["–"] * (2 * len(DISTANCES) - 1)))
        else:
            table.row(label, f"{ratio:.3g}", *(cell for name in DISTANCES for cell in cells(found[name])))

    for factor in args.factors:
        print_row(f"{factor:g}", factor * measured, args.out / f"factor_{factor:g}")
    if refusals:
        largest = float(re.search(r"at most ([\d.]+)", next(iter(refusals.values())))[1])
        print_row(f"{largest / measured:.2g} (largest)", largest, args.out / "largest")
    print()
    for label, words in refusals.items():
        print(f"- {label} times: {words}")


if __name__ == "__main__":
    main()
