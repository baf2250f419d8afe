# SPDX-License-Identifier: GPL-3.0-or-later
"""For cryoDRGN and pose networks: one stack, and the CTFs and poses of its images."""
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryogem_scipion.engine.export.images import boxes
from cryogem_scipion.engine.export.selection import CTF, ORIGIN, Selection, own_columns
from cryogem_scipion.engine.io.dataset import PARTICLES, replacing, write_table
from cryogem_scipion.engine.io.mrc import write_stack
from cryogem_scipion.engine.settings import ExportSettings
from cryogem_scipion.engine.simulation.projection import rotation_matrices

__all__ = ["check", "ctf_array", "needed", "pose_arrays", "write"]

STACK = "particles.mrcs"


def check(selection: Selection, settings: ExportSettings) -> None:
    """Nothing more than what ``select`` refuses."""


def needed(selection: Selection, settings: ExportSettings) -> int:
    """Disk space."""
    return (4 * selection.box_size**2 + 400) * len(selection.particles)


def write(selection: Selection, settings: ExportSettings, out: Path) -> list[str]:
    """Write the export; returns what to do next."""
    count, box = len(selection.particles), selection.box_size
    with replacing(out / STACK) as path:
        write_stack(path, boxes(selection), (count, box, box), selection.pixel_size)
    _dump(out / "ctf.pkl", ctf_array(selection))
    _dump(out / "pose.pkl", pose_arrays(selection))
    names = [f"{number:06d}@{STACK}" for number in range(1, count + 1)]
    rows = own_columns(selection.particles).assign(rlnImageName=names)
    write_table(out / PARTICLES, "particles", selection.optics_table(images=True), rows)
    return [f"cryoDRGN 3 or newer, in this folder; {count} particles of {box} px at {selection.pixel_size:.6g} Å/px.",
            "  cryodrgn backproject_voxel particles.mrcs --ctf ctf.pkl --poses pose.pkl -o backproject",
            "  cryodrgn train_vae particles.mrcs --ctf ctf.pkl --poses pose.pkl --zdim 8 -n 25 -o vae",
            "Pose networks: particles.star has the same images in the same order, with Euler angles (degrees), origins "
            "(Å) and the conformation (rlnClassNumber).",
            "Particles are bright; cryoDRGN's default sign is right."]


def ctf_array(selection: Selection) -> NDArray[np.float32]:
    """CTFs (n, 9): box, pixel size, defocus U, V (Å), angle (degrees), kV, mm, amplitude contrast, phase (degrees)."""
    optics, values = selection.optics, selection.particles[CTF].to_numpy(np.float64)
    microscope = [optics[name] for name in ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")]
    columns = [selection.box_size, selection.pixel_size, *values[:, :3].T, *microscope, values[:, 3]]
    table: NDArray[np.float32] = np.stack([np.broadcast_to(column, len(values)) for column in columns], axis=1).astype(
        np.float32)
    return table


def pose_arrays(selection: Selection) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rotations A (n, 3, 3) and origins (n, 2) as fractions of the box."""
    rows = selection.particles
    angles = torch.from_numpy(rows[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy(np.float64))
    origins = rows[ORIGIN].to_numpy(np.float64) / (selection.pixel_size * selection.box_size)
    return rotation_matrices(angles).numpy(), origins


def _dump(path: Path, value: Any) -> None:
    """Write the pickle that cryoDRGN reads; this program itself never loads one."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        pickle.dump(value, file, protocol=4)
