"""Activation checkpointing: blocks keep their inputs alone and are computed again on the way back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from stylegan_lightning.networks.baselines import ResidualBlock
from stylegan_lightning.networks.progressive import ProGANBlock, ProgressiveDiscriminatorBlock, StyleGAN1Block
from stylegan_lightning.networks.stylegan2 import DiscriminatorBlock, SynthesisBlock
from stylegan_lightning.networks.stylegan3 import AliasFreeLayer

_BLOCKS = (
    AliasFreeLayer,
    DiscriminatorBlock,
    ProGANBlock,
    ProgressiveDiscriminatorBlock,
    ResidualBlock,
    StyleGAN1Block,
    SynthesisBlock,
)


def recomputable_blocks(net: nn.Module) -> list[nn.Module]:
    """The parts of `net` that may be computed twice: those without batch normalisation, which counts each time."""
    blocks = [m for m in net.modules() if isinstance(m, _BLOCKS)]
    return [b for b in blocks if not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in b.modules())]


def set_activation_checkpointing(net: nn.Module, on: bool) -> int:
    """Has the blocks of `net` recomputed (`on`) or not; returns how many there are. Names of states do not change.

    Derivatives of every order are those without it: random numbers are drawn again alike. In gradients of
    gradients (R1, path length) what the first backward pass computes is kept as without it.
    """
    blocks = recomputable_blocks(net)
    for block in blocks:
        block.__dict__.pop("forward", None)
        if on:
            block.forward = partial(_recomputed, block, block.forward)  # type: ignore[method-assign]
    return len(blocks)


def _recomputed(block: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not (block.training and torch.is_grad_enabled()):
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=True, **kwargs)
