"""Train and use StyleGAN-family models with PyTorch Lightning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stylegan_lightning.errors import UserError

if TYPE_CHECKING:
    from stylegan_lightning.networks import Generator

__version__ = "0.1.0"
__all__ = ["UserError", "__version__", "load"]


def load(path: str | Path) -> Generator:
    """The EMA generator of a checkpoint (or of a run directory's last one), in eval mode, on the CPU."""
    from stylegan_lightning.builders import load_generator

    return load_generator(path)
