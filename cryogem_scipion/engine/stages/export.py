# SPDX-License-Identifier: GPL-3.0-or-later
"""``cryogem export``: writes a dataset for another program, which reads it without conversion."""
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryogem_scipion.engine.compute.threads import one_thread
from cryogem_scipion.engine.export import cryodrgn, cryosparc, relion, topaz
from cryogem_scipion.engine.export.selection import SelectedDataset, select_dataset
from cryogem_scipion.engine.io.dataset import README, Manifest, replacing, write_manifest
from cryogem_scipion.engine.runs.folder import check_disk_space, fingerprint, open_run_folder, provenance
from cryogem_scipion.engine.settings import ExportSettings

__all__ = ["run"]

log = logging.getLogger("cryogem")


@dataclass(frozen=True)
class Exporter:
    """The functions that export for one program."""

    check: Callable[[SelectedDataset, ExportSettings], None]
    """Refuses what the program cannot read, before anything is written."""
    disk_bytes: Callable[[SelectedDataset, ExportSettings], int]
    """Disk space that the export needs."""
    write: Callable[[SelectedDataset, ExportSettings, Path], list[str]]
    """Writes the export, and returns the lines of its README.txt."""


EXPORTERS = {
    "relion": Exporter(relion.check, relion.disk_bytes, relion.write),
    "cryosparc": Exporter(cryosparc.check, cryosparc.disk_bytes, cryosparc.write),
    "topaz": Exporter(topaz.check, topaz.disk_bytes, topaz.write),
    "cryodrgn": Exporter(cryodrgn.check, cryodrgn.disk_bytes, cryodrgn.write)}


@one_thread()
def run(settings: ExportSettings) -> Manifest:
    """Write the export, its README.txt and manifest.

    Raises
    ------
    CryogemError
        Input or settings are unusable; nothing has been written then.
    """
    exporter = EXPORTERS[settings.to]
    selection = select_dataset(settings)
    exporter.check(selection, settings)
    check_disk_space(settings.out, exporter.disk_bytes(selection, settings))
    out = open_run_folder(settings, inputs={"data set": fingerprint(*selection.table_files),
                                            **_selection_fingerprints(settings)})
    lines = exporter.write(selection, settings, out)
    with replacing(out / README) as path:
        path.write_text("\n".join(lines) + "\n", "utf-8")
    source = selection.manifest
    manifest = Manifest(
        stage="export", **provenance(), settings=settings.model_dump(mode="json"),
        simulation=source.simulation, seed=settings.seed, pixel_size=selection.pixel_size * settings.binning,
        micrographs=len(selection.micrographs), particles=len(selection.particles),
        whole_particles=len(selection.particles), box_size=selection.box_size,
        particle_diameter_angstrom=source.particle_diameter_angstrom, contrast=source.contrast)
    write_manifest(out, manifest)
    log.info("exported %d micrographs with %d particles for %s; see %s", manifest.micrographs, manifest.particles,
             settings.to, out / README)
    return manifest


def _selection_fingerprints(settings: ExportSettings) -> dict[str, str]:
    """Fingerprints of the files that choose a part of the dataset."""
    chosen = {"choice of micrographs": settings.dataset_micrographs, "choice of particles": settings.dataset_particles}
    return {name: fingerprint(path) for name, path in chosen.items() if path}
