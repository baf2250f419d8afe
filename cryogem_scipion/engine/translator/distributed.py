# SPDX-License-Identifier: GPL-3.0-or-later
"""Data-parallel training of one model by several processes.

torchrun starts the processes: one for each GPU, or several on the CPU. Each process computes a part of every batch.
All processes begin with the same weights and step with the mean of their gradients, so their networks stay equal.
"""
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn

__all__ = ["SINGLE_PROCESS", "ProcessGroup", "join_process_group"]


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that train one model, and the rank of this process among them."""

    rank: int = 0
    world_size: int = 1
    """Number of processes."""

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process has rank 0: it writes the files."""
        return self.rank == 0

    def sample_indices(self, batch: int) -> range:
        """Indices that the ``batch`` samples of this process have among all samples of a step."""
        return range(self.rank * batch, (self.rank + 1) * batch)

    def sum(self, value: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Sum of a value over all processes.

        The mean of the gradients of all processes is the gradient of the sum.
        """
        if self.world_size == 1:
            return value
        total = value.detach().clone()
        distributed.all_reduce(total)
        scaled = self.world_size * value
        return scaled - scaled.detach() + total

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over all processes."""
        if self.world_size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        means = torch.split(flat / self.world_size, [gradient.numel() for gradient in gradients])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view_as(gradient))

    def broadcast(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace parameters by those of rank 0."""
        if self.world_size > 1:
            for parameter in parameters:
                distributed.broadcast(parameter.data, 0)

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Means of named values over all processes."""
        if self.world_size > 1:
            totals = torch.stack([value.detach() for value in values.values()])
            distributed.all_reduce(totals)
            values = dict(zip(values, totals / self.world_size, strict=True))
        return {name: value.item() for name, value in values.items()}

    def barrier(self) -> None:
        """Wait until all processes have called this method."""
        if self.world_size > 1:
            distributed.barrier()


SINGLE_PROCESS = ProcessGroup()


def join_process_group(device: torch.device) -> tuple[ProcessGroup, torch.device]:
    """Join the process group if torchrun started this process.

    Returns
    -------
    The process group, and the device of this process: each process has a GPU of its own.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return SINGLE_PROCESS, device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return ProcessGroup(distributed.get_rank(), world_size), device
