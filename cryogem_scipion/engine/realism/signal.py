# SPDX-License-Identifier: GPL-3.0-or-later
"""How much of the particles is left in a generated image: against the optical image that it was made from."""
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Fit", "linear_fit", "particle_correlations"]


class Fit(NamedTuple):
    """generated = offset + gain · optical + background."""

    gain: float
    offset: float
    background_deviation: float
    """Standard deviation of what the line leaves, in grey values of the generated image."""


def particle_correlations(generated: Float[Tensor, "y x"], optical: Float[Tensor, "y x"],
                          centres: Float[Tensor, "particles 2"], radius: float) -> Float[Tensor, " whole"]:
    """Pearson's correlation of two images in a disc around each particle; discs that the border cuts are left out.

    Parameters
    ----------
    centres
        (y, x), pixels.
    radius
        Pixels.
    """
    reach = max(1, round(radius))
    axis = torch.arange(-reach, reach + 1)
    disc = axis[:, None] ** 2 + axis**2 <= radius**2
    found = []
    for y, x in centres.round().long().tolist():
        if reach <= y < generated.shape[0] - reach and reach <= x < generated.shape[1] - reach:
            window = slice(y - reach, y + reach + 1), slice(x - reach, x + reach + 1)
            one, other = (image[window][disc].double() for image in (generated, optical))
            one, other = one - one.mean(), other - other.mean()
            norm = (one.square().sum() * other.square().sum()).sqrt().clamp(min=1e-12)
            found.append(float((one * other).sum() / norm))
    return torch.tensor(found, dtype=torch.float64)


def linear_fit(generated: Float[Tensor, "y x"], optical: Float[Tensor, "y x"]) -> Fit:
    """Fit a generated image by its optical image (least squares over all pixels)."""
    y, x = generated.double(), optical.double()
    gain = float(((x - x.mean()) * (y - y.mean())).mean() / x.var(correction=0).clamp(min=1e-30))
    offset = float(y.mean() - gain * x.mean())
    return Fit(gain, offset, float((y - offset - gain * x).std(correction=0)))
