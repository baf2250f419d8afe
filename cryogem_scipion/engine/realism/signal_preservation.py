# SPDX-License-Identifier: GPL-3.0-or-later
"""Signal of the particles that a generated set preserves, measured with its clean images (folder ``optical``)."""
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cryogem_scipion.engine.io.dataset import MANIFEST, PARTICLES, read_manifest, read_table
from cryogem_scipion.engine.io.mrc import read_mrc
from cryogem_scipion.engine.noise.real_micrograph import evenly_spaced
from cryogem_scipion.engine.realism.particle_correlation import fit_to_clean_image, particle_correlations
from cryogem_scipion.engine.runs.progress import track_progress

__all__ = ["SignalPreservation", "measure_signal_preservation"]

MAX_MICROGRAPHS = 50
"""Largest number of micrographs that are read."""
BOOTSTRAP_DRAWS = 400
"""Bootstrap samples for the interval."""
COLUMNS = ("rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY", "rlnOriginXAngst", "rlnOriginYAngst")


@dataclass(frozen=True)
class SignalPreservation:
    """Correlation of generated and clean images in discs around the particles.

    The field names are keys in ``evaluation.json``.
    """

    particles: int
    """Number of whole particles."""
    correlation: float
    """Mean over the particles."""
    low: float
    high: float
    """Limits of the 95 % interval of the mean, from bootstrap samples of the micrographs."""
    chance: float
    """Mean correlation with the clean image of another micrograph: the value without any signal."""
    snr: float
    """Signal-to-noise ratio: variance of the fitted clean image over the variance of the residual, mean over the
    micrographs."""


def measure_signal_preservation(files: Sequence[Path], generator: torch.Generator) -> SignalPreservation | None:
    """Correlate the particles of a generated set with its clean images.

    Parameters
    ----------
    files
        Generated micrographs in ``FOLDER/micrographs``. Their clean images are in ``FOLDER/optical``.
    generator
        Random generator of the bootstrap samples.

    Returns
    -------
    None if the micrographs are not part of a dataset folder with clean images of the same size, or if there are no
    whole particles.
    """
    with_clean_image = [path for path in files if _clean_image(path).is_file()]
    if not with_clean_image or not (with_clean_image[0].parent.parent / MANIFEST).is_file():
        return None
    folder = with_clean_image[0].parent.parent
    manifest = read_manifest(folder)
    diameter = manifest.particle_diameter_angstrom
    if diameter is None or not (folder / PARTICLES).is_file():
        return None
    _, particles = read_table(folder / PARTICLES, "particles", COLUMNS)
    micrographs = evenly_spaced([path for path in with_clean_image if path.parent.parent == folder], MAX_MICROGRAPHS)
    correlations, chance_correlations, ratios = [], [], []
    for index, path in enumerate(track_progress(micrographs, len(micrographs), "correlating micrograph")):
        rows = particles[particles["rlnMicrographName"] == f"micrographs/{path.name}"]
        centres = torch.tensor(np.stack([rows[f"rlnCoordinate{axis}"] - rows[f"rlnOrigin{axis}Angst"]
                                         / manifest.pixel_size for axis in "YX"], 1))
        next_path = micrographs[(index + 1) % len(micrographs)]
        generated, clean, unrelated = (torch.tensor(read_mrc(name, 2)[0]) for name in
                                       (path, _clean_image(path), _clean_image(next_path)))
        if generated.shape != clean.shape or unrelated.shape != clean.shape:
            return None
        radius = diameter / manifest.pixel_size / 2
        correlations.append(particle_correlations(generated, clean, centres, radius))
        chance_correlations.append(particle_correlations(generated, unrelated, centres, radius))
        fit = fit_to_clean_image(generated, clean)
        ratios.append((fit.gain * float(clean.std()) / fit.background_deviation) ** 2)
    all_correlations = torch.cat(correlations)
    if not len(all_correlations):
        return None
    draws = torch.randint(len(correlations), (BOOTSTRAP_DRAWS, len(correlations)), generator=generator)
    sums, counts = (torch.tensor([reduce(values) for values in correlations], dtype=torch.float64)
                    for reduce in (torch.sum, len))
    means = sums[draws].sum(1) / counts[draws].sum(1).clamp(min=1)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    chance = float(torch.cat(chance_correlations).mean()) if len(micrographs) > 1 else 0.0
    return SignalPreservation(len(all_correlations), float(all_correlations.mean()), low, high, chance,
                              float(np.mean(ratios)))


def _clean_image(path: Path) -> Path:
    return path.parent.parent / "optical" / path.name
