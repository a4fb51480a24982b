"""How well pictures are found again: generated ones (whose code exists) and real faces, in each space.

    python benchmarks/projection.py runs/NAME                       # of a model of data=faces
    python benchmarks/projection.py runs/NAME --count 4 --steps 100

Prints one markdown table of PSNR and perceptual distance (efflite0), means and the worst; writes before and after.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

import stylegan_lightning
from stylegan_lightning.data.faces import Faces
from stylegan_lightning.imaging import image_grid, save_png
from stylegan_lightning.latent.codes import size_of
from stylegan_lightning.latent.projection import Settings, project
from stylegan_lightning.latent.sampling import generate
from stylegan_lightning.launch import keep_freed_memory

FRESH_SEED = 1
"""Training faces are drawn with seed 0."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--starts", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("projections"), help="a folder for the pictures")
    options = parser.parse_args()
    keep_freed_memory()
    G = stylegan_lightning.load(options.run).eval()
    faces = Faces(size_of(G), options.count, FRESH_SEED)
    targets = {
        "generated": generate(G, range(options.count))[0],
        "real": torch.from_numpy(np.stack([faces.read(i) for i in range(options.count)])),
    }
    print(f"{options.count} pictures of {size_of(G)} x {size_of(G)}, {options.steps} steps, {options.starts} starts\n")
    print("| pictures | space | PSNR | worst | perceptual | worst | s / picture |\n|---|---|---|---|---|---|---|")
    for space in ("w+", "w", "z") if G.num_ws > 1 else ("w", "z"):
        for kind, pictures in targets.items():
            found = project(G, pictures, Settings(space=space, steps=options.steps, starts=options.starts))
            near = found.perceptual
            assert near is not None
            numbers = [found.psnr.mean(), found.psnr.min(), near.mean(), near.max(), found.seconds / options.count]
            cells = [f"{n:.{d}f}" for n, d in zip(numbers, (1, 1, 3, 3, 1), strict=True)]
            print(f"| {kind} | {space} | {' | '.join(cells)} |", flush=True)
            pairs = torch.stack([pictures, found.images], 1).flatten(0, 1)
            save_png(options.out / f"{kind}_{space}.png", image_grid(pairs, 8))


if __name__ == "__main__":
    main()
