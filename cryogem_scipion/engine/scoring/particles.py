# SPDX-License-Identifier: GPL-3.0-or-later
"""Particles with poses, read from STAR files, and which of two sets are the same."""
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.dataset import read_blocks
from cryogem_scipion.engine.scoring.coordinates import centres, pixel_sizes
from cryogem_scipion.engine.scoring.matching import match
from cryogem_scipion.engine.scoring.names import same_files

__all__ = ["Poses", "pair", "read_poses", "relion_matrices"]

ANGLES = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]


@dataclass(frozen=True)
class Places:
    """Where particles lie."""

    micrographs: pd.Series
    centres: NDArray[np.float64]
    """x, y on the micrograph (n, 2), Å."""


@dataclass(frozen=True)
class Poses:
    """Particles of one STAR file; what the file does not say is None."""

    path: Path
    matrices: NDArray[np.float64]
    """RELION's A of each particle (n, 3, 3)."""
    origins: NDArray[np.float64]
    """rlnOriginXAngst and YAngst (n, 2), Å; 0 where there are none."""
    images: pd.Series | None
    """Image names, ``000001@stack.mrcs``."""
    places: Places | None
    defocus: NDArray[np.float64] | None
    """Mean of both directions (n,), Å."""
    pixel_size: float | None
    """Å per pixel of the micrographs; the first, where there are several."""

    def __len__(self) -> int:
        return len(self.matrices)


def relion_matrices(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return RELION's A (n, 3, 3) of rot, tilt and psi (n, 3): turns of the axes, so of the object by minus them."""
    return np.asarray(Rotation.from_euler("zyz", -degrees, degrees=True).as_matrix())


def read_poses(path: Path, pixel_size: float | None) -> Poses:
    """Return the particles of a STAR file of RELION, 3.0 or later.

    Raises
    ------
    DataError
        The file cannot be used.
    """
    blocks = read_blocks(path)
    rows = next((block for block in blocks.values() if set(ANGLES) <= set(block)), None)
    if rows is None or rows.empty:
        raise DataError(f"{path} has no particles with {', '.join(ANGLES)}; give the STAR file of a 3D refinement")
    try:
        angles = rows[ANGLES].to_numpy(float)
        if not np.isfinite(angles).all():
            raise DataError(f"{path} has angles that are no finite numbers; remove these rows")
        optics = blocks.get("optics", pd.DataFrame())
        sizes = pixel_size or pixel_sizes(rows, optics)
        images = pd.to_numeric(optics["rlnImagePixelSize"]).iloc[0] if "rlnImagePixelSize" in optics else sizes
        located = {"rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY"} <= set(rows) and sizes is not None
        defocus = None
        if {"rlnDefocusU", "rlnDefocusV"} <= set(rows):
            defocus = rows[["rlnDefocusU", "rlnDefocusV"]].to_numpy(float).mean(1)
        return Poses(path, relion_matrices(angles), _origins(rows, images), rows.get("rlnImageName"),
                     Places(rows["rlnMicrographName"], np.column_stack(centres(rows, sizes))) if located else None,
                     defocus, None if sizes is None else float(np.ravel(sizes)[0]))
    except (ValueError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} has values that cannot be read ({error}); check the file") from None


def pair(found: Poses, truth: Poses, radius: float) -> tuple[NDArray[np.int64], str]:
    """Say which true particle each of the found ones is.

    By the place on the micrograph where both files tell it, since a stack that was cut again has other image names;
    else by image name.

    Parameters
    ----------
    radius
        Å; the same particle's centres are closer than this.

    Returns
    -------
    Indices of true particles, -1 where there is none; and by what they were paired.

    Raises
    ------
    DataError
        The files have nothing in common, or name a particle twice.
    """
    if found.places is not None and truth.places is not None:
        return _by_place(found.places, truth.places, radius), "coordinates"
    if found.images is not None and truth.images is not None:
        return _by_image(_split(found.path, found.images), _split(truth.path, truth.images)), "image names"
    raise DataError(f"{found.path} and {truth.path} have neither coordinates (with a pixel size) nor image names in "
                    "common; give pixel_size, or as truth the extracted.star whose images were refined")


def _by_place(found: Places, truth: Places, radius: float) -> NDArray[np.int64]:
    names = same_files(truth.micrographs, found.micrographs)
    there = _rows(truth)
    partner = np.full(len(found.centres), -1)
    for name, rows in _rows(found).items():
        if name in names:
            candidates = there[names[name]]
            index = match(found.centres[rows], truth.centres[candidates], radius)
            partner[rows[index >= 0]] = candidates[index[index >= 0]]
    return partner


def _rows(places: Places) -> dict[str, NDArray[np.int64]]:
    """The rows of each micrograph."""
    return {str(name): np.asarray(rows) for name, rows in
            places.micrographs.reset_index(drop=True).groupby(places.micrographs.to_numpy()).indices.items()}


def _by_image(found: pd.DataFrame, truth: pd.DataFrame) -> NDArray[np.int64]:
    names = same_files(truth["stack"], found["stack"])
    place = {key: row for row, key in enumerate(zip(truth["number"], truth["stack"], strict=True))}
    return np.array([place.get((number, names.get(stack, "")), -1)
                     for number, stack in zip(found["number"], found["stack"], strict=True)])


def _split(path: Path, images: pd.Series) -> pd.DataFrame:
    """Number in the stack, and stack, of each image."""
    parts = images.str.extract(r"^0*(?P<number>\d+)@(?P<stack>.+)$")
    if parts.isna().any(axis=None):
        raise DataError(f"{path} has image names that are no 000001@stack.mrcs; give a STAR file of stacks")
    if parts.duplicated().any():
        raise DataError(f"{path} names the image {images[parts.duplicated()].iloc[0]} twice; remove one")
    return parts


def _origins(rows: pd.DataFrame, pixel_size: object) -> NDArray[np.float64]:
    if {"rlnOriginXAngst", "rlnOriginYAngst"} <= set(rows):
        return np.asarray(rows[["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy(float))
    if {"rlnOriginX", "rlnOriginY"} <= set(rows) and pixel_size is not None:
        return np.asarray(rows[["rlnOriginX", "rlnOriginY"]].to_numpy(float).T * pixel_size).T
    return np.zeros((len(rows), 2))
