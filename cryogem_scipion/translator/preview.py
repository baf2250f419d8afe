# SPDX-License-Identifier: GPL-3.0-or-later
"""A picture of what the training has come to."""
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["write_preview"]


def write_preview(path: Path, physical: Float[Tensor, "b y x"], made: Float[Tensor, "b y x"],
                  real: Float[Tensor, "b y x"]) -> None:
    """Write a PNG: one row a piece; physical, generated and real side by side, in the same grey scale."""
    from PIL import Image
    low, high = torch.quantile(real.flatten()[::max(1, real.numel() // 100_000)], torch.tensor([0.005, 0.995])).tolist()
    bar = torch.full((*real.shape[:2], 4), high)
    rows = torch.cat([physical, bar, made, bar, real], 2).flatten(0, 1)
    grey = ((rows - low) / max(high - low, 1e-6)).clamp(0, 1) * 255
    temporary = path.with_name(f".{path.name}")
    Image.fromarray(grey.numpy().astype(np.uint8)).save(temporary, format="PNG")
    temporary.replace(path)
