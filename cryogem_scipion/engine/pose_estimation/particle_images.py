# SPDX-License-Identifier: GPL-3.0-or-later
"""Particles of a STAR file or of a dataset folder: their images, pixel sizes and CTFs, and their poses if known."""
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.dataset import EXTRACTED, read_blocks, read_manifest
from cryogem_scipion.engine.io.mrc import read_images, read_stack_header
from cryogem_scipion.engine.pose_estimation.polar_spectra import ImageGeometry
from cryogem_scipion.engine.simulation.optics import Optics
from cryogem_scipion.engine.simulation.projection import rotation_matrices

__all__ = ["ANGLES", "ORIGIN", "KnownPoses", "ParticleSet", "known_poses", "read_particles"]

ANGLES = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
ORIGIN = ["rlnOriginXAngst", "rlnOriginYAngst"]
DEFOCUS = ["rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"]
MICROSCOPE = ["rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast"]
MOST_CLASSES = 10
"""Largest number of classes. More are those of a 2D classification."""
IMAGE_NAME = re.compile(r"^0*(\d+)@(.+)$")


@dataclass(frozen=True)
class ParticleSet:
    """Particles of one STAR file."""

    path: Path
    """The STAR file."""
    optics: pd.DataFrame
    """RELION's optics table; made from the rows if the file has none."""
    rows: pd.DataFrame
    """All columns of the particles, with the values of their optics group that are needed here."""
    columns: list[str]
    """Names of the columns that the file has."""
    stacks: list[Path]
    """Stack of each particle (n)."""
    numbers: NDArray[np.int64]
    """Number of each particle in its stack (n,), from 0."""
    geometries: list[ImageGeometry]
    """Box size and pixel size of each particle (n)."""

    def __len__(self) -> int:
        return len(self.stacks)

    @property
    def has_ctf(self) -> bool:
        """Whether the CTF of every particle is known."""
        return {*DEFOCUS, *MICROSCOPE} <= set(self.rows)

    def images(self, indices: Sequence[int], bright: bool) -> Float[Tensor, "n y x"]:
        """Images of particles with the same box size; protein is bright.

        Parameters
        ----------
        indices
            Rows of the particles in the table.
        bright
            Whether protein is bright in the files; otherwise the images get the other sign.
        """
        out: list[NDArray[np.float32] | None] = [None] * len(indices)
        by_stack: dict[Path, list[int]] = {}
        for place, index in enumerate(indices):
            by_stack.setdefault(self.stacks[index], []).append(place)
        for stack, places in by_stack.items():
            numbers = np.array([self.numbers[indices[place]] for place in places])
            for place, image in zip(places, read_images(stack, numbers), strict=True):
                out[place] = image
        images = torch.from_numpy(np.stack([image for image in out if image is not None]))
        return images if bright else -images

    def optics_of(self, index: int) -> tuple[Optics, bool]:
        """Microscope state of a particle, and whether its image is phase-flipped."""
        row = self.rows.iloc[index]
        voltage, aberration, amplitude, defocus_u, defocus_v, angle = (float(row[name])
                                                                       for name in (*MICROSCOPE, *DEFOCUS))
        phase_shift = float(row.get("rlnPhaseShift", 0.0))
        optics = Optics(voltage, aberration, amplitude, defocus_u, defocus_v, angle, phase_shift)
        return optics, bool(row.get("rlnCtfDataArePhaseFlipped", 0))

    def micrographs(self) -> "pd.Series[str]":
        """Name that is equal for particles of the same micrograph: the micrograph's, else the stack's."""
        if "rlnMicrographName" in self.rows:
            return self.rows["rlnMicrographName"].astype(str)
        return pd.Series([str(stack) for stack in self.stacks])


@dataclass(frozen=True)
class KnownPoses:
    """Poses that the particles of a training set have."""

    rotations: Float[Tensor, "n 3 3"]
    """RELION's matrices A."""
    origins: Float[Tensor, "n xy"]
    """RELION's origins, Å."""
    classes: NDArray[np.int64]
    """Class of each particle (n,), from 0."""
    class_numbers: list[int]
    """rlnClassNumber of each class."""


def read_particles(path: Path, pixel_size: float | None) -> ParticleSet:
    """Read the table of a STAR file of particles, or of a dataset folder with extracted particles.

    Parameters
    ----------
    path
        STAR file of RELION 3.0 or later, or a folder that 'cryogem generate' or 'cryogem simulate' wrote.
    pixel_size
        Å per pixel; None takes the value in the file, or in the headers of the stacks.

    Raises
    ------
    DataError
        The file has no particles, an image is missing, or the pixel size is not known.
    """
    if path.is_dir():
        manifest = read_manifest(path)
        if manifest.stage not in ("simulate", "generate") or not (path / EXTRACTED).is_file():
            raise DataError(f"{path} has no extracted particles; make the dataset with --extract")
        path = path / EXTRACTED
    blocks = read_blocks(path)
    rows = next((block for name, block in blocks.items() if "rlnImageName" in block), None)
    if rows is None or rows.empty:
        raise DataError(f"{path} has no particles with rlnImageName; give the STAR file of extracted particles")
    rows = rows.reset_index(drop=True)
    columns = [str(name) for name in rows]
    optics = blocks.get("optics", pd.DataFrame())
    rows = _with_optics(path, rows, optics)
    stacks, numbers = _image_files(path, rows["rlnImageName"])
    shapes = {stack: read_stack_header(stack) for stack in dict.fromkeys(stacks)}
    for stack, number in zip(stacks, numbers, strict=True):
        count, y, x = shapes[stack][0]
        if number >= count:
            raise DataError(f"{stack} has {count} images, but {path} names image {number + 1}; correct the STAR file, "
                            "or copy the stack again")
        if y != x:
            raise DataError(f"{stack} has images of {y} x {x} pixels (y x); give square boxes")
    sizes = _pixel_sizes(path, rows, [shapes[stack][1] for stack in stacks], pixel_size)
    geometries = [ImageGeometry(shapes[stack][0][1], size) for stack, size in zip(stacks, sizes, strict=True)]
    if optics.empty:
        optics = _optics_table(rows, geometries[0])
    return ParticleSet(path, optics, rows, columns, stacks, numbers, geometries)


def known_poses(particles: ParticleSet) -> KnownPoses:
    """Poses in the file of a training set.

    Raises
    ------
    DataError
        The file has no angles, values that are not finite numbers, or too many classes.
    """
    missing = [name for name in ANGLES if name not in particles.rows]
    if missing:
        raise DataError(f"{particles.path} lacks {', '.join(missing)}; give particles with known poses, such as those "
                        "of a generated dataset")
    angles = _numbers(particles.path, particles.rows, ANGLES)
    if set(ORIGIN) <= set(particles.rows):
        origins = _numbers(particles.path, particles.rows, ORIGIN)
    elif {"rlnOriginX", "rlnOriginY"} <= set(particles.rows):
        sizes = np.array([geometry.pixel_size for geometry in particles.geometries])
        origins = _numbers(particles.path, particles.rows, ["rlnOriginX", "rlnOriginY"]) * sizes[:, None]
    else:
        origins = np.zeros((len(particles), 2))
    numbers, classes = np.array([1]), np.zeros(len(particles), np.int64)
    if "rlnClassNumber" in particles.rows:
        numbers, classes = np.unique(_numbers(particles.path, particles.rows, ["rlnClassNumber"]), return_inverse=True)
    if len(numbers) > MOST_CLASSES:
        raise DataError(f"{particles.path} has {len(numbers)} classes, and each would be a map of its own; at most "
                        f"{MOST_CLASSES} are possible. Remove rlnClassNumber if these are not 3D classes")
    return KnownPoses(rotation_matrices(torch.from_numpy(angles)).float(), torch.from_numpy(origins).float(),
                      classes.astype(np.int64), [int(number) for number in numbers])


def _with_optics(path: Path, rows: pd.DataFrame, optics: pd.DataFrame) -> pd.DataFrame:
    """Rows with the values of their optics group."""
    needed = [*MICROSCOPE, "rlnImagePixelSize", "rlnCtfDataArePhaseFlipped"]
    added = [name for name in needed if name in optics and name not in rows]
    if added:
        if "rlnOpticsGroup" in rows and "rlnOpticsGroup" in optics:
            groups = optics.drop_duplicates("rlnOpticsGroup").set_index("rlnOpticsGroup")
            unknown = set(rows["rlnOpticsGroup"]) - set(groups.index)
            if unknown:
                raise DataError(f"{path} has no optics group {min(unknown)} in its optics table; correct the file")
            rows = rows.assign(**{name: groups[name].loc[rows["rlnOpticsGroup"]].to_numpy() for name in added})
        else:
            rows = rows.assign(**{name: optics[name].iloc[0] for name in added})
    ctf = [name for name in (*DEFOCUS, *MICROSCOPE, "rlnPhaseShift") if name in rows]
    if {*DEFOCUS, *MICROSCOPE} <= set(rows):
        rows = rows.assign(**dict(zip(ctf, _numbers(path, rows, ctf).T, strict=True)))
    return rows


def _image_files(path: Path, names: "pd.Series[str]") -> tuple[list[Path], NDArray[np.int64]]:
    """Stack of each image name, and the number in it from 0."""
    found: dict[str, Path] = {}
    stacks, numbers = [], []
    for name in names.astype(str):
        matched = IMAGE_NAME.match(name)
        if not matched or int(matched[1]) < 1:
            raise DataError(f"{path} has the image name {name!r}; names have to be like 000001@stack.mrcs")
        if matched[2] not in found:
            found[matched[2]] = _stack(path, matched[2])
        stacks.append(found[matched[2]])
        numbers.append(int(matched[1]) - 1)
    return stacks, np.array(numbers, np.int64)


def _stack(path: Path, name: str) -> Path:
    """Absolute path of a stack; names are relative to the STAR file, to a folder above it, or to this folder."""
    folders = [path.absolute().parent, Path.cwd(), *path.absolute().parent.parents]
    for folder in folders:
        if (folder / name).is_file():
            return (folder / name).absolute()
    raise DataError(f"{path} names the stack {name}, which is neither in its folder nor in a folder above; give "
                    "absolute paths, or start the program in the folder of the project")


def _pixel_sizes(path: Path, rows: pd.DataFrame, in_headers: list[float | None], given: float | None) -> list[float]:
    if given is not None:
        return [given] * len(rows)
    if "rlnImagePixelSize" in rows:
        sizes = _numbers(path, rows, ["rlnImagePixelSize"])[:, 0]
    elif {"rlnDetectorPixelSize", "rlnMagnification"} <= set(rows):
        detector, magnification = _numbers(path, rows, ["rlnDetectorPixelSize", "rlnMagnification"]).T
        sizes = 1e4 * detector / np.maximum(magnification, 1e-9)
    else:
        sizes = np.array([size or 0.0 for size in in_headers])
    if not (sizes > 0).all():
        raise DataError(f"{path} does not contain the pixel size of its particles; give pixel_size")
    return [float(size) for size in sizes]


def _optics_table(rows: pd.DataFrame, geometry: ImageGeometry) -> pd.DataFrame:
    """RELION's optics table with one group, for a file without one."""
    row: dict[str, Any] = {"rlnOpticsGroup": 1, "rlnOpticsGroupName": "opticsGroup1"}
    row |= {name: rows[name].iloc[0] for name in MICROSCOPE if name in rows}
    return pd.DataFrame([row | {"rlnImagePixelSize": geometry.pixel_size, "rlnImageSize": geometry.box,
                                "rlnImageDimensionality": 2}])


def _numbers(path: Path, rows: pd.DataFrame, names: list[str]) -> NDArray[np.float64]:
    """Columns as numbers (n, columns); ``DataError`` if one is not a finite number."""
    try:
        values: NDArray[np.float64] = rows[names].to_numpy(float)
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} has a value that is not a number ({error}); correct it") from None
    broken = np.flatnonzero(~np.isfinite(values).all(1))
    if len(broken):
        raise DataError(f"{path} has values that are not finite numbers in {', '.join(names)}, row {broken[0] + 1}; "
                        "remove these rows")
    return values
