# SPDX-License-Identifier: GPL-3.0-or-later
"""The scales of the two-sample test: pixel size, size of the squares and network of each."""
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

__all__ = ["Layer", "Scale", "chosen_scales"]

PARTICLE_PIXELS = 28
"""Diameter of a particle in pixels at the scale of particles: outline and domains can be seen, no finer detail."""
FIELD_PIXELS = 80
"""Shorter side of a micrograph in pixels at the scale of whole fields."""

FINEST_WIDTH, WIDTH_RATIO = 0.7, 2**0.5
"""Standard deviation (px) of the narrowest Gaussian of the frequency bands, and ratio of neighbouring ones."""
PARTICLE_WIDTHS = 4.0, 6.0
"""Particle diameter over the widest Gaussian, and over the finer Gaussian of the band of particles."""
BAND_EDGES = 64, 256
"""Smallest and largest edge (px) of the squares whose frequency bands are judged."""


class Layer(NamedTuple):
    """A convolution without padding, followed by a leaky ReLU."""

    channels: int
    kernel: int
    stride: int


STRIDED = (Layer(16, 5, 2), Layer(24, 3, 2), Layer(32, 3, 2), Layer(48, 3, 1))
"""Receptive field of 41 pixels."""

TEXTURE = (Layer(16, 5, 1), Layer(24, 3, 2), Layer(32, 3, 2), Layer(48, 3, 2))
"""Receptive field of 19 pixels; the first layer sees every pixel, as noise differs most at high frequencies."""


@dataclass(frozen=True)
class Scale:
    """Squares of one size at one pixel size, and the network that judges them."""

    name: str
    """pixels, textures, particles, fields or bands."""
    pixel_size: float
    """Å per pixel."""
    edge: int
    """Edge of the squares in pixels."""
    layers: tuple[Layer, ...]
    squares: int
    """Squares of each micrograph that are judged; 0: all on a regular grid."""
    band_widths: tuple[float, ...] = ()
    """Standard deviations (px) of the Gaussians between which the frequency bands lie. Empty: the network learns its
    filters."""
    particle_band: int = 0
    """Index of the band in which particles are strong."""

    @property
    def step(self) -> int:
        """Distance (px) of the squares whose frequency bands are judged."""
        return self.edge // 2

    @property
    def receptive_field(self) -> int:
        """Edge (px) of the area that decides one value of the evidence."""
        edge, step = 1, 1
        for layer in self.layers:
            edge += (layer.kernel - 1) * step
            step *= layer.stride
        return edge

    @property
    def stride(self) -> int:
        """Distance (px) of neighbouring values of the evidence."""
        step = 1
        for layer in self.layers:
            step *= layer.stride
        return step


def chosen_scales(pixel_size: float, shortest_edge: int, diameter_angstrom: float) -> tuple[Scale, ...]:
    """Return the scales that micrographs of this size allow.

    The scale of particles is left out where it would be as coarse as whole fields, and whole fields where they would be
    finer than the micrographs.

    Parameters
    ----------
    pixel_size
        Å per pixel of the micrographs.
    shortest_edge
        Shortest edge of the micrographs in pixels.
    diameter_angstrom
        Diameter of a particle.
    """
    field = pixel_size * shortest_edge / FIELD_PIXELS
    particle = max(pixel_size, diameter_angstrom / PARTICLE_PIXELS)
    scales = [Scale("pixels", pixel_size, 24, (Layer(16, 5, 1), Layer(24, 3, 1), Layer(24, 1, 1)), 64)]
    if shortest_edge >= 96:
        scales.append(Scale("textures", pixel_size, 96, TEXTURE, 32))
    if 1.1 * particle <= field:
        scales.append(Scale("particles", particle, 64, (Layer(8, 5, 1), Layer(16, 3, 2), *STRIDED[2:]), 32))
    if field > pixel_size:
        scales.append(Scale("fields", field, 64, STRIDED, 9))
    if shortest_edge >= 2 * BAND_EDGES[0]:
        scales.append(_bands(pixel_size, shortest_edge, diameter_angstrom))
    return tuple(scales)


def _bands(pixel_size: float, shortest_edge: int, diameter_angstrom: float) -> Scale:
    """Squares of a quarter of the shortest edge, and bands from single pixels to particles."""
    edge = min(max(shortest_edge // 4, BAND_EDGES[0]), BAND_EDGES[1])
    widest, of_particles = (min(diameter_angstrom / pixel_size, edge) / ratio for ratio in PARTICLE_WIDTHS)
    widths = tuple(takewhile(lambda width: width <= max(widest, 1.0) * WIDTH_RATIO**1.5,
                             (FINEST_WIDTH * WIDTH_RATIO**index for index in range(40))))
    particle_band = sum(width <= of_particles for width in widths)
    return Scale("bands", pixel_size, edge, (), 0, widths, min(particle_band, len(widths) - 1))
