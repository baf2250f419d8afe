# SPDX-License-Identifier: GPL-3.0-or-later
"""Figure of ``cryogem train-poses``: learning curve, errors and confidence on held-out particles, the reference."""
import csv
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.figures.report_files import read_report

__all__ = ["FIGURE_SIZE", "REPORT_NAME", "draw_learning_curve", "draw_pose_training", "reliability"]

REPORT_NAME = "pose_training"
FIGURE_SIZE = (15.0, 7.6)
LOSSES = "losses.csv"


def draw_pose_training(figure: Figure, folder: Path) -> None:
    """Draw the report of a finished training into a figure.

    Raises
    ------
    DataError
        A file of the report is missing or damaged.
    """
    report, arrays = read_report(folder, REPORT_NAME)
    figure.set_layout_engine("constrained")
    axes = np.array(figure.subplots(2, 3))
    draw_learning_curve(axes[0, 0], folder)
    _errors(axes[0, 1], arrays["error_degrees"], report["held_out"])
    _reliability(axes[0, 2], arrays)
    _noise(axes[1, 0], arrays, report)
    _shifts(axes[1, 1], arrays["shift_error_angstrom"])
    _reference(axes[1, 2], arrays["central_section"], report)
    numbers = report["held_out"]
    classes = numbers["class_accuracy"]
    text = "" if classes is None else f", class right for {classes:.1%}"
    figure.suptitle(f"{numbers['particles']:.0f} held-out particles, symmetry {report['symmetry']}: median error "
                    f"{numbers['median_error_degrees']:.1f}°, {numbers['within_15_degrees']:.1%} within 15°{text}",
                    fontsize=11)


def draw_learning_curve(axis: Any, folder: Path) -> None:
    """Draw the losses of a training, also of one that still runs.

    Parameters
    ----------
    axis
        Axis to draw into.
    folder
        Folder of the training.

    Raises
    ------
    DataError
        The training has not written losses yet, or the file is damaged.
    """
    path = folder / LOSSES
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["learning_rate"] and row["loss"]]
        steps = np.array([int(row["step"]) for row in rows])
        losses = np.array([float(row["loss"]) for row in rows])
        validated = [row for row in rows if row["held_out_error_degrees"]]
        held_out = np.array([[float(row[name]) for name in ("step", "held_out_loss", "held_out_error_degrees")]
                             for row in validated]).reshape(-1, 3)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}); wait for the first step, or train again") from None
    axis.plot(steps, losses, linewidth=0.6, color="0.6", label="training particles")
    axis.plot(held_out[:, 0], held_out[:, 1], "o-", markersize=3, label="held-out particles")
    axis.set(xlabel="step", ylabel="power not explained", title="Learning curve")
    other = axis.twinx()
    other.plot(held_out[:, 0], held_out[:, 2], "s--", markersize=3, color="tab:red")
    other.set(ylabel="median error of held-out particles (°)", ylim=(0, None))
    axis.plot([], [], "s--", markersize=3, color="tab:red", label="median error")
    axis.legend(fontsize=8)


def reliability(confidence: Any, right: Any, bins: int = 10) -> tuple[Any, Any, Any]:
    """Mean confidence, fraction of right poses and number of particles in groups of equal size.

    Parameters
    ----------
    confidence, right
        Confidence of each particle (n,), and whether its pose is right.
    bins
        Number of groups.
    """
    order = np.argsort(confidence, kind="stable")
    groups = [group for group in np.array_split(order, min(bins, len(order))) if len(group)]
    means = [np.array([values[group].mean() for group in groups]) for values in (confidence, right)]
    return means[0], means[1], np.array([len(group) for group in groups])


def _errors(axis: Any, error: Any, numbers: dict[str, Any]) -> None:
    ordered = np.sort(error)
    axis.step(ordered, np.arange(1, len(ordered) + 1) / len(ordered), where="post")
    axis.set(xlabel="error (°)", ylabel="held-out particles within", ylim=(0, 1.02), xlim=(0, max(20.0, ordered[-1])),
             title="Error of the orientation")
    axis.axvline(numbers["median_error_degrees"], color="black", linewidth=0.8)
    axis.grid(alpha=0.3)


def _reliability(axis: Any, arrays: dict[str, Any]) -> None:
    confidence, right, count = reliability(arrays["confidence"], arrays["error_degrees"] <= 15)
    axis.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
    axis.errorbar(confidence, right, yerr=np.sqrt(np.maximum(right * (1 - right), 0.25 / count) / count), fmt="o",
                  markersize=4)
    axis.set(xlabel="confidence", ylabel="fraction within 15°", xlim=(0, 1.02), ylim=(0, 1.05),
             title="Is the confidence right?")


def _noise(axis: Any, arrays: dict[str, Any], report: dict[str, Any]) -> None:
    rings = np.arange(1, len(arrays["noise"]) + 1)
    frequency = rings / (report["resolution_angstrom"] * len(rings))
    axis.semilogy(frequency, arrays["ring_power"], label="particles")
    axis.semilogy(frequency, arrays["noise"], label="not explained by the reference")
    axis.set(xlabel="frequency (1/Å)", ylabel="power", title="Particles and noise")
    axis.legend(fontsize=8)


def _shifts(axis: Any, shift: Any) -> None:
    axis.hist(shift, bins=40, range=(0, float(max(np.percentile(shift, 99) * 1.1, 1e-3))))
    axis.axvline(np.median(shift), color="black", linewidth=0.8)
    axis.set(xlabel="distance from the true centre (Å)", ylabel="held-out particles", title="Error of the shift")


def _reference(axis: Any, sections: Any, report: dict[str, Any]) -> None:
    axis.imshow(np.concatenate(list(sections), 1), cmap="gray", origin="lower")
    axis.set(xticks=[], yticks=[], title=f"Section of the reference, {report['resolution_angstrom']:.1f} Å")
