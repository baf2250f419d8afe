# SPDX-License-Identifier: GPL-3.0-or-later
"""``cryogem simulate``: makes clean micrographs of a map, with all labels."""
import logging
from dataclasses import replace

from cryogem_scipion.engine.compute.devices import chosen_device
from cryogem_scipion.engine.compute.parallel import check_memory, map_in_order, worker_count
from cryogem_scipion.engine.compute.threads import one_thread
from cryogem_scipion.engine.io.dataset import Manifest, write_manifest
from cryogem_scipion.engine.runs.folder import check_disk_space, copy_sources, fingerprint, open_run_folder, provenance
from cryogem_scipion.engine.runs.progress import track_progress
from cryogem_scipion.engine.settings import SimulateSettings
from cryogem_scipion.engine.simulation.conformations import specimen_files
from cryogem_scipion.engine.simulation.contrast import measure_contrast
from cryogem_scipion.engine.simulation.dataset_writer import DatasetWriter
from cryogem_scipion.engine.simulation.microscope import Microscope, Specimen, prepare_microscope
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
    with specimen_files(settings) as specimens:
        microscope = prepare_microscope(specimens.settings, device=device)
        inputs = specimens.settings
        files = [*inputs.volume, *filter(None, (inputs.ctfs, inputs.orientations)), *specimens.record_files]
        copies = sum(file.stat().st_size for file in files)
        check_disk_space(settings.out, settings.micrographs * _disk_bytes(microscope) + copies)
        check_memory(device, microscope.memory_bytes, settings.memory_remedy)
        out = open_run_folder(settings, inputs={file.name: fingerprint(file) for file in files
                                                if file not in specimens.record_files})
        sources = copy_sources(out, files, specimens.provenance)
    contrast = measure_contrast(microscope, settings.seed)
    microscope = replace(microscope, projection_scale=contrast.scale)
    writer = DatasetWriter(out, microscope, sources, settings.extract)

    def simulate(index: int) -> tuple[int, Specimen]:
        """Draw a specimen, form its clean image, and write it to the dataset."""
        specimen = microscope.draw_specimen(settings.seed, index)
        if not writer.has_micrograph(index):
            clean = microscope.form_image(specimen)
            writer.write_images(index, clean.image, clean)
        return index, specimen

    threads = worker_count(device, settings.micrographs, microscope.memory_bytes)
    simulated = map_in_order(simulate, range(settings.micrographs), threads)
    for index, specimen in track_progress(simulated, settings.micrographs, "simulating micrograph", folder=out):
        writer.add_labels(index, specimen)
    writer.write_tables()
    manifest = Manifest(
        stage="simulate", **provenance(), settings=settings.model_dump(mode="json"),
        simulation=portable_settings(microscope, sources), seed=settings.seed, pixel_size=microscope.pixel_size,
        micrographs=settings.micrographs, particles=writer.particle_count,
        whole_particles=writer.whole_particle_count, box_size=microscope.box_size,
        particle_diameter_angstrom=round(microscope.diameter_angstrom, 3), contrast=contrast, sources=sources,
        warnings=writer.warnings())
    write_manifest(out, manifest)
    log.info("simulated %d micrographs with %d particles (%d whole) in %s", settings.micrographs, writer.particle_count,
             writer.whole_particle_count, out)
    for warning in manifest.warnings:
        log.warning("warning: %s", warning)
    return manifest


def _disk_bytes(microscope: Microscope) -> int:
    """Disk space (bytes) of one micrograph with its mask and stack."""
    y, x = microscope.settings.micrograph_size
    stack = 4 * microscope.box_size ** 2 * int(microscope.settings.particles_mean) if microscope.settings.extract else 0
    return (8 if microscope.settings.soft_mask else 5) * y * x + stack + 3072
