# SPDX-License-Identifier: GPL-3.0-or-later
"""``cryogem generate``: makes labelled micrographs that look like real ones."""
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import torch

from cryogem_scipion.engine.compute.devices import chosen_device, chosen_precision
from cryogem_scipion.engine.compute.parallel import check_memory, map_in_order, worker_count
from cryogem_scipion.engine.compute.threads import one_thread
from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.dataset import Manifest, path_inside, replacing, write_manifest
from cryogem_scipion.engine.noise.contrast_check import check_contrast_sign
from cryogem_scipion.engine.noise.exposure import Exposure
from cryogem_scipion.engine.noise.intermediate_images import IntermediateImages
from cryogem_scipion.engine.noise.models import AnalyticModel, GreyScale, NoiseModel, PhysicalNoise
from cryogem_scipion.engine.noise.noise_measurement import MAX_REAL, NoiseMeasurement, measure_noise
from cryogem_scipion.engine.noise.real_micrograph import evenly_spaced, real_files
from cryogem_scipion.engine.noise.real_set import measure_real_set
from cryogem_scipion.engine.noise.simulated_set import SimulatedSet, check_sizes, input_fingerprints, open_simulated_set
from cryogem_scipion.engine.noise.visibility import visible_ratio
from cryogem_scipion.engine.runs.folder import check_disk_space, open_run_folder, provenance
from cryogem_scipion.engine.runs.progress import track_progress
from cryogem_scipion.engine.settings import GenerateSettings
from cryogem_scipion.engine.simulation.dataset_writer import DatasetWriter
from cryogem_scipion.engine.simulation.microscope import Microscope, Specimen, seeded_generator
from cryogem_scipion.engine.simulation.portable_settings import microscope_of_folder
from cryogem_scipion.engine.translator.model import Translator, load_model, to_bf16

__all__ = ["run"]

log = logging.getLogger("cryogem")


@one_thread()
def run(settings: GenerateSettings) -> Manifest:
    """Write the generated micrographs, masks, stacks, tables and manifest.

    Raises
    ------
    CryogemError
        Input or settings are unusable; nothing has been written then.
    """
    device = chosen_device(settings.device)
    simulated = open_simulated_set(settings.simulation, settings.simulation_micrographs)
    microscope = _microscope(settings, simulated, device)
    translator = _translator(settings, microscope, device)
    files = real_files(settings.real)
    check_sizes(simulated, files, settings.real_pixel_size, settings.noise == "spectrum")
    indices = _specimen_indices(settings, simulated)
    memory = _memory(microscope, translator)
    check_disk_space(settings.out, len(indices) * _disk_bytes(microscope, settings))
    check_memory(device, memory, settings.memory_remedy)
    has_noise = translator is not None and not translator.standardised
    warnings = check_contrast_sign(settings, simulated, [] if has_noise else files)
    out = open_run_folder(settings, inputs=input_fingerprints(simulated, files, settings.model if translator else None))
    noise = _noise_model(settings, simulated, files, translator)
    model, physical = noise.model, noise.model.physical
    snr, visibility = _signal_to_noise(settings, simulated, model)
    contrast = simulated.contrast.rescaled(snr, physical.background_deviation)
    microscope = replace(microscope, projection_scale=contrast.scale)
    _copy_sources(simulated, out)
    writer = DatasetWriter(out, microscope, simulated.manifest.sources, settings.extract)
    intermediate_images = IntermediateImages(out, settings.keep, microscope, settings.extract)
    specimen_seed = _specimen_seed(settings, simulated)

    def generate(index: int) -> tuple[int, Specimen]:
        """Draw a specimen, form its image, add ice and noise, translate it, and write it to the dataset."""
        generator = seeded_generator(settings.seed, "noise", index)
        ice_map = physical.ice_map_of(index, settings.seed)
        scene = physical.scene(microscope.settings.micrograph_size, generator, chosen=ice_map)
        specimen = scene.visible(microscope.draw_specimen(specimen_seed, index))
        if not writer.has_micrograph(index):
            clean = microscope.form_image(specimen)
            scene = replace(scene, exposure=Exposure(specimen.optics, microscope.pixel_size))
            intermediate_images.write(index, clean, physical, scene, generator)
            image = model(clean.image, generator, scene)
            writer.write_images(index, image, clean)
        return index, specimen

    threads = worker_count(device, len(indices), memory) if translator is None or device.type == "cpu" else 1
    generated = map_in_order(generate, indices, threads)
    for index, specimen in track_progress(generated, len(indices), "generating micrograph", folder=out):
        writer.add_labels(index, specimen)
    writer.write_tables()
    manifest = Manifest(
        stage="generate", **provenance(), settings={**settings.model_dump(mode="json"),
                                                    "precision": chosen_precision(settings.precision, device)},
        simulation=simulated.manifest.simulation, seed=settings.seed, pixel_size=microscope.pixel_size,
        micrographs=len(indices), particles=writer.particle_count, whole_particles=writer.whole_particle_count,
        box_size=microscope.box_size,
        particle_diameter_angstrom=simulated.manifest.particle_diameter_angstrom, contrast=contrast,
        sources=simulated.manifest.sources, warnings=(*warnings, *noise.warnings, *writer.warnings()),
        figures=noise.figures | visibility)
    write_manifest(out, manifest)
    log.info("generated %d micrographs with %d particles (%d whole) in %s", len(indices), writer.particle_count,
             writer.whole_particle_count, out)
    for warning in manifest.warnings:
        log.warning("warning: %s", warning)
    return manifest


def _microscope(settings: GenerateSettings, simulated: SimulatedSet, device: torch.device) -> Microscope:
    """The simulation's microscope with the output settings of this run."""
    size = {"micrograph_size": settings.micrograph_size} if settings.micrograph_size else {}
    return microscope_of_folder(simulated.folder, simulated.manifest, device, out=str(settings.out),
                                extract=settings.extract, **size)


def _translator(settings: GenerateSettings, microscope: Microscope, device: torch.device) -> Translator | None:
    """The noise translator that the settings name; None if the noise needs no network."""
    if settings.noise != "model" or settings.model is None:
        return None
    translator = load_model(settings.model, device)
    if abs(translator.pixel_size / microscope.pixel_size - 1) > 1e-3:
        raise DataError(f"{settings.model} has {translator.pixel_size:g} Å per pixel, but the simulation has "
                        f"{microscope.pixel_size:g} Å; simulate at the pixel size of the model")
    return to_bf16(translator) if chosen_precision(settings.precision, device) == "bf16" else translator


def _noise_model(settings: GenerateSettings, simulated: SimulatedSet, files: list[Path],
                 translator: Translator | None) -> NoiseMeasurement:
    """The noise model: a trained translator, white noise, or noise measured on real micrographs.

    An imported translator has no ice of its own. If there are real micrographs, its ice and noise are measured on them.
    """
    if translator is not None:
        translator = replace(translator, snr=settings.snr or translator.snr)
        if not files:
            return NoiseMeasurement(translator)
        if not translator.standardised:
            return NoiseMeasurement(translator, warnings=(
                f"{settings.model} has the noise and ice of the micrographs that it was trained on; real is not used",))
    elif not files:
        contrast = simulated.contrast
        # Without real micrographs the images are in units of transmission.
        scale = GreyScale(1.0, contrast.background_deviation)
        physical = PhysicalNoise(contrast.background_deviation)
        return NoiseMeasurement(AnalyticModel(physical, scale, settings.snr or contrast.snr))
    reals = measure_real_set(settings.out, "source/real", evenly_spaced(files, MAX_REAL),
                             simulated.manifest.pixel_size, settings.real_pixel_size,
                             settings.real_contrast == "bright")
    noise = measure_noise(reals, simulated, snr=translator.snr if translator else settings.snr, seed=settings.seed,
                          spectrum=settings.noise == "spectrum", contaminants=settings.contaminants, ice=settings.ice)
    return replace(noise, model=replace(translator, physical=noise.model.physical)) if translator else noise


def _signal_to_noise(settings: GenerateSettings, simulated: SimulatedSet, model: NoiseModel
                     ) -> tuple[float, dict[str, float]]:
    """The signal-to-noise ratio of the particles; for visible ones at least the ratio that this needs, and that one."""
    if not settings.visible_particles:
        return model.snr, {}
    needed = visible_ratio(simulated, model.physical)
    if needed > model.snr:
        log.info("single particles do not stand out of the noise; their signal-to-noise ratio is raised from %.2g to "
                 "%.2g", model.snr, needed)
    return max(model.snr, needed), {"visible_snr": needed}


def _specimen_indices(settings: GenerateSettings, simulated: SimulatedSet) -> list[int]:
    """Indices of the specimens to generate; with ``reuse``, those of the simulated micrographs."""
    if settings.reuse:
        return simulated.specimen_indices[:settings.micrographs]
    return list(range(settings.micrographs or simulated.manifest.micrographs))


def _specimen_seed(settings: GenerateSettings, simulated: SimulatedSet) -> int:
    """Seed of the specimens: with ``reuse`` the seed of the simulation, otherwise a new one."""
    fresh = int(torch.randint(2**62, (), generator=seeded_generator(settings.seed, "fresh specimens")))
    return simulated.manifest.seed if settings.reuse else fresh


def _copy_sources(simulated: SimulatedSet, out: Path) -> None:
    """Copy the simulation's input files, so that the dataset can be moved and generated again."""
    for source in simulated.manifest.sources:
        with replacing(path_inside(out, source.path)) as path:
            shutil.copyfile(path_inside(simulated.folder, source.path), path)


def _memory(microscope: Microscope, translator: Translator | None) -> int:
    """Memory (bytes) that one micrograph takes, roughly."""
    y, x = microscope.settings.micrograph_size
    return microscope.memory_bytes + 70 * y * x + (0 if translator is None else translator.memory_bytes)


def _disk_bytes(microscope: Microscope, settings: GenerateSettings) -> int:
    """Disk space (bytes) of one micrograph with its mask, stack and intermediate images."""
    y, x = microscope.settings.micrograph_size
    stack = 4 * microscope.box_size ** 2 * int(microscope.settings.particles_mean) if settings.extract else 0
    return 5 * y * x + stack + len(settings.keep) * (4 * y * x + stack) + 4096
