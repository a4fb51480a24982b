"""A growing run as one picture: python benchmarks/growth_strip.py RUN_DIR OUT.png

One row of each grid in RUN_DIR/samples, labelled with the moment, the resolution and the weight of the newest block.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from compare_models import labelled
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from stylegan_lightning.builders import build_schedule
from stylegan_lightning.imaging import save_png

CELL = 64


def main(run_dir: Path, out: Path) -> None:
    cfg = OmegaConf.load(run_dir / "config.yaml")
    assert isinstance(cfg, DictConfig)
    schedule = build_schedule(cfg)
    rows = {}
    for path in sorted((run_dir / "samples").glob("fakes_*_kimg.png")):
        kimg = float(path.stem.split("_")[1])
        stage = schedule.at(max(round(1000 * kimg) - 1, 0))  # the last batch that was trained
        name = f"{kimg:g}k: {stage.resolution} px" + (f", {stage.alpha:.2f}" if stage.alpha < 1 else "")
        rows[name] = np.asarray(Image.open(path).convert("RGB"))[:CELL]
    save_png(out, labelled(rows))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
