# SPDX-License-Identifier: GPL-3.0-or-later
"""Figure of ``cryogem assign-poses``: viewing directions, confidence, shifts and classes."""
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cryogem_scipion.engine.figures.report_files import read_report

__all__ = ["FIGURE_SIZE", "REPORT_NAME", "draw_assignment"]

REPORT_NAME = "assignment"
FIGURE_SIZE = (15.0, 7.6)


def draw_assignment(figure: Figure, folder: Path) -> None:
    """Draw the report of assigned poses into a figure.

    Raises
    ------
    DataError
        A file of the report is missing or damaged.
    """
    report, arrays = read_report(folder, REPORT_NAME)
    figure.set_layout_engine("constrained")
    axes = np.array(figure.subplots(2, 3))
    bins = int(np.clip(np.sqrt(report["particles"] / 20), 2, 30))
    _directions(axes[0, 0], arrays, bins)
    _mean_confidence(axes[0, 1], arrays, bins)
    _confidence(axes[0, 2], arrays["confidence"], report.get("confidence_of_noise"))
    _in_plane(axes[1, 0], arrays["psi"])
    _shifts(axes[1, 1], arrays["origin"], report["largest_shift_angstrom"])
    _classes(axes[1, 2], arrays, report["classes"])
    figure.suptitle(f"{report['particles']} particles, symmetry {report['symmetry']}: {report['confident']:.1%} have a "
                    "confidence of 0.5 or more", fontsize=11)


def _directions(axis: Any, arrays: dict[str, Any], bins: int) -> None:
    counts, _, _ = _histogram(arrays, bins, None)
    picture = axis.imshow(counts, origin="lower", extent=(-180, 180, -1, 1), aspect="auto", vmin=0)
    axis.set(xlabel="rot (°)", ylabel="cos tilt", title="Viewing directions")
    axis.figure.colorbar(picture, ax=axis, label="particles")


def _mean_confidence(axis: Any, arrays: dict[str, Any], bins: int) -> None:
    counts, _, _ = _histogram(arrays, bins, None)
    sums, _, _ = _histogram(arrays, bins, arrays["confidence"])
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    picture = axis.imshow(means, origin="lower", extent=(-180, 180, -1, 1), aspect="auto", vmin=0, vmax=1)
    axis.set(xlabel="rot (°)", ylabel="cos tilt", title="Mean confidence over the viewing direction")
    axis.figure.colorbar(picture, ax=axis)


def _histogram(arrays: dict[str, Any], bins: int, weights: Any) -> Any:
    """Map over rot and cos tilt, whose cells have equal areas on the sphere."""
    rot = (arrays["rot"] + 180) % 360 - 180
    return np.histogram2d(np.cos(np.radians(arrays["tilt"])), rot, bins=(bins, 2 * bins),
                          range=((-1, 1), (-180, 180)), weights=weights)


def _confidence(axis: Any, confidence: Any, of_noise: float | None) -> None:
    """Histogram of the confidences; ``of_noise`` is the mean of images with random phases, if it is known."""
    axis.hist(confidence, bins=50, range=(0, 1))
    axis.axvline(confidence.mean(), color="black", linewidth=0.8)
    if of_noise is not None:
        axis.axvline(of_noise, color="tab:red", linestyle="--", linewidth=1.2, label=f"noise, mean {of_noise:.2f}")
        axis.legend()
    axis.set(xlabel="confidence (probability within 15°)", ylabel="particles", xlim=(0, 1),
             title=f"Confidence, mean {confidence.mean():.2f}")


def _in_plane(axis: Any, psi: Any) -> None:
    axis.hist(psi, bins=36, range=(-180, 180))
    axis.set(xlabel="psi (°)", ylabel="particles", title="Rotation in the plane", xlim=(-180, 180))


def _shifts(axis: Any, origin: Any, largest: float) -> None:
    axis.plot(origin[:, 0], origin[:, 1], ".", markersize=2, alpha=0.5)
    limit = 1.6 * max(largest, 1e-3)
    axis.set(xlabel="origin x (Å)", ylabel="origin y (Å)", title="Shifts", xlim=(-limit, limit), ylim=(-limit, limit),
             aspect="equal")


def _classes(axis: Any, arrays: dict[str, Any], classes: dict[str, int]) -> None:
    if len(classes) == 1:
        order = np.sort(arrays["confidence"])[::-1]
        axis.plot(np.arange(1, len(order) + 1), order)
        axis.set(xlabel="particles, the most confident first", ylabel="confidence", ylim=(0, 1.02),
                 title="Particles above a confidence")
        axis.grid(alpha=0.3)
        return
    axis.bar(list(classes), list(classes.values()))
    best = arrays["class_probabilities"].max(1)
    axis.set(xlabel="class", ylabel="particles", title=f"Classes, mean probability of the best {best.mean():.2f}")
