# SPDX-License-Identifier: GPL-3.0-or-later
"""Selection of the micrographs and whole particles of a dataset folder that are exported, and of their boxes."""
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

__all__ = ["COORDINATE", "CTF", "ORIGIN", "SelectedDataset", "relion_columns", "select_dataset", "split_image_names"]

COORDINATE = ["rlnCoordinateX", "rlnCoordinateY"]
ORIGIN = ["rlnOriginXAngst", "rlnOriginYAngst"]
CTF = ["rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnPhaseShift"]
MICROGRAPH_COLUMNS = ("rlnMicrographName", *CTF)
PARTICLE_COLUMNS = ("rlnMicrographName", *CTF, *COORDINATE, *ORIGIN, "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi",
                    "cryogemWhole")


@dataclass(frozen=True)
class SelectedDataset:
    """The part of a dataset that is exported; paths in its tables are relative to the export."""

    folder: Path
    """The dataset folder."""
    manifest: Manifest
    """Manifest of the dataset folder."""
    optics: dict[str, Any]
    """The row of the optics table."""
    micrographs: pd.DataFrame
    """Rows of micrographs.star."""
    particles: pd.DataFrame
    """Rows of the whole particles; coordinates and origins are those of the exported boxes."""
    shape: tuple[int, int]
    """Size of the micrographs (y, x), pixels."""
    box_size: int
    """Pixels."""
    reuses_stacks: bool
    """Whether the stacks of the dataset are exported; otherwise the particles are extracted again."""

    @property
    def table_files(self) -> list[Path]:
        """The manifest and the tables of the dataset folder, which identify it."""
        tables = (self.folder / name for name in (MANIFEST, MICROGRAPHS, PARTICLES, EXTRACTED))
        return [path for path in tables if path.is_file()]

    @property
    def pixel_size(self) -> float:
        """Å per pixel."""
        return float(self.optics["rlnMicrographPixelSize"])

    @property
    def centres(self) -> NDArray[np.float64]:
        """True centres of the particles, x and y, pixels of the micrograph."""
        origins = self.particles[ORIGIN].to_numpy(float) / self.pixel_size
        centres: NDArray[np.float64] = self.particles[COORDINATE].to_numpy(float) - origins
        return centres

    def optics_table(self, with_images: bool) -> pd.DataFrame:
        """RELION's optics table; ``with_images`` adds pixel size and box size of the particle images."""
        row = dict(self.optics)
        if with_images:
            row |= {"rlnImagePixelSize": self.pixel_size, "rlnImageSize": self.box_size, "rlnImageDimensionality": 2}
        return pd.DataFrame([row])


def select_dataset(settings: ExportSettings) -> SelectedDataset:
    """Read the part of a dataset that the settings choose; writes nothing.

    Raises
    ------
    DataError
        The folder is not a dataset folder, a chosen micrograph or particle is missing, or nothing is left to export.
    SettingsError
        The box size does not fit the micrographs or the program.
    """
    folder = settings.dataset
    manifest = read_manifest(folder)
    if manifest.stage not in ("simulate", "generate"):
        raise DataError(f"{folder} holds the result of '{manifest.stage}'; give a folder that 'cryogem simulate' or "
                        "'cryogem generate' made")
    optics, micrographs = read_table(folder / MICROGRAPHS, "micrographs", MICROGRAPH_COLUMNS)
    if len(optics) != 1:
        raise DataError(f"{folder / MICROGRAPHS} has {len(optics)} optics groups; export each dataset by itself")
    has_stacks = (folder / EXTRACTED).is_file()
    table = EXTRACTED if has_stacks else PARTICLES
    _, particles = read_table(folder / table, "particles", PARTICLE_COLUMNS)
    if settings.box_size is None:
        particles = particles[particles["cryogemWhole"] == 1]
    else:
        particles = _all_particles(folder, particles)
    micrographs, particles = _chosen_part(settings, micrographs, particles, has_stacks)
    shape = _micrograph_shape(folder, micrographs)
    box = settings.box_size or manifest.box_size
    if box is None or box > min(shape):
        raise SettingsError(f"box_size {box} does not fit micrographs of {shape[0]} x {shape[1]} pixels (y x); give "
                            f"box_size up to {min(shape)}")
    if settings.to == "cryodrgn" and box % 2:
        raise SettingsError(f"the boxes of the dataset have {box} pixels, but cryoDRGN reads even sizes only; give "
                            f"box_size {box + 1}")
    coordinates = particles[COORDINATE].to_numpy(float)
    particles = particles[boxes_inside(box_corners(coordinates, box), box, shape)]
    reuses_stacks = has_stacks and box == manifest.box_size and not settings.random_shift
    if settings.random_shift:
        pixel_size = float(optics["rlnMicrographPixelSize"].iloc[0])
        particles = _with_random_shifts(particles, settings, box, shape, pixel_size)
    if settings.extract and not reuses_stacks:
        particles = _with_image_names(particles)
    particles = particles.reset_index(drop=True)
    if settings.to in ("topaz", "cryodrgn") and not len(particles):
        raise DataError(f"none of the chosen particles of {folder} is whole; {settings.to} needs at least one whole "
                        "particle")
    optics_row = optics.to_dict("records")[0]
    optics_row = {str(name): value for name, value in optics_row.items() if not str(name).startswith("rlnImage")}
    return SelectedDataset(folder, manifest, optics_row, relion_columns(micrographs).reset_index(drop=True), particles,
                           shape, box, reuses_stacks)


def split_image_names(names: "pd.Series[str]") -> tuple[NDArray[np.int64], list[str]]:
    """Split image names such as ``000001@particles/mic_000000.mrcs`` into numbers (from 1) and stacks."""
    parts = [str(name).partition("@") for name in names]
    return np.array([int(number) for number, _, _ in parts], np.int64), [stack for _, _, stack in parts]


def relion_columns(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows without the columns that only this program knows."""
    return rows[[name for name in rows if not str(name).startswith("cryogem")]]


def _all_particles(folder: Path, extracted: pd.DataFrame) -> pd.DataFrame:
    """All particles, also those cut by the border; whole particles get the image names of ``extracted``."""
    _, particles = read_table(folder / PARTICLES, "particles", PARTICLE_COLUMNS)
    if "rlnImageName" in extracted:
        # The whole particles have the same order in both tables.
        particles.loc[particles["cryogemWhole"] == 1, "rlnImageName"] = extracted["rlnImageName"].to_numpy()
    return particles


def _chosen_part(settings: ExportSettings, micrographs: pd.DataFrame, particles: pd.DataFrame, has_stacks: bool
                 ) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of the chosen micrographs or particles."""
    if settings.dataset_micrographs:
        micrographs = _chosen_rows(micrographs, "rlnMicrographName", settings.dataset_micrographs, "micrographs")
    if settings.dataset_particles:
        if not has_stacks:
            raise DataError(f"{settings.dataset} has no extracted particles to choose from; choose micrographs")
        particles = _chosen_rows(particles, "rlnImageName", settings.dataset_particles, "particles")
        micrographs = micrographs[micrographs["rlnMicrographName"].isin(particles["rlnMicrographName"])]
    if not len(micrographs):
        raise DataError(f"no micrograph of {settings.dataset} is chosen; choose at least one")
    return micrographs, particles[particles["rlnMicrographName"].isin(micrographs["rlnMicrographName"])]


def _chosen_rows(rows: pd.DataFrame, column: str, path: Path, name: str) -> pd.DataFrame:
    _, chosen = read_table(path, name, (column,))
    unknown = set(chosen[column]) - set(rows[column])
    if unknown:
        raise DataError(f"{path} names {min(unknown)}, which the dataset does not have; give rows of the dataset's own "
                        f"{name}")
    return rows[rows[column].isin(chosen[column])]


def _micrograph_shape(folder: Path, micrographs: pd.DataFrame) -> tuple[int, int]:
    """Size (y, x) of the micrographs; ``DataError`` if one is missing or their sizes differ."""
    shapes = {read_header(path_inside(folder, name), 2)[0] for name in micrographs["rlnMicrographName"]}
    if len(shapes) != 1:
        raise DataError(f"{folder} has micrographs of {len(shapes)} different sizes; make the dataset again")
    y, x = shapes.pop()
    return y, x


def _with_random_shifts(particles: pd.DataFrame, settings: ExportSettings, box: int, shape: tuple[int, int],
                        pixel_size: float) -> pd.DataFrame:
    """Rows whose boxes are shifted at random inside the micrograph; the origins change by the same amount."""
    corner = box_corners(particles[COORDINATE].to_numpy(float), box)
    last_corner = np.array(shape[::-1]) - box
    max_shift = settings.random_shift
    random = np.random.default_rng([settings.seed, 0xB0])
    lowest, highest = np.maximum(-max_shift, -corner), np.minimum(max_shift, last_corner - corner)
    shifts = random.integers(lowest, highest, endpoint=True)
    return particles.assign(**{name: particles[name] + shifts[:, axis] for axis, name in enumerate(COORDINATE)},
                            **{name: particles[name] + shifts[:, axis] * pixel_size
                               for axis, name in enumerate(ORIGIN)})


def _with_image_names(particles: pd.DataFrame) -> pd.DataFrame:
    """Rows with new image names: one stack for each micrograph."""
    numbers = particles.groupby("rlnMicrographName", sort=False).cumcount() + 1
    return particles.assign(rlnImageName=[
        f"{count:06d}@particles/{PurePosixPath(name).stem}.mrcs"
        for count, name in zip(numbers, particles["rlnMicrographName"], strict=True)])
