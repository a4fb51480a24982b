"""A training step is a list of phases. Each objective draws its own latents from a seeded stream."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from stylegan_lightning.networks import Generator, track_running_stats
from stylegan_lightning.ops import blur2d
from stylegan_lightning.protocols import (
    AdversarialLoss,
    CriticPenalty,
    Discriminator,
    GeneratorPenalty,
    Phase,
    Survey,
)

G_OPT, D_OPT = 0, 1
Objective = Callable[[Tensor, Tensor, Tensor], Tensor]
Augment = Callable[[Tensor, "LatentStream"], Tensor]
Share = tuple[Tensor, Tensor, Tensor]


def parts_of(n: int, batch_per_device: int | None) -> int:
    """In how many parts a device processes its n images: of `batch_per_device` each, None for all at once."""
    return max(n // (batch_per_device or n), 1)


@dataclass
class LatentStream:
    """Random numbers for one whole batch, of which each share takes its rows.

    A batch is shared among ranks, and on each among parts that are processed one after the other. Drawing for
    the whole batch everywhere makes what is drawn independent of their number.
    """

    generator: torch.Generator
    rank: int = 0
    world_size: int = 1
    part: int = 0
    parts: int = 1

    shares = property(lambda self: self.world_size * self.parts)
    share = property(lambda self: self.rank + self.world_size * self.part)

    def normal(self, n: int, *shape: int) -> Tensor:
        """[n, *shape], standard normal, this share's part of n samples for each share."""
        x = torch.randn(n * self.shares, *shape, device=self.generator.device, generator=self.generator)
        return x[self.share :: self.shares]

    def uniform(self, n: int, *shape: int) -> Tensor:
        """The same, uniform in [0, 1)."""
        x = torch.rand(n * self.shares, *shape, device=self.generator.device, generator=self.generator)
        return x[self.share :: self.shares]

    def normal_like(self, x: Tensor) -> Tensor:
        return self.normal(*x.shape).to(x.dtype)

    def crossover(self, num_ws: int, prob: float) -> Tensor:
        """First of the layers in use that takes the second style: uniform in 1 .. num_ws-1, or num_ws with 1 - prob.

        Layers beyond those in use take it too, which changes nothing.
        """
        device = self.generator.device
        cut = torch.randint(1, num_ws, (), device=device, generator=self.generator)
        mixed = torch.rand((), device=device, generator=self.generator) < prob
        return torch.where(mixed, cut, num_ws)


@dataclass
class Objectives:
    """The objectives of one GAN, bound to its networks. `record(name, tensor)` receives what is logged."""

    G: Generator
    D: Discriminator
    loss: AdversarialLoss
    style_mixing_prob: float = 0.0
    blur_sigma: float = 0.0
    stream: LatentStream = field(default_factory=lambda: LatentStream(torch.Generator()))
    augment: Augment | None = None
    observe: Callable[[Tensor], None] = lambda real_logits: None
    record: Callable[[str, Tensor], None] = lambda name, value: None

    def styles(self, n: int, c: Tensor) -> Tensor:
        """ws [n, num_ws, w_dim], with style mixing (StyleGAN, section 3.1)."""
        z = self.stream.normal(n, self.G.z_dim)
        ws = self.G.mapping(z, c)
        if self.style_mixing_prob > 0:
            cut = self.stream.crossover(self.G.active_ws, self.style_mixing_prob)
            other = self._second_styles(n, c)
            layer = torch.arange(ws.shape[1], device=ws.device)[None, :, None]
            ws = torch.where(layer < cut, ws, other)
        return ws

    def _second_styles(self, n: int, c: Tensor) -> Tensor:
        """Styles of other latents; only the first ones count for the running average of w."""
        mapping = self.G.mapping
        tracking, mapping.track_running_stats = mapping.track_running_stats, False
        try:
            return mapping(self.stream.normal(n, self.G.z_dim), c)
        finally:
            mapping.track_running_stats = tracking

    def judge(self, imgs: Tensor, c: Tensor) -> Tensor:
        """D's logits of images as it sees them at this moment of the run: blurred, then augmented."""
        seen = blur2d(imgs, self.blur_sigma)
        if self.augment is not None:
            seen = self.augment(seen, self.stream)
        return self.D(seen, c).to(imgs.dtype)

    def generator(self, reals: Tensor, c: Tensor, fake_c: Tensor) -> Tensor:
        logits = self.judge(self.G.synthesis(self.styles(len(reals), fake_c)), fake_c)
        real_logits = self.judge(reals, c) if self.loss.needs_reals else None
        loss = self.loss.generator(logits, real_logits)
        self.record("loss/G", loss)
        return loss

    def fakes(self, n: int, fake_c: Tensor) -> Tensor:
        """Images that carry no gradient to the generator."""
        with torch.no_grad():
            return self.G.synthesis(self.styles(n, fake_c)).float()

    def discriminator(
        self, reals: Tensor, c: Tensor, fake_c: Tensor, penalties: Mapping[str, CriticPenalty] | None = None
    ) -> Tensor:
        """The main objective, and the penalties of every step on the same images."""
        with track_running_stats(self.G):
            fakes = self.fakes(len(reals), fake_c)
        fake_logits, real_logits = self.judge(fakes, fake_c), self.judge(reals, c)
        loss = self.loss.discriminator(real_logits, fake_logits)
        self.record("loss/D", loss)
        self.record("logits/real", real_logits)
        self.record("logits/fake", fake_logits)
        self.observe(real_logits.detach())
        for name, penalty in (penalties or {}).items():
            loss = loss + self._penalty(name, penalty, reals, c, fakes, fake_c)
        return loss

    def _penalty(
        self, name: str, penalty: CriticPenalty, reals: Tensor, c: Tensor, fakes: Tensor | None, fake_c: Tensor
    ) -> Tensor:
        labels = fake_c if penalty.needs_fakes else c
        value = penalty(lambda imgs: self.judge(imgs, labels), reals, fakes)
        self.record(f"penalty/{name}", value)
        return value

    def critic_penalty(self, name: str, penalty: CriticPenalty, reals: Tensor, c: Tensor, fake_c: Tensor) -> Tensor:
        fakes = self.fakes(len(reals), fake_c) if penalty.needs_fakes else None
        return self._penalty(name, penalty, reals, c, fakes, fake_c) * penalty.interval

    def generator_penalty(self, name: str, penalty: GeneratorPenalty, c: Tensor) -> Tensor:
        value = penalty(self.G.synthesis, self._penalty_styles(penalty, c), self.stream.normal_like)
        self.record(f"penalty/{name}", value)
        return value * penalty.interval

    def survey(self, penalty: GeneratorPenalty, shares: Sequence[Share], enter: Callable[[int], None]) -> Survey:
        """What `penalty` needs to know of the whole batch before its shares are processed one by one."""
        values = []
        for i, (_, _, fake_c) in enumerate(shares):
            enter(i)
            styles = self._penalty_styles(penalty, fake_c)
            values.append(penalty.measure(self.G.synthesis, styles, self.stream.normal_like))
        return penalty.holding(torch.cat(values))

    def _penalty_styles(self, penalty: GeneratorPenalty, c: Tensor) -> Tensor:
        n = max(len(c) // penalty.batch_shrink, 1)
        return self.styles(n, c[:n])


def build_phases(
    objectives: Objectives,
    g_penalties: Mapping[str, GeneratorPenalty],
    d_penalties: Mapping[str, CriticPenalty],
    g_interval: int = 1,
) -> list[Phase]:
    """G, its penalties, D, its penalties: the published order. Objectives get (reals, c, fake_c).

    A penalty of interval 1 is part of the main objective: one optimizer step, as in the papers without
    lazy regularisation. G is trained every `g_interval` batches, D in each (WGAN's n_critic).
    """

    def g_term(name: str, penalty: GeneratorPenalty) -> Objective:
        return lambda reals, c, fake_c: objectives.generator_penalty(name, penalty, fake_c)

    def d_term(name: str, penalty: CriticPenalty) -> Objective:
        return lambda reals, c, fake_c: objectives.critic_penalty(name, penalty, reals, c, fake_c)

    g_every = [g_term(name, p) for name, p in g_penalties.items() if p.interval == 1]
    d_every = {name: p for name, p in d_penalties.items() if p.interval == 1}

    def g_main(reals: Tensor, c: Tensor, fake_c: Tensor) -> Tensor:
        return sum((term(reals, c, fake_c) for term in g_every), objectives.generator(reals, c, fake_c))

    def d_main(reals: Tensor, c: Tensor, fake_c: Tensor) -> Tensor:
        return objectives.discriminator(reals, c, fake_c, d_every)

    def g_lazy(name: str, penalty: GeneratorPenalty) -> Phase:
        survey = partial(objectives.survey, penalty)
        return Phase(f"G/{name}", G_OPT, penalty.interval, g_term(name, penalty), survey)

    return [
        Phase("G", G_OPT, g_interval, g_main),
        *(g_lazy(name, p) for name, p in g_penalties.items() if p.interval > 1),
        Phase("D", D_OPT, 1, d_main),
        *(Phase(f"D/{n}", D_OPT, p.interval, d_term(n, p)) for n, p in d_penalties.items() if p.interval > 1),
    ]


def lazy_adam_settings(betas: tuple[float, float], intervals: Sequence[int]) -> tuple[float, tuple[float, float]]:
    """Factor on the learning rate, and betas, for an optimizer that lazy phases also step.

    With one extra step every k, r = k / (k + 1): lr * r and betas ** r keep the effective memory and step
    per batch (StyleGAN2, B). Several lazy penalties multiply to r = 1 / (1 + sum 1/k).
    """
    ratio = 1 / (1 + math.fsum(1 / k for k in intervals if k > 1))
    return ratio, (betas[0] ** ratio, betas[1] ** ratio)
