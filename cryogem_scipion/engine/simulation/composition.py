# SPDX-License-Identifier: GPL-3.0-or-later
"""Composition of a micrograph: the sum of the particles' projections, and the mask of the particles.

A centre (y, x) is split into whole pixels, floor(centre), and a fraction. The whole pixels place the particle's box;
the fraction is a shift of the projection inside the box. A box of b pixels starts b // 2 pixels before floor(centre).
"""
from collections.abc import Iterator, Sequence

import numba
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cryogem_scipion.engine.errors import SettingsError
from cryogem_scipion.engine.simulation.ctf import Optics, apply_filter, ctf, delocalisation_margin, fast_shape

__all__ = [
    "box_corners",
    "boxes_inside",
    "compose",
    "compose_defocused",
    "particle_mask",
    "plane_heights",
    "projection_masks",
    "subpixel_shifts",
    "typical_peaks",
]

CHUNK = 16  # boxes transformed at once; it limits the memory and does not change the result


def subpixel_shifts(centres: Float[Tensor, "n 2"]) -> Float[Tensor, "n 2"]:
    """Sub-pixel part (y, x) of each centre, in [0, 1): the shift of its projection, pixels."""
    return centres - torch.floor(centres)


def box_corners(centres: Float[Tensor, "n 2"], box: int) -> Int[Tensor, "n 2"]:
    """First pixel (y, x) of each particle's box; negative if the box starts outside the micrograph."""
    return torch.floor(centres).to(torch.int64) - box // 2


def boxes_inside(centres: Float[Tensor, "n 2"], box: int, shape: tuple[int, int]) -> Bool[Tensor, " n"]:
    """Whether the box of each particle lies inside the micrograph, whose ``shape`` is (y, x) in pixels."""
    corners = box_corners(centres, box)
    size = torch.tensor(shape, device=centres.device)
    return ((corners >= 0) & (corners + box <= size)).all(dim=1)


def compose(
    projections: Float[Tensor, "n b b"], centres: Float[Tensor, "n 2"], shape: tuple[int, int], margin: int = 0
) -> Float[Tensor, "y x"]:
    """Sum projections on a canvas that is ``margin`` pixels larger than the micrograph on every side.

    Parameters
    ----------
    projections
        One square image per particle; its origin lies at b // 2 plus the sub-pixel part of the centre.
    centres
        (y, x), pixels of the micrograph.
    shape
        Micrograph size (y, x), pixels.
    margin
        Width of the margin, pixels.

    Returns
    -------
    The sum, with the dtype and device of the projections. Parts outside the canvas are cut off. The particles are added
    in their order.

    Raises
    ------
    SettingsError
        The numbers of projections and centres differ.
    """
    _check_counts(projections, centres)
    size = (shape[0] + 2 * margin, shape[1] + 2 * margin)
    canvas = torch.zeros(size, dtype=projections.dtype, device=projections.device)
    _add(canvas, projections, box_corners(centres, projections.shape[-1]) + margin)
    return canvas


def _check_counts(projections: Float[Tensor, "n b b"], centres: Float[Tensor, "n 2"]) -> None:
    if projections.shape[0] != centres.shape[0]:
        raise SettingsError(f"{projections.shape[0]} projections for {centres.shape[0]} centres; give one for each")


def _add(canvas: Tensor, images: Tensor, corners: Tensor) -> None:
    """Add images, whose first pixels are ``corners``, to ``canvas`` in place."""
    if canvas.device.type == "cpu":
        _add_kernel(canvas.numpy(), images.detach().contiguous().numpy(), corners.cpu().numpy())
        return
    box = images.shape[-1]
    for image, (y, x) in zip(images, corners.tolist(), strict=True):
        y0, x0, y1, x1 = max(y, 0), max(x, 0), min(y + box, canvas.shape[0]), min(x + box, canvas.shape[1])
        if y0 < y1 and x0 < x1:
            canvas[y0:y1, x0:x1] += image[y0 - y : y1 - y, x0 - x : x1 - x]


@numba.njit(cache=True, nogil=True)
def _add_kernel(canvas, images, corners):  # type: ignore[no-untyped-def]
    box = images.shape[1]
    for index in range(images.shape[0]):
        y, x = corners[index]
        for row in range(max(y, 0), min(y + box, canvas.shape[0])):
            for column in range(max(x, 0), min(x + box, canvas.shape[1])):
                canvas[row, column] += images[index, row - y, column - x]


def compose_defocused(
    projections: Float[Tensor, "n b b"],
    optics: Sequence[Optics],
    centres: Float[Tensor, "n 2"],
    shape: tuple[int, int],
    pixel_size: float,
) -> Float[Tensor, "y x"]:
    """Convolve each projection with its own CTF in a padded box, then sum: the signal s of the micrograph.

    Parameters
    ----------
    projections, centres, shape
        As for ``compose``.
    optics
        Microscope state of each particle (``ctf.at_height``).
    pixel_size
        Å per pixel.

    Returns
    -------
    Σ CTF ⊗ projection over the micrograph, without a margin.

    Raises
    ------
    SettingsError
        The numbers of projections, centres and microscope states differ.
    """
    _check_counts(projections, centres)
    if len(optics) != projections.shape[0]:
        raise SettingsError(f"{len(optics)} microscope states for {projections.shape[0]} projections; give one for "
                            "each")
    field = torch.zeros(shape, dtype=projections.dtype, device=projections.device)
    for images, corners in _defocused_chunks(projections, optics, centres, pixel_size):
        _add(field, images, corners)
    return field


def _defocused_chunks(
    projections: Tensor, optics: Sequence[Optics], centres: Tensor, pixel_size: float
) -> Iterator[tuple[Tensor, Tensor]]:
    box = projections.shape[-1]
    if not optics:
        return
    margin = max(delocalisation_margin(pixel_size, state) for state in optics)
    padded = fast_shape((box, box), margin)
    before = (padded[0] - box) // 2
    after = padded[0] - box - before
    corners = box_corners(centres, box) - before
    for start in range(0, len(optics), CHUNK):
        chunk = slice(start, start + CHUNK)
        images = torch.nn.functional.pad(projections[chunk], (before, after, before, after))
        ctfs = torch.stack([ctf(padded, pixel_size, state, projections.device) for state in optics[chunk]])
        yield apply_filter(images, ctfs), corners[chunk]


def plane_heights(
    centres: Float[Tensor, "n 2"], shape: tuple[int, int], pixel_size: float, tilt_degrees: float, axis_degrees: float
) -> Float[Tensor, " n"]:
    """Heights of centres on a tilted plane whose tilt axis goes through the middle of the micrograph.

    Parameters
    ----------
    centres
        (y, x), pixels of the micrograph.
    shape
        Micrograph size (y, x), pixels.
    pixel_size
        Å per pixel.
    tilt_degrees
        Tilt, between -90 and 90. A positive tilt raises, towards the electron source, the side at +90° (from x towards
        y) of the axis.
    axis_degrees
        Direction of the tilt axis, from x towards y.

    Returns
    -------
    Å; positive towards the electron source.

    Raises
    ------
    SettingsError
        The tilt is out of range.
    """
    if not -90 < tilt_degrees < 90:
        raise SettingsError(f"tilt of the ice is {tilt_degrees}°; give an angle between -90 and 90")
    middle = torch.tensor([(shape[0] - 1) / 2, (shape[1] - 1) / 2], dtype=centres.dtype, device=centres.device)
    angle = torch.deg2rad(torch.tensor(axis_degrees, dtype=torch.float64))
    tilt = torch.deg2rad(torch.tensor(tilt_degrees, dtype=torch.float64))
    y, x = (centres - middle).unbind(-1)
    return (y * float(torch.cos(angle)) - x * float(torch.sin(angle))) * (pixel_size * float(torch.tan(tilt)))


def projection_masks(
    projections: Float[Tensor, "n b b"], threshold: float = 0.1, soft: bool = False
) -> Float[Tensor, "n b b"] | Bool[Tensor, "n b b"]:
    """Mask of each projection: the pixels that exceed a fraction of the projection's typical peak.

    The typical peak is 4/3 of the mean pixel value, each pixel weighted by its value. It equals the maximum for a
    uniform sphere, does not depend on the box, and changes little with a single hot pixel.

    Parameters
    ----------
    projections
        One square image per particle, protein positive.
    threshold
        Fraction of the peak, between 0 and 1. At 0.1 the mask of a sphere is 1 % smaller than its projection.
    soft
        Return values from 0 to 1 that change smoothly and are 0.5 at the border of the hard mask.

    Raises
    ------
    SettingsError
        The threshold is out of range.
    """
    _check_threshold(threshold)
    positive = projections.clamp(min=0)
    peaks = typical_peaks(projections)
    level = (threshold * peaks).to(projections.dtype)
    if not soft:
        return (projections > level) & (peaks > 0)
    ratio = (positive / (2 * level).clamp(min=torch.finfo(projections.dtype).tiny)).clamp(max=1)
    return ratio * ratio * (3 - 2 * ratio)


def typical_peaks(projections: Float[Tensor, "n b b"]) -> Float[Tensor, "n 1 1"]:
    """Typical peak of each projection, in the unit of the projections, float64; ``projection_masks`` defines it."""
    positive = projections.clamp(min=0)
    total = positive.sum(dim=(-2, -1), keepdim=True, dtype=torch.float64)
    squares = (positive * positive).sum(dim=(-2, -1), keepdim=True, dtype=torch.float64)
    return 4 / 3 * squares / total.clamp(min=torch.finfo(torch.float64).tiny)


def _check_threshold(threshold: float) -> None:
    if not 0 < threshold < 1:
        raise SettingsError(f"threshold of the mask is {threshold}; give a fraction between 0 and 1")


def particle_mask(
    projections: Float[Tensor, "n b b"],
    centres: Float[Tensor, "n 2"],
    shape: tuple[int, int],
    threshold: float = 0.1,
    soft: bool = False,
) -> Float[Tensor, "y x"] | Bool[Tensor, "y x"]:
    """Mask of the particles on the micrograph: the union of the ``projection_masks`` of all projections.

    Parameters
    ----------
    projections, centres, shape
        As for ``compose``.
    threshold, soft
        As for ``projection_masks``.

    Returns
    -------
    Boolean mask; float32 from 0 to 1 if soft.

    Raises
    ------
    SettingsError
        The threshold is out of range, or the numbers of projections and centres differ.
    """
    _check_counts(projections, centres)
    box = projections.shape[-1]
    mask = torch.zeros(shape, dtype=torch.float32 if soft else torch.bool, device=projections.device)
    if mask.device.type == "cpu" and projections.dtype == torch.float32:
        _check_threshold(threshold)
        first_pixels = box_corners(centres, box).numpy()
        _mask_kernel(mask.numpy(), projections.detach().contiguous().numpy(), first_pixels, threshold, soft)
        return mask
    masks = projection_masks(projections, threshold, soft)
    for projection_mask, (y, x) in zip(masks, box_corners(centres, box).tolist(), strict=True):
        y0, x0, y1, x1 = max(y, 0), max(x, 0), min(y + box, shape[0]), min(x + box, shape[1])
        if y0 < y1 and x0 < x1:
            region = mask[y0:y1, x0:x1]
            torch.maximum(region, projection_mask[y0 - y : y1 - y, x0 - x : x1 - x].to(mask.dtype), out=region)
    return mask


@numba.njit(cache=True, nogil=True)
def _mask_kernel(mask, images, corners, threshold, soft):  # type: ignore[no-untyped-def]
    """Write the union of the ``projection_masks`` of float32 images into ``mask``."""
    box = images.shape[1]
    for index in range(images.shape[0]):
        total, squares = 0.0, 0.0
        for row in range(box):
            for column in range(box):
                value = max(images[index, row, column], np.float32(0))
                total += value
                squares += value * value
        if total == 0.0:
            continue
        level = np.float32(threshold * 4 / 3 * squares / total)
        y, x = corners[index]
        for row in range(max(y, 0), min(y + box, mask.shape[0])):
            for column in range(max(x, 0), min(x + box, mask.shape[1])):
                value = images[index, row - y, column - x]
                if soft:
                    ratio = min(max(value, np.float32(0)) / (np.float32(2) * level), np.float32(1))
                    smooth = ratio * ratio * (np.float32(3) - np.float32(2) * ratio)
                    if np.float32(mask[row, column]) < smooth:  # numba 0.60 takes no maximum of a bool and a number
                        mask[row, column] = smooth
                elif value > level:
                    mask[row, column] = True
