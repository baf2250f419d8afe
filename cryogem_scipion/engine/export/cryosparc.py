# SPDX-License-Identifier: GPL-3.0-or-later
"""Export for cryoSPARC (doi:10.1038/nmeth.4169): a folder for its import jobs, and ``.cs`` files.

Fields of a ``.cs`` file, with the names of cryosparc-tools:

- ``blob``: the image file and the number of the image in it
- ``ctf``: the CTF
- ``location``: position on the micrograph, as a fraction of its size; y counts from the lower edge
- ``alignments3D``: the pose, as the rotation vector of Aᵀ (A is RELION's matrix), and the shift in pixels with RELION's
  sign
"""
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.export.images import export_micrographs, export_stacks, images_bytes, star_prefix
from cryogem_scipion.engine.export.relion import write_star
from cryogem_scipion.engine.export.selection import COORDINATE, ORIGIN, SelectedDataset, split_image_names
from cryogem_scipion.engine.io.dataset import replacing
from cryogem_scipion.engine.settings import ExportSettings
from cryogem_scipion.engine.simulation.projection import rotation_matrices

__all__ = ["check", "disk_bytes", "write"]

disk_bytes = images_bytes


def check(dataset: SelectedDataset, settings: ExportSettings) -> None:
    """Refuse paths that STAR files cannot hold, and a Python without cryosparc-tools.

    Raises
    ------
    SettingsError
        The path has a character that STAR readers do not accept, or is not inside ``relative_to``.
    DataError
        cryosparc-tools is not installed.
    """
    star_prefix(settings, "")
    try:
        import cryosparc.dataset  # noqa: F401
    except ImportError:
        raise DataError(".cs files are written by cryosparc-tools, which this Python lacks; run 'pip install "
                        "cryosparc-tools'") from None


def write(dataset: SelectedDataset, settings: ExportSettings, out: Path) -> list[str]:
    """Write images, STAR files and .cs files into the folder ``out``; return the lines of its README.txt."""
    prefix = star_prefix(settings, "")
    export_micrographs(dataset, settings, out)
    if settings.extract:
        export_stacks(dataset, settings, out)
    write_star(dataset, settings, out, prefix)
    uids = _uids(settings.seed, len(dataset.micrographs) + len(dataset.particles))
    exposures, particles = np.split(uids, [len(dataset.micrographs)])
    _save(out / "micrographs.cs", {"uid": exposures, **_exposure_fields(dataset, prefix)})
    micrograph_uids = dict(zip(dataset.micrographs["rlnMicrographName"], exposures, strict=True))
    _save(out / "particles.cs", {"uid": particles, **_particle_fields(dataset, settings, prefix, micrograph_uids)})
    return _instructions(dataset, settings, out)


def _save(path: Path, fields: Mapping[str, NDArray[Any]]) -> None:
    from cryosparc.dataset import Dataset
    with replacing(path) as temporary:
        Dataset(list(fields.items())).save(temporary)


def _uids(seed: int, count: int) -> NDArray[np.uint64]:
    """Unique numbers of images and micrographs; the same for the same seed."""
    random = np.random.default_rng([seed, 0xC5])
    uids = random.integers(1, 2**63, count, dtype=np.uint64)
    while len(np.unique(uids)) < count:
        uids = random.integers(1, 2**63, count, dtype=np.uint64)
    return uids


def _exposure_fields(dataset: SelectedDataset, prefix: str) -> dict[str, NDArray[Any]]:
    rows = dataset.micrographs
    count = len(rows)
    return {
        "micrograph_blob/path": _text_array(rows["rlnMicrographName"], prefix),
        "micrograph_blob/idx": np.zeros(count, np.uint32),
        "micrograph_blob/shape": np.tile(np.array(dataset.shape, np.uint32), (count, 1)),
        "micrograph_blob/psize_A": _constant(count, dataset.pixel_size),
        "micrograph_blob/format": _text_array(["MRC/1"] * count),
        "micrograph_blob/is_background_subtracted": np.zeros(count, np.uint32),
        "mscope_params/accel_kv": _constant(count, dataset.optics["rlnVoltage"]),
        "mscope_params/cs_mm": _constant(count, dataset.optics["rlnSphericalAberration"]),
        "mscope_params/total_dose_e_per_A2": _constant(count, 0.0),
        "mscope_params/exp_group_id": np.zeros(count, np.uint32),
        "mscope_params/phase_plate": (rows["rlnPhaseShift"] != 0).to_numpy(np.uint32),
        "mscope_params/neg_stain": np.zeros(count, np.uint32),
        **_ctf_fields(dataset, rows)}


def _particle_fields(dataset: SelectedDataset, settings: ExportSettings, prefix: str,
                     micrograph_uids: dict[str, np.uint64]) -> dict[str, NDArray[Any]]:
    rows = dataset.particles
    count = len(rows)
    fields: dict[str, NDArray[Any]] = {}
    if settings.extract:
        numbers, stacks = split_image_names(rows["rlnImageName"])
        fields = {
            "blob/path": _text_array(stacks, prefix), "blob/idx": (numbers - 1).astype(np.uint32),
            "blob/shape": np.full((count, 2), dataset.box_size, np.uint32),
            "blob/psize_A": _constant(count, dataset.pixel_size),
            "blob/sign": _constant(count, 1.0),  # protein bright; -1 stands for dark
            "blob/import_sig": np.zeros(count, np.uint64)}
    y, x = dataset.shape
    shifts = rows[ORIGIN].to_numpy(float) / dataset.pixel_size
    return fields | _ctf_fields(dataset, rows) | {
        "location/micrograph_uid": np.array([micrograph_uids[name] for name in rows["rlnMicrographName"]], np.uint64),
        "location/exp_group_id": np.zeros(count, np.uint32),
        "location/micrograph_path": _text_array(rows["rlnMicrographName"], prefix),
        "location/micrograph_shape": np.tile(np.array([y, x], np.uint32), (count, 1)),
        "location/center_x_frac": (rows[COORDINATE[0]] / x).to_numpy(np.float32),
        "location/center_y_frac": (1 - rows[COORDINATE[1]] / y).to_numpy(np.float32),
        "alignments3D/split": (rows["rlnRandomSubset"] - 1).to_numpy(np.uint32),
        "alignments3D/shift": shifts.astype(np.float32), "alignments3D/pose": _rotation_vectors(dataset),
        "alignments3D/psize_A": _constant(count, dataset.pixel_size),
        "alignments3D/alpha": _contrasts(rows), "alignments3D/weight": _constant(count, 1.0),
        "alignments3D/class": np.zeros(count, np.uint32), "alignments3D/class_posterior": _constant(count, 1.0)}


def _ctf_fields(dataset: SelectedDataset, rows: Any) -> dict[str, NDArray[Any]]:
    count, optics = len(rows), dataset.optics
    return {
        "ctf/type": _text_array(["imported"] * count), "ctf/exp_group_id": np.zeros(count, np.uint32),
        "ctf/accel_kv": _constant(count, optics["rlnVoltage"]),
        "ctf/cs_mm": _constant(count, optics["rlnSphericalAberration"]),
        "ctf/amp_contrast": _constant(count, optics["rlnAmplitudeContrast"]),
        "ctf/df1_A": rows["rlnDefocusU"].to_numpy(np.float32), "ctf/df2_A": rows["rlnDefocusV"].to_numpy(np.float32),
        "ctf/df_angle_rad": np.radians(rows["rlnDefocusAngle"].to_numpy(float)).astype(np.float32),
        "ctf/phase_shift_rad": np.radians(rows["rlnPhaseShift"].to_numpy(float)).astype(np.float32),
        "ctf/scale": _constant(count, 1.0), "ctf/scale_const": _constant(count, 0.0),
        **{f"ctf/{name}": np.zeros((count, size), np.float32)
           for name, size in [("shift_A", 2), ("tilt_A", 2), ("trefoil_A", 2), ("tetra_A", 4), ("anisomag", 4)]},
        "ctf/bfactor": _constant(count, 0.0)}


def _rotation_vectors(dataset: SelectedDataset) -> NDArray[np.float32]:
    angles = dataset.particles[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy(float).reshape(-1, 3)
    if not len(angles):
        return np.zeros((0, 3), np.float32)
    matrices = rotation_matrices(torch.from_numpy(angles)).numpy()
    vectors: NDArray[np.float32] = Rotation.from_matrix(matrices.transpose(0, 2, 1)).as_rotvec().astype(np.float32)
    return vectors


def _contrasts(rows: Any) -> NDArray[np.float32]:
    """Scale of each particle's signal; 1 where the particles do not vary."""
    if "rlnCtfScalefactor" in rows:
        return rows["rlnCtfScalefactor"].to_numpy(np.float32)  # type: ignore[no-any-return]
    return _constant(len(rows), 1.0)


def _constant(count: int, value: float) -> NDArray[np.float32]:
    return np.full(count, value, np.float32)


def _text_array(values: Iterable[str], prefix: str = "") -> NDArray[np.object_]:
    return np.array([f"{prefix}{value}" for value in values], dtype=object)


def _instructions(dataset: SelectedDataset, settings: ExportSettings, out: Path) -> list[str]:
    optics = dataset.optics
    base = (out if settings.relative_to is None else settings.relative_to).resolve()
    lines = [f"cryoSPARC. This folder has to be readable on the server; here it is {out.resolve()}"
             + (", and its images are links, which have to be readable there as well." if settings.files == "link"
                else "."),
             "Import Micrographs",
             f"  Micrographs data path: {out.resolve()}/micrographs/*.mrc",
             f"  Pixel size (Å): {dataset.pixel_size:.6g}",
             f"  Accelerating voltage (kV): {optics['rlnVoltage']:g}",
             f"  Spherical aberration (mm): {optics['rlnSphericalAberration']:g}",
             "   Total exposure dose (e/Å^2): 50 (any value; it is not used for weighting)",
             "  Protein is dark on the micrographs, as on real ones."]
    if not settings.extract:
        return [*lines, "Coordinates, CTFs and poses: particles.star, or particles.cs for cryosparc-tools."]
    return [*lines, "Import Particle Stack",
            "  Source exposures (optional): the imported micrographs; file names match rlnMicrographName",
            f"  Particle meta path: {out.resolve()}/particles.star",
            f"  Particle data path: {base}",
            f"  Read from the STAR file: pixel size {dataset.pixel_size:.6g} Å, amplitude contrast "
            f"{optics['rlnAmplitudeContrast']:g}, voltage, Cs, CTFs and poses",
            "  Data sign, where it is asked: light-on-dark (particles are bright in the stacks)",
            f"With cryosparc-tools: particles.cs and micrographs.cs, paths relative to {base}",
            "  from cryosparc.dataset import Dataset; particles = Dataset.load('particles.cs')"]
