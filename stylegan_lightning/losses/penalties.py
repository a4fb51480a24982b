"""Regularisers that need gradients of gradients: R1 for the discriminator, path length for the generator."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stylegan_lightning.protocols import Critic, Draw, NoiseMode, Synthesis


def squared_gradient_norm(critic: Critic, imgs: Tensor) -> Tensor:
    """|d D(x) / d x|^2 of each sample, [N], differentiable with respect to D's parameters."""
    imgs = imgs.detach().requires_grad_(True)
    (grad,) = torch.autograd.grad(critic(imgs).sum(), imgs, create_graph=True)
    return grad.square().sum((1, 2, 3))


class R1:
    """gamma / 2 * E[|grad D(real)|^2] (Mescheder et al. 2018), every `interval` steps (StyleGAN2, B)."""

    needs_fakes = False

    def __init__(self, gamma: float, interval: int = 16) -> None:
        self.gamma, self.interval = gamma, interval

    def __call__(self, critic: Critic, reals: Tensor, fakes: Tensor | None = None) -> Tensor:
        return squared_gradient_norm(critic, reals).mean() * (self.gamma / 2)


def path_lengths(
    synthesis: Synthesis, ws: Tensor, draw: Draw = torch.randn_like, noise_mode: NoiseMode = "random"
) -> Tensor:
    """|J_w^T y| of each sample, [N], y ~ N(0, 1) / sqrt(H W): the root of the squares summed over w, averaged
    over layers (StyleGAN2, eq. 4). `draw(imgs)` gives the N(0, 1) of the images' shape."""
    if not ws.requires_grad:
        ws = ws.detach().requires_grad_(True)
    imgs = synthesis(ws, noise_mode=noise_mode)
    y = draw(imgs) / math.sqrt(imgs.shape[2] * imgs.shape[3])
    (grad,) = torch.autograd.grad((imgs * y).sum(), ws, create_graph=True)
    return grad.square().sum(2).mean(1).sqrt()


class PathLength(nn.Module):
    """weight * E[(|J_w^T y| - a)^2], a the running mean of the lengths (StyleGAN2, section 3.2 and B).

    `pl_mean` is a buffer, so it is saved with the weights. With several ranks the mean of the lengths is
    taken over all of them by the training module (`reduce_mean`).
    """

    pl_mean: Tensor

    def __init__(self, weight: float = 2.0, interval: int = 4, batch_shrink: int = 2, decay: float = 0.01) -> None:
        super().__init__()
        self.weight, self.interval, self.batch_shrink, self.decay = weight, interval, batch_shrink, decay
        self.register_buffer("pl_mean", torch.zeros(()))
        self.reduce_mean = torch.mean

    def forward(self, synthesis: Synthesis, ws: Tensor, draw: Draw = torch.randn_like) -> Tensor:
        lengths = path_lengths(synthesis, ws, draw)
        mean = self.pl_mean.lerp(self.reduce_mean(lengths.detach()), self.decay)
        self.pl_mean.copy_(mean)
        return (lengths - mean).square().mean() * self.weight
