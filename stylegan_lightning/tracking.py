"""The Weights & Biases run of a training: what it is called, its surroundings, its best values, its checkpoints."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from omegaconf import DictConfig

import stylegan_lightning
from stylegan_lightning.builders import to_plain
from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.errors import UserError
from stylegan_lightning.files import is_texts, parse_json, read_file
from stylegan_lightning.metrics.suite import Suite
from stylegan_lightning.resume import AUTO
from stylegan_lightning.training.callbacks import reported
from stylegan_lightning.training.checkpoint import BEST, LAST, read_checkpoint
from stylegan_lightning.training.csv_logger import KIMG, MetricsCSV
from stylegan_lightning.training.measurements import as_gan

LONGEST_NAME, LONGEST_TAG = 100, 64
LARGEST_DIFF, LARGEST_ORIGIN = 1_000_000, 1 << 22
"""Bytes."""

# ------------------------------------------------------------------------------------- what a run is called


@dataclass(frozen=True)
class Origin:
    """What a run was started as; it keeps that when it is resumed by another command."""

    name: str
    overrides: Sequence[str] = ()
    sweep: str | None = None


def origin(cfg: DictConfig, run_dir: Path) -> Origin:
    """Of a resumed run as it was stored, whatever this command says."""
    if cfg.resume not in (None, AUTO):
        return _stored_origin(_origin_file(run_dir)) or Origin(cfg.name)
    if not HydraConfig.initialized():
        return Origin(cfg.name)
    hydra = HydraConfig.get()
    sweep = Path(hydra.sweep.dir).name if hydra.mode == RunMode.MULTIRUN else None
    fixed = {argument.split("=")[0] for argument in sys.argv if not _is_swept(argument)}
    # first what a sweep chose for this job
    asked = sorted(hydra.overrides.task, key=lambda text: text.split("=")[0] in fixed)
    return Origin(run_name(cfg.name, asked, sweep is not None), list(short_forms(asked).values()), sweep)


def _stored_origin(path: Path) -> Origin | None:
    """None where there is none, or where the file is damaged."""
    try:
        found = Origin(**parse_json(read_file(path, LARGEST_ORIGIN), path.name))
    except (OSError, ValueError, TypeError, UserError):
        return None
    fits = isinstance(found.name, str) and is_texts(found.overrides) and isinstance(found.sweep, str | None)
    return found if fits else None


def _origin_file(run_dir: Path) -> Path:
    return run_dir / "wandb" / "origin.json"


def _is_swept(argument: str) -> bool:
    """Whether an argument of the command line gives a key several values."""
    try:
        return OverridesParser.create().parse_override(argument).is_sweep_override()
    except HydraException:  # a flag, or the script
        return False


def run_name(name: str, overrides: Iterable[str], in_sweep: bool) -> str:
    """`name` and the overrides in short; `name` alone where it was chosen for this one run."""
    told = short_forms(overrides)
    if any(text.startswith("name=") for text in overrides):
        if not in_sweep:
            return name
    else:
        told = {key: text for key, text in told.items() if key not in ("model", "data")}  # which the name tells
    room = max(LONGEST_NAME - len(name) - 1, 20)
    return " ".join([name, textwrap.shorten(" ".join(told.values()), room, placeholder=" …")]).strip()


_PLACES = ("run_dir", "run_id", "resume", "name", "logger", "paths", "cache_dir", "data.cache_dir", "data.num_workers")


def short_forms(overrides: Iterable[str]) -> dict[str, str]:
    """{key: "r1_gamma=1"} of model.r1_gamma=1: the last part of the key, unless two end alike, and of paths the last
    part. What says only where things are is left out."""
    parsed = [OverridesParser.create().parse_override(text) for text in overrides]
    parsed = [o for o in parsed if not any(f"{o.key_or_group}.".startswith(f"{place}.") for place in _PLACES)]
    leaves = Counter(o.key_or_group.rsplit(".", 1)[-1] for o in parsed)
    forms = {}
    for override in parsed:
        key = override.key_or_group
        leaf = key.rsplit(".", 1)[-1]
        shown = leaf if leaves[leaf] == 1 else key
        value = "" if override.is_delete() else override.get_value_element_as_str().strip("'\"")
        if "/" in value and value[0] not in "[{":
            value = value.rstrip("/").rsplit("/", 1)[-1]
        forms[key] = f"~{shown}" if override.is_delete() else f"{shown}={value}"
    return forms


def wandb_logger(cfg: DictConfig, run_dir: Path) -> WandbLogger:
    """A run of its own, also where the process had another before, or the run `cfg.run_id` again.

    Raises UserError where it cannot be had.
    """
    import wandb

    own = origin(cfg, run_dir)
    tags = [str(tag) for tag in cfg.logger.tags] + [_cut(text, LONGEST_TAG) for text in own.overrides]
    try:
        run = wandb.init(
            project=cfg.logger.project,
            entity=cfg.logger.entity,
            group=cfg.logger.group or own.sweep,
            job_type="sweep" if own.sweep else None,
            tags=list(dict.fromkeys(tags)),
            name=own.name,
            id=cfg.run_id,
            resume="allow",
            reinit="finish_previous",
            dir=run_dir,
            mode=cfg.logger.mode,
            config=to_plain(cfg),
            settings=wandb.Settings(silent=True, console="off"),
        )
    except wandb.errors.Error as error:
        raise UserError(f"Weights & Biases: {error}. Run `wandb login`, or use logger.mode=offline") from error
    _origin_file(run_dir).parent.mkdir(exist_ok=True)
    _origin_file(run_dir).write_text(json.dumps(asdict(own), indent=2) + "\n")
    logger = WandbLogger(experiment=run, save_dir=run_dir)
    run.define_metric(KIMG)
    run.define_metric("*", step_metric=KIMG)
    return logger


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


# -------------------------------------------------------------------------------------------- what it keeps


class WandbRun(Callback):
    """Last in a tick and in a run: what the Weights & Biases run says beside its curves. Nothing where there is none.

    Its configuration gets the section "environment", its summary best/METRIC and where it was reached, and at the end
    it keeps the checkpoints `artifacts` (best, last). What fails is reported; training goes on.
    """

    def __init__(self, run_dir: Path, dataset: PreparedDataset, suite: Suite, artifacts: Iterable[str] = ()) -> None:
        self.run_dir, self.dataset = run_dir, dataset
        self.lower = {name: metric.lower_is_better for metric in suite.metrics for name in metric.names}
        self.artifacts = [file for file in (BEST, LAST) if file.removesuffix(".ckpt") in artifacts]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for run in _runs(trainer):
            with reported("the environment of the run could not be noted"):
                git = None if run.settings.disable_git else git_state(Path(stylegan_lightning.__file__).parent)
                found = environment(self.dataset, git)
                run.config.update({"environment": found}, allow_val_change=True)
                if git is not None and git[1]:
                    (Path(run.dir) / "diff.patch").write_bytes(git[1][:LARGEST_DIFF])
                    run.save(f"{run.dir}/diff.patch", base_path=run.dir, policy="now")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if as_gan(pl_module).tick_done:
            self._summarise(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._summarise(trainer)
        self._keep_checkpoints(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, UserError):  # divergence; after anything else there may be little time
            self._keep_checkpoints(trainer)

    def _summarise(self, trainer: L.Trainer) -> None:
        for run in _runs(trainer):
            run.summary.update(best_values(_rows(trainer), self.lower))

    def _keep_checkpoints(self, trainer: L.Trainer) -> None:
        named = {BEST: ["best"], LAST: ["latest"]}
        files = {path: named[name] for name in self.artifacts if (path := self.run_dir / "checkpoints" / name).exists()}
        if len(files) == 2 and os.path.samefile(*files):
            files = {path: ["best", "latest"] for path in list(files)[:1]}
        for run in _runs(trainer):
            import wandb

            for path, aliases in files.items():
                with reported(f"{path.name} could not be kept in the run"), _staged_in(self.run_dir / "wandb"):
                    metadata = _measured_there(path, _rows(trainer))
                    artifact = wandb.Artifact(f"{run.id}-model", "model", metadata=metadata)
                    artifact.add_file(str(path))
                    artifact.add_file(str(self.run_dir / "config.yaml"))
                    run.log_artifact(artifact, aliases=aliases)


def _runs(trainer: L.Trainer) -> list[Any]:
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, WandbLogger)]


def _rows(trainer: L.Trainer) -> list[dict[str, Any]]:
    """Of metrics.csv; those from before a resume are text."""
    return next((logger.rows for logger in trainer.loggers if isinstance(logger, MetricsCSV)), [])


def _measured_there(checkpoint: Path, rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The kimg of a checkpoint and the metrics of that moment."""
    kimg = read_checkpoint(checkpoint)["progress"]["nimg"] / 1000
    row = next((row for row in rows if float(row[KIMG]) == kimg), {})
    return {"kimg": kimg, **{name: float(v) for name, v in row.items() if name.startswith("metric/") and v != ""}}


def best_values(rows: Sequence[Mapping[str, Any]], lower: Mapping[str, bool]) -> dict[str, float]:
    """best/NAME and best/NAME_kimg of each metric/NAME in `rows` whose direction `lower` knows, by NAME or, of values
    for each class, by what stands before /class/. The untrained network does not count."""
    best: dict[str, float] = {}
    for column in dict.fromkeys(key for row in rows for key in row if key.startswith("metric/")):
        name = column.removeprefix("metric/")
        is_lower = lower.get(name.split("/class/")[0])
        found = [(float(row[column]), float(row[KIMG])) for row in rows if row.get(column) not in (None, "")]
        found = [(value, kimg) for value, kimg in found if math.isfinite(value) and kimg > 0]
        if found and is_lower is not None:
            value, kimg = (min if is_lower else max)(found, key=lambda pair: pair[0])
            best |= {f"best/{name}": value, f"best/{name}_kimg": kimg}
    return best


@contextlib.contextmanager
def _staged_in(directory: Path) -> Iterator[None]:
    """Artifacts wait for their upload in `directory`, unless the user has chosen another place."""
    if "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(directory.absolute())
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]


# ---------------------------------------------------------------------------------------- its surroundings


def environment(dataset: PreparedDataset, git: tuple[str, bytes] | None) -> dict[str, Any]:
    libraries = {name: importlib.metadata.version(name) for name in ("lightning", "torchvision", "numpy", "wandb")}
    own = {"python": platform.python_version(), "torch": str(torch.__version__)}
    return {
        **({"git": {"commit": git[0], "dirty": bool(git[1])}} if git else {}),
        "versions": {"stylegan_lightning": stylegan_lightning.__version__, **own, **libraries},
        "data": {"name": dataset.name, "fingerprint": dataset.fingerprint, "images": len(dataset.images)},
        "hardware": hardware(),
        "command": shlex.join(sys.argv),
    }


def hardware() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": _cpu_name(),
        "cpus": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "gpus": [{"name": gpu.name, "memory_gib": round(gpu.total_memory / 2**30, 1)} for gpu in gpus],
    }


def _cpu_name() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (OSError, ValueError, AttributeError):  # systems without these names
        return None


def git_state(package: Path) -> tuple[str, bytes] | None:
    """(commit, changes since) of the repository that the files in `package` belong to; None where there is none."""

    def git(*arguments: str) -> bytes:
        return subprocess.run(
            ["git", "-C", str(package), *arguments], check=True, capture_output=True, timeout=30
        ).stdout

    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("rev-parse", "HEAD").decode().strip(), git("diff", "--no-ext-diff", "--no-color", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return None
