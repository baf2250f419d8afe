# SPDX-License-Identifier: GPL-3.0-or-later
"""Fits noise to real micrographs, by analysis through synthesis.

Real micrographs contain particles at unknown places. So the same statistics are measured on real and on simulated
micrographs, both with particles, and the simulated noise is corrected until they agree. Medians over tiles leave out
contaminants, edges and hot pixels.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.compute.robust import NORMAL_DEVIATION, robust_deviation
from cryogem_scipion.engine.compute.threads import parallel_map
from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.noise.exposure import Exposure
from cryogem_scipion.engine.noise.ice import IceMap
from cryogem_scipion.engine.noise.models import GreyScale, PhysicalNoise, Scene
from cryogem_scipion.engine.noise.spectrum import (
    TILE,
    ColouredNoise,
    CurvePlace,
    smoothed_power,
    tile_periodograms,
    whitened,
)
from cryogem_scipion.engine.noise.thon_rings import (
    MAX_MODULATED_SHARE,
    ThonRings,
    measure_modulated_share,
    without_thon_rings,
)

__all__ = ["CleanImage", "RealImage", "RealNoise", "fit_noise", "measure_real_noise", "simulated_image"]

CLIP = 7.0
"""Standard deviations from the median at which pixels are clipped."""
BLOCK = 32
"""Edge in pixels of the blocks whose mean and standard deviation are compared."""
ROUNDS = 3
"""Rounds in which the noise is corrected."""
LARGEST_EDGE = 1024
"""Pixels of a simulated image's edge that are used at most. A part has the spectrum of the whole."""
LEAST_NOISE = 0.02
"""Smallest part of the real power that the noise has at any frequency."""
FIRST_RESPONSES: dict[CurvePlace, float] = {"fine": 0.2, "pixels": 0.7}
"""Change of the fine noise's quantiles over the change of the curve, in the first round. Of a finer grid, the
frequencies that are compared have a part of the skewness only."""
LEAST_RESPONSE = 0.1
"""Smallest response that is believed; a smaller one is chance, and would make the correction too large."""
FINE = 0.25
"""Cycles a pixel, from which noise counts as fine. Particles and ice change the grey values below."""
LESS_FINE = 0.15
"""Cycles a pixel, from which the skewness is compared with that of fine noise."""
BINNED = 1.5
"""Ratio of these from which images count as binned: it is 1.3 for counts on the image's pixels, 1.7 on finer ones."""
SAMPLED_PIXELS = 4_000_000
"""Pixels from which the grey-value distribution is measured, about."""


@dataclass(frozen=True)
class RealImage:
    """The pixels of a real micrograph at the working pixel size, with its grey scale and ice map."""

    grey: Float[Tensor, "y x"]
    """Grey values."""
    scale: GreyScale
    ice: IceMap | None = None

    def deviations(self) -> Float[Tensor, "y x"]:
        """Return the image minus its background, ice included, in standard deviations of the noise."""
        return self.scale.deviations(self.grey.to(torch.float32))

    def without_ice(self) -> Float[Tensor, "y x"]:
        """Return the image divided by its ice, minus its median, in standard deviations of the noise."""
        grey = self.grey
        if self.ice is not None:
            grey = grey / self.ice.window((0.0, 0.0), (grey.shape[0], grey.shape[1])).to(grey)
        return (grey - grey.median()) / self.scale.spread


@dataclass(frozen=True)
class CleanImage:
    """A clean image 1 - s with its optics."""

    image: Float[Tensor, "y x"]
    exposure: Exposure | None = None
    """None: the optics are not known, so the noise gets no Thon rings."""


@dataclass(frozen=True)
class RealNoise:
    """What is measured on real micrographs once, whatever ratio the particles have."""

    background_deviation: float
    """σ_n of the set."""
    power: Float[Tensor, "n half"]
    """With the particles' power."""
    smooth_power: Float[Tensor, "n half"]
    """The same, smoothed: with less chance, but also with less difference between the particles' rings and dips."""
    quantiles: Float[Tensor, " knots"]
    """Of the fine noise."""
    curve_at: CurvePlace
    exponent: float
    modulated_share: Float[Tensor, " half"] | None
    """Part of the power that Thon rings modulate; None without rings."""
    ice: tuple[IceMap, ...]


def measure_real_noise(real: Sequence[RealImage], background_deviation: float, rings: ThonRings | None = None,
                       limit: int = 12) -> RealNoise:
    """Measure spectrum, grey-value distribution and ice of real micrographs.

    Parameters
    ----------
    real
        Real micrographs. At most ``limit`` of them, evenly spread, are measured; all ice maps are used.
    background_deviation
        σ_n of the set.
    rings
        Thon rings of all real micrographs; None if they have none.

    Raises
    ------
    DataError
        A micrograph is too small to measure, or there is none.
    """
    if not real:
        raise DataError("there are no real micrographs; to measure the noise, give at least one")
    ice = tuple(image.ice for image in real if image.ice is not None)
    count = min(limit, len(real))
    indices = [position * len(real) // count for position in range(count)]
    chosen = [real[index] for index in indices]
    flat = parallel_map(lambda image: _flattened(image, background_deviation), chosen)
    modulated_share = None if rings is None else rings.modulated_share
    power = _power(flat, modulated_share, [None if rings is None else rings.exposures[index] for index in indices])
    tiles = sum((image.shape[0] // (TILE // 2) - 1) * (image.shape[1] // (TILE // 2) - 1) for image in flat)
    smooth = smoothed_power(power, min(2.0, 12 / tiles**0.5))
    return RealNoise(background_deviation, power, smooth, _quantiles(flat, smooth), _curve_place(flat, smooth),
                     _exponent(chosen, flat, background_deviation), modulated_share, ice)


def fit_noise(real: RealNoise, clean: Sequence[CleanImage], generator: torch.Generator) -> PhysicalNoise:
    """Return noise with the spectrum, Thon rings, grey-value distribution and ice of real micrographs.

    Parameters
    ----------
    real
        What was measured on the real micrographs.
    clean
        Simulated images with about the real set's particles; 128 pixels a side or more. Together they should have the
        real set's defocus values: where particles are strong, the power at some frequencies depends on these, and the
        noise takes the difference.
    generator
        Random generator for the simulated noise.

    Raises
    ------
    DataError
        There is no simulated image.
    """
    if not clean:
        raise DataError("there are no simulated micrographs; to measure the noise, give at least one")
    quantiles, modulated_share = real.quantiles, real.modulated_share
    noise = ColouredNoise(real.smooth_power, modulated_share=modulated_share, curve_at=real.curve_at)
    physical = PhysicalNoise(real.background_deviation, real.ice, noise, real.exponent)
    seed = int(torch.randint(2**62, (), generator=generator))
    response = FIRST_RESPONSES[noise.curve_at]
    before: tuple[Tensor, Tensor] | None = None
    clean = [replace(image, image=image.image[:LARGEST_EDGE, :LARGEST_EDGE]) for image in clean]
    exposures = [image.exposure for image in clean]
    for _ in range(ROUNDS):
        # The same random numbers in each round, so that what changes comes from the correction alone.
        fresh = torch.Generator().manual_seed(seed)
        images = [_clipped(simulated_image(image, physical, fresh)) for image in clean]
        simulated_share = None if modulated_share is None else measure_modulated_share(
            images, [exposure for exposure in exposures if exposure is not None])
        simulated_power = _power(images, simulated_share, exposures)
        noise = physical.noise
        if modulated_share is not None and simulated_share is not None and noise.modulated_share is not None:
            # The CTF also modulates the particles. Their part does not belong to the noise.
            corrected_share = (noise.modulated_share + modulated_share - simulated_share).clamp(0, MAX_MODULATED_SHARE)
            noise = replace(noise, modulated_share=corrected_share)
        simulated = _quantiles(images, real.smooth_power)
        if before is not None:
            response = _response(noise.curve - before[0], simulated - before[1])
        before = noise.curve, simulated
        power = _corrected_power(noise.power, real, simulated_power)
        curve = _corrected(noise.curve, (quantiles - simulated) / response)
        physical = replace(physical, noise=replace(noise, power=power, curve=curve))
    return physical


def _corrected_power(noise: Float[Tensor, "n half"], real: RealNoise,
                     simulated: Float[Tensor, "n half"]) -> Float[Tensor, "n half"]:
    """The noise's power with which simulated micrographs have the real power.

    The particles' power is what the simulated micrographs have beyond the noise. It stays as it is, so the noise takes
    the whole difference, down to its least share of the real power. Where the particles have rings of too much or too
    little power, the difference has rings. Other sharp differences are chance: the rest is smoothed.
    """
    rings = _rotational_mean(real.power - simulated)
    rest = smoothed_power((real.smooth_power / (simulated + rings).clamp(min=1e-12)).clamp(0.1, 10.0), 2.0)
    return torch.maximum(noise + rings + (rest - 1) * real.smooth_power, LEAST_NOISE * real.smooth_power)


def _rotational_mean(plane: Float[Tensor, "n half"]) -> Float[Tensor, "n half"]:
    """The mean of each ring of one frequency step, at the ring's frequencies."""
    n = plane.shape[0]
    ring = torch.hypot(fourier.fftfreq(n)[:, None], fourier.rfftfreq(n)).mul(n).round().long().flatten()
    totals = torch.zeros(int(ring.max()) + 1, dtype=torch.float64).index_add(0, ring, plane.flatten().double())
    return (totals / ring.bincount())[ring].reshape(plane.shape).to(plane)


def simulated_image(clean: CleanImage, physical: PhysicalNoise, generator: torch.Generator) -> Float[Tensor, "y x"]:
    """Return a simulated micrograph without ice, in standard deviations of the noise around the background."""
    scene = Scene(torch.ones(clean.image.shape), exposure=clean.exposure)
    return physical.deviations(clean.image, generator, scene)


def _flattened(real: RealImage, background_deviation: float) -> Float[Tensor, "y x"]:
    """The image divided by its ice, hot pixels clipped, in standard deviations of the noise."""
    values = real.deviations()
    if real.ice is not None:
        ice = real.ice.window((0.0, 0.0), (values.shape[0], values.shape[1])).to(torch.float32).clamp(min=0.05)
        values = ((1 + background_deviation * values) / ice - 1) / background_deviation
    return _clipped(values)


def _clipped(values: Float[Tensor, "y x"]) -> Float[Tensor, "y x"]:
    limit = CLIP * robust_deviation(values)
    return (values - values.median()).clamp(-limit, limit)


def _power(images: Sequence[Float[Tensor, "_ _"]], modulated_share: Float[Tensor, " half"] | None,
           exposures: Sequence[Exposure | None]) -> Float[Tensor, "n half"]:
    """Power spectrum of all images, without Thon rings."""
    powers = parallel_map(tile_periodograms, images)
    if modulated_share is not None:
        powers = [tiles if exposure is None else without_thon_rings(tiles, modulated_share, exposure)
                  for tiles, exposure in zip(powers, exposures, strict=True)]
    # Periodograms of noise are exponentially distributed: their median is ln 2 times their mean.
    return torch.cat(powers).median(0).values / math.log(2)


def _quantiles(images: Sequence[Float[Tensor, "_ _"]], power: Float[Tensor, "n half"]) -> Float[Tensor, " knots"]:
    """Quantiles of the images' fine noise, whitened, at the knots of a grey-value curve.

    Those of each image are in units of its own spread, with median 0: where micrographs differ in spread, all pixels
    together would have longer tails than each micrograph. Only fine noise counts: particles and ice, which are
    simulated by themselves, change the distribution of coarse grey values.
    """
    step = max(1, sum(image.numel() for image in images) // SAMPLED_PIXELS) | 1
    levels = torch.special.ndtr(torch.linspace(-4, 4, 65).double())

    def quantiles(image: Float[Tensor, "y x"]) -> Float[Tensor, " knots"]:
        ordered = _ordinary(whitened(image, power, FINE))[::step].sort().values
        values = ordered[(levels * (len(ordered) - 1)).round().long()]
        # Knots 24, 32 and 40 of 65 are the deviates -1, 0 and 1.
        return (values - values[32]) / (values[40] - values[24]).clamp(min=1e-12)

    return torch.stack(parallel_map(quantiles, images)).mean(0)


def _curve_place(images: Sequence[Float[Tensor, "_ _"]], power: Float[Tensor, "n half"]) -> CurvePlace:
    """Whether the images have the skewness of counts on their own pixels or on finer ones.

    On finer pixels, two frequencies of the image often add to one that it has not, the more often the higher they are.
    So the finest noise is less skewed than the rest.
    """
    def skewness(lowest: float) -> float:
        def of(image: Float[Tensor, "y x"]) -> float:
            values = _ordinary(whitened(image, power, lowest)).double()
            values = values - values.mean()
            return float(values.pow(3).mean() / values.square().mean() ** 1.5)

        return sum(parallel_map(of, images))

    return "fine" if skewness(LESS_FINE) / (skewness(FINE) or 1.0) > BINNED else "pixels"


def _ordinary(image: Float[Tensor, "y x"]) -> Float[Tensor, " pixels"]:
    """Pixels of all blocks whose mean and standard deviation are usual; contaminants and edges are left out."""
    blocks = _blocks(image)
    keep = torch.ones(len(blocks), dtype=torch.bool)
    for value in (blocks.mean(1), blocks.std(1).log()):
        centre = value.median()
        keep &= (value - centre).abs() < 4 * NORMAL_DEVIATION * (value - centre).abs().median() + 1e-6
    return blocks[keep].flatten()


def _blocks(image: Float[Tensor, "y x"]) -> Float[Tensor, "blocks pixels"]:
    tiles = image.unfold(0, BLOCK, BLOCK).unfold(1, BLOCK, BLOCK)
    return tiles.reshape(-1, BLOCK * BLOCK)


def _response(curve_change: Float[Tensor, " knots"], quantile_change: Float[Tensor, " knots"]) -> float:
    """By how much the quantiles of fine noise change for a change of the curve, as a factor."""
    inner = slice(12, 53)  # deviates from -2.5 to 2.5, which many pixels have
    # The quantiles are in units of twice their spread.
    change, effect = curve_change[inner].double() / 2, quantile_change[inner].double()
    response = float((change * effect).sum() / change.square().sum().clamp(min=1e-12))
    return min(max(response, LEAST_RESPONSE), 1.0)


def _corrected(curve: Float[Tensor, " knots"], change: Float[Tensor, " knots"]) -> Float[Tensor, " knots"]:
    """The grey-value curve, moved by a change of the quantiles, with mean 0 and deviation 1."""
    moved = curve + change * (curve[40] - curve[24])
    # Few pixels reach the outermost knots, so these follow the slope of their inner neighbours.
    moved[:4] = moved[4] - (moved[8] - moved[4]).clamp(min=0.1) / 4 * torch.arange(4, 0, -1)
    moved[-4:] = moved[-5] + (moved[-5] - moved[-9]).clamp(min=0.1) / 4 * torch.arange(1, 5)
    moved = moved.cummax(0).values
    deviates = torch.linspace(-4, 4, 65)
    weight = torch.exp(-deviates**2 / 2)
    weight = weight / weight.sum()
    moved = moved - (weight * moved).sum()
    return moved / (weight * moved**2).sum().sqrt()


def _exponent(reals: Sequence[RealImage], flat: Sequence[Float[Tensor, "_ _"]], background_deviation: float) -> float:
    """γ: the exponent with which the noise grows with transmission, within micrographs.

    The finest noise (differences of neighbours) is compared between blocks. If the ice is too even to measure γ, it is
    one half, as for counted electrons.
    """
    levels, deviations = [], []
    for real, image in zip(reals, flat, strict=True):
        if real.ice is None:
            continue
        shape = (image.shape[0], image.shape[1])
        ice = real.ice.window((0.0, 0.0), shape).to(torch.float32).clamp(min=0.05)
        step = (image * ice)[:, 1:] - (image * ice)[:, :-1]
        level, fine = _blocks(ice[:, 1:]).mean(1).log(), _blocks(step).std(1).clamp(min=1e-6).log()
        levels.append(level - level.mean())
        deviations.append(fine - fine.median())
    if not levels:
        return 0.0
    x, y = torch.cat(levels).double(), torch.cat(deviations).double()
    spread = NORMAL_DEVIATION * y.abs().median()
    y = y.clamp(-3 * spread, 3 * spread)
    prior = float(spread.clamp(min=1e-6)) ** 2 / 0.3**2
    slope = (float((x * y).sum()) + 0.5 * prior) / (float((x * x).sum()) + prior)
    return min(max(slope, -2.0), 2.0)
