# SPDX-License-Identifier: GPL-3.0-or-later
"""Images thinned out to what a window shows, and what is drawn over them."""
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.collections import EllipseCollection
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from cryogem_scipion.engine.errors import DataError

__all__ = ["CUT", "OUTLINE", "WHOLE", "circles", "grey_range", "mean_spectrum", "outline", "read_thinned", "rings",
           "scale_bar", "show"]

SHOWN = 1200
"""Pixels that a window can show; larger images are thinned out for it."""
WHOLE, CUT, OUTLINE = "#3fd0ff", "#ff9f40", "#ffe066"
TILES = 100
"""About as many tiles of an image as a spectrum is averaged over."""


def show(axis: Any, path: Path) -> tuple[int, int]:
    """Show an image in a grey scale of its own; axes count the pixels (y, x) that it has on disk and that we return."""
    image, (height, width) = read_thinned(path)
    low, high = grey_range(image)
    axis.imshow(image, cmap="gray", vmin=low, vmax=high, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    axis.set(autoscale_on=False)  # What is drawn on top stays within.
    return height, width


def outline(axis: Any, path: Path) -> None:
    """Draw the edge of a mask."""
    mask, (height, width) = read_thinned(path)
    if mask.min() < 0.5 < mask.max():
        # Centres of the blocks that were averaged.
        y = (np.arange(mask.shape[0]) + 0.5) * height / mask.shape[0] - 0.5
        x = (np.arange(mask.shape[1]) + 0.5) * width / mask.shape[1] - 0.5
        axis.contour(x, y, mask, levels=[0.5], colors=OUTLINE, linewidths=0.6)


def circles(axis: Any, particles: pd.DataFrame, diameter_angstrom: float, pixel_size: float) -> None:
    """Draw a circle around each particle's true centre, in another colour where the border cuts its box."""
    if particles.empty:
        return
    x = particles["rlnCoordinateX"] - particles["rlnOriginXAngst"] / pixel_size
    y = particles["rlnCoordinateY"] - particles["rlnOriginYAngst"] / pixel_size
    edge = max(diameter_angstrom / pixel_size, 4.0)
    rings(axis, np.column_stack([x, y]), edge, np.where(particles["cryogemWhole"] == 1, WHOLE, CUT))


def rings(axis: Any, positions: Any, diameter: float, colours: Any) -> None:
    """Draw circles around positions (x, y), all in pixels."""
    count = len(positions)
    axis.add_collection(EllipseCollection([diameter] * count, [diameter] * count, [0.0] * count, units="xy",
                                          offsets=positions, transOffset=axis.transData, facecolors="none",
                                          edgecolors=colours, linewidths=0.9))


def scale_bar(axis: Any, shape: tuple[int, int], pixel_size: float) -> None:
    """Draw a bar of a round length, about a fifth of the image's width, in its lower left corner."""
    height, width = shape
    wanted = width * pixel_size / 5
    power = 10.0 ** np.floor(np.log10(wanted))
    angstrom = max(step * power for step in (1, 2, 5) if step * power <= wanted)
    left, length = 0.02 * width, angstrom / pixel_size
    axis.add_patch(Rectangle((left, 0.968 * height), length, 0.012 * height, facecolor="white", edgecolor="black",
                             linewidth=0.8, zorder=5))
    axis.text(left + length / 2, 0.96 * height, f"{angstrom:g} Å", color="white", ha="center", va="bottom", fontsize=9,
              zorder=5, path_effects=[patheffects.withStroke(linewidth=2, foreground="black")])


def grey_range(image: NDArray[Any]) -> tuple[float, float]:
    """The grey values from black to white: all but the outermost 0.5 % on either side."""
    low, high = np.percentile(image, (0.5, 99.5))
    return float(low), float(max(high, low + 1e-12))


def read_thinned(path: Path) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """An image thinned out by whole blocks to what a window shows, and the size it has on disk."""
    with _mapped(path) as file:
        data = file.data
        step = max(1, -(-max(data.shape) // SHOWN))
        height, width = (edge // step * step for edge in data.shape)
        blocks = np.asarray(data[:height, :width], np.float32).reshape(height // step, step, width // step, step)
        return blocks.mean((1, 3)), (height, width)


def mean_spectrum(path: Path, tile: int = 256) -> NDArray[np.float64]:
    """The power spectrum of an image, averaged over Hann-windowed tiles that are read one by one.

    Returns
    -------
    (n, n), zero frequency in the middle at ``n // 2``; n is ``tile``, or less where the image is smaller.
    """
    with _mapped(path) as file:
        data = file.data
        tile = min(tile, *(edge // 2 * 2 for edge in data.shape))
        starts = [np.linspace(0, edge - tile, min(max(1, 2 * edge // tile - 1), round(TILES**0.5))).astype(int)
                  for edge in data.shape]
        window = np.hanning(tile + 1)[:-1]
        window = window[:, None] * window
        power = np.zeros((tile, tile // 2 + 1))
        for y in starts[0]:
            for x in starts[1]:
                piece = np.asarray(data[y:y + tile, x:x + tile], np.float64)
                power += np.abs(np.fft.rfft2((piece - piece.mean()) * window)) ** 2
    power /= len(starts[0]) * len(starts[1]) * (window**2).sum()
    # The other half of the plane is this one turned by 180 degrees.
    left = np.roll(power[::-1, 1:-1][:, ::-1], 1, 0)
    return np.fft.fftshift(np.concatenate([power, left], 1))


def _mapped(path: Path) -> mrcfile.mrcmemmap.MrcMemmap:
    """An image file whose pixels stay on disk."""
    try:
        file = mrcfile.mmap(path, mode="r", permissive=True)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); make the set again") from None
    if file.data is None or file.data.ndim != 2:
        file.close()
        raise DataError(f"{path} is not an image; make the set again")
    return file
