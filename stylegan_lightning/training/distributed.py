"""Explicit data parallelism: one reduction of the gradients per phase, and no wrapper around the module."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn


class PhaseDDPStrategy(DDPStrategy):
    """Lightning's DDP set-up (processes, devices, rank-aware saving) without `DistributedDataParallel`.

    A GAN steps several optimizers per batch on different parts of one module, which the wrapper can only
    follow by searching the graph for unused parameters each time. `reduce_gradients` does the same in one
    all-reduce per phase.
    """

    def configure_ddp(self) -> None:
        for tensor in [*self.model.parameters(), *self.model.buffers()]:  # type: ignore[union-attr]
            dist.broadcast(tensor.data, src=0)


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def mean_over_ranks(value: Tensor) -> Tensor:
    """Mean of all elements on all ranks, a scalar."""
    value = value.mean()
    if world_size() > 1:
        dist.all_reduce(value)
        value = value / world_size()
    return value


def sum_over_ranks(values: Tensor) -> Tensor:
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def share_of_ranks(values: Tensor) -> Tensor:
    """A new tensor: the sum over the ranks, in equal parts."""
    return sum_over_ranks(values.clone()) / world_size()


def average_tensors(tensors: Iterable[Tensor]) -> None:
    """Replaces each tensor by its mean over the ranks, all in one reduction."""
    if world_size() == 1:
        return
    parts = list(tensors)
    if not parts:
        return
    flat = torch.cat([t.flatten() for t in parts])
    dist.all_reduce(flat)
    flat /= world_size()
    for tensor, mean in zip(parts, flat.split([t.numel() for t in parts]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def finish_gradients(module: nn.Module) -> None:
    """Averages the gradients over the ranks and replaces values that are not finite (0, or +-1e5 for inf)."""
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    average_tensors(grads)
    for grad in grads:
        torch.nan_to_num(grad, nan=0.0, posinf=1e5, neginf=-1e5, out=grad)
