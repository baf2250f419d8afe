# SPDX-License-Identifier: GPL-3.0-or-later
"""Scipion's outputs and sentences of a measurement of real micrographs, from the folder that the engine wrote."""
import os
from pathlib import Path
from typing import Any

from pwem.objects import CTFModel

from cryogem_scipion.engine.io.dataset import Manifest, read_table
from cryogem_scipion.engine.settings import MEASURED, SimulateSettings, read_json, read_measurement
from cryogem_scipion.objects import CryogemMeasurement

__all__ = ["fitted_ctfs_output", "measured_sentences", "measurement_output"]

CTFS, REPORT, SETTINGS = "ctfs.star", "measurement.json", "settings.json"
FIT = ("rlnMicrographName", "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")


def measurement_output(folder: Path, manifest: Manifest, own_pixel_size: float) -> CryogemMeasurement:
    """Return the measurement, with its main values as far as they were measured.

    Parameters
    ----------
    folder
        The folder of the measurement.
    manifest
        Its manifest.
    own_pixel_size
        Å, of the real micrographs.
    """
    values, _ = read_measurement(folder)
    measurement = CryogemMeasurement(str(folder / SETTINGS))
    measurement.setSamplingRate(manifest.pixel_size)
    measurement.setMicrographs(manifest.micrographs)
    if "particles_mean" in values:
        measurement.setParticles(round(values["particles_mean"]))
    measurement.setSnr(values.get("snr"))
    measurement.setDefocusRange(values.get("defocus_min"), values.get("defocus_max"))
    if manifest.particle_diameter_angstrom:
        measurement.setDiameter(manifest.particle_diameter_angstrom, manifest.pixel_size, own_pixel_size)
    return measurement


def fitted_ctfs_output(protocol: Any, folder: Path, micrographs: Any) -> Any:
    """Return the SetOfCTF of the reliable fits; ``None`` where the measurement has no reliable fit.

    Parameters
    ----------
    protocol
        The protocol that makes the set.
    folder
        The folder of the measurement.
    micrographs
        Pointer to the micrographs that were measured. The CTFs have their object ids.
    """
    if not (folder / CTFS).is_file():
        return None
    _, rows = read_table(folder / CTFS, "micrographs", FIT)
    by_file = {os.path.realpath(row["rlnMicrographName"]): row for row in rows.to_dict("records")}
    output = protocol._createSetOfCTF()
    output.setMicrographs(micrographs)
    for micrograph in micrographs.get().iterItems():
        row = by_file.get(os.path.realpath(micrograph.getFileName()))
        if row is not None:
            output.append(_fitted_ctf(row, micrograph))
    return output if output.getSize() else None


def measured_sentences(folder: Path, manifest: Manifest) -> list[str]:
    """Return what was measured, and what could not be measured, as sentences."""
    report = read_json(folder / REPORT)
    rows = report.get("micrographs", [])
    reliable = sum(bool(row.get("defocus_reliable")) for row in rows)
    known = bool(rows) and all(row.get("defocus_known") for row in rows)
    diameter = manifest.particle_diameter_angstrom
    sentences = [f"{manifest.micrographs} micrographs were measured for a simulation at {manifest.pixel_size:.3g} Å/px."
                 + (f" The particle's diameter is {diameter:.0f} Å." if diameter else ""),
                 "Their CTFs were known." if known else
                 f"The defocus of {reliable} of {len(rows)} micrographs is reliable."]
    fields = SimulateSettings.model_fields
    estimates = report.get("estimates", {})
    sentences += [f"{fields[name].title}: {value:.6g}{_interval(estimates.get(name))}."
                  for name, value in manifest.figures.items() if name in fields]
    reasons = report.get("not_reliable", {})
    return sentences + [f"{fields[name].title}: not measured, because {reason}." for name, reason in reasons.items()
                        if name in MEASURED]


def _interval(estimate: dict[str, Any] | None) -> str:
    """The interval of an estimate for a sentence; empty where it is not known."""
    interval = (estimate or {}).get("interval")
    ends = " to ".join(f"{float(f'{end:.3g}'):g}" for end in interval or ())
    return f" ({ends} with a probability of 95 %)" if ends else ""


def _fitted_ctf(row: dict[str, Any], micrograph: Any) -> CTFModel:
    ctf = CTFModel()
    ctf.setDefocusU(float(row["rlnDefocusU"]))
    ctf.setDefocusV(float(row["rlnDefocusV"]))
    ctf.setDefocusAngle(float(row["rlnDefocusAngle"]) % 180.0)
    if row.get("rlnPhaseShift"):
        ctf.setPhaseShift(float(row["rlnPhaseShift"]))
    if "rlnCtfFigureOfMerit" in row:
        ctf.setFitQuality(float(row["rlnCtfFigureOfMerit"]))
    if "rlnCtfMaxResolution" in row:
        ctf.setResolution(float(row["rlnCtfMaxResolution"]))
    ctf.standardize()
    ctf.setMicrograph(micrograph.clone())
    ctf.setObjId(micrograph.getObjId())
    return ctf
