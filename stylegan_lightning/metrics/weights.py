"""Weights that no package ships: found, downloaded with their checksum, or asked for in one message."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stylegan_lightning.errors import UserError


def file_hash(path: Path) -> str:
    """First 8 hex digits of the file's sha256."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()[:8]


@dataclass(frozen=True)
class WeightsFile:
    """A published file of weights, kept in torch hub's cache under the first of its `names`."""

    network: str  # such as "torchvision's VGG16"
    title: str  # of the weights, for messages: "Inception weights for FID"
    metric: str  # what needs it
    names: tuple[str, ...]  # under which it is published
    url: str
    sha256: str  # first 8 hex digits
    option: str  # that names a file elsewhere
    otherwise: str  # what needs no download
    size: str = ""

    def find(self, given: str | Path | None) -> Path:
        """An existing file: the user's, else torch hub's, else downloaded there. Raises UserError without one."""
        if given is not None:
            path = Path(given).expanduser()
            if not path.is_file():
                raise UserError(f"{self.option}: there is no file {path}. {self.how_to_get()}")
            return path
        for name in self.names:
            if (_folder() / name).is_file():
                return _folder() / name
        path = _folder() / self.names[0]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # writes to a temporary name, checks the checksum, then renames
            torch.hub.download_url_to_file(self.url, str(path), hash_prefix=self.sha256, progress=False)
        except (OSError, RuntimeError) as e:  # URLError is an OSError; a wrong checksum is a RuntimeError
            raise UserError(f"The {self.title} could not be downloaded ({e}). {self.how_to_get()}") from e
        return path

    def how_to_get(self) -> str:
        size = f", {self.size}" if self.size else ""
        return (
            f"{self.metric} needs the file {self.names[0]} (sha256 {self.sha256}...{size}) from {self.url} . "
            f"Put it into {_folder()}, or anywhere and set {self.option}=FILE. {self.otherwise}"
        )

    def read(self, path: Path) -> dict[str, Tensor]:
        """The state dict in the file, loaded without running anything in it."""
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as e:  # unpickling, zip and I/O errors share no base
            reason = (str(e).splitlines() or [type(e).__name__])[0]
            raise self.foreign(path, f"it cannot be read as a file of plain tensors ({reason})") from e
        if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
            raise self.foreign(path, "it does not hold a plain state dict")
        return state

    def hash_of(self, path: Path) -> str:
        """First 8 hex digits of the file's sha256. Warns, for the caller's caller, of one that is not published."""
        found = file_hash(path)
        if found != self.sha256:
            warnings.warn(
                f"{path} is not {self.network} (sha256 {found}..., not {self.sha256}...): "
                "the values cannot be compared with published ones.",
                stacklevel=3,
            )
        return found

    def foreign(self, path: Path, reason: object) -> UserError:
        lines = [line.strip() for line in str(reason).splitlines()[:3]]
        text = " ".join(line if len(line) < 160 else f"{line[:160]}..." for line in lines)
        return UserError(f"{path} is not {self.network}: {text}. {self.how_to_get()}")


def _folder() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"
