# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run needs to know of the real micrographs before any noise is made: scale, noise, strength of the particles,
contaminants."""
import logging
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.compute.parallel import in_order
from cryogem_scipion.engine.compute.threads import available_threads, parallel_map
from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.noise.contaminant_search import find_contaminants, ordinary
from cryogem_scipion.engine.noise.contaminants import Contaminant, weights
from cryogem_scipion.engine.noise.exposure import Exposure
from cryogem_scipion.engine.noise.ice import IceMap
from cryogem_scipion.engine.noise.measured_noise import CleanField, RealField, made, measure_noise
from cryogem_scipion.engine.noise.models import GreyScale, PhysicalNoise
from cryogem_scipion.engine.noise.real_set import MeasuredReal, mapped
from cryogem_scipion.engine.noise.signal_to_noise import FittedContrast, fit_snr
from cryogem_scipion.engine.noise.simulated_set import SimulatedSet
from cryogem_scipion.engine.noise.spectrum import TILE
from cryogem_scipion.engine.noise.thon_rings import FittedRings, fit_rings
from cryogem_scipion.engine.runs.progress import tracked
from cryogem_scipion.engine.simulation.microscope import seeded

__all__ = ["MOST", "Background", "measure_background", "physical_noise"]

log = logging.getLogger("cryogem")

Item = TypeVar("Item")

MOST = 24
"""Real micrographs that are looked at for noise and contrast; evenly chosen, they are plenty."""
ENOUGH = 12
"""Simulated micrographs that they are compared with."""
OUTLIER = 6
"""Deviations at which pixels are cut before the particles' strength is measured."""
BETTER = 0.8
"""What the misfit has to fall to, in parts of the last one, for another turn to count."""
FAR = 2000.0
"""Å of defocus by which real micrographs may lie outside the simulation's range before it is mentioned."""
TURNS = 4
"""How often strength and contaminants are measured again, at most."""


@dataclass(frozen=True)
class Background:
    """The real set as a whole, and how the simulation has to be scaled to match it."""

    deviation: float
    """σ_n: of the background's noise over its mean."""
    scale: GreyScale
    snr: float
    contrast: float
    """Factor on the simulation's s."""
    figures: dict[str, float]
    warnings: tuple[str, ...]
    noise: PhysicalNoise | None
    """As measured; None where the micrographs are too small for it."""
    ice: tuple[IceMap, ...]
    contaminants: tuple[tuple[Contaminant, ...] | None, ...]
    """Of the micrograph of each ice map; None where nobody looked."""


def measure_background(reals: Sequence[MeasuredReal], out: Path, simulated: SimulatedSet, snr: float | None,
                       seed: int, coloured: bool = True) -> Background:
    """Measure the real set against a simulation.

    Parameters
    ----------
    reals
        From ``measure_real`` in the folder ``out``.
    snr
        Signal-to-noise ratio to use; None measures it, and takes the simulation's where that fails.
    seed
        Of the run.
    coloured
        Whether spectrum and contaminants are needed as well.
    """
    contrast = simulated.contrast
    known = [real.background_deviation for real in reals if real.background_deviation is not None]
    warnings = []
    if len(known) < len(reals):
        warnings.append(f"{len(reals) - len(known)} of {len(reals)} real micrographs have grey values that are no "
                        "transmission (mean near or below zero); their ice is not measured")
    deviation = statistics.median(known) if known else contrast.background_deviation
    look = _Look(reals, out, simulated, deviation, seed)
    figures = {"background_deviation": deviation}
    seen = look.measure() if coloured or snr is None else _Seen()
    figures |= {"contaminants_found": float(sum(map(len, seen.contaminants)))}
    if look.rings is not None:
        found = [exposure.optics.defocus_u_angstrom for exposure in look.rings.exposures]
        figures |= {"real_defocus_min": min(found), "real_defocus_max": max(found)}
        warnings += _far_defocus(found, simulated.exposures)
    if seen.fitted is not None:
        figures |= {"measured_snr": seen.fitted.snr, "snr_misfit": seen.fitted.misfit}
    if snr is None:
        snr = look.ratio(seen.fitted)
        warnings += _doubts(look, seen.fitted, snr)
    median = statistics.median(real.median for real in reals)
    spread = statistics.median(_spread(real, deviation) for real in reals)
    pieces = {real.name: found for real, found in zip(look.reals, seen.contaminants, strict=False)}
    return Background(deviation, GreyScale(median, spread), snr, look.factor(snr), figures, tuple(warnings), seen.noise,
                      tuple(IceMap(real.ice, real.shape) for real in reals if real.ice is not None),
                      tuple(pieces.get(real.name) for real in reals if real.ice is not None))


@dataclass(frozen=True)
class _Seen:
    """What a look at real micrographs finds; nothing where they are too small."""

    fitted: FittedContrast | None = None
    noise: PhysicalNoise | None = None
    contaminants: tuple[tuple[Contaminant, ...], ...] = ()
    """Of each micrograph."""


def _doubts(look: "_Look", fitted: FittedContrast | None, snr: float) -> list[str]:
    """What speaks against the ratio that is used."""
    if not look.has_particles:
        return ["the simulated micrographs have no particles to compare the real ones with; the signal-to-noise ratio "
                f"{snr:g} of the simulation is used"]
    if fitted is not None and not fitted.reliable:
        return [f"the signal-to-noise ratio could not be measured (misfit {fitted.misfit:.2f}); {snr:g} of the "
                "simulation is used. Check particles_mean and the map, or set snr"]
    return []


def _far_defocus(found: Sequence[float], exposures: Sequence[Exposure]) -> list[str]:
    """What speaks against the simulation's defocus: that most real micrographs lie outside its range."""
    states = [exposure.optics for exposure in exposures]
    wanted = [(state.defocus_u_angstrom + state.defocus_v_angstrom) / 2 for state in states]
    inside = [min(wanted) - FAR <= defocus <= max(wanted) + FAR for defocus in found]
    if 2 * sum(inside) >= len(found):
        return []
    low, high, first, last = (value / 1e4 for value in (min(found), max(found), min(wanted), max(wanted)))
    return [f"Thon rings say that the real micrographs have {low:.2f} to {high:.2f} µm of defocus and the simulation "
            f"has {first:.2f} to {last:.2f}; simulate at theirs, or check the voltage"]


class _Look:
    """Some of the real micrographs beside some of the simulated ones."""

    def __init__(self, reals: Sequence[MeasuredReal], out: Path, simulated: SimulatedSet, deviation: float, seed: int):
        count = min(MOST, len(reals))
        self.reals = [reals[i * len(reals) // count] for i in range(count)]
        self.fields = _Made(count, lambda number: _field(self.reals[number], out, deviation))
        self.simulated, self.deviation, self.seed = simulated, deviation, seed
        self.has_particles = any(bool((image != 1).any()) for image in self._clean(1))
        self.rings: FittedRings | None = None
        self.large_enough = min(min(real.shape) for real in self.reals) >= TILE <= min(simulated.clean(0, 1).shape)

    def measure(self) -> "_Seen":
        """Strength of the particles, noise, and contaminants on each micrograph.

        Contaminants are what exceeds made images, and made images need the strength of the particles, which is
        measured where no contaminants are: the two are found in turns, as long as real and made images become more
        alike. Where the strength cannot be measured, nothing tells a contaminant from a particle.
        """
        if not self.large_enough:
            return _Seen()
        flats = parallel_map(_flat, self.fields)
        self.rings = fit_rings(_cut(flats), self.simulated.exposures[0])
        best = self._fitted(flats) if self.has_particles else None
        noise = self._noise(self.ratio(best))
        if best is None or not best.reliable:
            return _Seen(best, noise)
        found = self._found(flats, noise, best.snr)
        for _ in range(TURNS):
            fitted = self._fitted(flats, found)
            if fitted.misfit > BETTER * best.misfit:
                break
            best, noise = fitted, self._noise(self.ratio(fitted))
            found = self._found(flats, noise, best.snr)
        log.info("particles in the real micrographs have a signal-to-noise ratio of about %.2g; %d contaminants",
                 best.snr, sum(map(len, found)))
        return _Seen(best, noise, found)

    def ratio(self, fitted: FittedContrast | None) -> float:
        """The signal-to-noise ratio as measured, else that of the simulation."""
        return fitted.snr if fitted is not None and fitted.reliable else self.simulated.contrast.snr

    def factor(self, snr: float) -> float:
        """What brings the simulation's s to a ratio."""
        contrast = self.simulated.contrast
        return contrast.brought_to(snr, self.deviation).scale / contrast.scale

    def _noise(self, snr: float) -> PhysicalNoise:
        return measure_noise(self.fields, self._exposed(snr), self.deviation, seeded(self.seed, "noise"), self.rings)

    def _found(self, flats: Sequence[Float[Tensor, "_ _"]], noise: PhysicalNoise,
               snr: float) -> tuple[tuple[Contaminant, ...], ...]:
        """What exceeds images made with this noise and particles of this strength."""
        random = seeded(self.seed, "contaminants")
        usual = ordinary([made(field, noise, random) for field in self._exposed(snr)], self.simulated.particle_pixels)
        found = in_order(lambda flat: find_contaminants(flat, usual), flats, available_threads())
        return tuple(tracked(found, len(flats), "searching for contaminants on real micrograph"))

    def _fitted(self, flats: Sequence[Float[Tensor, "_ _"]],
                found: Sequence[Sequence[Contaminant]] | None = None) -> FittedContrast:
        hidden = None if found is None else [
            weights(pieces, (flat.shape[0], flat.shape[1])) for flat, pieces in zip(flats, found, strict=True)]
        signals = [1 - image for image in self._clean(1)]
        return fit_snr(_cut(flats), signals, self.simulated.contrast.signal_deviation, self.simulated.particle_pixels,
                       seeded(self.seed, "contrast"), hidden)

    def _exposed(self, snr: float) -> list[CleanField]:
        """Simulated images with particles of a strength."""
        images = self._clean(self.factor(snr))
        return [CleanField(*pair) for pair in zip(images, self.simulated.exposures, strict=False)]

    def _clean(self, factor: float) -> list[Float[Tensor, "y x"]]:
        return [self.simulated.clean(number, factor) for number in range(min(ENOUGH, len(self.simulated.micrographs)))]


class _Made(Sequence[Item], Generic[Item]):
    """Items that are made whenever they are asked for, so that one at a time is in memory."""

    def __init__(self, count: int, make: Callable[[int], Item]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Item:  # type: ignore[override]  # no slices
        if not 0 <= number < self._count:
            raise IndexError(number)
        return self._make(number)


def _cut(flats: Sequence[Float[Tensor, "_ _"]]) -> Sequence[Float[Tensor, "_ _"]]:
    """Without hot pixels and contaminants at their full strength."""
    return _Made(len(flats), lambda number: flats[number].clamp(-OUTLIER, OUTLIER))


def physical_noise(coloured: bool, background: Background, contaminants: bool = True,
                   ice: bool = True) -> PhysicalNoise:
    """Noise of the real set's strength under its ice maps: white, or with what was measured of the set.

    Parameters
    ----------
    coloured
        Whether it has the measured spectrum and distribution.
    contaminants
        Whether coloured noise also gets the contaminants that were found.
    ice
        Whether the ice is as uneven as it was found, or the same everywhere.

    Raises
    ------
    DataError
        Coloured noise was asked for and the micrographs are too small to measure it.
    """
    maps = background.ice if ice else tuple(IceMap(torch.ones_like(one.grid), one.field) for one in background.ice)
    if not coloured:
        return PhysicalNoise(background.deviation, maps)
    if background.noise is None:
        raise DataError(f"a noise spectrum needs micrographs of {TILE} pixels a side, real and simulated; take larger "
                        "ones, or gaussian noise")
    return replace(background.noise, ice=maps, contaminants=background.contaminants if contaminants else ())


def _field(real: MeasuredReal, out: Path, deviation: float) -> RealField:
    ice = None if real.ice is None else IceMap(real.ice, real.shape)
    return RealField(torch.tensor(mapped(out / real.name)), real.median, _spread(real, deviation), ice)


def _spread(real: MeasuredReal, deviation: float) -> float:
    """Grey values of one deviation of the noise."""
    return real.deviation if real.background_deviation is None else real.median * deviation


def _flat(field: RealField) -> Float[Tensor, "y x"]:
    """Deviations of the noise, without ice."""
    image = field.image
    if field.ice is not None:
        image = image / field.ice.window((0.0, 0.0), (image.shape[0], image.shape[1])).to(image)
    return (image - image.median()) / field.spread
