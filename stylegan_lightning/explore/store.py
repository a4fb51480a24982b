"""Codes that were found or brought in, kept in a folder under an id made of their content."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from pathlib import Path

from torch import nn

from stylegan_lightning.errors import UserError
from stylegan_lightning.latent.codes import EXTENSION, Codes, check_fits
from stylegan_lightning.networks import Generator

IN_MEMORY = 64
ID_LENGTH = 16


def model_hash(G: nn.Module) -> str:
    """16 hex digits of the weights, and of how far a growing network has grown."""
    digest = hashlib.sha256()
    for name, value in sorted(G.state_dict().items()):
        digest.update(name.encode())
        array = value.detach().cpu().contiguous().flatten().numpy() if hasattr(value, "detach") else None
        digest.update(repr(value).encode() if array is None else array.tobytes())
    return digest.hexdigest()[:ID_LENGTH]


class Store:
    """One code in each file. Used by several threads."""

    def __init__(self, folder: Path, G: Generator) -> None:
        """Raises UserError where the folder cannot be made."""
        self.folder, self.G = folder, G
        self._lock, self._recent = threading.Lock(), OrderedDict[str, Codes]()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the folder {folder}: {error.strerror}; choose another with --store") from None

    def put(self, code: Codes) -> str:
        """The id of one code; the same code has the same id. Raises UserError where it cannot be written."""
        assert len(code) == 1
        digest = hashlib.sha256()
        for name, tensor in sorted({"": code.ws, **code.noise}.items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        key = digest.hexdigest()[:ID_LENGTH]
        try:
            code.save(self.folder / f"{key}{EXTENSION}")
        except OSError as error:
            raise UserError(f"cannot keep the code in {self.folder}: {error.strerror}") from None
        self._remember(key, code)
        return key

    def get(self, key: str) -> Codes:
        """Raises UserError for one that is not there or is damaged."""
        with self._lock:
            code = self._recent.get(key)
        if code is None:
            path = self.folder / f"{key}{EXTENSION}"
            if not path.is_file():
                raise UserError(
                    f"there is no code {key}: it was found by another model, or by an earlier state of this one"
                )
            code = check_fits(self.G, Codes.load(path), path)
        self._remember(key, code)
        return code

    def _remember(self, key: str, code: Codes) -> None:
        with self._lock:
            self._recent[key] = code
            self._recent.move_to_end(key)
            while len(self._recent) > IN_MEMORY:
                self._recent.popitem(last=False)
