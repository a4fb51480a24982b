"""Trains every model on the same data from the same seed and puts the results side by side.

    python benchmarks/compare_models.py OUT_DIR [--models stylegan2,progan --kimg 30,mlp=20] [KEY=VALUE ...]

--kimg is the length of all runs, and of those named. Each model runs as `python train.py model=NAME` with the demo's
settings. Writes OUT_DIR/models.md, a table of size, speed, memory and distances, and OUT_DIR/models.png, a row of
samples for each model. A run that is already there and complete is not repeated.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from stylegan_lightning.imaging import image_grid, name_rows, save_png, to_uint8
from stylegan_lightning.training.checkpoint import read_checkpoint

ROOT = Path(__file__).parent.parent
MODELS = ("mlp", "dcgan", "wgan_gp", "progan", "stylegan1", "stylegan2", "stylegan3_t", "stylegan3_r")


def train(model: str, run_dir: Path, kimg: float, overrides: list[str]) -> list[dict[str, str]]:
    """Rows of metrics.csv of a complete run."""
    metrics = run_dir / "metrics.csv"
    if not metrics.exists() or float(rows_of(metrics)[-1]["progress/kimg"]) < kimg:
        command = [sys.executable, str(ROOT / "train.py"), f"model={model}", f"schedule.total_kimg={kimg:g}"]
        command += ["logger=csv", f"run_dir={run_dir.absolute()}", *overrides]
        subprocess.run(command, cwd=ROOT, check=True)
    return rows_of(metrics)


def kimg_of(text: str, model: str) -> float:
    """`30,mlp=20`: 20 for mlp, 30 for the others."""
    named = dict(part.split("=", 1) for part in text.split(",") if "=" in part)
    common = [part for part in text.split(",") if "=" not in part]
    return float(named.get(model) or common[-1])


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def parameters(run_dir: Path) -> tuple[int, int]:
    """Of G and D."""
    state = read_checkpoint(run_dir / "checkpoints" / "last.ckpt")["state_dict"]
    G, D = (sum(v.numel() for k, v in state.items() if k.startswith(f"{n}.") and "_extra" not in k) for n in "GD")
    return G, D


@torch.inference_mode()
def samples(run_dir: Path, count: int) -> np.ndarray:
    import stylegan_lightning

    G = stylegan_lightning.load(run_dir)
    z = torch.randn(count, G.z_dim, generator=torch.Generator().manual_seed(1))
    imgs = G(z, torch.zeros(count, G.c_dim), noise_mode="const")
    return image_grid(to_uint8(imgs), count)


def table(results: dict[str, tuple[list[dict[str, str]], tuple[int, int]]]) -> str:
    lines = [
        "| model | G, million parameters | D | kimg | img/s | memory, GiB | distance: start | end | end / start |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for model, (rows, (G, D)) in results.items():
        key = next(k for k in rows[0] if k.startswith("metric/"))
        values = [float(r[key]) for r in rows if r.get(key)]
        speeds = sorted(float(r["speed/img_per_s"]) for r in rows if r.get("speed/img_per_s"))
        memory = max(float(r["memory/cpu_gib"]) for r in rows if r.get("memory/cpu_gib"))
        kimg = float(rows[-1]["progress/kimg"])
        lines.append(
            f"| {model} | {G / 1e6:.2f} | {D / 1e6:.2f} | {kimg:.0f} | {speeds[len(speeds) // 2]:.0f} "
            f"| {memory:.2f} | {values[0]:.0f} | {values[-1]:.0f} | {values[-1] / values[0]:.2f} |"
        )
    return "\n".join(lines) + "\n"


def labelled(strips: dict[str, np.ndarray]) -> np.ndarray:
    """Rows of samples, of one size, with their names on the left."""
    return name_rows(np.concatenate(list(strips.values())), list(strips))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--kimg", default="30")
    parser.add_argument("--samples", type=int, default=12)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()
    results, strips = {}, {}
    for model in options.models.split(","):
        run_dir = options.out_dir / model
        rows = train(model, run_dir, kimg_of(options.kimg, model), options.overrides)
        results[model] = rows, parameters(run_dir)
        strips[model] = samples(run_dir, options.samples)
    text = table(results)
    (options.out_dir / "models.md").write_text(text)
    save_png(options.out_dir / "models.png", labelled(strips))
    print(text)


if __name__ == "__main__":
    main()
