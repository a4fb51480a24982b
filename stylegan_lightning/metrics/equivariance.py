"""Equivariance of a generator to translation and rotation, in decibels (Karras et al. 2021, appendix E).

    EQ = 20 log10(2) - 10 log10 E[(g(t[z0]; w) - t[g(z0; w)])^2]

2 is the range of the pictures, t[z0] the moved input signal, t[img] the moved picture; the mean is over styles,
moves, channels and the pixels that the moved picture covers.

- `eqt_int`: shifts by whole pixels; `eqt_frac`: any shifts, t[img] by Lanczos resampling; both up to 1/8 of the width.
- `eqr`: rotations up to a half turn. Of the square of frequencies that pixels can hold, a turned square keeps only
  what lies in both; so the turned picture and the one made from the turned input are both limited to that part.

Published for trained networks at 256 to 1024 pixels: EQ-T 60-63 dB and EQ-R 13-14 dB (T), 65-67 and 40-47 dB (R).
Resampling is inexact near the highest frequencies: below 0.2 cycles per pixel it alone allows about 50 dB and more, at
0.4 about 36 dB, so `eqt_frac` and `eqr` of other implementations may differ a little.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import scipy.signal
import torch
from torch import Tensor

from stylegan_lightning.metrics.sampling import full_precision, join_ranks, place
from stylegan_lightning.ops import upfirdn2d
from stylegan_lightning.protocols import Synthesis

KINDS = ("eqt_int", "eqt_frac", "eqr")
MAX_SHIFT = 0.125
LOBES = 3
"""Of the Lanczos window: a resampled pixel sees 2 * LOBES pixels along each axis."""

_SUPPORT = math.floor(LOBES * (1 + math.sqrt(2)))


class MovableInput(Protocol):
    transform: Tensor

    def set_transform(self, *, angle: float = 0.0, translate: tuple[float, float] = (0.0, 0.0)) -> None: ...


class MovableSynthesis(Synthesis, Protocol):
    """A synthesis network whose picture can be moved by its input, such as StyleGAN3's."""

    input: MovableInput


def lanczos(x: np.ndarray) -> np.ndarray:
    """sinc(x) sinc(x / LOBES) within LOBES pixels of 0, zero beyond."""
    return np.where(np.abs(x) < LOBES, np.sinc(x) * np.sinc(x / LOBES), 0.0)


def shift_integer(img: Tensor, x: int, y: int) -> tuple[Tensor, Tensor]:
    """img [N, C, H, W] moved x pixels to the right and y down, and the mask [1, 1, H, W] of what it covers."""
    pad = [x, -x, y, -y]
    return torch.nn.functional.pad(img, pad), torch.nn.functional.pad(torch.ones_like(img[:1, :1]), pad)


def shift_fractional(img: Tensor, x: float, y: float) -> tuple[Tensor, Tensor]:
    """As `shift_integer` for any shift in pixels, by a Lanczos filter; covered is what needs no pixel outside."""
    (mx, ok_x), (my, ok_y) = (_shift_matrix(n, s) for n, s in ((img.shape[3], x), (img.shape[2], y)))
    moved = my.to(img) @ img @ mx.to(img).t()
    return moved, (ok_y[:, None] & ok_x).to(img)[None, None]


def _shift_matrix(size: int, shift: float) -> tuple[Tensor, Tensor]:
    """Rows of weights [size, size] of the resampled pixels, and whether each needs only pixels inside."""
    source = np.arange(size) - shift
    weights = lanczos(source[:, None] - np.arange(size))
    weights /= np.maximum(weights.sum(1, keepdims=True), 1e-3)
    first = np.floor(source) - LOBES + 1
    inside = (first >= 0) & (first + 2 * LOBES <= size)
    return torch.from_numpy(weights), torch.from_numpy(inside)


def rotation_filter(angle: float) -> Tensor:
    """Low-pass [15, 15] for the frequencies that the pixel grid and the grid turned by `angle` (radians,
    counter-clockwise to the eye) can both hold: the convolution of both grids' Lanczos kernels, taken on a grid
    four times finer."""
    fine = 4
    x = np.arange(-_SUPPORT * fine, _SUPPORT * fine + 1) / fine
    gx, gy = np.meshgrid(x, x)
    c, s = math.cos(angle), math.sin(angle)
    kernel = scipy.signal.fftconvolve(
        lanczos(gx) * lanczos(gy), lanczos(c * gx - s * gy) * lanczos(s * gx + c * gy), mode="same"
    )[::fine, ::fine]
    return torch.from_numpy(kernel / kernel.sum()).float()


def limit_band(img: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    """img limited by `rotation_filter(angle)`, not turned, and the mask [1, 1, H, W] of unaffected borders."""
    mask = torch.zeros_like(img[:1, :1])
    mask[:, :, _SUPPORT:-_SUPPORT, _SUPPORT:-_SUPPORT] = 1
    return upfirdn2d(img, rotation_filter(angle).to(img.device), padding=_SUPPORT), mask


def rotate(img: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    """img turned by `angle` radians, counter-clockwise to the eye, about its centre, limited to the frequencies
    that survive, and the mask [1, 1, H, W] of the pixels whose sources lie inside."""
    img, _ = limit_band(img, -angle)
    height, width = img.shape[2:]
    gx, gy = np.meshgrid(np.arange(width) - (width - 1) / 2, np.arange(height) - (height - 1) / 2)
    c, s = math.cos(angle), math.sin(angle)
    (ix, wx, in_x), (iy, wy, in_y) = (
        _taps(c * gx - s * gy + (width - 1) / 2, width),
        _taps(s * gx + c * gy + (height - 1) / 2, height),
    )
    turned = torch.zeros_like(img)
    for i in range(2 * LOBES):
        for j in range(2 * LOBES):
            turned += img[:, :, iy[i], ix[j]] * torch.from_numpy(wy[i] * wx[j]).to(img)
    return turned, torch.from_numpy(in_x & in_y).to(img)[None, None]


def _taps(source: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels [2 LOBES, H, W] around each source position along one axis, their weights, and whether they and what
    `limit_band` made them of lie inside."""
    first = np.floor(source).astype(np.int64) - LOBES + 1
    index = first + np.arange(2 * LOBES)[:, None, None]
    weights = lanczos(source - index)
    inside = (index[0] >= _SUPPORT) & (index[-1] < size - _SUPPORT)
    return index.clip(0, size - 1), weights / weights.sum(0), inside


class SquaredError:
    """Sum of squared differences over masked pixels, and their number."""

    def __init__(self) -> None:
        self.total = self.count = 0.0

    def add(self, a: Tensor, b: Tensor, mask: Tensor) -> None:
        """Images a and b [N, C, H, W], mask [1, 1, H, W]."""
        self.total += float(((a - b).double().square() * mask).sum())
        self.count += float(mask.sum()) * a.shape[0] * a.shape[1]

    def psnr(self) -> float:
        """Decibels for a range of 2: inf for equal images, nan where nothing was compared."""
        if not self.count:
            return math.nan
        mse = self.total / self.count
        return 20 * math.log10(2) - 10 * math.log10(mse) if mse else math.inf


@torch.no_grad()
def equivariance(
    synthesis: MovableSynthesis, ws_batches: Iterable[Tensor], *, kinds: Sequence[str] = KINDS, seed: int = 0
) -> dict[str, float]:
    """Decibels of each of `kinds` over batches of ws [N, num_ws, w_dim], in float32.

    Each batch draws one move of each kind from `seed`: many small batches give steadier values than few large
    ones. The input's transform is left as it was. In a torch.distributed run all ranks call it with the same batches
    and share them. Raises ValueError for an unknown kind.
    """
    if unknown := set(kinds) - set(KINDS):
        raise ValueError(f"kinds must be among {', '.join(KINDS)}, got {', '.join(sorted(unknown))}")
    rng = np.random.default_rng(seed)
    errors = {kind: SquaredError() for kind in kinds}
    rank, ranks = place()
    before = synthesis.input.transform.clone()
    with full_precision():
        try:
            for number, ws in enumerate(ws_batches):
                draws = {kind: rng.uniform(-1, 1, 2) for kind in errors}
                if number % ranks != rank:
                    continue
                synthesis.input.set_transform()
                img = synthesis(ws, noise_mode="const").float()
                for kind, error in errors.items():
                    _compare(synthesis, ws, img, kind, draws[kind], error)
        finally:
            synthesis.input.transform.copy_(before)
    sums = torch.tensor([[e.total, e.count] for e in errors.values()], dtype=torch.float64, device=before.device)
    for error, (total, count) in zip(errors.values(), join_ranks(sums).tolist(), strict=True):
        error.total, error.count = total, count
    return {kind: error.psnr() for kind, error in errors.items()}


def _compare(
    synthesis: MovableSynthesis, ws: Tensor, img: Tensor, kind: str, draw: np.ndarray, error: SquaredError
) -> None:
    """Adds the difference of one move, of which `draw` in [-1, 1]^2 is the fraction of the largest."""
    size = img.shape[-1]
    angle, (x, y) = math.pi * float(draw[0]), draw * MAX_SHIFT * size
    if kind == "eqr":
        synthesis.input.set_transform(angle=angle)
        limited, mask = limit_band(synthesis(ws, noise_mode="const").float(), angle)
        moved, inside = rotate(img, angle)
        error.add(limited, moved, mask * inside)
        return
    if kind == "eqt_int":
        x, y = round(x), round(y)
    synthesis.input.set_transform(translate=(x / size, y / size))
    moved, mask = shift_integer(img, x, y) if kind == "eqt_int" else shift_fractional(img, x, y)
    error.add(synthesis(ws, noise_mode="const").float(), moved, mask)
