"""Made-up run directories."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from stylegan_lightning.imaging import save_png


def config(r1_gamma=1.0, g_lr=0.002, augment="none", total_kimg=8.0, **more):
    own = {
        "name": "stylegan2_faces", "run_dir": f"runs/{r1_gamma}", "run_id": f"id{g_lr}", "cache_dir": f"/c{g_lr}",
        "model": {
            "name": "stylegan2", "r1_gamma": r1_gamma, "g_lr": g_lr, "g_betas": [0.0, 0.99],
            "loss": {"_target_": "stylegan_lightning.losses.NonSaturating"},
            "d_penalties": {"r1": {"gamma": r1_gamma}},
        },
        "schedule": {"total_kimg": total_kimg, "object": {"_target_": "a.FixedSchedule", "total_kimg": total_kimg}},
        "data": {"name": "faces", "resolution": 8, "seed": 0, "source": {"resolution": 8}},
        "augment": {"name": augment, **({"policy": "color"} if augment == "diffaug" else {})},
        "logger": {"group": f"{r1_gamma}"},
    }  # fmt: skip
    return OmegaConf.merge(own, more)


def rows(values, column="metric/fid", step=2.0):
    return [
        {"progress/kimg": i * step, "progress/batches": i, column: v, "loss/G": 2.0 - i / 10, "speed/img_per_s": 50 + i}
        for i, v in enumerate(values)
    ]


def write_rows(folder: Path, table) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "metrics.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(k for r in table for k in r)), restval="")
        writer.writeheader()
        writer.writerows(table)


def make_run(folder: Path, values=(9.0, 5.0, 4.0, 3.0, 3.5), pictures=(0, 4, 8), column="metric/fid", **options):
    write_rows(folder, rows(values, column))
    OmegaConf.save(config(**options), folder / "config.yaml")
    (folder / "checkpoints").mkdir()
    for name in ("best", "last"):
        (folder / "checkpoints" / f"{name}.ckpt").touch()
    for kimg in pictures:
        grid = np.full((16, 32, 3), 30 * kimg % 256, np.uint8)
        save_png(folder / "samples" / f"fakes_{kimg:09.3f}_kimg.png", grid)
    save_png(folder / "samples" / "reals.png", np.full((16, 32, 3), 200, np.uint8))
    return folder


def write_result(folder: Path, **fields) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps({"status": "finished", "kimg": 8.0, "overrides": [], **fields}))
