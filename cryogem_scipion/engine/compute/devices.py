# SPDX-License-Identifier: GPL-3.0-or-later
"""The device on which torch computes."""
import torch

from cryogem_scipion.engine.errors import SettingsError

__all__ = ["chosen_device"]


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
