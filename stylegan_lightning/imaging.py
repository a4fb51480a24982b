"""Pictures: dynamic range, grids, and files that are never half-written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from stylegan_lightning.files import replacing


def to_uint8(img: Tensor) -> Tensor:
    """[-1, 1] -> uint8, as x * 127.5 + 128 cut to an integer (the rounding that published distances use)."""
    return (img * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def to_dynamic_range(img: Tensor) -> Tensor:
    """uint8 [N, C, H, W] -> float32 in [-1, 1], channels last."""
    return (img.to(torch.float32) / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def fade_reals(imgs: Tensor, alpha: float) -> Tensor:
    """Real images as a growing network sees them: alpha of themselves, the rest from half the resolution."""
    if alpha == 1:
        return imgs
    return F.interpolate(F.avg_pool2d(imgs, 2), scale_factor=2.0, mode="nearest").lerp(imgs, alpha)


def image_grid(imgs: Tensor, columns: int, min_cell: int = 64) -> np.ndarray:
    """uint8 [N, C, H, W] -> uint8 [rows * H, columns * W, C]; small pictures are enlarged by whole factors.

    A last row that is not full is filled with black (transparent where there is an alpha channel).
    """
    n, c, h, w = imgs.shape
    rows = -(-n // columns)
    cells = np.zeros((rows * columns, c, h, w), np.uint8)
    cells[:n] = imgs.cpu().numpy()
    grid = cells.reshape(rows, columns, c, h, w).transpose(0, 3, 1, 4, 2).reshape(rows * h, columns * w, c)
    factor = max(min_cell // h, 1)
    return grid.repeat(factor, 0).repeat(factor, 1)


def name_rows(grid: np.ndarray, names: Sequence[str], size: int = 14) -> np.ndarray:
    """A grid uint8 [H, W, C] of len(names) rows with their names on the left, black on white; long ones are cut."""
    font = ImageFont.load_default(size)
    shown = [" ".join(n.split())[:24] for n in names]
    strip = Image.new("L", (math.ceil(max(map(font.getlength, shown))) + size, grid.shape[0]), 255)
    for row, name in enumerate(shown):
        middle = (row + 0.5) * grid.shape[0] / len(names)
        ImageDraw.Draw(strip).text((size // 2, middle), name, 0, font, "lm")
    column = np.asarray(strip)[..., None].repeat(grid.shape[2], 2)
    if grid.shape[2] == 4:
        column[..., 3] = 255
    return np.concatenate([column, grid], 1)


def to_pil(array: np.ndarray) -> Image.Image:
    """uint8 [H, W, C] with 1, 3 or 4 channels."""
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


def save_png(path: Path, array: np.ndarray) -> None:
    """The file is whole or absent."""
    with replacing(path) as temporary:
        to_pil(array).save(temporary, format="PNG")
