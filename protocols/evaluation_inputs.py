# SPDX-License-Identifier: GPL-3.0-or-later
"""STAR files of picks and true coordinates, which *evaluate picks* compares."""
import math
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from pwem.objects import Coordinate

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.dataset import MICROGRAPHS, read_manifest, read_table, write_table

__all__ = ["paired_micrographs", "particle_diameter", "score_attribute", "write_picks", "write_truth"]

# Attributes with the scores of pickers: Topaz; crYOLO; RELION, Gautomatch and cryoSPARC.
SCORE_ATTRIBUTES = ("_topazScore", "_cryoloScore", "_rlnAutopickFigureOfMerit")


def paired_micrographs(picked: Any, true: Any) -> tuple[dict[int, str], dict[int, str]]:
    """Return names for the micrographs of two sets, by object id; the same micrograph has the same name in both.

    The name is the path of the file in the true set. Two micrographs are the same if they have the same name in
    Scipion. Where a name is not unique in both sets, they are the same if they have the same file.
    """
    def names_and_paths(micrographs: Any) -> dict[int, tuple[str, str]]:
        return {item.getObjId(): (item.getMicName() or os.path.basename(item.getFileName()),
                                  os.path.abspath(item.getFileName())) for item in micrographs.iterItems()}

    of_picked, of_true = names_and_paths(picked), names_and_paths(true)
    ambiguous = {name for micrographs in (of_picked, of_true)
                 for name, count in Counter(name for name, _ in micrographs.values()).items() if count > 1}
    true_paths = {name: path for name, path in of_true.values() if name not in ambiguous}
    return ({number: true_paths.get(name, path) for number, (name, path) in of_picked.items()},
            {number: path for number, (_, path) in of_true.items()})


def particle_diameter(micrographs: Any) -> float | None:
    """Return the particles' diameter (Å) on simulated or generated micrographs, ``None`` for other micrographs."""
    for item in micrographs.iterItems():
        if not hasattr(item, "_cryogemManifest"):
            return None
        manifest = Path(item.getAttributeValue("_cryogemManifest"))
        return read_manifest(manifest.parent).particle_diameter_angstrom if manifest.is_file() else None
    return None


def score_attribute(coordinates: Any, name: str = "") -> str | None:
    """Return the name of the attribute with the picks' scores: ``name``, or else the attribute of a known picker.

    ``None`` when the picks have no scores.

    Raises
    ------
    DataError
        The picks have no attribute ``name``.
    """
    first = coordinates.getFirstItem()
    if name:
        if first is not None and not hasattr(first, name):
            standard = dict(Coordinate().getAttributes())
            extra = [attribute for attribute, _ in first.getAttributes() if attribute not in standard]
            raise DataError(f"the picks have no attribute {name!r} (found: {', '.join(extra) or 'none'}); correct "
                            "it, or leave it empty")
        return name
    return next((attribute for attribute in SCORE_ATTRIBUTES if hasattr(first, attribute)), None)


def write_picks(coordinates: Any, names: dict[int, str], score: str | None, path: Path) -> None:
    """Write a SetOfCoordinates and its scores as a STAR file; ``names`` are the micrographs' names by object id."""
    rows = []
    for item in coordinates.iterItems():
        row = {"rlnMicrographName": names.get(item.getMicId(), f"unknown_{item.getMicId()}"), "rlnOpticsGroup": 1,
               "rlnCoordinateX": item.getX(), "rlnCoordinateY": item.getY()}
        if score is not None:
            row["rlnAutopickFigureOfMerit"] = float(item.getAttributeValue(score))
        rows.append(row)
    _write(path, "particles", rows, coordinates.getMicrographs().getSamplingRate())


def write_truth(coordinates: Any, names: dict[int, str], picked_names: set[str], path: Path) -> None:
    """Write a true SetOfCoordinates as a STAR file, and the list of its micrographs beside it.

    For simulated and generated micrographs, particles.star gives the exact centres. It also gives the particles cut by
    the border, which are not in the set.

    Parameters
    ----------
    coordinates
        The true coordinates.
    names
        Names of their micrographs by object id.
    picked_names
        Names of the micrographs that were picked; other micrographs are left out.
    path
        Path of the STAR file; ``micrographs.star`` is written beside it.

    Raises
    ------
    DataError
        None of its micrographs was picked.
    """
    micrographs = coordinates.getMicrographs()
    pixel_size = micrographs.getSamplingRate()
    # Copies in a list, because a second query to the set would end the iteration over it.
    picked = [item.clone() for item in micrographs.iterItems() if names[item.getObjId()] in picked_names]
    if not picked:
        raise DataError(f"none of the {micrographs.getSize()} micrographs of the true coordinates (such as "
                        f"{micrographs.getFirstItem().getMicName()}) was picked; choose the true coordinates of the "
                        "picked micrographs")
    positions: dict[int, list[tuple[int, int]]] = {item.getObjId(): [] for item in picked}
    for item in coordinates.iterItems():
        if item.getMicId() in positions:
            positions[item.getMicId()].append((item.getX(), item.getY()))
    tables: dict[str, pd.DataFrame] = {}
    rows = [{"rlnMicrographName": names[item.getObjId()], "rlnOpticsGroup": 1, **row} for item in picked
            for row in _true_rows(item, positions[item.getObjId()], pixel_size, tables)]
    _write(path, "particles", rows, pixel_size)
    _write(path.with_name(MICROGRAPHS), "micrographs",
           [{"rlnMicrographName": names[item.getObjId()], "rlnOpticsGroup": 1} for item in picked], pixel_size)


def _true_rows(micrograph: Any, positions: list[tuple[int, int]], pixel_size: float,
               tables: dict[str, pd.DataFrame]) -> Iterator[dict[str, float]]:
    """Rows of one micrograph's particles: whole particles from the set, then particles cut by the border."""
    labels = _labels(micrograph, tables)
    exact_centres: dict[tuple[int, int], tuple[float, float]] = {}
    cut_centres = []
    if labels is not None:
        scale = labels["pixel_size"].iloc[0] / pixel_size if len(labels) else 1.0
        for row in labels.to_dict("records"):
            centre = row["x"] * scale, row["y"] * scale
            if row["cryogemWhole"] == 1:
                exact_centres[math.floor(row["rlnCoordinateX"]), math.floor(row["rlnCoordinateY"])] = centre
            else:
                cut_centres.append(centre)
    whole_centres = [exact_centres.get(position, position) for position in positions]
    for whole, centres in ((1, whole_centres), (0, cut_centres)):
        for x, y in centres:
            yield {"rlnCoordinateX": float(x), "rlnCoordinateY": float(y), "cryogemWhole": whole}


def _labels(micrograph: Any, tables: dict[str, pd.DataFrame]) -> pd.DataFrame | None:
    """Rows of a micrograph in particles.star with exact centres ``x``, ``y``; ``None`` where it has no such file."""
    name = micrograph.getAttributeValue("_cryogemParticles", "")
    if not name or not os.path.isfile(name):
        return None
    if name not in tables:
        path = Path(name)
        _, rows = read_table(path, "particles", ("rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY",
                                                 "rlnOriginXAngst", "rlnOriginYAngst", "cryogemWhole"))
        pixel_size = read_manifest(path.parent).pixel_size
        tables[name] = rows.assign(
            pixel_size=pixel_size, x=rows["rlnCoordinateX"] - rows["rlnOriginXAngst"] / pixel_size,
            y=rows["rlnCoordinateY"] - rows["rlnOriginYAngst"] / pixel_size,
            file=[os.path.abspath(path.parent / relative) for relative in rows["rlnMicrographName"]])
    return tables[name][tables[name]["file"] == os.path.abspath(micrograph.getFileName())]


def _write(path: Path, name: str, rows: list[dict[str, Any]], pixel_size: float) -> None:
    optics = {"rlnOpticsGroup": 1, "rlnOpticsGroupName": "opticsGroup1", "rlnMicrographPixelSize": pixel_size}
    # A table without rows needs its columns named.
    columns = None if rows else ["rlnMicrographName", "rlnOpticsGroup", "rlnCoordinateX", "rlnCoordinateY"]
    write_table(path, name, pd.DataFrame([optics]), pd.DataFrame(rows, columns=columns))
