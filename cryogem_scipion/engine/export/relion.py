# SPDX-License-Identifier: GPL-3.0-or-later
"""For RELION: STAR files with absolute paths, or relative to a project, and the images they name."""
from collections.abc import Iterable
from pathlib import Path

from cryogem_scipion.engine.export.images import bring_micrographs, bring_stacks, bytes_of_images, star_prefix
from cryogem_scipion.engine.export.selection import Selection, image_places, own_columns
from cryogem_scipion.engine.io.dataset import MICROGRAPHS, PARTICLES, write_table
from cryogem_scipion.engine.settings import ExportSettings

__all__ = ["check", "needed", "write", "write_star"]

needed = bytes_of_images


def check(selection: Selection, settings: ExportSettings) -> None:
    """Refuse what RELION could not read."""
    _prefix(settings)


def write(selection: Selection, settings: ExportSettings, out: Path) -> list[str]:
    """Write the export; returns what to do next."""
    prefix = _prefix(settings)
    bring_micrographs(selection, settings, out)
    if settings.extract:
        bring_stacks(selection, settings, out)
    write_star(selection, settings, out, prefix)
    base = "any folder" if settings.relative_to is None else f"the project {settings.relative_to.resolve()}"
    stars = [f"{prefix}{name}" for name in (MICROGRAPHS, PARTICLES)]
    lines = [f"RELION 3.1 or newer, started in {base}. Paths in the STAR files are "
             + ("absolute." if settings.relative_to is None else "relative to that project.")]
    if settings.extract:
        lines += [f"Particles with poses, CTFs and random halves (bright, background normalised): {stars[1]}.",
                  "  3D auto-refine, 2D or 3D classification: give it as 'Input images STAR file'. Or in a terminal:",
                  f"  relion_reconstruct --i {stars[1]} --o map.mrc --ctf"]
    return [*lines, f"Micrographs (protein dark) with CTFs: {stars[0]}.",
            "  Particle extraction: 'micrograph STAR file' that one; 'OR re-extract refined particles' Yes, with "
            f"{stars[1]}; 'Invert contrast' Yes. Or in a terminal:",
            f"  relion_preprocess --i {stars[0]} --reextract_data_star {stars[1]} --part_dir Extract/ --part_star "
            f"Extract/particles.star --extract --extract_size {selection.box_size} --norm --bg_radius "
            f"{selection.box_size // 2} --invert_contrast"]


def write_star(selection: Selection, settings: ExportSettings, out: Path, prefix: str) -> None:
    """Write micrographs.star and particles.star, names with ``prefix``, RELION's own columns only."""
    micrographs = selection.micrographs
    write_table(out / MICROGRAPHS, "micrographs", selection.optics_table(images=False),
                micrographs.assign(rlnMicrographName=_under(prefix, micrographs["rlnMicrographName"])))
    rows = own_columns(selection.particles)
    rows = rows.assign(rlnMicrographName=_under(prefix, rows["rlnMicrographName"]))
    if settings.extract:
        numbers, stacks = image_places(rows["rlnImageName"])
        rows = rows.assign(rlnImageName=[
            f"{number:06d}@{stack}" for number, stack in zip(numbers, _under(prefix, stacks), strict=True)])
    else:
        rows = rows.drop(columns="rlnImageName", errors="ignore")
    # RELION asks for the box in the optics table even where it has yet to cut the particles.
    write_table(out / PARTICLES, "particles", selection.optics_table(images=True), rows)


def _under(prefix: str, names: Iterable[str]) -> list[str]:
    return [f"{prefix}{name}" for name in names]


def _prefix(settings: ExportSettings) -> str:
    return star_prefix(settings, f"{settings.out.resolve().as_posix()}/")
