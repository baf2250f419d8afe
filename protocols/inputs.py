# SPDX-License-Identifier: GPL-3.0-or-later
"""From Scipion's inputs to what the engine reads: paths, pixel sizes, STAR files."""
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pwem.convert.transformations import euler_from_matrix, inverse_matrix
from pwem.objects import EMSet

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.dataset import EXTRACTED, MICROGRAPHS, read_manifest, read_table, write_table

__all__ = ["coordinate_micrographs", "map_files", "real_files", "relion_angles", "simulation_folder", "stage_folder",
           "write_ctfs", "write_orientations", "write_particle_subset", "write_subset"]


def map_files(volumes: Any) -> list[str]:
    """Return the absolute paths of a Volume or an AtomStruct, or of the items of a set of them."""
    # A set gives the same object again and again, with other contents: read it at once.
    items = volumes.iterItems() if isinstance(volumes, EMSet) else [volumes]
    return [os.path.abspath(item.getFileName().removesuffix(":mrc")) for item in items]


def real_files(micrographs: Any) -> list[str]:
    """Return the absolute paths of a SetOfMicrographs."""
    return [os.path.abspath(micrograph.getFileName()) for micrograph in micrographs.iterItems()]


def simulation_folder(micrographs: Any) -> Path:
    """Return the folder of the simulation that micrographs, or a part of them, come from.

    Raises
    ------
    DataError
        They were not simulated, or not all in one run.
    """
    folder = stage_folder(micrographs, "simulated micrograph", "simulation", "simulate micrographs")
    if read_manifest(folder).stage != "simulate":
        raise DataError(f"{folder} holds generated micrographs, not simulated ones; choose the output of 'simulate "
                        "micrographs'")
    return folder


def stage_folder(items: Any, what: str, whole: str, protocol: str) -> Path:
    """Return the folder of the stage that made the items of a set, or of a part of it.

    Parameters
    ----------
    items
        A SetOfMicrographs or SetOfParticles.
    what, whole, protocol
        For messages: what an item has to be, what its folder is called, the protocol that makes it.

    Raises
    ------
    DataError
        They come from somewhere else, or from several runs.
    """
    first = items.getFirstItem()
    if first is None:
        raise DataError(f"the set of {what}s is empty; choose the output of '{protocol}'")
    if not hasattr(first, "_cryogemManifest"):
        raise DataError(f"{first.getFileName()} is not a {what}; choose the output of '{protocol}', or a subset of it")
    manifests = sorted(map(str, items.getUniqueValues("_cryogemManifest")))
    if len(manifests) > 1:
        raise DataError(f"the {what}s come from {len(manifests)} {whole}s ({manifests[0]}, {manifests[1]}); choose one "
                        f"{whole}, or a subset of one")
    return Path(os.path.abspath(manifests[0])).parent


def write_subset(micrographs: Any, folder: Path, path: Path) -> bool:
    """Write a stage's rows of a part of its micrographs; false, and no file, when it is the whole."""
    optics, rows = read_table(folder / MICROGRAPHS, "micrographs", ("rlnMicrographName",))
    names = {os.path.relpath(os.path.abspath(micrograph.getFileName()), folder)
             for micrograph in micrographs.iterItems()}
    unknown = names - set(rows["rlnMicrographName"])
    if unknown:
        raise DataError(f"{folder / MICROGRAPHS} has no row for {min(unknown)}; choose micrographs as they "
                        "were made, not a processed copy")
    if len(names) == len(rows):
        path.unlink(missing_ok=True)
        return False
    write_table(path, "micrographs", optics, rows[rows["rlnMicrographName"].isin(names)])
    return True


def write_particle_subset(particles: Any, folder: Path, path: Path) -> bool:
    """Write a stage's rows of a part of its extracted particles; false, and no file, when it is the whole."""
    if not (folder / EXTRACTED).is_file():
        raise DataError(f"{folder} has no extracted particles; choose its micrographs")
    optics, rows = read_table(folder / EXTRACTED, "particles", ("rlnImageName",))
    names = {f"{index:06d}@{os.path.relpath(os.path.abspath(stack), folder)}"
             for index, stack in (particle.getLocation() for particle in particles.iterItems())}
    unknown = names - set(rows["rlnImageName"])
    if unknown:
        raise DataError(f"{folder / EXTRACTED} has no row for {min(unknown)}; choose particles as they were made, not "
                        "a processed copy")
    if len(names) == len(rows):
        path.unlink(missing_ok=True)
        return False
    write_table(path, "particles", optics, rows[rows["rlnImageName"].isin(names)])
    return True


def coordinate_micrographs(coordinates: Any) -> dict[int, Any]:
    """Return the micrographs of a SetOfCoordinates, by id.

    Raises
    ------
    DataError
        Some lie on other micrographs. Scipion's 'join sets' makes such sets: it keeps the micrographs of the first
        set only, among which the coordinates of the others get wrong ones, or none.
    """
    found = {micrograph.getObjId(): micrograph.clone() for micrograph in coordinates.getMicrographs().iterItems()}
    labels = coordinates.getUniqueValues(["_micId", "_micName"])
    places = list(zip(labels["_micId"], labels["_micName"], strict=True))
    foreign = [number for number, _ in places if number not in found]
    named = [(number, name) for number, name in places if name and number in found]
    other = [number for number, name in named if name != found[number].getMicName()]
    if len(other) < len(named):  # else names of another kind, which tell nothing
        foreign += other
    if foreign:
        raise DataError(f"coordinates lie on micrographs (first: id {foreign[0]}) that are not in their own set, as "
                        "after 'join sets'; choose sets of coordinates one by one, or pick again")
    return found


def write_ctfs(ctfs: Any, path: Path) -> None:
    """Write the defocus values of a SetOfCTF; ``DataError`` when there are none that can be used."""
    rows = []
    for ctf in ctfs.iterItems():
        u, v, angle = ctf.getDefocus()
        # Scipion marks failed estimations with -999, -1, -999.
        if None not in (u, v, angle) and (u, v) != (-999, -1):
            rows.append({"rlnMicrographName": f"{ctf.getObjId():06d}", "rlnOpticsGroup": 1, "rlnDefocusU": u,
                         "rlnDefocusV": v, "rlnDefocusAngle": angle,
                         "rlnPhaseShift": ctf.getPhaseShift() if ctf.hasPhaseShift() else 0.0})
    if not rows:
        raise DataError("the set of CTFs has no estimated defocus; choose another, or leave it empty")
    write_table(path, "micrographs", _one_group(), pd.DataFrame(rows))


def write_orientations(particles: Any, path: Path) -> None:
    """Write the views of a SetOfParticles; ``DataError`` when it has none."""
    if not particles.hasAlignmentProj():
        raise DataError("the particles have no projection angles; choose the output of a 3D refinement")
    rows = []
    for particle in particles.iterItems():
        rot, tilt, psi = relion_angles(particle.getTransform().getMatrix())
        rows.append({"rlnImageName": f"{particle.getObjId():06d}@particles.mrcs", "rlnOpticsGroup": 1,
                     "rlnAngleRot": rot, "rlnAngleTilt": tilt, "rlnAnglePsi": psi})
    write_table(path, "particles", _one_group(), pd.DataFrame(rows))


def relion_angles(matrix: Any) -> tuple[float, float, float]:
    """Return RELION's rot, tilt and psi (degrees) of Scipion's projection matrix; see ``outputs.pose``."""
    rot, tilt, psi = -np.degrees(euler_from_matrix(inverse_matrix(matrix), axes="szyz"))
    return float(rot), float(tilt), float(psi)


def _one_group() -> pd.DataFrame:
    return pd.DataFrame([{"rlnOpticsGroup": 1, "rlnOpticsGroupName": "opticsGroup1"}])
