# SPDX-License-Identifier: GPL-3.0-or-later
"""``cryogem train``: trains the noise translator on real micrographs and a simulation, without labels."""
import logging
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cryogem_scipion import __version__
from cryogem_scipion.engine.compute.devices import chosen_device
from cryogem_scipion.engine.compute.threads import one_thread
from cryogem_scipion.engine.errors import SettingsError
from cryogem_scipion.engine.io.dataset import (
    FIGURES,
    MICROGRAPHS,
    Manifest,
    read_manifest,
    read_table,
    replacing,
    write_manifest,
)
from cryogem_scipion.engine.io.mrc import read_header
from cryogem_scipion.engine.noise.contrast_check import check_contrast_sign
from cryogem_scipion.engine.noise.noise_measurement import measure_noise
from cryogem_scipion.engine.noise.real_micrograph import real_files
from cryogem_scipion.engine.noise.real_set import RealSet, StoredImage, measure_real_set
from cryogem_scipion.engine.noise.simulated_set import SimulatedSet, check_sizes, input_fingerprints, open_simulated_set
from cryogem_scipion.engine.runs.folder import check_disk_space, open_run_folder, provenance
from cryogem_scipion.engine.runs.progress import run_steps
from cryogem_scipion.engine.runs.torchrun import is_distributed, run_distributed
from cryogem_scipion.engine.settings import TrainSettings
from cryogem_scipion.engine.translator.checkpoint import checkpoint_disk_bytes
from cryogem_scipion.engine.translator.crops import RealImages, SimulatedImages
from cryogem_scipion.engine.translator.distributed import ProcessGroup, join_process_group
from cryogem_scipion.engine.translator.figure_data import training_figure_data
from cryogem_scipion.engine.translator.model import load_model
from cryogem_scipion.engine.translator.training import MODEL, ModelProperties, TrainingRecord, train
from cryogem_scipion.engine.translator.training_results import training_results
from cryogem_scipion.engine.translator.validation import HeldOutSet

__all__ = ["run"]

log = logging.getLogger("cryogem")

PREVIEWS_BYTES = 64 * 1024**2
"""Disk space for previews, losses and figures."""


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
        run_distributed("train", settings)
    processes, device = join_process_group(device)
    # Ice and noise of the real micrographs.
    reals = _real_set(settings, simulated, files, processes)
    with one_thread():
        noise = measure_noise(reals, simulated, snr=settings.snr, seed=settings.seed,
                              spectrum=settings.noise == "spectrum", contaminants=settings.contaminants,
                              ice=settings.ice)
    warnings += noise.warnings
    for warning in warnings:
        log.warning("warning: %s", warning)
    # Training, with the signal of the simulated micrographs scaled to the signal-to-noise ratio of the real ones.
    model, physical, out = noise.model, noise.model.physical, settings.out
    signal_factor = simulated.signal_factor(model.snr, physical.background_deviation)
    simulated_images = SimulatedImages(
        [StoredImage(path) for path in simulated.micrographs], [StoredImage(path) for path in simulated.masks],
        signal_factor, simulated.exposures)
    training_images = _real_images(reals, reals.training)
    held_out_images = _real_images(reals, reals.held_out) if reals.held_out else None
    held_out_noise = physical.subset(reals.ice_map_indices(reals.held_out))
    properties = ModelProperties(physical, model.scale, simulated.manifest.pixel_size, model.snr, signal_factor,
                                 {"version": __version__, "crop": settings.crop})
    records = train(training_images, simulated_images, properties, settings, out, device,
                    HeldOutSet(held_out_images, held_out_noise) if held_out_images else None, processes)
    if not processes.is_rank_zero:
        deque(records, maxlen=0)
        processes.barrier()
        return read_manifest(out)
    run_steps(records, settings.steps, _losses, out)
    # Tables, figures and manifest.
    reals.write_table(read_table(simulated.folder / MICROGRAPHS, "micrographs")[0])
    translator = load_model(out / MODEL, device)
    with replacing(out / FIGURES) as path:
        np.savez_compressed(path, **training_figure_data(
            translator, held_out_images or training_images, simulated_images, settings.seed))
    manifest = Manifest(
        stage="train", **provenance(), settings={**settings.model_dump(mode="json"),
                                                 "precision": translator.details["precision"]}, seed=settings.seed,
        pixel_size=simulated.manifest.pixel_size, micrographs=len(reals), model=MODEL,
        particle_diameter_angstrom=simulated.manifest.particle_diameter_angstrom,
        contrast=simulated.contrast.rescaled(model.snr, physical.background_deviation),
        warnings=warnings, figures={**noise.figures, **training_results(out)})
    write_manifest(out, manifest)
    processes.barrier()
    log.info("trained on %d real micrographs: %s", len(reals), out / MODEL)
    return manifest


def _check(settings: TrainSettings, simulated: SimulatedSet, files: list[Path]) -> None:
    """Refuse inputs with which the training would fail later; reads only headers."""
    working_pixel_size = simulated.manifest.pixel_size
    if settings.pixel_size is not None and abs(settings.pixel_size / working_pixel_size - 1) > 1e-3:
        raise SettingsError(f"pixel_size {settings.pixel_size:g} is not the pixel size of the simulation "
                            f"({working_pixel_size:g} Å); simulate at {settings.pixel_size:g} Å, or leave pixel_size "
                            "empty")
    shapes = check_sizes(simulated, files, settings.real_pixel_size, settings.noise == "spectrum")
    smallest = min(min(read_header(path, 2)[0]) for path in simulated.micrographs)
    if settings.crop > smallest:
        raise SettingsError(f"crop {settings.crop} is larger than the simulated micrographs ({smallest} pixels); "
                            f"give {smallest // 32 * 32} or less")
    edge, file = min((min(shape), file) for shape, file in zip(shapes, files, strict=True))
    if settings.crop > edge:
        raise SettingsError(f"crop {settings.crop} is larger than {file} at {working_pixel_size:g} Å per pixel "
                            f"({edge} pixels); lower crop, or leave this micrograph out")
    check_disk_space(settings.out, sum(4 * y * x for y, x in shapes) + checkpoint_disk_bytes(settings) + PREVIEWS_BYTES)


def _real_set(settings: TrainSettings, simulated: SimulatedSet, files: list[Path], processes: ProcessGroup) -> RealSet:
    """Open the run's folder and measure the real micrographs.

    The first process measures them. The others wait and then read its results.
    """
    if processes.is_rank_zero:
        open_run_folder(settings, may_change={"preview_every", "checkpoint_every", "steps", "patience"},
                        inputs=input_fingerprints(simulated, files))
    else:
        processes.barrier()
    with one_thread():
        reals = measure_real_set(settings.out, "micrographs", files, simulated.manifest.pixel_size,
                                 settings.real_pixel_size, settings.real_contrast == "bright")
    if processes.is_rank_zero:
        processes.barrier()
    return reals


def _real_images(reals: RealSet, indices: Sequence[int]) -> RealImages:
    """The real micrographs of these indices, with their grey scales."""
    scales = [reals.scales[index] for index in indices]
    return RealImages([reals.image(index) for index in indices], [scale.median for scale in scales],
                      [scale.spread for scale in scales])


def _losses(record: TrainingRecord) -> str:
    """Losses of one step, for the progress bar."""
    return (f"adversarial {record.adversarial:.3f}, contrastive {record.contrastive:.3f}, discriminator "
            f"{record.discriminator:.3f}, contrast {record.contrast_drift:+.3f}, "
            f"{record.steps_per_second:.2f} steps/s")
