"""Metrics during training."""

from __future__ import annotations

import time
from pathlib import Path

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.errors import UserError
from stylegan_lightning.imaging import save_png
from stylegan_lightning.metrics.metric import Metric, Subject
from stylegan_lightning.metrics.suite import Suite
from stylegan_lightning.training.module import GAN


def as_gan(module: L.LightningModule) -> GAN:
    assert isinstance(module, GAN)
    return module


class Measurements(Callback):
    """The metrics of `G_ema`: all at the start and at the end of the run, each every so many ticks in between.

    A metric that cannot be computed is reported and skipped; training goes on. Pictures go to `directory`.
    """

    def __init__(
        self, suite: Suite, dataset: PreparedDataset, cache_dir: Path, directory: Path, monitor: str | None = None
    ) -> None:
        self.suite, self.dataset, self.cache_dir, self.directory = suite, dataset, cache_dir, directory
        names = {name: m for m in suite.metrics for name in m.names}
        self.monitor = monitor or next((n for n, m in names.items() if m.lower_is_better), None)
        if monitor is not None and not (monitor in names and names[monitor].lower_is_better):
            lower = ", ".join(n for n, m in names.items() if m.lower_is_better) or "none of these metrics"
            raise UserError(
                f"metrics.monitor must name a value of metrics=[...] where lower is better: {lower}; got {monitor}"
            )
        self.comparable = ""
        """How the monitored value was measured."""
        self.pictures: dict[str, np.ndarray] = {}
        self._tick = 0
        self._subject: Subject | None = None

    key = property(lambda self: f"metric/{self.monitor}" if self.monitor else None)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        gan = as_gan(pl_module)
        self._subject = Subject(gan.G_ema, self.dataset, device=gan.device, cache_dir=self.cache_dir)
        self.suite.check(self._subject)
        self.suite.prepare(self._subject)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if as_gan(pl_module).nimg == 0:
            self._measure(as_gan(pl_module), self.suite.metrics)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        gan = as_gan(pl_module)
        if not gan.tick_done:
            return
        self._tick += 1
        end = gan.nimg >= gan.schedule.total_nimg
        self._measure(gan, [e.metric for e in self.suite.entries if end or self._tick % e.every_ticks == 0])

    def _measure(self, gan: GAN, metrics: list[Metric]) -> None:
        started, subject = time.perf_counter(), self._subject
        assert subject is not None
        subject.turn_to(gan.G_ema)
        for _, found in self.suite.measure(subject, metrics):
            gan.report |= {f"metric/{v.metric}": v.value for v in found.values}
            self.comparable = next((v.comparable for v in found.values if v.metric == self.monitor), self.comparable)
            for name, picture in found.pictures.items():
                save_png(self.directory / f"{name}_{gan.nimg / 1000:09.3f}_kimg.png", picture)
                self.pictures[f"samples/{name}"] = picture
        if metrics:
            gan.report["speed/metric_s"] = time.perf_counter() - started
        subject.turn_to()
