# SPDX-License-Identifier: GPL-3.0-or-later
"""Correlation of a generated image with the clean image that it was made from, around each particle."""
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["LinearFit", "fit_to_clean_image", "particle_correlations"]


class LinearFit(NamedTuple):
    """generated = offset + gain · clean + background."""

    gain: float
    offset: float
    background_deviation: float
    """Standard deviation of the background, in grey values of the generated image."""


def particle_correlations(generated: Float[Tensor, "y x"], clean: Float[Tensor, "y x"],
                          centres: Float[Tensor, "particles 2"], radius: float) -> Float[Tensor, " whole"]:
    """Pearson correlation of two images in a disc around each whole particle.

    Parameters
    ----------
    centres
        Centres (y, x) of the particles in pixels. Particles whose disc is cut by the border are left out.
    radius
        Radius of the disc in pixels.

    Returns
    -------
    One correlation for each whole particle; float64.
    """
    reach = max(1, round(radius))
    axis = torch.arange(-reach, reach + 1)
    disc = axis[:, None] ** 2 + axis**2 <= radius**2
    correlations = []
    for y, x in centres.round().long().tolist():
        if reach <= y < generated.shape[0] - reach and reach <= x < generated.shape[1] - reach:
            window = slice(y - reach, y + reach + 1), slice(x - reach, x + reach + 1)
            first, second = (image[window][disc].double() for image in (generated, clean))
            first, second = first - first.mean(), second - second.mean()
            norm = (first.square().sum() * second.square().sum()).sqrt().clamp(min=1e-12)
            correlations.append(float((first * second).sum() / norm))
    return torch.tensor(correlations, dtype=torch.float64)


def fit_to_clean_image(generated: Float[Tensor, "y x"], clean: Float[Tensor, "y x"]) -> LinearFit:
    """Least-squares fit of a generated image by its clean image, over all pixels."""
    y, x = generated.double(), clean.double()
    gain = float(((x - x.mean()) * (y - y.mean())).mean() / x.var(correction=0).clamp(min=1e-30))
    offset = float(y.mean() - gain * x.mean())
    return LinearFit(gain, offset, float((y - offset - gain * x).std(correction=0)))
