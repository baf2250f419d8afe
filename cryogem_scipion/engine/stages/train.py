# SPDX-License-Identifier: GPL-3.0-or-later
"""``cryogem train``: the noise translator, from real micrographs and a simulation, without labels."""
import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from cryogem_scipion import __version__
from cryogem_scipion.engine.compute.devices import chosen_device
from cryogem_scipion.engine.compute.threads import one_thread
from cryogem_scipion.engine.errors import SettingsError
from cryogem_scipion.engine.io.dataset import (
    FIGURES,
    MICROGRAPHS,
    Manifest,
    quoted_path,
    read_manifest,
    read_table,
    replacing,
    write_manifest,
    write_table,
)
from cryogem_scipion.engine.io.mrc import read_header
from cryogem_scipion.engine.noise.background import Background, measure_background, physical_noise
from cryogem_scipion.engine.noise.contrast_check import check_contrast_sign
from cryogem_scipion.engine.noise.models import PhysicalNoise
from cryogem_scipion.engine.noise.real_micrograph import real_files
from cryogem_scipion.engine.noise.real_set import MeasuredMicrograph, StoredImage, measure_real_set
from cryogem_scipion.engine.noise.simulated_set import SimulatedSet, check_sizes, input_fingerprints, open_simulated_set
from cryogem_scipion.engine.runs.folder import check_disk_space, open_run_folder, provenance
from cryogem_scipion.engine.runs.progress import track_progress
from cryogem_scipion.engine.runs.torchrun import is_distributed, run_distributed
from cryogem_scipion.engine.settings import TrainSettings
from cryogem_scipion.engine.translator.crops import RealMicrographs, SimulatedMicrographs
from cryogem_scipion.engine.translator.distributed import join_process_group
from cryogem_scipion.engine.translator.figure_data import training_figure_data
from cryogem_scipion.engine.translator.model import load_model
from cryogem_scipion.engine.translator.training import LOSSES, MODEL, REALISM, ModelProperties, TrainingRecord, train
from cryogem_scipion.engine.translator.training_state import checkpoint_disk_bytes
from cryogem_scipion.engine.translator.validation import HeldOutSet

__all__ = ["run"]

log = logging.getLogger("cryogem")

PREVIEWS_BYTES = 64 * 1024**2
"""Disk space for pictures, losses and figures."""


def run(settings: TrainSettings) -> Manifest:
    """Measure the real micrographs, train, and write the model, previews, losses, tables and manifest.

    Raises
    ------
    CryogemError
        Input or settings are unusable; nothing has been written then.
    """
    device = chosen_device(settings.device)
    simulated = open_simulated_set(settings.simulation, settings.simulation_micrographs)
    files = real_files(settings.real)
    _check(settings, simulated, files)
    warnings = check_contrast_sign(settings, simulated, files)
    if settings.processes > 1 and not is_distributed():
        run_distributed(settings)
    processes, device = join_process_group(device)
    out = settings.out
    if processes.is_rank_zero:
        open_run_folder(settings, may_change={"preview_every", "checkpoint_every", "steps"},
              inputs=input_fingerprints(simulated, files))
    else:
        processes.barrier()  # the first process measures the real micrographs, the others read its results
    with one_thread():
        reals = measure_real_set(out, "micrographs", files, simulated.manifest.pixel_size, settings.real_pixel_size,
                             settings.real_contrast == "bright")
    if processes.is_rank_zero:
        processes.barrier()
    held_out = _held_out(len(reals))
    training_set = [real for number, real in enumerate(reals) if number not in held_out]
    coloured = settings.noise == "spectrum"
    with one_thread():
        background = measure_background(reals, out, simulated, settings.snr, settings.seed, coloured)
    warnings += background.warnings
    for warning in warnings:
        log.warning("warning: %s", warning)
    physical = physical_noise(coloured, background, settings.contaminants, settings.ice)
    properties = ModelProperties(physical, background.scale, simulated.manifest.pixel_size, background.snr,
                                 background.contrast, {"version": __version__, "crop": settings.crop})
    real_micrographs = _real_micrographs(training_set, out, background)
    simulated_micrographs = _simulated_micrographs(simulated, background)
    held_out_micrographs = (_real_micrographs([reals[number] for number in sorted(held_out)], out, background)
                       if held_out else None)
    held_out_set = (HeldOutSet(held_out_micrographs, _of_some(physical, reals, held_out))
                    if held_out_micrographs else None)
    records = train(real_micrographs, simulated_micrographs, properties, settings, out, device, held_out_set, processes)
    if not processes.is_rank_zero:
        deque(records, maxlen=0)
        processes.barrier()
        return read_manifest(out)
    _watch(records, settings.steps, out)
    _write_reals(out, reals, held_out, simulated)
    with replacing(out / FIGURES) as path:
        np.savez_compressed(path, **training_figure_data(load_model(out / MODEL, device),
                                                         held_out_micrographs or real_micrographs,
                                                         simulated_micrographs, settings.seed))
    figures = {**background.figures, **_best(out / REALISM), **_last(out / LOSSES)}
    manifest = Manifest(
        stage="train", **provenance(), settings=settings.model_dump(mode="json"),
        seed=settings.seed, pixel_size=simulated.manifest.pixel_size, micrographs=len(reals), model=MODEL,
        particle_diameter_angstrom=simulated.manifest.particle_diameter_angstrom,
        contrast=simulated.contrast.rescaled(background.snr, background.deviation),
        warnings=warnings, figures=figures)
    write_manifest(out, manifest)
    processes.barrier()
    log.info("trained on %d real micrographs: %s", len(reals), out / MODEL)
    return manifest


def _check(settings: TrainSettings, simulated: SimulatedSet, files: list[Path]) -> None:
    """Refuse inputs that would fail later; reads only headers."""
    working = simulated.manifest.pixel_size
    if settings.pixel_size is not None and abs(settings.pixel_size / working - 1) > 1e-3:
        raise SettingsError(f"pixel_size {settings.pixel_size:g} is not that of the simulation ({working:g} Å); "
                            "simulate at this pixel size, or leave it empty")
    shapes = check_sizes(simulated, files, settings.real_pixel_size, settings.noise == "spectrum")
    smallest = min(min(read_header(path, 2)[0]) for path in simulated.micrographs)
    if settings.crop > smallest:
        raise SettingsError(f"crop {settings.crop} is larger than the simulated micrographs ({smallest} pixels); "
                            f"give {smallest // 32 * 32} or less")
    small = min(range(len(files)), key=lambda number: min(shapes[number]))
    if settings.crop > min(shapes[small]):
        raise SettingsError(f"crop {settings.crop} is larger than {files[small]} at {working:g} Å per pixel "
                            f"({min(shapes[small])} pixels); lower crop, or leave this micrograph out")
    check_disk_space(settings.out, sum(4 * y * x for y, x in shapes) + checkpoint_disk_bytes(settings) + PREVIEWS_BYTES)


def _held_out(count: int) -> set[int]:
    """Indices of the held-out micrographs: every sixth, and at least one of three.

    The networks are never trained on them. The validation metric compares the networks' images with them, with their
    own ice and contaminants. The noise that training starts from is measured on all micrographs.
    """
    held = max(count // 6, 1) if count >= 3 else 0
    return {(2 * number + 1) * count // (2 * held) for number in range(held)}


def _of_some(physical: PhysicalNoise, reals: list[MeasuredMicrograph], chosen: set[int]) -> PhysicalNoise:
    """Noise with the ice and contaminants of some of the real micrographs only."""
    with_ice = [number for number, real in enumerate(reals) if real.ice is not None]
    places = [place for place, number in enumerate(with_ice) if number in chosen]
    return replace(physical, ice=tuple(physical.ice[place] for place in places),
                   contaminants=tuple(physical.contaminants[place] for place in places if physical.contaminants))


def _best(path: Path) -> dict[str, float]:
    """Validation metric of the best checkpoint, and its step."""
    judged = pd.read_csv(path)
    if judged.empty:
        return {}
    best = judged.loc[judged["realism"].idxmin()]
    return {"realism": float(best["realism"]), "best_step": float(best["step"])}


def _real_micrographs(reals: list[MeasuredMicrograph], out: Path, background: Background) -> RealMicrographs:
    spreads = [real.deviation if real.background_deviation is None else real.median * background.deviation
               for real in reals]
    return RealMicrographs([StoredImage(out / real.name) for real in reals], [real.median for real in reals], spreads)


def _simulated_micrographs(simulated: SimulatedSet, background: Background) -> SimulatedMicrographs:
    return SimulatedMicrographs([StoredImage(path) for path in simulated.micrographs],
                           [StoredImage(path) for path in simulated.masks], background.contrast,
                           simulated.exposures)


def _watch(records: Iterator[TrainingRecord], steps: int, out: Path) -> None:
    """Run the training to its end and report its progress every few seconds."""
    first = next(records, None)
    if first is not None:
        deque(track_progress(chain([first], records), steps, "training step", done=first.step - 1, note=_losses,
                             folder=out), maxlen=0)


def _last(path: Path) -> dict[str, float]:
    """Losses of the last step, read from the table, so that a continued run has them as well."""
    return {str(name): float(value) for name, value in pd.read_csv(path).iloc[-1].items()
            if name not in ("step", "steps")}


def _losses(record: TrainingRecord) -> str:
    return (f"adversarial {record.adversarial:.3f}, contrastive {record.contrastive:.3f}, discriminator "
            f"{record.discriminator:.3f}, contrast {record.contrast_drift:+.3f}, "
            f"{record.steps_per_second:.2f} steps/s")


def _write_reals(out: Path, reals: list[MeasuredMicrograph], held_out: set[int], simulated: SimulatedSet) -> None:
    """Write the table of real micrographs at the working pixel size, with their origin and which are held out."""
    optics, _ = read_table(simulated.folder / MICROGRAPHS, "micrographs")
    optics = optics.assign(rlnMicrographPixelSize=reals[0].pixel_size, rlnMicrographOriginalPixelSize=None)
    write_table(out / MICROGRAPHS, "micrographs", optics.drop(columns="rlnMicrographOriginalPixelSize"), pd.DataFrame({
        "rlnMicrographName": [real.name for real in reals], "rlnOpticsGroup": 1,
        "cryogemPixelSizeX": [real.pixel_sizes[1] for real in reals],
        "cryogemPixelSizeY": [real.pixel_sizes[0] for real in reals],
        "cryogemHeldOut": [int(number in held_out) for number in range(len(reals))],
        "cryogemOriginal": [quoted_path(real.original) for real in reals]}))
