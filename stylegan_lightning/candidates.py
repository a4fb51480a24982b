"""The two sides of an evaluation: checkpoints, folders and archives of images."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from stylegan_lightning import builders
from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.data.cache import prepare
from stylegan_lightning.data.containers import OutsideLinks
from stylegan_lightning.data.image_folder import ImageFolder
from stylegan_lightning.errors import UserError
from stylegan_lightning.networks import Generator
from stylegan_lightning.training.checkpoint import BEST, LAST, find_checkpoint, read_checkpoint


@dataclass(frozen=True)
class Candidate:
    """A generator or a set of images, ready to be measured; `cfg` and `kimg` are those of a checkpoint."""

    path: Path
    fakes: Generator | PreparedDataset
    cfg: DictConfig | None = None
    kimg: float | None = None

    @property
    def G(self) -> Generator | None:
        return None if isinstance(self.fakes, PreparedDataset) else self.fakes

    @property
    def model(self) -> str:
        return self.cfg.model.name if self.cfg is not None else "images"


def candidate_paths(value: Any, every_checkpoint: bool = False) -> list[Path]:
    """What `ckpt=` or `fakes=` names, one or a list. Raises UserError when there is none or one is missing.

    A run directory stands for its last checkpoint or, with `every_checkpoint`, for all that it holds.
    """
    values = list(value) if OmegaConf.is_list(value) or isinstance(value, list | tuple) else [value]
    if not values:
        raise UserError("ckpt is an empty list: give a checkpoint or a run directory, or several")
    found: list[Path] = []
    for given in values:
        path = Path(str(given)).expanduser()
        if is_images(path):
            found.append(path)
        elif every_checkpoint and path.is_dir():
            found += checkpoints_of(path)
        else:
            found.append(find_checkpoint(path))
    return found


def is_images(path: Path) -> bool:
    """Whether the path is an archive, or a folder that is no run directory."""
    if path.is_dir():
        return not any((path / place / LAST).exists() for place in ("", "checkpoints"))
    return path.suffix.lower() == ".zip"


def checkpoints_of(run_dir: Path) -> list[Path]:
    """Every checkpoint of a run, by kimg; files that are the same one under two names once."""
    last = find_checkpoint(run_dir)
    files = {p.stat().st_ino: p for p in sorted(last.parent.glob("*.ckpt"), key=lambda p: p.name in (BEST, LAST))[::-1]}
    return sorted(files.values(), key=lambda p: read_checkpoint(p)["progress"]["nimg"])


def load_candidate(path: Path, cfg: DictConfig) -> Candidate:
    """`G_ema` and the configuration of a checkpoint, or prepared images. Raises UserError as `load` does."""
    if is_images(path):
        return Candidate(path, load_images(path, cfg))
    checkpoint = read_checkpoint(path)
    G, own = builders.restored_generator(checkpoint, path)
    return Candidate(path, G, own, checkpoint["progress"]["nimg"] / 1000)


def load_images(path: Path, cfg: DictConfig) -> PreparedDataset:
    """A folder or zip at `cfg.resolution`, or at the size of its first image: every image's largest centred square."""
    if not path.exists():
        raise UserError(f"there is nothing at {path}: give a folder or a zip archive of images")
    links = cfg.get("follow_links", False)
    with _outside_links():
        resolution = cfg.resolution or ImageFolder(path, 8, follow_links=links).native_resolution()
        source = ImageFolder(path, resolution, cfg.channels, follow_links=links)
    dataset = prepare(source, cfg.data_cache_dir, on_error="raise")
    if len(dataset.images) < 2:
        raise UserError(f"{path} has {len(dataset.images)} image; an evaluation needs at least 2")
    return dataset


@contextlib.contextmanager
def _outside_links() -> Iterator[None]:
    """Names the key of evaluate.yaml."""
    try:
        yield
    except OutsideLinks as error:
        raise UserError(f"{error.what}. Set follow_links=true to read what they lead to.") from None


def training_data(candidate: Candidate, given: DictConfig) -> PreparedDataset:
    """The data that the checkpoint was trained on, from `data_path` if they have moved.

    What must be prepared anew is written to the cache of this evaluation, never where a checkpoint says. Raises
    UserError when their labels no longer fit the network.
    """
    assert candidate.cfg is not None and candidate.G is not None
    cfg, data_path = candidate.cfg.copy(), given.data_path
    if data_path is not None:
        if "path" not in cfg.data:
            raise UserError(
                f"data_path is given, but {candidate.path} was trained on {cfg.data.name}, which has no files"
            )
        builders.change(cfg, "data.path", data_path)
    elif OmegaConf.select(cfg, "data.source.root") is not None:
        builders.change(cfg, "data.source.download", False)
    if given.get("follow_links") and cfg.data.name == "image_folder":
        builders.change(cfg, "data.source.follow_links", True)
    with _outside_links():
        dataset = builders.build_dataset(cfg, cache_dir=given.data_cache_dir or builders.cache_dir(given))
    if dataset.c_dim != candidate.G.c_dim:
        raise UserError(
            f"{candidate.path} was trained with {candidate.G.c_dim} label columns; the data now give {dataset.c_dim}"
        )
    return dataset


def reals_for(
    candidate: Candidate, other: Candidate | None, cfg: DictConfig
) -> tuple[nn.Module | PreparedDataset | None, PreparedDataset | None]:
    """What a candidate is compared with, and the data set whose labels it is asked for.

    The reals are `other`, which `reals=` named, else the checkpoint's training data; None where there are neither.
    """
    own = training_data(candidate, cfg) if candidate.cfg is not None else None
    if other is None:
        return own, own
    if other.G is not None and other.G.c_dim and own is None:
        own = training_data(other, cfg)
    if other.G is not None and candidate.G is not None and other.G.c_dim != candidate.G.c_dim:
        raise UserError(
            f"reals={other.path} takes {other.G.c_dim} label columns and {candidate.path} takes {candidate.G.c_dim}: "
            "two generators that are compared must take the same labels"
        )
    return other.fakes, own


def device_of(cfg: DictConfig) -> torch.device:
    """The device that `trainer.accelerator` names. Raises UserError when it is not there."""
    name = cfg.trainer.accelerator
    cuda = torch.cuda.is_available()
    if name in ("gpu", "cuda") and not cuda:
        raise UserError(f"trainer.accelerator={name}, but PyTorch sees no GPU; use trainer=cpu or trainer=auto")
    if not cuda or name == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())
