# SPDX-License-Identifier: GPL-3.0-or-later
"""Optics of one exposure, and the Thon rings that they make in its noise."""
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.simulation.optics import Optics, phase_terms, phase_turns

__all__ = ["Exposure"]

AZIMUTHS = 32
"""Directions, over half a turn, of which the rotational mean of an astigmatic CTF is made."""


@dataclass(frozen=True)
class Exposure:
    """Optics of one recorded image: a microscope state and a pixel size.

    The CTF has no envelope here, because the noise spectrum includes it.
    """

    optics: Optics
    pixel_size: float
    """Å."""

    def turned(self, turns: int, mirrored: bool) -> "Exposure":
        """Return the optics of an image that is rotated by ``turns`` quarter turns, then ``mirrored`` in x or not."""
        angle = self.optics.defocus_angle_degrees - 90.0 * turns
        return replace(self, optics=replace(self.optics, defocus_angle_degrees=(-angle if mirrored else angle) % 180.0))

    def at_defocus(self, defocus_angstrom: float) -> "Exposure":
        """Return the same optics with another defocus and without astigmatism."""
        return replace(self, optics=replace(self.optics, defocus_u_angstrom=defocus_angstrom,
                                            defocus_v_angstrom=defocus_angstrom))

    def squared_ctf(self, frequency: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the rotational mean of |CTF|² at frequencies in units of Nyquist."""
        if self.optics.defocus_u_angstrom == self.optics.defocus_v_angstrom:
            square = (frequency / (2 * self.pixel_size)) ** 2
            a, _, _, d, e = phase_terms(self.optics)
            turns = (a + d * square) * square + e
            return np.asarray(np.sin(2 * np.pi * turns) ** 2)
        azimuth = np.arange(AZIMUTHS)[:, None] * (np.pi / AZIMUTHS)
        inverse_angstrom = frequency / (2 * self.pixel_size)
        y, x = (torch.from_numpy(inverse_angstrom * part) for part in (np.sin(azimuth), np.cos(azimuth)))
        return np.asarray(torch.sin(2 * math.pi * phase_turns(self.optics, y, x)).square().mean(0))

    def modulation(self, modulated_share: Float[Tensor, " half"], shape: tuple[int, int],
                   oversampling: int = 1) -> Float[Tensor, "y xh"]:
        """Return the Thon rings of noise: the factor 1 - share + 2 share |CTF|² on its power.

        The mean of the factor over all defocus values is 1.

        Parameters
        ----------
        modulated_share
            Share of the power that the CTF modulates, at even steps from frequency 0 to Nyquist.
        shape
            Image size; the result is its half plane of ``rfft2``.
        oversampling
            |CTF|² is averaged over this many finer steps in y and x, as in the power spectrum of a small tile.
        """
        fine_shape = (oversampling * shape[0], oversampling * shape[1])
        squared = self._squared_ctf_plane(fine_shape)
        if oversampling > 1:
            squared = _averaged(squared, fine_shape[1], oversampling)
        radius = torch.hypot(fourier.fftfreq(shape[0])[:, None], fourier.rfftfreq(shape[1])) * 2
        position = (radius * (len(modulated_share) - 1)).clamp(max=len(modulated_share) - 1 - 1e-4)
        below = position.long()
        strength = torch.lerp(modulated_share[below], modulated_share[below + 1], position - below)
        return 1 + strength * (2 * squared - 1)

    def _squared_ctf_plane(self, shape: tuple[int, int]) -> Float[Tensor, "y xh"]:
        """|CTF|² without its envelope on the half plane of ``rfft2``."""
        y = fourier.fftfreq(shape[0], self.pixel_size, dtype=torch.float64)[:, None]
        x = fourier.rfftfreq(shape[1], self.pixel_size, dtype=torch.float64)
        turns = phase_turns(self.optics, y, x)
        return torch.sin(2 * math.pi * (turns - turns.round())).square().float()


def _averaged(half: Float[Tensor, "v uh"], width: int, step: int) -> Float[Tensor, "y xh"]:
    """A half plane on a grid that is ``step`` times coarser: means over squares of about ``step`` values a side."""
    columns = torch.arange(width)
    columns = torch.minimum(columns, width - columns)
    rows = torch.arange(half.shape[0])
    whole = torch.where(torch.arange(width)[None] < half.shape[1], half[rows][:, columns], half[-rows][:, columns])
    reach = step // 2
    padded = functional.pad(whole[None, None], (reach,) * 4, mode="circular")
    kernel = torch.ones(2 * reach + 1)
    kernel[0] = kernel[-1] = 0.5
    kernel = kernel / kernel.sum()
    result: Tensor = functional.conv2d(padded, torch.outer(kernel, kernel)[None, None], stride=step)[0, 0]
    return result[:, :math.floor(result.shape[1] / 2) + 1]
