# SPDX-License-Identifier: GPL-3.0-or-later
"""Poses of particles from STAR files, and the pairing of the same particles in two files."""
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.dataset import read_blocks
from cryogem_scipion.engine.scoring.coordinates import particle_centres, pixel_sizes
from cryogem_scipion.engine.scoring.file_names import match_file_names
from cryogem_scipion.engine.scoring.matching import match_positions

__all__ = ["ParticlePoses", "pair_particles", "read_poses", "relion_matrices"]

ANGLES = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]


@dataclass(frozen=True)
class ParticlePositions:
    """Positions of particles on their micrographs."""

    micrographs: pd.Series
    """Name of each particle's micrograph (n)."""
    centres: NDArray[np.float64]
    """True centres x, y on the micrograph (n, 2), Å."""


@dataclass(frozen=True)
class ParticlePoses:
    """Particles of one STAR file. Values that the file does not have are None."""

    path: Path
    rotations: NDArray[np.float64]
    """RELION's rotation matrix A of each particle (n, 3, 3)."""
    origins: NDArray[np.float64]
    """rlnOriginXAngst and rlnOriginYAngst (n, 2), Å; 0 if the file has none."""
    image_names: pd.Series | None
    """Image names (n), such as ``000001@stack.mrcs``."""
    positions: ParticlePositions | None
    defocus: NDArray[np.float64] | None
    """Mean of rlnDefocusU and rlnDefocusV (n,), Å."""
    pixel_size: float | None
    """Å per pixel of the micrographs; that of the first particle if they differ."""

    def __len__(self) -> int:
        return len(self.rotations)


def relion_matrices(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rotation matrices A of RELION's Euler angles.

    Parameters
    ----------
    degrees
        rot, tilt and psi (n, 3), degrees.

    Returns
    -------
    Matrices (n, 3, 3). RELION's angles rotate the axes, so the object rotates by the negative angles.

    References
    ----------
    doi:10.1016/j.jsb.2012.09.006
    """
    return np.asarray(Rotation.from_euler("zyz", -degrees, degrees=True).as_matrix())


def read_poses(path: Path, pixel_size: float | None) -> ParticlePoses:
    """Read the particles of a STAR file of RELION 3.0 or later.

    Parameters
    ----------
    path
        The STAR file.
    pixel_size
        Å per pixel of the micrographs; None takes the value in the file.

    Raises
    ------
    DataError
        The file has no particles with angles, or a value in it cannot be read.
    """
    blocks = read_blocks(path)
    rows = next((block for block in blocks.values() if set(ANGLES) <= set(block)), None)
    if rows is None or rows.empty:
        raise DataError(f"{path} has no particles with {', '.join(ANGLES)}; give the STAR file of a 3D refinement")
    try:
        angles = rows[ANGLES].to_numpy(float)
        if not np.isfinite(angles).all():
            raise DataError(f"{path} has angles that are not finite numbers; remove these rows")
        optics = blocks.get("optics", pd.DataFrame())
        sizes = pixel_size or pixel_sizes(rows, optics)
        image_pixel_size = sizes
        if "rlnImagePixelSize" in optics:
            image_pixel_size = pd.to_numeric(optics["rlnImagePixelSize"]).iloc[0]
        has_positions = {"rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY"} <= set(rows) and sizes is not None
        positions = defocus = None
        if has_positions:
            centres = np.column_stack(particle_centres(rows, sizes))
            positions = ParticlePositions(rows["rlnMicrographName"], centres)
        if {"rlnDefocusU", "rlnDefocusV"} <= set(rows):
            defocus = rows[["rlnDefocusU", "rlnDefocusV"]].to_numpy(float).mean(1)
        return ParticlePoses(path, relion_matrices(angles), _origins(rows, image_pixel_size), rows.get("rlnImageName"),
                             positions, defocus, None if sizes is None else float(np.ravel(sizes)[0]))
    except (ValueError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} has values that cannot be read ({error}); check the file") from None


def pair_particles(refined: ParticlePoses, truth: ParticlePoses, radius: float) -> tuple[NDArray[np.int64], str]:
    """Find the true particle of each refined particle.

    If both files have coordinates, the positions on the micrographs decide, because particles that were extracted
    again have other image names. Otherwise the image names decide.

    Parameters
    ----------
    refined, truth
        Particles of the refinement, and the true ones.
    radius
        Centres of the same particle are closer than this, Å.

    Returns
    -------
    Index of the true particle (n,), -1 for a particle without one; and the kind of pairing, "coordinates" or "image
    names".

    Raises
    ------
    DataError
        The files have neither coordinates nor image names in common, or an image name occurs twice.
    """
    if refined.positions is not None and truth.positions is not None:
        return _pair_by_position(refined.positions, truth.positions, radius), "coordinates"
    if refined.image_names is not None and truth.image_names is not None:
        refined_images, true_images = (_split_image_names(poses.path, poses.image_names) for poses in (refined, truth))
        return _pair_by_image(refined_images, true_images), "image names"
    raise DataError(f"{refined.path} and {truth.path} have neither coordinates (with a pixel size) nor image names in "
                    "common; give pixel_size, or give the extracted.star of the refined images as truth")


def _pair_by_position(refined: ParticlePositions, truth: ParticlePositions, radius: float) -> NDArray[np.int64]:
    names = match_file_names(truth.micrographs, refined.micrographs)
    true_rows = _rows_of_micrographs(truth)
    partner = np.full(len(refined.centres), -1)
    for name, rows in _rows_of_micrographs(refined).items():
        if name in names:
            candidates = true_rows[names[name]]
            index = match_positions(refined.centres[rows], truth.centres[candidates], radius)
            partner[rows[index >= 0]] = candidates[index[index >= 0]]
    return partner


def _rows_of_micrographs(positions: ParticlePositions) -> dict[str, NDArray[np.int64]]:
    """Indices of the particles of each micrograph."""
    return {str(name): np.asarray(rows) for name, rows in
            positions.micrographs.reset_index(drop=True).groupby(positions.micrographs.to_numpy()).indices.items()}


def _pair_by_image(refined: pd.DataFrame, truth: pd.DataFrame) -> NDArray[np.int64]:
    names = match_file_names(truth["stack"], refined["stack"])
    true_row = {key: row for row, key in enumerate(zip(truth["number"], truth["stack"], strict=True))}
    return np.array([true_row.get((number, names.get(stack, "")), -1)
                     for number, stack in zip(refined["number"], refined["stack"], strict=True)])


def _split_image_names(path: Path, images: pd.Series) -> pd.DataFrame:
    """Columns ``number`` (in the stack) and ``stack`` of image names such as ``000001@stack.mrcs``."""
    parts = images.str.extract(r"^0*(?P<number>\d+)@(?P<stack>.+)$")
    if parts.isna().any(axis=None):
        raise DataError(f"{path} has image names that are not like 000001@stack.mrcs; give a STAR file of particle "
                        "stacks")
    if parts.duplicated().any():
        raise DataError(f"{path} names the image {images[parts.duplicated()].iloc[0]} twice; remove one")
    return parts


def _origins(rows: pd.DataFrame, pixel_size: object) -> NDArray[np.float64]:
    if {"rlnOriginXAngst", "rlnOriginYAngst"} <= set(rows):
        return np.asarray(rows[["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy(float))
    if {"rlnOriginX", "rlnOriginY"} <= set(rows) and pixel_size is not None:
        return np.asarray(rows[["rlnOriginX", "rlnOriginY"]].to_numpy(float).T * pixel_size).T
    return np.zeros((len(rows), 2))
