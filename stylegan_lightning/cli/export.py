"""stylegan-lightning export"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stylegan_lightning.cli import common


def export(
    model: common.Model,
    target: Annotated[Path, typer.Argument(metavar="FILE.safetensors")],
) -> None:
    """The EMA generator alone, in one file: weights and configuration, nothing that runs.

    All verbs and evaluate.py take it like a checkpoint, of which it is a fraction; training goes on from
    checkpoints only.
    """
    from stylegan_lightning.builders import load_generator
    from stylegan_lightning.training.checkpoint import export_generator, find_checkpoint

    path = find_checkpoint(model)
    load_generator(path)  # what cannot be used is not passed on
    export_generator(path, target)
    print(f"{target}: {target.stat().st_size / 2**20:.1f} MiB")
