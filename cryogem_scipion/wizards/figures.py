# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of the wizards; each function draws into a given figure, for the values of the sliders."""
import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from numpy.typing import NDArray

from cryogem_scipion.wizards.previews import MicrographFields, ParticleImages, ParticleNumbers, ParticleViews

__all__ = ["draw_masks", "draw_micrograph_field", "draw_particle_circle", "draw_particle_numbers",
           "draw_particle_views"]

BOX_COLOUR, MARK_COLOUR, OUTLINE_COLOUR = "#1f77d0", "#d06000", "#d0006f"
MAX_VIEWS = 6
DISPLAY_EDGE = 48
"""Approximate edge (px) of a noisy particle; larger images are binned, so that the particle is seen in the noise."""


def draw_particle_views(figure: Figure, particle: ParticleViews, box: float, distance_angstrom: float) -> None:
    """Draw views in their box, and two particles at the particle distance."""
    views = particle.views[:4]
    axes = figure.subplots(1, len(views) + 1, width_ratios=[1] * len(views) + [1.8])
    edge = max(box, views.shape[-1]) * 1.05
    for axis, view in zip(axes, views, strict=False):
        _show(axis, -view, edge)
        axis.add_patch(Rectangle((-box / 2, -box / 2), box, box, fill=False, edgecolor=BOX_COLOUR, linewidth=1.5))
    figure.suptitle(f"box {box:.0f} px = {box * particle.pixel_size:.0f} Å; the particle's diameter is "
                    f"{particle.diameter_angstrom:.0f} Å", fontsize=11, color=BOX_COLOUR)
    distance = distance_angstrom / particle.pixel_size
    pair, width = _neighbours(views[0], views[-1], distance)
    axis = axes[-1]
    axis.imshow(-pair, cmap="gray", extent=(-width / 2, width / 2, width / 2, -width / 2))
    axis.set_axis_off()
    axis.annotate("", (-distance / 2, 0), (distance / 2, 0),
                  arrowprops={"arrowstyle": "<->", "color": MARK_COLOUR, "lw": 1.5})
    axis.set_title(f"nearest neighbours, {distance_angstrom:.0f} Å", fontsize=11, color=MARK_COLOUR)


def draw_masks(figure: Figure, particle: ParticleViews, threshold: float) -> None:
    """Draw views with the outlines of their masks at a threshold."""
    views = particle.views[:MAX_VIEWS]
    axes = figure.subplots(1, len(views), squeeze=False)[0]
    masks = [view > threshold * peak for view, peak in zip(views, particle.peaks, strict=False)]
    for axis, view, peak in zip(axes, views, particle.peaks, strict=False):
        _show(axis, -view, min(view.shape[0], 1.3 * particle.diameter_angstrom / particle.pixel_size))
        half = view.shape[0] / 2
        grid = np.arange(view.shape[0]) + 0.5 - half
        if view.min() < threshold * peak < view.max():
            axis.contour(grid, grid, view, levels=[threshold * peak], colors=OUTLINE_COLOUR, linewidths=1.3)
    area = float(np.mean([mask.sum() for mask in masks])) * particle.pixel_size**2
    figure.suptitle(f"mask threshold {threshold:.2f}: the masks have the area of a disc of "
                    f"{2 * math.sqrt(area / math.pi):.0f} Å; the particle's diameter is "
                    f"{particle.diameter_angstrom:.0f} Å", fontsize=11, color=OUTLINE_COLOUR)


def draw_micrograph_field(figure: Figure, fields: MicrographFields, pixel_size: float) -> None:
    """Draw the middle of the micrograph at a pixel size, without interpolation."""
    index = int(np.argmin(np.abs(np.array(fields.pixel_sizes) - pixel_size)))
    image, size, (y, x) = fields.images[index], fields.pixel_sizes[index], fields.shapes[index]
    axis = figure.subplots()
    low, high = np.percentile(image, [0.5, 99.5])
    height, width = (length * size for length in image.shape)
    axis.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest", extent=(0, width, height, 0))
    axis.set(xlabel="Å", ylabel="Å")
    axis.set_title(f"{size:g} Å/px: the micrograph becomes {y} x {x} px (y x), finest detail {2 * size:g} Å",
                   fontsize=11)
    if fields.diameter_angstrom:
        radius = fields.diameter_angstrom / 2
        axis.add_patch(Circle((radius * 1.2, radius * 1.2), radius, fill=False, edgecolor=MARK_COLOUR, linewidth=1.5))
        axis.text(radius * 2.4, radius * 1.2, f"the particle's diameter, {fields.diameter_angstrom / size:.0f} px",
                  color=MARK_COLOUR, va="center", backgroundcolor="#ffffffb0")


def draw_particle_circle(figure: Figure, particles: ParticleImages, diameter_angstrom: float) -> None:
    """Draw particles and their average, each with a circle of a diameter."""
    images = [*map(_binned, particles.images), particles.average]
    axes = figure.subplots(1, len(images), squeeze=False)[0]
    edge = min(particles.average.shape)
    # The origin is the centre of pixel N // 2.
    first = -(edge // 2 + 0.5) * particles.pixel_size
    last = first + particles.box_angstrom
    for axis, image in zip(axes, images, strict=True):
        low, high = np.percentile(image, [0.5, 99.5])
        axis.imshow(image, cmap="gray", vmin=low, vmax=high, extent=(first, last, last, first))
        axis.add_patch(Circle((0, 0), diameter_angstrom / 2, fill=False, edgecolor=MARK_COLOUR, linewidth=1.5))
        axis.set(xlim=(first, last), ylim=(last, first))
        axis.set_axis_off()
    axes[-1].set_title(f"average of {particles.averaged} particles", fontsize=10)
    figure.suptitle(f"circle of {diameter_angstrom:.0f} Å in a box of {particles.box_angstrom:.0f} Å: it should hold "
                    "the whole particle, and little else", fontsize=11, color=MARK_COLOUR)


def draw_particle_numbers(figure: Figure, numbers: ParticleNumbers, mean: float, deviation: float) -> None:
    """Draw the histogram of picked particles and the simulation's distribution, per simulated micrograph."""
    axis = figure.subplots()
    scaled = numbers.per_micrograph * numbers.area_ratio
    axis.hist(scaled, bins=min(30, max(5, len(scaled) // 3)), density=True, color="0.7",
              label=f"{len(scaled)} picked micrographs, scaled to the simulated area")
    if deviation > 0:
        x = np.linspace(max(0.0, mean - 2 * deviation), mean + 2 * deviation, 200)
        curve = np.exp(-(((x - mean) / deviation) ** 2) / 2) / (deviation * math.sqrt(2 * math.pi) * 0.9545)
        axis.plot(x, curve, color=MARK_COLOUR, label=f"simulation: {mean:.1f} ± {deviation:.1f}")
    else:
        axis.axvline(mean, color=MARK_COLOUR, label=f"simulation: {mean:.1f}")
    axis.set(xlabel="particles per simulated micrograph", ylabel="frequency")
    axis.set_title(f"a simulated micrograph has {numbers.area_ratio:.2g} times the area of a real one", fontsize=11)
    axis.margins(y=0.3)  # room for the legend
    axis.legend(loc="upper right")


def _show(axis: Any, image: NDArray[np.float32], edge: float) -> None:
    half = image.shape[0] / 2
    axis.imshow(image, cmap="gray", extent=(-half, half, half, -half))
    axis.set(xlim=(-edge / 2, edge / 2), ylim=(edge / 2, -edge / 2))
    axis.set_axis_off()


def _binned(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """The image, binned by averaging to about ``DISPLAY_EDGE`` pixels."""
    binning = max(1, round(max(image.shape) / DISPLAY_EDGE))
    height, width = (edge // binning for edge in image.shape)
    return image[:height * binning, :width * binning].reshape(height, binning, width, binning).mean((1, 3))


def _neighbours(left: NDArray[np.float32], right: NDArray[np.float32],
                distance: float) -> tuple[NDArray[np.float32], float]:
    """The sum of two views at a distance (px), on a square, and the square's edge in pixels."""
    shift, size = round(distance / 2), left.shape[0]
    edge = size + 2 * shift
    canvas = np.zeros((edge, edge), np.float32)
    canvas[shift:shift + size, :size] += left
    canvas[shift:shift + size, edge - size:] += right
    return canvas, edge
