# SPDX-License-Identifier: GPL-3.0-or-later
"""Particle boxes as arrays: position, cutting, and normalisation for refinement programs."""
import numpy as np
from numpy.typing import NDArray

__all__ = ["box_corners", "boxes_inside", "cut_boxes", "normalised_particles"]


def box_corners(coordinates: NDArray[np.float64], box: int) -> NDArray[np.int64]:
    """Return the first pixel (x, y) of each box.

    Parameters
    ----------
    coordinates
        Particle coordinates (n, 2) as (x, y) in pixels. They are rounded down, as RELION does.
    box
        Box size in pixels.
    """
    return np.floor(coordinates).astype(np.int64) - box // 2


def boxes_inside(corners: NDArray[np.int64], box: int, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which boxes (n,) lie entirely inside an image.

    Parameters
    ----------
    corners
        First pixel (x, y) of each box, (n, 2).
    box
        Box size in pixels.
    shape
        Image size (y, x) in pixels.
    """
    whole: NDArray[np.bool_] = ((corners >= 0) & (corners + box <= np.array(shape[::-1]))).all(axis=1)
    return whole


def cut_boxes(image: NDArray[np.float32], corners: NDArray[np.int64], box: int) -> NDArray[np.float32]:
    """Return the boxes (n, box, box) of an image; the values are not changed.

    Parameters
    ----------
    image
        Micrograph (y, x).
    corners
        First pixel (x, y) of each box, (n, 2). All boxes lie inside the image.
    box
        Box size in pixels.
    """
    boxes = np.empty((len(corners), box, box), np.float32)
    for number, (x, y) in enumerate(corners):
        boxes[number] = image[y:y + box, x:x + box]
    return boxes


def normalised_particles(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return particles normalised as RELION does: protein bright, background with mean 0 and standard deviation 1.

    The background is the part of the box outside the inscribed circle.

    Parameters
    ----------
    boxes
        Boxes (n, box, box) with dark protein.
    """
    # numpy and not torch: in torch the order of a sum, and so its last bit, may depend on the number of threads.
    box = boxes.shape[-1]
    axis = np.arange(box) - box // 2
    background = boxes[:, axis[:, None] ** 2 + axis**2 > (box // 2) ** 2]
    mean = background.mean(1, dtype=np.float64)[:, None, None]
    deviation = np.maximum(background.std(1, dtype=np.float64, ddof=1), 1e-12)[:, None, None]
    normal: NDArray[np.float32] = ((mean - boxes) / deviation).astype(np.float32)
    return normal
