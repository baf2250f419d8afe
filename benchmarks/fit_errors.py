# SPDX-License-Identifier: GPL-3.0-or-later
"""Stated errors of fitted defocus and astigmatism against the real ones, on generated micrographs of known truth.

    python benchmarks/fit_errors.py --dataset GENERATED [GENERATED ...] --volume MAP --amplitude-contrast 0.1

GENERATED is a folder of ``cryogem generate`` from measured settings, such as ``OUT/gen`` of benchmarks/measurement.py.
Differences divided by their stated errors have a deviation of 1 if the errors are right.
"""
import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from markdown_table import MarkdownTable

from cryogem_scipion.engine.compute.robust import NORMAL_DEVIATION
from cryogem_scipion.engine.io.dataset import read_manifest, read_table
from cryogem_scipion.engine.io.mrc import read_mrc
from cryogem_scipion.engine.measurement.defocus import fit_ctfs
from cryogem_scipion.engine.measurement.measure import map_power
from cryogem_scipion.engine.measurement.ring_model import components
from cryogem_scipion.engine.simulation.optics import Optics
from cryogem_scipion.engine.simulation.volume import read_volume


def true_optics(folder, base):
    """Image file and optics of each generated micrograph that has particles."""
    _, particles = read_table(folder / "particles.star", "particles")
    for name, rows in particles.groupby("rlnMicrographName"):
        u, v, angle = (float(rows[f"rlnDefocus{end}"].median()) for end in ("U", "V", "Angle"))
        yield folder / name, replace(base, defocus_u_angstrom=u, defocus_v_angstrom=v, defocus_angle_degrees=angle)


def deviations(folder, base, power):
    """Fitted minus true values of the reliable fits, and the same over the stated errors; both (n, 3)."""
    files, truth = zip(*true_optics(folder, base), strict=True)
    fits = fit_ctfs((torch.tensor(read_mrc(file, 2)[0]).float() for file in files), read_manifest(folder).pixel_size,
                    base, power)
    pairs = [(fit, optics) for fit, optics in zip(fits, truth, strict=True) if fit.reliable]
    differences = np.array([components(fit.optics) - components(optics) for fit, optics in pairs])
    errors = np.array([[fit.error_angstrom] + 2 * [fit.astigmatism_error_angstrom] for fit, _ in pairs])
    return differences, differences / errors


def main():
    """Fit all sets and print one row for each, and one for all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, nargs="+", required=True, help="folders of cryogem generate")
    parser.add_argument("--volume", type=Path, required=True, help="map of the particle")
    parser.add_argument("--voltage-kv", type=float, default=300.0)
    parser.add_argument("--cs-mm", type=float, default=2.7)
    parser.add_argument("--amplitude-contrast", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads or torch.get_num_threads())
    base = Optics(args.voltage_kv, args.cs_mm, args.amplitude_contrast, 0.0, 0.0, 0.0)
    power = map_power(read_volume(args.volume, None))
    table = MarkdownTable("set", "fits", "defocus, median difference (Å)", "over its error: robust", "root mean square",
                          "largest", "astigmatism along one direction (Å)", "over its error: robust",
                          "root mean square")
    found = [deviations(folder, base, power) for folder in args.dataset]
    names = ["/".join(folder.parts[-2:]) for folder in args.dataset]
    if len(found) > 1:
        found.append(tuple(np.concatenate(parts) for parts in zip(*found, strict=True)))
        names.append("all")
    for name, (differences, relative) in zip(names, found, strict=True):
        defocus, astigmatism = relative[:, 0], relative[:, 1:]
        table.row(name, str(len(relative)), f"{np.median(np.abs(differences[:, 0])):.0f}",
                  *(f"{value:.2f}" for value in (NORMAL_DEVIATION * np.median(np.abs(defocus)),
                                                 np.sqrt((defocus**2).mean()), np.abs(defocus).max())),
                  f"{np.sqrt((differences[:, 1:] ** 2).mean()):.0f}",
                  *(f"{value:.2f}" for value in (NORMAL_DEVIATION * np.median(np.abs(astigmatism)),
                                                 np.sqrt((astigmatism**2).mean()))))


if __name__ == "__main__":
    main()
