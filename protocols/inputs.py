# SPDX-License-Identifier: GPL-3.0-or-later
"""Scipion's sets as inputs of the engine: file paths, dataset folders, STAR files."""
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pwem.convert.transformations import euler_from_matrix, inverse_matrix
from pwem.objects import EMSet

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.dataset import EXTRACTED, MICROGRAPHS, read_manifest, read_table, write_table

__all__ = ["acquisition_values", "coordinate_micrographs", "ctf_files", "dataset_folder", "map_files",
           "micrograph_files", "relion_angles", "simulation_folder", "write_ctfs", "write_micrograph_subset",
           "write_orientations", "write_particle_subset"]


def map_files(volumes: Any) -> list[str]:
    """Return the absolute path of a Volume or AtomStruct, or the paths of all items of a set of them."""
    # Iterating over a set returns the same object each time, with new contents; so the path is read at once.
    items = volumes.iterItems() if isinstance(volumes, EMSet) else [volumes]
    return [os.path.abspath(item.getFileName().removesuffix(":mrc")) for item in items]


def micrograph_files(micrographs: Any) -> list[str]:
    """Return the absolute paths of a SetOfMicrographs' files."""
    return [os.path.abspath(micrograph.getFileName()) for micrograph in micrographs.iterItems()]


def acquisition_values(micrographs: Any) -> dict[str, float]:
    """Return the settings of the microscope of a SetOfMicrographs, without those that it does not have."""
    acquisition = micrographs.getAcquisition()
    values = {"voltage_kv": acquisition.getVoltage(), "cs_mm": acquisition.getSphericalAberration(),
              "amplitude_contrast": acquisition.getAmplitudeContrast()} if acquisition is not None else {}
    return {name: value for name, value in values.items() if value is not None}


def simulation_folder(micrographs: Any) -> Path:
    """Return the dataset folder of the simulation that made a SetOfMicrographs or the set that it is a subset of.

    Raises
    ------
    DataError
        The micrographs were not simulated, or several simulations made them.
    """
    folder = dataset_folder(micrographs, "simulated micrograph", "simulation", "simulate micrographs")
    if read_manifest(folder).stage != "simulate":
        raise DataError(f"{folder} holds generated micrographs, not simulated ones; choose the output of 'simulate "
                        "micrographs'")
    return folder


def dataset_folder(items: Any, item_name: str, dataset_name: str, protocol: str) -> Path:
    """Return the dataset folder of a set's items.

    Parameters
    ----------
    items
        A SetOfMicrographs or SetOfParticles.
    item_name, dataset_name, protocol
        Words for messages: for an item, for a dataset of such items, and for the protocol that makes the dataset.

    Raises
    ------
    DataError
        The set is empty, another program made the items, or several runs made them.
    """
    first = items.getFirstItem()
    if first is None:
        raise DataError(f"the set of {item_name}s is empty; choose the output of '{protocol}'")
    if not hasattr(first, "_cryogemManifest"):
        raise DataError(f"{first.getFileName()} is not a {item_name}; choose the output of '{protocol}', or a subset "
                        "of it")
    manifests = sorted(map(str, items.getUniqueValues("_cryogemManifest")))
    if len(manifests) > 1:
        raise DataError(f"the {item_name}s come from {len(manifests)} {dataset_name}s ({manifests[0]}, "
                        f"{manifests[1]}); choose one {dataset_name}, or a subset of one")
    return Path(os.path.abspath(manifests[0])).parent


def write_micrograph_subset(micrographs: Any, folder: Path, path: Path) -> bool:
    """Write the rows of a subset of a dataset's micrographs; for all micrographs, write no file and return false."""
    optics, rows = read_table(folder / MICROGRAPHS, "micrographs", ("rlnMicrographName",))
    names = {os.path.relpath(os.path.abspath(micrograph.getFileName()), folder)
             for micrograph in micrographs.iterItems()}
    unknown = names - set(rows["rlnMicrographName"])
    if unknown:
        raise DataError(f"{folder / MICROGRAPHS} has no row for {min(unknown)}; choose the micrographs "
                        "themselves, not a processed copy")
    if len(names) == len(rows):
        path.unlink(missing_ok=True)
        return False
    write_table(path, "micrographs", optics, rows[rows["rlnMicrographName"].isin(names)])
    return True


def write_particle_subset(particles: Any, folder: Path, path: Path) -> bool:
    """Write the rows of a subset of a dataset's particles; for all particles, write no file and return false."""
    if not (folder / EXTRACTED).is_file():
        raise DataError(f"{folder} has no extracted particles; choose its micrographs")
    optics, rows = read_table(folder / EXTRACTED, "particles", ("rlnImageName",))
    names = {f"{index:06d}@{os.path.relpath(os.path.abspath(stack), folder)}"
             for index, stack in (particle.getLocation() for particle in particles.iterItems())}
    unknown = names - set(rows["rlnImageName"])
    if unknown:
        raise DataError(f"{folder / EXTRACTED} has no row for {min(unknown)}; choose the particles themselves, "
                        "not a processed copy")
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
        Some coordinates lie on micrographs that are not in the set. Scipion's 'join sets' makes such sets: it keeps
        only the micrographs of the first set, so the coordinates of the other sets get a wrong micrograph or none.
    """
    by_id = {micrograph.getObjId(): micrograph.clone() for micrograph in coordinates.getMicrographs().iterItems()}
    labels = coordinates.getUniqueValues(["_micId", "_micName"])
    id_and_name = list(zip(labels["_micId"], labels["_micName"], strict=True))
    foreign = [number for number, _ in id_and_name if number not in by_id]
    named = [(number, name) for number, name in id_and_name if name and number in by_id]
    mismatched = [number for number, name in named if name != by_id[number].getMicName()]
    if len(mismatched) < len(named):  # if no name agrees, the two sets name micrographs by different rules
        foreign += mismatched
    if foreign:
        raise DataError(f"some coordinates belong to micrographs (first: id {foreign[0]}) that are not in the set of "
                        "coordinates. Scipion's 'join sets' makes such sets; choose the original sets one by one, or "
                        "pick again")
    return by_id


def ctf_files(ctfs: Any, micrographs: Any) -> dict[int, str]:
    """Return the absolute path of the micrograph of each estimated CTF, by the CTF's id; others are left out.

    The name of the CTF's micrograph tells to which one it belongs; the id does where a CTF has no micrograph.
    """
    files: dict[Any, str] = {}
    for micrograph in micrographs.iterItems():
        file = os.path.abspath(micrograph.getFileName())
        files |= {micrograph.getMicName(): file, micrograph.getObjId(): file}
    found = {}
    for ctf in ctfs.iterItems():
        micrograph = ctf.getMicrograph()
        name = micrograph.getMicName() if micrograph is not None else None
        file = files.get(name or ctf.getObjId(), "")
        if file and _is_estimated(ctf):
            found[ctf.getObjId()] = file
    return found


def write_ctfs(ctfs: Any, path: Path, files: Mapping[int, str] | None = None) -> None:
    """Write the defocus values of a SetOfCTF as a STAR file.

    Parameters
    ----------
    files
        Files of the micrographs by the CTF's id. The other CTFs are named by their id.

    Raises
    ------
    DataError
        The set has no estimated defocus.
    """
    rows = []
    for ctf in ctfs.iterItems():
        u, v, angle = ctf.getDefocus()
        if _is_estimated(ctf):
            name = (files or {}).get(ctf.getObjId(), f"{ctf.getObjId():06d}")
            rows.append({"rlnMicrographName": name, "rlnOpticsGroup": 1, "rlnDefocusU": u,
                         "rlnDefocusV": v, "rlnDefocusAngle": angle,
                         "rlnPhaseShift": ctf.getPhaseShift() if ctf.hasPhaseShift() else 0.0})
    if not rows:
        raise DataError("the set of CTFs has no estimated defocus; choose another, or leave it empty")
    write_table(path, "micrographs", _one_optics_group(), pd.DataFrame(rows))


def write_orientations(particles: Any, path: Path) -> None:
    """Write the orientations of a SetOfParticles as a STAR file; ``DataError`` when it has none."""
    if not particles.hasAlignmentProj():
        raise DataError("the particles have no projection angles; choose the output of a 3D refinement")
    rows = []
    for particle in particles.iterItems():
        rot, tilt, psi = relion_angles(particle.getTransform().getMatrix())
        rows.append({"rlnImageName": f"{particle.getObjId():06d}@particles.mrcs", "rlnOpticsGroup": 1,
                     "rlnAngleRot": rot, "rlnAngleTilt": tilt, "rlnAnglePsi": psi})
    write_table(path, "particles", _one_optics_group(), pd.DataFrame(rows))


def relion_angles(matrix: Any) -> tuple[float, float, float]:
    """Return RELION's rot, tilt and psi (degrees) of Scipion's projection matrix; ``outputs.pose`` is the inverse."""
    rot, tilt, psi = -np.degrees(euler_from_matrix(inverse_matrix(matrix), axes="szyz"))
    return float(rot), float(tilt), float(psi)


def _is_estimated(ctf: Any) -> bool:
    u, v, angle = ctf.getDefocus()
    # Scipion marks failed estimations with -999, -1, -999.
    return None not in (u, v, angle) and (u, v) != (-999, -1)


def _one_optics_group() -> pd.DataFrame:
    return pd.DataFrame([{"rlnOpticsGroup": 1, "rlnOpticsGroupName": "opticsGroup1"}])
