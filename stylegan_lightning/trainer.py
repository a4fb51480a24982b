"""The Lightning Trainer of a run and what hangs on it: callbacks, loggers, strategy."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig

from stylegan_lightning.builders import cache_dir, device_count
from stylegan_lightning.config_checks import check_batches_over_ranks
from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.errors import UserError
from stylegan_lightning.metrics.suite import Suite
from stylegan_lightning.schedule import Schedule
from stylegan_lightning.sweeps import command_of_ranks
from stylegan_lightning.tracking import WandbRun, wandb_logger
from stylegan_lightning.training.augment import StrengthReport
from stylegan_lightning.training.callbacks import (
    GracefulStop,
    KimgProgress,
    ReportLogger,
    SampleGrid,
    TickStats,
)
from stylegan_lightning.training.checkpoint import Checkpoints, WholeFileCheckpointIO
from stylegan_lightning.training.csv_logger import MetricsCSV
from stylegan_lightning.training.distributed import PhaseDDPStrategy
from stylegan_lightning.training.divergence import DivergenceGuard
from stylegan_lightning.training.measurements import Measurements
from stylegan_lightning.training.showcase import Showcase


def default_callbacks(cfg: DictConfig, run_dir: Path, dataset: PreparedDataset, suite: Suite) -> list[Callback]:
    """In the order in which a tick needs them: statistics, measurements, pictures, logging, saving."""
    pictures = {key: cfg.callbacks.samples[key] for key in ("rows", "columns", "truncation_psi", "seed")}
    grid = SampleGrid(run_dir / "samples", dataset, every_ticks=cfg.callbacks.samples.every_ticks, **pictures)
    shown = cfg.callbacks.get("showcase") or {"enabled": False}  # runs begun before there was one
    showcase = Showcase(run_dir / "samples", dataset, every_ticks=shown.get("every_ticks"), **pictures)
    statistics, saving = cache_dir(cfg) / "statistics", cfg.callbacks.checkpoint
    measured = Measurements(suite, dataset, statistics, run_dir / "samples", cfg.metrics.monitor)
    limits = cfg.callbacks.divergence
    guard = DivergenceGuard(run_dir / "checkpoints", cfg.on_divergence, limits.max_logit, limits.max_rewinds)
    return [
        GracefulStop(),
        TickStats(),
        StrengthReport(),
        guard,
        measured,
        grid,
        *([showcase] if shown.get("enabled", True) else []),
        ReportLogger(grid, measured, showcase, histograms=showcase.histograms),
        KimgProgress(measured.key),
        Checkpoints(
            run_dir / "checkpoints",
            saving.every_ticks,
            measured.key,
            saving.get("keep_every_ticks"),
            lambda: measured.comparable,
        ),
        WandbRun(run_dir, dataset, suite, cfg.logger.get("artifacts") or ()),
    ]


def build_loggers(cfg: DictConfig, run_dir: Path, start_kimg: float) -> list[Logger]:
    """metrics.csv always; Weights & Biases and TensorBoard as chosen. x is kimg everywhere."""
    loggers: list[Logger] = [MetricsCSV(run_dir / "metrics.csv", start_kimg)]
    if cfg.logger.get("tensorboard"):
        if not _has("tensorboard"):
            raise UserError(
                'logger=tensorboard needs the package tensorboard: pip install "stylegan_lightning[tensorboard]"'
            )
        loggers.append(TensorBoardLogger(run_dir, name="", version="tensorboard"))
    if cfg.logger.get("wandb") and getattr(rank_zero_only, "rank", 0) == 0:
        loggers.append(wandb_logger(cfg, run_dir))
    return loggers


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def check_devices(cfg: DictConfig, schedule: Schedule) -> None:
    """Raises UserError when the devices that `cfg.trainer` names are not there, or do not divide the batch."""
    name, count = cfg.trainer.accelerator, device_count(cfg.trainer.devices)
    there = torch.cuda.device_count()
    if name in ("gpu", "cuda") and there < count:
        raise UserError(
            f"trainer.accelerator={name} with {count} device(s) needs as many GPUs; PyTorch sees {there}. "
            "Use trainer=auto or trainer=cpu, or fewer trainer.devices"
        )
    check_batches_over_ranks(cfg, schedule)


def build_trainer(cfg: DictConfig, run_dir: Path, callbacks: list[Callback], loggers: list[Logger]) -> L.Trainer:
    devices = cfg.trainer.devices
    if str(devices) in ("-1", "auto"):
        devices = device_count(devices)
    alone = devices in (1, "1") and cfg.trainer.num_nodes == 1
    try:
        return L.Trainer(
            accelerator=cfg.trainer.accelerator,
            devices=devices,
            num_nodes=cfg.trainer.num_nodes,
            strategy="auto" if alone else _strategy(cfg),
            max_epochs=-1,
            logger=loggers,
            callbacks=callbacks,
            precision=cfg.precision.lightning,
            profiler=_profiler(cfg.trainer.get("profiler"), run_dir),
            detect_anomaly=cfg.trainer.get("detect_anomaly", False),
            plugins=_plugins(),
            default_root_dir=run_dir,
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            log_every_n_steps=10**9,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise UserError(
            f"trainer.accelerator={cfg.trainer.accelerator} trainer.devices={devices} cannot be had: {error}"
        ) from error


def _strategy(cfg: DictConfig) -> PhaseDDPStrategy:
    return PhaseDDPStrategy(process_group_backend=_backend(), command=command_of_ranks(cfg))


def _profiler(name: str | None, run_dir: Path) -> Profiler | None:
    """Its report is run_dir/profile.txt; the one of PyTorch writes a trace beside it."""
    kinds = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
    return None if name is None else kinds[name](dirpath=str(run_dir), filename="profile")


def _plugins() -> list[Any]:
    """On SLURM the run itself saves and requeues, between two steps (`GracefulStop`), not Lightning's handler."""
    slurm = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
    return [WholeFileCheckpointIO(), *slurm]


def _backend() -> str | None:
    return None if torch.cuda.is_available() else "gloo"
