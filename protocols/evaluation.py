# SPDX-License-Identifier: GPL-3.0-or-later
"""What the evaluation of picks and of poses have in common, and the STAR files of what they compare."""
import math
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pwem.convert.transformations import inverse_matrix
from pwem.objects import Coordinate

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.dataset import MICROGRAPHS, read_manifest, read_table, write_table
from cryogem_scipion.protocols.inputs import relion_angles
from cryogem_scipion.protocols.stage import ProtCryogemStage

__all__ = ["ProtCryogemEvaluation", "paired_micrographs", "particle_diameter", "score_attribute", "write_particles",
           "write_picks", "write_truth"]

# Where pickers keep their scores: Topaz, crYOLO, and RELION, Gautomatch and cryoSPARC.
SCORES = ("_topazScore", "_cryoloScore", "_rlnAutopickFigureOfMerit")


class ProtCryogemEvaluation(ProtCryogemStage):
    """A comparison with the truth; its result is a report, which "Analyze Results" shows."""

    def createOutputStep(self, key: str) -> None:
        """Nothing to register: the report stays in the protocol's folder."""

    def _addQueue(self, form: Any) -> None:
        """Threads and queue of a stage that computes little."""
        form.addParallelSection(threads=1, mpi=0)

    def _methods(self) -> list[str]:
        manifest = self.manifest()
        return self.sentences(manifest) if manifest else []


def paired_micrographs(picked: Any, true: Any) -> tuple[dict[int, str], dict[int, str]]:
    """Return a name for each micrograph of two sets, by object id; the same micrograph has the same name.

    It is the path of the true one's file. The same are those of one name in Scipion, as long as it is unique in both
    sets; else those of one file.
    """
    def described(micrographs: Any) -> dict[int, tuple[str, str]]:
        return {item.getObjId(): (item.getMicName() or os.path.basename(item.getFileName()),
                                  os.path.abspath(item.getFileName())) for item in micrographs.iterItems()}

    mine, theirs = described(picked), described(true)
    twice = {name for some in (mine, theirs) for name, count in Counter(name for name, _ in some.values()).items()
             if count > 1}
    files = {name: path for name, path in theirs.values() if name not in twice}
    return ({number: files.get(name, path) for number, (name, path) in mine.items()},
            {number: path for number, (_, path) in theirs.items()})


def particle_diameter(micrographs: Any) -> float | None:
    """Return the diameter (Å) of the particles on micrographs of a simulated or generated set, None for others."""
    for item in micrographs.iterItems():
        if not hasattr(item, "_cryogemManifest"):
            return None
        manifest = Path(item.getAttributeValue("_cryogemManifest"))
        return read_manifest(manifest.parent).particle_diameter_angstrom if manifest.is_file() else None
    return None


def score_attribute(coordinates: Any, wanted: str = "") -> str | None:
    """Return the attribute that holds the scores of picks; None where they have none.

    Raises
    ------
    DataError
        ``wanted`` is no attribute of them.
    """
    first = coordinates.getFirstItem()
    if wanted:
        if first is not None and not hasattr(first, wanted):
            usual = dict(Coordinate().getAttributes())
            found = [name for name, _ in first.getAttributes() if name not in usual]
            raise DataError(f"the picks have no attribute {wanted!r} (found: {', '.join(found) or 'none'}); correct "
                            "it, or leave it empty")
        return wanted
    return next((name for name in SCORES if hasattr(first, name)), None)


def write_picks(coordinates: Any, names: dict[int, str], score: str | None, path: Path) -> None:
    """Write a SetOfCoordinates with its scores as a STAR file; ``names`` are those of its micrographs."""
    rows = []
    for item in coordinates.iterItems():
        row = {"rlnMicrographName": names.get(item.getMicId(), f"unknown_{item.getMicId()}"), "rlnOpticsGroup": 1,
               "rlnCoordinateX": item.getX(), "rlnCoordinateY": item.getY()}
        if score is not None:
            row["rlnAutopickFigureOfMerit"] = float(item.getAttributeValue(score))
        rows.append(row)
    _write(path, "particles", rows, coordinates.getMicrographs().getSamplingRate())


def write_truth(coordinates: Any, names: dict[int, str], judged: set[str], path: Path) -> None:
    """Write a true SetOfCoordinates, and beside it the list of its micrographs.

    Where the micrographs are ours, their particles.star gives the exact centres, and the particles that the border
    cuts, which are in no set.

    Parameters
    ----------
    coordinates
        The set.
    names
        Of its micrographs, by object id.
    judged
        The names of those that were picked; others are left out.
    path
        Of the STAR file; ``micrographs.star`` is written beside it.

    Raises
    ------
    DataError
        None of its micrographs was picked.
    """
    micrographs = coordinates.getMicrographs()
    pixel_size = micrographs.getSamplingRate()
    # A list, because looking up one item ends an iteration over the set.
    own = [item.clone() for item in micrographs.iterItems() if names[item.getObjId()] in judged]
    if not own:
        raise DataError(f"none of the {micrographs.getSize()} micrographs of the true coordinates (such as "
                        f"{micrographs.getFirstItem().getMicName()}) was picked; choose the truth of these micrographs")
    positions: dict[int, list[tuple[int, int]]] = {item.getObjId(): [] for item in own}
    for item in coordinates.iterItems():
        if item.getMicId() in positions:
            positions[item.getMicId()].append((item.getX(), item.getY()))
    tables: dict[str, pd.DataFrame] = {}
    rows = [{"rlnMicrographName": names[item.getObjId()], "rlnOpticsGroup": 1, **row} for item in own
            for row in _true_rows(item, positions[item.getObjId()], pixel_size, tables)]
    _write(path, "particles", rows, pixel_size)
    _write(path.with_name(MICROGRAPHS), "micrographs",
           [{"rlnMicrographName": names[item.getObjId()], "rlnOpticsGroup": 1} for item in own], pixel_size)


def write_particles(particles: Any, path: Path) -> None:
    """Write a SetOfParticles with poses as a STAR file; ``DataError`` when it has none."""
    if not particles.hasAlignmentProj():
        raise DataError(f"the particles {particles} have no projection angles; choose the output of a 3D refinement")
    pixel_size = particles.getSamplingRate()
    micrographs = particles.getCoordinates().getMicrographs() if particles.getCoordinates() else None
    rows = []
    for item in particles.iterItems():
        matrix = item.getTransform().getMatrix()
        rot, tilt, psi = relion_angles(matrix)
        x, y = -np.asarray(inverse_matrix(matrix))[:2, 3] * pixel_size
        index, stack = item.getLocation()
        row = {"rlnImageName": f"{index:06d}@{os.path.abspath(stack)}", "rlnOpticsGroup": 1, "rlnAngleRot": rot,
               "rlnAngleTilt": tilt, "rlnAnglePsi": psi, "rlnOriginXAngst": x, "rlnOriginYAngst": y}
        if item.hasCTF():
            row |= {"rlnDefocusU": item.getCTF().getDefocusU(), "rlnDefocusV": item.getCTF().getDefocusV()}
        if item.hasCoordinate():
            coordinate = item.getCoordinate()
            row |= {"rlnMicrographName": f"{coordinate.getMicId():06d}/{coordinate.getMicName()}",
                    "rlnCoordinateX": coordinate.getX(), "rlnCoordinateY": coordinate.getY()}
        rows.append(row)
    _write(path, "particles", rows, (micrographs or particles).getSamplingRate())


def _true_rows(micrograph: Any, positions: list[tuple[int, int]], pixel_size: float,
               tables: dict[str, pd.DataFrame]) -> Iterator[dict[str, float]]:
    """The particles of one micrograph: those of the set, then the cut ones."""
    labels = _labels(micrograph, tables)
    exact: dict[tuple[int, int], tuple[float, float]] = {}
    cut = []
    if labels is not None:
        scale = labels["pixel_size"].iloc[0] / pixel_size if len(labels) else 1.0
        for row in labels.to_dict("records"):
            centre = row["x"] * scale, row["y"] * scale
            if row["cryogemWhole"] == 1:
                exact[math.floor(row["rlnCoordinateX"]), math.floor(row["rlnCoordinateY"])] = centre
            else:
                cut.append(centre)
    for whole, places in ((1, [exact.get(position, position) for position in positions]), (0, cut)):
        for x, y in places:
            yield {"rlnCoordinateX": float(x), "rlnCoordinateY": float(y), "cryogemWhole": whole}


def _labels(micrograph: Any, tables: dict[str, pd.DataFrame]) -> pd.DataFrame | None:
    """Rows of particles.star of one of our micrographs, with the exact centres ``x`` and ``y``; None for others."""
    name = micrograph.getAttributeValue("_cryogemParticles", "")
    if not name or not os.path.isfile(name):
        return None
    if name not in tables:
        path = Path(name)
        _, rows = read_table(path, "particles", ("rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY",
                                                 "rlnOriginXAngst", "rlnOriginYAngst", "cryogemWhole"))
        size = read_manifest(path.parent).pixel_size
        tables[name] = rows.assign(
            pixel_size=size, x=rows["rlnCoordinateX"] - rows["rlnOriginXAngst"] / size,
            y=rows["rlnCoordinateY"] - rows["rlnOriginYAngst"] / size,
            file=[os.path.abspath(path.parent / one) for one in rows["rlnMicrographName"]])
    return tables[name][tables[name]["file"] == os.path.abspath(micrograph.getFileName())]


def _write(path: Path, name: str, rows: list[dict[str, Any]], pixel_size: float) -> None:
    optics = {"rlnOpticsGroup": 1, "rlnOpticsGroupName": "opticsGroup1", "rlnMicrographPixelSize": pixel_size}
    # An empty table keeps its columns.
    columns = None if rows else ["rlnMicrographName", "rlnOpticsGroup", "rlnCoordinateX", "rlnCoordinateY"]
    write_table(path, name, pd.DataFrame([optics]), pd.DataFrame(rows, columns=columns))
