# SPDX-License-Identifier: GPL-3.0-or-later
"""Validation metric and losses of a finished training, for the manifest.

They are read from the tables of the training, which also hold the steps before an interruption.
"""
from pathlib import Path

import pandas as pd

from cryogem_scipion.engine.translator.training import LOSSES, REALISM

__all__ = ["training_results"]


def training_results(folder: Path) -> dict[str, float]:
    """Return the validation of the best checkpoint with its step, and the losses of the last step.

    ``stopped_early_at`` is the last step of a training that stopped early.
    """
    return {**_best_checkpoint(folder / REALISM), **_last_losses(folder / LOSSES)}


def _best_checkpoint(path: Path) -> dict[str, float]:
    validations = pd.read_csv(path)
    if validations.empty:
        return {}
    best_step = validations["best_step"].iloc[-1]
    if pd.isna(best_step):  # all validations are of a version that chose by the distance
        best = validations.loc[validations["realism"].idxmin()]
        return {"realism": float(best["realism"]), "best_step": float(best["step"])}
    best = validations.loc[validations["step"] == best_step].iloc[-1]
    return {"realism": float(best["realism"]), "auc": float(best["auc"]), "best_step": float(best_step)}


def _last_losses(path: Path) -> dict[str, float]:
    last = pd.read_csv(path).iloc[-1]
    losses = {str(name): float(value) for name, value in last.items() if name not in ("step", "steps")}
    return losses if last["step"] == last["steps"] else {**losses, "stopped_early_at": float(last["step"])}
