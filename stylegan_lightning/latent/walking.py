"""Walks through latent space: paths between codes, and the pictures along them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.interpolate
import torch
from torch import Tensor

from stylegan_lightning.errors import UserError
from stylegan_lightning.imaging import image_grid
from stylegan_lightning.latent.codes import Progress, render, silent
from stylegan_lightning.networks import Generator
from stylegan_lightning.networks.stylegan3 import FourierInput
from stylegan_lightning.protocols import NoiseMode

Curve = Literal["linear", "cubic"]

# -------------------------------------------------------------------------------------------------- paths


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Along the great circle from a to b [..., D] at t in [0, 1] (Shoemake 1985); the length goes linearly.

    Points of a Gaussian lie near a sphere, which straight lines leave (White 2016). Opposite points, between which no
    great circle is the shortest, are joined by a straight line.
    """
    la, lb = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    u, v = a / la.clamp(min=1e-12), b / lb.clamp(min=1e-12)
    angle = torch.acos((u * v).sum(-1, keepdim=True).clamp(-1, 1))
    sine = angle.sin()
    line = u.lerp(v, t)
    arc = (torch.sin((1 - t) * angle) * u + torch.sin(t * angle) * v) / sine.clamp(min=1e-6)
    return torch.where(sine < 1e-4, line, arc) * la.lerp(lb, t)


def z_path(z: Tensor, frames: int, *, loop: bool = False) -> Tensor:
    """Through z [K, z_dim] on great circles, `frames` from each to the next.

    [(K - 1) * frames + 1, z_dim], from the first to the last; a loop goes back to the first and has K * frames.
    """
    return _along(z, frames, loop, slerp)


def w_path(ws: Tensor, frames: int, *, loop: bool = False, curve: Curve = "linear") -> Tensor:
    """Through ws [K, num_ws, w_dim]; straight, or on a cubic spline without corners. Lengths as `z_path`."""
    if curve == "linear" or len(ws) < 2:
        return _along(ws, frames, loop, torch.lerp)
    knots = torch.cat([ws, ws[:1]]) if loop else ws
    spline = scipy.interpolate.CubicSpline(
        np.arange(len(knots)), knots.double().cpu().numpy(), bc_type="periodic" if loop else "natural"
    )
    times = np.arange(_length(len(ws), frames, loop)) / frames
    return torch.from_numpy(spline(times)).to(ws)


def _length(points: int, frames: int, loop: bool) -> int:
    return points * frames if loop else (points - 1) * frames + 1


def _along(points: Tensor, frames: int, loop: bool, between: object) -> Tensor:
    if frames < 1:
        raise UserError(f"a walk needs at least one frame from each point to the next; got {frames}")
    t = torch.arange(_length(len(points), frames, loop), device=points.device)
    start = t // frames
    shape = (-1, *[1] * (points.ndim - 1))
    share = ((t % frames) / frames).view(shape).to(points)
    return between(points[start], points[(start + 1) % len(points)], share)  # type: ignore[operator]


# ------------------------------------------------------------------------------------------------- motion


@dataclass(frozen=True)
class Motion:
    """How StyleGAN3's picture moves over a whole walk: by `pan` (x right, y down, in picture widths), turned by
    `turn` degrees counter-clockwise."""

    pan: tuple[float, float] = (0.0, 0.0)
    turn: float = 0.0

    @property
    def still(self) -> bool:
        return self.pan == (0.0, 0.0) and self.turn == 0.0


def moving_input(G: Generator) -> FourierInput:
    """What moves the picture. Raises UserError for any model but StyleGAN3."""
    found = getattr(G.synthesis, "input", None)
    if not isinstance(found, FourierInput):
        raise UserError("pans and rotations are for StyleGAN3 (model=stylegan3_t, stylegan3_r); this model cannot move")
    return found


# ------------------------------------------------------------------------------------------------- frames


def walk(
    G: Generator,
    paths: Sequence[Tensor],
    *,
    columns: int = 1,
    motion: Motion | None = None,
    loop: bool = False,
    noise_mode: NoiseMode = "const",
    min_cell: int = 256,
    progress: Progress = silent,
) -> Iterator[np.ndarray]:
    """Frames uint8 [H, W, C] of paths [T, num_ws, w_dim] side by side, `columns` in a row, drawn as they are asked for.

    Small pictures are enlarged by whole factors to `min_cell` pixels. With `motion` the picture moves over the whole
    walk, in a loop so that the frame after the last would be the first again. Raises UserError for a model that
    cannot move, and where the paths differ in length.
    """
    lengths = {len(path) for path in paths}
    if len(lengths) != 1:
        raise UserError(f"the walks of one grid must have one number of frames; they have {sorted(lengths)}")
    moving = moving_input(G) if motion is not None and not motion.still else None
    return _frames(G, torch.stack(list(paths), 1), columns, motion, moving, loop, noise_mode, min_cell, progress)


def _frames(
    G: Generator,
    ws: Tensor,
    columns: int,
    motion: Motion | None,
    moving: FourierInput | None,
    loop: bool,
    noise_mode: NoiseMode,
    min_cell: int,
    progress: Progress,
) -> Iterator[np.ndarray]:
    before = None if moving is None else moving.transform.clone()
    try:
        for i, row in enumerate(ws):
            if moving is not None and motion is not None:
                t = i / max(len(ws) - (0 if loop else 1), 1)
                moving.set_transform(
                    angle=np.deg2rad(motion.turn * t), translate=(motion.pan[0] * t, motion.pan[1] * t)
                )
            yield image_grid(render(G, row, noise_mode=noise_mode, seeds=range(len(row))), columns, min_cell)
            progress(i + 1, len(ws))
    finally:
        if moving is not None and before is not None:
            moving.transform.copy_(before)
