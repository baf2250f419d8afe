# SPDX-License-Identifier: GPL-3.0-or-later
"""Defocus and astigmatism of micrographs by CryoGEM, by another program, and where known the truth.

    python benchmarks/ctf_fits.py --real 'MICROGRAPHS/*.mrc' --volume MAP [--labels 'LABELLED/*.json'] \\
        --python ENV/bin/python

ENV is an environment with torch-ctf-estimation (teamtomo) and mrcfile. Both programs get the same micrographs at their
own pixel size, the same optics, and the same range of defocus. The other program fits in one dimension, then in two.
The labels have defocus_u, defocus_v (Å) and defocus_angle (degrees); without --labels, the programs are compared with
each other. Without --python, only CryoGEM runs. The differences are those of the mean of the two defocus values; only
reliable fits of CryoGEM count.
"""
import argparse
import json
import math
import subprocess
from pathlib import Path

import numpy as np
import torch
from markdown_table import MarkdownTable

from cryogem_scipion.engine.io.mrc import read_mrc
from cryogem_scipion.engine.measurement.defocus import fit_ctfs
from cryogem_scipion.engine.measurement.measure import map_power
from cryogem_scipion.engine.measurement.results import reliable_fits
from cryogem_scipion.engine.measurement.ring_model import DEFOCI
from cryogem_scipion.engine.noise.real_micrograph import real_files
from cryogem_scipion.engine.simulation.optics import Optics
from cryogem_scipion.engine.simulation.volume import read_volume

NYQUIST_PART = 0.95
"""Part of the Nyquist frequency up to which the other program fits at most."""


def other_fits(args, files, pixel_size):
    """Fits of the other program, one dictionary for each file; empty without --python."""
    if not args.python:
        return []
    request = {"files": [str(file) for file in files], "pixel_size": pixel_size, "voltage_kv": args.voltage_kv,
               "cs_mm": args.cs_mm, "amplitude_contrast": args.amplitude_contrast,
               "range": [args.other_range[0], max(args.other_range[1], 2 * pixel_size / NYQUIST_PART)],
               "patch": 512 if pixel_size < 2.5 else 256,
               "defocus": [float(DEFOCI[0]) / 1e4, float(DEFOCI[-1]) / 1e4]}
    script = Path(__file__).with_name("torch_ctf_fits.py")
    output = subprocess.run([args.python, script], input=json.dumps(request), check=True, stdout=subprocess.PIPE,
                            text=True).stdout
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def axes_of(optics):
    """The astigmatism as a vector, whose length is U − V (Å) and whose direction is twice the angle."""
    u, v, angle = optics
    return (u - v) * np.array([math.cos(2 * math.radians(angle)), math.sin(2 * math.radians(angle))])


def summary(name, differences, astigmatisms):
    """One line: median and largest difference."""
    differences = np.array(differences)
    text = (f"- {name}, {len(differences)} fields: defocus differs by {np.median(np.abs(differences)):.0f} Å in the "
            f"median, {np.abs(differences).max():.0f} Å at most (mean {differences.mean():+.0f} Å)")
    if astigmatisms:
        text += (f"; astigmatism, as a vector, by {np.median(astigmatisms):.0f} Å in the median, "
                 f"{max(astigmatisms):.0f} Å at most")
    print(text)


def main():
    """Print a row for each micrograph, and the median and the largest differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", nargs="+", required=True, help="patterns of the micrographs")
    parser.add_argument("--real-pixel-size", type=float, help="Å; default: that of the headers")
    parser.add_argument("--labels", type=Path, help="folder of the labels: a JSON file of each micrograph's name")
    parser.add_argument("--volume", type=Path, help="map of the particle, for the power of its rings")
    parser.add_argument("--voltage-kv", type=float, default=300.0)
    parser.add_argument("--cs-mm", type=float, default=2.7)
    parser.add_argument("--amplitude-contrast", type=float, default=0.1)
    parser.add_argument("--python", help="Python of an environment with torch-ctf-estimation")
    parser.add_argument("--other-range", type=float, nargs=2, default=(30.0, 4.0),
                        help="lowest and highest resolution (Å) that the other program fits")
    args = parser.parse_args()
    torch.set_num_threads(1)
    files = real_files(args.real)
    pixel_size = args.real_pixel_size or read_mrc(files[0], 2)[1]
    base = Optics(args.voltage_kv, args.cs_mm, args.amplitude_contrast, 0.0, 0.0, 0.0)
    power = map_power(read_volume(args.volume, None)) if args.volume else None
    fits = fit_ctfs((torch.tensor(read_mrc(file, 2)[0]).float() for file in files), pixel_size, base, power)
    reliable = reliable_fits(fits)
    others = other_fits(args, files, pixel_size)
    truth = [json.loads((args.labels / f"{file.stem}.json").read_text()) for file in files] if args.labels else []
    table = MarkdownTable("micrograph", "CryoGEM: U, V (Å), angle (°)", "± (Å)", "reliable",
                          *(["true"] if truth else []), *(["torch-ctf-estimation: 2D; 1D"] if others else []))
    ours, theirs, radial, trues, used = [], [], [], [], []
    for number, (file, fit) in enumerate(zip(files, fits, strict=True)):
        optics = fit.optics
        ours.append((optics.defocus_u_angstrom, optics.defocus_v_angstrom, optics.defocus_angle_degrees))
        cells = []
        if truth:
            label = truth[number]
            trues.append((label["defocus_u"], label["defocus_v"], label["defocus_angle"]))
            cells.append("{:.0f}, {:.0f}, {:.0f}".format(*trues[-1]))
        if others:
            other = others[number]
            theirs.append((other["u"], other["v"], other["angle"]))
            radial.append((other["radial"], other["radial"], 0.0))
            cells.append("{:.0f}, {:.0f}, {:.0f}".format(*theirs[-1]) + f"; {other['radial']:.0f}")
        used.append(fit in reliable)
        table.row(file.stem, "{:.0f}, {:.0f}, {:.0f}".format(*ours[-1]), f"{fit.error_angstrom:.0f}",
                  "yes" if used[-1] else "no", *cells)
    print()
    comparisons = [("CryoGEM against the truth", ours, trues),
                   ("torch-ctf-estimation, 2D, against the truth", theirs, trues),
                   ("torch-ctf-estimation, 1D, against the truth", radial, trues),
                   ("CryoGEM against torch-ctf-estimation, 2D", ours, theirs),
                   ("CryoGEM against torch-ctf-estimation, 1D", ours, radial)]
    for name, first, second in comparisons:
        pairs = [(a, b) for a, b, use in zip(first, second, used, strict=False) if use]
        if pairs:
            vectors = [] if first is radial or second is radial else [axes_of(a) - axes_of(b) for a, b in pairs]
            summary(name, [(a[0] + a[1] - b[0] - b[1]) / 2 for a, b in pairs],
                    [float(np.hypot(*vector)) for vector in vectors])
    errors = [fit.error_angstrom for fit in reliable]
    if errors:
        print(f"- standard error that CryoGEM states: {np.median(errors):.0f} Å in the median, "
              f"{max(errors):.0f} Å at most; {len(fits) - len(reliable)} of {len(fits)} fits are marked as not "
              "reliable")


if __name__ == "__main__":
    main()
