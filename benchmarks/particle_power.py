# SPDX-License-Identifier: GPL-3.0-or-later
"""How much more power particles have than their surroundings, at each spatial frequency: real and generated ones.

    python benchmarks/particle_power.py --labelled 'LABELLED/*.mrc' --diameter 125 spectrum=GENERATED

In squares of three diameters, the power in a band of frequencies is fitted as a straight line over the fraction of the
square that lies inside particles. The table has its slope over its value without particles, and the standard error
over the micrographs. So a value of 0.3 says that the power inside particles is 1.3 times that between them.
The real micrographs have a mic_*.json beside each mic_*.mrc, as for benchmarks/noise_models.py.
"""
import argparse
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
from markdown_table import MarkdownTable
from scipy.spatial import cKDTree
from structure import labelled_centres

from cryogem_scipion.engine.io.dataset import PARTICLES, read_table
from cryogem_scipion.engine.io.mrc import read_mrc

EDGES = (75, 46, 30, 20, 15, 12, 8.6, 7)
"""Å, edges of the bands."""


def fitted_power(path, centres, diameter):
    """Intercept and slope of the power over the fraction inside particles, each for all bands."""
    image, pixel_size = read_mrc(path, 2)
    image = (image - np.median(image)) / image.std()
    edge = 2 * round(1.5 * diameter / pixel_size)
    window = np.outer(np.hanning(edge), np.hanning(edge))
    window /= math.sqrt((window**2).mean())
    frequency = np.hypot(np.fft.fftfreq(edge)[:, None], np.fft.rfftfreq(edge)) / pixel_size
    bands = [(frequency >= 1 / low) & (frequency < 1 / high) for low, high in pairwise(EDGES)]
    pixels = np.stack(np.indices(image.shape)[::-1], -1).reshape(-1, 2)
    inside = cKDTree(np.array(centres)).query(pixels)[0].reshape(image.shape) <= diameter / 2 / pixel_size
    covered, powers = [], []
    for y in range(0, image.shape[0] - edge + 1, edge // 4):
        for x in range(0, image.shape[1] - edge + 1, edge // 4):
            square = image[y:y + edge, x:x + edge]
            power = np.abs(np.fft.rfft2((square - square.mean()) * window)) ** 2
            powers.append([power[band].mean() for band in bands])
            covered.append((inside[y:y + edge, x:x + edge] * window**2).mean())
    return np.linalg.lstsq(np.stack([np.ones(len(covered)), covered], 1), np.array(powers), rcond=None)[0]


def summary(fits):
    """Cells of a row: mean slope over mean intercept, and its standard error from leaving out each micrograph."""
    total, count = np.sum(fits, axis=0), len(fits)
    without = np.array([(total - fit)[1] / (total - fit)[0] for fit in fits])
    errors = np.sqrt((count - 1) / count * ((without - without.mean(0)) ** 2).sum(0))
    return [f"{value:.2f} ± {error:.2f}" for value, error in zip(total[1] / total[0], errors, strict=True)]


def main():
    """Print a row for the real micrographs and one for each generated set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="NAME=FOLDER", help="datasets of 'cryogem generate'")
    parser.add_argument("--labelled", type=Path, required=True, help="folder of the labelled micrographs")
    parser.add_argument("--diameter", type=float, required=True, help="of the particle, Å")
    args = parser.parse_args()
    rows = {"real": [fitted_power(path, labelled_centres(path), args.diameter)
                     for path in sorted(args.labelled.glob("mic_*.mrc"))]}
    for name, folder in (text.split("=", 1) for text in args.sets):
        particles = read_table(Path(folder) / PARTICLES, "particles")[1]
        rows[name] = [fitted_power(Path(folder) / micrograph, group[["rlnCoordinateX", "rlnCoordinateY"]].to_numpy(),
                                   args.diameter) for micrograph, group in particles.groupby("rlnMicrographName")]
    table = MarkdownTable("power inside particles over that between them, minus 1",
                          *(f"{low:g} to {high:g} Å" for low, high in pairwise(EDGES)))
    for name, fits in rows.items():
        table.row(f"{name}, {len(fits)} micrographs", *summary(fits))


if __name__ == "__main__":
    main()
