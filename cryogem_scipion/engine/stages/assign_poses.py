# SPDX-License-Identifier: GPL-3.0-or-later
"""``cryogem assign-poses``: gives particles the poses that a trained pose estimator finds."""
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from matplotlib.figure import Figure

from cryogem_scipion.engine.compute.devices import chosen_device
from cryogem_scipion.engine.compute.threads import one_thread
from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.figures.assignment import FIGURE_SIZE, REPORT_NAME, draw_assignment
from cryogem_scipion.engine.figures.report_files import save_figure, write_report
from cryogem_scipion.engine.io.dataset import PARTICLES, Manifest, write_manifest, write_table
from cryogem_scipion.engine.pose_estimation.assigned_table import (
    CANDIDATES,
    assignment_report,
    candidate_rows,
    particle_rows,
    read_part,
    write_part,
)
from cryogem_scipion.engine.pose_estimation.assignment import AssignedPoses, PoseFinder
from cryogem_scipion.engine.pose_estimation.estimator import PoseEstimator, load_estimator, particle_spectra, rings_of
from cryogem_scipion.engine.pose_estimation.noise_control import noise_control
from cryogem_scipion.engine.pose_estimation.particle_images import ParticleSet, read_particles
from cryogem_scipion.engine.pose_estimation.training_set import FEWEST_RINGS, fingerprint_particles
from cryogem_scipion.engine.runs.folder import check_disk_space, fingerprint, open_run_folder, provenance
from cryogem_scipion.engine.runs.progress import track_progress
from cryogem_scipion.engine.settings import AssignPosesSettings

__all__ = ["run"]

log = logging.getLogger("cryogem")

PARTS = "parts"
"""Folder of the finished parts of a run; it is removed at the end."""
PART = 256
"""Particles of a part."""
BYTES_OF_A_CANDIDATE = 400


def run(settings: AssignPosesSettings) -> Manifest:
    """Write particles.star, candidates.star, assignment.json, .npz and .png, and the manifest.

    Raises
    ------
    CryogemError
        Input or settings are unusable; nothing has been written then.
    """
    device = chosen_device(settings.device)
    estimator = load_estimator(settings.model, device)
    particles = read_particles(settings.particles, settings.pixel_size)
    rings, warnings = _check(settings, estimator, particles)
    knows_ctf = estimator.uses_ctf and particles.has_ctf
    check_disk_space(settings.out, BYTES_OF_A_CANDIDATE * len(particles) * (settings.candidates + 2))
    out = open_run_folder(settings, inputs={"model": fingerprint(settings.model),
                                            "particles": fingerprint_particles(particles)})
    for warning in warnings:
        log.warning("warning: %s", warning)
    (out / PARTS).mkdir(exist_ok=True)
    paths = [out / PARTS / f"part_{start // PART:06d}.safetensors" for start in range(0, len(particles), PART)]
    left = [path for path in paths if not path.is_file()]
    with one_thread():
        finder = PoseFinder(estimator, knows_ctf, rings, settings.candidates)

    def find(some: ParticleSet, indices: list[int]) -> AssignedPoses:
        with one_thread():
            spectra = particle_spectra(
                some, indices, estimator.grid, estimator.device, bright=settings.contrast == "bright",
                ring_power=estimator.ring_power, mean_ctf=None if knows_ctf else estimator.mean_ctf)
            return finder.find_all(spectra)

    if left:
        for _ in track_progress(_find_parts(find, particles, left), len(paths), "particles, part",
                                done=len(paths) - len(left), folder=out):
            pass
    found = [read_part(path) for path in paths]
    poses = AssignedPoses(*(torch.cat([getattr(part, name) for part in found])
                            for name in AssignedPoses.__dataclass_fields__))
    write_table(out / PARTICLES, "particles", particles.optics, particle_rows(particles, poses, estimator))
    write_table(out / CANDIDATES, "candidates", particles.optics, candidate_rows(particles, poses, estimator))
    report, arrays = assignment_report(poses, estimator, knows_ctf, rings)
    control = noise_control(particles, poses.confidence, lambda some, indices: find(some, indices).confidence.cpu())
    if control is not None:
        report["confidence_of_noise"] = control.of_noise
        if control.warning:
            warnings.append(control.warning)
            log.warning("warning: %s", control.warning)
    write_report(out, REPORT_NAME, report, arrays)
    figure = Figure(figsize=FIGURE_SIZE)
    draw_assignment(figure, out)
    save_figure(figure, out / f"{REPORT_NAME}.png")
    for path in paths:
        path.unlink()
    (out / PARTS).rmdir()
    figures: dict[str, float] = {
        name: float(report[name]) for name in ("mean_confidence", "confidence_of_noise", "confident",
                                               "median_shift_angstrom") if name in report}
    manifest = Manifest(
        stage="assign-poses", **provenance(), settings=settings.model_dump(mode="json"), seed=settings.seed,
        pixel_size=particles.geometries[0].pixel_size, micrographs=int(particles.micrographs().nunique()),
        particles=len(particles), box_size=particles.geometries[0].box,
        particle_diameter_angstrom=estimator.grid.diameter_angstrom, warnings=tuple(warnings), figures=figures)
    write_manifest(out, manifest)
    log.info("%d particles have poses; %.0f %% of them have a confidence of 0.5 or more: %s", len(particles),
             100 * figures["confident"], out / PARTICLES)
    return manifest


def _check(settings: AssignPosesSettings, estimator: PoseEstimator, particles: ParticleSet) -> tuple[int, list[str]]:
    """Number of rings that the images have, and warnings."""
    grid, warnings = estimator.grid, []
    rings = rings_of(particles, grid)
    coarsest = max(geometry.pixel_size for geometry in particles.geometries)
    if rings < min(FEWEST_RINGS, grid.rings):
        raise DataError(f"{settings.particles} has pixels of {coarsest:g} Å, too coarse for a particle of "
                        f"{grid.diameter_angstrom:g} Å; give pixels of {grid.period_angstrom / 2 / FEWEST_RINGS:.2g} Å "
                        "or less")
    box = min(geometry.box * geometry.pixel_size for geometry in particles.geometries)
    if box < grid.diameter_angstrom / 2:
        raise DataError(f"{settings.particles} has boxes of {box:g} Å, less than half of the circle that the model "
                        f"looks at ({grid.diameter_angstrom:g} Å); extract larger boxes")
    if box < grid.diameter_angstrom:
        warnings.append(f"the boxes ({box:g} Å) are smaller than the circle that the model looks at "
                        f"({grid.diameter_angstrom:g} Å); larger boxes give better poses")
    if rings < grid.rings:
        warnings.append(f"pixels of {coarsest:g} Å show details down to {2 * coarsest:g} Å only, and the model uses "
                        f"{grid.resolution_angstrom:.3g} Å; smaller pixels give better poses")
    if estimator.uses_ctf and not particles.has_ctf:
        warnings.append("the particles have no CTF; the mean CTF of the training is used, and the poses are less exact")
    return rings, warnings


def _find_parts(find: Callable[[ParticleSet, list[int]], AssignedPoses], particles: ParticleSet, paths: list[Path]
                ) -> Iterator[Path]:
    """Find the poses of the parts that are left, and write each part when it is complete."""
    for path in paths:
        number = int(path.stem.rpartition("_")[2])
        write_part(path, find(particles, list(range(number * PART, min(len(particles), (number + 1) * PART)))))
        yield path
