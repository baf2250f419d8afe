# SPDX-License-Identifier: GPL-3.0-or-later
"""Spectra of particle images on rings of frequencies, where a rotation of the image is a cyclic shift.

A spectrum is sampled on rings and, on each ring, at angles over half a turn. The other half is its complex conjugate,
because images are real. The sums over pixels are computed as they are written, without interpolation, so images of any
box size and pixel size are sampled at the same frequencies.

A rotation is RELION's matrix A (see ``simulation.projection``). An image turned in the plane by w has the rotation
Rz(w) A, and its ring values are moved by w.
"""
import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryogem_scipion.engine.compute.resampling import fourier_crop
from cryogem_scipion.engine.simulation.optics import Optics, phase_turns

__all__ = ["ImageGeometry", "PolarGrid", "centred_spectra", "ctf_on_rings", "full_turn", "normalised_spectra",
           "usable_rings"]

SOFT_EDGE = 0.08
"""Width of the soft edge outside the circle, as a fraction of its diameter."""
BACKGROUND = 0.8
"""Outer radius of the ring whose mean is the background, as a fraction of the circle's diameter."""


@dataclass(frozen=True)
class PolarGrid:
    """Frequencies on rings with equal distances, and the circle in the image that is looked at."""

    diameter_angstrom: float
    """Diameter of the circle."""
    rings: int
    """Number of rings; the first one has the frequency 1 / ``period_angstrom``."""

    @property
    def period_angstrom(self) -> float:
        """The inverse distance of two rings: a little more than what the circle with its soft edge needs."""
        return (1 + 2 * SOFT_EDGE + 0.04) * self.diameter_angstrom

    @property
    def resolution_angstrom(self) -> float:
        """Finest detail: the inverse frequency of the last ring."""
        return self.period_angstrom / self.rings

    @property
    def angles(self) -> int:
        """Number of angles over a full turn: more than twice the highest angular frequency of a slice."""
        return 6 * max(self.rings, 8)

    def frequencies(self, device: torch.device | None = None) -> Float[Tensor, "xy rings half"]:
        """Frequencies (x, y) of all samples, 1/Å, float64."""
        radius = torch.arange(1, self.rings + 1, dtype=torch.float64, device=device)[:, None] / self.period_angstrom
        angle = torch.arange(self.angles // 2, dtype=torch.float64, device=device) * (2 * math.pi / self.angles)
        return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)])

    def independent_samples(self) -> Float[Tensor, " rings"]:
        """Number of independent complex values on each half ring, for noise inside the circle, float64."""
        ring = torch.arange(1, self.rings + 1, dtype=torch.float64)
        return math.pi**2 / 4 * ring * (self.diameter_angstrom / self.period_angstrom) ** 2


@dataclass(frozen=True)
class ImageGeometry:
    """Box size and pixel size of particle images."""

    box: int
    pixel_size: float
    """Å per pixel."""


def usable_rings(geometry: ImageGeometry, grid: PolarGrid) -> int:
    """Number of rings below the Nyquist frequency of the images."""
    return min(grid.rings, int(grid.period_angstrom / (2 * geometry.pixel_size) + 1e-6))


def normalised_spectra(images: Float[Tensor, "n box box"], geometry: ImageGeometry, grid: PolarGrid,
                       ring_power: Float[Tensor, " rings"] | None = None) -> Complex[Tensor, "n rings half"]:
    """Spectra on rings of the images inside the circle, with a mean power of 1.

    The mean of the background around the circle is removed first, or that of the circle where the box has no
    background. The power is averaged over the frequency plane without the first ring,
    where ice and carbon dominate. So the result does not depend on the scale and offset of the images, and not on their
    box size and pixel size if these suffice. A pixel outside the box counts as background.

    Parameters
    ----------
    images
        Protein is bright; the centre is the pixel ``box // 2``.
    ring_power
        Mean power of the result on each ring; 1 by default. It is needed to compare images that do not have all rings.

    Returns
    -------
    Spectra; 0 on rings beyond the Nyquist frequency of the images.
    """
    matrix, mask, background = _transform(geometry, grid, images.device)
    reduced = fourier_crop(images, (mask.shape[0], mask.shape[1]))
    reduced = (reduced - (reduced * background).sum((1, 2), keepdim=True)) * mask
    samples = (reduced.flatten(1) @ matrix).reshape(len(images), 2, grid.rings, grid.angles // 2)
    spectra = torch.complex(samples[:, 0], samples[:, 1])
    ring = torch.arange(1.0, grid.rings + 1, device=images.device)
    usable = ring <= usable_rings(geometry, grid)
    spectra = spectra * usable[:, None]
    weights = torch.where((ring > 1) & usable, ring, 0.0)
    expected = weights if ring_power is None else weights * ring_power
    power = (spectra.abs().square().mean(2) * weights).sum(1) / expected.sum()
    return spectra / power.sqrt().clamp(min=1e-20)[:, None, None]


@lru_cache(maxsize=8)
def _transform(geometry: ImageGeometry, grid: PolarGrid, device: torch.device
               ) -> tuple[Float[Tensor, "pixels values"], Float[Tensor, "y x"], Float[Tensor, "y x"]]:
    """Matrix from the pixels of a reduced image to real and imaginary parts, mask of the circle, and weights of the
    pixels whose mean is removed.
    """
    field = geometry.box * geometry.pixel_size
    # Reduced to 1.5 times the Nyquist frequency, so that large boxes take no longer than small ones.
    reduced = min(geometry.box, math.ceil(field / grid.resolution_angstrom * 3))
    positions = (torch.arange(reduced, dtype=torch.float64) * geometry.box / reduced - geometry.box // 2
                 ) * geometry.pixel_size
    radius = torch.hypot(positions[:, None], positions)
    edge = SOFT_EDGE * grid.diameter_angstrom
    fraction = ((grid.diameter_angstrom / 2 + edge - radius) / edge).clamp(0, 1)
    mask = (1 - torch.cos(math.pi * fraction)) / 2
    background = (1 - mask) * (radius < BACKGROUND * grid.diameter_angstrom)
    if background.sum() < 0.1 * mask.sum():
        background = mask
    x, y = grid.frequencies().flatten(1)
    phase = 2 * math.pi * (y[:, None, None] * positions[:, None] + x[:, None, None] * positions)
    matrix = torch.cat([torch.cos(phase), -torch.sin(phase)]).flatten(1).T
    return (matrix.float().contiguous().to(device), mask.float().to(device),
            (background / background.sum()).float().to(device))


def centred_spectra(spectra: Complex[Tensor, "*images rings half"], origins: Float[Tensor, "*shifts xy"],
                    frequencies: Float[Tensor, "xy rings half"]) -> Complex[Tensor, "*out rings half"]:
    """Spectra of images that are shifted by RELION's origins (x, y), Å: the particle comes to the centre.

    Parameters
    ----------
    origins
        One for each image, or shape (t, 2) for images (n, 1, rings, half).
    frequencies
        Frequencies of the samples, 1/Å.
    """
    x, y = frequencies.float()
    phase = -2 * math.pi * (origins[..., 0, None, None] * x + origins[..., 1, None, None] * y)
    return spectra * torch.polar(torch.ones_like(phase), phase)


def full_turn(spectra: Complex[Tensor, "*batch rings half"]) -> Float[Tensor, "*batch rings angles"]:
    """Real part plus imaginary part over a full turn.

    The real part of the spectrum of a real image is even under half a turn and the imaginary part is odd. So the
    product of two such arrays, summed over a full turn, is the real part of the product of one spectrum with the
    conjugate of the other one: one real array replaces a complex one.
    """
    return torch.cat([spectra.real + spectra.imag, spectra.real - spectra.imag], -1)


def ctf_on_rings(optics: Optics, grid: PolarGrid) -> Float[Tensor, "rings half"]:
    """Contrast transfer function without its envelope, at the frequencies of a polar grid."""
    x, y = grid.frequencies()
    turns = phase_turns(optics, y, x)
    return torch.sin(2 * math.pi * (turns - turns.round())).float()
