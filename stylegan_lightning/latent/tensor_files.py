"""safetensors files of this package's own formats: read up to a size, and what is in them checked."""

from __future__ import annotations

from pathlib import Path

import safetensors
import torch
from torch import Tensor

from stylegan_lightning.errors import UserError
from stylegan_lightning.files import parse_json, safe_name

LARGEST = 4_000_000_000
"""Bytes of a file; the styles of 100,000 pictures of 1024 pixels. Tensors cannot be larger than their file."""
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def read_tensors(path: Path, format: str, what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file whose `format` says that it holds `what`. Raises UserError."""
    try:
        if not path.is_file():
            raise UserError(f"there is no file {path} with {what}")
        size = path.stat().st_size
        if size > LARGEST:
            raise UserError(f"{path} has {size / 1e6:,.0f} MB; files with {what} have at most {LARGEST / 1e6:,.0f} MB")
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != format:
                raise UserError(f"{path} does not hold {what}: it was written by something else")
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 - no mapping
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path} is damaged or is not a safetensors file: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} holds numbers of a kind that is not known here: {error}") from error


def finite_floats(tensor: Tensor, what: str, path: Path) -> Tensor:
    """float32. Raises UserError for whole and complex numbers, and for what is not finite."""
    if tensor.dtype not in _FLOATS:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise UserError(f"{path} is damaged: {what} must be floating-point numbers; they are of type {kind}")
    tensor = tensor.float()
    if not bool(tensor.isfinite().all()):
        raise UserError(f"{path} is damaged: {what} must be finite numbers; there are infinite ones or NaN")
    return tensor


def names_in(text: str | None, count: int, path: Path) -> tuple[str, ...]:
    """Safe names, of a JSON list of `count` texts; two may be alike. Raises UserError for anything else."""
    found = None if text is None else parse_json(text, f"{path} is damaged: its list of names")
    if not isinstance(found, list) or len(found) != count or not all(isinstance(name, str) for name in found):
        raise UserError(f"{path} is damaged: it must name each of its {count} codes, in a list of texts")
    return tuple(map(safe_name, found))
