# SPDX-License-Identifier: GPL-3.0-or-later
"""Several processes that train one model together: each takes a part of every batch, and all take the same step.

They are started by torch's own launcher (torchrun), one for each GPU, or on processors. Every process begins with the
same weights and steps by the same gradient, the mean of all, so their networks never differ.
"""
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn

__all__ = ["ALONE", "ProcessGroup", "joined"]


@dataclass(frozen=True)
class ProcessGroup:
    """The place of this process among those that train together."""

    rank: int = 0
    count: int = 1

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def numbers(self, batch: int) -> range:
        """Numbers, within a step's pieces, of the ``batch`` pieces that this process takes."""
        return range(self.rank * batch, (self.rank + 1) * batch)

    def total(self, value: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The sum of a number over all processes.

        Its gradient is such that the mean of all processes' gradients is that of the sum.
        """
        if self.count == 1:
            return value
        everywhere = value.detach().clone()
        distributed.all_reduce(everywhere)
        own = self.count * value
        return own - own.detach() + everywhere

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by the mean over all processes."""
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        parts = torch.split(flat / self.count, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Numbers by name, the mean over all processes."""
        if self.count > 1:
            together = torch.stack([value.detach() for value in values.values()])
            distributed.all_reduce(together)
            values = dict(zip(values, together / self.count, strict=True))
        return {name: value.item() for name, value in values.items()}

    def wait(self) -> None:
        """Go on when all processes have come here."""
        if self.count > 1:
            distributed.barrier()


ALONE = ProcessGroup()


def joined(device: torch.device) -> tuple[ProcessGroup, torch.device]:
    """Join the processes that torch's launcher started, if it started this one.

    Returns
    -------
    This process's place, and its device: on GPUs each has its own.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return ALONE, device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return ProcessGroup(distributed.get_rank(), count), device
