"""Explicit data parallelism: one reduction of the gradients per phase, and no wrapper around the module."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch import Tensor, nn


class PhaseDDPStrategy(DDPStrategy):
    """Lightning's DDP set-up (processes, devices, rank-aware saving) without `DistributedDataParallel`.

    A GAN steps several optimizers per batch on different parts of one module, which the wrapper can only
    follow by searching the graph for unused parameters each time. `reduce_gradients` does the same in one
    all-reduce per phase.
    """

    def __init__(self, *args: Any, command: Sequence[str] | None = None, **kwargs: Any) -> None:
        """`command` starts the other ranks on this node; None repeats the command line of this process."""
        super().__init__(*args, **kwargs)
        self.command = command

    def _configure_launcher(self) -> None:
        super()._configure_launcher()
        if self.command is not None:
            assert self.cluster_environment is not None
            self._launcher = CommandLauncher(self.command, self.cluster_environment, self.num_processes, self.num_nodes)

    def configure_ddp(self) -> None:
        for tensor in [*self.model.parameters(), *self.model.buffers()]:  # type: ignore[union-attr]
            dist.broadcast(tensor.data, src=0)


class CommandLauncher(_SubprocessScriptLauncher):
    """Starts the other ranks by a given command, and does not end this process when one of them ends: it may have
    other jobs to do, and sees the loss at the next reduction."""

    def __init__(self, command: Sequence[str], *args: Any) -> None:
        super().__init__(*args)
        self.command = list(command)

    def launch(self, function: Callable, *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
        try:
            result = function(*args, **kwargs)
        except BaseException:
            for process in self.procs:
                process.kill()
            raise
        for process in self.procs:
            _end(process)
        return result

    def _call_children_scripts(self) -> None:
        self._check_can_spawn_children()
        here = self.cluster_environment
        os.environ |= {
            "MASTER_ADDR": here.main_address,
            "MASTER_PORT": str(here.main_port),
            "NODE_RANK": str(here.node_rank()),
            "LOCAL_RANK": str(here.local_rank()),
            "WORLD_SIZE": str(self.num_processes * self.num_nodes),
        }
        self.procs = [
            subprocess.Popen(self.command, env={**os.environ, "LOCAL_RANK": str(rank)})
            for rank in range(1, self.num_processes)
        ]


def _end(process: subprocess.Popen, patience: float = 60) -> None:
    """Waits for a rank that has nothing left to do, or ends it."""
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


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
