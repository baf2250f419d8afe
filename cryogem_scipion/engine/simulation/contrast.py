# SPDX-License-Identifier: GPL-3.0-or-later
"""Contrast of a run: the factor on the projections that gives particles the signal-to-noise ratio of the settings."""
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.dataset import Contrast
from cryogem_scipion.engine.simulation.ctf import Optics
from cryogem_scipion.engine.simulation.microscope import CleanMicrograph, Microscope, projection_box_size
from cryogem_scipion.engine.simulation.specimen import Specimen, draw_map_indices, draw_orientations, seeded_generator

__all__ = ["measure_contrast"]

CALIBRATION_PARTICLES = 120
"""Number of particles on which the contrast is measured: the ratio then has a standard error of 2 to 3 %."""


def measure_contrast(microscope: Microscope, seed: int) -> Contrast:
    """Return the contrast at which the particles of the run have the SNR of the settings.

    At this contrast, the standard deviation of s inside the particles' masks is sqrt(SNR) times the standard deviation
    of the background. It is measured without the variation between particles, so that the SNR is that of a mean one.

    It is the mean over particles at the defocus values of 120 micrographs, because one micrograph does not represent
    the others.

    Parameters
    ----------
    microscope
        The run's microscope.
    seed
        Seed of the run's specimens.

    Raises
    ------
    DataError
        The particles give no contrast.
    """
    settings = microscope.settings
    values = np.concatenate([clean.signal[clean.mask > 0.5].cpu().numpy()
                             for clean in _calibration_boxes(microscope, seed)])
    # NumPy, because the order in which torch adds, and so the last bit, depends on the number of threads.
    deviation = float(values.std(dtype=np.float64)) if values.size else 0.0
    if not deviation > 0:
        raise DataError(f"the particles of {settings.volume[0]} give no contrast; check the map and the optics")
    signal_deviation = settings.snr ** 0.5 * settings.background_deviation
    return Contrast(snr=settings.snr, background_deviation=settings.background_deviation,
                    signal_deviation=signal_deviation, scale=microscope.projection_scale * signal_deviation / deviation)


def _calibration_boxes(microscope: Microscope, seed: int) -> Iterator[CleanMicrograph]:
    """One centred particle at the defocus of each of the first micrographs, in a small image."""
    settings = microscope.settings
    edge = 2 + max(projection_box_size(projector, microscope.pixel_size) for projector in microscope.projectors)
    small = replace(microscope, settings=settings.model_copy(update={"micrograph_size": (edge, edge)}))
    proportions = settings.volume_proportions or (1.0,) * len(microscope.projectors)
    for index in range(CALIBRATION_PARTICLES):
        generator = seeded_generator(seed, "calibration", index)
        rotations = draw_orientations(settings, 1, generator, microscope.measured_orientations)
        map_indices = draw_map_indices(proportions, 1, generator)
        optics = microscope.draw_specimen(seed, index).optics
        yield small.form_image(_centred_particle(small, rotations, map_indices, optics))


def _centred_particle(microscope: Microscope, rotations: Float[Tensor, "1 3 3"], map_indices: Int[Tensor, "1"],
                      optics: Optics) -> Specimen:
    centre = torch.tensor([[edge / 2 for edge in microscope.settings.micrograph_size]], dtype=torch.float64)
    return Specimen(centre, torch.zeros(1, dtype=torch.float64), rotations, map_indices,
                    torch.ones(1, dtype=torch.bool), optics, 1)
