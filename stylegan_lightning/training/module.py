"""The LightningModule: generator, discriminator, EMA generator, and the list of phases that trains them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from stylegan_lightning.data.sampler import Batch
from stylegan_lightning.imaging import fade_reals, to_dynamic_range
from stylegan_lightning.networks import Generator, Growing, StyleGAN3Synthesis
from stylegan_lightning.protocols import (
    AdversarialLoss,
    CriticPenalty,
    Discriminator,
    GeneratorPenalty,
    StrengthControl,
)
from stylegan_lightning.schedule import Schedule, Stage, ends_tick
from stylegan_lightning.training.distributed import average_tensors, finish_gradients, mean_over_ranks, share_of_ranks
from stylegan_lightning.training.ema import ema_beta, update_ema
from stylegan_lightning.training.freeze import trainable_parameters
from stylegan_lightning.training.phases import (
    LatentStream,
    Objectives,
    Share,
    build_phases,
    lazy_adam_settings,
    parts_of,
)
from stylegan_lightning.training.stats import RunningMeans

_STEP_STREAM, _NOISE_STREAM = 2, 3
_SUMS = ("strength.signs",)
"""Buffers that each rank adds up by itself."""
_RUNNING_STATS = ("w_avg", "magnitude_ema", "running_mean", "running_var")


@dataclass(frozen=True)
class EMASettings:
    kimg: float = 10.0
    rampup: float | None = 0.05


@dataclass(frozen=True)
class AdamSettings:
    """Learning rates come from the schedule; both are corrected for lazy phases."""

    betas: tuple[float, float] = (0.0, 0.99)
    eps: float = 1e-8


class GAN(L.LightningModule):
    """Trains G and D by manual optimization; `G_ema` is what is sampled, measured and exported.

    Everything that a step draws is seeded by (seed, rank, nimg), so a resumed run repeats exactly.
    `config` (plain containers) goes into every checkpoint and is enough to rebuild the networks.
    """

    def __init__(
        self,
        G: Generator,
        D: nn.Module,
        *,
        loss: AdversarialLoss,
        g_penalties: Mapping[str, GeneratorPenalty],
        d_penalties: Mapping[str, CriticPenalty],
        schedule: Schedule,
        style_mixing_prob: float = 0.9,
        g_interval: int = 1,
        ema: EMASettings = EMASettings(),
        g_adam: AdamSettings = AdamSettings(),
        d_adam: AdamSettings = AdamSettings(),
        augment: nn.Module | None = None,
        strength: StrengthControl | None = None,
        batch_per_device: int | None = None,
        seed: int = 0,
        config: dict[str, Any] | None = None,
        freeze_d: int = 0,
        freeze_mapping: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.G, self.D = G, D
        self.G_ema = copy.deepcopy(G).eval().requires_grad_(False)
        self.trainable = trainable_parameters(G, cast(Discriminator, D), freeze_d, freeze_mapping)
        self.penalties = nn.ModuleDict({k: p for k, p in g_penalties.items() if isinstance(p, nn.Module)})
        self.schedule, self.ema, self.adam, self.seed = schedule, ema, (g_adam, d_adam), seed
        self.config = config or {}
        self.augment, self.strength, self.batch_per_device = augment, strength, batch_per_device
        self.nimg = 0
        self.batches = 0
        self.rewinds = 0
        self.tick_done = False
        self.running = ""  # name of the phase
        self.means = RunningMeans()
        self.report: dict[str, float] = {}
        self.objectives = Objectives(
            G, cast(Discriminator, D), loss, style_mixing_prob, augment=augment, record=self.means.add_mean
        )
        if strength is not None:
            self.objectives.observe = strength.observe
            self._p().fill_(strength.start)
        self.phases = build_phases(self.objectives, g_penalties, d_penalties, g_interval)
        for penalty in g_penalties.values():
            if hasattr(penalty, "reduce_mean"):
                penalty.reduce_mean = mean_over_ranks

    def intervals(self, optimizer: int) -> list[int]:
        """Of the lazy penalties that `optimizer` also steps."""
        return [p.interval for p in self.phases if p.optimizer == optimizer and p.is_lazy]

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        optimizers: list[torch.optim.Optimizer] = []
        for index, net in enumerate((self.G, self.D)):
            settings = self.adam[index]
            _, betas = lazy_adam_settings(settings.betas, self.intervals(index))
            fused = next(net.parameters()).device.type in ("cpu", "cuda")
            adam = torch.optim.Adam(net.parameters(), lr=1e-3, betas=betas, eps=settings.eps, fused=fused)
            optimizers.append(adam)
        return optimizers

    def on_fit_start(self) -> None:
        self.objectives.stream = LatentStream(
            torch.Generator(self.device), self.trainer.global_rank, self.trainer.world_size
        )
        if isinstance(self.G.synthesis, StyleGAN3Synthesis):  # half-lives count the images of the whole batch
            share = self.schedule.at(self.nimg).batch_size // self.trainer.world_size
            parts = parts_of(share, self.batch_per_device)
            self.G.synthesis.world_size = self.trainer.world_size * parts
        if self.nimg == 0:  # a resumed run has its growth from the checkpoint
            self.enter(self.schedule.at(0))

    def on_train_start(self) -> None:
        if self.nimg >= self.schedule.total_nimg:  # nothing left: an empty loader would be asked again forever
            self.trainer.should_stop = True

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        img, c, fake_c = batch
        stage = self.schedule.at(self.nimg)
        self.enter(stage)
        reals = fade_reals(to_dynamic_range(img), stage.alpha)
        for index, phase in enumerate(self.phases):
            if self.batches % phase.interval == 0:
                self._run(index, stage.g_lr if phase.optimizer == 0 else stage.d_lr, (reals, c, fake_c))
        average_tensors(self._running_stats())
        beta = ema_beta(stage.batch_size, self.nimg, self.ema.kimg, self.ema.rampup)
        update_ema(self.G_ema, self.G, beta)
        before, self.nimg = self.nimg, self.nimg + stage.batch_size
        self.batches += 1
        if self.strength is not None:
            self.strength.step(self._p(), self.batches, self.nimg, stage.batch_size)
        self.tick_done = ends_tick(self.schedule, before, self.nimg)

    def enter(self, stage: Stage) -> None:
        """Brings blur and growing networks to `stage`. Where a structure changes the Adam moments begin anew.

        Blocks that appear are equal in G and G_ema where both start from the same weights.
        """
        self.objectives.blur_sigma = stage.blur_sigma
        nets = (self.G.synthesis, self.G_ema.synthesis, self.D)
        grown = [net.grow_to(stage.resolution, stage.alpha) for net in nets if isinstance(net, Growing)]
        if any(grown) and self.batches > 0:
            for optimizer in self.trainer.optimizers:
                optimizer.state.clear()

    def _p(self) -> Tensor:
        return cast(Tensor, self.augment.p)  # type: ignore[union-attr]

    def _running_stats(self) -> list[Tensor]:
        return [b for name, b in self.G.named_buffers() if name.endswith(_RUNNING_STATS)]

    def _run(self, index: int, lr: float, batch: Share) -> None:
        """One optimizer step. A batch in parts gives the gradients of the whole batch: see `LatentStream`."""
        phase, nets = self.phases[index], (self.G, self.D)
        self.running = phase.name
        self.require_gradients(phase.optimizer)
        optimizer = self.trainer.optimizers[phase.optimizer]
        ratio, _ = lazy_adam_settings((0.0, 0.0), self.intervals(phase.optimizer))
        for group in optimizer.param_groups:
            group["lr"] = lr * ratio
        optimizer.zero_grad(set_to_none=True)
        parts = parts_of(len(batch[0]), self.batch_per_device)
        shares = [cast(Share, tuple(t[i::parts] for t in batch)) for i in range(parts)]
        enter = partial(self._seed, index, parts)
        survey = phase.survey(shares, enter) if parts > 1 and phase.survey is not None else nullcontext()
        with survey:
            for i in in_parts(self._running_stats(), parts):
                enter(i)
                self.manual_backward(phase.objective(*shares[i]) / parts)
        finish_gradients(nets[phase.optimizer])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.running = ""

    def require_gradients(self, optimizer: int) -> None:
        """Of the parameters that `optimizer` trains, and of no others."""
        for net in (self.G, self.D):
            net.requires_grad_(False)
        for parameter in self.trainable[optimizer]:
            parameter.requires_grad_(True)

    def _seed(self, phase: int, parts: int, part: int) -> None:
        """Latents from a stream common to all shares of a batch; noise, which has no fixed shape, from one of each."""
        stream, words = self.objectives.stream, (self.seed, self.nimg, phase, self.rewinds)
        stream.part, stream.parts = part, parts
        stream.generator.manual_seed(_seed_of(_STEP_STREAM, *words))
        torch.manual_seed(_seed_of(_NOISE_STREAM, *words, stream.share))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.nimg >= self.schedule.total_nimg:
            self.trainer.should_stop = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Progress is `nimg` alone: Lightning's loop counters, which count optimizer steps, are not kept."""
        checkpoint["loops"] = None
        checkpoint["config"] = self.config
        checkpoint["progress"] = {"nimg": self.nimg, "batches": self.batches, "rewinds": self.rewinds}
        checkpoint["running_means"] = self.means.state()
        for name, tensor in checkpoint["state_dict"].items():
            if name.endswith(_SUMS):
                checkpoint["state_dict"][name] = share_of_ranks(tensor)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.nimg = int(checkpoint["progress"]["nimg"])
        self.batches = int(checkpoint["progress"]["batches"])
        self.rewinds = int(checkpoint["progress"].get("rewinds", 0))
        self.means.load(checkpoint["running_means"])


def in_parts(stats: Iterable[Tensor], parts: int) -> Iterator[int]:
    """0 .. parts - 1. Each part finds running statistics as they were at the start; at the end they are the means
    over the parts, which is what one step on the whole batch makes of them."""
    stats = list(stats) if parts > 1 else []
    start, total = [s.clone() for s in stats], [torch.zeros_like(s) for s in stats]
    for part in range(parts):
        for stat, first in zip(stats, start, strict=True):
            stat.copy_(first)
        yield part
        for stat, sum_ in zip(stats, total, strict=True):
            sum_ += stat
    for stat, sum_ in zip(stats, total, strict=True):
        stat.copy_(sum_ / parts)


def _seed_of(*words: int) -> int:
    return int(np.random.SeedSequence([w % 2**64 for w in words]).generate_state(1, np.uint64)[0] >> 1)
