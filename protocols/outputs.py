# SPDX-License-Identifier: GPL-3.0-or-later
"""Scipion's sets made from the engine's output folder.

The images stay in the engine's folder. The sets hold their paths, relative to the project. Attributes of the items
hold what later protocols need beside the images: the paths of the manifest (``_cryogemManifest``), the mask
(``_cryogemMask``) and the particles' STAR file (``_cryogemParticles``). So a subset of a set works as well as the set.
"""
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from pwem.constants import ALIGN_PROJ
from pwem.convert.transformations import euler_matrix, inverse_matrix
from pwem.objects import Acquisition, Coordinate, CTFModel, Micrograph, Particle, Transform
from pyworkflow.object import Float, Integer, Pointer, String

from cryogem_scipion.engine.figures.pose_training import REPORT_NAME as POSE_TRAINING
from cryogem_scipion.engine.figures.report_files import read_report
from cryogem_scipion.engine.io.dataset import (
    EXTRACTED,
    MANIFEST,
    MICROGRAPHS,
    PARTICLES,
    VARIATION,
    Manifest,
    read_table,
    unquoted_path,
)
from cryogem_scipion.engine.settings import TrainSettings
from cryogem_scipion.objects import CryogemModel, CryogemPoseModel

__all__ = ["coordinates_output", "ctf_output", "micrographs_output", "model_output", "particles_output", "pose",
           "pose_model_output", "real_micrographs_output"]

MAGNIFICATION = 50000.0  # Not used. Without a magnification, Scipion treats the acquisition as missing.
STAR_COORDINATE = ("rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY", "cryogemWhole")
STAR_CTF = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")


def micrographs_output(protocol: Any, folder: Path, manifest: Manifest) -> Any:
    """Return the SetOfMicrographs of a labelled dataset folder; object ids are the row numbers, from 1."""
    optics, rows = read_table(folder / MICROGRAPHS, "micrographs", ("rlnMicrographName", "cryogemMask"))
    acquisitions = _acquisitions(optics)
    output = protocol._createSetOfMicrographs()
    output.setAcquisition(next(iter(acquisitions.values())))
    output.setSamplingRate(manifest.pixel_size)
    for number, row in enumerate(rows.to_dict("records"), 1):
        micrograph = Micrograph()
        micrograph.setObjId(number)
        micrograph.setFileName(str(folder / row["rlnMicrographName"]))
        micrograph.setMicName(_unique_name(protocol, row["rlnMicrographName"]))
        micrograph.setAcquisition(acquisitions[row.get("rlnOpticsGroup", next(iter(acquisitions)))])
        micrograph._cryogemManifest = String(str(folder / MANIFEST))
        micrograph._cryogemMask = String(str(folder / row["cryogemMask"]))
        micrograph._cryogemParticles = String(str(folder / PARTICLES))
        output.append(micrograph)
    return output


def ctf_output(protocol: Any, folder: Path, micrographs: Any) -> Any:
    """Return the SetOfCTF of a labelled dataset folder; object ids are those of the micrographs."""
    _, rows = read_table(folder / MICROGRAPHS, "micrographs", STAR_CTF)
    output = protocol._createSetOfCTF()
    output.setMicrographs(Pointer(protocol, extended="outputMicrographs"))
    has_phase_shift = _has_phase_shift(rows)
    for row, micrograph in zip(rows.to_dict("records"), micrographs.iterItems(), strict=True):
        ctf = _ctf(row, has_phase_shift)
        ctf.setMicrograph(micrograph.clone())
        ctf.setObjId(micrograph.getObjId())
        output.append(ctf)
    return output


def coordinates_output(protocol: Any, folder: Path, manifest: Manifest, micrographs: Any) -> Any:
    """Return the SetOfCoordinates of the whole particles, in integer pixels, rounded down as RELION does."""
    _, rows = read_table(folder / PARTICLES, "particles", STAR_COORDINATE)
    output = protocol._createSetOfCoordinates(Pointer(protocol, extended="outputMicrographs"))
    output.setBoxSize(manifest.box_size)
    by_name = _by_file(micrographs)
    for number, row in enumerate(rows[rows["cryogemWhole"] == 1].to_dict("records"), 1):
        coordinate = _coordinate(row, by_name[str(folder / row["rlnMicrographName"])])
        coordinate.setObjId(number)
        output.append(coordinate)
    return output


def particles_output(protocol: Any, folder: Path, manifest: Manifest, micrographs: Any) -> Any:
    """Return the SetOfParticles with poses, CTFs and coordinates; object ids are those of the coordinates."""
    columns = (*STAR_CTF, *STAR_COORDINATE, "rlnImageName", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi",
               "rlnOriginXAngst", "rlnOriginYAngst")
    optics, rows = read_table(folder / EXTRACTED, "particles", columns)
    acquisitions = _acquisitions(optics)
    output = protocol._createSetOfParticles()
    output.setAcquisition(next(iter(acquisitions.values())))
    output.setSamplingRate(manifest.pixel_size)
    output.setHasCTF(True)
    output.setAlignment(ALIGN_PROJ)
    output.setCoordinates(Pointer(protocol, extended="outputCoordinates"))
    by_name = _by_file(micrographs)
    has_phase_shift = _has_phase_shift(rows)
    variation = VARIATION if set(VARIATION) <= set(rows) else ()
    for number, row in enumerate(rows.to_dict("records"), 1):
        micrograph = by_name[str(folder / row["rlnMicrographName"])]
        index, _, stack = row["rlnImageName"].partition("@")
        particle = Particle()
        particle.setObjId(number)
        particle.setLocation(int(index), str(folder / stack))
        particle.setAcquisition(acquisitions[row.get("rlnOpticsGroup", next(iter(acquisitions)))])
        coordinate = _coordinate(row, micrograph)
        coordinate.setObjId(number)
        particle.setCoordinate(coordinate)
        particle.setMicId(micrograph.getObjId())
        ctf = _ctf(row, has_phase_shift)
        ctf.setObjId(micrograph.getObjId())
        particle.setCTF(ctf)
        particle.setTransform(Transform(pose(row, manifest.pixel_size)))
        particle.setClassId(int(row.get("rlnClassNumber", 1)))
        particle._rlnRandomSubset = Integer(int(row.get("rlnRandomSubset", 1)))
        particle._cryogemSource = String(str(row.get("cryogemSource", "")))
        particle._cryogemManifest = String(str(folder / MANIFEST))
        for name in variation:
            setattr(particle, f"_{name}", Float(float(row[name])))
        output.append(particle)
    return output


def model_output(folder: Path, manifest: Manifest) -> CryogemModel:
    """Return the trained or imported noise model, with its pixel size, crop, steps and SNR as far as known."""
    model = CryogemModel(str(folder / (manifest.model or "model.safetensors")))
    model.setSamplingRate(manifest.pixel_size)
    if manifest.stage == "import-model":
        model.setCrop(2 ** int(manifest.figures["levels"]))
    else:
        fields = TrainSettings.model_fields
        model.setCrop(int(manifest.settings.get("crop", fields["crop"].default)))
        model.setSteps(int(manifest.settings.get("steps", fields["steps"].default)))
    snr = manifest.contrast.snr if manifest.contrast else manifest.settings.get("snr")
    model.setSnr(snr)
    return model


def pose_model_output(folder: Path, manifest: Manifest) -> CryogemPoseModel:
    """Return the trained pose estimator, with what it was trained for and its error on held-out particles."""
    report, _ = read_report(folder, POSE_TRAINING)
    model = CryogemPoseModel(str(folder / (manifest.model or "model.safetensors")))
    model.setSamplingRate(manifest.pixel_size)
    model.setSymmetry(report["symmetry"])
    model.setDiameter(report["diameter_angstrom"])
    model.setSteps(int(manifest.settings["steps"]))
    model.setError(report["held_out"]["median_error_degrees"])
    model.setClasses(len(report["class_numbers"]))
    return model


def real_micrographs_output(protocol: Any, folder: Path, manifest: Manifest, real: Any) -> Any:
    """Return the SetOfMicrographs of the real micrographs at the working pixel size, with the originals' ids and names.

    Images have whole sizes in pixels, so the exact pixel sizes along x and y differ from the set's by up to 0.1 %.
    Attributes of the items hold them; *return coordinates* needs them to be exact.
    """
    columns = ("rlnMicrographName", "cryogemOriginal", "cryogemPixelSizeX", "cryogemPixelSizeY")
    _, rows = read_table(folder / MICROGRAPHS, "micrographs", columns)
    # A set may contain the same file more than once.
    rows_of_file: dict[str, list[dict[str, Any]]] = {}
    for row in rows.to_dict("records"):
        rows_of_file.setdefault(os.path.realpath(unquoted_path(row["cryogemOriginal"])), []).append(row)
    output = protocol._createSetOfMicrographs()
    if real.hasAcquisition():
        output.setAcquisition(real.getAcquisition().clone())
    output.setSamplingRate(manifest.pixel_size)
    for original in real.iterItems():
        matches = rows_of_file[os.path.realpath(original.getFileName())]
        row = matches.pop() if len(matches) > 1 else matches[0]
        micrograph = Micrograph()
        micrograph.setObjId(original.getObjId())
        micrograph.setFileName(str(folder / row["rlnMicrographName"]))
        micrograph.setMicName(original.getMicName() or os.path.basename(original.getFileName()))
        if original.hasAcquisition():
            micrograph.setAcquisition(original.getAcquisition().clone())
        micrograph._cryogemOriginal = String(original.getFileName())
        micrograph._cryogemPixelSizeX = Float(row["cryogemPixelSizeX"])
        micrograph._cryogemPixelSizeY = Float(row["cryogemPixelSizeY"])
        output.append(micrograph)
    return output


def pose(row: dict[str, Any], pixel_size: float) -> Any:
    """Return Scipion's projection matrix (4 x 4) for a particle's RELION angles (degrees) and origin (Å).

    It is the inverse of the matrix with the ``szyz`` rotation by the negated angles and the negated origin in pixels.
    """
    rot, tilt, psi = (math.radians(row[name]) for name in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"))
    matrix = euler_matrix(-rot, -tilt, -psi, "szyz")
    matrix[:3, 3] = -row["rlnOriginXAngst"] / pixel_size, -row["rlnOriginYAngst"] / pixel_size, 0.0
    return np.asarray(inverse_matrix(matrix))


def _unique_name(protocol: Any, path: str) -> str:
    """The protocol's number and the file's name, because joined sets tell micrographs apart by name only."""
    number, name = protocol.getObjId(), os.path.basename(path)
    return f"{number:06d}_{name}" if number else name


def _acquisitions(optics: Any) -> dict[Any, Acquisition]:
    """Acquisitions by optics group."""
    return {row["rlnOpticsGroup"]: Acquisition(
        magnification=MAGNIFICATION, voltage=row["rlnVoltage"], sphericalAberration=row["rlnSphericalAberration"],
        amplitudeContrast=row["rlnAmplitudeContrast"]) for row in optics.to_dict("records")}


def _by_file(micrographs: Any) -> dict[str, Micrograph]:
    """Micrographs by the path of their file."""
    return {micrograph.getFileName(): micrograph.clone() for micrograph in micrographs.iterItems()}


def _coordinate(row: dict[str, Any], micrograph: Micrograph) -> Coordinate:
    coordinate = Coordinate()
    coordinate.setPosition(math.floor(row["rlnCoordinateX"]), math.floor(row["rlnCoordinateY"]))
    coordinate.setMicId(micrograph.getObjId())
    coordinate.setMicName(micrograph.getMicName())
    return coordinate


def _has_phase_shift(rows: Any) -> bool:
    return "rlnPhaseShift" in rows and bool((rows["rlnPhaseShift"] != 0).any())


def _ctf(row: dict[str, Any], has_phase_shift: bool) -> CTFModel:
    ctf = CTFModel()
    ctf.setDefocusU(float(row["rlnDefocusU"]))
    ctf.setDefocusV(float(row["rlnDefocusV"]))
    ctf.setDefocusAngle(float(row["rlnDefocusAngle"]) % 180.0)
    if has_phase_shift:
        ctf.setPhaseShift(float(row["rlnPhaseShift"]))
    ctf.standardize()
    return ctf
