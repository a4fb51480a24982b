"""Runs that go wrong: seen at the end of the tick, before anything is measured or saved over."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from stylegan_lightning.errors import UserError
from stylegan_lightning.training.checkpoint import LAST, read_checkpoint
from stylegan_lightning.training.module import GAN

CURES = (
    "usual cures: a larger model.r1_gamma (2 to 4 times), a smaller model.g_lr and model.d_lr (half), a larger "
    "schedule.batch_size, augment=ada where images are few, precision=bf16 or fp32 in place of fp16"
)


class DivergenceGuard(Callback):
    """Stops or rewinds when logits are not finite in more than a tenth of a tick, exceed `max_logit` in the mean,
    or a weight is not finite. The last checkpoint, which is older, stays as it is.

    `action="rewind"` goes back to it and on with other random numbers, at most `max_rewinds` times in a run.
    Raises UserError, which names the usual cures, to stop.
    """

    def __init__(self, directory: Path, action: str, max_logit: float, max_rewinds: int) -> None:
        self.directory, self.action, self.max_logit, self.max_rewinds = directory, action, max_logit, max_rewinds

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, GAN)
        if not pl_module.tick_done:
            return
        symptom = self._symptom(pl_module)
        if symptom is None:
            return
        where = f"training diverged by {pl_module.nimg / 1000:g} kimg: {symptom}"
        last = self.directory / LAST
        if self.action == "rewind" and last.exists() and pl_module.rewinds < self.max_rewinds:
            rewind(trainer, pl_module, last)
            count = f"rewind {pl_module.rewinds} of {self.max_rewinds}"
            text = f"{where}. Back at {pl_module.nimg / 1000:g} kimg, {count}"
            _alert(trainer, "Training diverged and goes on from the last checkpoint", text)
            warnings.warn(text, stacklevel=2)
            return
        tried = f" after {pl_module.rewinds} rewinds" if pl_module.rewinds else ""
        kept = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint had been saved"
        text = f"{where}{tried}; {kept}. {CURES}. on_divergence=rewind goes back and on by itself"
        _alert(trainer, "Training diverged and has stopped", text)
        raise UserError(text)

    def _symptom(self, gan: GAN) -> str | None:
        for name in ("logits/real", "logits/fake"):
            share, mean = gan.means.finite.get(name, 1.0), gan.report.get(name, 0.0)
            if share < 0.9:
                return f"{name} is not finite in {1 - share:.0%} of the steps"
            if abs(mean) > self.max_logit:
                return (
                    f"{name} is {mean:.3g} in the mean of the tick (callbacks.divergence.max_logit={self.max_logit:g})"
                )
        for name in ("G", "D", "G_ema"):
            if not math.isfinite(_largest_norm(getattr(gan, name).parameters())):
                return f"a weight of {name} is not finite"
        return None


def _alert(trainer: L.Trainer, title: str, text: str) -> None:
    """A message from the Weights & Biases run, where there is one, to its owner."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.alert(title, text, level="WARN")


def _largest_norm(parameters: Iterable[Tensor]) -> float:
    """Of all tensors, in one reading of the device; NaN where one is."""
    norms = torch._foreach_norm([p.detach() for p in parameters], ord=math.inf)  # type: ignore[attr-defined]
    return float(torch.stack([n.float() for n in norms]).max())


def rewind(trainer: L.Trainer, gan: GAN, checkpoint: Path) -> None:
    """Networks, optimizers and progress as saved in `checkpoint`; what is drawn from here on is new."""
    rewinds = gan.rewinds + 1
    if gan.nimg >= gan.schedule.total_nimg:
        trainer.should_stop = False  # the end is further away again
    saved = read_checkpoint(checkpoint)
    gan.load_state_dict(saved["state_dict"])
    gan.on_load_checkpoint(saved)
    gan.rewinds = max(rewinds, gan.rewinds + 1)
    gan.tick_done = False  # nothing of this tick is measured, logged or saved
    for optimizer, state in zip(trainer.optimizers, saved["optimizer_states"], strict=True):
        optimizer.load_state_dict(state)
