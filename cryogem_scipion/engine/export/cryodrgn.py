# SPDX-License-Identifier: GPL-3.0-or-later
"""Export for cryoDRGN (doi:10.1038/s41592-020-01049-4) and pose networks: one stack, with CTFs and poses."""
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cryogem_scipion.engine.export.images import particle_boxes
from cryogem_scipion.engine.export.selection import CTF, ORIGIN, SelectedDataset, relion_columns
from cryogem_scipion.engine.io.dataset import PARTICLES, replacing, write_table
from cryogem_scipion.engine.io.mrc import write_stack
from cryogem_scipion.engine.settings import ExportSettings
from cryogem_scipion.engine.simulation.projection import rotation_matrices

__all__ = ["check", "ctf_array", "disk_bytes", "pose_arrays", "write"]

STACK = "particles.mrcs"


def check(dataset: SelectedDataset, settings: ExportSettings) -> None:
    """Do nothing: ``select_dataset`` has already refused what cryoDRGN cannot read."""


def disk_bytes(dataset: SelectedDataset, settings: ExportSettings) -> int:
    """Disk space that the export needs, bytes."""
    return (4 * dataset.box_size**2 + 400) * len(dataset.particles)


def write(dataset: SelectedDataset, settings: ExportSettings, out: Path) -> list[str]:
    """Write stack, CTFs, poses and STAR file into the folder ``out``; return the lines of its README.txt."""
    count, box = len(dataset.particles), dataset.box_size
    with replacing(out / STACK) as path:
        write_stack(path, particle_boxes(dataset), (count, box, box), dataset.pixel_size)
    _dump(out / "ctf.pkl", ctf_array(dataset))
    _dump(out / "pose.pkl", pose_arrays(dataset))
    names = [f"{number:06d}@{STACK}" for number in range(1, count + 1)]
    rows = relion_columns(dataset.particles).assign(rlnImageName=names)
    write_table(out / PARTICLES, "particles", dataset.optics_table(with_images=True), rows)
    return [f"cryoDRGN 3 or newer, in this folder; {count} particles of {box} px at {dataset.pixel_size:.6g} Å/px.",
            "  cryodrgn backproject_voxel particles.mrcs --ctf ctf.pkl --poses pose.pkl -o backproject",
            "  cryodrgn train_vae particles.mrcs --ctf ctf.pkl --poses pose.pkl --zdim 8 -n 25 -o vae",
            "Pose networks: particles.star has the same images in the same order, with Euler angles (degrees), origins "
            "(Å) and the conformation (rlnClassNumber).",
            "Particles are bright, as cryoDRGN expects by default."]


def ctf_array(dataset: SelectedDataset) -> NDArray[np.float32]:
    """Return the CTFs as cryoDRGN stores them.

    Returns
    -------
    Array (n, 9): box size (px), pixel size (Å), defocus U and V (Å), defocus angle (degrees), voltage (kV), Cs (mm),
    amplitude contrast, phase shift (degrees).
    """
    optics, values = dataset.optics, dataset.particles[CTF].to_numpy(np.float64)
    microscope = [optics[name] for name in ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")]
    columns = [dataset.box_size, dataset.pixel_size, *values[:, :3].T, *microscope, values[:, 3]]
    table: NDArray[np.float32] = np.stack([np.broadcast_to(column, len(values)) for column in columns], axis=1).astype(
        np.float32)
    return table


def pose_arrays(dataset: SelectedDataset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the poses as cryoDRGN stores them: rotation matrices A (n, 3, 3), and origins x, y (n, 2) in boxes."""
    rows = dataset.particles
    angles = torch.from_numpy(rows[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy(np.float64))
    origins = rows[ORIGIN].to_numpy(np.float64) / (dataset.pixel_size * dataset.box_size)
    return rotation_matrices(angles).numpy(), origins


def _dump(path: Path, value: Any) -> None:
    """Write a pickle for cryoDRGN; this program itself never reads one."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        pickle.dump(value, file, protocol=4)
