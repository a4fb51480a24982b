"""The LightningModule: generator, discriminator, EMA generator, and the list of phases that trains them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn

from stylegan_lightning.data.sampler import Batch
from stylegan_lightning.imaging import fade_reals, to_dynamic_range
from stylegan_lightning.networks import Generator, Growing, StyleGAN3Synthesis
from stylegan_lightning.protocols import AdversarialLoss, CriticPenalty, Discriminator, GeneratorPenalty, Phase
from stylegan_lightning.schedule import Schedule, Stage, ends_tick
from stylegan_lightning.training.distributed import average_tensors, finish_gradients, mean_over_ranks
from stylegan_lightning.training.ema import ema_beta, update_ema
from stylegan_lightning.training.phases import LatentStream, Objectives, build_phases, lazy_adam_settings
from stylegan_lightning.training.stats import RunningMeans

_STEP_STREAM, _NOISE_STREAM = 2, 3
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
        seed: int = 0,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.G, self.D = G, D
        self.G_ema = copy.deepcopy(G).eval().requires_grad_(False)
        self.penalties = nn.ModuleDict({k: p for k, p in g_penalties.items() if isinstance(p, nn.Module)})
        self.schedule, self.ema, self.adam, self.seed = schedule, ema, (g_adam, d_adam), seed
        self.config = config or {}
        self.nimg = 0
        self.batches = 0
        self.tick_done = False
        self.means = RunningMeans()
        self.report: dict[str, float] = {}
        self.objectives = Objectives(G, cast(Discriminator, D), loss, style_mixing_prob, record=self.means.add_mean)
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
        if isinstance(self.G.synthesis, StyleGAN3Synthesis):
            self.G.synthesis.world_size = self.trainer.world_size  # half-lives count the images of all ranks
        if self.nimg == 0:  # a resumed run has its growth from the checkpoint
            self.enter(self.schedule.at(0))

    def on_train_start(self) -> None:
        if self.nimg >= self.schedule.total_nimg:  # nothing left: an empty loader would be asked again forever
            self.trainer.should_stop = True

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        img, c, fake_c = batch
        stage = self.schedule.at(self.nimg)
        self.enter(stage)
        self._seed_step()
        reals = fade_reals(to_dynamic_range(img), stage.alpha)
        for phase in self.phases:
            if self.batches % phase.interval == 0:
                self._run(phase, stage.g_lr if phase.optimizer == 0 else stage.d_lr, (reals, c, fake_c))
        average_tensors(b for name, b in self.G.named_buffers() if name.endswith(_RUNNING_STATS))
        beta = ema_beta(stage.batch_size, self.nimg, self.ema.kimg, self.ema.rampup)
        update_ema(self.G_ema, self.G, beta)
        before, self.nimg = self.nimg, self.nimg + stage.batch_size
        self.batches += 1
        self.tick_done = ends_tick(self.schedule, before, self.nimg)

    def enter(self, stage: Stage) -> None:
        """Brings blur and growing networks to `stage`. Where a structure changes the Adam moments begin anew.

        Blocks that appear are equal in G and G_ema, since both start from the same weights.
        """
        self.objectives.blur_sigma = stage.blur_sigma
        nets = (self.G.synthesis, self.G_ema.synthesis, self.D)
        grown = [net.grow_to(stage.resolution, stage.alpha) for net in nets if isinstance(net, Growing)]
        if any(grown) and self.batches > 0:
            for optimizer in self.trainer.optimizers:
                optimizer.state.clear()

    def _run(self, phase: Phase, lr: float, batch: tuple[Tensor, Tensor, Tensor]) -> None:
        nets = (self.G, self.D)
        for index, net in enumerate(nets):
            net.requires_grad_(index == phase.optimizer)
        optimizer = self.trainer.optimizers[phase.optimizer]
        ratio, _ = lazy_adam_settings((0.0, 0.0), self.intervals(phase.optimizer))
        for group in optimizer.param_groups:
            group["lr"] = lr * ratio
        optimizer.zero_grad(set_to_none=True)
        self.manual_backward(phase.objective(*batch))
        finish_gradients(nets[phase.optimizer])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def _seed_step(self) -> None:
        """Latents from a stream common to all ranks; noise, which has no fixed shape, from one of each rank."""
        self.objectives.stream.generator.manual_seed(_seed_of(self.seed, _STEP_STREAM, self.nimg))
        torch.manual_seed(_seed_of(self.seed, _NOISE_STREAM, self.nimg, self.global_rank))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.nimg >= self.schedule.total_nimg:
            self.trainer.should_stop = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Progress is `nimg` alone: Lightning's loop counters, which count optimizer steps, are not kept."""
        checkpoint["loops"] = None
        checkpoint["config"] = self.config
        checkpoint["progress"] = {"nimg": self.nimg, "batches": self.batches}
        checkpoint["running_means"] = self.means.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.nimg = int(checkpoint["progress"]["nimg"])
        self.batches = int(checkpoint["progress"]["batches"])
        self.means.load(checkpoint["running_means"])


def _seed_of(*words: int) -> int:
    return int(np.random.SeedSequence([w % 2**64 for w in words]).generate_state(1, np.uint64)[0] >> 1)
