"""What happens at the end of a tick (one Lightning epoch). Order matters: see `trainer.default_callbacks`."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor
from tqdm import tqdm

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.imaging import image_grid, save_png
from stylegan_lightning.training.csv_logger import KIMG
from stylegan_lightning.training.distributed import sum_over_ranks, world_size
from stylegan_lightning.training.measurements import as_gan
from stylegan_lightning.training.module import GAN
from stylegan_lightning.training.samples import class_picture, sample_fixed


@contextlib.contextmanager
def reported(problem: str) -> Iterator[None]:
    """An error becomes a warning: around what a run can go on without."""
    try:
        yield
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
        warnings.warn(f"{problem}: {error}", stacklevel=4)


class TickStats(Callback):
    """First at the end of a tick: means of losses and logits, speed without the maintenance, memory."""

    def __init__(self) -> None:
        self._started, self._nimg = 0.0, 0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started, self._nimg = time.perf_counter(), as_gan(pl_module).nimg

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        gan = as_gan(pl_module)
        if gan.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - self._started
        if not gan.tick_done:
            return
        gan.report = gan.means.compute()
        gan.means.reset()
        speed = (gan.nimg - self._nimg) / max(seconds, 1e-9)
        gan.report |= {"speed/img_per_s": speed, "speed/sec_per_kimg": 1000 / speed, **_memory(gan.device)}


def _memory(device: torch.device) -> dict[str, float]:
    """Peak resident memory of this process and, on a GPU, peak memory allocated there, GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    values = {"memory/cpu_gib": peak / (2**30 if sys.platform == "darwin" else 2**20)}
    if device.type == "cuda":
        values["memory/gpu_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
        torch.cuda.reset_peak_memory_stats(device)
    return values


class SampleGrid(Callback):
    """Pictures of the same latents from `G_ema`, every `every_ticks` ticks, beside a grid of reals at the start.

    Where labels are classes, a second picture has a row for each class.
    """

    def __init__(
        self,
        directory: Path,
        dataset: PreparedDataset,
        *,
        rows: int,
        columns: int,
        every_ticks: int,
        truncation_psi: float,
        seed: int,
    ) -> None:
        self.directory, self.dataset = directory, dataset
        self.rows, self.columns, self.every_ticks = rows, columns, every_ticks
        self.truncation_psi, self.seed = truncation_psi, seed
        self.pictures: dict[str, np.ndarray] = {}
        self._tick = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        gan, count = as_gan(pl_module), self.rows * self.columns
        if gan.nimg == 0:
            index = np.random.default_rng(self.seed).permutation(len(self.dataset))[:count]
            self._show(trainer, "reals", "", self._grid(self.dataset.batch(index.tolist())[0]))
            self._draw(trainer, gan)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        gan = as_gan(pl_module)
        if not gan.tick_done:
            return
        self._tick += 1
        if self._tick % self.every_ticks == 0 or gan.nimg >= gan.schedule.total_nimg:
            self._draw(trainer, gan)

    def _draw(self, trainer: L.Trainer, gan: GAN) -> None:
        """All ranks make their share of the images; the first one shows them."""
        G, data, moment = gan.G_ema, self.dataset, f"_{gan.nimg / 1000:09.3f}_kimg"
        options = (self.seed, self.truncation_psi, gan.device)
        imgs = sample_fixed(G, data, self.rows * self.columns, *options, together=True)
        self._show(trainer, "fakes", moment, self._grid(imgs))
        classes = class_picture(G, data, self.columns, *options, self._cell(), together=True)
        if classes is not None:
            self._show(trainer, "classes", moment, classes)

    def _cell(self) -> int:
        """Images of a network that is still growing are shown at their final size."""
        return max(self.dataset.img_resolution, 64)

    def _grid(self, imgs: Tensor) -> np.ndarray:
        return image_grid(imgs, self.columns, self._cell())

    def _show(self, trainer: L.Trainer, name: str, moment: str, grid: np.ndarray) -> None:
        if trainer.is_global_zero:
            save_png(self.directory / f"{name}{moment}.png", grid)
            self.pictures[f"samples/{name}"] = grid


class HasPictures(Protocol):
    pictures: dict[str, np.ndarray]
    """uint8 [H, W, C] by log name, since the last report."""


class ReportLogger(Callback):
    """Hands the finished report of a tick, and what is new of pictures and histograms, to every logger, at x = kimg."""

    def __init__(self, *sources: HasPictures, histograms: dict[str, np.ndarray] | None = None) -> None:
        """`histograms`: values of any shape by log name, since the last report."""
        self.sources, self.histograms = sources, {} if histograms is None else histograms

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if as_gan(pl_module).nimg == 0:
            self._log(trainer, as_gan(pl_module))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if as_gan(pl_module).tick_done:
            self._log(trainer, as_gan(pl_module))

    def _log(self, trainer: L.Trainer, gan: GAN) -> None:
        row = {KIMG: gan.nimg / 1000, "progress/batches": gan.batches, **gan.report}
        if not trainer.is_global_zero:
            return
        pictures = {name: picture for source in self.sources for name, picture in source.pictures.items()}
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                import wandb

                images = {name: wandb.Image(_squeeze(grid)) for name, grid in pictures.items()}
                histograms = {name: wandb.Histogram(values) for name, values in self.histograms.items()}  # type: ignore[arg-type]
                logger.experiment.log({**row, **images, **histograms})
                continue
            logger.log_metrics(row, step=gan.nimg)
            if isinstance(logger, TensorBoardLogger):
                for name, grid in pictures.items():
                    logger.experiment.add_image(name, grid, gan.nimg, dataformats="HWC")
                for name, values in self.histograms.items():
                    logger.experiment.add_histogram(name, values, gan.nimg)
        for source in self.sources:
            source.pictures.clear()
        self.histograms.clear()


def _squeeze(grid: np.ndarray) -> np.ndarray:
    return grid[..., 0] if grid.shape[2] == 1 else grid


class KimgProgress(ProgressBar):
    """A bar in kimg with speed, time left and the latest distance; one line a tick where there is no terminal."""

    def __init__(self, metric_key: str | None) -> None:
        super().__init__()
        self.metric_key = metric_key
        self._bar: tqdm | None = None
        self._value = self._line_value = float("nan")
        self._started, self._start_nimg = 0.0, 0
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        gan = as_gan(pl_module)
        self._started, self._start_nimg = time.perf_counter(), gan.nimg
        self._read(gan)
        if self._enabled and sys.stderr.isatty():
            self._bar = tqdm(
                total=gan.schedule.total_nimg / 1000,
                initial=gan.nimg / 1000,
                unit="kimg",
                dynamic_ncols=True,
                bar_format="{l_bar}{bar}| {n:.1f}/{total:.1f} kimg [{elapsed}<{remaining}{postfix}]",
            )

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any) -> None:
        if self._bar is not None:
            gan = as_gan(pl_module)
            self._bar.update(gan.nimg / 1000 - self._bar.n)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        gan = as_gan(pl_module)
        if not gan.tick_done or not self._enabled:
            return
        self._read(gan)
        text = self._text(gan)
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        else:
            print(f"{gan.nimg / 1000:8.2f} / {gan.schedule.total_nimg / 1000:g} kimg   {text}", flush=True)

    def _read(self, gan: GAN) -> None:
        self._value = gan.report.get(self.metric_key or "", self._value)

    def _text(self, gan: GAN) -> str:
        report, done = gan.report, gan.nimg - self._start_nimg
        left = (time.perf_counter() - self._started) / max(done, 1) * max(gan.schedule.total_nimg - gan.nimg, 0)
        parts = [f"{report['speed/img_per_s']:.0f} img/s", f"{_duration(left)} left"]
        parts += [f"{key} {report[key]:.3f}" for key in ("loss/G", "loss/D") if key in report]
        if self.metric_key and self._value == self._value:
            parts.append(f"{self.metric_key.removeprefix('metric/')} {self._value:.1f}")
        return "  ".join(parts)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"


class GracefulStop(Callback):
    """SIGINT and SIGTERM finish the step; the checkpoint callback then saves. A second SIGINT stops at once.

    On SLURM so does SIGUSR1, the usual notice before a time limit or pre-emption; the job is then queued again.
    With several ranks the wish to stop is shared every `every` batches, so that all stop at the same one.
    """

    def __init__(self, every: int = 16) -> None:
        self.every, self.received = every, ""
        self._previous: dict[int, Callable | int | None] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if "SLURM_JOB_ID" in os.environ else [])):
            self._previous[number] = signal.signal(number, self._receive)  # type: ignore[assignment]

    def _receive(self, number: int, frame: Any) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
        print(f"\n{self.received}: finishing this step, then saving ...", file=sys.stderr, flush=True)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any) -> None:
        wish = bool(self.received)
        if world_size() > 1:
            if as_gan(pl_module).batches % self.every:
                return
            wish = bool(sum_over_ranks(torch.tensor(float(wish), device=pl_module.device)))
        if wish:
            self.received = self.received or "another rank's signal"
            trainer.should_stop = True

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
