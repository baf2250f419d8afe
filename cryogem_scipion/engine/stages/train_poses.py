# SPDX-License-Identifier: GPL-3.0-or-later
"""``cryogem train-poses``: trains a pose estimator on particles with known poses."""
import hashlib
import logging
from collections import deque
from dataclasses import replace

from matplotlib.figure import Figure

from cryogem_scipion import __version__
from cryogem_scipion.engine.compute.devices import chosen_device
from cryogem_scipion.engine.compute.threads import one_thread
from cryogem_scipion.engine.figures.pose_training import FIGURE_SIZE, REPORT_NAME, draw_pose_training
from cryogem_scipion.engine.figures.report_files import save_figure, write_report
from cryogem_scipion.engine.io.dataset import Manifest, read_manifest, write_manifest
from cryogem_scipion.engine.pose_estimation.estimator import MODEL, save_estimator
from cryogem_scipion.engine.pose_estimation.evaluation import calibrated, held_out_report
from cryogem_scipion.engine.pose_estimation.reference import density_edge
from cryogem_scipion.engine.pose_estimation.training import PoseRecord, PoseTraining, train_poses
from cryogem_scipion.engine.pose_estimation.training_set import (
    fingerprint_particles,
    new_estimator,
    open_training_set,
    read_training_particles,
)
from cryogem_scipion.engine.runs.folder import check_disk_space, open_run_folder, provenance
from cryogem_scipion.engine.runs.progress import run_steps
from cryogem_scipion.engine.runs.torchrun import is_distributed, run_distributed
from cryogem_scipion.engine.settings import TrainPosesSettings
from cryogem_scipion.engine.translator.distributed import join_process_group

__all__ = ["run"]

log = logging.getLogger("cryogem")

MAY_CHANGE = {"checkpoint_every"}


def run(settings: TrainPosesSettings) -> Manifest:
    """Train, and write model.safetensors, losses.csv, pose_training.json, .npz and .png, and the manifest.

    Raises
    ------
    CryogemError
        Input or settings are unusable; nothing has been written then.
    """
    device = chosen_device(settings.device)
    data = open_training_set(settings)
    edge = density_edge(data.grid)
    check_disk_space(settings.out, 6 * 4 * edge**3 * len(data.poses.class_numbers) + 4 * 1024**2)
    if settings.processes > 1 and not is_distributed():
        run_distributed("train-poses", settings)
    processes, device = join_process_group(device)
    out = settings.out
    if processes.is_rank_zero:
        open_run_folder(settings, may_change=MAY_CHANGE, inputs={"particles": fingerprint_particles(data.particles)})
    processes.barrier()
    for warning in data.warnings if processes.is_rank_zero else ():
        log.warning("warning: %s", warning)
    with one_thread():
        particles = read_training_particles(data, settings, device)
        training, held_out = particles.subset(data.training), particles.subset(data.held_out)
        estimator = new_estimator(data, training, device)
        state = PoseTraining(settings, estimator, _digest(settings), processes)
        records = train_poses(state, training, held_out, out)
        if not processes.is_rank_zero:
            deque(records, maxlen=0)
            processes.barrier()
            return read_manifest(out)
        run_steps(records, settings.steps, _note, out)
        # Noise and confidence from the held-out particles, with and without their CTFs.
        estimator = calibrated(estimator, held_out.moved_to(device))
        estimator = replace(estimator, details={"version": __version__, "steps": state.step,
                                                "best_step": state.best_step, "particles": len(training),
                                                "pixel_size": data.particles.geometries[0].pixel_size})
        report, arrays = held_out_report(estimator, held_out.moved_to(device))
    save_estimator(out / MODEL, estimator)
    write_report(out, REPORT_NAME, report, arrays)
    figure = Figure(figsize=FIGURE_SIZE)
    draw_pose_training(figure, out)
    save_figure(figure, out / f"{REPORT_NAME}.png")
    figures = {name: float(value) for name, value in report["held_out"].items() if value is not None}
    figures["classes"] = float(len(estimator.class_numbers))
    manifest = Manifest(
        stage="train-poses", **provenance(), settings=settings.model_dump(mode="json"), seed=settings.seed,
        pixel_size=data.particles.geometries[0].pixel_size, micrographs=int(data.particles.micrographs().nunique()),
        particles=len(particles), box_size=data.particles.geometries[0].box,
        particle_diameter_angstrom=data.grid.diameter_angstrom, model=MODEL, warnings=data.warnings, figures=figures)
    write_manifest(out, manifest)
    processes.barrier()
    log.info("trained on %d particles; on %d held-out particles the median error is %.1f°, and %.1f %% are within 15°: "
             "%s", len(training), len(held_out), figures["median_error_degrees"], 100 * figures["within_15_degrees"],
             out / MODEL)
    return manifest


def _digest(settings: TrainPosesSettings) -> str:
    """Digest of the settings that must not change when a training continues."""
    may_change = {"out", "device", "threads", "particles", *MAY_CHANGE}
    return hashlib.sha256(settings.model_dump_json(exclude=may_change).encode()).hexdigest()


def _note(record: PoseRecord) -> str:
    """Losses of one step, for the progress bar."""
    error = record.held_out_error_degrees
    return f"loss {record.loss:.3f}" + (f", held-out error {error:.1f}°" if error is not None else "")
