# SPDX-License-Identifier: GPL-3.0-or-later
"""Figure of ``cryogem picks``: picks compared with true coordinates."""
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cryogem_scipion.engine.figures.report_files import read_report

__all__ = ["FIGURE_SIZE", "REPORT_NAME", "draw_picks", "mark_picks", "scores_text"]

REPORT_NAME = "picks"
FIGURE_SIZE = (15.0, 7.6)
# Label and colour of each outcome. The colours can be told apart also with colour blindness.
OUTCOMES = {1: ("hit", "#2fd0ff"), 0: ("false pick", "#ff4d6d"), -1: ("not judged", "#c77dff")}
MISSED = ("missed particle", "#ffd60a")


def draw_picks(figure: Figure, folder: Path) -> None:
    """Draw a report into a figure: curves, position error, scores of each micrograph, and an example micrograph.

    Parameters
    ----------
    figure
        An empty figure, of ``FIGURE_SIZE`` for example.
    folder
        Folder of the report.

    Raises
    ------
    DataError
        A file of the report is missing or damaged.
    """
    report, arrays = read_report(folder, REPORT_NAME)
    figure.set_layout_engine("constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=(1, 1, 1.5))
    overall = report["overall"]
    _precision_recall(figure.add_subplot(grid[0, 0]), overall, arrays)
    _thresholds(figure.add_subplot(grid[0, 1]), report, arrays)
    _position_error(figure.add_subplot(grid[1, 0]), report, arrays)
    _micrographs(figure.add_subplot(grid[1, 1]), report["micrographs"])
    _example(figure.add_subplot(grid[:, 2]), report, arrays)
    figure.suptitle(f"{overall['picks']} picks for {overall['particles']} particles on {len(report['micrographs'])} "
                    f"micrographs, matched within {report['radius_angstrom']:.0f} Å: {scores_text(overall)}",
                    fontsize=11)


def scores_text(scores: dict[str, Any]) -> str:
    """Return precision, recall, F1 and AUPRC as text, without those that are not defined.

    Parameters
    ----------
    scores
        Scores of a report, by name; None for a score that is not defined.
    """
    names = {"precision": "precision", "recall": "recall", "f1": "F1", "auprc": "AUPRC"}
    return ", ".join(f"{name} {scores[key]:.3f}" for key, name in names.items() if scores[key] is not None)


def _precision_recall(axis: Any, overall: dict[str, Any], arrays: dict[str, Any]) -> None:
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02), title="Precision and recall")
    axis.grid(alpha=0.3)
    if len(arrays["threshold"]):
        # The average precision is the area under these steps.
        recall = np.concatenate([[0.0], arrays["recall"]])
        axis.step(recall, np.concatenate([arrays["precision"][:1], arrays["precision"]]), where="pre")
    if overall["precision"] is not None and overall["recall"] is not None:
        axis.plot(overall["recall"], overall["precision"], "o", color="black", label="all picks")
        axis.legend(loc="lower left")


def _thresholds(axis: Any, report: dict[str, Any], arrays: dict[str, Any]) -> None:
    axis.set(xlabel="threshold of the score", ylim=(0, 1.02), title="F1 against the threshold")
    axis.grid(alpha=0.3)
    if not len(arrays["threshold"]):
        axis.text(0.5, 0.5, "the picks have no scores", ha="center", va="center", transform=axis.transAxes)
        return
    for name, width in (("precision", 1.0), ("recall", 1.0), ("f1", 2.0)):
        axis.step(arrays["threshold"], arrays[name], where="post", linewidth=width,
                  label="F1" if name == "f1" else name)
    best = report["best"]
    axis.axvline(best["threshold"], color="black", linewidth=0.8,
                 label=f"best: F1 {best['f1']:.3f} at {best['threshold']:.3g}")
    axis.legend(loc="best", fontsize=8)


def _position_error(axis: Any, report: dict[str, Any], arrays: dict[str, Any]) -> None:
    axis.set(xlabel="distance from the particle (Å)", ylabel="hits", title="Position error")
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    error = report["overall"]["position_error_angstrom"]
    if error is None:
        axis.text(0.5, 0.5, "no hits", ha="center", va="center", transform=axis.transAxes)
        return
    distance = np.hypot(arrays["dx"], arrays["dy"])
    axis.hist(distance[np.isfinite(distance)], bins=30, range=(0, report["radius_angstrom"]))
    axis.axvline(error["median"], color="black", linewidth=0.8)
    axis.text(0.97, 0.95, f"median {error['median']:.1f} Å\nmean offset x {error['offset_x']:+.1f} Å, "
              f"y {error['offset_y']:+.1f} Å", ha="right", va="top", transform=axis.transAxes, fontsize=8)


def _micrographs(axis: Any, micrographs: list[dict[str, Any]]) -> None:
    axis.set(xlabel="micrograph", ylim=(0, 1.02), title="Each micrograph")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    numbers = np.arange(1, len(micrographs) + 1)
    recall, precision = ([np.nan if scores[name] is None else scores[name] for scores in micrographs]
                         for name in ("recall", "precision"))
    axis.bar(numbers, recall, width=0.8, alpha=0.6, label="recall")
    axis.plot(numbers, precision, "k.", label="precision")
    axis.legend(loc="lower left", fontsize=8)


def _example(axis: Any, report: dict[str, Any], arrays: dict[str, Any]) -> None:
    """One micrograph with circles of the matching radius; without the image if the report has none."""
    axis.set_axis_off()
    index = int(arrays["example"])
    height, width = arrays["image_shape"]
    if arrays["image"].size:
        axis.imshow(arrays["image"], cmap="gray", extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    mark_picks(axis, report, arrays, index, (height, width))
    axis.set_title(Path(report["micrographs"][index]["micrograph"]).name, fontsize=10)


def mark_picks(axis: Any, report: dict[str, Any], arrays: dict[str, Any], index: int,
               shape: tuple[int, int] | None) -> None:
    """Draw circles of the matching radius around the picks and missed particles of a micrograph.

    Parameters
    ----------
    axis
        Axes in pixels of the labelled micrograph.
    report, arrays
        Report of ``cryogem picks``, as ``read_report`` returns it.
    index
        Index of the micrograph in the report, from 0.
    shape
        Size (y, x) of the micrograph in pixels; None makes the axes large enough for all circles.
    """
    pixel_size = report["pixel_size"]
    picked = arrays["pick_micrograph"] == index
    true = arrays["true_micrograph"] == index
    height, width = shape or [1 + max(arrays[name][rows].max(initial=0) for name, rows in pair) / pixel_size
                              for pair in ((("y", picked), ("true_y", true)), (("x", picked), ("true_x", true)))]
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), aspect="equal")
    for outcome, (label, colour) in OUTCOMES.items():
        chosen = picked & (arrays["outcome"] == outcome)
        _circles(axis, arrays["x"][chosen] / pixel_size, arrays["y"][chosen] / pixel_size, report, label, colour, "-")
    missed = true & arrays["whole"] & ~arrays["found"]
    _circles(axis, arrays["true_x"][missed] / pixel_size, arrays["true_y"][missed] / pixel_size, report, *MISSED, "--")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=4, fontsize=8, frameon=False)


def _circles(axis: Any, x: Any, y: Any, report: dict[str, Any], label: str, colour: str, style: str) -> None:
    if not len(x):
        return
    edge = np.full(len(x), 2 * report["radius_angstrom"] / report["pixel_size"])
    axis.add_collection(EllipseCollection(edge, edge, np.zeros(len(x)), units="xy", offsets=np.column_stack([x, y]),
                                          transOffset=axis.transData, facecolors="none", edgecolors=colour,
                                          linewidths=1.3, linestyles=style))
    axis.plot([], [], style, color=colour, label=f"{label} ({len(x)})")
