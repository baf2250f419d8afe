# SPDX-License-Identifier: GPL-3.0-or-later
"""Microscope states and orientations of real data, read from STAR files for a simulation to draw from."""
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.dataset import read_table
from cryogem_scipion.engine.simulation.ctf import Optics
from cryogem_scipion.engine.simulation.projection import rotation_matrices

__all__ = ["read_measured_optics", "read_measured_orientations"]

ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
DEFOCUS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")

MAX_DEFOCUS_ANGSTROM = 1e6
"""Å; a larger defocus is treated as a mistake."""


def read_measured_optics(path: Path, default_optics: Optics) -> tuple[Optics, ...]:
    """Read the microscope states of a STAR table ``micrographs``.

    Parameters
    ----------
    path
        The STAR file.
    default_optics
        Gives the values that the table does not have.

    Raises
    ------
    DataError
        The table is missing, a value is missing or no finite number, or a defocus is too large.
    """
    _, rows = read_table(path, "micrographs", DEFOCUS)
    shift = rows.get("rlnPhaseShift", default_optics.phase_shift_degrees)
    values = _finite_numbers(path, rows.assign(rlnPhaseShift=shift)[[*DEFOCUS, "rlnPhaseShift"]])
    too_far = values.index[values[["rlnDefocusU", "rlnDefocusV"]].abs().gt(MAX_DEFOCUS_ANGSTROM).any(axis=1)]
    if len(too_far):
        defocus, row = values.loc[too_far[0], "rlnDefocusU"], too_far[0] + 1
        raise DataError(f"{path} has a defocus of {defocus:g} Å in row {row}, above the limit of "
                        f"{MAX_DEFOCUS_ANGSTROM:g}; give values in Å, or remove this row")
    return tuple(replace(default_optics, defocus_u_angstrom=u, defocus_v_angstrom=v, defocus_angle_degrees=angle,
                         phase_shift_degrees=phase) for u, v, angle, phase in values.itertuples(index=False))


def read_measured_orientations(path: Path) -> Float[Tensor, "n 3 3"]:
    """Read the orientations of a STAR table ``particles``.

    Returns
    -------
    Rotation matrices A (see ``projection``), float64.

    Raises
    ------
    DataError
        The table is missing, or an angle is missing or no finite number.
    """
    _, rows = read_table(path, "particles", ANGLES)
    return rotation_matrices(torch.from_numpy(_finite_numbers(path, rows[list(ANGLES)]).to_numpy()))


def _finite_numbers(path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows as float64; ``DataError`` if a value is not a finite number."""
    try:
        values = rows.astype("float64")
    except ValueError as error:
        raise DataError(f"{path} has a value that is not a number ({error}); correct it") from None
    broken = values.index[(values.isna() | values.abs().eq(float("inf"))).any(axis=1)]
    if not len(values) or len(broken):
        where = f"row {broken[0] + 1} lacks a value" if len(broken) else "it has no rows"
        raise DataError(f"{path} cannot be used: {where} of {', '.join(rows.columns)}; complete the table")
    return values
