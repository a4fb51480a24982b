"""What measurements of a generator share: their inputs, their parts on several ranks, and the state it is in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from stylegan_lightning.errors import UserError

LabelSampler = Callable[[int, int], Tensor]
"""(count, seed) -> c [count, c_dim]; the same arguments give the same labels."""


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


def own_rows(count: int) -> Tensor:
    """Which of `count` items this rank computes: every world-size-th, from its own number on."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.arange(torch.distributed.get_rank(), count, torch.distributed.get_world_size())
    return torch.arange(count)


def join_ranks(values: Tensor) -> Tensor:
    """`values` [count, ...] with the rows of all ranks, where each has filled its own and left zeros in the others'.

    Collective: all ranks call it, with a tensor on the device of their process group.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(values)
    return values


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
