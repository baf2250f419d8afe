# SPDX-License-Identifier: GPL-3.0-or-later
"""For cryoSPARC: a folder for its imports, and the same as ``.cs`` data sets.

The fields of a ``.cs`` file, as cryosparc-tools names them: ``blob`` where the image is, ``ctf``, ``location``
where it was cut (fractions of the micrograph, y from below), ``alignments3D`` its pose: the rotation vector of Aᵀ
(A is RELION's matrix of the Euler angles) and the shift in pixels, with RELION's sign.
"""
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.export.images import bring_micrographs, bring_stacks, bytes_of_images, star_prefix
from cryogem_scipion.engine.export.relion import write_star
from cryogem_scipion.engine.export.selection import ORIGIN, PLACE, Selection, image_places
from cryogem_scipion.engine.io.dataset import replacing
from cryogem_scipion.engine.settings import ExportSettings
from cryogem_scipion.engine.simulation.projection import rotation_matrices

__all__ = ["check", "needed", "write"]

needed = bytes_of_images


def check(selection: Selection, settings: ExportSettings) -> None:
    """Refuse what cryoSPARC could not read, and a Python without cryosparc-tools."""
    star_prefix(settings, "")
    try:
        import cryosparc.dataset  # noqa: F401
    except ImportError:
        raise DataError(".cs files are written by cryosparc-tools, which this Python lacks; pip install "
                        "cryosparc-tools") from None


def write(selection: Selection, settings: ExportSettings, out: Path) -> list[str]:
    """Write the export; returns what to do next."""
    prefix = star_prefix(settings, "")
    bring_micrographs(selection, settings, out)
    if settings.extract:
        bring_stacks(selection, settings, out)
    write_star(selection, settings, out, prefix)
    uids = _uids(settings.seed, len(selection.micrographs) + len(selection.particles))
    exposures, particles = np.split(uids, [len(selection.micrographs)])
    _save(out / "micrographs.cs", {"uid": exposures, **_exposure_fields(selection, prefix)})
    owner = dict(zip(selection.micrographs["rlnMicrographName"], exposures, strict=True))
    _save(out / "particles.cs", {"uid": particles, **_particle_fields(selection, settings, prefix, owner)})
    return _next(selection, settings, out)


def _save(path: Path, fields: Mapping[str, NDArray[Any]]) -> None:
    from cryosparc.dataset import Dataset
    with replacing(path) as temporary:
        Dataset(list(fields.items())).save(temporary)


def _uids(seed: int, count: int) -> NDArray[np.uint64]:
    """Distinct numbers, the same for the same seed."""
    random = np.random.default_rng([seed, 0xC5])
    uids = random.integers(1, 2**63, count, dtype=np.uint64)
    while len(np.unique(uids)) < count:
        uids = random.integers(1, 2**63, count, dtype=np.uint64)
    return uids


def _exposure_fields(selection: Selection, prefix: str) -> dict[str, NDArray[Any]]:
    rows = selection.micrographs
    count = len(rows)
    return {
        "micrograph_blob/path": _texts(rows["rlnMicrographName"], prefix),
        "micrograph_blob/idx": np.zeros(count, np.uint32),
        "micrograph_blob/shape": np.tile(np.array(selection.shape, np.uint32), (count, 1)),
        "micrograph_blob/psize_A": _filled(count, selection.pixel_size),
        "micrograph_blob/format": _texts(["MRC/1"] * count),
        "micrograph_blob/is_background_subtracted": np.zeros(count, np.uint32),
        "mscope_params/accel_kv": _filled(count, selection.optics["rlnVoltage"]),
        "mscope_params/cs_mm": _filled(count, selection.optics["rlnSphericalAberration"]),
        "mscope_params/total_dose_e_per_A2": _filled(count, 0.0),
        "mscope_params/exp_group_id": np.zeros(count, np.uint32),
        "mscope_params/phase_plate": (rows["rlnPhaseShift"] != 0).to_numpy(np.uint32),
        "mscope_params/neg_stain": np.zeros(count, np.uint32),
        **_ctf_fields(selection, rows)}


def _particle_fields(selection: Selection, settings: ExportSettings, prefix: str, owner: dict[str, np.uint64]
                     ) -> dict[str, NDArray[Any]]:
    rows = selection.particles
    count = len(rows)
    fields: dict[str, NDArray[Any]] = {}
    if settings.extract:
        numbers, stacks = image_places(rows["rlnImageName"])
        fields = {
            "blob/path": _texts(stacks, prefix), "blob/idx": (numbers - 1).astype(np.uint32),
            "blob/shape": np.full((count, 2), selection.box_size, np.uint32),
            "blob/psize_A": _filled(count, selection.pixel_size),
            "blob/sign": _filled(count, 1.0),  # protein bright; -1 stands for dark
            "blob/import_sig": np.zeros(count, np.uint64)}
    y, x = selection.shape
    shifts = rows[ORIGIN].to_numpy(float) / selection.pixel_size
    return fields | _ctf_fields(selection, rows) | {
        "location/micrograph_uid": np.array([owner[name] for name in rows["rlnMicrographName"]], np.uint64),
        "location/exp_group_id": np.zeros(count, np.uint32),
        "location/micrograph_path": _texts(rows["rlnMicrographName"], prefix),
        "location/micrograph_shape": np.tile(np.array([y, x], np.uint32), (count, 1)),
        "location/center_x_frac": (rows[PLACE[0]] / x).to_numpy(np.float32),
        "location/center_y_frac": (1 - rows[PLACE[1]] / y).to_numpy(np.float32),
        "alignments3D/split": (rows["rlnRandomSubset"] - 1).to_numpy(np.uint32),
        "alignments3D/shift": shifts.astype(np.float32), "alignments3D/pose": _rotation_vectors(selection),
        "alignments3D/psize_A": _filled(count, selection.pixel_size),
        "alignments3D/alpha": _filled(count, 1.0), "alignments3D/weight": _filled(count, 1.0),
        "alignments3D/class": np.zeros(count, np.uint32), "alignments3D/class_posterior": _filled(count, 1.0)}


def _ctf_fields(selection: Selection, rows: Any) -> dict[str, NDArray[Any]]:
    count, optics = len(rows), selection.optics
    return {
        "ctf/type": _texts(["imported"] * count), "ctf/exp_group_id": np.zeros(count, np.uint32),
        "ctf/accel_kv": _filled(count, optics["rlnVoltage"]),
        "ctf/cs_mm": _filled(count, optics["rlnSphericalAberration"]),
        "ctf/amp_contrast": _filled(count, optics["rlnAmplitudeContrast"]),
        "ctf/df1_A": rows["rlnDefocusU"].to_numpy(np.float32), "ctf/df2_A": rows["rlnDefocusV"].to_numpy(np.float32),
        "ctf/df_angle_rad": np.radians(rows["rlnDefocusAngle"].to_numpy(float)).astype(np.float32),
        "ctf/phase_shift_rad": np.radians(rows["rlnPhaseShift"].to_numpy(float)).astype(np.float32),
        "ctf/scale": _filled(count, 1.0), "ctf/scale_const": _filled(count, 0.0),
        **{f"ctf/{name}": np.zeros((count, size), np.float32)
           for name, size in [("shift_A", 2), ("tilt_A", 2), ("trefoil_A", 2), ("tetra_A", 4), ("anisomag", 4)]},
        "ctf/bfactor": _filled(count, 0.0)}


def _rotation_vectors(selection: Selection) -> NDArray[np.float32]:
    angles = selection.particles[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy(float).reshape(-1, 3)
    if not len(angles):
        return np.zeros((0, 3), np.float32)
    matrices = rotation_matrices(torch.from_numpy(angles)).numpy()
    vectors: NDArray[np.float32] = Rotation.from_matrix(matrices.transpose(0, 2, 1)).as_rotvec().astype(np.float32)
    return vectors


def _filled(count: int, value: float) -> NDArray[np.float32]:
    return np.full(count, value, np.float32)


def _texts(values: Iterable[str], prefix: str = "") -> NDArray[np.object_]:
    return np.array([f"{prefix}{value}" for value in values], dtype=object)


def _next(selection: Selection, settings: ExportSettings, out: Path) -> list[str]:
    optics = selection.optics
    base = (out if settings.relative_to is None else settings.relative_to).resolve()
    lines = [f"cryoSPARC. This folder has to be readable on the server; here it is {out.resolve()}"
             + (", and its images are links, which have to be readable there as well." if settings.files == "link"
                else "."),
             "Import Micrographs",
             f"  Micrographs data path: {out.resolve()}/micrographs/*.mrc",
             f"  Pixel size (Å): {selection.pixel_size:.6g}",
             f"  Accelerating voltage (kV): {optics['rlnVoltage']:g}",
             f"  Spherical aberration (mm): {optics['rlnSphericalAberration']:g}",
             "  Total exposure dose (e/Å^2): 50 (any; nothing is weighted by it)",
             "  Protein is dark on the micrographs, as on real ones."]
    if not settings.extract:
        return [*lines, "Coordinates, CTFs and poses: particles.star, or particles.cs for cryosparc-tools."]
    return [*lines, "Import Particle Stack",
            "  Source exposures (optional): the imported micrographs; file names match rlnMicrographName",
            f"  Particle meta path: {out.resolve()}/particles.star",
            f"  Particle data path: {base}",
            f"  Read from the STAR file: pixel size {selection.pixel_size:.6g} Å, amplitude contrast "
            f"{optics['rlnAmplitudeContrast']:g}, voltage, Cs, CTFs and poses",
            "  Data sign, where it is asked: light-on-dark (particles are bright in the stacks)",
            f"With cryosparc-tools: particles.cs and micrographs.cs, paths relative to {base}",
            "  from cryosparc.dataset import Dataset; particles = Dataset.load('particles.cs')"]
