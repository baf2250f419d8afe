# SPDX-License-Identifier: GPL-3.0-or-later
"""Draws what was measured of real micrographs: particles found, rings, defocus, scores, envelope, numbers."""
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cryogem_scipion.engine.figures.report_files import read_report

__all__ = ["FIGURE_SIZE", "REPORT_NAME", "draw_measurement"]

FIGURE_SIZE = (16.0, 10.0)
REPORT_NAME = "measurement"
LINE_WIDTH = 190
"""Characters in a line of the summary."""
ORANGE, VIOLET = "#e66101", "#5e3c99"


def draw_measurement(figure: Figure, folder: Path) -> None:
    """Draw the measurement in a folder.

    Parameters
    ----------
    figure
        Empty figure of ``FIGURE_SIZE`` with a constrained layout.
    folder
        Folder that ``cryogem measure`` wrote.

    Raises
    ------
    DataError
        The files of the measurement are missing or damaged.
    """
    report, arrays = read_report(folder, REPORT_NAME)
    places: Any = figure.subplots(2, 3)
    particles_reliable = "particles_mean" not in report["not_reliable"]
    _draw_particles(places[0, 0], arrays, report["measured"]["diameter"], particles_reliable)
    _draw_rings(places[0, 1], arrays)
    _draw_defocus(places[0, 2], report["micrographs"])
    _draw_scores(places[1, 0], arrays)
    _draw_envelope(places[1, 1], arrays, particles_reliable)
    _draw_numbers(places[1, 2], report["micrographs"], particles_reliable)
    figure.supxlabel(_summary(report), fontsize=10, x=0.01, ha="left")


def _draw_particles(place: Any, arrays: dict[str, Any], diameter: float, reliable: bool) -> None:
    image, scale = arrays["image"], float(arrays["image_pixel_size"]) / 10
    low, high = np.percentile(image, [1, 99])
    extent = (0, image.shape[1] * scale, image.shape[0] * scale, 0)
    place.imshow(image, cmap="gray", vmin=low, vmax=high, extent=extent)
    angle = np.linspace(0, 2 * np.pi, 40)
    for y, x in arrays["peaks"]:
        place.plot(x * scale + diameter / 20 * np.cos(angle), y * scale + diameter / 20 * np.sin(angle), color=ORANGE,
                   linewidth=0.8, linestyle="-" if reliable else ":")
    place.set(title=f"Micrograph {int(arrays['number']) + 1}, coarse: {len(arrays['peaks'])} peaks of the search"
              + ("" if reliable else " (not reliable)"), xlabel="nm", ylabel="nm", xlim=extent[:2], ylim=extent[2:])


def _draw_rings(place: Any, arrays: dict[str, Any]) -> None:
    frequency, measured, fitted = (arrays[f"ring_{name}"] for name in ("frequency", "measured", "fitted"))
    if not len(frequency):
        place.text(0.5, 0.5, "CTFs are known: no fit", ha="center", transform=place.transAxes)
        place.set(title="Thon rings")
        return
    place.plot(frequency, measured, color="0.5", linewidth=0.9, label="measured")
    place.plot(frequency, fitted, color=ORANGE, linewidth=1.2, label="fitted rings")
    most = max(float(np.quantile(np.abs(measured), 0.98)), 1e-9)
    place.set(title=f"Power spectrum without its floor, micrograph {int(arrays['ring_number']) + 1}", xlabel="1/Å",
              ylabel="fraction of the floor", ylim=(-0.8 * most, 1.6 * most))
    place.legend(frameon=False)


def _draw_defocus(place: Any, micrographs: list[dict[str, Any]]) -> None:
    means = np.array([(row["defocus_u_angstrom"] + row["defocus_v_angstrom"]) / 2e4 for row in micrographs])
    errors = np.array([row["defocus_error_angstrom"] / 1e4 for row in micrographs])
    reliable = np.array([row["defocus_reliable"] for row in micrographs], bool)
    number = np.arange(1, len(means) + 1)
    for chosen, marker, color, label in ((reliable, "o", VIOLET, "reliable"), (~reliable, "x", "0.6", "not reliable")):
        if chosen.any():
            place.errorbar(number[chosen], means[chosen], errors[chosen], fmt=marker, color=color, label=label)
    shown = means[reliable] if reliable.any() else means
    low, high = float(shown.min()), float(shown.max())
    margin = max(0.2 * (high - low), 0.1 * high)
    place.set(title="Defocus", xlabel="micrograph", ylabel="µm", ylim=(low - margin, high + margin))
    _whole_numbers(place, len(means))
    place.legend(frameon=False)


def _draw_scores(place: Any, arrays: dict[str, Any]) -> None:
    place.stairs(arrays["real_scores"], arrays["score_bins"], color="0.4", label="real micrographs")
    place.stairs(arrays["generated_scores"], arrays["score_bins"], color=ORANGE, label="generated, as measured")
    place.set(title="Heights of the search's peaks", xlabel="standard deviations of the noise", ylabel="peaks",
              yscale="log", ylim=(0.7, None))
    place.legend(frameon=False)


def _draw_envelope(place: Any, arrays: dict[str, Any], reliable: bool) -> None:
    frequency, envelope, error = (arrays[name] for name in ("envelope_frequency", "envelope", "envelope_error"))
    trusted = (error < envelope / 2) & (envelope > 0)
    place.plot(frequency, envelope, color="0.8")
    for factor, style in zip(arrays.get("motion_factors", ()), (":", "--"), strict=False):
        label = "least blurred direction of all micrographs" if style == ":" else "most blurred direction (motion)"
        place.plot(frequency[trusted], (factor * envelope)[trusted], color=ORANGE, linestyle=style, label=label)
    if place.get_legend_handles_labels()[0]:
        place.legend(frameon=False)
    place.errorbar(frequency[trusted], envelope[trusted], error[trusted], fmt="o", color=VIOLET if reliable else "0.6")
    place.set(title="Amplitude of the particles over that of the map" + ("" if reliable else " (not reliable)"),
              xlabel="1/Å", ylabel="relative", ylim=(0, 1.5))


def _draw_numbers(place: Any, micrographs: list[dict[str, Any]], reliable: bool) -> None:
    # A micrograph that was not searched has no number; NaN is not drawn.
    counts, errors = (np.array([row[name] for row in micrographs], float) for name in ("particles", "particles_error"))
    place.errorbar(np.arange(len(counts)) + 1, counts, errors, fmt="o" if reliable else "x",
                   color=VIOLET if reliable else "0.6")
    place.set(title="Particles in each micrograph" + ("" if reliable else " (not reliable)"), xlabel="micrograph",
              ylim=(0, 1.4 * max(float(np.nanmax(counts)), 1)))
    _whole_numbers(place, len(counts))


def _whole_numbers(place: Any, count: int) -> None:
    place.set_xlim(0.5, count + 0.5)
    place.set_xticks(range(1, count + 1, max(1, count // 12)))


def _summary(report: dict[str, Any]) -> str:
    """The measured settings, and below them those that are not reliable."""
    errors = {name: estimate["error"] for name, estimate in report.get("estimates", {}).items() if estimate["error"]}
    values = {name: value for name, value in report["settings"].items()
              if name in report["measured"] and isinstance(value, int | float)}
    measured = ", ".join(f"{name} {value:g}" + (f" ± {errors[name]:.2g}" if name in errors else "")
                         for name, value in values.items())
    left_out = ", ".join(report["not_reliable"])
    return "\n".join(textwrap.fill(line, LINE_WIDTH) for line in (
        f"measured: {measured or 'nothing'}", f"not measured reliably: {left_out or 'nothing'}"))
