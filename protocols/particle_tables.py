# SPDX-License-Identifier: GPL-3.0-or-later
"""Scipion's sets of particles as STAR files for the engine, and its poses as a set of particles."""
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pwem.constants import ALIGN_PROJ
from pwem.convert.transformations import inverse_matrix
from pwem.objects import SetOfParticles, Transform
from pyworkflow.object import Float

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.dataset import Manifest, read_manifest, read_table, write_table
from cryogem_scipion.engine.io.mrc import read_images
from cryogem_scipion.protocols.inputs import relion_angles
from cryogem_scipion.protocols.outputs import pose

__all__ = ["CONFIDENCE", "dataset_manifests", "image_file", "image_name", "posed_particles", "read_named_images",
           "spread_image_names", "write_particles"]

CONFIDENCE = "rlnMaxValueProbDistribution"
"""Column with the confidence of a pose, and after an underscore the particles' attribute; RELION's own name."""
POSE_COLUMNS = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst")
ENGINE_PREFIX = "cryogem"


def write_particles(particles: Any, path: Path, with_poses: bool) -> None:
    """Write a SetOfParticles as a STAR file; disabled particles are left out.

    ``rlnImageId`` is the particle's id. ``rlnClassNumber`` is written only for particles of our own datasets, where it
    is the number of the particle's map; elsewhere it may be that of a 2D class.

    Parameters
    ----------
    with_poses
        Write the particles' poses, too.

    Raises
    ------
    DataError
        The poses are asked for, and the particles have none; or there is no particle.
    """
    if with_poses and not particles.hasAlignmentProj():
        raise DataError(f"the particles {particles} have no projection angles; choose the output of a 3D refinement")
    groups: dict[tuple[float, ...], int] = {}
    pixel_size = particles.getSamplingRate()
    rows = [_row(item, groups, pixel_size, with_poses) for item in _enabled(particles)]
    if not rows:
        raise DataError(f"the particles {particles} are empty; choose another set")
    write_table(path, "particles", _optics(particles, groups), pd.DataFrame(rows))


def image_file(name: str) -> str:
    """Return the path of an image's file, without the format that Scipion may write behind it (``stack.mrc:mrcs``)."""
    path, separator, image_format = name.rpartition(":")
    return path if separator and image_format.isalnum() else name


def image_name(particle: Any) -> str:
    """Return RELION's name of a particle's image, such as ``000001@/path/stack.mrcs``."""
    index, stack = particle.getLocation()
    return f"{index or 1:06d}@{os.path.abspath(image_file(stack))}"


def spread_image_names(particles: Any, count: int) -> list[str]:
    """Return names of at most so many images, evenly spread over a SetOfParticles."""
    ids = sorted(particles.getIdSet())
    chosen = ids[::max(1, len(ids) // count)][:count]
    # The other particles, which may be a million, are not read.
    return [image_name(item) for item in particles.iterItems(where=f"id IN ({', '.join(map(str, chosen))})")]


def read_named_images(names: Sequence[str]) -> list[NDArray[np.float32]]:
    """Return the images (y, x) with RELION's names; other images of the stacks are not read."""
    images: dict[str, NDArray[np.float32]] = {}
    names_of_stack: dict[str, list[str]] = {}
    for name in names:
        names_of_stack.setdefault(name.partition("@")[2], []).append(name)
    for stack, stack_names in names_of_stack.items():
        indices = np.array([int(name.partition("@")[0]) - 1 for name in stack_names])
        images |= zip(stack_names, read_images(Path(stack), indices), strict=True)
    return [images[name] for name in names]


def dataset_manifests(particles: Any) -> list[Manifest]:
    """Return the manifests of the datasets that the particles of a set come from; empty for other particles."""
    first = particles.getFirstItem()
    if first is None or not hasattr(first, "_cryogemManifest"):
        return []
    paths = {Path(name) for name in particles.getUniqueValues("_cryogemManifest") if name}
    return [read_manifest(path.parent) for path in sorted(paths) if path.is_file()]


def posed_particles(protocol: Any, pointer: Any, table: Path, classes: bool) -> SetOfParticles:
    """Return the particles of a set with the poses of a STAR file that the engine has made from it.

    Ids, images, CTFs, coordinates, micrographs and other attributes are those of the input.

    Parameters
    ----------
    protocol
        The protocol, whose output the set becomes.
    pointer
        Pointer to the input particles.
    table
        The engine's STAR file. Its own numbers, in columns such as ``cryogemScore``, become attributes.
    classes
        Take over the class of each particle, too.

    Raises
    ------
    DataError
        The file has no row for a particle.
    """
    particles = pointer.get()
    _, rows = read_table(table, "particles", ("rlnImageId", CONFIDENCE, *POSE_COLUMNS))
    by_id = {int(row["rlnImageId"]): row for row in rows.to_dict("records")}
    numbers = [CONFIDENCE, *(name for name in rows if name.startswith(ENGINE_PREFIX)
                             and pd.api.types.is_numeric_dtype(rows[name]))]
    output = protocol._createSetOfParticles()
    output.copyInfo(particles)
    output.setAlignment(ALIGN_PROJ)
    pixel_size = particles.getSamplingRate()
    for item in _enabled(particles):
        row = by_id.get(item.getObjId())
        if row is None:
            raise DataError(f"{table} has no row for particle {item.getObjId()}; restart the protocol")
        posed = item.clone()
        posed.setTransform(Transform(pose(row, pixel_size)))
        for name in numbers:
            setattr(posed, f"_{name}", Float(float(row[name])))
        if classes:
            posed.setClassId(int(row["rlnClassNumber"]))
        output.append(posed)
    return output


def _enabled(particles: Any) -> Iterator[Any]:
    return (item for item in particles.iterItems() if item.isEnabled())


def _row(item: Any, groups: dict[tuple[float, ...], int], pixel_size: float, with_poses: bool) -> dict[str, Any]:
    """The row of a particle; a new kind of acquisition gets the next number in ``groups``."""
    acquisition = _acquisition(item)
    row = {"rlnImageName": image_name(item), "rlnImageId": item.getObjId(),
           "rlnOpticsGroup": groups.setdefault(acquisition, len(groups) + 1)}
    if with_poses:
        matrix = item.getTransform().getMatrix()
        x, y = -np.asarray(inverse_matrix(matrix))[:2, 3] * pixel_size
        row |= dict(zip(POSE_COLUMNS, (*relion_angles(matrix), x, y), strict=True))
    if item.hasCTF() and acquisition:
        ctf = item.getCTF()
        u, v, angle = ctf.getDefocus()
        row |= {"rlnDefocusU": u, "rlnDefocusV": v, "rlnDefocusAngle": angle,
                "rlnPhaseShift": ctf.getPhaseShift() if ctf.hasPhaseShift() else 0.0}
    if item.hasCoordinate():
        coordinate = item.getCoordinate()
        row |= {"rlnMicrographName": f"{coordinate.getMicId():06d}/{coordinate.getMicName()}",
                "rlnCoordinateX": coordinate.getX(), "rlnCoordinateY": coordinate.getY()}
    elif item.hasMicId():
        row["rlnMicrographName"] = f"{item.getMicId():06d}"
    if hasattr(item, "_cryogemManifest") and item.getClassId():
        row["rlnClassNumber"] = item.getClassId()
    return row


def _acquisition(item: Any) -> tuple[float, ...]:
    """Voltage, spherical aberration and amplitude contrast; empty where they are not known."""
    acquisition = item.getAcquisition()
    values = (acquisition.getVoltage(), acquisition.getSphericalAberration(),
              acquisition.getAmplitudeContrast()) if acquisition is not None else (None,)
    return () if None in values else tuple(map(float, values))


def _optics(particles: Any, groups: dict[tuple[float, ...], int]) -> pd.DataFrame:
    coordinates = particles.getCoordinates()
    micrographs = coordinates.getMicrographs() if coordinates is not None else None
    common = {"rlnImagePixelSize": particles.getSamplingRate(), "rlnImageSize": particles.getXDim(),
              "rlnImageDimensionality": 2,
              "rlnMicrographPixelSize": (micrographs or particles).getSamplingRate()}
    if particles.isPhaseFlipped():
        common["rlnCtfDataArePhaseFlipped"] = 1
    microscope = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
    return pd.DataFrame([
        {"rlnOpticsGroup": number, "rlnOpticsGroupName": f"opticsGroup{number}", **common,
         **dict(zip(microscope, acquisition, strict=False))} for acquisition, number in groups.items()])
