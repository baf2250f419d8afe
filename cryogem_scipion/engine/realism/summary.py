# SPDX-License-Identifier: GPL-3.0-or-later
"""What is compared of a micrograph, in a few thousand numbers; distances of sets are distances of their means.

Every part of a ``Summary`` is an average over the pixels of one image. So the summary of a set is
the mean of those of its images, whatever their number, and neither size nor grey scale of an image
matters: each is clipped at its outermost thousandths and brought to mean 0 and deviation 1.
"""
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.errors import DataError

__all__ = ["BLOCK", "FREQUENCIES", "GREY", "LAGS", "LOCAL", "SMALLEST", "Summary", "blocks", "distances", "mean_of",
           "standardised", "summary"]

SMALLEST = 64
"""Edge (px) of the smallest image that can be summarised."""
CLIPPED = 0.001
"""Share of the pixels at either end that are cut to the next ones: hot and dead pixels, dust."""
RINGS = 256
FREQUENCIES = torch.arange(5, RINGS // 2, dtype=torch.float64) / RINGS
"""Centres of the rings of the spectrum, cycles per pixel: from waves of 51 pixels to Nyquist."""
LAGS = 16
"""Longest shift (px) of the autocorrelation."""
GREY = torch.linspace(-6, 6, 241, dtype=torch.float64)
"""Limits of the histogram's bins, in deviations."""
LOCAL = torch.linspace(0, 5, 1001, dtype=torch.float64)
"""Limits of the bins of local deviations, in deviations of the whole."""
BLOCK = 32
"""Edge (px) of the blocks whose deviations are the local ones."""
TAPER = 1 / 8
"""Share of an axis at either end over which an image fades out before a Fourier transform."""
SLOW = 1 / 64
"""Cycles per pixel below which changes are ice and drift rather than noise."""


class Summary(NamedTuple):
    """What is known of an image, or, as means, of a set; leading axes stand for several."""

    spectrum: Float[Tensor, "*s rings"]
    """Log10 of the radial mean power at ``FREQUENCIES``; white noise has 0."""
    autocorrelation: Float[Tensor, "*s dy dx"]
    """At shifts of -LAGS to LAGS along y and 0 to LAGS along x; slow changes removed, 1 without a shift."""
    histogram: Float[Tensor, "*s bins"]
    """Share of the pixels in each bin of ``GREY``."""
    local: Float[Tensor, "*s deviations"]
    """Share of the blocks whose deviation falls into each bin of ``LOCAL``."""
    moments: Float[Tensor, "*s 2"]
    """Skewness and excess kurtosis; both 0 for Gaussian noise."""
    squares: Float[Tensor, "*s rings"]
    """Square of the spectrum: of a set it tells how much the spectra of its images differ."""

    @property
    def variety(self) -> Float[Tensor, "*s rings"]:
        """Standard deviation of the spectra of a set's images, log10."""
        return (self.squares - self.spectrum.square()).clamp(min=0).sqrt()


def standardised(image: Float[Tensor, "y x"]) -> Float[Tensor, "y x"]:
    """The image in its own deviations: outermost thousandths clipped, mean 0, deviation 1; float32.

    Raises
    ------
    DataError
        Nothing but single pixels stands out of the image: it has no contents.
    """
    low, high = np.percentile(image.cpu().numpy(), [100 * CLIPPED, 100 * (1 - CLIPPED)])
    clipped = image.to(torch.float64).clamp(float(low), float(high))
    if high <= low:
        raise DataError(f"nearly all pixels of an image have the value {float(low):g}; give an image with contents")
    return ((clipped - clipped.mean()) / clipped.std(correction=0)).to(torch.float32)


def summary(image: Float[Tensor, "y x"]) -> Summary:
    """Summarise one image; its values need not be standardised.

    Raises
    ------
    DataError
        It is smaller than ``SMALLEST``, or constant.
    """
    if min(image.shape) < SMALLEST:
        raise DataError(f"image of {' x '.join(map(str, image.shape))} pixels (y x); {SMALLEST} a side are needed")
    values = standardised(image)
    tapered = values * _taper(values.shape[0], values)[:, None] * _taper(values.shape[1], values)
    power = fourier.rfft2(tapered).abs().square().to(torch.float64)
    shape = (image.shape[0], image.shape[1])
    wide = values.to(torch.float64)
    cube = (wide**3).mean()
    spectrum = _rings(power, shape)
    return Summary(spectrum, _autocorrelation(power, shape), _shares(values.flatten(), GREY),
                   _shares(blocks(values, BLOCK).std((1, 2), correction=0), LOCAL),
                   torch.stack([cube, (wide**4).mean() - 3]).cpu(), spectrum.square())


def blocks(image: Float[Tensor, "y x"], edge: int) -> Float[Tensor, "blocks edge edge"]:
    """The image cut into squares from its first pixel; what is left over at the end is dropped."""
    return image.unfold(0, edge, edge).unfold(1, edge, edge).reshape(-1, edge, edge)


def mean_of(summaries: Sequence[Summary]) -> Summary:
    """The summary of a set, from those of its images."""
    return Summary(*(torch.stack(part).mean(0) for part in zip(*summaries, strict=True)))


def distances(one: Summary, other: Summary) -> dict[str, Float[Tensor, "*s"]]:
    """How far two sets are from each other; 0 is the same, each in its own unit.

    Returns
    -------
    spectrum
        Root mean square difference of the log10 spectra: 0.1 is a factor of 1.26 in power.
    variety
        Root mean square difference of how much the spectra differ within each set.
    autocorrelation
        Root mean square difference of the autocorrelations.
    histogram, local
        Wasserstein distance of the intensities and of the local deviations, in deviations.
    skewness, kurtosis
        Absolute differences.
    """
    moments = (one.moments - other.moments).abs()
    return {"spectrum": (one.spectrum - other.spectrum).square().mean(-1).sqrt(),
            "variety": (one.variety - other.variety).square().mean(-1).sqrt(),
            "autocorrelation": (one.autocorrelation - other.autocorrelation).square().mean((-2, -1)).sqrt(),
            "histogram": _wasserstein(one.histogram, other.histogram, GREY),
            "local": _wasserstein(one.local, other.local, LOCAL),
            "skewness": moments[..., 0], "kurtosis": moments[..., 1]}


def _taper(size: int, like: Tensor) -> Float[Tensor, " size"]:
    """A window that is flat in the middle, falls to 0 as a cosine at both ends, and has mean square 1."""
    place = (torch.arange(size) + 0.5) / size
    ends = (torch.minimum(place, 1 - place) / TAPER).clamp(max=1)
    window = (1 - torch.cos(math.pi * ends)) / 2
    return (window / window.square().mean().sqrt()).to(like)


def _rings(power: Float[Tensor, "y half"], shape: tuple[int, int]) -> Float[Tensor, " rings"]:
    """Log10 of the mean over rings around frequency 0; a ring that no frequency falls on takes its neighbours' mean."""
    y, x = fourier.fftfreq(shape[0]), fourier.rfftfreq(shape[1])
    ring = (torch.hypot(y[:, None], x[None]) * RINGS).round().long().flatten().to(power.device)
    total = torch.bincount(ring, power.flatten()).cpu()[:RINGS // 2] / (shape[0] * shape[1])
    count = torch.bincount(ring).cpu()[:RINGS // 2]
    known = (count > 0).nonzero()[:, 0].numpy()
    values = (total[known] / count[known]).clamp(min=1e-12).log10().numpy()
    return torch.from_numpy(np.interp(FREQUENCIES.numpy() * RINGS, known, values))


def _autocorrelation(power: Float[Tensor, "y half"], shape: tuple[int, int]) -> Float[Tensor, "dy dx"]:
    y, x = fourier.fftfreq(shape[0]), fourier.rfftfreq(shape[1])
    slow = torch.exp(-(y[:, None].square() + x.square()) / (2 * SLOW**2)).to(power)
    covariance = fourier.irfft2((power * (1 - slow)).to(torch.complex128), shape).cpu()
    rows = torch.arange(-LAGS, LAGS + 1) % shape[0]
    near: Tensor = covariance[rows][:, :LAGS + 1]
    return near / near[LAGS, 0]


def _shares(values: Float[Tensor, " n"], limits: Float[Tensor, " edges"]) -> Float[Tensor, " bins"]:
    """Share of the values in each bin; those beyond the outermost limits count in the outermost bins."""
    first, width = float(limits[0]), float(limits[1] - limits[0])
    place = ((values - first) / width).long().clamp(0, len(limits) - 2)
    return (torch.bincount(place, minlength=len(limits) - 1).double() / len(values)).cpu()


def _wasserstein(one: Float[Tensor, "*s bins"], other: Float[Tensor, "*s bins"], limits: Float[Tensor, " edges"]
                 ) -> Float[Tensor, "*s"]:
    """Area between two cumulative distributions: how far, on average, values have to move to become the other's."""
    return (one - other).cumsum(-1).abs().sum(-1) * float(limits[1] - limits[0])
