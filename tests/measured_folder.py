# SPDX-License-Identifier: GPL-3.0-or-later
"""A folder as ``cryogem measure`` writes it, without a measurement."""
import json

import numpy as np
import pandas as pd

from cryogem_scipion.engine.figures.report_files import write_report
from cryogem_scipion.engine.io.dataset import Manifest, write_manifest, write_table

VALUES = {"particles_mean": 42.0, "particles_sigma": 8.0, "particle_distance": 130.0, "snr": 0.07, "defocus_min": 9000,
          "defocus_max": 21000, "astigmatism_angstrom": 250}
NOT_FOUND = "no particles of the map were found"


def write_measurement(folder, files, volume, pixel_size=8.0, left_out=(), ctfs=True, settings=None):
    """Write a measurement of real micrographs.

    Parameters
    ----------
    folder
        Folder to write to.
    files
        Real micrographs. The CTF of the first one is not reliable.
    volume
        The map.
    left_out
        Settings that were not measured reliably.
    ctfs
        Whether ctfs.star is written.
    settings
        Settings of the measurement, for the manifest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    measured = {name: value for name, value in VALUES.items() if name not in left_out}
    values = {"volume": [str(volume)], "symmetry": "C1", "pixel_size": pixel_size, "micrograph_size": [400, 500],
              "voltage_kv": 200.0, "cs_mm": 1.4, "amplitude_contrast": 0.08, "phase_shift_degrees": 0.0, **measured}
    (folder / "settings.json").write_text(json.dumps(values))
    rows = [{"name": str(file), "defocus_u_angstrom": 15000.0 + number, "defocus_v_angstrom": 14000.0,
             "defocus_angle_degrees": 30.0, "defocus_error_angstrom": 50.0, "defocus_reliable": number > 0,
             "defocus_known": False, "searched_fraction": 1.0, "particles": 40.0, "particles_error": 4.0}
            for number, file in enumerate(files)]
    warnings = ["the fit of one micrograph is left out"]
    report = {"settings": values, "not_reliable": dict.fromkeys(left_out, NOT_FOUND), "warnings": warnings,
              "estimates": {"snr": {"error": 0.005, "interval": [0.06, 0.08]},
                            "defocus_min": {"error": None, "interval": None}},
              "measured": {**VALUES, "diameter": 150.0}, "micrographs": rows}
    flat, number = np.ones(5), np.array(0)
    arrays = {"number": number, "image": np.random.default_rng(1).normal(size=(40, 50)),
              "image_pixel_size": np.array(20.0), "peaks": np.array([[10.0, 20.0]]), "ring_frequency": flat,
              "ring_measured": flat, "ring_fitted": flat, "ring_number": number, "score_bins": np.arange(6.0),
              "real_scores": flat, "generated_scores": flat, "envelope_frequency": flat, "envelope": flat,
              "envelope_error": 0.1 * flat}
    write_report(folder, "measurement", report, arrays)
    (folder / "measurement.png").write_bytes(b"figure")
    if ctfs:
        optics = pd.DataFrame([{"rlnOpticsGroup": 1, "rlnOpticsGroupName": "opticsGroup1"}])
        write_table(folder / "ctfs.star", "micrographs", optics, pd.DataFrame([
            {"rlnMicrographName": row["name"], "rlnOpticsGroup": 1, "rlnDefocusU": row["defocus_u_angstrom"],
             "rlnDefocusV": row["defocus_v_angstrom"], "rlnDefocusAngle": 30.0, "rlnPhaseShift": 0.0,
             "rlnCtfFigureOfMerit": 0.6, "rlnCtfMaxResolution": 5.5} for row in rows if row["defocus_reliable"]]))
    manifest = Manifest(stage="measure", version="0", libraries={}, settings=settings or {}, seed=0,
                        pixel_size=pixel_size, micrographs=len(rows), particle_diameter_angstrom=150.0,
                        warnings=warnings, figures=measured)
    write_manifest(folder, manifest)
    return manifest
