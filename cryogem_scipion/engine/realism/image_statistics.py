# SPDX-License-Identifier: GPL-3.0-or-later
"""Statistics of a micrograph, a few thousand numbers, and the distances between two sets in these statistics.

Every field of ``ImageStatistics`` is an average over one image, so the statistics of a set are the means of those of
its images. The statistics do not depend on the grey scale of an image: its grey values are clipped at the lowest and
highest 0.1 % and brought to mean 0 and standard deviation 1.
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

__all__ = [
    "BLOCK_EDGE",
    "FREQUENCIES",
    "GREY_BINS",
    "LOCAL_DEVIATION_BINS",
    "MAX_SHIFT",
    "MIN_EDGE",
    "ImageStatistics",
    "image_statistics",
    "mean_statistics",
    "split_into_blocks",
    "standardise",
    "statistics_distances",
]

MIN_EDGE = 64
"""Edge (px) of the smallest image that has statistics."""
CLIPPED_SHARE = 0.001
"""Share of the lowest and of the highest grey values that are clipped: hot pixels, dead pixels, dust."""
RINGS = 256
FREQUENCIES = torch.arange(5, RINGS // 2, dtype=torch.float64) / RINGS
"""Centres of the rings of the power spectrum, cycles per pixel: from a period of 51 pixels to Nyquist."""
MAX_SHIFT = 16
"""Largest shift (px) of the autocorrelation."""
GREY_BINS = torch.linspace(-6, 6, 241, dtype=torch.float64)
"""Edges of the bins of the grey-value histogram, in standard deviations of the image."""
LOCAL_DEVIATION_BINS = torch.linspace(0, 5, 1001, dtype=torch.float64)
"""Edges of the bins of the blocks' standard deviations, in standard deviations of the image."""
BLOCK_EDGE = 32
"""Edge (px) of the blocks for the local standard deviation."""
TAPER = 1 / 8
"""Share of an axis at each end over which the image is tapered before the Fourier transform."""
HIGH_PASS_FREQUENCY = 1 / 64
"""Cycles per pixel. Lower frequencies are mostly ice and are removed from the autocorrelation."""


class ImageStatistics(NamedTuple):
    """Statistics of one image, or their means over a set. Leading axes stand for several sets.

    The names of the fields are part of the names of the arrays in ``evaluation.npz``.
    """

    spectrum: Float[Tensor, "*s rings"]
    """Log10 of the rotationally averaged power spectrum at ``FREQUENCIES``; 0 for white noise."""
    autocorrelation: Float[Tensor, "*s dy dx"]
    """Autocorrelation without low frequencies, at shifts of -MAX_SHIFT to MAX_SHIFT along y and 0 to MAX_SHIFT along
    x; 1 at shift 0."""
    histogram: Float[Tensor, "*s bins"]
    """Share of the pixels in each bin of ``GREY_BINS``."""
    local: Float[Tensor, "*s deviations"]
    """Share of the blocks with a standard deviation in each bin of ``LOCAL_DEVIATION_BINS``."""
    moments: Float[Tensor, "*s 2"]
    """Skewness and excess kurtosis; both 0 for Gaussian noise."""
    squares: Float[Tensor, "*s rings"]
    """Square of ``spectrum``; its mean over a set gives the variance of the spectra."""

    @property
    def variety(self) -> Float[Tensor, "*s rings"]:
        """Standard deviation of the spectra within a set, log10."""
        return (self.squares - self.spectrum.square()).clamp(min=0).sqrt()


def standardise(image: Float[Tensor, "y x"]) -> Float[Tensor, "y x"]:
    """Clip the lowest and highest 0.1 % of the grey values; bring the image to mean 0 and standard deviation 1.

    Returns
    -------
    The image, float32.

    Raises
    ------
    DataError
        Nearly all pixels have the same value.
    """
    low, high = np.percentile(image.cpu().numpy(), [100 * CLIPPED_SHARE, 100 * (1 - CLIPPED_SHARE)])
    clipped = image.to(torch.float64).clamp(float(low), float(high))
    if high <= low:
        raise DataError(f"nearly all pixels of an image have the value {float(low):g}; give an image with contents")
    return ((clipped - clipped.mean()) / clipped.std(correction=0)).to(torch.float32)


def image_statistics(image: Float[Tensor, "y x"]) -> ImageStatistics:
    """Statistics of one image with any grey values.

    Raises
    ------
    DataError
        The image is smaller than ``MIN_EDGE``, or nearly all its pixels have the same value.
    """
    if min(image.shape) < MIN_EDGE:
        raise DataError(f"the image has {' x '.join(map(str, image.shape))} pixels (y x), but at least {MIN_EDGE} on "
                        "each side are needed; give larger images")
    values = standardise(image)
    tapered = values * _taper(values.shape[0], values)[:, None] * _taper(values.shape[1], values)
    power = fourier.rfft2(tapered).abs().square().to(torch.float64)
    shape = (image.shape[0], image.shape[1])
    exact = values.to(torch.float64)
    skewness = (exact**3).mean()
    spectrum = _rings(power, shape)
    local_deviations = split_into_blocks(values, BLOCK_EDGE).std((1, 2), correction=0)
    return ImageStatistics(spectrum, _autocorrelation(power, shape), _histogram(values.flatten(), GREY_BINS),
                           _histogram(local_deviations, LOCAL_DEVIATION_BINS),
                           torch.stack([skewness, (exact**4).mean() - 3]).cpu(), spectrum.square())


def split_into_blocks(image: Float[Tensor, "y x"], edge: int) -> Float[Tensor, "blocks edge edge"]:
    """Square blocks of ``edge`` pixels, from the first pixel of an image on; incomplete blocks are dropped."""
    return image.unfold(0, edge, edge).unfold(1, edge, edge).reshape(-1, edge, edge)


def mean_statistics(statistics: Sequence[ImageStatistics]) -> ImageStatistics:
    """Statistics of a set: the means of the statistics of its images."""
    return ImageStatistics(*(torch.stack(field).mean(0) for field in zip(*statistics, strict=True)))


def statistics_distances(first: ImageStatistics, second: ImageStatistics) -> dict[str, Float[Tensor, "*s"]]:
    """Distances of two sets, each in its own unit; 0 for equal statistics.

    Returns
    -------
    spectrum
        Root mean square difference of the log10 power spectra: 0.1 is a factor of 1.26 in power.
    variety
        Root mean square difference of the standard deviations of the spectra within each set.
    autocorrelation
        Root mean square difference of the autocorrelations.
    histogram, local
        Wasserstein distance of the grey values and of the local standard deviations, in standard deviations of the
        image.
    skewness, kurtosis
        Absolute differences.
    """
    moments = (first.moments - second.moments).abs()
    return {"spectrum": (first.spectrum - second.spectrum).square().mean(-1).sqrt(),
            "variety": (first.variety - second.variety).square().mean(-1).sqrt(),
            "autocorrelation": (first.autocorrelation - second.autocorrelation).square().mean((-2, -1)).sqrt(),
            "histogram": _wasserstein(first.histogram, second.histogram, GREY_BINS),
            "local": _wasserstein(first.local, second.local, LOCAL_DEVIATION_BINS),
            "skewness": moments[..., 0], "kurtosis": moments[..., 1]}


def _taper(size: int, reference: Tensor) -> Float[Tensor, " size"]:
    """Window with a cosine taper at both ends and mean square 1."""
    place = (torch.arange(size) + 0.5) / size
    ends = (torch.minimum(place, 1 - place) / TAPER).clamp(max=1)
    window = (1 - torch.cos(math.pi * ends)) / 2
    return (window / window.square().mean().sqrt()).to(reference)


def _rings(power: Float[Tensor, "y half"], shape: tuple[int, int]) -> Float[Tensor, " rings"]:
    """Log10 of the mean power in each ring of ``FREQUENCIES``; empty rings are interpolated."""
    y, x = fourier.fftfreq(shape[0]), fourier.rfftfreq(shape[1])
    ring = (torch.hypot(y[:, None], x[None]) * RINGS).round().long().flatten().to(power.device)
    total = torch.bincount(ring, power.flatten()).cpu()[:RINGS // 2] / (shape[0] * shape[1])
    count = torch.bincount(ring).cpu()[:RINGS // 2]
    known = (count > 0).nonzero()[:, 0].numpy()
    values = (total[known] / count[known]).clamp(min=1e-12).log10().numpy()
    return torch.from_numpy(np.interp(FREQUENCIES.numpy() * RINGS, known, values))


def _autocorrelation(power: Float[Tensor, "y half"], shape: tuple[int, int]) -> Float[Tensor, "dy dx"]:
    y, x = fourier.fftfreq(shape[0]), fourier.rfftfreq(shape[1])
    low_pass = torch.exp(-(y[:, None].square() + x.square()) / (2 * HIGH_PASS_FREQUENCY**2)).to(power)
    covariance = fourier.irfft2((power * (1 - low_pass)).to(torch.complex128), shape).cpu()
    rows = torch.arange(-MAX_SHIFT, MAX_SHIFT + 1) % shape[0]
    small_shifts: Tensor = covariance[rows][:, :MAX_SHIFT + 1]
    return small_shifts / small_shifts[MAX_SHIFT, 0]


def _histogram(values: Float[Tensor, " n"], edges: Float[Tensor, " edges"]) -> Float[Tensor, " bins"]:
    """Share of the values in each bin; values outside all bins count for the outermost bins."""
    first, width = float(edges[0]), float(edges[1] - edges[0])
    place = ((values - first) / width).long().clamp(0, len(edges) - 2)
    return (torch.bincount(place, minlength=len(edges) - 1).double() / len(values)).cpu()


def _wasserstein(first: Float[Tensor, "*s bins"], second: Float[Tensor, "*s bins"], edges: Float[Tensor, " edges"]
                 ) -> Float[Tensor, "*s"]:
    """Wasserstein distance of two histograms: the area between their cumulative distributions."""
    return (first - second).cumsum(-1).abs().sum(-1) * float(edges[1] - edges[0])
