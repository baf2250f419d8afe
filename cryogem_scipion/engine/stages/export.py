# SPDX-License-Identifier: GPL-3.0-or-later
"""``cryogem export``: a data set in the form that another program reads as it is."""
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
class Target:
    """What a program needs: refusals before anything is written, disk space (bytes), and the writing itself."""

    check: Callable[[SelectedDataset, ExportSettings], None]
    needed: Callable[[SelectedDataset, ExportSettings], int]
    write: Callable[[SelectedDataset, ExportSettings, Path], list[str]]


TARGETS = {
    "relion": Target(relion.check, relion.disk_bytes, relion.write),
    "cryosparc": Target(cryosparc.check, cryosparc.disk_bytes, cryosparc.write),
    "topaz": Target(topaz.check, topaz.disk_bytes, topaz.write),
    "cryodrgn": Target(cryodrgn.check, cryodrgn.disk_bytes, cryodrgn.write)}


@one_thread()
def run(settings: ExportSettings) -> Manifest:
    """Write the export, its README.txt and manifest.

    Raises
    ------
    CryogemError
        Input or settings are unusable; nothing has been written then.
    """
    target = TARGETS[settings.to]
    selection = select_dataset(settings)
    target.check(selection, settings)
    check_disk_space(settings.out, target.needed(selection, settings))
    out = open_run_folder(settings, inputs={"data set": fingerprint(*selection.table_files), **_parts(settings)})
    lines = target.write(selection, settings, out)
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


def _parts(settings: ExportSettings) -> dict[str, str]:
    """Fingerprints of the files that choose a part of the data set."""
    chosen = {"choice of micrographs": settings.dataset_micrographs, "choice of particles": settings.dataset_particles}
    return {name: fingerprint(path) for name, path in chosen.items() if path}
