"""Is the requested class the one that is drawn? Measured on faces, whose classes are known.

    python benchmarks/conditional_faces.py OUT_DIR [--classes hair --kimg 15 --per-class 1000] [KEY=VALUE ...]

Trains `python train.py data=faces data.classes=hair` (the demo's size; KEY=VALUE as for train.py, such as
model=progan). A small convolutional network learns the four classes from other real faces; its accuracy on a third
set of real faces is the ceiling. It then judges --per-class generated faces of each class. Writes
OUT_DIR/conditional.md (confusion matrices and agreement) and OUT_DIR/classes.png (a row for each class, the same
latents in every row). A run that is already there and complete is not repeated.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from compare_models import train
from torch import Tensor, nn

import stylegan_lightning
from stylegan_lightning.builders import build_dataset, checkpoint_config
from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.data.cache import prepare
from stylegan_lightning.data.faces import CLASSES, Classes, Faces
from stylegan_lightning.imaging import save_png
from stylegan_lightning.networks import Generator
from stylegan_lightning.training.checkpoint import find_checkpoint, read_checkpoint
from stylegan_lightning.training.samples import class_picture, generate, latents

TRAIN_SEED, TEST_SEED = 1001, 1002
"""Populations that share no face with the run's own."""


def classifier(channels: int, resolution: int, classes: int) -> nn.Sequential:
    """Convolutions with batch normalisation, halving the picture to 4 pixels."""
    widths = [24 * 2 ** min(i, 2) for i in range(int(math.log2(resolution // 4)) + 1)]
    layers: list[nn.Module] = []
    for number, (i, o) in enumerate(itertools.pairwise([channels, widths[0], *widths])):
        layers += [nn.MaxPool2d(2)] if number > 1 else []
        layers += [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.3), nn.Linear(widths[-1] * 16, classes))


def as_input(imgs: Tensor) -> Tensor:
    return imgs.float() / 127.5 - 1


def learn(data: PreparedDataset, epochs: int, batch: int = 64) -> nn.Module:
    """A network that tells the classes of real faces, also slightly noisy and mirrored ones."""
    torch.manual_seed(0)
    net = classifier(data.img_channels, data.img_resolution, data.c_dim)
    steps = epochs * (len(data) // batch)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    for _ in range(epochs):
        for index in torch.randperm(len(data)).split(batch)[: len(data) // batch]:
            imgs, c = data.batch(index.tolist())
            x = as_input(imgs)
            x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x) + 0.05 * torch.randn_like(x)
            optimizer.zero_grad()
            F.cross_entropy(net(x), c).backward()
            optimizer.step()
            schedule.step()
    return net.eval()


@torch.inference_mode()
def judge(net: nn.Module, imgs: Tensor) -> Tensor:
    """The class of each image, int64 [N]."""
    return torch.cat([net(as_input(part)).argmax(1) for part in imgs.split(256)])


def confusion(asked: Tensor, judged: Tensor, classes: int) -> np.ndarray:
    """int [classes, classes]: how often the class of the row was judged as that of the column."""
    return np.bincount((asked * classes + judged).numpy(), minlength=classes**2).reshape(classes, classes)


def confusion_of_fakes(net: nn.Module, G: Generator, per_class: int, seed: int = 0) -> np.ndarray:
    """The same latents for every class."""
    z, rows = latents(G, per_class, seed), []
    for k in range(G.c_dim):
        imgs = generate(G, z, torch.eye(G.c_dim)[[k] * per_class], 1.0, "cpu")
        rows.append(confusion(torch.full((per_class,), k), judge(net, imgs), G.c_dim)[k])
    return np.stack(rows)


def report(title: str, matrix: np.ndarray, classes: Classes) -> str:
    """Percentages; class = 2 * first + second gives the agreement of either factor."""
    names, first, second = classes.names, classes.first[0], classes.second[0]
    share = 100 * matrix / matrix.sum(1, keepdims=True)
    index = np.arange(len(names))
    lines = [
        f"{title}: {100 * np.trace(matrix) / matrix.sum():.1f} % as asked",
        "",
        f"| class | {' | '.join(f'seen as {n}' for n in names)} | as asked | {first} right | {second} right |",
        "|---|" + "---|" * (len(names) + 3),
    ]
    for k, name in enumerate(names):
        cells = [*share[k], share[k, k], share[k, index // 2 == k // 2].sum(), share[k, index % 2 == k % 2].sum()]
        lines.append(f"| {name} | " + " | ".join(f"{v:.1f}" for v in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--classes", choices=list(CLASSES), default="hair")
    parser.add_argument("--kimg", type=float, default=15.0)
    parser.add_argument("--per-class", type=int, default=1000)
    parser.add_argument("--reals", type=int, default=12000, help="faces that the classifier learns from")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_intermixed_args()
    started, run_dir = time.perf_counter(), args.out_dir / "run"
    model = next((o.split("=")[1] for o in args.overrides if o.startswith("model=")), "stylegan2")
    overrides = [o for o in args.overrides if not o.startswith("model=")]
    train(model, run_dir, args.kimg, ["data=faces", f"data.classes={args.classes}", *overrides])
    trained = time.perf_counter() - started

    path = find_checkpoint(run_dir)
    cfg = checkpoint_config(read_checkpoint(path), path)
    own, G = build_dataset(cfg), stylegan_lightning.load(path)
    options = {"resolution": own.img_resolution, "channels": own.img_channels, "classes": args.classes}
    net = learn(prepare(Faces(size=args.reals, seed=TRAIN_SEED, **options)), args.epochs)
    imgs, c = prepare(Faces(size=2000, seed=TEST_SEED, **options)).batch(range(2000))
    reals = confusion(c.argmax(1), judge(net, imgs), own.c_dim)
    print(f"accuracy of the classifier on held-out real faces: {100 * np.trace(reals) / reals.sum():.1f} %")
    fakes = confusion_of_fakes(net, G, args.per_class)
    text = (
        f"{model}, {args.kimg:g} kimg of {own.img_resolution} pixels, {trained:.0f} s of training; "
        f"{args.per_class} generated faces of each class.\n\n"
        + report("Generated faces", fakes, CLASSES[args.classes])
        + "\n"
        + report("Real faces, held out", reals, CLASSES[args.classes])
    )
    (args.out_dir / "conditional.md").write_text(text)
    picture = class_picture(G, own, 10, seed=0, psi=1.0, device="cpu")
    assert picture is not None
    save_png(args.out_dir / "classes.png", picture)
    print(text)


if __name__ == "__main__":
    main()
