# SPDX-License-Identifier: GPL-3.0-or-later
"""Particle boxes as arrays: where they lie, and how stacks are prepared for refinement programs."""
import numpy as np
from numpy.typing import NDArray

__all__ = ["corners", "cut", "inside_field", "prepared"]


def corners(coordinates: NDArray[np.float64], box: int) -> NDArray[np.int64]:
    """First pixel (x, y) of the boxes (n, 2) around coordinates (x, y), which RELION floors."""
    return np.floor(coordinates).astype(np.int64) - box // 2


def inside_field(first: NDArray[np.int64], box: int, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Whether boxes that begin at ``first`` (x, y) lie whole in a field of ``shape`` (y, x)."""
    whole: NDArray[np.bool_] = ((first >= 0) & (first + box <= np.array(shape[::-1]))).all(axis=1)
    return whole


def cut(image: NDArray[np.float32], first: NDArray[np.int64], box: int) -> NDArray[np.float32]:
    """Boxes (n, box, box) of an image that begin at ``first`` (x, y), all inside; values as they are."""
    boxes = np.empty((len(first), box, box), np.float32)
    for place, (x, y) in enumerate(first):
        boxes[place] = image[y:y + box, x:x + box]
    return boxes


def prepared(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Boxes (n, box, box) with protein dark as RELION prepares them: bright, background ring mean 0, deviation 1."""
    # numpy: the order in which torch sums, and so the last bit, may depend on the number of threads.
    box = boxes.shape[-1]
    axis = np.arange(box) - box // 2
    background = boxes[:, axis[:, None] ** 2 + axis**2 > (box // 2) ** 2]
    mean = background.mean(1, dtype=np.float64)[:, None, None]
    deviation = np.maximum(background.std(1, dtype=np.float64, ddof=1), 1e-12)[:, None, None]
    normal: NDArray[np.float32] = ((mean - boxes) / deviation).astype(np.float32)
    return normal
