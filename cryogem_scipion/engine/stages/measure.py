# SPDX-License-Identifier: GPL-3.0-or-later
"""``cryogem measure``: what a simulation needs, from real micrographs and a map."""
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure as Picture
from numpy.typing import NDArray
from torch import Tensor

from cryogem_scipion.engine.compute.threads import one_thread
from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.figures.measurement import FIGURE_SIZE, REPORT_NAME, draw_measurement
from cryogem_scipion.engine.figures.report_files import save_figure, write_report
from cryogem_scipion.engine.io.dataset import Manifest, read_table, replacing, write_manifest
from cryogem_scipion.engine.io.mrc import read_header, read_mrc, write_mrc
from cryogem_scipion.engine.measurement.defocus import check_size_for_rings
from cryogem_scipion.engine.measurement.estimates import Estimate, estimates
from cryogem_scipion.engine.measurement.measure import MeasuredSet, measure_micrographs
from cryogem_scipion.engine.measurement.results import reliable_fits, write_ctfs
from cryogem_scipion.engine.measurement.search_field import search_shape
from cryogem_scipion.engine.noise.real_micrograph import check_real_micrographs, evenly_spaced, real_files
from cryogem_scipion.engine.noise.spectrum import TILE
from cryogem_scipion.engine.runs.folder import open_run_folder, provenance
from cryogem_scipion.engine.settings import MeasureSettings
from cryogem_scipion.engine.simulation.measured_star import read_measured_optics
from cryogem_scipion.engine.simulation.optics import Optics
from cryogem_scipion.engine.simulation.volume import diameter_angstrom, read_volume

__all__ = ["run"]

log = logging.getLogger("cryogem")

SETTINGS, CTFS, CORRECTION = "settings.json", "ctfs.star", "map_correction.mrc"
LEAST_CTFS = 6
"""With fewer reliable CTFs, generated micrographs get a defocus from their range, because so few would repeat often."""


@one_thread()
def run(settings: MeasureSettings) -> Manifest:
    """Write measurement.json, settings.json for ``cryogem simulate``, ctfs.star, the figure and the manifest.

    Raises
    ------
    CryogemError
        Input or settings are unusable; nothing has been written then.
    """
    volume = read_volume(settings.volume, settings.volume_pixel_size)
    working_pixel_size = settings.pixel_size or volume.pixel_size
    files = evenly_spaced(real_files(settings.real), settings.micrographs)
    pixel_size = _pixel_size(files, settings)
    micrograph_sizes = check_real_micrographs(files, working_pixel_size, pixel_size, TILE)
    _check_sizes(files, pixel_size, diameter_angstrom(volume), settings)
    base = Optics(settings.voltage_kv, settings.cs_mm, settings.amplitude_contrast, 0.0, 0.0, 0.0,
                  phase_shift_degrees=settings.phase_shift_degrees)
    rows = {} if settings.ctfs is None else _table_rows(settings.ctfs, files)
    known = None if settings.ctfs is None else _known_ctfs(settings.ctfs, rows, base)
    out = open_run_folder(settings)
    results = measure_micrographs([_reader(path) for path in files], pixel_size, volume, base, working_pixel_size,
                                  settings.seed, known, settings.symmetry)
    measurement = results.measurement
    if not known:
        written = write_ctfs(out / CTFS, [str(path.absolute()) for path in files], results.fits, pixel_size)
        rows = {index: row for row, index in enumerate(written)}
    simulation = {**_simulation(settings, working_pixel_size, micrograph_sizes), **measurement.settings()}
    if len(rows) >= LEAST_CTFS or known:
        simulation["ctfs"] = str((settings.ctfs or out / CTFS).absolute())
        if "motion" in simulation:
            simulation["motion"] = [f"{motion}:{rows[index] + 1}" if index in rows else motion
                                    for motion, index in zip(simulation["motion"], results.searched, strict=True)]
    correction = None if "signal_envelope" in measurement.not_reliable else results.particles.map_correction
    if correction is not None:
        write_mrc(out / CORRECTION, correction.numpy(), volume.pixel_size)
        simulation["map_correction"] = str((out / CORRECTION).absolute())
    write_report(out, REPORT_NAME, _report(files, results, simulation), _arrays(results))
    with replacing(out / SETTINGS) as path:
        path.write_text(json.dumps(simulation, indent=2) + "\n", "utf-8")
    picture = Picture(figsize=FIGURE_SIZE, layout="constrained")
    draw_measurement(picture, out)
    save_figure(picture, out / f"{REPORT_NAME}.png")
    manifest = Manifest(stage="measure", **provenance(), settings=settings.model_dump(mode="json"), seed=settings.seed,
                        pixel_size=working_pixel_size, micrographs=len(files),
                        particle_diameter_angstrom=measurement.diameter, warnings=measurement.warnings,
                        figures={name: float(value) for name, value in measurement.settings().items()
                                 if not isinstance(value, list | bool)})
    write_manifest(out, manifest)
    found = estimates(measurement, results.fits, results.particles)
    for name, value in measurement.settings().items():
        if isinstance(value, bool) or name == "motion":  # motion has a line of its own
            continue
        shown = " ".join(value) if isinstance(value, list) else f"{value:g}{_interval(found.get(name))}"
        log.info("%s %s", name, shown)
    if "motion" in simulation:
        most = [max(motion.u_angstrom, motion.v_angstrom) for motion in measurement.motion]
        log.info("residual motion of the micrographs: %.2g to %.2g Å (root mean square along its direction)", min(most),
                 max(most))
    if correction is not None:
        log.info("the particles differ from the map: %s is a correction of %.0f %% of the map (root mean square)",
                 out / CORRECTION, 100 * float(correction.norm() / volume.density.norm()))
    for warning in measurement.warnings:
        log.warning("warning: %s", warning)
    log.info("measured %d micrographs: %s; simulate with --config %s", len(files), out / f"{REPORT_NAME}.png",
             out / SETTINGS)
    return manifest


def _interval(estimate: Estimate | None) -> str:
    """What the log says about the error of a value, and about its bias."""
    if estimate is None or estimate.interval is None:
        return ""
    low, high = estimate.interval
    return f" ± {estimate.error:.2g} (95 %: {low:.4g} to {high:.4g}; a bias of {estimate.bias:+.2g} is corrected)"


def _pixel_size(files: Sequence[Path], settings: MeasureSettings) -> float:
    """Å per pixel of all real micrographs; reads only headers."""
    if settings.real_pixel_size is not None:
        return settings.real_pixel_size
    sizes = {}
    for path in files:
        recorded = read_header(path, 2)[1]
        if recorded is None:
            raise DataError(f"{path} has no pixel size in its header; set real_pixel_size")
        sizes[path] = recorded
    first = files[0]
    for path, size in sizes.items():
        if abs(size - sizes[first]) > 1e-3 * sizes[first]:
            raise DataError(f"{path} has a pixel size of {size:g} Å and {first} {sizes[first]:g} Å; measure "
                            "micrographs of one pixel size")
    return sizes[first]


def _check_sizes(files: Sequence[Path], pixel_size: float, diameter: float, settings: MeasureSettings) -> None:
    """Refuse micrographs that are too small for the particle, or for Thon rings; reads only headers."""
    for path in files:
        y, x = read_header(path, 2)[0]
        try:
            search_shape((y, x), pixel_size, diameter)
            if settings.ctfs is None:
                check_size_for_rings((y, x), pixel_size)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None


def _table_rows(path: Path, files: Sequence[Path]) -> dict[int, int]:
    """The row of each micrograph in a table of CTFs, found by the name of its file."""
    _, table = read_table(path, "micrographs", ("rlnMicrographName",))
    names = [Path(str(name)).name for name in table["rlnMicrographName"]]
    for file in files:
        count = names.count(file.name)
        if count != 1:
            rows = f"{count} rows" if count else "no row"
            raise DataError(f"{path} has {rows} for {file.name}; give it one, or leave ctfs empty so that all CTFs are "
                            "fitted")
    return {index: names.index(file.name) for index, file in enumerate(files)}


def _known_ctfs(path: Path, rows: Mapping[int, int], base: Optics) -> list[Optics]:
    optics = read_measured_optics(path, base)
    return [optics[row] for row in rows.values()]


def _reader(path: Path) -> Callable[[], Float[Tensor, "_ _"]]:
    return partial(_read, path)


def _read(path: Path) -> Float[Tensor, "_ _"]:
    return torch.tensor(read_mrc(path, 2)[0]).to(torch.float32)  # a copy: the file's array is read-only


def _simulation(settings: MeasureSettings, pixel_size: float, micrograph_sizes: Sequence[tuple[int, int]]
                ) -> dict[str, Any]:
    """The settings of a simulation that are known without a measurement."""
    median = sorted(micrograph_sizes, key=lambda size: size[0] * size[1])[len(micrograph_sizes) // 2]
    values = {"volume": [str(settings.volume.resolve())], "volume_pixel_size": settings.volume_pixel_size,
              "symmetry": settings.symmetry, "pixel_size": pixel_size, "micrograph_size": list(median),
              "voltage_kv": settings.voltage_kv, "cs_mm": settings.cs_mm,
              "amplitude_contrast": settings.amplitude_contrast, "phase_shift_degrees": settings.phase_shift_degrees}
    return {name: value for name, value in values.items() if value is not None}


def _report(files: Sequence[Path], results: MeasuredSet, simulation: dict[str, Any]) -> dict[str, Any]:
    measured = asdict(results.measurement)
    not_reliable, warnings = measured.pop("not_reliable"), measured.pop("warnings")
    used = reliable_fits(results.fits)
    rows = [{"name": str(path), "defocus_u_angstrom": fit.optics.defocus_u_angstrom,
             "defocus_v_angstrom": fit.optics.defocus_v_angstrom,
             "defocus_angle_degrees": fit.optics.defocus_angle_degrees, "defocus_error_angstrom": fit.error_angstrom,
             "defocus_reliable": fit in used, "defocus_known": len(fit.frequency) == 0,
             "astigmatism_error_angstrom": fit.astigmatism_error_angstrom, **_found(results, index)}
            for index, (path, fit) in enumerate(zip(files, results.fits, strict=True))]
    found = estimates(results.measurement, results.fits, results.particles)
    return {"settings": simulation, "not_reliable": not_reliable, "warnings": list(warnings),
            "estimates": {name: asdict(estimate) for name, estimate in found.items()},
            "contrast_sign": _sign(results), "measured": measured, "micrographs": rows}


def _found(results: MeasuredSet, index: int) -> dict[str, float | None]:
    """What the search found in a micrograph; nothing if it was not searched, because its defocus is not known."""
    if index not in results.searched:
        return dict.fromkeys(("searched_fraction", "particles", "particles_error", "contrast"))
    number, particles = results.searched.index(index), results.particles
    found: dict[str, float | None] = {
        "searched_fraction": results.fields[number].searched, "particles": particles.counts[number],
        "particles_error": particles.count_errors[number], "contrast": particles.contrasts[number]}
    if particles.motion is None:
        return found
    motion, error = particles.motion.motions[number], particles.motion.errors[number, 0]
    return {**found, **{f"motion_{name}": value for name, value in vars(motion).items()},
            "motion_error_angstrom2": None if math.isnan(error) else float(error)}


def _motion_factors(results: MeasuredSet) -> NDArray[np.float64]:
    """Amplitudes over their mean, of the least and the most blurred direction of all micrographs; none without motion.

    They are at the frequencies of the envelope (2, band).
    """
    if results.particles.motion is None:
        return np.zeros((0, len(results.measurement.envelope)))
    factors = results.particles.motion.factors(results.particles.frequency)
    extremes: NDArray[np.float64] = np.stack([factors.max((0, 1)), factors.min((0, 1))]) / factors.mean((0, 1))
    return extremes


def _sign(results: MeasuredSet) -> dict[str, Any]:
    """The contrast sign, and by how many standard errors dark agrees better: here, and in generated dark particles."""
    calibration = results.particles.calibration
    return {"value": results.measurement.contrast_sign, "errors": results.measurement.contrast_sign_errors,
            "errors_in_generated": None if calibration is None else calibration.advantage_of_dark}


def _arrays(results: MeasuredSet) -> dict[str, Any]:
    """The arrays that the figure shows."""
    used = reliable_fits(results.fits)
    fitted = [fit for fit in (used or results.fits) if len(fit.frequency)]
    # The clearest rings, and the field in which the search finds the median number of particles.
    clearest = max(fitted, key=lambda fit: fit.score, default=results.fits[0])
    number = int(np.argsort(results.particles.counts, kind="stable")[len(results.fields) // 2])
    field, particles, measurement = results.fields[number], results.particles, results.measurement
    return {"number": np.array(results.searched[number]), "image": field.image.numpy(),
            "image_pixel_size": np.array(field.pixel_size),
            "peaks": particles.peaks[number].centres, "ring_frequency": clearest.frequency,
            "ring_measured": clearest.measured, "ring_fitted": clearest.fitted,
            "ring_number": np.array(results.fits.index(clearest)),
            "score_bins": particles.score_bins, "real_scores": particles.real_scores,
            "generated_scores": particles.generated_scores,
            "motion_factors": _motion_factors(results), "envelope_frequency": np.array(measurement.envelope_frequency),
            "envelope": np.array(measurement.envelope), "envelope_error": np.array(measurement.envelope_error)}
