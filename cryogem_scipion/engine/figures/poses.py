# SPDX-License-Identifier: GPL-3.0-or-later
"""Figure of ``cryogem poses``: refined poses compared with true poses."""
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cryogem_scipion.engine.figures.report_files import read_report

__all__ = ["FIGURE_SIZE", "REPORT_NAME", "draw_poses"]

REPORT_NAME = "poses"
FIGURE_SIZE = (15.0, 7.6)


def draw_poses(figure: Figure, folder: Path) -> None:
    """Draw a report into a figure: angular error, its parts, its map over the views, shift and defocus error.

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
    axes = np.array(figure.subplots(2, 3))
    error = report["angular_error_degrees"]
    _angles(axes[0, 0], arrays, error)
    _cumulative(axes[0, 1], arrays, error)
    _directions(axes[0, 2], arrays)
    _parts(axes[1, 0], arrays, report)
    _shifts(axes[1, 1], arrays, report["shift_error_angstrom"])
    _defocus(axes[1, 2], arrays, report["defocus_error_angstrom"])
    alignment = report["map"]
    alignment_text = "maps not aligned" if report["alignment"] == "none" else (
        f"map rotated by {alignment['turn_degrees']:.1f}°{', mirrored' if alignment['mirrored'] else ''}")
    figure.suptitle(f"{report['particles']} particles, symmetry {report['symmetry']}, {alignment_text}: median angular "
                    f"error {error['median']:.2f}°", fontsize=11)


def _angles(axis: Any, arrays: dict[str, Any], error: dict[str, Any]) -> None:
    axis.set(xlabel="angular error (°)", ylabel="particles", title="Angular error")
    axis.hist(arrays["angle"], bins=60, range=(0, _axis_limit(arrays["angle"])))
    axis.axvline(error["median"], color="black", linewidth=0.8)
    axis.text(0.97, 0.95, f"median {error['median']:.2f}°\nby chance {error['median_of_chance']:.0f}°", ha="right",
              va="top", transform=axis.transAxes, fontsize=8)


def _cumulative(axis: Any, arrays: dict[str, Any], error: dict[str, Any]) -> None:
    axis.set(xlabel="angular error (°)", ylabel="particles within", ylim=(0, 1.02), title="Particles within an error")
    axis.grid(alpha=0.3)
    for values, style, label in ((arrays["angle"], "-", "refined poses"), (arrays["chance"], ":", "by chance")):
        ordered = np.sort(values)
        axis.step(ordered, np.arange(1, len(ordered) + 1) / len(ordered), style, where="post", label=label)
    fractions = ", ".join(f"{error['within'][limit]:.0%} in {limit}°" for limit in ("5", "10", "30"))
    axis.plot([], [], " ", label=fractions)
    axis.legend(loc="lower right", fontsize=8)


def _directions(axis: Any, arrays: dict[str, Any]) -> None:
    """Median error for each true viewing direction, in a map with equal areas."""
    x, y, z = arrays["direction"].T
    bins = int(np.clip(np.sqrt(len(x) / 40), 2, 18))
    rot, height = np.degrees(np.arctan2(y, x)), np.clip(z, -1, 1)
    columns = np.clip(((rot + 180) / 360 * 2 * bins).astype(int), 0, 2 * bins - 1)
    rows = np.clip(((height + 1) / 2 * bins).astype(int), 0, bins - 1)
    medians = np.full((bins, 2 * bins), np.nan)
    cells = rows * 2 * bins + columns
    for cell in np.unique(cells):
        medians.flat[cell] = np.median(arrays["angle"][cells == cell])
    picture = axis.imshow(medians, origin="lower", extent=(-180, 180, -1, 1), aspect="auto", vmin=0)
    axis.set(xlabel="rot (°)", ylabel="cos tilt", title="Median error over the viewing direction")
    axis.figure.colorbar(picture, ax=axis, label="°")


def _parts(axis: Any, arrays: dict[str, Any], report: dict[str, Any]) -> None:
    axis.set(xlabel="error (°)", ylabel="particles", title="Viewing direction and in-plane rotation")
    parts = {"view": np.asarray(arrays["view"]), "in_plane": np.abs(arrays["in_plane"])}
    limit = max(_axis_limit(part) for part in parts.values())
    for (name, part), label in zip(parts.items(), ("viewing direction", "in-plane rotation"), strict=True):
        axis.hist(part, bins=60, range=(0, limit), histtype="step",
                  label=f"{label}, median {report[f'{name}_error_degrees']['median']:.2f}°")
    axis.legend(fontsize=8)


def _shifts(axis: Any, arrays: dict[str, Any], error: dict[str, Any] | None) -> None:
    axis.set(xlabel="distance from the true centre (Å)", ylabel="particles", title="Shift error")
    if error is None:
        axis.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axis.transAxes)
        return
    length = np.linalg.norm(arrays["shift"], axis=1)
    axis.hist(length, bins=60, range=(0, _axis_limit(length)))
    axis.axvline(error["median"], color="black", linewidth=0.8)
    axis.text(0.97, 0.95, f"median {error['median']:.2f} Å\nmean offset x {error['offset_x']:+.2f} Å, y "
              f"{error['offset_y']:+.2f} Å", ha="right", va="top", transform=axis.transAxes, fontsize=8)


def _defocus(axis: Any, arrays: dict[str, Any], error: dict[str, Any] | None) -> None:
    axis.set(xlabel="refined minus true defocus (Å)", ylabel="particles", title="Defocus error")
    if error is None:
        axis.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axis.transAxes)
        return
    axis.hist(arrays["defocus"], bins=60)
    axis.text(0.97, 0.95, f"median {error['median']:.0f} Å\nmean offset {error['offset']:+.0f} Å", ha="right", va="top",
              transform=axis.transAxes, fontsize=8)


def _axis_limit(values: Any) -> float:
    """Upper end of an axis of errors, so that it shows all errors except the largest 0.5 %."""
    return float(max(np.percentile(values, 99.5) * 1.05, 1e-3))
