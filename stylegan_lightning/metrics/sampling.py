"""What measurements of a generator share: their inputs, their parts on several ranks, and the state it is in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.errors import UserError

T = TypeVar("T")

LabelSampler = Callable[[int, int], Tensor]
"""(count, seed) -> c [count, c_dim]; the same arguments give the same labels."""


def label_sampler(dataset: PreparedDataset, rows: np.ndarray | None = None) -> LabelSampler:
    """Draws labels as the data set, or these images of it, have them, with replacement."""
    targets = dataset.targets if rows is None else dataset.targets[rows]

    def sample(count: int, seed: int) -> Tensor:
        rng = np.random.default_rng([seed, 1])
        return torch.from_numpy(targets[rng.integers(len(targets), size=count)])

    return sample


def draw_pairs(
    z_dim: int, c_dim: int, count: int, seed: int, c_sampler: LabelSampler | None = None
) -> tuple[Tensor, Tensor]:
    """z [count, 2, z_dim], and c [count, c_dim] for both of a pair; z of pair i depends on `seed` and i alone."""
    numbers = np.random.default_rng([seed, 2]).standard_normal((count, 2, z_dim), dtype=np.float32)
    return torch.from_numpy(numbers), draw_labels(c_dim, count, seed, c_sampler)


def draw_labels(c_dim: int, count: int, seed: int, c_sampler: LabelSampler | None = None) -> Tensor:
    """c [count, c_dim]. Raises UserError where a conditional generator gets none, or others than it takes."""
    if c_dim == 0:
        return torch.zeros(count, 0)
    if c_sampler is None:
        raise UserError(f"The generator takes labels (c_dim {c_dim}): give the metric a label sampler.")
    c = c_sampler(count, seed)
    if tuple(c.shape) != (count, c_dim):
        raise UserError(f"The generator takes labels [N, {c_dim}]; the data set gives {list(c.shape)}.")
    return c


def place() -> tuple[int, int]:
    """(rank, world size)."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def own_rows(count: int) -> Tensor:
    """Which of `count` items this rank computes: every world-size-th, from its own number on."""
    rank, ranks = place()
    return torch.arange(rank, count, ranks)


def join_ranks(values: Tensor) -> Tensor:
    """`values` [count, ...] with the rows of all ranks, where each has filled its own and left zeros in the others'.

    Collective: all ranks call it, with a tensor on the device of their process group.
    """
    if place()[1] > 1:
        torch.distributed.all_reduce(values)
    return values


def from_rank_zero(compute: Callable[[], T]) -> T:
    """What `compute` gives on rank 0, or its error, on every rank. Collective."""
    rank, ranks = place()
    if ranks == 1:
        return compute()
    sent: list[Any] = [None]
    if rank == 0:
        try:
            sent = [(compute(), None)]
        except Exception as error:
            sent = [(None, error)]
    torch.distributed.broadcast_object_list(sent)
    result, failure = sent[0]
    if failure is not None:
        raise failure
    return result


class NotFinite(ValueError):
    """A generator made NaNs or infinities."""


def fail_together(error: Exception | None, device: torch.device | str) -> None:
    """Raises on every rank when there is an error on any, so that none waits for another. Collective."""
    if place()[1] > 1:
        failed = torch.tensor([error is not None, isinstance(error, NotFinite)], dtype=torch.float32, device=device)
        torch.distributed.all_reduce(failed)
        if failed[0] and error is None:
            what = "another process of this run"
            raise NotFinite(f"{what} generated NaNs") if failed[1] else RuntimeError(f"{what} could not go on")
    if error is not None:
        raise error


@contextlib.contextmanager
def evaluating(G: nn.Module) -> Iterator[None]:
    """G in evaluation mode and without gradients; every module's own mode is put back."""
    modes = [(module, module.training) for module in G.modules()]
    G.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """No TF32: its rounding alone would limit the result to about 60 dB."""
    matmul, conv = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = conv
