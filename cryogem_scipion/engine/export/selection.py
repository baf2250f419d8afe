# SPDX-License-Identifier: GPL-3.0-or-later
"""What of a data set is handed over: its micrographs, its whole particles and where their boxes are cut."""
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cryogem_scipion.engine.errors import DataError, SettingsError
from cryogem_scipion.engine.io.dataset import (
    EXTRACTED,
    MANIFEST,
    MICROGRAPHS,
    PARTICLES,
    Manifest,
    path_inside,
    read_manifest,
    read_table,
)
from cryogem_scipion.engine.io.mrc import read_header
from cryogem_scipion.engine.io.particle_boxes import box_corners, boxes_inside
from cryogem_scipion.engine.settings import ExportSettings

__all__ = ["CTF", "ORIGIN", "PLACE", "Selection", "image_places", "own_columns", "select"]

PLACE = ["rlnCoordinateX", "rlnCoordinateY"]
ORIGIN = ["rlnOriginXAngst", "rlnOriginYAngst"]
CTF = ["rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnPhaseShift"]
MICROGRAPH_COLUMNS = ("rlnMicrographName", *CTF)
PARTICLE_COLUMNS = ("rlnMicrographName", *CTF, *PLACE, *ORIGIN, "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi",
                    "cryogemWhole")


@dataclass(frozen=True)
class Selection:
    """Rows of a data set's tables, with names inside the export; paths in them are relative to it."""

    folder: Path
    """The data set."""
    manifest: Manifest
    optics: dict[str, Any]
    """The row of the optics table."""
    micrographs: pd.DataFrame
    particles: pd.DataFrame
    """Whole particles; coordinates and origins are those of the boxes as they are cut."""
    shape: tuple[int, int]
    """Of the micrographs (y, x)."""
    box_size: int
    ready: bool
    """Whether the data set's own stacks are the ones wanted."""

    @property
    def sources(self) -> list[Path]:
        """Files that tell this data set from every other one."""
        tables = (self.folder / name for name in (MANIFEST, MICROGRAPHS, PARTICLES, EXTRACTED))
        return [path for path in tables if path.is_file()]

    @property
    def pixel_size(self) -> float:
        """Å per pixel."""
        return float(self.optics["rlnMicrographPixelSize"])

    @property
    def centres(self) -> NDArray[np.float64]:
        """True centres (x, y) in pixels of the micrographs."""
        origins = self.particles[ORIGIN].to_numpy(float) / self.pixel_size
        centres: NDArray[np.float64] = self.particles[PLACE].to_numpy(float) - origins
        return centres

    def optics_table(self, images: bool) -> pd.DataFrame:
        """The optics table; with ``images``, also what it says of particle images."""
        row = dict(self.optics)
        if images:
            row |= {"rlnImagePixelSize": self.pixel_size, "rlnImageSize": self.box_size, "rlnImageDimensionality": 2}
        return pd.DataFrame([row])


def select(settings: ExportSettings) -> Selection:
    """Read what the settings choose, before anything is written.

    Raises
    ------
    DataError
        The folder is no labelled data set, or a part of it that is asked for is not there.
    SettingsError
        The boxes do not fit the micrographs.
    """
    folder = settings.dataset
    manifest = read_manifest(folder)
    if manifest.stage not in ("simulate", "generate"):
        raise DataError(f"{folder} holds the result of '{manifest.stage}'; give a folder that 'cryogem simulate' or "
                        "'cryogem generate' made")
    optics, micrographs = read_table(folder / MICROGRAPHS, "micrographs", MICROGRAPH_COLUMNS)
    if len(optics) != 1:
        raise DataError(f"{folder / MICROGRAPHS} has {len(optics)} optics groups; export data sets one by one")
    has_stacks = (folder / EXTRACTED).is_file()
    table = EXTRACTED if has_stacks else PARTICLES
    _, particles = read_table(folder / table, "particles", PARTICLE_COLUMNS)
    particles = particles[particles["cryogemWhole"] == 1] if settings.box_size is None else _all(folder, particles)
    micrographs, particles = _part(settings, micrographs, particles, has_stacks)
    shape = _shape(folder, micrographs)
    box = settings.box_size or manifest.box_size
    if box is None or box > min(shape):
        raise SettingsError(f"box_size {box} does not fit micrographs of {shape[0]} x {shape[1]} pixels (y x); give "
                            f"box_size up to {min(shape)}")
    if settings.to == "cryodrgn" and box % 2:
        raise SettingsError(f"the data set's boxes have {box} pixels and cryoDRGN reads even ones only; give box_size "
                            f"{box + 1}")
    place = particles[PLACE].to_numpy(float)
    particles = particles[boxes_inside(box_corners(place, box), box, shape)]
    ready = has_stacks and box == manifest.box_size and not settings.random_shift
    if settings.random_shift:
        particles = _shifted(particles, settings, box, shape, float(optics["rlnMicrographPixelSize"].iloc[0]))
    if settings.extract and not ready:
        particles = _numbered(particles)
    particles = particles.reset_index(drop=True)
    if settings.to in ("topaz", "cryodrgn") and not len(particles):
        raise DataError(f"{folder} has no whole particle among those chosen; {settings.to} needs some")
    row = optics.to_dict("records")[0]
    return Selection(folder, manifest, {str(name): row[name] for name in row if not str(name).startswith("rlnImage")},
                     own_columns(micrographs).reset_index(drop=True), particles, shape, box, ready)


def image_places(names: "pd.Series[str]") -> tuple[NDArray[np.int64], list[str]]:
    """Number (from 1) and stack of images named as in ``000001@particles/mic_000000.mrcs``."""
    parts = [str(name).partition("@") for name in names]
    return np.array([int(number) for number, _, _ in parts], np.int64), [stack for _, _, stack in parts]


def own_columns(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with RELION's own columns only."""
    return rows[[name for name in rows if not str(name).startswith("cryogem")]]


def _all(folder: Path, extracted: pd.DataFrame) -> pd.DataFrame:
    """Every particle, also those that the data set's own box cuts; images of those that have one."""
    _, particles = read_table(folder / PARTICLES, "particles", PARTICLE_COLUMNS)
    if "rlnImageName" in extracted:
        # Both tables have the whole particles in the same order.
        particles.loc[particles["cryogemWhole"] == 1, "rlnImageName"] = extracted["rlnImageName"].to_numpy()
    return particles


def _part(settings: ExportSettings, micrographs: pd.DataFrame, particles: pd.DataFrame, has_stacks: bool
          ) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows that belong to the micrographs or particles asked for."""
    if settings.dataset_micrographs:
        micrographs = _chosen(micrographs, "rlnMicrographName", settings.dataset_micrographs, "micrographs")
    if settings.dataset_particles:
        if not has_stacks:
            raise DataError(f"{settings.dataset} has no extracted particles to choose from; choose micrographs")
        particles = _chosen(particles, "rlnImageName", settings.dataset_particles, "particles")
        micrographs = micrographs[micrographs["rlnMicrographName"].isin(particles["rlnMicrographName"])]
    if not len(micrographs):
        raise DataError(f"no micrographs of {settings.dataset} are chosen; choose at least one")
    return micrographs, particles[particles["rlnMicrographName"].isin(micrographs["rlnMicrographName"])]


def _chosen(rows: pd.DataFrame, column: str, path: Path, name: str) -> pd.DataFrame:
    _, wanted = read_table(path, name, (column,))
    unknown = set(wanted[column]) - set(rows[column])
    if unknown:
        raise DataError(f"{path} asks for {min(unknown)}, which the data set does not have; choose from its own {name}")
    return rows[rows[column].isin(wanted[column])]


def _shape(folder: Path, micrographs: pd.DataFrame) -> tuple[int, int]:
    """Size (y, x) that all micrographs have; also makes sure that every one is there."""
    shapes = {read_header(path_inside(folder, name), 2)[0] for name in micrographs["rlnMicrographName"]}
    if len(shapes) != 1:
        raise DataError(f"{folder} has micrographs of {len(shapes)} sizes; make it again")
    y, x = shapes.pop()
    return y, x


def _shifted(particles: pd.DataFrame, settings: ExportSettings, box: int, shape: tuple[int, int], pixel_size: float
             ) -> pd.DataFrame:
    """Boxes moved at random, as far as they stay in the field; coordinates and origins move together."""
    first = box_corners(particles[PLACE].to_numpy(float), box)
    most = np.array(shape[::-1]) - box
    reach = settings.random_shift
    random = np.random.default_rng([settings.seed, 0xB0])
    shift = random.integers(np.maximum(-reach, -first), np.minimum(reach, most - first), endpoint=True)
    return particles.assign(**{name: particles[name] + shift[:, axis] for axis, name in enumerate(PLACE)},
                            **{name: particles[name] + shift[:, axis] * pixel_size for axis, name in enumerate(ORIGIN)})


def _numbered(particles: pd.DataFrame) -> pd.DataFrame:
    """Names of images that are cut anew: a stack for each micrograph."""
    number = particles.groupby("rlnMicrographName", sort=False).cumcount() + 1
    return particles.assign(rlnImageName=[
        f"{count:06d}@particles/{PurePosixPath(name).stem}.mrcs"
        for count, name in zip(number, particles["rlnMicrographName"], strict=True)])
