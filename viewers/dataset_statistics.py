# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of a whole labelled dataset: particle numbers, defocus, orientations."""
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.viewers.label_tables import micrograph_rows, particle_columns

__all__ = ["draw_angles", "draw_orientations", "draw_statistics"]

ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
PARTICLES_PER_BIN = 20
"""Mean number of particles in a bin of the map of viewing directions; fewer would make the map noisy."""
BIN_SUBDIVISION = 8
"""Number of straight lines for each edge of a bin, because the map projection makes the edges curved."""


def draw_statistics(figure: Figure, folder: Path) -> None:
    """Show histograms of particles per micrograph and of defocus."""
    micrographs = micrograph_rows(folder)
    particles = particle_columns(folder, ("rlnMicrographName", "cryogemWhole"))
    figure.set_layout_engine("constrained")
    left, right = figure.subplots(1, 2)
    names = micrographs["rlnMicrographName"]
    counts = {label: rows.groupby("rlnMicrographName").size().reindex(names, fill_value=0)
              for label, rows in [("all", particles), ("whole", particles[particles["cryogemWhole"] == 1])]}
    bin_count = min(20, max(5, len(names)))
    bins = np.histogram_bin_edges(np.concatenate([*counts.values()]), bins=bin_count)
    for label, count in counts.items():
        left.hist(count, bins=bins, alpha=0.6, label=f"{label}, {count.mean():.1f} on average")
    left.set(xlabel="particles per micrograph", ylabel="micrographs")
    left.legend()
    defocus = (micrographs["rlnDefocusU"] + micrographs["rlnDefocusV"]) / 2e4
    right.hist(defocus, bins=bin_count)
    right.set(xlabel="defocus (µm)", ylabel="micrographs",
              title=f"{defocus.min():.2f} to {defocus.max():.2f} µm, {defocus.mean():.2f} on average")
    right.title.set_fontsize(10)
    for axis in (left, right):
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))


def draw_orientations(figure: Figure, folder: Path) -> None:
    """Show the orientations of a labelled dataset's particles."""
    angles = particle_columns(folder, ANGLES)
    if angles.empty:
        raise DataError(f"{folder} has no particles, so there are no orientations to show")
    draw_angles(figure, angles)


def draw_angles(figure: Figure, angles: pd.DataFrame) -> None:
    """Show viewing directions on an equal-area map, and in-plane angles.

    The map's colour is the frequency of a direction relative to a uniform distribution, which is 1 everywhere.

    Parameters
    ----------
    figure
        An empty figure.
    angles
        RELION's rot, tilt and psi (degrees) of each particle, in the columns ``ANGLES``.
    """
    figure.set_layout_engine("constrained")
    grid = figure.add_gridspec(1, 2, width_ratios=(2.2, 1))
    sphere = figure.add_subplot(grid[0], projection="mollweide")
    _directions(figure, sphere, *angles[[*ANGLES[:2]]].to_numpy(float).T)
    plane = figure.add_subplot(grid[1], projection="polar")
    count, edges = np.histogram(angles["rlnAnglePsi"] % 360, bins=24, range=(0, 360))
    plane.bar(np.radians(edges[:-1]), count / count.mean(), width=np.radians(15), align="edge", alpha=0.7)
    plane.plot(np.linspace(0, 2 * np.pi, 200), np.ones(200), color="black", linewidth=0.8)
    plane.set_title("in-plane angle (psi)", fontsize=10, pad=14)
    plane.tick_params(labelsize=8)
    plane.set_rticks([0.5, 1.0])
    figure.suptitle(f"{len(angles)} particles", fontsize=11)


def _directions(figure: Figure, axis: Any, rot: NDArray[np.float64], tilt: NDArray[np.float64]) -> None:
    """Draw the directions in bins of equal area; longitude is rot, latitude is 90° − tilt."""
    rows = int(np.clip(np.sqrt(len(rot) / PARTICLES_PER_BIN / 2), 3, 45))
    longitude = np.radians((rot + 180) % 360 - 180)
    count, heights, longitudes = np.histogram2d(
        np.cos(np.radians(tilt)), longitude, bins=(rows, 2 * rows), range=((-1, 1), (-np.pi, np.pi)))
    fine_edges = [np.interp(np.arange(BIN_SUBDIVISION * (len(edges) - 1) + 1) / BIN_SUBDIVISION, np.arange(len(edges)),
                            edges) for edges in (heights, longitudes)]
    frequency = (count / count.mean()).repeat(BIN_SUBDIVISION, 0).repeat(BIN_SUBDIVISION, 1)
    mesh = axis.pcolormesh(fine_edges[1], np.arcsin(np.clip(fine_edges[0], -1, 1)), frequency, cmap="viridis", vmin=0)
    axis.grid(alpha=0.3)
    axis.tick_params(labelsize=8)
    for label in axis.get_xticklabels():
        label.set(color="white", fontsize=7)
    axis.set_title("viewing directions (longitude: rot, latitude: 90° − tilt)", fontsize=10)
    figure.colorbar(mesh, ax=axis, label="frequency relative to uniform", orientation="horizontal", shrink=0.7)
