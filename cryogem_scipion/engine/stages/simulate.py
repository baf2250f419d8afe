# SPDX-License-Identifier: GPL-3.0-or-later
"""``cryogem simulate``: clean micrographs of a map, with all labels."""
import logging
from dataclasses import replace

from cryogem_scipion.engine.compute.devices import chosen_device
from cryogem_scipion.engine.compute.parallel import check_memory, map_in_order, worker_count
from cryogem_scipion.engine.compute.threads import one_thread
from cryogem_scipion.engine.io.dataset import Manifest, write_manifest
from cryogem_scipion.engine.runs.folder import check_disk_space, copy_sources, fingerprint, open_run_folder, provenance
from cryogem_scipion.engine.runs.progress import track_progress
from cryogem_scipion.engine.settings import SimulateSettings
from cryogem_scipion.engine.simulation.conformations import specimens
from cryogem_scipion.engine.simulation.labelled_folder import LabelledFolder
from cryogem_scipion.engine.simulation.microscope import Microscope, Specimen, measure_contrast, microscope
from cryogem_scipion.engine.simulation.portable_settings import portable_settings

__all__ = ["run"]

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
    with specimens(settings) as specimen_files:
        scope = microscope(specimen_files.settings, device=device)
        files = [*scope.settings.volume, *filter(None, (scope.settings.ctfs, scope.settings.orientations)),
                 *specimen_files.records]
        copies = sum(file.stat().st_size for file in files)
        check_disk_space(settings.out, settings.micrographs * _disk_bytes(scope) + copies)
        check_memory(device, scope.memory, settings.memory_remedy)
        out = open_run_folder(settings, inputs={file.name: fingerprint(file) for file in files
                                      if file not in specimen_files.records})
        sources = copy_sources(out, files, specimen_files.origins)
    contrast = measure_contrast(scope, settings.seed)
    scope = replace(scope, scale=contrast.scale)
    folder = LabelledFolder(out, scope, sources, settings.extract)

    def simulate(index: int) -> tuple[int, Specimen]:
        """From the virtual specimen through the optics into the dataset."""
        specimen = scope.specimen(settings.seed, index)
        if not folder.has(index):
            clean = scope.expose(specimen)
            folder.write(index, 1 - clean.signal, clean)
        return index, specimen

    threads = worker_count(device, settings.micrographs, scope.memory)
    simulated = map_in_order(simulate, range(settings.micrographs), threads)
    for index, specimen in track_progress(simulated, settings.micrographs, "simulating micrograph", folder=out):
        folder.record(index, specimen)
    folder.write_tables()
    manifest = Manifest(
        stage="simulate", **provenance(), settings=settings.model_dump(mode="json"),
        simulation=portable_settings(scope, sources), seed=settings.seed, pixel_size=scope.pixel_size,
        micrographs=settings.micrographs, particles=folder.count, whole_particles=folder.whole,
        box_size=scope.box_size, particle_diameter_angstrom=round(scope.diameter_angstrom, 3), contrast=contrast,
        sources=sources, warnings=folder.warnings())
    write_manifest(out, manifest)
    log.info("simulated %d micrographs with %d particles (%d whole) in %s", settings.micrographs, folder.count,
             folder.whole, out)
    for warning in manifest.warnings:
        log.warning("warning: %s", warning)
    return manifest


def _disk_bytes(scope: Microscope) -> int:
    """Disk space (bytes) of one micrograph with its mask and stack."""
    y, x = scope.settings.micrograph_size
    stack = 4 * scope.box_size ** 2 * int(scope.settings.particles_mean) if scope.settings.extract else 0
    return (8 if scope.settings.soft_mask else 5) * y * x + stack + 3072
