# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of a labelled set as a whole: counts, defocus, orientations."""
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.viewers.labels import micrograph_rows, particle_columns

__all__ = ["orientations", "statistics"]

PER_BIN = 20
"""Particles that a bin of the map of directions should have on average, so that chance does not hide the rest."""

PIECES = 8


def statistics(figure: Figure, folder: Path) -> None:
    """Show how many particles the micrographs have, and their defocus."""
    micrographs = micrograph_rows(folder)
    particles = particle_columns(folder, ("rlnMicrographName", "cryogemWhole"))
    figure.set_layout_engine("constrained")
    left, right = figure.subplots(1, 2)
    names = micrographs["rlnMicrographName"]
    counts = {label: rows.groupby("rlnMicrographName").size().reindex(names, fill_value=0)
              for label, rows in [("all", particles), ("whole", particles[particles["cryogemWhole"] == 1])]}
    most = min(20, max(5, len(names)))
    bins = np.histogram_bin_edges(np.concatenate([*counts.values()]), bins=most)
    for label, count in counts.items():
        left.hist(count, bins=bins, alpha=0.6, label=f"{label}, {count.mean():.1f} on average")
    left.set(xlabel="particles per micrograph", ylabel="micrographs")
    left.legend()
    defocus = (micrographs["rlnDefocusU"] + micrographs["rlnDefocusV"]) / 2e4
    right.hist(defocus, bins=most)
    right.set(xlabel="defocus (µm)", ylabel="micrographs",
              title=f"{defocus.min():.2f} to {defocus.max():.2f} µm, {defocus.mean():.2f} on average")
    right.title.set_fontsize(10)
    for axis in (left, right):
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))


def orientations(figure: Figure, folder: Path) -> None:
    """Show the viewing directions on a map of equal areas, and the angles in the plane.

    The map's colours say how often a direction occurs compared with a uniform distribution: 1 everywhere is uniform.
    """
    angles = particle_columns(folder, ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"))
    if angles.empty:
        raise DataError(f"{folder} has no particles, and so no orientations")
    figure.set_layout_engine("constrained")
    grid = figure.add_gridspec(1, 2, width_ratios=(2.2, 1))
    sphere = figure.add_subplot(grid[0], projection="mollweide")
    _directions(figure, sphere, *angles.to_numpy()[:, :2].T)
    plane = figure.add_subplot(grid[1], projection="polar")
    count, edges = np.histogram(angles["rlnAnglePsi"] % 360, bins=24, range=(0, 360))
    plane.bar(np.radians(edges[:-1]), count / count.mean(), width=np.radians(15), align="edge", alpha=0.7)
    plane.plot(np.linspace(0, 2 * np.pi, 200), np.ones(200), color="black", linewidth=0.8)
    plane.set_title("angle in the plane (psi)", fontsize=10, pad=14)
    plane.tick_params(labelsize=8)
    plane.set_rticks([0.5, 1.0])
    figure.suptitle(f"{len(angles)} particles", fontsize=11)


def _directions(figure: Figure, axis: Any, rot: NDArray[np.float64], tilt: NDArray[np.float64]) -> None:
    """Directions in bins of equal areas: longitude is rot, latitude 90° − tilt."""
    rows = int(np.clip(np.sqrt(len(rot) / PER_BIN / 2), 3, 45))
    longitude = np.radians((rot + 180) % 360 - 180)
    count, heights, longitudes = np.histogram2d(
        np.cos(np.radians(tilt)), longitude, bins=(rows, 2 * rows), range=((-1, 1), (-np.pi, np.pi)))
    # Cells are drawn in pieces, for the map bends their edges.
    fine = [np.interp(np.arange(PIECES * (len(edges) - 1) + 1) / PIECES, np.arange(len(edges)), edges)
            for edges in (heights, longitudes)]
    picture = axis.pcolormesh(fine[1], np.arcsin(np.clip(fine[0], -1, 1)),
                              (count / count.mean()).repeat(PIECES, 0).repeat(PIECES, 1), cmap="viridis", vmin=0)
    axis.grid(alpha=0.3)
    axis.tick_params(labelsize=8)
    for label in axis.get_xticklabels():
        label.set(color="white", fontsize=7)
    axis.set_title("viewing directions: rot along, 90° − tilt up", fontsize=10)
    figure.colorbar(picture, ax=axis, label="times as often as uniform", orientation="horizontal", shrink=0.7)
