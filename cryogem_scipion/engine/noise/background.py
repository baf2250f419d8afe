# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures the background of a set of real micrographs: grey scale, noise, signal-to-noise ratio, contaminants."""
import logging
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.compute.parallel import map_in_order
from cryogem_scipion.engine.compute.threads import available_threads, parallel_map
from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.noise.contaminant_search import find_contaminants, measure_range
from cryogem_scipion.engine.noise.contaminants import Contaminant, opacity_map
from cryogem_scipion.engine.noise.exposure import Exposure
from cryogem_scipion.engine.noise.ice import IceMap
from cryogem_scipion.engine.noise.measured_noise import RealField, SimulatedField, measure_noise, simulated_image
from cryogem_scipion.engine.noise.models import GreyScale, PhysicalNoise
from cryogem_scipion.engine.noise.real_set import MeasuredMicrograph, memory_mapped
from cryogem_scipion.engine.noise.signal_to_noise import SnrFit, fit_snr
from cryogem_scipion.engine.noise.simulated_set import SimulatedSet
from cryogem_scipion.engine.noise.spectrum import TILE
from cryogem_scipion.engine.noise.thon_rings import ThonRings, fit_thon_rings
from cryogem_scipion.engine.runs.progress import track_progress
from cryogem_scipion.engine.simulation.microscope import seeded_generator

__all__ = ["MOST_REAL", "Background", "measure_background", "physical_noise"]

log = logging.getLogger("cryogem")

Item = TypeVar("Item")

MOST_REAL = 24
"""Real micrographs that are measured at most. They are spread evenly over the set."""
MOST_SIMULATED = 12
"""Simulated micrographs that the real ones are compared with."""
CLIP = 6
"""Standard deviations at which pixels are clipped before the signal-to-noise ratio is measured."""
IMPROVEMENT = 0.8
"""A further round counts if it lowers the misfit to this part of the last one."""
DEFOCUS_TOLERANCE = 2000.0
"""Å by which the defocus of real micrographs may lie outside the simulation's range without a warning."""
ROUNDS = 4
"""Rounds in which signal-to-noise ratio and contaminants are measured again, at most."""


@dataclass(frozen=True)
class Background:
    """What was measured of a real set, and the contrast at which a simulation matches it."""

    deviation: float
    """σ_n: standard deviation of the background divided by its mean."""
    scale: GreyScale
    snr: float
    contrast: float
    """Factor by which the simulation's signal s is multiplied."""
    figures: dict[str, float]
    warnings: tuple[str, ...]
    noise: PhysicalNoise | None
    """The measured noise; None if the micrographs are too small to measure it."""
    ice: tuple[IceMap, ...]
    contaminants: tuple[tuple[Contaminant, ...] | None, ...]
    """For each ice map, the contaminants of its micrograph; None if this micrograph was not searched."""


def measure_background(reals: Sequence[MeasuredMicrograph], out: Path, simulated: SimulatedSet, snr: float | None,
                       seed: int, coloured: bool = True) -> Background:
    """Measure the background of a real set. A simulation tells what particles look like.

    Parameters
    ----------
    reals
        Result of ``measure_real_set`` in the folder ``out``.
    snr
        Signal-to-noise ratio to use. None: it is measured; if that fails, the simulation's is used.
    seed
        Seed of the run.
    coloured
        Whether the noise spectrum and the contaminants are measured as well.
    """
    deviations = [real.background_deviation for real in reals if real.background_deviation is not None]
    warnings = []
    if len(deviations) < len(reals):
        warnings.append(f"{len(reals) - len(deviations)} of {len(reals)} real micrographs have a mean grey value near "
                        "or below zero, so their grey values are no transmission; their ice is not measured")
    deviation = statistics.median(deviations) if deviations else simulated.contrast.background_deviation
    comparison = _Comparison(reals, out, simulated, deviation, seed)
    result = comparison.measure() if coloured or snr is None else _Measurement()
    figures = {"background_deviation": deviation,
               "contaminants_found": float(sum(map(len, result.contaminants)))}
    if result.rings is not None:
        defoci = [exposure.optics.defocus_u_angstrom for exposure in result.rings.exposures]
        figures |= {"real_defocus_min": min(defoci), "real_defocus_max": max(defoci)}
        warnings += _defocus_warnings(defoci, simulated.exposures)
    if result.snr is not None:
        figures |= {"measured_snr": result.snr.snr, "snr_misfit": result.snr.misfit}
    if snr is None:
        snr = comparison.chosen_snr(result.snr)
        warnings += _snr_warnings(comparison, result.snr, snr)
    scale = GreyScale(statistics.median(real.median for real in reals),
                      statistics.median(_spread(real, deviation) for real in reals))
    searched = {real.name: pieces for real, pieces in zip(comparison.reals, result.contaminants, strict=False)}
    with_ice = [(real.name, IceMap(real.ice, real.shape)) for real in reals if real.ice is not None]
    return Background(deviation, scale, snr, comparison.contrast_at(snr), figures, tuple(warnings), result.noise,
                      tuple(ice for _, ice in with_ice), tuple(searched.get(name) for name, _ in with_ice))


@dataclass(frozen=True)
class _Measurement:
    """Result of a comparison; empty if the micrographs are too small."""

    snr: SnrFit | None = None
    rings: ThonRings | None = None
    noise: PhysicalNoise | None = None
    contaminants: tuple[tuple[Contaminant, ...], ...] = ()
    """For each micrograph that was searched."""


def _snr_warnings(comparison: "_Comparison", fit: SnrFit | None, snr: float) -> list[str]:
    """Warnings about the signal-to-noise ratio that is used."""
    if not comparison.has_particles:
        return ["the simulated micrographs have no particles to compare the real ones with; the signal-to-noise ratio "
                f"{snr:g} of the simulation is used"]
    if fit is not None and not fit.reliable:
        return [f"the signal-to-noise ratio could not be measured (misfit {fit.misfit:.2f}); {snr:g} of the "
                "simulation is used. Check particles_mean and the map, or set snr"]
    return []


def _defocus_warnings(defoci: Sequence[float], exposures: Sequence[Exposure]) -> list[str]:
    """A warning if most real micrographs have a defocus outside the simulation's range."""
    states = [exposure.optics for exposure in exposures]
    simulated = [(state.defocus_u_angstrom + state.defocus_v_angstrom) / 2 for state in states]
    first, last = min(simulated), max(simulated)
    inside = [first - DEFOCUS_TOLERANCE <= defocus <= last + DEFOCUS_TOLERANCE for defocus in defoci]
    if 2 * sum(inside) >= len(defoci):
        return []
    low, high, first, last = (value / 1e4 for value in (min(defoci), max(defoci), first, last))
    return [f"the Thon rings of the real micrographs give a defocus of {low:.2f} to {high:.2f} µm, the simulation has "
            f"{first:.2f} to {last:.2f} µm; simulate with the real range, or check the voltage"]


class _Comparison:
    """Compares some of the real micrographs with some of the simulated ones."""

    def __init__(self, reals: Sequence[MeasuredMicrograph], out: Path, simulated: SimulatedSet, deviation: float,
                 seed: int):
        count = min(MOST_REAL, len(reals))
        self.reals = [reals[i * len(reals) // count] for i in range(count)]
        self.fields = _LazySequence(count, lambda number: _field(self.reals[number], out, deviation))
        self.simulated, self.deviation, self.seed = simulated, deviation, seed
        self.has_particles = any(bool((image != 1).any()) for image in self._clean_images(1))
        self.large_enough = min(min(real.shape) for real in self.reals) >= TILE <= min(simulated.clean(0, 1).shape)

    def measure(self) -> _Measurement:
        """Measure signal-to-noise ratio, Thon rings, noise, and the contaminants of each micrograph.

        A contaminant is what no simulated image with the measured noise contains. Such images need the
        signal-to-noise ratio, which is measured outside contaminants. So the two are measured in rounds, as long as
        the misfit falls. Where the ratio cannot be measured, contaminants and particles cannot be told apart.
        """
        if not self.large_enough:
            return _Measurement()
        flats = parallel_map(_flattened, self.fields)
        rings = fit_thon_rings(_clipped(flats), self.simulated.exposures[0])
        best = self._fit_snr(flats) if self.has_particles else None
        noise = self._measure_noise(self.chosen_snr(best), rings)
        if best is None or not best.reliable:
            return _Measurement(best, rings, noise)
        contaminants = self._search_contaminants(flats, noise, best.snr)
        for _ in range(ROUNDS):
            fit = self._fit_snr(flats, contaminants)
            if fit.misfit > IMPROVEMENT * best.misfit:
                break
            best, noise = fit, self._measure_noise(self.chosen_snr(fit), rings)
            contaminants = self._search_contaminants(flats, noise, best.snr)
        log.info("particles in the real micrographs have a signal-to-noise ratio of about %.2g; %d contaminants",
                 best.snr, sum(map(len, contaminants)))
        return _Measurement(best, rings, noise, contaminants)

    def chosen_snr(self, fit: SnrFit | None) -> float:
        """The measured signal-to-noise ratio if it is reliable, else the simulation's."""
        return fit.snr if fit is not None and fit.reliable else self.simulated.contrast.snr

    def contrast_at(self, snr: float) -> float:
        """Factor by which the simulation's signal has to be multiplied to have this signal-to-noise ratio."""
        contrast = self.simulated.contrast
        return contrast.rescaled(snr, self.deviation).scale / contrast.scale

    def _measure_noise(self, snr: float, rings: ThonRings | None) -> PhysicalNoise:
        return measure_noise(self.fields, self._simulated_fields(snr), self.deviation,
                             seeded_generator(self.seed, "noise"), rings)

    def _search_contaminants(self, flats: Sequence[Float[Tensor, "_ _"]], noise: PhysicalNoise,
                             snr: float) -> tuple[tuple[Contaminant, ...], ...]:
        """Contaminants of each real micrograph, by comparison with simulated images that have this noise."""
        random = seeded_generator(self.seed, "contaminants")
        usual = measure_range([simulated_image(field, noise, random) for field in self._simulated_fields(snr)],
                         self.simulated.particle_pixels)
        searched = map_in_order(lambda flat: find_contaminants(flat, usual), flats, available_threads())
        return tuple(track_progress(searched, len(flats), "searching for contaminants on real micrograph"))

    def _fit_snr(self, flats: Sequence[Float[Tensor, "_ _"]],
                 contaminants: Sequence[Sequence[Contaminant]] | None = None) -> SnrFit:
        hidden = None if contaminants is None else [
            opacity_map(pieces, (flat.shape[0], flat.shape[1]))
            for flat, pieces in zip(flats, contaminants, strict=True)]
        signals = [1 - image for image in self._clean_images(1)]
        return fit_snr(_clipped(flats), signals, self.simulated.contrast.signal_deviation,
                       self.simulated.particle_pixels, seeded_generator(self.seed, "contrast"), hidden)

    def _simulated_fields(self, snr: float) -> list[SimulatedField]:
        """Simulated images with this signal-to-noise ratio."""
        images = self._clean_images(self.contrast_at(snr))
        return [SimulatedField(*pair) for pair in zip(images, self.simulated.exposures, strict=False)]

    def _clean_images(self, contrast: float) -> list[Float[Tensor, "y x"]]:
        count = min(MOST_SIMULATED, len(self.simulated.micrographs))
        return [self.simulated.clean(number, contrast) for number in range(count)]


class _LazySequence(Sequence[Item], Generic[Item]):
    """A sequence whose items are computed when they are asked for, so that memory holds one at a time."""

    def __init__(self, count: int, item: Callable[[int], Item]) -> None:
        self._count, self._item = count, item

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Item:  # type: ignore[override]  # no slices
        if not 0 <= number < self._count:
            raise IndexError(number)
        return self._item(number)


def _clipped(flats: Sequence[Float[Tensor, "_ _"]]) -> Sequence[Float[Tensor, "_ _"]]:
    """The images with their outliers clipped: hot pixels, and contaminants at their full strength."""
    return _LazySequence(len(flats), lambda number: flats[number].clamp(-CLIP, CLIP))


def physical_noise(coloured: bool, background: Background, contaminants: bool = True,
                   ice: bool = True) -> PhysicalNoise:
    """Return noise with the strength and the ice maps of the real set.

    Parameters
    ----------
    coloured
        Whether the noise has the measured spectrum and distribution; otherwise it is white.
    contaminants
        Whether coloured noise also gets the contaminants of the real micrographs.
    ice
        Whether the ice has the measured gradients; otherwise it is even.

    Raises
    ------
    DataError
        Coloured noise is wanted and the micrographs are too small to measure it.
    """
    maps = background.ice if ice else tuple(IceMap(torch.ones_like(each.grid), each.field) for each in background.ice)
    if not coloured:
        return PhysicalNoise(background.deviation, maps)
    if background.noise is None:
        raise DataError(f"a noise spectrum needs micrographs of {TILE} pixels a side, real and simulated; take larger "
                        "ones, or gaussian noise")
    return replace(background.noise, ice=maps, contaminants=background.contaminants if contaminants else ())


def _field(real: MeasuredMicrograph, out: Path, deviation: float) -> RealField:
    ice = None if real.ice is None else IceMap(real.ice, real.shape)
    return RealField(torch.tensor(memory_mapped(out / real.name)), real.median, _spread(real, deviation), ice)


def _spread(real: MeasuredMicrograph, deviation: float) -> float:
    """Grey values that correspond to one standard deviation of the noise."""
    return real.deviation if real.background_deviation is None else real.median * deviation


def _flattened(field: RealField) -> Float[Tensor, "y x"]:
    """The image without ice, in standard deviations of the noise."""
    image = field.image
    if field.ice is not None:
        image = image / field.ice.window((0.0, 0.0), (image.shape[0], image.shape[1])).to(image)
    return (image - image.median()) / field.spread
