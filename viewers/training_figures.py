# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of a training: losses and previews while it runs, ice maps, images and spectra beside the real ones."""
import json
import os
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.image import imread
from numpy.typing import NDArray

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.dataset import FIGURES
from cryogem_scipion.viewers.image_display import draw_scale_bar, grey_range, show_image
from cryogem_scipion.viewers.paging import Pages, update_regularly

__all__ = ["draw_comparison", "draw_ice_maps", "draw_losses", "draw_previews", "draw_spectra", "read_losses",
           "training_state"]

# Columns of losses.csv that are shown, and their labels.
LOSSES = {"adversarial": "adversarial", "discriminator": "discriminator", "contrastive": "contrastive",
          "contrast_drift": "change of contrast"}
# Columns of realism.csv that are shown, and their labels.
VALIDATION = {"auc": "told apart (AUC)", "realism": "distance from\nheld-out real"}
MAX_POINTS = 4000
"""Most points of a curve; longer curves are thinned out."""
COLUMNS = 4
"""Micrographs on a page of ice maps."""
IMAGES = {"physical": "simulated, with ice and noise", "generated": "generated from it", "real": "real"}
COLOURS = {"physical": "tab:grey", "generated": "tab:orange", "real": "tab:blue"}


def draw_losses(figure: Figure, table: Path) -> None:
    """Show the losses of a training, updated while it runs: raw values as thin, running means as thick lines.

    Where the training has held-out real micrographs, the lowest panels show the validations: the AUC with which small
    networks tell the images of each checkpoint from them, and the distance. The best checkpoint is marked.
    """
    names = [name for name in LOSSES if name in read_losses(table)]
    validation_table = table.with_name("realism.csv")
    figure.set_layout_engine("constrained")
    last_read = {"size": -1}
    axes: dict[str, Any] = {}
    lines: dict[str, Any] = {}

    def refresh() -> bool:
        size = os.path.getsize(table) if table.is_file() else last_read["size"]
        if size == last_read["size"]:
            return False
        last_read["size"] = size
        values, validation = read_losses(table), _validation(validation_table)
        shown = [name for name in VALIDATION if name in validation] if len(validation) else []
        rows = names + shown
        if list(axes) != rows:  # at the start, and at the first validation
            axes.clear()
            axes.update(_add_panels(figure, rows, lines))
        thinned = slice(None, None, -(-len(values) // MAX_POINTS))
        for name in names:
            raw, mean = lines[name]
            smooth = values[name].rolling(max(1, len(values) // 30), min_periods=1, center=True).mean()
            raw.set_data(values["step"][thinned], values[name][thinned])
            mean.set_data(values["step"][thinned], smooth[thinned])
        best = _best_validation(validation)
        for name in shown:
            lines[name][1].set_data(validation["step"], validation[name])
            lines[f"best {name}"][0].set_data(best["step"], best[name])
        for axis in axes.values():
            axis.relim()
            axis.autoscale_view()  # does not change an axis that the user has zoomed
        figure.suptitle(training_state(values.iloc[-1]), fontsize=11)
        return True

    refresh()
    update_regularly(figure, refresh)


def _add_panels(figure: Figure, rows: list[str], lines: dict[str, Any]) -> dict[str, Any]:
    """Add one panel below the other; their empty lines, raw and mean, go into ``lines``."""
    figure.clear()
    axes = dict(zip(rows, figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0], strict=True))
    for name, axis in axes.items():
        raw, = axis.plot([], [], linewidth=0.5, alpha=0.4)
        mean, = axis.plot([], [], color=raw.get_color(), marker="." if name in VALIDATION else "")
        lines[name] = raw, mean
        if name in VALIDATION:
            lines[f"best {name}"] = axis.plot([], [], "o", markersize=8, fillstyle="none", color="tab:red")
        axis.set_ylabel({**LOSSES, **VALIDATION}[name])
        axis.grid(alpha=0.3)
    axes[rows[-1]].set_xlabel("step")
    return axes


def draw_previews(figure: Figure, folder: Path) -> None:
    """Show the previews of a training, beginning with the last; new previews are added while it runs."""
    files = _previews(folder)
    axis = figure.add_axes((0.01, 0.09, 0.98, 0.84))

    def draw(index: int) -> None:
        axis.clear()
        axis.set_axis_off()
        axis.imshow(imread(files[index]), cmap="gray", vmin=0, vmax=1)
        step = files[index].stem.rpartition("_")[2]
        figure.suptitle(f"step {int(step)}: with ice and noise | generated | real" if step.isdigit()
                        else "discs in white noise | output of the model", fontsize=11)

    pages = Pages(figure, len(files), len(files) - 1, draw, "preview")

    def refresh() -> bool:
        new_files = _previews(folder)
        if len(new_files) <= len(files):
            return False
        shows_latest = pages.index == pages.count - 1
        files[:] = new_files
        pages.extend(len(files))
        if shows_latest:
            pages.go(len(files) - 1)
        return True

    update_regularly(figure, refresh)


def draw_ice_maps(figure: Figure, folder: Path) -> None:
    """Show real micrographs at the working pixel size, and below each its ice map."""
    records = sorted((folder / "source/real").glob("*.json"))
    if not records:
        raise DataError(f"{folder} has measured no real micrograph yet; wait for the first steps")
    names_and_maps = [_ice_map(record) for record in records]
    if all(ice is None for _, ice in names_and_maps):
        raise DataError(f"no ice map could be measured on the {len(names_and_maps)} real micrographs: their mean grey "
                        "values are near or below zero")
    limit = max(float(np.abs(ice - 1).max()) for _, ice in names_and_maps if ice is not None) * 100
    columns = min(COLUMNS, len(names_and_maps))
    # The images of a single micrograph are side by side.
    axes = figure.subplots(2, columns) if columns > 1 else figure.subplots(1, 2).reshape(2, 1)
    figure.subplots_adjust(left=0.01, right=0.90, bottom=0.10, top=0.92, wspace=0.03, hspace=0.03)
    colour_bar = figure.add_axes((0.915, 0.2, 0.015, 0.3))

    def draw(page: int) -> None:
        for column, (above, below) in enumerate(axes.T):
            for axis in (above, below):
                axis.clear()
                axis.set_axis_off()
            if page * columns + column >= len(names_and_maps):
                continue
            name, ice = names_and_maps[page * columns + column]
            above.set_title(Path(name).name, fontsize=9)
            height, width = show_image(above, folder / name)
            if ice is None:
                below.text(0.5, 0.5, "no ice measured", ha="center", transform=below.transAxes)
                continue
            picture = below.imshow((ice - 1) * 100, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="bicubic",
                                   extent=(-0.5, width - 0.5, height - 0.5, -0.5))
            colour_bar.clear()
            figure.colorbar(picture, cax=colour_bar, label="transmission above its mean (%)")

    Pages(figure, -(-len(names_and_maps) // columns), 0, draw, "page")


def draw_comparison(figure: Figure, folder: Path) -> None:
    """Show a physical field, the field generated from it, and a real field, in the grey scale of the real one."""
    data = _figure_data(folder)
    images = {kind: data[f"image_{kind}"].astype(np.float32) for kind in IMAGES}
    low, high = grey_range(images["real"])
    axes = figure.subplots(1, len(images), sharex=True, sharey=True)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.02, top=0.92, wspace=0.02)
    for axis, (kind, image) in zip(axes, images.items(), strict=True):
        axis.set_axis_off()
        axis.set_title(IMAGES[kind], fontsize=10)
        axis.imshow(image, cmap="gray", vmin=low, vmax=high)
        draw_scale_bar(axis, image.shape, float(data["pixel_size"]))


def draw_spectra(figure: Figure, folder: Path) -> None:
    """Show power spectra and grey values of generated fields beside those of real fields."""
    data = _figure_data(folder)
    figure.set_layout_engine("constrained")
    power, values = figure.subplots(1, 2, gridspec_kw={"width_ratios": (1.5, 1)})
    for kind, text in IMAGES.items():
        fields = data[f"power_{kind}"][:, 1:]
        style = {"color": COLOURS[kind], "linestyle": "--" if kind == "physical" else "-"}
        power.semilogy(data["frequency"][1:], fields.mean(0), label=text, **style)
        power.fill_between(data["frequency"][1:], fields.min(0), fields.max(0), color=COLOURS[kind], alpha=0.15)
        image = np.clip(data[f"image_{kind}"].astype(np.float32), -8, 8)
        values.hist(image.ravel(), bins=160, range=(-8, 8), density=True, histtype="step", **style)
    power.set(xlabel="spatial frequency (1/Å)", ylabel="power (white noise of standard deviation 1 has 1)")
    power.set_title(f"mean of {len(data['power_real'])} fields; shaded: minimum to maximum", fontsize=10)
    power.legend(fontsize=8)
    values.set(xlabel="grey value (standard deviations of the noise)", ylabel="density")
    values.set_title("grey values", fontsize=10)


def read_losses(table: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Return the complete rows of losses.csv.

    Parameters
    ----------
    columns
        Columns that a complete row has to have; all if ``None``.

    Raises
    ------
    DataError
        There is no complete row yet.
    """
    try:
        values = pd.read_csv(table).dropna(subset=columns)
        if values.empty or not {"step", "steps"} <= set(values):
            raise ValueError("no step so far")
        return values
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{table} cannot be read yet ({error}); wait for the first steps") from None


def _validation(table: Path) -> pd.DataFrame:
    """The validations by step; empty where there is none yet."""
    try:
        return pd.read_csv(table).dropna(subset=["step", "realism"])
    except (OSError, ValueError, KeyError):
        return pd.DataFrame(columns=["step", "realism"])


def _best_validation(validation: pd.DataFrame) -> pd.DataFrame:
    """The row of the best checkpoint; older trainings have no column for it, and take the smallest distance."""
    if "best_step" in validation:
        return validation[validation["step"] == validation["best_step"].max()]
    return validation[validation["realism"] == validation["realism"].min()].head(1)


def training_state(last: pd.Series) -> str:
    """Step, speed and time left, from the last row of losses.csv."""
    text = f"step {last['step']:.0f} of {last['steps']:.0f}"
    left = last["steps"] - last["step"]
    if not left or not last.get("steps_per_second", 0):
        return text
    minutes = left / last["steps_per_second"] / 60
    return f"{text}, {last['steps_per_second']:.2g} steps a second, {minutes:.0f} min left"


def _previews(folder: Path) -> list[Path]:
    files = sorted((folder / "previews").glob("[!.]*.png"))
    if not files:
        raise DataError(f"{folder / 'previews'} has no preview yet; wait for the first steps")
    return files


def _ice_map(record: Path) -> tuple[str, NDArray[np.float64] | None]:
    """The name of a real micrograph at the working pixel size, and its ice map if it has one."""
    try:
        values = json.loads(record.read_text("utf-8"))
        grid = values["ice_grid"]
        return values["name"], None if grid is None else np.asarray(grid, float)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{record} cannot be read ({error}); train again") from None


def _figure_data(folder: Path) -> dict[str, NDArray[Any]]:
    path = folder / FIGURES
    if not path.is_file():
        raise DataError(f"{path} is not there yet; it is written when the training has finished")
    try:
        with np.load(path, allow_pickle=False) as data:
            return dict(data)
    except (OSError, ValueError, BadZipFile) as error:
        raise DataError(f"{path} cannot be read ({error}); continue the training to write it again") from None
