# SPDX-License-Identifier: GPL-3.0-or-later
"""What a simulation takes from STAR files of real data: microscope states, orientations."""
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

__all__ = ["measured_orientations", "measured_states"]

ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
DEFOCUS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")

FARTHEST = 1e6
"""Å of defocus beyond which a value is taken for a mistake."""


def measured_states(path: Path, base: Optics) -> tuple[Optics, ...]:
    """Return the microscope states in a table ``micrographs``; what it lacks is that of ``base``.

    Raises
    ------
    DataError
        No such table, or a value in it that is missing or no number.
    """
    _, rows = read_table(path, "micrographs", DEFOCUS)
    shift = rows.get("rlnPhaseShift", base.phase_shift_degrees)
    values = _numbers(path, rows.assign(rlnPhaseShift=shift)[[*DEFOCUS, "rlnPhaseShift"]])
    far = values.index[values[["rlnDefocusU", "rlnDefocusV"]].abs().gt(FARTHEST).any(axis=1)]
    if len(far):
        raise DataError(f"{path} has a defocus of {values.loc[far[0], 'rlnDefocusU']:g} Å in row {far[0] + 1}, beyond "
                        f"{FARTHEST:g}; give Å, or leave that row out")
    return tuple(replace(base, defocus_u_angstrom=u, defocus_v_angstrom=v, defocus_angle_degrees=angle,
                         phase_shift_degrees=phase) for u, v, angle, phase in values.itertuples(index=False))


def measured_orientations(path: Path) -> Float[Tensor, "n 3 3"]:
    """Return the orientations in a table ``particles``, float64.

    Raises
    ------
    DataError
        No such table, or a value in it that is missing or no number.
    """
    _, rows = read_table(path, "particles", ANGLES)
    return rotation_matrices(torch.from_numpy(_numbers(path, rows[list(ANGLES)]).to_numpy()))


def _numbers(path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows as finite float64."""
    try:
        values = rows.astype("float64")
    except ValueError as error:
        raise DataError(f"{path} holds a value that is no number ({error}); correct it") from None
    broken = values.index[(values.isna() | values.abs().eq(float("inf"))).any(axis=1)]
    if not len(values) or len(broken):
        where = f"row {broken[0] + 1} lacks a value" if len(broken) else "it has no rows"
        raise DataError(f"{path} cannot be used: {where} of {', '.join(rows.columns)}; give whole rows")
    return values
