# SPDX-License-Identifier: GPL-3.0-or-later
"""What a generated set kept of its particles: against the optical images beside it, where they were kept."""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cryogem_scipion.engine.io.dataset import MANIFEST, PARTICLES, read_manifest, read_table
from cryogem_scipion.engine.io.mrc import read_mrc
from cryogem_scipion.engine.noise.real_micrograph import evenly_spaced
from cryogem_scipion.engine.realism.signal import linear_fit, particle_correlations
from cryogem_scipion.engine.runs.progress import track_progress

__all__ = ["KeptSignal", "kept_signal"]

MOST = 50
"""Micrographs that are looked at."""
COLUMNS = ("rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY", "rlnOriginXAngst", "rlnOriginYAngst")


@dataclass(frozen=True)
class KeptSignal:
    """Correlation of generated and optical image in discs of the particles' diameter."""

    particles: int
    correlation: float
    """Mean over the particles."""
    low: float
    high: float
    """Limits of the mean's interval: micrographs drawn anew."""
    chance: float
    """The same against the optical image of the next micrograph: what no signal at all would give."""
    snr: float
    """Variance of the fitted optical image in the discs' micrographs over that of what it leaves."""


def kept_signal(files: Sequence[Path], generator: torch.Generator) -> KeptSignal | None:
    """Measure it; None where the micrographs are not those of a data set with optical images of the same size.

    Parameters
    ----------
    files
        Generated micrographs, in ``FOLDER/micrographs``.
    generator
        For the interval.
    """
    pairs = [(path, _optical(path)) for path in files]
    known = [path for path, optical in pairs if optical.is_file()]
    if not known or not (known[0].parent.parent / MANIFEST).is_file():
        return None
    folder = known[0].parent.parent
    manifest = read_manifest(folder)
    diameter = manifest.particle_diameter_angstrom
    if diameter is None or not (folder / PARTICLES).is_file():
        return None
    _, rows = read_table(folder / PARTICLES, "particles", COLUMNS)
    chosen = evenly_spaced([path for path in known if path.parent.parent == folder], MOST)
    found, chance, ratios = [], [], []
    for number, path in enumerate(track_progress(chosen, len(chosen), "correlating micrograph")):
        here = rows[rows["rlnMicrographName"] == f"micrographs/{path.name}"]
        centres = torch.tensor(np.stack([here[f"rlnCoordinate{axis}"] - here[f"rlnOrigin{axis}Angst"]
                                         / manifest.pixel_size for axis in "YX"], 1))
        image, optical, other = (torch.tensor(read_mrc(name, 2)[0]) for name in
                                 (path, _optical(path), _optical(chosen[(number + 1) % len(chosen)])))
        if image.shape != optical.shape or other.shape != optical.shape:
            return None
        radius = diameter / manifest.pixel_size / 2
        found.append(particle_correlations(image, optical, centres, radius))
        chance.append(particle_correlations(image, other, centres, radius))
        fit = linear_fit(image, optical)
        ratios.append((fit.gain * float(optical.std()) / fit.background_deviation) ** 2)
    together = torch.cat(found)
    if not len(together):
        return None
    draws = torch.randint(len(found), (400, len(found)), generator=generator)
    sums, counts = (torch.tensor([values(part) for part in found], dtype=torch.float64) for values in (torch.sum, len))
    means = sums[draws].sum(1) / counts[draws].sum(1).clamp(min=1)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return KeptSignal(len(together), float(together.mean()), low, high,
                      float(torch.cat(chance).mean()) if len(chosen) > 1 else 0.0, float(np.mean(ratios)))


def _optical(path: Path) -> Path:
    return path.parent.parent / "optical" / path.name
