# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables of a measurement: the settings for a simulation, and the CTF and the particles of each micrograph."""
import os
import textwrap
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from cryogem_scipion.engine.figures.measurement import REPORT_NAME
from cryogem_scipion.engine.figures.report_files import read_report
from cryogem_scipion.engine.settings import MEASURED, SimulateSettings
from cryogem_scipion.viewers.paging import Pages

__all__ = ["draw_measured_micrographs", "draw_measured_settings"]

ROWS = 15
"""Micrographs on one page."""
REASON_LENGTH = 54
"""Letters in one line of a reason."""
ORANGE = "#b35806"


def draw_measured_settings(figure: Figure, folder: Path) -> None:
    """Draw the settings of a simulation that were measured, and the reason for each one that was not.

    Raises
    ------
    DataError
        The files of the measurement are missing or damaged.
    """
    report, _ = read_report(folder, REPORT_NAME)
    settings, reasons = report["settings"], report["not_reliable"]
    fields = SimulateSettings.model_fields
    names = [name for name in fields if name in MEASURED or name in reasons
             or (name in settings and name in report["measured"])]
    estimates = report.get("estimates", {})
    cells = [[fields[name].title or name, _text(settings[name]) if name in settings else "–",
              _interval(estimates.get(name)) if name in settings else "",
              "" if name in settings else textwrap.fill(_reason(reasons, name), REASON_LENGTH)] for name in names]
    axis = figure.add_axes((0.02, 0.02, 0.96, 0.86))
    headings = ["setting of the simulation", "measured", "95 % interval", "not measured, because"]
    table = _draw_table(axis, headings, cells, (0.3, 0.13, 0.15, 0.42))
    for row, name in enumerate(names, 1):
        if name not in settings:
            for column in range(4):
                table[row, column].get_text().set_color(ORANGE)
    scale = f"at {settings['pixel_size']:g} Å/px" if "pixel_size" in settings else ""
    figure.suptitle(f"Measured on {len(report['micrographs'])} micrographs, for a simulation {scale}", fontsize=12)


def draw_measured_micrographs(figure: Figure, folder: Path) -> None:
    """Draw a table of the micrographs with their defocus and particles, one page after another.

    Raises
    ------
    DataError
        The files of the measurement are missing or damaged.
    """
    rows = read_report(folder, REPORT_NAME)[0]["micrographs"]
    axis = figure.add_axes((0.02, 0.12, 0.96, 0.78))
    headings = ["micrograph", "defocus U (Å)", "defocus V (Å)", "angle (°)", "error (Å)", "CTF", "particles"]

    def draw(page: int) -> None:
        axis.clear()
        shown = rows[page * ROWS:(page + 1) * ROWS]
        table = _draw_table(axis, headings, [_micrograph_cells(row) for row in shown],
                            (0.36, 0.12, 0.12, 0.09, 0.09, 0.1, 0.12))
        for number, row in enumerate(shown, 1):
            if not row["defocus_reliable"]:
                for column in range(1, 6):
                    table[number, column].get_text().set_color(ORANGE)
        figure.suptitle(f"Micrographs {page * ROWS + 1} to {page * ROWS + len(shown)} of {len(rows)}", fontsize=12)

    Pages(figure, -(-len(rows) // ROWS), 0, draw)


def _micrograph_cells(row: dict[str, Any]) -> list[str]:
    state = "known" if row["defocus_known"] else "fitted" if row["defocus_reliable"] else "not reliable"
    error = "" if row["defocus_known"] else f"{row['defocus_error_angstrom']:.0f}"
    return [textwrap.shorten(os.path.basename(row["name"]), 42), f"{row['defocus_u_angstrom']:.0f}",
            f"{row['defocus_v_angstrom']:.0f}", f"{row['defocus_angle_degrees']:.0f}", error, state,
            "not searched" if row["particles"] is None else f"{row['particles']:.0f} ± {row['particles_error']:.0f}"]


def _draw_table(axis: Any, headings: list[str], cells: list[list[str]], widths: tuple[float, ...]) -> Any:
    """Draw a table whose rows are as high as their texts, from the top of the axis."""
    axis.set_axis_off()
    table = axis.table(cellText=cells, colLabels=headings, colWidths=widths, loc="upper left", cellLoc="left",
                       colLoc="left", edges="horizontal")
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    lines = [1, *(max(text.count("\n") for text in row) + 1 for row in cells)]
    height = min(0.055, 0.95 / (sum(lines) + 0.6 * len(lines)))
    for (row, _), cell in table.get_celld().items():
        cell.set_height(height * (lines[row] + 0.6))
        cell.get_text().set_fontweight("bold" if row == 0 else "normal")
    return table


def _reason(reasons: dict[str, str], name: str) -> str:
    return reasons.get(name, "the measurement does not contain it")


def _interval(estimate: dict[str, Any] | None) -> str:
    """The interval of an estimate; empty where it is not known."""
    interval = (estimate or {}).get("interval")
    return " to ".join(f"{float(f'{end:.3g}'):g}" for end in interval or ())


def _text(value: Any) -> str:
    if not isinstance(value, list):
        return f"{value:.6g}"
    return f"{len(value)} points" if isinstance(value[0], str) else " x ".join(map(str, value))
