# SPDX-License-Identifier: GPL-3.0-or-later
"""``cryogem simulate``: makes clean micrographs of a map, with all labels."""
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cryogem_scipion.engine.compute.devices import chosen_device
from cryogem_scipion.engine.compute.parallel import check_memory, map_in_order, worker_count
from cryogem_scipion.engine.compute.threads import one_thread
from cryogem_scipion.engine.errors import CryogemError, SettingsError
from cryogem_scipion.engine.io.dataset import Manifest, read_manifest, read_table, write_manifest
from cryogem_scipion.engine.noise.real_micrograph import real_files
from cryogem_scipion.engine.runs.folder import (
    check_disk_space,
    check_holds_run,
    copy_sources,
    fingerprint,
    open_run_folder,
    provenance,
)
from cryogem_scipion.engine.runs.progress import track_progress
from cryogem_scipion.engine.settings import (
    GUESSED,
    MeasureSettings,
    SimulateSettings,
    measurement_problems,
    parse,
    read_measurement,
    with_measured,
)
from cryogem_scipion.engine.simulation.conformations import specimen_files
from cryogem_scipion.engine.simulation.contrast import measure_contrast
from cryogem_scipion.engine.simulation.dataset_writer import DatasetWriter
from cryogem_scipion.engine.simulation.maps import is_atomic_model
from cryogem_scipion.engine.simulation.microscope import Microscope, Specimen, prepare_microscope
from cryogem_scipion.engine.simulation.portable_settings import OTHER_FILES, portable_settings
from cryogem_scipion.engine.stages import measure

__all__ = ["run"]

log = logging.getLogger("cryogem")

MEASUREMENT = "measurement"
"""Folder, inside the simulation's folder, with the files of ``cryogem measure``."""
OF_THE_MACHINE = {"out", "device", "threads"}
"""Settings that change no result."""


@one_thread()
def run(settings: SimulateSettings) -> Manifest:
    """Write the micrographs 1 - s, masks, tables and manifest of a simulation.

    Raises
    ------
    CryogemError
        Input or settings are unusable; nothing has been written then, except a measurement of real micrographs.
    """
    device = chosen_device(settings.device)
    settings, measurement_warnings = _with_measurement(settings)
    with specimen_files(settings.model_copy(update={"real": (), "real_pixel_size": None})) as specimens:
        microscope = prepare_microscope(specimens.settings, device=device)
        inputs = specimens.settings
        others = filter(None, (getattr(inputs, name) for name in OTHER_FILES))
        files = [*inputs.volume, *others, *specimens.record_files]
        copies = sum(file.stat().st_size for file in files)
        check_disk_space(settings.out, settings.micrographs * _disk_bytes(microscope) + copies)
        check_memory(device, microscope.memory_bytes, settings.memory_remedy)
        out = open_run_folder(settings, inputs={file.name: fingerprint(file) for file in files
                                                if file not in specimens.record_files}, beside=(MEASUREMENT,))
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
        warnings=(*measurement_warnings, *writer.warnings()))
    write_manifest(out, manifest)
    log.info("simulated %d micrographs with %d particles (%d whole) in %s", settings.micrographs, writer.particle_count,
             writer.whole_particle_count, out)
    for warning in writer.warnings():  # those of the measurement are in the log already
        log.warning("warning: %s", warning)
    return manifest


def _with_measurement(settings: SimulateSettings) -> tuple[SimulateSettings, tuple[str, ...]]:
    """The settings, with measured values for those that are not set, and the warnings of the measurement.

    The measurement is in the folder ``MEASUREMENT``. If an earlier run with the same settings has finished it, it is
    not repeated.
    """
    chosen = {name: getattr(settings, name) for name in settings.model_fields_set}
    open_settings = [name for name in GUESSED if name not in chosen
                     and not (settings.ctfs and name in ("defocus_min", "defocus_max", "astigmatism_angstrom"))]
    if not settings.real or not open_settings:
        return settings, ()
    folder = settings.out / MEASUREMENT
    check_holds_run(settings.out, (MEASUREMENT,))
    if (settings.out / "source").is_dir() and not folder.is_dir():
        raise SettingsError(f"{settings.out} holds a run without a measurement; choose another out, or delete the "
                            "folder")
    wanted = _measure_settings(settings, folder)
    manifest = _finished(wanted) or measure.run(wanted)
    measured, reasons = read_measurement(folder)
    problems = measurement_problems(chosen, measured, reasons)
    if problems:
        raise SettingsError(f"{'; '.join(problems)}. {folder / 'measurement.png'} shows the measurement")
    return parse(SimulateSettings, with_measured(chosen, measured)), manifest.warnings


def _measure_settings(settings: SimulateSettings, folder: Path) -> MeasureSettings:
    """The settings of the measurement of a simulation's real micrographs, in a folder of its own."""
    if len(settings.volume) != 1 or is_atomic_model(settings.volume[0]):
        given = "a cryoDRGN folder" if settings.cryodrgn_folder else (
            f"{len(settings.volume)} maps" if len(settings.volume) > 1 else "an atomic model")
        raise SettingsError(f"real micrographs are measured with one density map, and not with {given}; run cryogem "
                            "measure with one map, and give its settings.json as config")
    known = [] if settings.ctfs is None else _files_with_ctf(settings.ctfs, settings.real)
    shared = ("volume_pixel_size", "real_pixel_size", "pixel_size", "voltage_kv", "cs_mm", "amplitude_contrast",
              "phase_shift_degrees", "symmetry", "seed", "device", "threads")
    return MeasureSettings(out=folder, volume=settings.volume[0], real=tuple(map(str, known)) or settings.real,
                           ctfs=settings.ctfs if known else None, **{name: getattr(settings, name) for name in shared})


def _files_with_ctf(ctfs: Path, patterns: Sequence[str]) -> list[Path]:
    """The real micrographs that a STAR file of measured CTFs names; empty if it holds those of other micrographs."""
    _, rows = read_table(ctfs, "micrographs")
    names = {Path(str(name)).name for name in rows.get("rlnMicrographName", ())}
    return [path for path in real_files(patterns) if path.name in names]


def _finished(wanted: MeasureSettings) -> Manifest | None:
    """The manifest of a finished measurement with these settings, if there is one in its folder."""
    try:
        manifest = read_manifest(wanted.out)
    except CryogemError:
        return None
    values = wanted.model_dump(mode="json", exclude=OF_THE_MACHINE)
    same = values == {name: value for name, value in manifest.settings.items() if name not in OF_THE_MACHINE}
    return manifest if same else None


def _disk_bytes(microscope: Microscope) -> int:
    """Disk space (bytes) of one micrograph with its mask and stack."""
    y, x = microscope.settings.micrograph_size
    stack = 4 * microscope.box_size ** 2 * int(microscope.settings.particles_mean) if microscope.settings.extract else 0
    return (8 if microscope.settings.soft_mask else 5) * y * x + stack + 3072
