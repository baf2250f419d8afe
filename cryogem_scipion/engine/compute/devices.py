# SPDX-License-Identifier: GPL-3.0-or-later
"""Where torch computes."""
import torch

from cryogem_scipion.engine.errors import SettingsError

__all__ = ["chosen_device"]


def chosen_device(name: str) -> torch.device:
    """Return the device of the setting ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    From then on float32 is exact on GPUs as well: by itself torch rounds what it convolves to 10 bits there (TF32).

    Raises
    ------
    SettingsError
        A GPU is asked for that is not there.
    """
    torch.backends.cudnn.allow_tf32 = False
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = int(name.partition(":")[2] or 0)
        if index >= count:
            raise SettingsError(f"device {name} is not there (torch sees {count} GPUs); use device cpu or auto")
    return torch.device(name)
