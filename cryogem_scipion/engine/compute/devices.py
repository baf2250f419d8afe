# SPDX-License-Identifier: GPL-3.0-or-later
"""The device on which torch computes, and the number format in which its networks compute."""
import torch

from cryogem_scipion.engine.compute.processor import read_processor
from cryogem_scipion.engine.errors import SettingsError

__all__ = ["chosen_device", "chosen_precision"]

BF16_MATRICES = "amx_bf16"
"""Instruction set of CPUs that multiply bf16 matrices. Without it, bf16 is slower than float32 on a CPU."""


def chosen_device(name: str) -> torch.device:
    """Return the device of the setting ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    The call also sets float32 convolutions on GPUs to full precision. Without it, torch rounds their inputs to a
    mantissa of 10 bits (TF32).

    Raises
    ------
    SettingsError
        The device names a GPU that this machine does not have.
    """
    torch.backends.cudnn.allow_tf32 = False
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = int(name.partition(":")[2] or 0)
        if index >= count:
            raise SettingsError(f"device {name} does not exist (torch finds {count} GPUs); use device cpu or auto")
    return torch.device(name)


def chosen_precision(name: str, device: torch.device) -> str:
    """Return the precision of the setting ``auto``, ``float32``, ``bf16`` or ``float64``.

    ``auto`` is bf16 where the device has matrix instructions for it, and float32 elsewhere.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float32"
    return "bf16" if BF16_MATRICES in read_processor().instructions else "float32"
