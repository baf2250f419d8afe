# SPDX-License-Identifier: GPL-3.0-or-later
"""Composition of a specimen: projections summed at their places, and masks of where they are.

A centre (y, x) is split into whole pixels, floor(centre), where the box goes, and a fraction,
which the projection holds as its shift. A box of b pixels covers b // 2 pixels before the whole
pixel and the rest from it on.
"""
from collections.abc import Iterator, Sequence

import numba
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cryogem_scipion.engine.errors import SettingsError
from cryogem_scipion.engine.simulation.ctf import Optics, ctf, delocalisation_margin, fast_shape, filtered

__all__ = [
    "compose",
    "compose_defocused",
    "corners",
    "field_mask",
    "plane_heights",
    "subpixel_shifts",
    "support_peaks",
    "supports",
    "whole_boxes",
]

CHUNK = 16  # boxes transformed at once: bounds the memory, not the result


def subpixel_shifts(centres: Float[Tensor, "n 2"]) -> Float[Tensor, "n 2"]:
    """Fractions (y, x) in [0, 1) by which the projections must be shifted."""
    return centres - torch.floor(centres)


def corners(centres: Float[Tensor, "n 2"], box: int) -> Int[Tensor, "n 2"]:
    """First pixel (y, x) of each particle's box; negative where the box begins outside."""
    return torch.floor(centres).to(torch.int64) - box // 2


def whole_boxes(centres: Float[Tensor, "n 2"], box: int, shape: tuple[int, int]) -> Bool[Tensor, "n"]:
    """Whether the whole box of each particle lies in the field."""
    first = corners(centres, box)
    size = torch.tensor(shape, device=centres.device)
    return ((first >= 0) & (first + box <= size)).all(dim=1)


def compose(
    projections: Float[Tensor, "n b b"], centres: Float[Tensor, "n 2"], shape: tuple[int, int], margin: int = 0
) -> Float[Tensor, "y x"]:
    """Sum projections on a canvas that is ``margin`` pixels larger than the field on every side.

    Parameters
    ----------
    projections
        One square image a particle; its origin lies at b // 2 plus the centre's fraction.
    centres
        (y, x) in pixels of the field.
    shape
        Field (y, x) in pixels.

    Returns
    -------
    Sum, of the projections' dtype and device; parts outside the canvas are cut. Particles are
    added in their order.
    """
    _matching(projections, centres)
    size = (shape[0] + 2 * margin, shape[1] + 2 * margin)
    canvas = torch.zeros(size, dtype=projections.dtype, device=projections.device)
    _add(canvas, projections, corners(centres, projections.shape[-1]) + margin)
    return canvas


def _matching(projections: Float[Tensor, "n b b"], centres: Float[Tensor, "n 2"]) -> None:
    if projections.shape[0] != centres.shape[0]:
        raise SettingsError(f"{projections.shape[0]} projections for {centres.shape[0]} centres; give one each")


def _add(canvas: Tensor, images: Tensor, first: Tensor) -> None:
    """Add images to a canvas that this module has just made."""
    if canvas.device.type == "cpu":
        _add_kernel(canvas.numpy(), images.detach().contiguous().numpy(), first.cpu().numpy())
        return
    box = images.shape[-1]
    for image, (y, x) in zip(images, first.tolist(), strict=True):
        y0, x0, y1, x1 = max(y, 0), max(x, 0), min(y + box, canvas.shape[0]), min(x + box, canvas.shape[1])
        if y0 < y1 and x0 < x1:
            canvas[y0:y1, x0:x1] += image[y0 - y : y1 - y, x0 - x : x1 - x]


@numba.njit(cache=True, nogil=True)
def _add_kernel(canvas, images, first):  # type: ignore[no-untyped-def]
    box = images.shape[1]
    for index in range(images.shape[0]):
        y, x = first[index]
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
    """Apply to each particle its own CTF in a padded box, then sum: s of the whole field.

    Parameters
    ----------
    optics
        One microscope state a particle (``optics.at_height``).
    pixel_size
        Å per pixel.

    Returns
    -------
    CTF ⊗ projections on the field itself, without margin.
    """
    _matching(projections, centres)
    if len(optics) != projections.shape[0]:
        raise SettingsError(f"{len(optics)} microscope states for {projections.shape[0]} projections; give one each")
    field = torch.zeros(shape, dtype=projections.dtype, device=projections.device)
    for images, first in _defocused_chunks(projections, optics, centres, pixel_size):
        _add(field, images, first)
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
    first = corners(centres, box) - before
    for start in range(0, len(optics), CHUNK):
        part = slice(start, start + CHUNK)
        images = torch.nn.functional.pad(projections[part], (before, after, before, after))
        transfer = torch.stack([ctf(padded, pixel_size, state, projections.device) for state in optics[part]])
        yield filtered(images, transfer), first[part]


def plane_heights(
    centres: Float[Tensor, "n 2"], shape: tuple[int, int], pixel_size: float, tilt_degrees: float, axis_degrees: float
) -> Float[Tensor, "n"]:
    """Heights in Å of centres on a plane tilted about an axis through the middle of the field.

    ``axis_degrees`` is the direction of the tilt axis, from x towards y. Seen along the axis, the
    side to its left is raised towards the electron source.
    """
    if not -90 < tilt_degrees < 90:
        raise SettingsError(f"tilt of the ice is {tilt_degrees}°; give an angle between -90 and 90")
    middle = torch.tensor([(shape[0] - 1) / 2, (shape[1] - 1) / 2], dtype=centres.dtype, device=centres.device)
    angle = torch.deg2rad(torch.tensor(axis_degrees, dtype=torch.float64))
    tilt = torch.deg2rad(torch.tensor(tilt_degrees, dtype=torch.float64))
    y, x = (centres - middle).unbind(-1)
    return (y * float(torch.cos(angle)) - x * float(torch.sin(angle))) * (pixel_size * float(torch.tan(tilt)))


def supports(
    projections: Float[Tensor, "n b b"], threshold: float = 0.1, soft: bool = False
) -> Float[Tensor, "n b b"] | Bool[Tensor, "n b b"]:
    """Where each projection exceeds a fraction of its own typical peak.

    The peak is 4/3 of the projection's mean weighted by itself: exactly the maximum for a uniform
    sphere, independent of the box and little moved by a single hot pixel.

    Parameters
    ----------
    threshold
        Fraction of the peak. At 0.1 a sphere loses 1 % of its area.
    soft
        Values from 0 to 1, smooth, 0.5 at the border of the hard mask.
    """
    _checked(threshold)
    positive = projections.clamp(min=0)
    peaks = support_peaks(projections)
    level = (threshold * peaks).to(projections.dtype)
    if not soft:
        return (projections > level) & (peaks > 0)
    ratio = (positive / (2 * level).clamp(min=torch.finfo(projections.dtype).tiny)).clamp(max=1)
    return ratio * ratio * (3 - 2 * ratio)


def support_peaks(projections: Float[Tensor, "n b b"]) -> Float[Tensor, "n 1 1"]:
    """The typical peak of each projection, float64; see ``supports``."""
    positive = projections.clamp(min=0)
    total = positive.sum(dim=(-2, -1), keepdim=True, dtype=torch.float64)
    squares = (positive * positive).sum(dim=(-2, -1), keepdim=True, dtype=torch.float64)
    return 4 / 3 * squares / total.clamp(min=torch.finfo(torch.float64).tiny)


def _checked(threshold: float) -> None:
    if not 0 < threshold < 1:
        raise SettingsError(f"threshold of the mask is {threshold}; give a fraction between 0 and 1")


def field_mask(
    projections: Float[Tensor, "n b b"],
    centres: Float[Tensor, "n 2"],
    shape: tuple[int, int],
    threshold: float = 0.1,
    soft: bool = False,
) -> Float[Tensor, "y x"] | Bool[Tensor, "y x"]:
    """Where the particles are: the union of the supports of all projections.

    Returns
    -------
    Mask of the field; bool, or float32 from 0 to 1 when soft.
    """
    _matching(projections, centres)
    box = projections.shape[-1]
    mask = torch.zeros(shape, dtype=torch.float32 if soft else torch.bool, device=projections.device)
    if mask.device.type == "cpu" and projections.dtype == torch.float32:
        _checked(threshold)
        first = corners(centres, box).numpy()
        _mask_kernel(mask.numpy(), projections.detach().contiguous().numpy(), first, threshold, soft)
        return mask
    for support, (y, x) in zip(supports(projections, threshold, soft), corners(centres, box).tolist(), strict=True):
        y0, x0, y1, x1 = max(y, 0), max(x, 0), min(y + box, shape[0]), min(x + box, shape[1])
        if y0 < y1 and x0 < x1:
            there = mask[y0:y1, x0:x1]
            torch.maximum(there, support[y0 - y : y1 - y, x0 - x : x1 - x].to(mask.dtype), out=there)
    return mask


@numba.njit(cache=True, nogil=True)
def _mask_kernel(mask, images, first, threshold, soft):  # type: ignore[no-untyped-def]
    """The union of the ``supports`` of float32 images, without making them one by one."""
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
        y, x = first[index]
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
