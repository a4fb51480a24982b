"""Few images: without augmentation, with DiffAugment, with ADA, judged against faces that were not trained on.

    python benchmarks/limited_data.py OUT_DIR [--images 500 --kimg 30] [KEY=VALUE ...]

Trains `python train.py data=faces data.size=500` three times from the same seed with the demo's settings. A distance
to the training images rewards remembering them; here every checkpoint is also measured against fresh faces. Writes
OUT_DIR/limited.md, OUT_DIR/p.png (the strength of ADA and r_t over the run) and OUT_DIR/limited.png (a row of samples
for each). A run that is already there and complete is not repeated.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from compare_models import labelled, samples, train
from plot_run import plt, read

import stylegan_lightning
from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.data.cache import default_cache_dir, prepare
from stylegan_lightning.data.faces import Faces
from stylegan_lightning.imaging import save_png
from stylegan_lightning.metrics.by_features import Frechet
from stylegan_lightning.metrics.features import load_extractor
from stylegan_lightning.metrics.metric import Subject
from stylegan_lightning.metrics.preset import get_preset

AUGMENT = ("none", "diffaug", "ada")
FRESH_SEED, FRESH_SIZE = 2001, 4096


def distance_to(fresh: PreparedDataset, run_dir: Path) -> float:
    distance = Frechet(get_preset("quick"), load_extractor("efflite0"))
    subject = Subject(stylegan_lightning.load(run_dir), fresh, cache_dir=default_cache_dir() / "statistics")
    return distance.measure(subject).values[0].value


def plot_strength(run_dir: Path, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
    for column in ("augment/p", "augment/r_t"):
        _, kimg, values = read(run_dir, column)
        axes.plot(kimg, values, "o-", label=column)
    axes.set(xlabel="kimg", ylim=(0, 1))
    axes.legend()
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--kimg", type=float, default=30.0)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()
    source = Faces(32, size=FRESH_SIZE, seed=FRESH_SEED)
    fresh = prepare(source, None, on_error="raise", mirror=False)
    lines = [
        f"{options.images} faces, {options.kimg:g} kimg",
        "",
        "| `augment=` | to fresh faces | to the training faces | logits, real | fake |",
        "|---|---|---|---|---|",
    ]
    strips: dict[str, np.ndarray] = {}
    for augment in AUGMENT:
        run_dir = options.out_dir / augment
        choice = [f"data.size={options.images}", f"augment={augment}", *options.overrides]
        choice += [f"augment.kimg={options.kimg:g}"] if augment == "ada" else []
        last = train("stylegan2", run_dir, options.kimg, choice)[-1]
        key = next(k for k in last if k.startswith("metric/"))
        lines.append(
            f"| {augment} | {distance_to(fresh, run_dir):.0f} | {float(last[key]):.0f} "
            f"| {float(last['logits/real']):.2f} | {float(last['logits/fake']):.2f} |"
        )
        print(lines[-1], flush=True)
        strips[augment] = samples(run_dir, 12)
    (options.out_dir / "limited.md").write_text("\n".join(lines) + "\n")
    save_png(options.out_dir / "limited.png", labelled(strips))
    plot_strength(options.out_dir / "ada", options.out_dir / "p.png")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
