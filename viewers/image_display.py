# SPDX-License-Identifier: GPL-3.0-or-later
"""Display of images, binned to the size of a window, and of particles, masks and scale bars over them."""
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

__all__ = ["CUT_COLOUR", "OUTLINE_COLOUR", "WHOLE_COLOUR", "draw_circles", "draw_outline", "draw_particles",
           "draw_scale_bar", "grey_range", "mean_spectrum", "read_binned", "show_image"]

MAX_DISPLAY_PIXELS = 1200
"""Largest edge (px) of a displayed image; larger images are binned."""
WHOLE_COLOUR, CUT_COLOUR, OUTLINE_COLOUR = "#3fd0ff", "#ff9f40", "#ffe066"
TILES = 100
"""Approximate number of tiles over which a power spectrum is averaged."""


def show_image(axis: Any, path: Path) -> tuple[int, int]:
    """Show an image in its own grey scale, on axes in pixels of the file; return the file's size (y, x)."""
    image, (height, width) = read_binned(path)
    low, high = grey_range(image)
    axis.imshow(image, cmap="gray", vmin=low, vmax=high, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    axis.set(autoscale_on=False)  # so that nothing drawn later changes the limits
    return height, width


def draw_outline(axis: Any, path: Path) -> None:
    """Draw the outline of a mask."""
    mask, (height, width) = read_binned(path)
    if mask.min() < 0.5 < mask.max():
        # Centres of the averaged blocks.
        y = (np.arange(mask.shape[0]) + 0.5) * height / mask.shape[0] - 0.5
        x = (np.arange(mask.shape[1]) + 0.5) * width / mask.shape[1] - 0.5
        axis.contour(x, y, mask, levels=[0.5], colors=OUTLINE_COLOUR, linewidths=0.6)


def draw_particles(axis: Any, particles: pd.DataFrame, diameter_angstrom: float, pixel_size: float) -> None:
    """Draw a circle around each particle's true centre; particles cut by the border have another colour."""
    if particles.empty:
        return
    x = particles["rlnCoordinateX"] - particles["rlnOriginXAngst"] / pixel_size
    y = particles["rlnCoordinateY"] - particles["rlnOriginYAngst"] / pixel_size
    diameter = max(diameter_angstrom / pixel_size, 4.0)
    draw_circles(axis, np.column_stack([x, y]), diameter,
                 np.where(particles["cryogemWhole"] == 1, WHOLE_COLOUR, CUT_COLOUR))


def draw_circles(axis: Any, positions: Any, diameter: float, colours: Any) -> None:
    """Draw circles around positions (x, y); positions and diameter are in pixels."""
    count = len(positions)
    axis.add_collection(EllipseCollection([diameter] * count, [diameter] * count, [0.0] * count, units="xy",
                                          offsets=positions, transOffset=axis.transData, facecolors="none",
                                          edgecolors=colours, linewidths=0.9))


def draw_scale_bar(axis: Any, shape: tuple[int, int], pixel_size: float) -> None:
    """Draw a scale bar of a round length, about a fifth of the image's width, into the lower left corner."""
    height, width = shape
    longest = width * pixel_size / 5
    power = 10.0 ** np.floor(np.log10(longest))
    angstrom = max(step * power for step in (1, 2, 5) if step * power <= longest)
    left, length = 0.02 * width, angstrom / pixel_size
    axis.add_patch(Rectangle((left, 0.968 * height), length, 0.012 * height, facecolor="white", edgecolor="black",
                             linewidth=0.8, zorder=5))
    axis.text(left + length / 2, 0.96 * height, f"{angstrom:g} Å", color="white", ha="center", va="bottom", fontsize=9,
              zorder=5, path_effects=[patheffects.withStroke(linewidth=2, foreground="black")])


def grey_range(image: NDArray[Any]) -> tuple[float, float]:
    """Return the grey values shown as black and as white: the 0.5 and 99.5 percentiles."""
    low, high = np.percentile(image, (0.5, 99.5))
    return float(low), float(max(high, low + 1e-12))


def read_binned(path: Path) -> tuple[NDArray[np.float32], tuple[int, int]]:
    """Return an image binned to the size of a window, and the part of the file (y, x; px) that it covers."""
    with _mapped(path) as file:
        data = file.data
        binning = max(1, -(-max(data.shape) // MAX_DISPLAY_PIXELS))
        height, width = (edge // binning * binning for edge in data.shape)
        blocks = np.asarray(data[:height, :width], np.float32).reshape(
            height // binning, binning, width // binning, binning)
        return blocks.mean((1, 3)), (height, width)


def mean_spectrum(path: Path, tile: int = 256) -> NDArray[np.float64]:
    """Return the power spectrum of an image, averaged over Hann-windowed tiles.

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
                values = np.asarray(data[y:y + tile, x:x + tile], np.float64)
                power += np.abs(np.fft.rfft2((values - values.mean()) * window)) ** 2
    power /= len(starts[0]) * len(starts[1]) * (window**2).sum()
    # The left half of the plane is the right half rotated by 180 degrees.
    left = np.roll(power[::-1, 1:-1][:, ::-1], 1, 0)
    return np.fft.fftshift(np.concatenate([power, left], 1))


def _mapped(path: Path) -> mrcfile.mrcmemmap.MrcMemmap:
    """An image file, memory-mapped."""
    try:
        file = mrcfile.mmap(path, mode="r", permissive=True)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); make the set again") from None
    if file.data is None or file.data.ndim != 2:
        file.close()
        raise DataError(f"{path} is not an image; make the set again")
    return file
