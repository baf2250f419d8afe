# SPDX-License-Identifier: GPL-3.0-or-later
"""Figure of the two-sample test of ``cryogem evaluate``: how well networks tell the sets apart, and where they look."""
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.figures.report_files import read_report

__all__ = ["SCALE_NAMES", "TWO_SAMPLE_FIGURE_SIZE", "draw_two_sample", "has_two_sample"]

TWO_SAMPLE_FIGURE_SIZE = (15.0, 14.5)
REPORT_NAME = "evaluation"
SCALE_NAMES = {"pixels": "single pixels", "textures": "textures", "particles": "particles", "fields": "whole fields",
               "bands": "frequency bands"}
"""Title of each scale."""
REAL, GENERATED, CHANCE = "#1f1f1f", "#d1495b", "#9fb8c8"
COLOURS = {"generated": GENERATED, "real": REAL}


def has_two_sample(folder: Path) -> bool:
    """Return whether a report has a two-sample test."""
    try:
        return bool(read_report(folder, REPORT_NAME)[0].get("two_sample"))
    except DataError:
        return False


def draw_two_sample(figure: Figure, folder: Path) -> None:
    """Draw AUCs, maps of evidence, and the squares that give both sets away most.

    Parameters
    ----------
    figure
        An empty figure, of ``TWO_SAMPLE_FIGURE_SIZE`` for example.
    folder
        Folder of the report.

    Raises
    ------
    DataError
        A file of the report is missing or damaged.
    """
    report, arrays = read_report(folder, REPORT_NAME)
    scales = report["two_sample"]
    figure.set_layout_engine("constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.0, 0.52 * len(scales)), hspace=0.02)
    grid = top.add_gridspec(1, 3, width_ratios=(1.25, 1, 1))
    _aucs(top.add_subplot(grid[0]), scales)
    strongest = max(scales, key=lambda scale: (scale["auc"] - 0.5) / max(scale["chance_high"] - 0.5, 1e-6))
    _evidence(top, [top.add_subplot(grid[column]) for column in (1, 2)], strongest, arrays)
    rows = bottom.add_gridspec(len(scales), 2)
    for row, scale in enumerate(scales):
        _squares(bottom, rows, row, scale, arrays)
    sets = report["sets"]
    figure.suptitle(f"Two-sample test: {sets['generated']['micrographs']} generated against "
                    f"{sets['real']['micrographs']} real micrographs{_verdict(report)}", fontsize=13)


def _verdict(report: dict[str, Any]) -> str:
    """The result over all scales, on a line of its own; empty for reports of version 0.1."""
    conclusion = report.get("two_sample_verdict")
    return f"\n{conclusion['text']}" if conclusion else ""


def _aucs(axis: Any, scales: list[dict[str, Any]]) -> None:
    """AUC of each scale with its interval, the range of chance, and the floor."""
    for place, scale in enumerate(scales):
        axis.barh(place, scale["chance_high"] - scale["chance_low"], left=scale["chance_low"], height=0.7, color=CHANCE,
                  alpha=0.6, label="range of chance (95 %)" if place == 0 else None)
        colour = GENERATED if scale["told_apart"] else "#555555"
        axis.errorbar(scale["auc"], place, xerr=[[scale["auc"] - scale["low"]], [scale["high"] - scale["auc"]]],
                      fmt="o", color=colour, capsize=4, label="generated | real, 95 % interval" if place == 0 else None)
        if scale["floor"]:
            axis.plot(scale["floor"]["auc"], place, marker="D", color="white", markeredgecolor=REAL, linestyle="none",
                      label="real | real (floor)" if place == 0 else None)
    axis.axvline(0.5, color="#555555", linestyle=":", linewidth=1.2)
    axis.set_yticks(range(len(scales)), [
        f"{SCALE_NAMES[scale['scale']]}\n{scale['edge']} px, {scale['pixel_size']:.3g} Å/px\n"
        f"{'told apart' if scale['told_apart'] else 'not told apart'}" for scale in scales], fontsize=9)
    axis.invert_yaxis()
    axis.set(xlim=(0, 1.02), xlabel="AUC (0.5: not told apart, 1: always told apart)", title="How well networks tell "
             "the sets apart")
    axis.grid(alpha=0.3, axis="x")
    axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.4, -0.13), ncols=3, frameon=False)


def _evidence(figure: Any, axes: list[Any], scale: dict[str, Any], arrays: dict[str, Any]) -> None:
    """A generated and a real micrograph with their maps of evidence on top."""
    start = f"two_sample_{scale['scale']}"
    maps = {name: arrays[f"{start}_map_{name}"].astype(np.float32) for name in COLOURS}
    limit = max(float(np.abs(evidence).max()) for evidence in maps.values()) or 1.0
    for axis, (name, evidence), file in zip(axes, maps.items(), scale["map_micrographs"], strict=True):
        image = arrays[f"{start}_image_{name}"].astype(np.float32)
        low, high = np.percentile(image, (0.5, 99.5))
        # The map's first value belongs to the square that begins at the first pixel.
        step, edge = scale["map_step"], scale["edge"]
        left = (edge - step) / 2
        extent = (left, left + step * evidence.shape[1], left + step * evidence.shape[0], left)
        size = [step * (length - 1) + edge for length in evidence.shape]
        axis.imshow(image, cmap="gray", vmin=low, vmax=high, extent=(0, size[1], size[0], 0))
        drawn = axis.imshow(evidence, cmap="RdBu_r", vmin=-limit, vmax=limit, alpha=0.45, extent=extent,
                            interpolation="bilinear")
        axis.set(xlim=(0, size[1]), ylim=(size[0], 0))
        axis.set_axis_off()
        axis.set_title(f"{name}: {file}", color=COLOURS[name], fontsize=9)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8)
    bar.set_label(f"evidence, {SCALE_NAMES[scale['scale']]} (red: looks generated)", fontsize=9)


def _squares(figure: Any, grid: Any, row: int, scale: dict[str, Any], arrays: dict[str, Any]) -> None:
    """The squares of one scale that give their set away most: generated on the left, real on the right."""
    squares = arrays[f"two_sample_{scale['scale']}_squares"].astype(np.float32)
    logits = arrays[f"two_sample_{scale['scale']}_logits"].astype(np.float32)
    low, high = np.percentile(squares, (0.5, 99.5))
    edge = scale["edge"]
    gap = max(1, edge // 16)
    for part, (name, colour) in enumerate(COLOURS.items()):
        framed = np.pad(squares[part], ((0, 0), (0, 0), (0, gap)), constant_values=np.nan)
        axis = figure.add_subplot(grid[row, part])
        axis.imshow(np.concatenate(list(framed), 1)[:, :-gap], cmap="gray", vmin=low, vmax=high)
        axis.set_axis_off()
        values = ", ".join(f"{logit:+.2f}" for logit in logits[part])
        axis.set_title(f"{SCALE_NAMES[scale['scale']]}: most typical of {name}, evidence {values}", color=colour,
                       fontsize=9)
