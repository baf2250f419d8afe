# SPDX-License-Identifier: GPL-3.0-or-later
"""Draws what was measured of real micrographs: spectrum and rings, particles found, scores, envelope, defocus."""
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["draw_measurement"]

Array = NDArray[np.float64]


def draw_measurement(path: Path, *, image: Array, pixel_size: float, diameter: float, peaks: Array,
                     rings: tuple[Array, Array, Array], defoci: Sequence[tuple[float, float, bool]],
                     scores: tuple[Array, Array, Array], envelope: tuple[Array, Array, Array], counts: Array,
                     count_errors: Array, text: str) -> None:
    """Draw one page as PNG.

    Parameters
    ----------
    image
        One micrograph, coarse, (y, x), with ``pixel_size`` (Å).
    peaks
        (peak, 2): (y, x) of the particles found on it.
    rings
        Frequency (1/Å), measured and fitted power without the floor.
    defoci
        Defocus, its error (Å), and whether it is reliable, for each micrograph.
    scores
        Edges of bins, peaks of real and of generated fields.
    envelope
        Frequency (1/Å), amplitude, its error.
    text
        The settings, as they are written.
    """
    from matplotlib.figure import Figure
    figure = Figure(figsize=(16, 9.5), layout="constrained")
    grid: Any = figure.subplots(2, 3)
    low, high = np.percentile(image, [1, 99])
    place = grid[0, 0]
    extent = (0, image.shape[1] * pixel_size / 10, image.shape[0] * pixel_size / 10, 0)
    place.imshow(image, cmap="gray", vmin=low, vmax=high, extent=extent)
    angle = np.linspace(0, 2 * np.pi, 40)
    for y, x in peaks:
        place.plot((x * pixel_size + diameter / 2 * np.cos(angle)) / 10,
                   (y * pixel_size + diameter / 2 * np.sin(angle)) / 10, color="#e66101", linewidth=0.8)
    place.set(title=f"Particles found on one micrograph: {len(peaks)}", xlabel="nm", ylabel="nm",
              xlim=extent[:2], ylim=extent[2:])
    place = grid[0, 1]
    place.plot(rings[0], rings[1], color="0.5", linewidth=0.9, label="measured")
    place.plot(rings[0], rings[2], color="#e66101", linewidth=1.2, label="fitted rings")
    most = float(np.quantile(np.abs(rings[1]), 0.98))
    place.set(title="Power spectrum without its floor", xlabel="1/Å", ylabel="part of the floor",
              ylim=(-0.8 * most, 1.6 * most))
    place.legend(frameon=False)
    place = grid[0, 2]
    for number, (defocus, error, reliable) in enumerate(defoci):
        place.errorbar(number + 1, defocus / 1e4, error / 1e4, fmt="o" if reliable else "x",
                       color="#5e3c99" if reliable else "0.6")
    certain = [defocus for defocus, _, reliable in defoci if reliable]
    if certain:
        place.set_ylim(0.8 * min(certain) / 1e4, 1.2 * max(certain) / 1e4)
    place.set(title="Defocus (crosses: not certain)", xlabel="micrograph", ylabel="µm")
    place = grid[1, 0]
    place.stairs(scores[1], scores[0], color="0.4", label="real")
    place.stairs(scores[2], scores[0], color="#e66101", label="generated, as measured")
    place.set(title="Heights of the search's peaks", xlabel="standard deviations", ylabel="peaks", yscale="log")
    place.legend(frameon=False)
    place = grid[1, 1]
    trusted = envelope[2] < envelope[1]
    place.errorbar(envelope[0][trusted], envelope[1][trusted], envelope[2][trusted], fmt="o-", color="#5e3c99")
    place.set(title="Envelope: amplitude of particles over the map's", xlabel="1/Å", ylim=(0, 1.3))
    place = grid[1, 2]
    place.errorbar(np.arange(len(counts)) + 1, counts, count_errors, fmt="o", color="#5e3c99")
    place.set(title="Particles in each micrograph", xlabel="micrograph", ylim=(0, 1.4 * max(counts.max(), 1)))
    place.text(0.03, 0.03, text, transform=place.transAxes, fontsize=8, family="monospace", va="bottom")
    figure.savefig(path, dpi=100, metadata={"Software": None})
