"""Regularisers that need gradients of gradients: R1, R2 and gradient penalties for the discriminator, path length
for the generator."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from stylegan_lightning.protocols import Critic, Draw, NoiseMode, Synthesis


def squared_gradient_norm(critic: Critic, imgs: Tensor) -> Tensor:
    """|d D(x) / d x|^2 of each sample, [N], differentiable with respect to D's parameters."""
    imgs = imgs.detach().requires_grad_(True)
    (grad,) = torch.autograd.grad(critic(imgs).sum(), imgs, create_graph=True)
    return grad.square().sum((1, 2, 3))


class CriticGradient:
    """What the penalties on the critic's gradient share: |d D(x) / d x|^2 in the units of the published weights.

    A growing run judges images of r pixels. The published TensorFlow code differentiates with respect to the
    same images enlarged to the final R pixels, where squared norms are smaller by (r / R)^2.
    `full_resolution=R` applies that factor; None keeps the norm of the image as judged.
    """

    def __init__(self, gamma: float, interval: int, full_resolution: int | None) -> None:
        self.gamma, self.interval, self.full_resolution = gamma, interval, full_resolution

    def squared_norm(self, critic: Critic, imgs: Tensor) -> Tensor:
        """[N]."""
        squared = squared_gradient_norm(critic, imgs)
        return squared if self.full_resolution is None else squared * (imgs.shape[3] / self.full_resolution) ** 2


class R1(CriticGradient):
    """gamma / 2 * E[|grad D(real)|^2] (Mescheder et al. 2018), every `interval` steps (StyleGAN2, B)."""

    needs_fakes = False

    def __init__(self, gamma: float, interval: int = 16, full_resolution: int | None = None) -> None:
        super().__init__(gamma, interval, full_resolution)

    def __call__(self, critic: Critic, reals: Tensor, fakes: Tensor | None = None) -> Tensor:
        return self.squared_norm(critic, reals).mean() * (self.gamma / 2)


class R2(CriticGradient):
    """gamma / 2 * E[|grad D(fake)|^2] (Mescheder et al. 2018), the partner of R1 in R3GAN."""

    needs_fakes = True

    def __init__(self, gamma: float, interval: int = 16, full_resolution: int | None = None) -> None:
        super().__init__(gamma, interval, full_resolution)

    def __call__(self, critic: Critic, reals: Tensor, fakes: Tensor | None = None) -> Tensor:
        return self.squared_norm(critic, _given(fakes, "R2")).mean() * (self.gamma / 2)


class GradientPenalty(CriticGradient):
    """gamma * E[(|grad D(x)| - center)^2], x uniform on the segments between reals and fakes, sample by sample.

    gamma is the usual lambda (WGAN-GP, Gulrajani et al. 2017, eq. 3). With a center above 0 the deviation is
    relative to it, (|grad| / center - 1)^2: the same at 1, and ProGAN's form for its other targets (appendix A).
    Center 0 is the zero-centred penalty of Thanh-Tung et al. 2019.
    """

    needs_fakes = True

    def __init__(
        self, gamma: float = 10.0, center: float = 1.0, interval: int = 1, full_resolution: int | None = None
    ) -> None:
        super().__init__(gamma, interval, full_resolution)
        self.center = center

    def __call__(self, critic: Critic, reals: Tensor, fakes: Tensor | None = None) -> Tensor:
        t = torch.rand(len(reals), 1, 1, 1, device=reals.device, dtype=reals.dtype)
        squared = self.squared_norm(critic, torch.lerp(reals, _given(fakes, "GradientPenalty"), t))
        if self.center == 0:
            return squared.mean() * self.gamma
        norm = squared.clamp(min=_SMALLEST).sqrt()  # the root has no derivative at 0
        return (norm / self.center - 1).square().mean() * self.gamma


_SMALLEST = 1e-24


def _given(fakes: Tensor | None, name: str) -> Tensor:
    if fakes is None:
        raise ValueError(f"{name} is taken on fakes: they must be given")
    return fakes


def path_lengths(
    synthesis: Synthesis,
    ws: Tensor,
    draw: Draw = torch.randn_like,
    noise_mode: NoiseMode = "random",
    create_graph: bool = True,
) -> Tensor:
    """|J_w^T y| of each sample, [N], y ~ N(0, 1) / sqrt(H W): the root of the squares summed over w, averaged
    over layers (StyleGAN2, eq. 4). `draw(imgs)` gives the N(0, 1) of the images' shape."""
    if not ws.requires_grad:
        ws = ws.detach().requires_grad_(True)
    imgs = synthesis(ws, noise_mode=noise_mode)
    y = draw(imgs) / math.sqrt(imgs.shape[2] * imgs.shape[3])
    (grad,) = torch.autograd.grad((imgs * y).sum(), ws, create_graph=create_graph)
    return grad.square().sum(2).mean(1).sqrt()


class PathLength(nn.Module):
    """weight * E[(|J_w^T y| - a)^2], a the running mean of the lengths (StyleGAN2, section 3.2 and B).

    `pl_mean` is a buffer, so it is saved with the weights; it moves with each call, except while `holding` the
    lengths of a whole batch of which each call sees a part. With several ranks the mean of the lengths is taken
    over all of them by the training module (`reduce_mean`).
    """

    pl_mean: Tensor

    def __init__(self, weight: float = 2.0, interval: int = 4, batch_shrink: int = 2, decay: float = 0.01) -> None:
        super().__init__()
        self.weight, self.interval, self.batch_shrink, self.decay = weight, interval, batch_shrink, decay
        self.register_buffer("pl_mean", torch.zeros(()))
        self.reduce_mean = torch.mean
        self._held = False

    def forward(self, synthesis: Synthesis, ws: Tensor, draw: Draw = torch.randn_like) -> Tensor:
        lengths = path_lengths(synthesis, ws, draw)
        if not self._held:
            self._follow(lengths.detach())
        return (lengths - self.pl_mean).square().mean() * self.weight

    def _follow(self, lengths: Tensor) -> None:
        self.pl_mean.copy_(self.pl_mean.lerp(self.reduce_mean(lengths), self.decay))

    def measure(self, synthesis: Synthesis, ws: Tensor, draw: Draw = torch.randn_like) -> Tensor:
        """Lengths [N] alone, without a graph."""
        return path_lengths(synthesis, ws, draw, create_graph=False).detach()

    @contextlib.contextmanager
    def holding(self, lengths: Tensor) -> Iterator[None]:
        """`pl_mean` moves by these lengths [N] at once and then stays."""
        self._follow(lengths)
        self._held = True
        try:
            yield
        finally:
            self._held = False
