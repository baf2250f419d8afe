# SPDX-License-Identifier: GPL-3.0-or-later
"""``cryogem simulate``: clean micrographs of a map, with all labels."""
import logging
from dataclasses import replace
from typing import Any

from cryogem_scipion.engine.compute.devices import chosen_device
from cryogem_scipion.engine.compute.parallel import check_memory, map_in_order, worker_count
from cryogem_scipion.engine.compute.threads import one_thread
from cryogem_scipion.engine.io.dataset import Contrast, Manifest, Source, write_manifest
from cryogem_scipion.engine.runs.folder import check_disk_space, copy_sources, fingerprint, open_run_folder, provenance
from cryogem_scipion.engine.runs.progress import track_progress
from cryogem_scipion.engine.settings import SimulateSettings
from cryogem_scipion.engine.simulation.conformations import specimen_files
from cryogem_scipion.engine.simulation.dataset_writer import DatasetWriter
from cryogem_scipion.engine.simulation.microscope import Microscope, Specimen, measure_contrast, prepare_microscope

__all__ = ["portable_settings", "run"]

log = logging.getLogger("cryogem")


@one_thread()
def run(settings: SimulateSettings) -> Manifest:
    """Write the micrographs 1 - s, masks, tables and manifest of a simulation.

    Raises
    ------
    CryogemError
        Input or settings are unusable; nothing has been written then.
    """
    device = chosen_device(settings.device)
    with specimen_files(settings) as made:
        given = made.settings
        scope = prepare_microscope(given, device=device)
        files = [*given.volume, *filter(None, (given.ctfs, given.orientations)), *made.record_files]
        copies = sum(path.stat().st_size for path in files)
        check_disk_space(settings.out, settings.micrographs * _bytes(scope) + copies)
        check_memory(device, scope.memory_bytes, settings.memory_remedy)
        out = open_run_folder(settings, inputs={path.name: fingerprint(path) for path in files if path not in made.record_files})
        sources = copy_sources(out, files, made.provenance)
    contrast = measure_contrast(scope, settings.seed)
    scope = replace(scope, projection_scale=contrast.scale)
    folder = DatasetWriter(out, scope, sources, settings.extract)

    def make(index: int) -> tuple[int, Specimen]:
        specimen = scope.draw_specimen(settings.seed, index)
        if not folder.has_micrograph(index):
            clean = scope.form_image(specimen)
            folder.write_images(index, 1 - clean.signal, clean)
        return index, specimen

    threads = worker_count(device, settings.micrographs, scope.memory_bytes)
    exposed = map_in_order(make, range(settings.micrographs), threads)
    for index, specimen in track_progress(exposed, settings.micrographs, "simulating micrograph", folder=out):
        folder.add_labels(index, specimen)
    folder.write_tables()
    manifest = _manifest(settings, scope, contrast, sources, folder)
    write_manifest(out, manifest)
    log.info("simulated %d micrographs with %d particles (%d whole) in %s", settings.micrographs, folder.particle_count,
             folder.whole_particle_count, out)
    for warning in manifest.warnings:
        log.warning("warning: %s", warning)
    return manifest


def portable_settings(settings: SimulateSettings, scope: Microscope, sources: tuple[Source, ...]) -> dict[str, Any]:
    """Settings with every derived value filled in and files named as in ``source/``: enough to make the run again."""
    names = iter(source.path for source in sources)
    filled = settings.model_copy(update={
        "pixel_size": scope.pixel_size, "box_size": scope.box_size, "particle_distance": scope.particle_distance,
        "volume": tuple(next(names) for _ in settings.volume),
        "ctfs": next(names) if settings.ctfs else None, "orientations": next(names) if settings.orientations else None})
    return filled.model_dump(mode="json", exclude={"out", "device", "threads", "cryodrgn_activation"}, warnings=False)


def _bytes(scope: Microscope) -> int:
    """Disk space of one micrograph with its mask and stack."""
    y, x = scope.settings.micrograph_size
    stack = 4 * scope.box_size ** 2 * int(scope.settings.particles_mean) if scope.settings.extract else 0
    return (8 if scope.settings.soft_mask else 5) * y * x + stack + 3072


def _manifest(settings: SimulateSettings, scope: Microscope, contrast: Contrast, sources: tuple[Source, ...],
              folder: DatasetWriter) -> Manifest:
    return Manifest(
        stage="simulate", **provenance(), settings=settings.model_dump(mode="json"),
        simulation=portable_settings(scope.settings, scope, sources), seed=settings.seed, pixel_size=scope.pixel_size,
        micrographs=settings.micrographs, particles=folder.particle_count, whole_particles=folder.whole_particle_count,
        box_size=scope.box_size, particle_diameter_angstrom=round(scope.diameter_angstrom, 3), contrast=contrast,
        sources=sources, warnings=folder.warnings())
