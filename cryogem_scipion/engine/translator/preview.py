# SPDX-License-Identifier: GPL-3.0-or-later
"""Preview images of a training."""
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["PREVIEWS", "write_preview"]

PREVIEWS = "previews"
"""Folder of the preview images."""


def write_preview(path: Path, *columns: Float[Tensor, "b y x"]) -> None:
    """Write a PNG of crops side by side, in the grey scale of the last column.

    Parameters
    ----------
    columns
        Batches of crops of the same size. Each batch is a column of the picture, each crop a row.
    """
    from PIL import Image
    last = columns[-1]
    low, high = torch.quantile(last.flatten()[::max(1, last.numel() // 100_000)], torch.tensor([0.005, 0.995])).tolist()
    separator = torch.full((*last.shape[:2], 4), high)
    rows = torch.cat([image for column in columns for image in (separator, column)][1:], 2).flatten(0, 1)
    grey = ((rows - low) / max(high - low, 1e-6)).clamp(0, 1) * 255
    temporary = path.with_name(f".{path.name}")
    Image.fromarray(grey.numpy().astype(np.uint8)).save(temporary, format="PNG")
    temporary.replace(path)
