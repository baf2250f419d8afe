# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of a pose estimator: learning curve while it trains; orientations and images of particles."""
import os
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.dataset import PARTICLES, read_table
from cryogem_scipion.protocols.particle_tables import CONFIDENCE, read_named_images
from cryogem_scipion.viewers.dataset_statistics import ANGLES, draw_angles
from cryogem_scipion.viewers.image_display import grey_range
from cryogem_scipion.viewers.paging import Pages, update_regularly
from cryogem_scipion.viewers.training_figures import read_losses, training_state

__all__ = ["draw_assigned_orientations", "draw_learning_curve", "draw_particle_gallery"]

LOSS, HELD_OUT_LOSS, ERROR = "loss", "held_out_loss", "held_out_error_degrees"
MAX_POINTS = 4000
"""Most points of a curve; longer curves are thinned out."""
ROWS, COLUMNS = 4, 8
"""Particles on a page of the gallery."""
DISPLAY_EDGE = 64
"""Approximate edge (px) of a displayed particle; larger images are binned, so that it is seen in the noise."""


def draw_learning_curve(figure: Figure, folder: Path) -> None:
    """Show loss, and loss and error of held-out particles over the steps, updated while the training runs.

    The state with the lowest held-out loss so far is marked: it becomes the model.
    """
    table = folder / "losses.csv"
    figure.set_layout_engine("constrained")
    read_losses(table, ["step", LOSS])  # refuses before anything is drawn
    above, below = figure.subplots(2, 1, sharex=True)
    lines = {LOSS: above.plot([], [], linewidth=0.8, alpha=0.6, label="training particles")[0],
             HELD_OUT_LOSS: above.plot([], [], marker=".", label="held-out particles")[0]}
    above.set(ylabel="loss")
    above.legend(loc="upper right", fontsize=8)
    lines[ERROR], = below.plot([], [], marker=".", color="tab:orange")
    below.set(xlabel="step", ylabel="median error of\nheld-out particles (°)")
    best = {name: axis.plot([], [], "o", markersize=8, fillstyle="none", color="tab:red")[0]
            for name, axis in ((HELD_OUT_LOSS, above), (ERROR, below))}
    below.axhline(0, color="none")  # so that the error's axis begins at 0
    for axis in (above, below):
        axis.grid(alpha=0.3)
    last_read = {"size": -1}

    def refresh() -> bool:
        size = os.path.getsize(table) if table.is_file() else last_read["size"]
        if size == last_read["size"]:
            return False
        last_read["size"] = size
        values = read_losses(table, ["step", LOSS])
        thinned = values[::-(-len(values) // MAX_POINTS)]
        lines[LOSS].set_data(thinned["step"], thinned[LOSS])
        validated = values.dropna(subset=[HELD_OUT_LOSS])
        lowest = validated[validated[HELD_OUT_LOSS] == validated[HELD_OUT_LOSS].min()].head(1)
        for name, mark in best.items():
            lines[name].set_data(validated["step"], validated[name])
            mark.set_data(lowest["step"], lowest[name])
        for axis in (above, below):
            axis.relim()
            axis.autoscale_view()  # does not change an axis that the user has zoomed
        error = "" if lowest.empty else f"; best state: step {lowest['step'].iloc[0]:.0f}, {lowest[ERROR].iloc[0]:.1f}°"
        figure.suptitle(training_state(values.iloc[-1]) + error, fontsize=11)
        return True

    refresh()
    update_regularly(figure, refresh)


def draw_assigned_orientations(figure: Figure, folder: Path, least_confidence: float) -> None:
    """Show viewing directions and in-plane angles of the particles with at least this confidence."""
    particles = _assigned(folder)
    particles = particles[particles[CONFIDENCE] >= least_confidence]
    if particles.empty:
        raise DataError(f"no particle has a confidence of {least_confidence:g} or more; lower it")
    draw_angles(figure, particles)


def draw_particle_gallery(figure: Figure, folder: Path) -> None:
    """Show images of particles with their confidence, beginning with the highest."""
    particles = _assigned(folder).sort_values(CONFIDENCE, ascending=False, kind="stable")
    names, confidences = particles["rlnImageName"].to_numpy(), particles[CONFIDENCE].to_numpy(float)
    axes = figure.subplots(ROWS, COLUMNS).ravel()
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.10, top=0.90, wspace=0.04, hspace=0.16)

    def draw(page: int) -> None:
        shown = slice(page * len(axes), (page + 1) * len(axes))
        images = read_named_images(list(names[shown]))
        for axis in axes:
            axis.clear()
            axis.set_axis_off()
        for axis, image, confidence in zip(axes, images, confidences[shown], strict=False):
            display = _binned(image)
            low, high = grey_range(display)
            axis.imshow(display, cmap="gray", vmin=low, vmax=high)
            axis.set_title(f"{confidence:.2f}", fontsize=8, pad=2)
        figure.suptitle(f"particles {shown.start + 1} to {min(shown.stop, len(names))} of {len(names)}, sorted by "
                        "confidence (above each image)", fontsize=11)

    Pages(figure, -(-len(names) // len(axes)), 0, draw, "page")


def _assigned(folder: Path) -> pd.DataFrame:
    """The rows of the particles with poses."""
    path = folder / PARTICLES
    if not path.is_file():
        raise DataError(f"{path} is not there yet; it is written when the poses have been assigned")
    return read_table(path, "particles", ("rlnImageName", CONFIDENCE, *ANGLES))[1]


def _binned(image: Any) -> Any:
    """The image, binned by averaging to about ``DISPLAY_EDGE`` pixels."""
    binning = max(1, round(max(image.shape) / DISPLAY_EDGE))
    height, width = (edge // binning for edge in image.shape)
    return image[:height * binning, :width * binning].reshape(height, binning, width, binning).mean((1, 3))
