# SPDX-License-Identifier: GPL-3.0-or-later
"""Validation metric and losses of a finished training, for the manifest.

They are read from the tables of the training, which also hold the steps before an interruption.
"""
from pathlib import Path

import pandas as pd

from cryogem_scipion.engine.translator.training import LOSSES, REALISM

__all__ = ["training_results"]


def training_results(folder: Path) -> dict[str, float]:
    """Return the validation metric of the best checkpoint with its step, and the losses of the last step."""
    return {**_best_checkpoint(folder / REALISM), **_last_losses(folder / LOSSES)}


def _best_checkpoint(path: Path) -> dict[str, float]:
    checkpoints = pd.read_csv(path)
    if checkpoints.empty:
        return {}
    best = checkpoints.loc[checkpoints["realism"].idxmin()]
    return {"realism": float(best["realism"]), "best_step": float(best["step"])}


def _last_losses(path: Path) -> dict[str, float]:
    return {str(name): float(value) for name, value in pd.read_csv(path).iloc[-1].items()
            if name not in ("step", "steps")}
