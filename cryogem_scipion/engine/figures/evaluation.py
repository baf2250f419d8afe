# SPDX-License-Identifier: GPL-3.0-or-later
"""Figure of ``cryogem evaluate``: generated and real micrographs compared."""
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cryogem_scipion.engine.figures.report_files import read_report

__all__ = ["FIGURE_SIZE", "METRIC_NAMES", "REPORT_NAME", "draw_evaluation"]

REPORT_NAME = "evaluation"
FIGURE_SIZE = (15.0, 11.5)
REAL, GENERATED = "#1f1f1f", "#d1495b"
COLOURS = {"real": REAL, "generated": GENERATED}
# Title and unit of each metric.
METRIC_NAMES = {
    "spectrum": ("spectrum", "log₁₀"), "variety": ("variety of spectra", "log₁₀"),
    "autocorrelation": ("autocorrelation", ""), "histogram": ("intensities", "σ"), "local": ("local deviations", "σ"),
    "skewness": ("skewness", ""), "kurtosis": ("kurtosis", ""), "frechet": ("Fréchet distance", ""),
    "lattice": ("strongest lattice", "dB"), "border": ("lines at the border", "σ")}
COLUMNS = ("", "distance", "95 % interval", "halves", "real | real")
GREY_LIMIT = 3.0
ALLOWED_DB = 4.0


def draw_evaluation(figure: Figure, folder: Path) -> None:
    """Draw a report into a figure: example images, curves of both sets, and distances with intervals and floors.

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
    grid = figure.add_gridspec(3, 4, height_ratios=(1.25, 1, 1.15))
    _examples(figure, grid, arrays)
    _spectra(figure.add_subplot(grid[1, 0]), report["pixel_size"], arrays)
    _autocorrelation(figure.add_subplot(grid[1, 1]), arrays)
    _distribution(figure.add_subplot(grid[1, 2]), arrays, "histogram", "grey", "intensity (σ)", log=True)
    _distribution(figure.add_subplot(grid[1, 3]), arrays, "local", "local", "deviation in 32 × 32 px (σ)", log=False)
    _table(figure.add_subplot(grid[2, :3]), report)
    _lattice(figure.add_subplot(grid[2, 3]), report["lattice_db"])
    sets = report["sets"]
    figure.suptitle(f"{sets['generated']['micrographs']} generated against {sets['real']['micrographs']} real "
                    f"micrographs at {report['pixel_size']:.3g} Å per pixel", fontsize=13)


def _examples(figure: Figure, grid: Any, arrays: dict[str, Any]) -> None:
    """Central parts of two micrographs of each set, or of one where a set has only one; all on the same grey scale."""
    panels = [(name, index) for index in (0, -1) for name in COLOURS
              if index == 0 or len(arrays[f"{name}_examples"]) > 1]
    row = grid[0, :].subgridspec(1, len(panels))
    for column, (name, index) in enumerate(panels):
        axis = figure.add_subplot(row[column])
        axis.imshow(arrays[f"{name}_examples"][index], cmap="gray", vmin=-GREY_LIMIT, vmax=GREY_LIMIT)
        axis.set_axis_off()
        axis.set_title(name, color=COLOURS[name])


def _spectra(axis: Any, pixel_size: float, arrays: dict[str, Any]) -> None:
    frequency = arrays["frequencies"] / pixel_size
    for name, colour in COLOURS.items():
        low, high = arrays[f"{name}_spectra"]
        axis.fill_between(frequency, 10**low, 10**high, color=colour, alpha=0.15, linewidth=0)
        axis.plot(frequency, 10 ** arrays[f"{name}_spectrum"], color=colour, label=name)
    axis.set(yscale="log", xlabel="spatial frequency (1/Å)", ylabel="power", title="Power spectrum")
    axis.grid(alpha=0.3)
    axis.legend()


def _autocorrelation(axis: Any, arrays: dict[str, Any]) -> None:
    """Autocorrelation along both axes; drift and the read-out of the camera make them different."""
    lags = arrays["lags"]
    middle = len(lags) // 2
    for name, colour in COLOURS.items():
        plane = arrays[f"{name}_autocorrelation"]
        axis.plot(lags[middle + 1:], plane[middle, 1:], color=colour, label=f"{name}, along x")
        axis.plot(lags[middle + 1:], plane[middle + 1:, 0], color=colour, linestyle="--", label="along y")
    axis.set(xlabel="shift (px)", ylabel="correlation", title="Autocorrelation")
    axis.grid(alpha=0.3)
    axis.legend()


def _distribution(axis: Any, arrays: dict[str, Any], name: str, limits: str, label: str, log: bool) -> None:
    edges = arrays[limits]
    counts = arrays[f"real_{name}"] + arrays[f"generated_{name}"]
    # Several fine bins are drawn as one.
    used = np.flatnonzero(counts)
    first, last = used[0], used[-1] + 1
    step = max(1, (last - first) // 60)
    starts = np.arange(first, last, step)
    for kind, colour in COLOURS.items():
        density = np.add.reduceat(arrays[f"{kind}_{name}"], starts) / (edges[1] - edges[0]) / step
        axis.stairs(density[:-1] if len(starts) > 1 else density, edges[starts] if len(starts) > 1
                    else edges[[first, last]], color=colour, label=kind)
    axis.set(xlabel=label, ylabel="density", title={"histogram": "Intensities", "local": "Local deviations"}[name])
    if log:
        axis.set_yscale("log")
    axis.grid(alpha=0.3)
    axis.legend()


def _table(axis: Any, report: dict[str, Any]) -> None:
    axis.set_axis_off()
    rows = []
    for name, values in report["figures"].items():
        title, unit = METRIC_NAMES[name]
        rows.append((f"{title} ({unit})" if unit else title, _number_text(values["value"]),
                     f"{_number_text(values['low'])} – {_number_text(values['high'])}", _number_text(values["halves"]),
                     _number_text(values["floor"])))
    table = axis.table(rows, colLabels=COLUMNS, cellLoc="center", bbox=(0, 0.16, 1, 0.84),
                       colWidths=(0.3, 0.16, 0.24, 0.15, 0.15))
    table.auto_set_font_size(False)
    table.set_fontsize(10)
    for (row, column), cell in table.get_celld().items():
        cell.set_edgecolor("#cccccc")
        cell.set_linewidth(0.6)
        if row == 0:
            cell.set_text_props(weight="bold")
        elif column == 0:
            cell.set_text_props(ha="left")
    lines = ["halves: half of the generated set against half of the real set. Compare it with real | real: two halves "
             "of the real set" + ("." if report["sets"]["real"]["micrographs"] > 1 else
                                  ", which needs more than one real micrograph."),
             f"Fréchet distance: {_feature_network(report)}."]
    if report["signal"]:
        signal = report["signal"]
        lines.append(f"Correlation of generated and clean image at {signal['particles']} particles: "
                     f"{signal['correlation']:.3f} ({signal['low']:.3f} – {signal['high']:.3f}); by chance: "
                     f"{signal['chance']:.3f}.")
    axis.text(0, 0.12, "\n".join(lines), transform=axis.transAxes, fontsize=9, va="top", in_layout=False)


def _feature_network(report: dict[str, Any]) -> str:
    return f"{Path(report['features']).name}, at {report['feature_pixel_size']:.3g} Å per pixel"


def _number_text(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}" if abs(value) >= 1e-4 else "0"


def _lattice(axis: Any, excess: dict[str, float]) -> None:
    axis.set(title="Lattices", xlabel="period (px)", ylabel="above the real set (dB)")
    if not excess:
        axis.text(0.5, 0.5, "needs micrographs of 256 px or more", ha="center", va="center", transform=axis.transAxes)
        return
    values = np.array(list(excess.values()))
    axis.bar(np.arange(len(values)), values, color=[GENERATED if value > ALLOWED_DB else "#7f9c96" for value in values])
    axis.set_xticks(np.arange(len(values)), list(excess))
    axis.axhline(ALLOWED_DB, color="#555555", linestyle=":", linewidth=1.2)
    axis.set_ylim(min(0.0, values.min() * 1.1), max(1.5 * ALLOWED_DB, values.max() * 1.15))
    axis.grid(alpha=0.3, axis="y")
