"""How strongly the discriminator's images are augmented: adapted to overfitting, or a function of progress.

`p` itself belongs to the augmentation and `signs` to the control: both are buffers, saved with the weights, and
nothing here waits for the device.
"""

from __future__ import annotations

import math
import warnings
from typing import Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from stylegan_lightning.training.distributed import sum_over_ranks
from stylegan_lightning.training.module import GAN


class AdaptiveStrength(nn.Module):
    """p follows r_t = E[sign(D(real))] (Karras et al. 2020, section 3.2): every `interval` batches it rises where
    r_t exceeds `target` and falls below it, by 1 in `kimg` thousand images, within [0, max_p].

    Beyond p of about 0.8 augmentations leak into what is generated (section 2.2), which `max_p` prevents.
    """

    signs: Tensor
    r_t: Tensor

    def __init__(
        self, target: float = 0.6, interval: int = 4, kimg: float = 500.0, start: float = 0.0, max_p: float = 0.8
    ) -> None:
        super().__init__()
        self.target, self.interval, self.kimg, self.start, self.max_p = target, interval, kimg, start, max_p
        self.register_buffer("signs", torch.zeros(2))  # sum and number since the last step
        self.register_buffer("r_t", torch.zeros(()))

    @torch.no_grad()
    def observe(self, real_logits: Tensor) -> None:
        self.signs[0] += real_logits.sign().sum()
        self.signs[1] += real_logits.numel()

    @torch.no_grad()
    def step(self, p: Tensor, batches: int, nimg: int, batch_size: int) -> None:
        """Moves `p` after `batches` batches of `batch_size`, `nimg` images in all."""
        if batches % self.interval:
            return
        total, count = sum_over_ranks(self.signs).unbind()
        self.r_t.copy_(total / count.clamp(min=1))
        rate = batch_size * self.interval / max(self.kimg * 1000, 1e-9)
        p.add_((self.r_t - self.target).sign() * rate).clamp_(0, self.max_p)
        self.signs.zero_()


class ScheduledStrength(nn.Module):
    """p goes from `start` to `end` over the first `kimg` thousand images, straight or as half a cosine; 0 kimg
    is the constant `end`."""

    def __init__(
        self, end: float, start: float = 0.0, kimg: float = 0.0, shape: Literal["linear", "cosine"] = "linear"
    ) -> None:
        super().__init__()
        if shape not in ("linear", "cosine"):
            raise ValueError(f"shape must be linear or cosine, got {shape!r}")
        self.end, self.kimg, self.shape = end, kimg, shape
        self.start = start if kimg > 0 else end

    def at(self, nimg: int) -> float:
        t = min(nimg / (1000 * self.kimg), 1.0) if self.kimg > 0 else 1.0
        t = (1 - math.cos(math.pi * t)) / 2 if self.shape == "cosine" else t
        return self.start + (self.end - self.start) * t

    def observe(self, real_logits: Tensor) -> None:
        """Progress alone decides."""

    @torch.no_grad()
    def step(self, p: Tensor, batches: int, nimg: int, batch_size: int) -> None:
        p.fill_(self.at(nimg))


class StrengthReport(Callback):
    """p and r_t in the report of each tick, and a warning, once, where p has reached its ceiling."""

    def __init__(self) -> None:
        self._warned = False

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, GAN)
        control, augment = pl_module.strength, pl_module.augment
        if not pl_module.tick_done or control is None or augment is None:
            return
        p = float(augment.p)  # type: ignore[arg-type]
        pl_module.report["augment/p"] = p
        if not isinstance(control, AdaptiveStrength):
            return
        pl_module.report["augment/r_t"] = float(control.r_t)
        if p >= control.max_p - 1e-6 and not self._warned:
            self._warned = True
            warnings.warn(
                f"augmentation is at its ceiling augment.max_p={control.max_p:g}, and D still overfits (r_t "
                f"{float(control.r_t):.2f} > {control.target:g}): more images, a smaller network or fewer kimg would "
                "help; a higher ceiling lets augmentations leak into what is generated",
                stacklevel=2,
            )
