# SPDX-License-Identifier: GPL-3.0-or-later
"""Export for RELION (doi:10.1016/j.jsb.2012.09.006): STAR files and the images that they name."""
from collections.abc import Iterable
from pathlib import Path

from cryogem_scipion.engine.export.images import export_micrographs, export_stacks, images_bytes, star_prefix
from cryogem_scipion.engine.export.selection import SelectedDataset, relion_columns, split_image_names
from cryogem_scipion.engine.io.dataset import MICROGRAPHS, PARTICLES, write_table
from cryogem_scipion.engine.settings import ExportSettings

__all__ = ["check", "disk_bytes", "write", "write_star"]

disk_bytes = images_bytes


def check(dataset: SelectedDataset, settings: ExportSettings) -> None:
    """Refuse, with ``SettingsError``, a path that RELION's STAR files cannot hold."""
    _prefix(settings)


def write(dataset: SelectedDataset, settings: ExportSettings, out: Path) -> list[str]:
    """Write images and STAR files into the folder ``out``; return the lines of its README.txt."""
    prefix = _prefix(settings)
    export_micrographs(dataset, settings, out)
    if settings.extract:
        export_stacks(dataset, settings, out)
    write_star(dataset, settings, out, prefix)
    base = "any folder" if settings.relative_to is None else f"the project {settings.relative_to.resolve()}"
    stars = [f"{prefix}{name}" for name in (MICROGRAPHS, PARTICLES)]
    lines = [f"RELION 3.1 or newer, started in {base}. Paths in the STAR files are "
             + ("absolute." if settings.relative_to is None else "relative to that project.")]
    if settings.extract:
        lines += [f"Particles with poses, CTFs and random halves (bright, background normalised): {stars[1]}.",
                  "  3D auto-refine, 2D or 3D classification: give it as 'Input images STAR file'. Or in a terminal:",
                  f"  relion_reconstruct --i {stars[1]} --o map.mrc --ctf"]
    return [*lines, f"Micrographs (protein dark) with CTFs: {stars[0]}.",
            "  Particle extraction: give it as 'micrograph STAR file'; set 'OR re-extract refined particles' to Yes, "
            f"with {stars[1]}; set 'Invert contrast' to Yes. Or in a terminal:",
            f"  relion_preprocess --i {stars[0]} --reextract_data_star {stars[1]} --part_dir Extract/ --part_star "
            f"Extract/particles.star --extract --extract_size {dataset.box_size} --norm --bg_radius "
            f"{dataset.box_size // 2} --invert_contrast"]


def write_star(dataset: SelectedDataset, settings: ExportSettings, out: Path, prefix: str) -> None:
    """Write micrographs.star and particles.star, with ``prefix`` before file names and with RELION's columns only."""
    micrographs = dataset.micrographs
    write_table(out / MICROGRAPHS, "micrographs", dataset.optics_table(with_images=False),
                micrographs.assign(rlnMicrographName=_with_prefix(prefix, micrographs["rlnMicrographName"])))
    rows = relion_columns(dataset.particles)
    rows = rows.assign(rlnMicrographName=_with_prefix(prefix, rows["rlnMicrographName"]))
    if settings.extract:
        numbers, stacks = split_image_names(rows["rlnImageName"])
        rows = rows.assign(rlnImageName=[
            f"{number:06d}@{stack}" for number, stack in zip(numbers, _with_prefix(prefix, stacks), strict=True)])
    else:
        rows = rows.drop(columns="rlnImageName", errors="ignore")
    # RELION needs the box size in the optics table even before it extracts the particles.
    write_table(out / PARTICLES, "particles", dataset.optics_table(with_images=True), rows)


def _with_prefix(prefix: str, names: Iterable[str]) -> list[str]:
    return [f"{prefix}{name}" for name in names]


def _prefix(settings: ExportSettings) -> str:
    return star_prefix(settings, f"{settings.out.resolve().as_posix()}/")
