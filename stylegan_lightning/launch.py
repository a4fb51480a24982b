"""What surrounds a run: errors as messages, resuming, devices, loggers, and the lines printed at the end."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from stylegan_lightning.builders import cache_dir, checkpoint_config, load_weights, to_plain
from stylegan_lightning.config_checks import check_batch_over_ranks, check_overrides
from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.errors import UserError
from stylegan_lightning.metrics.frechet import FrechetDistance
from stylegan_lightning.training.callbacks import (
    Distance,
    GracefulStop,
    KimgProgress,
    ReportLogger,
    SampleGrid,
    TickStats,
)
from stylegan_lightning.training.checkpoint import (
    Checkpoints,
    WholeFileCheckpointIO,
    find_checkpoint,
    read_checkpoint,
)
from stylegan_lightning.training.csv_logger import KIMG, MetricsCSV
from stylegan_lightning.training.distributed import PhaseDDPStrategy
from stylegan_lightning.training.module import GAN

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}
_MAY_CHANGE = (
    "resume",
    "run_dir",
    "schedule.total_kimg",
    "trainer",
    "logger",
    "callbacks",
    "metrics",
    "cache_dir",
    "data.path",
    "data.num_workers",
    "data.cache_dir",
)


@contextlib.contextmanager
def messages_for_users() -> Iterator[None]:
    """UserErrors and full or read-only disks become one message and exit status 2."""
    try:
        yield
    except UserError as error:
        message = str(error)
    except OSError as error:
        if error.errno not in _DISK or os.environ.get("HYDRA_FULL_ERROR"):
            raise
        message = f"cannot write {error.filename or ''}: {error.strerror}. Free some space or set run_dir=... elsewhere"
    else:
        return
    with contextlib.suppress(ValueError, OSError):
        Path(HydraConfig.get().runtime.output_dir).rmdir()  # only if nothing is in it
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def entry_point(main: Callable[[], Any], conf_dir: Path, config_name: str) -> None:
    """Checks the command line before Hydra creates anything, then hands over to Hydra."""
    arguments = sys.argv[1:]
    overrides = [a for a in arguments if not a.startswith("-")]
    with messages_for_users():
        check_overrides(conf_dir, config_name, overrides)
        place = _given(overrides, "resume") and str(_run_dir_of(find_checkpoint(str(_given(overrides, "resume")))))
        place = _given(overrides, "run_dir") or place
        if place:
            _check_writable(Path(str(place)).expanduser())
            if not any(a.startswith(("run_dir=", "hydra.run.dir=")) for a in overrides):
                sys.argv.append(f"run_dir='{place}'")
    main()


def _given(overrides: Sequence[str], key: str) -> Any:
    """The value of `key` on the command line, None when absent or null."""
    parsed = (OverridesParser.create().parse_override(o) for o in overrides if o.startswith(f"{key}="))
    values = [o.value() for o in parsed if not o.is_sweep_override()]
    return values[-1] if values else None


def _check_writable(directory: Path) -> None:
    existing = next(p for p in (directory, *directory.absolute().parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        kind = "is not writable" if existing.is_dir() else "is not a directory"
        raise UserError(f"the run needs to write into {directory}, but {existing} {kind}; set run_dir=... elsewhere")


def _run_dir_of(checkpoint: Path) -> Path:
    parent = checkpoint.absolute().parent
    return parent.parent if parent.name == "checkpoints" else parent


def resumed_config(cfg: DictConfig) -> tuple[DictConfig, Path]:
    """The configuration inside the checkpoint that `cfg.resume` names, with what the command line may change.

    Raises UserError when the command line asks for another model, data set, seed, ...: that is a new run
    (init_from=), or when the run has already reached its end.
    """
    path = find_checkpoint(cfg.resume)
    checkpoint = read_checkpoint(path)
    saved = checkpoint_config(checkpoint, path)
    refused = []
    for text in HydraConfig.get().overrides.task:
        override = OverridesParser.create().parse_override(text)
        key = override.key_or_group
        if not any(key == k or key.startswith(f"{k}.") for k in _MAY_CHANGE):
            refused.append(key)
        elif key not in ("resume", "run_dir"):
            OmegaConf.update(saved, key, OmegaConf.select(cfg, key), merge=False, force_add=True)
    if refused:
        raise UserError(
            f"resume continues a run with its own configuration, which keeps {', '.join(refused)} as it was; leave "
            "that out, or start a new run from these weights with init_from="
        )
    done, total = checkpoint["progress"]["nimg"] / 1000, saved.schedule.total_kimg
    if done >= total:
        raise UserError(
            f"this run is complete at {done:g} kimg; to train further add schedule.total_kimg={2 * total:g}"
        )
    saved.resume = str(path)
    return saved, path


def start_config(cfg: DictConfig) -> tuple[DictConfig, Path, Path | None]:
    """(configuration, run directory, checkpoint to resume from or None)."""
    resume = None
    if cfg.resume is not None:
        cfg, resume = resumed_config(cfg)
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    cfg.run_dir = str(run_dir)
    cfg.run_id = cfg.run_id or secrets.token_hex(4)
    return cfg, run_dir, resume


def prepare_process(cfg: DictConfig) -> None:
    """Settings of the whole process: precision of products, no denormals, quiet libraries."""
    torch.set_float32_matmul_precision(cfg.precision.matmul)
    torch.backends.cudnn.allow_tf32 = cfg.precision.matmul != "highest"
    torch.set_flush_denormal(True)  # squared gradients of a settled mapping network underflow, 10x slower on CPUs
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in (r"Found \d+ module\(s\) in eval mode", "The .*dataloader.* does not have many workers",
                 "GPU available but not used", ".*torch.distributed.*barrier.*"):  # fmt: skip
        warnings.filterwarnings("ignore", message=text)


def show_progress(what: str) -> Callable[[int, int], None]:
    """Progress of long preparations, on a terminal only."""
    from tqdm import tqdm

    bar: list[tqdm] = []

    def update(done: int, total: int) -> None:
        if not bar:
            bar.append(tqdm(total=total, desc=what, unit="img", leave=False, disable=not sys.stderr.isatty()))
        bar[0].update(done - bar[0].n)
        if done >= total:
            bar[0].close()

    return update


def default_callbacks(
    cfg: DictConfig, run_dir: Path, dataset: PreparedDataset, distance: FrechetDistance | None
) -> list[Callback]:
    """In the order in which a tick needs them: statistics, measurements, pictures, logging, saving."""
    samples = cfg.callbacks.samples
    grid = SampleGrid(
        run_dir / "samples",
        dataset,
        rows=samples.rows,
        columns=samples.columns,
        every_ticks=samples.every_ticks,
        truncation_psi=samples.truncation_psi,
        seed=samples.seed,
    )
    metric = None
    if distance is not None:
        metric = Distance(distance, dataset, cache_dir(cfg) / "statistics", cfg.metrics.every_ticks)
    key = metric.key if metric else None
    return [
        GracefulStop(),
        TickStats(),
        *([metric] if metric else []),
        grid,
        ReportLogger(grid),
        KimgProgress(key),
        Checkpoints(run_dir / "checkpoints", cfg.callbacks.checkpoint.every_ticks, key),
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
    if cfg.logger.get("wandb"):
        loggers.append(_wandb_logger(cfg, run_dir))
    return loggers


def _has(package: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(package) is not None


def _wandb_logger(cfg: DictConfig, run_dir: Path) -> WandbLogger:
    import wandb

    logger = WandbLogger(
        project=cfg.logger.project,
        entity=cfg.logger.entity,
        group=cfg.logger.group,
        tags=list(cfg.logger.tags),
        name=cfg.name,
        id=cfg.run_id,
        resume="allow",
        save_dir=run_dir,
        offline=cfg.logger.mode == "offline",
        config=to_plain(cfg),
        settings=wandb.Settings(silent=True, console="off"),
    )
    if getattr(rank_zero_only, "rank", 0) == 0:
        try:
            run = logger.experiment
        except wandb.errors.Error as error:
            raise UserError(f"Weights & Biases: {error}. Run `wandb login`, or use logger.mode=offline") from error
        run.define_metric(KIMG)
        run.define_metric("*", step_metric=KIMG)
    return logger


def build_trainer(cfg: DictConfig, run_dir: Path, callbacks: list[Callback], loggers: list[Logger]) -> L.Trainer:
    devices = cfg.trainer.devices
    alone = devices in (1, "1") and cfg.trainer.num_nodes == 1
    try:
        trainer = L.Trainer(
            accelerator=cfg.trainer.accelerator,
            devices=devices,
            num_nodes=cfg.trainer.num_nodes,
            strategy="auto" if alone else PhaseDDPStrategy(process_group_backend=_backend()),
            max_epochs=-1,
            logger=loggers,
            callbacks=callbacks,
            plugins=[WholeFileCheckpointIO()],
            default_root_dir=run_dir,
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            log_every_n_steps=10**9,
        )
    except (L.pytorch.utilities.exceptions.MisconfigurationException, ValueError, TypeError) as error:
        raise UserError(
            f"trainer.accelerator={cfg.trainer.accelerator} trainer.devices={devices} cannot be had: {error}"
        ) from error
    check_batch_over_ranks(cfg.schedule.batch_size, cfg.model.mbstd_group_size, trainer.world_size)
    return trainer


def _backend() -> str | None:
    return None if torch.cuda.is_available() else "gloo"


def load_initial_weights(module: GAN, path: str) -> None:
    """G, D and G_ema of a checkpoint with the same networks. Raises UserError where they do not fit."""
    file = find_checkpoint(path)
    state = read_checkpoint(file)["state_dict"]
    for name in ("G", "D", "G_ema"):
        load_weights(getattr(module, name), state, f"{name}.", file)


def kimg_of(checkpoint: Path | None) -> float:
    return read_checkpoint(checkpoint)["progress"]["nimg"] / 1000 if checkpoint else 0.0


@rank_zero_only
def announce(cfg: DictConfig, module: GAN, data_summary: str) -> None:
    """What is about to be trained, on what."""
    print(data_summary)
    counts = [sum(p.numel() for p in net.parameters()) / 1e6 for net in (module.G, module.D)]
    print(
        f"{cfg.model.name}: G {counts[0]:.2f} M parameters, D {counts[1]:.2f} M; phases "
        + ", ".join(p.name if p.interval == 1 else f"{p.name} every {p.interval}" for p in module.phases)
    )
    if cfg.get("experiment_name") == "demo" and cfg.data.name != "faces":
        print("note: this is the demo's small network; for real training add experiment=auto (see README)")


def fit(trainer: L.Trainer, module: GAN, data: L.LightningDataModule, resume: Path | None, run_dir: Path) -> None:
    """Trains to the end or to a signal, and says where everything is."""
    stop = next(c for c in trainer.callbacks if isinstance(c, GracefulStop))  # type: ignore[attr-defined]
    try:
        trainer.fit(module, data, ckpt_path=str(resume) if resume else None)
        if trainer.is_global_zero:
            print(closing_lines(trainer, module, run_dir, stop.received), flush=True)
    finally:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and trainer.is_global_zero:
                logger.experiment.finish()


def closing_lines(trainer: L.Trainer, module: GAN, run_dir: Path, interrupted: str) -> str:
    """Where everything is and what to do next."""
    shown = shorter(run_dir)
    saver = next(c for c in trainer.callbacks if isinstance(c, Checkpoints))  # type: ignore[attr-defined]
    lines = [
        f"{'Stopped' if interrupted else 'Finished'} at {module.nimg / 1000:g} kimg." + _metric_line(trainer, saver)
    ]
    grids = sorted((run_dir / "samples").glob("fakes_*.png"))
    lines += [f"  samples      {shown / 'samples' / grids[-1].name}"] if grids else []
    checkpoint = "best" if (run_dir / "checkpoints" / "best.ckpt").exists() else "last"
    lines += [
        f"  checkpoints  {shown / 'checkpoints'} (last.ckpt, best.ckpt)",
        f"  curves       {shown / 'metrics.csv'}",
        "Next",
    ]
    if interrupted or module.nimg < module.schedule.total_nimg:
        lines.append(f"  go on        python train.py resume={shown}")
    else:
        further = 2 * module.schedule.total_nimg / 1000
        lines.append(f"  train on     python train.py resume={shown} schedule.total_kimg={further:g}")
    lines.append(f"  evaluate     python evaluate.py ckpt={shown / 'checkpoints' / checkpoint}.ckpt")
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger) and getattr(logger, "_offline", False):
            lines.append(f"  upload       wandb sync {shorter(Path(logger.experiment.dir).parent)}")
    return "\n".join(lines)


def _metric_line(trainer: L.Trainer, saver: Checkpoints) -> str:
    if saver.monitor is None or saver.best_value == float("inf"):
        return ""
    rows = next(x for x in trainer.loggers if isinstance(x, MetricsCSV)).rows
    values = [float(r[saver.monitor]) for r in rows if r.get(saver.monitor) not in (None, "")]
    name = saver.monitor.removeprefix("metric/")
    best = f"best {saver.best_value:.1f} at {saver.best_kimg:g} kimg"
    return f" {name}: {values[0]:.1f} at the start, {values[-1]:.1f} now, {best}."


def shorter(path: Path) -> Path:
    try:
        return path.absolute().relative_to(Path.cwd())
    except ValueError:
        return path
