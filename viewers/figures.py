# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of what the engine wrote; matplotlib only, each function fills a figure that it is given."""
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pandas as pd
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.ticker import MaxNLocator
from matplotlib.widgets import Button

from cryogem_scipion.dataset import MICROGRAPHS, PARTICLES, read_manifest, read_table
from cryogem_scipion.errors import DataError

__all__ = ["gallery", "losses", "orientations", "previews", "statistics"]

# Pixels that a window can show; larger images are thinned out for it.
SHOWN = 1200
# Pictures of the same micrograph, as far as they were kept: folder and what it holds.
KINDS = {"optical": "without noise", "physical": "with ice and noise", "micrographs": ""}
# Columns of losses.csv that are losses, and what else is worth a look.
LOSSES = {"adversarial": "adversarial", "discriminator": "discriminator", "contrastive": "contrastive",
          "contrast_drift": "change of contrast"}
WHOLE, CUT, OUTLINE = "#3fd0ff", "#ff9f40", "#ffe066"


def gallery(figure: Figure, folder: Path, first: int = 0, circles: bool = True, outline: bool = True) -> None:
    """Show one micrograph after another, in all pictures that were kept of it, with its particles and mask.

    Parameters
    ----------
    figure
        To be filled; buttons and the arrow keys page through.
    folder
        Of a simulation or a generated set.
    first
        Index of the micrograph to begin with.
    circles, outline
        Whether to mark the particles (cut ones in another colour) and the mask's outline.
    """
    manifest = read_manifest(folder)
    _, micrographs = read_table(folder / MICROGRAPHS, "micrographs", ("rlnMicrographName", "cryogemMask"))
    _, particles = read_table(folder / PARTICLES, "particles", ("rlnMicrographName", "rlnCoordinateX"))
    own = {"simulate": "simulated", "generate": "generated"}.get(manifest.stage, manifest.stage)
    kinds = [kind for kind in KINDS if (folder / kind / Path(micrographs["rlnMicrographName"].iloc[0]).name).is_file()]
    axes = figure.subplots(1, len(kinds), squeeze=False, sharex=True, sharey=True)[0]
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.08, top=0.92, wspace=0.02)

    def draw(index: int) -> None:
        row = micrographs.iloc[index]
        name = row["rlnMicrographName"]
        here = particles[particles["rlnMicrographName"] == name]
        for axis, kind in zip(axes, kinds, strict=True):
            axis.clear()
            axis.set_axis_off()
            axis.set_title(KINDS[kind] or own, fontsize=10)
            _show(axis, folder / kind / Path(name).name)
            if outline:
                _outline(axis, folder / row["cryogemMask"])
            if circles:
                _circles(axis, here, manifest.particle_diameter_angstrom or 0, manifest.pixel_size)
        defocus = (row["rlnDefocusU"] + row["rlnDefocusV"]) / 2e4
        figure.suptitle(f"{Path(name).name}, {len(here)} particles, defocus {defocus:.2f} µm", fontsize=11)

    _pages(figure, len(micrographs), first, draw)


def statistics(figure: Figure, folder: Path) -> None:
    """Show how many particles the micrographs have, and their defocus."""
    _, micrographs = read_table(folder / MICROGRAPHS, "micrographs", ("rlnMicrographName", "rlnDefocusU"))
    _, particles = read_table(folder / PARTICLES, "particles", ("rlnMicrographName", "cryogemWhole"))
    figure.set_layout_engine("constrained")
    left, right = figure.subplots(1, 2)
    names = micrographs["rlnMicrographName"]
    counts = {label: rows.groupby("rlnMicrographName").size().reindex(names, fill_value=0)
              for label, rows in [("all", particles), ("whole", particles[particles["cryogemWhole"] == 1])]}
    bins = np.histogram_bin_edges(np.concatenate([*counts.values()]), bins=min(20, max(5, len(names))))
    for label, count in counts.items():
        left.hist(count, bins=bins, alpha=0.6, label=f"{label}, {count.mean():.1f} on average")
    left.set(xlabel="particles per micrograph", ylabel="micrographs")
    left.legend()
    for axis in (left, right):
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    right.hist((micrographs["rlnDefocusU"] + micrographs["rlnDefocusV"]) / 2e4, bins=min(20, max(5, len(names))))
    right.set(xlabel="defocus (µm)", ylabel="micrographs")


def orientations(figure: Figure, folder: Path) -> None:
    """Show the viewing directions; on these axes a uniform distribution is flat."""
    _, particles = read_table(folder / PARTICLES, "particles", ("rlnAngleRot", "rlnAngleTilt"))
    figure.set_layout_engine("constrained")
    axis = figure.subplots()
    rot = (particles["rlnAngleRot"] + 180) % 360 - 180
    bins = int(np.clip(np.sqrt(len(particles) / 10), 4, 36))
    *_, picture = axis.hist2d(rot, np.cos(np.radians(particles["rlnAngleTilt"])), bins=(2 * bins, bins),
                              range=((-180, 180), (-1, 1)), cmap="viridis")
    axis.set(xlabel="rot (°)", ylabel="cos tilt", title=f"{len(particles)} particles")
    figure.colorbar(picture, ax=axis, label="particles")


def losses(figure: Figure, table: Path) -> None:
    """Show the losses of a training, also while it runs; raw values thin, their running mean thick."""
    try:
        values = pd.read_csv(table)
    except (OSError, ValueError) as error:
        raise DataError(f"{table} cannot be read yet ({error}); wait for the first steps") from None
    steps, *names = values.columns
    names = [name for name in LOSSES if name in names]
    figure.set_layout_engine("constrained")
    axes = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    window = max(1, len(values) // 30)
    for axis, name in zip(axes, names, strict=True):
        line, = axis.plot(values[steps], values[name], linewidth=0.5, alpha=0.4)
        axis.plot(values[steps], values[name].rolling(window, min_periods=1, center=True).mean(),
                  color=line.get_color())
        axis.set_ylabel(LOSSES[name])
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("step")


def previews(figure: Figure, folder: Path) -> None:
    """Show the previews of a training, the last one first, or that of an imported model."""
    files = sorted((folder / "previews").glob("*.png"))
    if not files:
        raise DataError(f"{folder / 'previews'} has no preview yet; wait for the first steps")
    axis = figure.subplots()
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.08, top=0.93)

    def draw(index: int) -> None:
        axis.clear()
        axis.set_axis_off()
        picture = imread(files[index])
        axis.imshow(picture, cmap="gray")
        step = files[index].stem.rpartition("_")[2]
        figure.suptitle(f"step {int(step)}: with ice and noise | generated | real" if step.isdigit()
                        else "discs in white noise | what the model makes of them", fontsize=11)

    _pages(figure, len(files), len(files) - 1, draw)


def _show(axis: Any, path: Path) -> None:
    image, (height, width) = _read(path)
    low, high = np.percentile(image, (0.5, 99.5))
    axis.imshow(image, cmap="gray", vmin=low, vmax=high, extent=(-0.5, width - 0.5, height - 0.5, -0.5))


def _outline(axis: Any, path: Path) -> None:
    mask, (height, width) = _read(path)
    if mask.min() < 0.5 < mask.max():
        # Centres of the blocks that were averaged.
        y = (np.arange(mask.shape[0]) + 0.5) * height / mask.shape[0] - 0.5
        x = (np.arange(mask.shape[1]) + 0.5) * width / mask.shape[1] - 0.5
        axis.contour(x, y, mask, levels=[0.5], colors=OUTLINE, linewidths=0.6)


def _circles(axis: Any, particles: pd.DataFrame, diameter_angstrom: float, pixel_size: float) -> None:
    if particles.empty:
        return
    x = particles["rlnCoordinateX"] - particles["rlnOriginXAngst"] / pixel_size
    y = particles["rlnCoordinateY"] - particles["rlnOriginYAngst"] / pixel_size
    edge = max(diameter_angstrom / pixel_size, 4.0)
    colours = np.where(particles["cryogemWhole"] == 1, WHOLE, CUT)
    axis.add_collection(EllipseCollection([edge] * len(x), [edge] * len(x), [0.0] * len(x), units="xy",
                                          offsets=np.column_stack([x, y]), transOffset=axis.transData,
                                          facecolors="none", edgecolors=colours, linewidths=0.9))


def _read(path: Path) -> tuple[Any, tuple[int, int]]:
    """An image thinned out by whole blocks to what a window shows, and the size it has on disk."""
    try:
        with mrcfile.mmap(path, mode="r", permissive=True) as file:
            data = file.data
            if data is None or data.ndim != 2:
                raise DataError(f"{path} is not an image; make the set again")
            step = max(1, -(-max(data.shape) // SHOWN))
            height, width = (edge // step * step for edge in data.shape)
            blocks = np.asarray(data[:height, :width], np.float32).reshape(height // step, step, width // step, step)
            return blocks.mean((1, 3)), (height, width)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); make the set again") from None


def _pages(figure: Figure, count: int, first: int, draw: Callable[[int], None]) -> None:
    """Buttons and arrow keys that call ``draw`` with the index before or after."""
    state = {"index": min(max(first, 0), count - 1)}

    def turn(by: int) -> None:
        state["index"] = (state["index"] + by) % count
        draw(state["index"])
        figure.canvas.draw_idle()

    buttons = []
    if count > 1:
        for place, text, by in ((0.40, "◀ previous", -1), (0.51, "next ▶", 1)):
            button = Button(figure.add_axes((place, 0.015, 0.1, 0.045)), text)
            button.on_clicked(lambda event, by=by: turn(by))
            buttons.append(button)
        figure.canvas.mpl_connect(
            "key_press_event", lambda event: turn({"left": -1, "right": 1}[event.key])
            if event.key in ("left", "right") else None)
    figure.cryogem_buttons = buttons  # Matplotlib keeps only weak references.
    draw(state["index"])
