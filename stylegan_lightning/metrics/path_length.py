"""Perceptual path length: how smoothly pictures change along a path of latents (Karras et al. 2019, section 4.1).

    l_Z = E[ d(G(g(slerp(z1, z2; t))), G(g(slerp(z1, z2; t + eps)))) / eps^2 ]     eq. 2
    l_W = E[ d(G(lerp(g(z1), g(z2); t)), G(lerp(g(z1), g(z2); t + eps))) / eps^2 ]     eq. 3

g is the mapping, G the synthesis, d a perceptual distance; t is uniform in [0, 1) ("full") or 0 ("end"). Values below
the 1st and above the 99th percentile are left out of the mean. Both ends of a pair have one label and one noise.
`ppl2_wend` is what StyleGAN2 reports (no crop); the four with a crop are StyleGAN1's, for aligned faces.

Decided here: z of a slerp has the length sqrt(z_dim), where normal z lie, so that networks that do not normalise z
get what they know. Everything runs in float32 without TF32 or autocast, which would round the step away.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stylegan_lightning.errors import UserError, chosen
from stylegan_lightning.metrics.perceptual import PerceptualDistance
from stylegan_lightning.metrics.sampling import (
    LabelSampler,
    draw_pairs,
    evaluating,
    full_precision,
    join_ranks,
    own_rows,
)

MAX_SIZE = 256
"""Larger pictures are averaged down by the whole factor that brings them nearest above it: VGG was made for 224."""


@dataclass(frozen=True)
class PathLengthPreset:
    """Every choice of one measurement except the generator, the labels and the distance.

    `batch_size` has no influence beyond rounding. `percentiles` bound what is kept, both included.
    """

    name: str
    space: Literal["z", "w"] = "w"
    sampling: Literal["full", "end"] = "end"
    crop: bool = False
    num_pairs: int = 50_000
    epsilon: float = 1e-4
    percentiles: tuple[float, float] = (1.0, 99.0)
    batch_size: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        low, high = self.percentiles
        for field, allowed, fits in (
            ("space", "z or w", self.space in ("z", "w")),
            ("sampling", "full or end", self.sampling in ("full", "end")),
            ("num_pairs", "at least 1", self.num_pairs >= 1),
            ("epsilon", "greater than 0 and at most 1", 0 < self.epsilon <= 1),
            ("percentiles", "two numbers, 0 <= low < high <= 100", 0 <= low < high <= 100),
            ("batch_size", "at least 1", self.batch_size >= 1),
        ):
            if not fits:
                raise UserError(f"Path length {self.name}: {field} must be {allowed}; got {getattr(self, field)}.")


PRESETS = {
    preset.name: preset
    for preset in (
        PathLengthPreset("ppl2_wend"),
        PathLengthPreset("ppl_zfull", space="z", sampling="full", crop=True),
        PathLengthPreset("ppl_wfull", space="w", sampling="full", crop=True),
        PathLengthPreset("ppl_zend", space="z", sampling="end", crop=True),
        PathLengthPreset("ppl_wend", space="w", sampling="end", crop=True),
    )
}


def get_path_length_preset(name: str, num_pairs: int | None = None) -> PathLengthPreset:
    """The preset called `name`; another number of pairs is part of its name."""
    preset = chosen("path length", PRESETS, name)
    if num_pairs in (None, preset.num_pairs):
        return preset
    return replace(preset, name=f"{name}_{num_pairs}", num_pairs=num_pairs)


@dataclass(frozen=True)
class PathLengthResult:
    """A value together with all that decides it; `kept` pairs lay between the percentiles."""

    metric: str
    value: float
    num_pairs: int
    kept: int
    epsilon: float
    seed: int
    distance: str
    weights_hash: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


# ------------------------------------------------------------------------------------------------- the path


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Point t [N, 1] of the great circle from a to b [N, d], on the sphere of radius sqrt(d) (Shoemake 1985).

    float64 inside; where a and b are parallel, a stays.
    """
    radius = math.sqrt(a.shape[-1])
    x, y = F.normalize(a.double(), dim=-1), F.normalize(b.double(), dim=-1)
    cosine = (x * y).sum(-1, keepdim=True)
    angle = t.double() * cosine.clamp(-1, 1).acos()
    across = F.normalize(y - cosine * x, dim=-1)
    return (radius * (angle.cos() * x + angle.sin() * across)).to(a.dtype)


def prepare(img: Tensor, crop: bool) -> Tensor:
    """What the distance sees of img [N, C, H, W]: the face (rows 3/8 to 7/8, columns 2/8 to 6/8), or all of it, then
    averaged down to MAX_SIZE or a little more by a whole factor."""
    if crop:
        (y, x), smallest = (img.shape[2] // 8, img.shape[3] // 8), 8
        if min(y, x) < 1:
            raise UserError(
                f"The face crop needs pictures of at least {smallest} pixels; these have {img.shape[2]} x "
                f"{img.shape[3]}. Choose ppl2_wend, which has no crop."
            )
        img = img[:, :, 3 * y : 7 * y, 2 * x : 6 * x]
    factor = min(img.shape[2:]) // MAX_SIZE
    return F.avg_pool2d(img, factor) if factor > 1 else img


def pair_distances(
    G: nn.Module, distance: PerceptualDistance, preset: PathLengthPreset, z: Tensor, c: Tensor, t: Tensor
) -> Tensor:
    """d / eps^2 float64 [N] of the pairs z [N, 2, z_dim], c [N, c_dim] at t [N]."""
    mapping: Any = G.mapping
    t0 = t[:, None]
    t1 = t0 + preset.epsilon
    if preset.space == "z":
        zs = torch.cat([slerp(z[:, 0], z[:, 1], t0), slerp(z[:, 0], z[:, 1], t1)])
        ws = mapping(zs, torch.cat([c, c]))
    else:
        first, second = mapping(torch.cat([z[:, 0], z[:, 1]]), torch.cat([c, c])).chunk(2)
        ws = torch.cat([first.double().lerp(second.double(), s[:, None]) for s in (t0, t1)]).to(first.dtype)
    synthesis: Any = G.synthesis
    a, b = prepare(synthesis(ws, noise_mode="const"), preset.crop).chunk(2)
    return distance(a, b).double() / preset.epsilon**2


def trimmed_mean(values: np.ndarray, percentiles: tuple[float, float]) -> tuple[float, int]:
    """Mean and number of the values between two percentiles, each rounded outwards to a value that occurs and that is
    kept; nan where one is not finite."""
    if not np.isfinite(values).all():
        return math.nan, 0
    low = np.percentile(values, percentiles[0], method="lower")
    high = np.percentile(values, percentiles[1], method="higher")
    kept = values[(values >= low) & (values <= high)]
    return float(kept.mean()), len(kept)


def path_length(
    G: nn.Module,
    distance: PerceptualDistance,
    preset: PathLengthPreset,
    c_sampler: LabelSampler | None = None,
    device: torch.device | str = "cpu",
) -> PathLengthResult:
    """Perceptual path length of G (on `device`), by the definition at the top.

    In a torch.distributed run all ranks call it and share the pairs; the value does not depend on their number.
    Raises UserError where labels are missing or do not fit. A diverged generator gives nan.
    """
    z, c = draw_pairs(int(G.z_dim), int(G.c_dim), preset.num_pairs, preset.seed, c_sampler)  # type: ignore[arg-type]
    t = torch.zeros(preset.num_pairs, dtype=torch.float64)
    if preset.sampling == "full":
        t = torch.from_numpy(np.random.default_rng([preset.seed, 3]).random(preset.num_pairs))
    if isinstance(distance, nn.Module):
        distance.to(device)
    values = torch.zeros(preset.num_pairs, dtype=torch.float64, device=device)
    plain = torch.autocast(torch.device(device).type, enabled=False)
    with evaluating(G), full_precision(), plain:
        for rows in own_rows(preset.num_pairs).split(preset.batch_size):
            if len(rows):
                inputs = (x[rows].to(device) for x in (z, c, t))
                values[rows.to(device)] = pair_distances(G, distance, preset, *inputs)
    value, kept = trimmed_mean(join_ranks(values).cpu().numpy(), preset.percentiles)
    return PathLengthResult(
        metric=preset.name,
        value=value,
        num_pairs=preset.num_pairs,
        kept=kept,
        epsilon=preset.epsilon,
        seed=preset.seed,
        distance=distance.name,
        weights_hash=distance.weights_hash,
    )
