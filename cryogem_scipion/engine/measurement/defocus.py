# SPDX-License-Identifier: GPL-3.0-or-later
"""Defocus and astigmatism of micrographs, fitted to their Thon rings, with errors."""
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.optimize import minimize, nnls
from torch import Tensor

from cryogem_scipion.engine.compute.parallel import map_in_order
from cryogem_scipion.engine.compute.resampling import fourier_crop
from cryogem_scipion.engine.compute.threads import available_threads, parallel_map
from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.measurement.fit_errors import (
    ErrorSources,
    astigmatism_factors,
    curvature_errors,
    pooled_errors,
)
from cryogem_scipion.engine.measurement.polar_spectrum import polar_spectrum
from cryogem_scipion.engine.measurement.ring_model import (
    DEFOCI,
    RingModel,
    at_defocus,
    components,
    with_components,
)
from cryogem_scipion.engine.simulation.optics import Optics

__all__ = ["CtfFit", "check_size_for_rings", "fit_ctfs", "known_fit"]

FINEST = 1.4
"""Å; micrographs with finer pixels are resampled to this: no ring is needed beyond 2.8 Å."""
TILE, SMALLEST_TILE = 512, 128
HIGHEST = 1 / 3.2
"""1/Å; rings that lie further out add little, and need exact optics."""
SOLE = 25.0
"""Gain in chi square over any other defocus from which a micrograph alone tells the strength of the rings ..."""
CERTAIN = 20.0
"""... and from which its defocus is certain, at strengths that the set shares."""
MORE_BENDS = (1, 2)
"""Added to the degree of the floor, to see how much the defocus depends on it."""
ROUNDS = 4
CANDIDATES = 20
FINE, COARSE = 2.0, 8.0
"""Å to which the optics are refined: of the micrograph, and of its halves and other floors, which give errors."""
DRAWS = 2
"""Generated spectra of each micrograph, on which the bias of the fit is found."""
ASTIGMATISM = 1500.0
"""Å; astigmatism is expected to be of this size, so that noise does not make a larger one."""

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CtfFit:
    """Optics of one micrograph with the quality of the fit."""

    optics: Optics
    error_angstrom: float
    """Standard error of the mean defocus, from halves of the field, from floors with more bends, and from the set."""
    bias_angstrom: float
    """Mean defocus found in generated spectra minus the true one."""
    astigmatism_error_angstrom: float
    """Standard error of the astigmatism along one direction, from the same sources."""
    astigmatism_bias_angstrom: float
    """What noise added to the length of the astigmatism that was found; ``optics`` is without it."""
    score: float
    """Correlation of the spectrum without its floor with the fitted rings, from −1 to 1."""
    advantage: float
    """Gain in chi square over any other defocus."""
    reliable: bool
    """False if the rings do not tell the defocus; then the optics are no measurement."""
    resolution_angstrom: float
    """Å to which rings agree with the spectrum."""
    frequency: Array
    """1/Å; of the curves."""
    measured: Array
    """Rotational mean of the power without its floor, in units of a smooth fit."""
    fitted: Array
    """The rings that were fitted to it."""

    @property
    def defocus_angstrom(self) -> float:
        """Mean of the two defocus values, Å."""
        return (self.optics.defocus_u_angstrom + self.optics.defocus_v_angstrom) / 2


def fit_ctfs(images: Iterable[Float[Tensor, "_ _"]], pixel_size: float, base: Optics,
             particle_power: tuple[Array, Array] | None = None) -> list[CtfFit]:
    """Fit defocus, astigmatism and its angle to the Thon rings of each micrograph.

    The rings of a set of micrographs are about equally strong. So those of weak ones are searched with the strengths
    found on the others. Images are used one by one; only their spectra stay in memory.

    Parameters
    ----------
    images
        Micrographs at their own pixel size, any grey scale and contrast sign.
    pixel_size
        Å per pixel.
    base
        Gives voltage, spherical aberration, amplitude contrast and phase shift.
    particle_power
        Frequencies (1/Å) and mean power of the map's projections there, at any scale. None: particles are smooth.

    Raises
    ------
    DataError
        A micrograph is too small.

    References
    ----------
    doi:10.1016/j.jsb.2015.08.008
    """
    def prepared(image: Float[Tensor, "_ _"]) -> list[RingModel]:
        return _models(image, pixel_size, base, particle_power)

    models = list(map_in_order(prepared, images, available_threads()))
    wholes = [one[0] for one in models]
    scans = parallel_map(RingModel.scan, wholes)
    chis = [chi for chi, _ in scans]
    advantages = np.array([_advantage(chi, model) for chi, model in zip(chis, wholes, strict=True)])
    if len(models) > 1:
        chosen = np.flatnonzero(advantages >= min(SOLE, float(np.sort(advantages)[-max(1, len(models) // 3)])))
        strength = np.mean([scans[i][1][chis[i].argmin()] for i in chosen], axis=0)
        shared = _common_scans(wholes, strength)
        for number, chi in enumerate(shared):
            if advantages[number] < SOLE:
                chis[number] = chi
    starts = [at_defocus(base, float(DEFOCI[chi.argmin()])) for chi in chis]
    advantages = np.array([_advantage(chi, model) for chi, model in zip(chis, wholes, strict=True)])
    jobs = list(zip(models, starts, advantages.tolist(), strict=True))
    fits = parallel_map(lambda job: _fit(*job), jobs)
    return _with_errors([fit for fit, _ in fits], [sources for _, sources in fits])


def check_size_for_rings(shape: tuple[int, int], pixel_size: float) -> None:
    """Refuse a micrograph that is too small for Thon rings.

    Raises
    ------
    DataError
        The micrograph is too small.
    """
    _tile(min(_fitted_shape(shape, pixel_size)) // 2)


def known_fit(optics: Optics) -> CtfFit:
    """Return optics that another program has measured in the form of a fit, without curves."""
    nothing = np.zeros(0)
    return CtfFit(optics, 0.0, 0.0, 0.0, 0.0, 1.0, math.inf, True, 0.0, nothing, nothing, nothing)


def _models(image: Float[Tensor, "y x"], pixel_size: float, base: Optics,
            particle_power: tuple[Array, Array] | None) -> list[RingModel]:
    """The model of the whole field, of its top, bottom, left and right half, and of the whole with other floors."""
    image, pixel_size = _resampled(image.to(torch.float32), pixel_size)
    y, x = image.shape[0] // 2, image.shape[1] // 2
    highest = min(HIGHEST, 0.47 / pixel_size)
    models = []
    for part in (image, image[:y], image[y:], image[:, :x], image[:, x:]):
        spectrum = polar_spectrum(part, pixel_size, _tile(min(part.shape)))
        power = None if particle_power is None else np.interp(spectrum.frequency, *particle_power)
        models.append(RingModel(spectrum, base, power, highest))
        if part is image:
            bent = [RingModel(spectrum, base, power, highest, more) for more in MORE_BENDS]
    return [*models, *bent]


def _common_scans(models: Sequence[RingModel], strength: Array) -> list[Array]:
    """Chi square at each of DEFOCI with strengths that all micrographs share, by expectation maximisation."""
    for _ in range(ROUNDS):
        scans = parallel_map(partial(RingModel.scan_with, strength=strength), models)
        gains = [gain[chi.argmin()] for chi, gain in scans]
        middle = float(np.exp(np.mean(np.log(gains))))
        matrix, right = np.zeros((len(strength),) * 2), np.zeros(len(strength))
        for model, (chi, gain) in zip(models, scans, strict=True):
            noise = chi.min() / len(model.frequency)
            chance = np.exp(-(chi - chi.min()) / (2 * noise))
            chance /= chance.sum()
            for place in np.argsort(-chance)[:CANDIDATES]:
                a, b = model.normal_equations(float(DEFOCI[place]))
                factor = gain[place] / middle
                matrix += chance[place] / noise * factor**2 * a
                right += chance[place] / noise * factor * b
        matrix[np.diag_indices(len(matrix))] += 1e-9 * np.trace(matrix) / len(matrix)
        lower = np.linalg.cholesky(matrix)
        strength = nnls(lower.T, np.linalg.solve(lower, right))[0]
    return [chi for chi, _ in parallel_map(lambda model: model.scan_with(strength), models)]


def _advantage(chi: Array, model: RingModel) -> float:
    """Gain in chi square of the best defocus over any farther away, and over no rings, in units of the noise."""
    best = int(chi.argmin())
    far = np.abs(DEFOCI - DEFOCI[best]) > max(0.15 * DEFOCI[best], 1000)
    noise = max(float(chi[best]) / len(model.frequency), 1e-30)
    return (min(float(chi[far].min()), model.chi_without_rings) - float(chi[best])) / noise


def _fit(models: list[RingModel], start: Optics, advantage: float) -> tuple[CtfFit, ErrorSources]:
    """The optics of a micrograph without errors, and what tells the errors."""
    whole = models[0]
    optics = _refined(whole, start)
    found = components(optics)
    others = [components(_refined(part, optics, COARSE)) for part in models[1:]]
    top, bottom, left, right = others[:4]
    # Halves and whole share what the model of the floor gets wrong. About half of what another floor changes is due to
    # each of the two.
    sources = ErrorSources(curvature_errors(whole, optics), np.stack([top - bottom, left - right]) / 2,
                           np.stack([bent - found for bent in others[4:]]) / 2)
    bias = _bias(whole, optics) if advantage > CERTAIN else 0.0
    own = float(found[0])
    near = abs(own - start.defocus_u_angstrom) < max(0.1 * own, 500)
    reliable = bool(advantage > CERTAIN and DEFOCI[0] < own < DEFOCI[-1] and near)
    _, floor, rings = whole.fit(optics)
    values = whole.values - floor[:, None]
    relative = whole.rotational_mean(values), whole.rotational_mean(rings)
    return CtfFit(optics, 0.0, bias, 0.0, 0.0, _correlation(values, rings, whole.count), advantage, reliable,
                  _resolution(whole, *relative), whole.frequency, *relative), sources


def _with_errors(fits: Sequence[CtfFit], sources: Sequence[ErrorSources]) -> list[CtfFit]:
    """The fits with errors, and with the astigmatism without what noise adds to it."""
    certain = np.array([fit.reliable for fit in fits])
    errors = pooled_errors(sources, certain)
    found = np.array([components(fit.optics) for fit in fits])
    factors = astigmatism_factors(found[:, 1:], errors[:, 1], certain)
    results = []
    for fit, values, (error, astigmatism_error), factor in zip(fits, found, errors.tolist(), factors.tolist(),
                                                               strict=True):
        results.append(replace(
            fit, optics=with_components(fit.optics, values * (1, factor, factor)), error_angstrom=error,
            astigmatism_error_angstrom=astigmatism_error * math.sqrt(factor),
            astigmatism_bias_angstrom=(1 - factor) * float(np.hypot(values[1], values[2])),
            reliable=fit.reliable and error < max(0.03 * fit.defocus_angstrom, 300)))
    return results


def _bias(model: RingModel, optics: Optics) -> float:
    """Mean error of the mean defocus in generated spectra."""
    draw = np.random.default_rng(0)
    found = [components(_refined(model.redrawn(optics, draw), optics, COARSE))[0] for _ in range(DRAWS)]
    return float(np.mean(found) - components(optics)[0])


def _refined(model: RingModel, start: Optics, tolerance: float = FINE) -> Optics:
    """The optics at the least chi square near a start."""
    noise = max(model.chi(start) / model.count.size, 1e-30)

    def optics(values: Array) -> Optics:
        return with_components(start, values * (1, 2, 2))

    def cost(values: Array) -> float:
        prior = float(values[1] ** 2 + values[2] ** 2) / (ASTIGMATISM / 2) ** 2
        return model.chi(optics(values)) / noise + prior

    step = np.array([[0, 0, 0], [150, 0, 0], [0, 150, 0], [0, 0, 150]], float)
    found = minimize(cost, components(start) * (1, 0.25, 0.25), method="Nelder-Mead",
                     options={"initial_simplex": components(start) * (1, 0.25, 0.25) + step, "xatol": tolerance,
                              "fatol": 1e-2, "maxfev": 120})
    return optics(found.x)


def _resampled(image: Float[Tensor, "y x"], pixel_size: float) -> tuple[Float[Tensor, "v u"], float]:
    if pixel_size >= FINEST:
        return image, pixel_size
    shape = _fitted_shape((image.shape[0], image.shape[1]), pixel_size)
    return fourier_crop(image, shape), pixel_size * image.shape[0] / shape[0]


def _fitted_shape(shape: tuple[int, int], pixel_size: float) -> tuple[int, int]:
    """Size (y, x) in pixels at which rings are fitted."""
    if pixel_size >= FINEST:
        return shape
    return 2 * round(shape[0] * pixel_size / FINEST / 2), 2 * round(shape[1] * pixel_size / FINEST / 2)


def _tile(edge: int) -> int:
    """Edge in pixels of the tiles of a half field with this shorter side."""
    tile = TILE
    while tile > edge and tile > SMALLEST_TILE:
        tile //= 2
    if tile > edge:
        raise DataError(f"the micrograph has {2 * edge} pixels on its shorter side; Thon rings need "
                        f"{2 * SMALLEST_TILE}; give larger micrographs, or CTFs of another program")
    return tile


def _correlation(a: Array, b: Array, weight: Array) -> float:
    a, b = (values - np.average(values, weights=weight) for values in (a, b))
    power = float((weight * a * a).sum() * (weight * b * b).sum())
    return float((weight * a * b).sum()) / math.sqrt(power) if power > 0 else 0.0


def _resolution(model: RingModel, found: Array, rings: Array) -> float:
    """Å down to which windows of the spectrum correlate with the fitted rings."""
    width = max(12, len(found) // 12)
    last = float(model.frequency[0])
    for start in range(0, len(found) - width + 1, width // 2):
        part = slice(start, start + width)
        if _correlation(found[part], rings[part], model.by_ring[part]) > 0.4:
            last = float(model.frequency[part][-1])
    return 1 / last
