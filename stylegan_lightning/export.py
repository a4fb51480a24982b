"""python -m stylegan_lightning.export CHECKPOINT_OR_RUN OUT.safetensors: the EMA generator alone, in one file.

It holds weights and configuration, nothing that runs, and is a fraction of the checkpoint. `stylegan_lightning.load`
and `evaluate.py ckpt=` take it like a checkpoint; training goes on from checkpoints only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from stylegan_lightning.errors import UserError
from stylegan_lightning.training.checkpoint import export_generator, find_checkpoint


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m stylegan_lightning.export", description=__doc__.split(":", 1)[1])
    parser.add_argument("source", type=Path, help="a checkpoint, or a run directory: its last one")
    parser.add_argument("target", type=Path, help="a .safetensors file")
    options = parser.parse_args(arguments)
    try:
        export_generator(find_checkpoint(options.source), options.target)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(f"{options.target}: {options.target.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
