"""Fine-tuning against training from scratch, on faces of another palette.

    python benchmarks/transfer_faces.py OUT_DIR --source RUN_OR_CHECKPOINT [--images 1000 --kimg 24] [KEY=VALUE ...]

The changed set is drawn faces with rotated hues and four levels a channel, as a folder of PNG files. One run trains on
it from scratch for --kimg, one starts from --source (a faces model of the demo's size) and has a third of that.
Writes OUT_DIR/transfer.md, the distances of both over kimg, and OUT_DIR/transfer.png, samples of the source and both.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from compare_models import labelled, samples, train
from PIL import Image, ImageOps

from stylegan_lightning.data.faces import Faces
from stylegan_lightning.imaging import save_png

SEED = 3001


def changed(img: Image.Image) -> Image.Image:
    """Hues a third of the circle further, each channel in four levels."""
    hue, saturation, value = img.convert("HSV").split()
    hue = hue.point([(h + 85) % 256 for h in range(256)])
    return ImageOps.posterize(Image.merge("HSV", (hue, saturation, value)).convert("RGB"), 2)


def write_faces(folder: Path, count: int) -> None:
    source = Faces(32, size=count, seed=SEED)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        path = folder / f"{i:05d}.png"
        if not path.exists():
            changed(Image.fromarray(np.asarray(source.read(i).transpose(1, 2, 0)))).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--kimg", type=float, default=24.0)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()
    folder = options.out_dir / "images"
    write_faces(folder, options.images)
    data = ["data=image_folder", f"data.path={folder.absolute()}", "data.resolution=32", *options.overrides]
    tick = [f"schedule.tick_kimg={options.kimg / 12:g}"]
    runs = {
        "scratch": train("stylegan2", options.out_dir / "scratch", options.kimg, [*data, *tick]),
        "tuned": train(
            "stylegan2",
            options.out_dir / "tuned",
            options.kimg / 3,
            [*data, *tick, f"init_from={options.source.absolute()}"],
        ),
    }
    key = next(k for k in runs["tuned"][0] if k.startswith("metric/"))
    values = {name: {float(r["progress/kimg"]): float(r[key]) for r in rows if r[key]} for name, rows in runs.items()}
    target = min(values["scratch"].values())
    reached = next((kimg for kimg, v in values["tuned"].items() if v <= target), None)
    lines = [f"{options.images} changed faces, {key.removeprefix('metric/')}", "", "| kimg | scratch | tuned |"]
    lines += ["|---|---|---|"]
    for kimg in sorted(values["scratch"].keys() | values["tuned"].keys()):
        cells = [f"{values[n][kimg]:.0f}" if kimg in values[n] else "" for n in ("scratch", "tuned")]
        lines.append(f"| {kimg:g} | {cells[0]} | {cells[1]} |")
    at = f"at {reached:g} kimg" if reached is not None else "not"
    lines += ["", f"scratch reaches {target:.0f} within {options.kimg:g} kimg; the tuned run gets there {at}"]
    (options.out_dir / "transfer.md").write_text("\n".join(lines) + "\n")
    strips = {"source": samples(options.source, 12)}
    strips |= {name: samples(options.out_dir / name, 12) for name in runs}
    save_png(options.out_dir / "transfer.png", labelled(strips))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
