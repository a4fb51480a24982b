"""Whole files only: checkpoints are written to a temporary name, flushed and renamed."""

from __future__ import annotations

import json
import math
import os
import re
import reprlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import safetensors
import safetensors.torch
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import CheckpointIO
from torch import Tensor

from stylegan_lightning.errors import UserError
from stylegan_lightning.files import parse_json, printable, replacing
from stylegan_lightning.interop.archive import read_archive
from stylegan_lightning.training.module import GAN

LAST, BEST = "last.ckpt", "best.ckpt"
MOST_VALUES, DEEPEST = 2_000_000, 24
"""What may stand in a checkpoint: one of StyleGAN3 has some ten thousand values."""
EXPORTED, EXPORT_FORMAT = ".safetensors", "stylegan_lightning generator 1"


def write_atomically(path: Path, checkpoint: dict[str, Any]) -> None:
    """Raises UserError, leaving the previous file as it was, when the disk is full or cannot be written."""
    try:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        kept = f" The previous {path.name} is whole and kept." if path.exists() else ""
        raise UserError(
            f"cannot write the checkpoint {path}: {error}.{kept} Free some space or choose another place with "
            "run_dir=..., then go on with resume=..."
        ) from error


def export_generator(source: Path, target: Path) -> None:
    """`G_ema` of a checkpoint alone, with its configuration, as safetensors: for use, not for training on.

    Whole or not at all. Raises UserError for a target of another kind, and as `read_checkpoint` does.
    """
    if target.suffix != EXPORTED:
        raise UserError(f"an exported generator is a {EXPORTED} file; got {target}")
    checkpoint = read_checkpoint(source)
    weights = {name: tensor.contiguous() for name, tensor in under(checkpoint["state_dict"], "G_ema.").items()}
    metadata = {
        "format": EXPORT_FORMAT,
        "config": json.dumps(checkpoint["config"]),
        "nimg": str(checkpoint["progress"]["nimg"]),
    }
    try:
        with replacing(target) as temporary:
            temporary.write_bytes(safetensors.torch.save(weights, metadata))
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error


def _read_exported(path: Path) -> dict[str, Any]:
    """As a checkpoint that has `G_ema` alone."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {f"G_ema.{name}": file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is damaged or is not a safetensors file: {error}") from error
    if metadata.get("format") != EXPORT_FORMAT:
        raise UserError(f"{path} was not written by stylegan-lightning export")
    config = parse_json(metadata.get("config", ""), f"{path} is damaged: its configuration", _numbered)
    nimg = parse_json(metadata.get("nimg", ""), f"{path} is damaged: its count of images")
    return {"state_dict": state, "config": config, "progress": {"nimg": nimg}}


def _numbered(table: dict[str, Any]) -> dict[Any, Any]:
    """JSON has no numbers for keys."""
    return {int(key) if re.fullmatch("[0-9]{1,9}", key) else key: value for key, value in table.items()}


_TO_GO_ON = {"optimizer_states": list, "lr_schedulers": list, "callbacks": dict, "running_means": dict}


def check_trainable(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Raises UserError for what is a generator alone."""
    if not any(name.startswith("D.") for name in checkpoint["state_dict"]):
        raise UserError(
            f"{path} is an exported generator, without the discriminator that training needs: give the checkpoint"
        )


def check_resumable(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Raises UserError as `check_trainable`, and for what lacks the state of training."""
    check_trainable(checkpoint, path)
    wrong = [name for name, kind in _TO_GO_ON.items() if not isinstance(checkpoint.get(name), kind)]
    batches = checkpoint["progress"].get("batches")
    wrong += [] if type(batches) is int and batches >= 0 else ["progress.batches"]
    if wrong:
        raise UserError(f"{path} is damaged: its state of training lacks {', '.join(wrong)}")


def under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose names begin with `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint or exported generator of this project, as plain tables and tensors (`interop.archive`).

    Raises UserError for a missing, damaged or foreign file, and for one whose content claims more than it holds.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint at {path}: give a .ckpt file or a run directory that holds one")
    if path.suffix == EXPORTED:
        checkpoint = _read_exported(path)
    else:
        try:
            checkpoint = read_archive(path)
        except Exception as error:  # damaged archives make zipfile raise many types
            reason = printable(next(iter(str(error).splitlines()), "") or type(error).__name__)[:200]
            raise UserError(f"{path} is damaged or is not a checkpoint: {reason}") from error
    missing = {"state_dict", "config", "progress"} - set(checkpoint if isinstance(checkpoint, dict) else ())
    if missing:
        raise UserError(
            f"{path} was not written by stylegan_lightning: it lacks {', '.join(sorted(missing))}. "
            "Weights of other projects come in through stylegan_lightning.interop."
        )
    _check_content(checkpoint, path)
    return checkpoint


def _check_content(checkpoint: dict[str, Any], path: Path) -> None:
    """Raises UserError unless its parts are of the kinds that every reader takes them for."""
    if any(count > MOST_VALUES for count, _ in enumerate(_values(checkpoint))):
        raise UserError(f"{path} is damaged: it holds more than {MOST_VALUES:,} values")
    state, progress = checkpoint["state_dict"], checkpoint["progress"]
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise UserError(f"{path} is damaged: its weights are no table of tensors")
    nimg = progress.get("nimg") if isinstance(progress, dict) else None
    if type(nimg) is not int or not 0 <= nimg < 2**63:
        raise UserError(f"{path} is damaged: its count of images is {reprlib.repr(nimg)}")


def _values(node: Any, depth: int = 0) -> Iterator[Any]:
    yield node
    if isinstance(node, dict | list | tuple) and depth < DEEPEST:
        for value in node.values() if isinstance(node, dict) else node:
            yield from _values(value, depth + 1)


def find_checkpoint(path: str | Path) -> Path:
    """The file itself, or the last checkpoint of a run directory. Raises UserError when there is none."""
    path = Path(path).expanduser()
    if not path.is_dir():
        return path
    for candidate in (path / "checkpoints" / LAST, path / LAST):
        if candidate.is_file():
            return candidate
    raise UserError(f"{path} holds no checkpoints/{LAST}: give a run directory that has been trained, or a .ckpt file")


class WholeFileCheckpointIO(CheckpointIO):
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        write_atomically(Path(path), checkpoint)

    def load_checkpoint(self, path: Any, map_location: Any | None = None, weights_only: bool | None = None) -> Any:
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


class Checkpoints(Callback):
    """`last.ckpt` every `every_ticks` ticks and at the end; `best.ckpt` whenever `monitor` (lower is better) falls;
    the untrained network does not count.

    With `keep_every_ticks` also checkpoints that stay, named by their kimg. `measured_as` says how the monitored value
    is measured now: after a change of that the best starts anew.
    """

    def __init__(
        self,
        directory: Path,
        every_ticks: int,
        monitor: str | None,
        keep_every_ticks: int | None = None,
        measured_as: Callable[[], str] = str,
    ) -> None:
        self.directory, self.every_ticks, self.monitor = directory, every_ticks, monitor
        self.keep_every_ticks, self.measured_as = keep_every_ticks, measured_as
        self.best_value, self.best_kimg, self._best_as = math.inf, 0.0, ""
        self._saved_at, self._tick = -1, 0

    def state_dict(self) -> dict[str, Any]:
        return {"best_value": self.best_value, "best_kimg": self.best_kimg, "best_as": self._best_as}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_value, self.best_kimg = state_dict["best_value"], state_dict["best_kimg"]
        self._best_as = state_dict.get("best_as", "")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, GAN)
        self._saved_at = pl_module.nimg  # what is on disk, or not worth saving

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, GAN)
        if not pl_module.tick_done:
            return
        self._tick += 1
        improved = self._note_best(pl_module)
        keep = self.keep_every_ticks is not None and self._tick % self.keep_every_ticks == 0
        if improved or keep or self._tick % self.every_ticks == 0:
            self._save(trainer, pl_module)
        if improved and trainer.is_global_zero:
            _link(self.directory / LAST, self.directory / BEST)
        if keep and trainer.is_global_zero:
            _link(self.directory / LAST, self.directory / f"kimg_{pl_module.nimg / 1000:09.3f}.ckpt")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, GAN)
        if pl_module.nimg != self._saved_at:
            self._save(trainer, pl_module)
        if self.monitor is None and trainer.is_global_zero:
            _link(self.directory / LAST, self.directory / BEST)

    def _save(self, trainer: L.Trainer, module: GAN) -> None:
        trainer.save_checkpoint(self.directory / LAST)
        self._saved_at = module.nimg

    def _note_best(self, module: GAN) -> bool:
        value = module.report.get(self.monitor, math.nan) if self.monitor else math.nan
        now = f"{self.monitor} {self.measured_as()}"
        if self._best_as and value == value and now != self._best_as:
            warnings.warn(f"{self.monitor} is measured in another way than before: best.ckpt starts anew", stacklevel=2)
            self.best_value = math.inf
        if not value < self.best_value:
            return False
        self.best_value, self.best_kimg, self._best_as = value, module.nimg / 1000, now
        return True


def _link(source: Path, target: Path) -> None:
    """`target` becomes another name of `source`, which is only ever replaced, never changed."""
    temporary = target.with_name(target.name + ".tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # file systems without hard links
        import shutil

        shutil.copyfile(source, temporary)
    os.replace(temporary, target)
