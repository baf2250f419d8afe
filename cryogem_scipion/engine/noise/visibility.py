# SPDX-License-Identifier: GPL-3.0-or-later
"""From which signal-to-noise ratio a single particle stands out of the noise."""
import torch
from jaxtyping import Float
from scipy.stats import norm
from torch import Tensor

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.noise.models import PhysicalNoise
from cryogem_scipion.engine.noise.simulated_set import SimulatedSet
from cryogem_scipion.engine.noise.spectrum import half_plane_weights, resample_half_plane

__all__ = ["needed_deviations", "visible_ratio"]

FOUND = 0.95
"""Fraction of the particles that the best detector finds."""
MAX_MICROGRAPHS = 12
"""Simulated micrographs from which the particles' power is taken."""


def visible_ratio(simulated: SimulatedSet, noise: PhysicalNoise) -> float:
    """Return the signal-to-noise ratio at which single particles stand out of the noise.

    The best detector of a known particle is its matched filter. It weights each spatial frequency by the particle's
    amplitude over the noise's power, and its result is d = √(Σ |S|² / N) standard deviations above the noise for the
    mean particle. Frequencies below 1 / diameter do not count: there, the noise is ice.

    Parameters
    ----------
    simulated
        Simulated micrographs with the particles.
    noise
        Noise of the generated micrographs.

    Returns
    -------
    The ratio; 0 without particles.

    References
    ----------
    doi:10.1016/j.jsb.2003.11.007 (matched filters for particles)
    """
    particles = simulated.manifest.particles / simulated.manifest.micrographs
    if not particles:
        return 0.0
    factor = simulated.signal_factor(1.0, noise.background_deviation)
    used = range(min(MAX_MICROGRAPHS, len(simulated.micrographs)))
    images = [(simulated.clean_image(index, factor) - 1) / noise.background_deviation for index in used]
    square = sum(_square_deviations(image, noise.noise.power, simulated.diameter_pixels) for image in images)
    return needed_deviations(images[0].numel())**2 * len(images) * particles / square


def _square_deviations(signal: Float[Tensor, "y x"], noise_power: Float[Tensor, "n half"], diameter: float) -> float:
    """Σ |S|² / N of all particles of a micrograph, over the frequencies above 1 / diameter (pixels)."""
    shape = (signal.shape[0], signal.shape[1])
    ratio = fourier.rfft2(signal).abs().square() / resample_half_plane(noise_power, shape).clamp(min=1e-12)
    frequency = torch.hypot(fourier.fftfreq(shape[0])[:, None], fourier.rfftfreq(shape[1]))
    weights = half_plane_weights(shape[1]) * (frequency >= 1 / diameter)
    return float((ratio * weights).double().sum()) / signal.numel()


def needed_deviations(pixels: int) -> float:
    """Return the mean result of a matched filter, in standard deviations of the noise, at which particles stand out.

    The detector's threshold lets the noise of one pixel of the micrograph pass. The noise also spreads the results of
    the particles. Most of them, 95 %, have to be above the threshold.

    Parameters
    ----------
    pixels
        Number of pixels of a micrograph.

    References
    ----------
    doi:10.7554/eLife.25648 (threshold of one false particle in a micrograph)
    """
    return float(norm.isf(1 / pixels) + norm.isf(1 - FOUND))
