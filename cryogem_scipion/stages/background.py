# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run needs to know of the real micrographs before any noise is made: scale, ice, strength of the particles."""
import hashlib
import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.dataset import MANIFEST, MICROGRAPHS, Contrast, Manifest, inside, read_manifest, read_table
from cryogem_scipion.errors import DataError
from cryogem_scipion.generation import seeded
from cryogem_scipion.mrc import read_header
from cryogem_scipion.real import check_real
from cryogem_scipion.stages.output import fingerprint
from cryogem_scipion.stages.reals import MeasuredReal, mapped
from cryogem_scipion.translator.analytic import GreyScale, PhysicalNoise
from cryogem_scipion.translator.contrast import fit_snr
from cryogem_scipion.translator.ice import IceMap
from cryogem_scipion.translator.measure import RealField, measure_noise
from cryogem_scipion.translator.spectrum import TILE

__all__ = ["MOST", "Background", "SimulatedSet", "check_sizes", "input_prints", "measure_background", "physical_noise",
           "simulated_set"]

log = logging.getLogger("cryogem")

MOST = 24
"""Real micrographs that are looked at for noise and contrast; evenly chosen, they are plenty."""
ENOUGH = 12
"""Simulated micrographs that they are compared with."""


@dataclass(frozen=True)
class SimulatedSet:
    """A simulation, or a part of its micrographs."""

    folder: Path
    manifest: Manifest
    contrast: Contrast
    micrographs: tuple[Path, ...]
    masks: tuple[Path, ...]

    def clean(self, number: int, contrast: float) -> Float[Tensor, "y x"]:
        """1 - s of one micrograph, s multiplied by ``contrast``."""
        return 1 - contrast * (1 - torch.tensor(mapped(self.micrographs[number])))


@dataclass(frozen=True)
class Background:
    """The real set as a whole, and how the simulation has to be scaled to match it."""

    deviation: float
    """σ_n: of the background's noise over its mean."""
    scale: GreyScale
    snr: float
    contrast: float
    """Factor on the simulation's s."""
    fields: tuple[RealField, ...]
    """The micrographs that were looked at."""
    figures: dict[str, float]
    warnings: tuple[str, ...]


def simulated_set(folder: Path, part: Path | None = None) -> SimulatedSet:
    """Open a simulation.

    Parameters
    ----------
    folder
        With the manifest of a simulation.
    part
        A table like its micrographs.star with some of the rows.

    Raises
    ------
    DataError
        The folder holds no simulation, or the table names what is not in it.
    """
    manifest = read_manifest(folder)
    if manifest.stage != "simulate" or manifest.contrast is None:
        raise DataError(f"{folder} was made by 'cryogem {manifest.stage}'; give a folder of 'cryogem simulate'")
    _, rows = read_table(part or folder / MICROGRAPHS, "micrographs", ("rlnMicrographName", "cryogemMask"))
    if rows.empty:
        raise DataError(f"{part or folder / MICROGRAPHS} has no rows; choose at least one simulated micrograph")
    files = [[inside(folder, name) for name in rows[column]] for column in ("rlnMicrographName", "cryogemMask")]
    missing = [path for path in [*files[0], *files[1]] if not path.is_file()]
    if missing:
        raise DataError(f"{missing[0]} is missing ({len(missing)} files in all); simulate again")
    for micrograph, mask in zip(*files, strict=True):
        shapes = [read_header(path, 2)[0] for path in (micrograph, mask)]
        if shapes[0] != shapes[1]:
            sizes = " and ".join(" x ".join(map(str, shape[::-1])) for shape in shapes)
            raise DataError(f"{micrograph} and its mask {mask} have {sizes} pixels; simulate again")
    return SimulatedSet(folder, manifest, manifest.contrast, tuple(files[0]), tuple(files[1]))


def input_prints(simulated: SimulatedSet, reals: Sequence[Path], model: Path | None = None) -> dict[str, str]:
    """Fingerprints of what a run is made from, so that it never goes on with something else under the same name.

    Of real micrographs, which may be terabytes, names and sizes count.
    """
    prints = {"simulation": fingerprint(simulated.folder / MANIFEST)}
    if reals:
        listed = repr([(str(path), path.stat().st_size) for path in reals])
        prints["set of real micrographs"] = hashlib.sha256(listed.encode("utf-8", "surrogateescape")).hexdigest()
    return prints if model is None else {**prints, "model": fingerprint(model)}


def check_sizes(simulated: SimulatedSet, files: Sequence[Path], real_pixel_size: float | None,
                coloured: bool) -> list[tuple[int, int]]:
    """Return the sizes (y, x) that real micrographs will have, from their headers alone.

    Raises
    ------
    DataError
        One of them cannot be used, or is too small to measure a noise spectrum (``coloured``) in it.
    """
    if coloured:
        path = min(simulated.micrographs, key=lambda path: min(read_header(path, 2)[0]))
        y, x = read_header(path, 2)[0]
        if min(y, x) < TILE:
            raise DataError(f"{path} has {x} x {y} pixels and a noise spectrum needs {TILE} a side; simulate larger "
                            "micrographs, or take gaussian noise")
    return check_real(files, simulated.manifest.pixel_size, real_pixel_size, TILE if coloured else 1)


def measure_background(reals: Sequence[MeasuredReal], out: Path, simulated: SimulatedSet, snr: float | None,
                       seed: int) -> Background:
    """Measure the real set against a simulation.

    Parameters
    ----------
    reals
        From ``measure_real`` in the folder ``out``.
    snr
        Signal-to-noise ratio to use; None measures it, and takes the simulation's where that fails.
    seed
        Of the run.
    """
    contrast = simulated.contrast
    known = [real.background_deviation for real in reals if real.background_deviation is not None]
    warnings = []
    if len(known) < len(reals):
        warnings.append(f"{len(reals) - len(known)} of {len(reals)} real micrographs have grey values that are no "
                        "transmission (mean near or below zero); their ice is not measured")
    deviation = statistics.median(known) if known else contrast.background_deviation
    chosen = [reals[i * len(reals) // min(MOST, len(reals))] for i in range(min(MOST, len(reals)))]
    fields = tuple(_field(real, out, deviation) for real in chosen)
    figures = {"background_deviation": deviation}
    if snr is None:
        snr = contrast.snr
        signals = _signals(simulated)
        if not any(bool(signal.any()) for signal in signals):
            warnings.append(f"the simulated micrographs have no particles to compare the real ones with; the "
                            f"signal-to-noise ratio {snr:g} of the simulation is used")
        elif min(min(real.shape) for real in chosen) >= TILE and min(signals[0].shape) >= TILE:
            fitted = fit_snr([_flat(field) for field in fields], signals, contrast.signal_deviation,
                             _particle_pixels(simulated), seeded(seed, "contrast"))
            figures |= {"measured_snr": fitted.snr, "snr_misfit": fitted.misfit}
            if fitted.reliable:
                snr = fitted.snr
                log.info("particles in the real micrographs have a signal-to-noise ratio of about %.2g", snr)
            else:
                warnings.append(f"the signal-to-noise ratio could not be measured (misfit {fitted.misfit:.2f}); "
                                f"{snr:g} of the simulation is used. Check particles_mean and the map, or set snr")
    median = statistics.median(real.median for real in reals)
    spread = statistics.median(_spread(real, deviation) for real in reals)
    factor = contrast.brought_to(snr, deviation).scale / contrast.scale
    return Background(deviation, GreyScale(median, spread), snr, factor, fields, figures, tuple(warnings))


def physical_noise(coloured: bool, reals: Sequence[MeasuredReal], background: Background, simulated: SimulatedSet,
                   seed: int) -> PhysicalNoise:
    """Noise of the real set's strength under its ice maps: white, or with the spectrum measured from it."""
    ice = tuple(IceMap(real.ice, real.shape) for real in reals if real.ice is not None)
    if not coloured:
        return PhysicalNoise(background.deviation, ice)
    log.info("measuring the noise of %d real micrographs", len(background.fields))
    clean = [simulated.clean(number, background.contrast) for number in range(min(ENOUGH, len(simulated.micrographs)))]
    measured = measure_noise(background.fields, clean, background.deviation, seeded(seed, "noise"))
    return replace(measured, ice=ice)


def _field(real: MeasuredReal, out: Path, deviation: float) -> RealField:
    ice = None if real.ice is None else IceMap(real.ice, real.shape)
    return RealField(torch.tensor(mapped(out / real.name)), real.median, _spread(real, deviation), ice)


def _spread(real: MeasuredReal, deviation: float) -> float:
    """Grey values of one deviation of the noise."""
    return real.deviation if real.background_deviation is None else real.median * deviation


def _flat(field: RealField) -> Float[Tensor, "y x"]:
    """Deviations of the noise, without ice, outliers cut."""
    image = field.image
    if field.ice is not None:
        image = image / field.ice.window((0.0, 0.0), (image.shape[0], image.shape[1])).to(image)
    return ((image - image.median()) / field.spread).clamp(-6, 6)


def _signals(simulated: SimulatedSet) -> list[Float[Tensor, "y x"]]:
    return [1 - simulated.clean(number, 1) for number in range(min(ENOUGH, len(simulated.micrographs)))]


def _particle_pixels(simulated: SimulatedSet) -> float:
    manifest = simulated.manifest
    assert manifest.particle_diameter_angstrom is not None
    return manifest.particle_diameter_angstrom / manifest.pixel_size
