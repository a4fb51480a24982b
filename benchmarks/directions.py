"""What directions change, on a model whose factors are known: monotonicity, range and leakage, and other methods.

    python train.py                                                   # the default job
    python train.py data.size=16384 schedule.total_kimg=112           # its larger sibling
    python benchmarks/directions.py runs/NAME

Five to ten minutes on one CPU core after the training: three train a regressor of faces to find directions with and
another to judge them, which are kept in OUT; the rest reads 40,000 pictures and those that are moved. Prints tables in
Markdown; writes OUT/directions.safetensors, OUT/strips.png (a row for each direction and seed) and OUT/leakage.png.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import stylegan_lightning
from stylegan_lightning.files import replacing
from stylegan_lightning.imaging import name_rows, save_png
from stylegan_lightning.latent.attributes import Examples, sample_examples
from stylegan_lightning.latent.codes import parse_seeds, styles_of
from stylegan_lightning.latent.directions import Directions, pca, sefa, strip
from stylegan_lightning.latent.face_regressor import FaceRegressor, face_regressor_for
from stylegan_lightning.latent.judging import STRENGTHS, Judgement, judge, leakage_matrix, markdown
from stylegan_lightning.latent.steering import steered
from stylegan_lightning.latent.supervised import METHODS, Method, supervised
from stylegan_lightning.networks import Generator

NAMES = ("yaw", "smile", "glasses", "hair_melanin", "light_azimuth")
DEFAULT: Method = "balanced"
FIRST_JUDGED = 1000
"""Seed of the first picture that is moved; directions are found in random pictures."""


def compared(examples: dict[str, Examples]) -> list[tuple[str, Method, str]]:
    """(method and variant as a title, method, kind of samples): others are held, or not."""
    held = [(f"{m}, {kind}", m, kind) for kind in examples for m in METHODS]
    return held + [(f"{m}, {kind}, nothing held", m, kind) for kind in examples for m in (DEFAULT, "ridge", "means")]


def find(G: Generator, examples: Examples, method: Method, hold: bool) -> Directions:
    return supervised(G, examples, NAMES, range(G.num_ws), method=method, orthogonal_to=examples.names if hold else ())


def summary(title: str, judged: Sequence[Judgement]) -> str:
    """Means over the directions, and the rank correlation of each."""
    mean = [np.mean([getattr(j, key) for j in judged]) for key in ("rank", "mean_leakage", "changed", "moved")]
    cells = [f"{x:.2f}" for x in mean] + [f"{j.rank:.2f}" for j in judged]
    return f"| {title} | " + " | ".join(cells) + " |"


def print_methods(
    G: Generator, examples: dict[str, Examples], other: FaceRegressor, ws: Tensor, best: Sequence[Judgement]
) -> None:
    print("\n| method, samples | rank | leakage | picture by picture | moved (sd) | " + " | ".join(NAMES) + " |")
    print("|---" * (5 + len(NAMES)) + "|")
    print(summary("steered", best))
    for title, method, kind in compared(examples):
        found = find(G, examples[kind], method, hold="nothing" not in title)
        print(summary(title, judge(G, found, other, ws)), flush=True)


def print_unsupervised(G: Generator, other: FaceRegressor, ws: Tensor, count: int = 16) -> None:
    """For each name, the direction among SeFa's and PCA's that moves it most steadily."""
    print(f"\n| best of {count} | " + " | ".join(f"{n}: rank, leakage" for n in NAMES) + " |")
    print("|---" * (1 + len(NAMES)) + "|")
    for found in (sefa(G, range(G.num_ws), count), pca(G, range(G.num_ws), count)):
        best = {}
        for name in NAMES:
            judged = judge(G, found, other, ws, owners=dict.fromkeys(found.names, name))
            best[name] = max(judged, key=lambda j: abs(j.rank))
        cells = [f"{j.direction} {abs(j.rank):.2f}, {j.mean_leakage:.2f}" for j in best.values()]
        print(f"| {found.items[0].method} | " + " | ".join(cells) + " |", flush=True)


def plot_leakage(path: Path, judged: Sequence[Judgement]) -> None:
    from matplotlib.figure import Figure

    matrix, factors = leakage_matrix(judged)
    figure = Figure(figsize=(0.34 * len(factors) + 2, 0.4 * len(judged) + 2), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(matrix, vmin=0, vmax=1, cmap="Blues")
    axes.set_xticks(range(len(factors)), factors, rotation=60, ha="right")
    axes.set_yticks(range(len(judged)), [j.direction for j in judged])
    axes.set_title("what else changes with each direction: change in sd, per sd of its own factor")
    figure.colorbar(shown, shrink=0.8)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def draw_strips(path: Path, G: Generator, found: Directions, ws: Tensor) -> None:
    rows = np.concatenate([strip(G, d, ws, np.linspace(-2, 2, 7).tolist()) for d in found])
    save_png(path, name_rows(rows, [d.name if i == 0 else "" for d in found for i in range(len(ws))]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run directory or checkpoint of data=faces")
    parser.add_argument("--out", type=Path, default=Path("directions"))
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--judged", type=int, default=64, help="how many pictures are moved")
    parser.add_argument("--psi", type=float, default=0.7, help="truncation of the pictures that are moved")
    parser.add_argument("--strip-seeds", default="1,2", help="rows of each direction in strips.png")
    options = parser.parse_args()
    G = stylegan_lightning.load(options.run).to("cuda" if torch.cuda.is_available() else "cpu")
    reader = face_regressor_for(G, options.out / "regressor.safetensors")
    other = face_regressor_for(G, options.out / "judge.safetensors", seed=1)
    for title, net in (("finds", reader), ("judges", other)):
        quality = dict(zip(net.names, net.quality.tolist(), strict=True))
        print(f"R^2 on faces kept aside of what {title}: " + ", ".join(f"{n} {quality[n]:.2f}" for n in NAMES))
    examples = {kind: sample_examples(G, reader, options.samples, mixed=kind == "mixed") for kind in ("mixed", "plain")}
    seeds = range(FIRST_JUDGED, FIRST_JUDGED + options.judged)
    ws = styles_of(G, seeds, psi=options.psi)
    keep = examples["mixed"].names
    found = steered(G, reader, find(G, examples["mixed"], DEFAULT, hold=True), keep)
    found.save(options.out / "directions.safetensors")
    judged = judge(G, found, other, ws)
    moved = f"{len(ws)} pictures, {STRENGTHS[0]:+g} to {STRENGTHS[-1]:+g}"
    print(f"\nsteered, from {DEFAULT} of {options.samples} mixed samples; {moved}, psi {options.psi:g}:\n")
    print(markdown(judged), flush=True)
    print(f"Of pictures that are not truncated (psi 1):\n\n{markdown(judge(G, found, other, styles_of(G, seeds)))}")
    plot_leakage(options.out / "leakage.png", judged)
    draw_strips(options.out / "strips.png", G, found, styles_of(G, parse_seeds(options.strip_seeds), psi=options.psi))
    print_methods(G, examples, other, ws, judged)
    print_unsupervised(G, other, ws)


if __name__ == "__main__":
    main()
