"""Grids of samples at moments that runs share, small enough for one page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from stylegan_lightning.dashboard.runs import Run
from stylegan_lightning.data.decode import MOST_BYTES, open_picture
from stylegan_lightning.files import read_file

MOMENTS, MOST_REALS = 12, 3
BYTES = 14_000_000
"""Of all pictures of a page, as text."""
WIDTHS = (960, 640, 480, 360, 240)


def moments(runs: Sequence[Run], most: int = MOMENTS) -> list[float]:
    """Kimg at which there are samples; those of different runs that nearly agree are one."""
    every = sorted({kimg for run in runs for kimg in run.samples})
    apart = every[-1] / 50 if every else 0.0
    merged: list[float] = []
    for kimg in reversed(every):  # so that the end of a run stands for itself
        if not merged or merged[-1] - kimg > apart:
            merged.append(kimg)
    merged.reverse()
    index = np.unique(np.linspace(0, len(merged) - 1, min(most, len(merged))).round().astype(int))
    return [merged[i] for i in index]


def nearest(run: Run, kimg: float) -> float | None:
    return min(run.samples, key=lambda k: abs(k - kimg), default=None)


def distinct_reals(runs: Sequence[Run], most_bytes: float) -> dict[str, list[Run]]:
    """Pictures of real images, with the runs that show the same."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        if run.reals is not None and (src := embed(run.reals, most_bytes, run.notes)):
            found.setdefault(src, []).append(run)
    return dict(list(found.items())[:MOST_REALS])


def embed(path: Path, most_bytes: float, notes: list[str]) -> str | None:
    """A data: URI of at most that many characters, as far as the smallest width allows."""
    try:
        with open_picture(read_file(path, MOST_BYTES)) as file:
            picture = file.convert("RGBA" if "A" in file.getbands() or "transparency" in file.info else "RGB")
    except Exception as error:  # a damaged file makes Pillow raise nearly any type
        notes.append(f"{path.name} cannot be read: {error}")
        return None
    text = ""
    for width in WIDTHS:
        text = _encoded(picture, min(width / picture.width, 1.0))
        if len(text) <= most_bytes or width <= WIDTHS[-1]:
            break
    return text


def _encoded(picture: Image.Image, scale: float) -> str:
    size = max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)
    content = io.BytesIO()
    picture.resize(size, Image.Resampling.LANCZOS).save(content, "WEBP", quality=82, method=4)
    return "data:image/webp;base64," + base64.b64encode(content.getvalue()).decode()
