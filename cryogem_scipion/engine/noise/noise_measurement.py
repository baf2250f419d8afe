# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures the noise model of a set of real micrographs: grey scale, ice, noise, SNR and contaminants."""
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.compute.parallel import map_in_order
from cryogem_scipion.engine.compute.threads import available_threads, parallel_map
from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.noise.chosen_ratio import (
    ChosenRatio,
    check_given_ratio,
    choose_ratio,
    kept_ratio,
    over_all_variance,
)
from cryogem_scipion.engine.noise.contaminant_search import find_contaminants, measure_range
from cryogem_scipion.engine.noise.contaminants import Contaminant, opacity_map
from cryogem_scipion.engine.noise.exposure import Exposure
from cryogem_scipion.engine.noise.ice import IceMap
from cryogem_scipion.engine.noise.models import AnalyticModel, NoiseModel, PhysicalNoise
from cryogem_scipion.engine.noise.noise_fit import (
    CleanImage,
    RealImage,
    RealNoise,
    fit_noise,
    measure_real_noise,
    simulated_image,
)
from cryogem_scipion.engine.noise.real_set import RealSet, memory_mapped
from cryogem_scipion.engine.noise.relative_power import relative_powers
from cryogem_scipion.engine.noise.set_spectrum import SetSpectrum, measure_set_spectrum
from cryogem_scipion.engine.noise.signal_to_noise import SnrFit, fit_snr
from cryogem_scipion.engine.noise.simulated_set import SimulatedSet
from cryogem_scipion.engine.noise.spectrum import TILE, ColouredNoise
from cryogem_scipion.engine.noise.thon_rings import ThonRings, fit_thon_rings
from cryogem_scipion.engine.runs.progress import track_progress
from cryogem_scipion.engine.simulation.microscope import seeded_generator

__all__ = ["MAX_REAL", "NoiseMeasurement", "measure_noise"]

log = logging.getLogger("cryogem")

Item = TypeVar("Item")

MAX_REAL = 24
"""Largest number of real micrographs that are measured, spread evenly over the set."""
MAX_SIMULATED = 12
"""Largest number of simulated micrographs for the comparison with the real ones."""
CLIP = 6
"""Standard deviations at which pixels are clipped before the signal-to-noise ratio is measured."""
IMPROVEMENT = 0.8
"""A further round is accepted if its misfit is at most this fraction of the best misfit so far."""
DEFOCUS_TOLERANCE = 2000.0
"""Å by which the defocus of real micrographs may lie outside the simulation's range without a warning."""
ROUNDS = 4
"""Largest number of rounds in which signal-to-noise ratio and contaminants are measured again."""


@dataclass(frozen=True)
class NoiseMeasurement:
    """A noise model, with the values and warnings of its measurement."""

    model: NoiseModel
    figures: dict[str, float] = field(default_factory=dict)
    """Measured values for the manifest."""
    warnings: tuple[str, ...] = ()


def measure_noise(reals: RealSet, simulated: SimulatedSet, *, snr: float | None, seed: int, spectrum: bool = True,
                  contaminants: bool = True, ice: bool = True) -> NoiseMeasurement:
    """Return the noise model of a real set, measured by comparison with a simulation of the same particles.

    Parameters
    ----------
    snr
        Signal-to-noise ratio to use; the noise is measured for it. None: it is measured; if that fails, it is the
        largest that the power spectrum allows, but not above the simulation's.
    seed
        Seed of the run.
    spectrum
        Whether the noise has the measured spectrum and distribution; otherwise it is white.
    contaminants
        Whether noise with a measured spectrum also gets the contaminants of the real micrographs.
    ice
        Whether the ice has the measured gradients; otherwise it is even.

    Raises
    ------
    DataError
        ``spectrum`` is true and the micrographs are too small, or particles with the given ``snr`` alone would have
        more power than the real micrographs.
    """
    warnings = []
    without_ice_map = len(reals) - len(reals.with_ice_map)
    if without_ice_map:
        warnings.append(f"{without_ice_map} of {len(reals)} real micrographs have a mean grey value near or below "
                         "zero, so their ice maps cannot be measured")
    deviation = reals.background_deviation
    if deviation is None:
        deviation = simulated.contrast.background_deviation
    comparison = _Comparison(reals, simulated, deviation, seed)
    result = comparison.measure(snr) if spectrum or snr is None else _ComparisonResult()
    figures = {"background_deviation": deviation,
               "contaminants_found": float(sum(map(len, result.contaminants)))}
    if result.rings is not None:
        defoci = [exposure.optics.defocus_u_angstrom for exposure in result.rings.exposures]
        figures |= {"real_defocus_min": min(defoci), "real_defocus_max": max(defoci)}
        warnings += _defocus_warnings(defoci, simulated.exposures)
    figures |= _ratio_figures(result)
    if snr is None:
        chosen = comparison.chosen(result)
        snr = chosen.snr
        warnings += chosen.warnings
    maps = _ice_maps(reals, ice)
    if spectrum:
        physical = replace(_spectrum_noise(result), ice=maps,
                           contaminants=comparison.contaminants_of(reals.with_ice_map, result) if contaminants else (),
                           relative_powers=comparison.relative_powers_of(reals.with_ice_map, result))
    else:
        physical = PhysicalNoise(deviation, maps)
    return NoiseMeasurement(AnalyticModel(physical, reals.scale, snr), figures, tuple(warnings))


def _ice_maps(reals: RealSet, gradients: bool) -> tuple[IceMap, ...]:
    """The ice map of each micrograph that has one; without gradients all cells are 1."""
    maps = [reals.micrographs[index].ice for index in reals.with_ice_map]
    return tuple(ice if gradients else IceMap(torch.ones_like(ice.grid), ice.field) for ice in maps if ice is not None)


def _spectrum_noise(result: "_ComparisonResult") -> PhysicalNoise:
    if result.noise is None:
        raise DataError(f"a noise spectrum needs real and simulated micrographs of at least {TILE} pixels on each "
                        "side; use larger micrographs, or gaussian noise")
    return result.noise


@dataclass(frozen=True)
class _ComparisonResult:
    """Result of a comparison; empty if the micrographs are too small."""

    snr_fit: SnrFit | None = None
    """From local power; None without particles."""
    spectrum: SetSpectrum | None = None
    rings: ThonRings | None = None
    noise: PhysicalNoise | None = None
    contaminants: tuple[tuple[Contaminant, ...], ...] = ()
    """For each micrograph that was searched."""
    relative_powers: tuple[Float[Tensor, "_ _"] | None, ...] = ()
    """For each micrograph that was compared; None where the optics are not known."""
    kept_snr: float | None = None
    """The simulation's ratio, if it was measured before, over the variance of the micrographs; else None."""


def _ratio_figures(result: _ComparisonResult) -> dict[str, float]:
    """The measured signal-to-noise ratios."""
    figures: dict[str, float] = {}
    if result.snr_fit is not None:
        figures |= {"measured_snr": result.snr_fit.snr, "snr_misfit": result.snr_fit.misfit}
    if result.spectrum is not None:
        ratio = result.spectrum.ratio
        figures |= {"spectral_snr": ratio.ratio, "spectral_snr_low": ratio.low, "spectral_snr_high": ratio.high,
                    "largest_possible_snr": result.spectrum.largest_possible}
    return figures


def _defocus_warnings(defoci: Sequence[float], exposures: Sequence[Exposure]) -> list[str]:
    """A warning if most real micrographs have a defocus outside the simulation's range."""
    states = [exposure.optics for exposure in exposures]
    simulated = [(state.defocus_u_angstrom + state.defocus_v_angstrom) / 2 for state in states]
    first, last = min(simulated), max(simulated)
    inside = [first - DEFOCUS_TOLERANCE <= defocus <= last + DEFOCUS_TOLERANCE for defocus in defoci]
    if 2 * sum(inside) >= len(defoci):
        return []
    low, high, first, last = (value / 1e4 for value in (min(defoci), max(defoci), first, last))
    return [f"the Thon rings of the real micrographs give a defocus of {low:.2f} to {high:.2f} µm, but the simulation "
            f"has {first:.2f} to {last:.2f} µm; simulate with the defocus range of the real micrographs, or check the "
            "voltage"]


class _Comparison:
    """Comparison of real with simulated micrographs, both in limited number, for ``measure_noise``."""

    def __init__(self, reals: RealSet, simulated: SimulatedSet, deviation: float, seed: int):
        count, scales = min(MAX_REAL, len(reals)), reals.scales
        self.indices = [position * len(reals) // count for position in range(count)]
        """Indices of the real micrographs that are compared."""

        def real_image(position: int) -> RealImage:
            index = self.indices[position]
            real = reals.micrographs[index]
            return RealImage(torch.tensor(memory_mapped(reals.folder / real.name)), scales[index], real.ice)

        self.known = simulated.measured_exposures([Path(reals.micrographs[index].original) for index in self.indices])
        known = [position for position, optics in enumerate(self.known) if optics is not None]
        self.told = known if 2 * len(known) > count else list(range(count))
        """Positions of the micrographs that rings and noise are measured on: those whose optics the simulation has, if
        these are most. In the others, no rings tell the defocus, for example because the stage drifted. The simulation
        has none of their kind, so the spectra of both sets would differ by more than the noise."""
        self.reals = _LazySequence(count, real_image)
        self.simulated, self.deviation, self.seed = simulated, deviation, seed
        self.has_particles = any(bool((image != 1).any()) for image in self._clean_images(1))
        smallest = min(min(reals.micrographs[index].shape) for index in self.indices)
        self.large_enough = smallest >= TILE <= min(simulated.clean_image(0, 1).shape)

    def measure(self, given_snr: float | None) -> _ComparisonResult:
        """Measure signal-to-noise ratio, Thon rings, noise, and the contaminants of each micrograph.

        The noise is measured for the ratio that is used: ``given_snr``, or the chosen one.

        A contaminant differs from everything in simulated images with the measured noise. These images need the
        signal-to-noise ratio, and the signal-to-noise ratio is measured outside contaminants. So both are measured in
        rounds, as long as the misfit falls. Without a measured signal-to-noise ratio, particles could be taken for
        contaminants, so the micrographs are not searched.
        """
        if not self.large_enough:
            return _ComparisonResult()
        flats = parallel_map(RealImage.without_ice, self.reals)
        rings = fit_thon_rings(_clipped(_chosen(flats, self.told)), self.simulated.exposures[0],
                               [self.known[index] for index in self.told])
        best = self._fit_snr(flats) if self.has_particles else None
        spectrum = self._compare_spectra(flats, rings) if self.has_particles else None
        if given_snr is not None:
            check_given_ratio(given_snr, spectrum)
        real_noise = measure_real_noise(_chosen(self.reals, self.told), self.deviation, rings)
        kept = self._kept_in_deviations(real_noise) if best is not None and self.simulated.keep_snr else None
        result = _ComparisonResult(best, spectrum, rings, kept_snr=kept)
        chosen = self.chosen(result)
        noise = self._fit_noise(chosen.snr, real_noise)
        contaminants: tuple[tuple[Contaminant, ...], ...] = ()
        if chosen.measured:
            contaminants = self._search_contaminants(flats, noise, chosen.snr)
        for _ in range(ROUNDS if best is not None and best.reliable else 0):
            fit = self._fit_snr(flats, contaminants)
            if best is None or fit.misfit > IMPROVEMENT * best.misfit:
                break
            best = fit
            chosen = self.chosen(replace(result, snr_fit=best))
            noise = self._fit_noise(chosen.snr, real_noise)
            contaminants = self._search_contaminants(flats, noise, chosen.snr)
        if chosen.measured:
            log.info("particles in the real micrographs have a signal-to-noise ratio of about %.2g; %d contaminants",
                     chosen.snr, sum(map(len, contaminants)))
        if given_snr is not None and given_snr != chosen.snr:
            noise = self._fit_noise(given_snr, real_noise)
        return replace(result, snr_fit=best, noise=noise, contaminants=contaminants,
                       relative_powers=self._relative_powers(flats, rings))

    def _relative_powers(self, flats: Sequence[Float[Tensor, "_ _"]], rings: ThonRings | None
                         ) -> tuple[Float[Tensor, "_ _"] | None, ...]:
        powers = dict(zip(self.told, relative_powers(_clipped(_chosen(flats, self.told)), rings), strict=True))
        return tuple(powers.get(index) for index in range(len(flats)))

    def chosen(self, result: _ComparisonResult) -> ChosenRatio:
        """The signal-to-noise ratio that the measurements give, or else the simulation's."""
        simulated = self.simulated.contrast.snr
        if not self.has_particles:
            return ChosenRatio(simulated, False, (
                "the simulated micrographs have no particles to compare the real ones with; the signal-to-noise ratio "
                f"{simulated:g} of the simulation is used",))
        if result.snr_fit is None:
            return ChosenRatio(simulated, False)
        if result.kept_snr is not None:
            return kept_ratio(result.kept_snr, result.spectrum)
        return choose_ratio(result.snr_fit, result.spectrum, simulated)

    def contaminants_of(self, indices: Sequence[int],
                        result: _ComparisonResult) -> tuple[tuple[Contaminant, ...] | None, ...]:
        """Contaminants for generated images, by the real micrographs' indices; None for one that was not searched."""
        laid = [tuple(contaminant for contaminant in found if contaminant.fixed or contaminant.movable)
                for found in result.contaminants]
        searched = dict(zip(self.indices, laid, strict=False))
        return tuple(searched.get(index) for index in indices)

    def relative_powers_of(self, indices: Sequence[int], result: _ComparisonResult
                           ) -> tuple[Float[Tensor, "_ _"] | None, ...]:
        """Relative noise powers of real micrographs by their indices; without indices, of all that were compared."""
        compared = dict(zip(self.indices, result.relative_powers, strict=False))
        return tuple(compared.get(index) for index in indices) if indices else result.relative_powers

    def _fit_noise(self, snr: float, real: RealNoise) -> PhysicalNoise:
        return fit_noise(real, self._simulated_images(snr), seeded_generator(self.seed, "noise"))

    def _kept_in_deviations(self, real: RealNoise) -> float:
        """The simulation's ratio, which is over the variance of the noise, over that of the micrographs.

        Images are scaled by the deviation of the micrographs, to which particles add. So with many particles, the
        noise has a variance below 1 in this unit, and the same particles have a lower ratio.
        """
        return over_all_variance(self.simulated.contrast.snr, ColouredNoise(real.power).variance,
                                 lambda ratio: self._fit_noise(ratio, real).noise.variance)

    def _search_contaminants(self, flats: Sequence[Float[Tensor, "_ _"]], noise: PhysicalNoise,
                             snr: float) -> tuple[tuple[Contaminant, ...], ...]:
        """Contaminants of each real micrograph, by comparison with simulated images that have this noise."""
        generator = seeded_generator(self.seed, "contaminants")
        images = [simulated_image(image, noise, generator) for image in self._simulated_images(snr)]
        statistics_range = measure_range(images, self.simulated.diameter_pixels)
        searched = map_in_order(lambda flat: find_contaminants(flat, statistics_range), flats, available_threads())
        return tuple(track_progress(searched, len(flats), "searching for contaminants on real micrograph"))

    def _fit_snr(self, flats: Sequence[Float[Tensor, "_ _"]],
                 contaminants: Sequence[Sequence[Contaminant]] | None = None) -> SnrFit:
        hidden = None if contaminants is None else [
            opacity_map(of_flat, (flat.shape[0], flat.shape[1])) for flat, of_flat in
            zip(flats, contaminants, strict=True)]
        signals = [1 - image for image in self._clean_images(1)]
        return fit_snr(_clipped(flats), signals, self.simulated.contrast.signal_deviation,
                       self.simulated.diameter_pixels, seeded_generator(self.seed, "contrast"), hidden)

    def _compare_spectra(self, flats: Sequence[Float[Tensor, "_ _"]], rings: ThonRings | None) -> SetSpectrum | None:
        signals = [1 - image for image in self._clean_images(1)]
        return measure_set_spectrum(_clipped(flats), signals, self.simulated.exposures[:len(signals)],
                                    self.simulated.contrast.signal_deviation, self.simulated.diameter_pixels,
                                    None if rings is None else rings.exposures)

    def _simulated_images(self, snr: float) -> list[CleanImage]:
        """Clean images whose particles have this signal-to-noise ratio in the measured noise."""
        images = self._clean_images(self.simulated.signal_factor(snr, self.deviation))
        return [CleanImage(*pair) for pair in zip(images, self.simulated.exposures, strict=False)]

    def _clean_images(self, signal_factor: float) -> list[Float[Tensor, "y x"]]:
        count = min(MAX_SIMULATED, len(self.simulated.micrographs))
        return [self.simulated.clean_image(index, signal_factor) for index in range(count)]


class _LazySequence(Sequence[Item], Generic[Item]):
    """A sequence whose items are computed when they are asked for, so that memory holds one at a time."""

    def __init__(self, count: int, item: Callable[[int], Item]) -> None:
        self._count, self._item = count, item

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Item:  # type: ignore[override]  # no slices
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._item(index)


def _chosen(items: Sequence[Item], indices: Sequence[int]) -> Sequence[Item]:
    """Some of the items, read only when they are asked for."""
    return _LazySequence(len(indices), lambda position: items[indices[position]])


def _clipped(flats: Sequence[Float[Tensor, "_ _"]]) -> Sequence[Float[Tensor, "_ _"]]:
    """The images with their outliers clipped: hot pixels, and contaminants at their full strength."""
    return _LazySequence(len(flats), lambda index: flats[index].clamp(-CLIP, CLIP))
