# SPDX-License-Identifier: GPL-3.0-or-later
"""``cryogem generate``: makes labelled micrographs that look like the real ones, a few at a time."""
import logging
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cryogem_scipion.engine.compute.devices import chosen_device
from cryogem_scipion.engine.compute.parallel import check_memory, map_in_order, worker_count
from cryogem_scipion.engine.compute.threads import one_thread
from cryogem_scipion.engine.errors import DataError, SettingsError
from cryogem_scipion.engine.io.dataset import MANIFEST, Manifest, path_inside, replacing, write_manifest
from cryogem_scipion.engine.io.mrc import write_mrc
from cryogem_scipion.engine.noise.background import MOST_REAL, Background, measure_background, physical_noise
from cryogem_scipion.engine.noise.contrast_check import check_contrast_sign
from cryogem_scipion.engine.noise.exposure import Exposure
from cryogem_scipion.engine.noise.models import AnalyticModel, GreyScale, NoiseModel, PhysicalNoise, Scene
from cryogem_scipion.engine.noise.real_micrograph import evenly_spaced, real_files
from cryogem_scipion.engine.noise.real_set import measure_real_set
from cryogem_scipion.engine.noise.simulated_set import SimulatedSet, check_sizes, input_fingerprints, open_simulated_set
from cryogem_scipion.engine.runs.folder import check_disk_space, open_run_folder, provenance
from cryogem_scipion.engine.runs.progress import track_progress
from cryogem_scipion.engine.settings import GenerateSettings, SimulateSettings, parse
from cryogem_scipion.engine.simulation.dataset_writer import DatasetWriter
from cryogem_scipion.engine.simulation.labels import cut_boxes
from cryogem_scipion.engine.simulation.microscope import (
    CleanMicrograph,
    Microscope,
    Specimen,
    prepare_microscope,
    seeded_generator,
)
from cryogem_scipion.engine.translator.model import Translator, load_model, to_bf16

__all__ = ["run"]

log = logging.getLogger("cryogem")


@dataclass(frozen=True)
class Noise:
    """The noise model of a run and its signal-to-noise ratio."""

    render: NoiseModel
    physical: PhysicalNoise
    snr: float
    figures: dict[str, float]
    warnings: tuple[str, ...] = ()


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
    scope = _scope(settings, simulated, device)
    model = load_model(settings.model, device) if settings.noise == "model" and settings.model else None
    if model is not None and abs(model.pixel_size / scope.pixel_size - 1) > 1e-3:
        raise DataError(f"{settings.model} is of {model.pixel_size:g} Å and the simulation is at "
                        f"{scope.pixel_size:g} Å per pixel; simulate at the model's pixel size")
    if model is not None and settings.precision == "bf16":
        model = to_bf16(model)
    files = real_files(settings.real)
    check_sizes(simulated, files, settings.real_pixel_size, settings.noise == "spectrum")
    indices = _indices(settings, simulated)
    check_disk_space(settings.out, len(indices) * _bytes(scope, settings))
    check_memory(device, _memory(scope, model), settings.memory_remedy)
    unused = model is not None and not model.standardised
    warnings = check_contrast_sign(settings, simulated, [] if unused else files)
    out = open_run_folder(settings, inputs=input_fingerprints(simulated, files, settings.model if model else None))
    if model is not None:
        noise = _translated(settings, simulated, files, out, model)
    else:
        noise = _analytic(settings, simulated, files, out)
    contrast = simulated.contrast.rescaled(noise.snr, noise.physical.background_deviation)
    scope = replace(scope, projection_scale=contrast.scale)
    sources = simulated.manifest.sources
    for source in sources:
        with replacing(path_inside(out, source.path)) as path:
            shutil.copyfile(path_inside(simulated.folder, source.path), path)
    folder = DatasetWriter(out, scope, sources, settings.extract)
    kept_images = _KeptImages(out, settings.keep, scope, settings.extract)
    # Reused specimens have the simulation's seed. Fresh specimens have a seed of their own.
    fresh = int(torch.randint(2**62, (), generator=seeded_generator(settings.seed, "fresh specimens")))
    seed = simulated.manifest.seed if settings.reuse else fresh

    def make(index: int) -> tuple[int, Specimen]:
        random = seeded_generator(settings.seed, "noise", index)
        chosen = _scene_number(settings.seed, index, len(noise.physical.ice))
        scene = noise.physical.scene(scope.settings.micrograph_size, random, chosen=chosen)
        specimen = _visible(scope.draw_specimen(seed, index), scene)
        if not folder.has_micrograph(index):
            clean = scope.form_image(specimen)
            scene = replace(scene, exposure=Exposure(specimen.optics, scope.pixel_size))
            kept_images.write(index, clean, noise.physical, scene, random)
            image = noise.render(1 - clean.signal, random, scene)
            folder.write_images(index, image, clean)
        return index, specimen

    threads = worker_count(device, len(indices), _memory(scope, model))
    made = map_in_order(make, indices, threads if model is None or device.type == "cpu" else 1)
    for index, specimen in track_progress(made, len(indices), "generating micrograph", folder=out):
        folder.add_labels(index, specimen)
    folder.write_tables()
    manifest = Manifest(
        stage="generate", **provenance(), settings=settings.model_dump(mode="json"),
        simulation=simulated.manifest.simulation, seed=settings.seed, pixel_size=scope.pixel_size,
        micrographs=len(indices), particles=folder.particle_count, whole_particles=folder.whole_particle_count,
        box_size=scope.box_size,
        particle_diameter_angstrom=simulated.manifest.particle_diameter_angstrom, contrast=contrast, sources=sources,
        warnings=(*warnings, *noise.warnings, *folder.warnings()), figures=noise.figures)
    write_manifest(out, manifest)
    log.info("generated %d micrographs with %d particles (%d whole) in %s", len(indices), folder.particle_count,
             folder.whole_particle_count, out)
    for warning in manifest.warnings:
        log.warning("warning: %s", warning)
    return manifest


def _scope(settings: GenerateSettings, simulated: SimulatedSet, device: torch.device) -> Microscope:
    """The simulation's microscope, from the copies of its input files in the simulation's folder."""
    values = dict(simulated.manifest.simulation or {})
    folder = simulated.folder
    try:
        values["volume"] = [str(path_inside(folder, name)) for name in values["volume"]]
        for name in ("ctfs", "orientations"):
            if values.get(name):
                values[name] = str(path_inside(folder, values[name]))
        values |= {"out": str(settings.out), "extract": settings.extract}
        if settings.micrograph_size:
            values["micrograph_size"] = settings.micrograph_size
        made = parse(SimulateSettings, values)
    except (KeyError, TypeError, SettingsError) as error:
        raise DataError(f"{folder / MANIFEST} does not tell how it was simulated ({error}); simulate again") from None
    return prepare_microscope(made, device=device)


def _translated(settings: GenerateSettings, simulated: SimulatedSet, files: list[Path], out: Path,
                model: Translator) -> Noise:
    """Noise of a trained translator. An imported one has no ice, so its ice is measured on the real micrographs."""
    snr = settings.snr or model.snr
    if not files:
        return Noise(model, model.physical, snr, {})
    if not model.standardised:
        return Noise(model, model.physical, snr, {}, (
            f"{settings.model} has noise and ice of the micrographs it was trained on; real is not used",))
    physical, background = _measured(settings, simulated, files, out, snr)
    return Noise(replace(model, physical=physical), physical, snr, background.figures, background.warnings)


def _analytic(settings: GenerateSettings, simulated: SimulatedSet, files: list[Path], out: Path) -> Noise:
    """White noise, or noise measured from the real micrographs."""
    if not files:
        contrast = simulated.contrast
        physical = PhysicalNoise(contrast.background_deviation)
        # Without real micrographs the grey values are the transmission.
        model = AnalyticModel(physical, GreyScale(1.0, contrast.background_deviation))
        return Noise(model, physical, settings.snr or contrast.snr, {})
    physical, background = _measured(settings, simulated, files, out, settings.snr)
    return Noise(AnalyticModel(physical, background.scale), physical, background.snr, background.figures,
                 background.warnings)


def _measured(settings: GenerateSettings, simulated: SimulatedSet, files: list[Path], out: Path,
              snr: float | None) -> tuple[PhysicalNoise, Background]:
    """Noise with the ice and the strength of the real micrographs; for ``spectrum`` also with their spectrum."""
    reals = measure_real_set(out, "source/real", evenly_spaced(files, MOST_REAL), simulated.manifest.pixel_size,
                         settings.real_pixel_size, settings.real_contrast == "bright")
    coloured = settings.noise == "spectrum"
    background = measure_background(reals, out, simulated, snr, settings.seed, coloured)
    return physical_noise(coloured, background, settings.contaminants, settings.ice), background


def _visible(specimen: Specimen, scene: Scene) -> Specimen:
    """The specimen without the particles that a contaminant hides."""
    hidden = scene.hidden(specimen.centres)
    return replace(specimen.subset(~hidden), requested_count=specimen.requested_count - int(hidden.sum()))


def _scene_number(seed: int, index: int, count: int) -> int | None:
    """Index of the real micrograph whose ice and contaminants generated micrograph ``index`` gets.

    All real micrographs take turns in random order, so that a generated set has as many carbon edges as the real one.
    """
    if not count:
        return None
    turn, place = divmod(index, count)
    return int(torch.randperm(count, generator=seeded_generator(seed, "scenes", turn))[place])


def _indices(settings: GenerateSettings, simulated: SimulatedSet) -> list[int]:
    """Indices of the specimens to generate; with ``reuse``, those of the simulated micrographs."""
    if not settings.reuse:
        return list(range(settings.micrographs or simulated.manifest.micrographs))
    found = [re.fullmatch(r"mic_(\d{1,9})", path.stem) for path in simulated.micrographs]
    if None in found:
        raise DataError(f"{simulated.micrographs[found.index(None)]} is no name that 'cryogem simulate' gives; reuse "
                        "its micrographs as they are")
    return [int(match[1]) for match in found if match][:settings.micrographs]


def _memory(scope: Microscope, model: Translator | None) -> int:
    """Memory (bytes) that one micrograph takes, roughly."""
    y, x = scope.settings.micrograph_size
    return scope.memory_bytes + 60 * y * x + (0 if model is None else model.memory)


def _bytes(scope: Microscope, settings: GenerateSettings) -> int:
    """Disk space (bytes) of one micrograph with its mask, stack and kept images."""
    y, x = scope.settings.micrograph_size
    stack = 4 * scope.box_size ** 2 * int(scope.settings.particles_mean) if settings.extract else 0
    return 5 * y * x + stack + len(settings.keep) * (4 * y * x + stack) + 4096


class _KeptImages:
    """Writes the images before noise and translation (``--keep``), which denoisers need as ground truth."""

    def __init__(self, out: Path, keep: tuple[str, ...], scope: Microscope, extract: bool):
        self.out, self.keep, self.scope, self.extract = out, keep, scope, extract
        for name in keep:
            (out / name).mkdir(exist_ok=True)

    def write(self, index: int, clean: CleanMicrograph, physical: PhysicalNoise, scene: Scene,
              generator: torch.Generator) -> None:
        """Write the kept images of micrograph ``index``.

        Parameters
        ----------
        generator
            Random generator of the micrograph's noise; its state stays as it is.
        """
        pixel_size, name = self.scope.pixel_size, f"mic_{index:06d}.mrc"
        optical = 1 - clean.signal
        if "optical" in self.keep:
            with replacing(self.out / "optical" / name) as path:
                write_mrc(path, optical.cpu().numpy(), pixel_size)
            if self.extract and bool(clean.specimen.is_whole.any()):
                boxes = cut_boxes(clean.signal, clean.specimen, self.scope.box_size)
                with replacing(self.out / "optical" / f"{name}s") as path:
                    write_mrc(path, boxes.cpu().numpy(), pixel_size, stack=True)
        if "physical" in self.keep:
            with replacing(self.out / "physical" / name) as path:
                same = torch.Generator()
                same.set_state(generator.get_state())
                write_mrc(path, physical(optical, same, scene).cpu().numpy(), pixel_size)
