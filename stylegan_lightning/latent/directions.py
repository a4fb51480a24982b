"""Directions in latent space: what they are, files of them, and those found without any attribute."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from stylegan_lightning.errors import UserError, chosen
from stylegan_lightning.files import distinct_names, parse_json, replacing
from stylegan_lightning.imaging import image_grid, name_rows
from stylegan_lightning.latent.codes import EXTENSION, Progress, device_of, render, sample_w, silent
from stylegan_lightning.latent.tensor_files import finite_floats, read_tensors
from stylegan_lightning.networks import Generator
from stylegan_lightning.networks.layers import FullyConnected
from stylegan_lightning.protocols import NoiseMode

FORMAT = "stylegan_lightning directions 1"


@dataclass(frozen=True)
class Direction:
    """A way to move codes: by strength * scale * vector, in the styles `layers`."""

    name: str
    vector: Tensor
    """[w_dim], of length 1; or [num_ws, w_dim], a vector of its own for each style, of root mean square length 1
    over `layers`."""
    layers: tuple[int, ...]
    scale: float
    """Length of a step of strength 1: one standard deviation of w along the vector, or, of an attribute, what changes
    it by one standard deviation over the model's own pictures."""
    method: str

    def apply(self, ws: Tensor, strength: float | Tensor) -> Tensor:
        """ws [..., num_ws, w_dim], moved; `strength` is a number or one for each leading index [...].

        Strength 0 changes nothing, strengths add, and styles outside `layers` stay the very same.
        """
        layers = list(self.layers)
        vector = self.vector.to(ws) * self.scale
        by_layer = vector[layers] if vector.ndim == 2 else vector.expand(len(layers), -1)
        amount = torch.as_tensor(strength, dtype=ws.dtype, device=ws.device)[..., None, None]
        moved = ws.expand(*torch.broadcast_shapes(amount.shape[:-2], ws.shape[:-2]), *ws.shape[-2:]).clone()
        moved[..., layers, :] += amount * by_layer
        return moved


@dataclass(frozen=True)
class Directions:
    """Directions of one model in order, by name; `num_ws` and `w_dim` are those of the model."""

    items: tuple[Direction, ...]
    num_ws: int
    w_dim: int
    about: dict[str, str] = field(default_factory=dict)
    """How they were found; kept in the file."""

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.items):
            raise ValueError(f"names of directions must differ; got {', '.join(self.names)}")
        for d in self.items:
            fits = tuple(d.vector.shape) in ((self.w_dim,), (self.num_ws, self.w_dim))
            if not fits or not d.layers or not all(0 <= i < self.num_ws for i in d.layers):
                raise ValueError(f"{d.name} does not fit styles [{self.num_ws}, {self.w_dim}]")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(d.name for d in self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Direction]:
        return iter(self.items)

    def __getitem__(self, name: str) -> Direction:
        """Raises UserError, which lists the names, for one that is not there."""
        return chosen("direction", {d.name: d for d in self.items}, name)

    def check_fits(self, G: Generator, path: Path | str = "the file") -> Directions:
        """Itself. Raises UserError where the directions are of a model of other sizes than G."""
        if (self.num_ws, self.w_dim) != (int(G.num_ws), int(G.w_dim)):
            raise UserError(
                f"{path} holds directions of another model, with styles [{self.num_ws}, {self.w_dim}]; this one has "
                f"[{G.num_ws}, {G.w_dim}]: find its own with `stylegan-lightning directions`"
            )
        return self

    def save(self, path: Path) -> None:
        """As safetensors, a tensor NAME for each under safe names, whole or not at all. Raises UserError for another
        ending."""
        check_ending(path)
        named = list(zip(distinct_names(self.names), self.items, strict=True))
        table = [{"name": name, "layers": d.layers, "scale": d.scale, "method": d.method} for name, d in named]
        metadata = {
            "format": FORMAT,
            "sizes": json.dumps([self.num_ws, self.w_dim]),
            "directions": json.dumps(table),
            "about": json.dumps(self.about),
        }
        tensors = {name: d.vector.detach().float().cpu().contiguous() for name, d in named}
        with replacing(path) as temporary:
            temporary.write_bytes(safetensors.torch.save(tensors, metadata))

    @classmethod
    def load(cls, path: Path) -> Directions:
        """Names as `safe_name` makes them. Raises UserError for a file that is missing, damaged or holds something
        else."""
        tensors, metadata = read_tensors(path, FORMAT, "directions")
        try:
            sizes, rows, about = (
                parse_json(metadata[key], f"{path} is damaged: {key}") for key in ("sizes", "directions", "about")
            )
            num_ws, w_dim = map(int, sizes)
            names = distinct_names(str(row["name"]) for row in rows)
            items = [_read_row(row, name, tensors, path) for row, name in zip(rows, names, strict=True)]
            return cls(tuple(items), num_ws, w_dim, {str(key): str(value) for key, value in about.items()})
        except (KeyError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
            raise UserError(f"{path} is damaged: {error}") from None


def _read_row(row: dict[str, Any], name: str, tensors: Mapping[str, Tensor], path: Path) -> Direction:
    """Raises UserError, ValueError and others for what is no direction."""
    vector, scale = finite_floats(tensors[row["name"]], name, path), float(row["scale"])
    if not math.isfinite(scale):
        raise ValueError(f"the scale of {name} must be finite")
    layers = tuple(map(int, row["layers"]))
    return Direction(name, vector, layers, scale, str(row["method"]))


def check_ending(path: Path) -> None:
    if path.suffix != EXTENSION:
        raise UserError(f"directions are kept in {EXTENSION} files; got {path}")


# ----------------------------------------------------------------------------------- without any attribute


def sefa(
    G: Generator, layers: Sequence[int], count: int = 8, *, label: int | Sequence[float] | None = None
) -> Directions:
    """The directions of w that change the styles most (closed-form factorisation, Shen and Zhou 2021, eq. 4-6).

    They are the eigenvectors of A^T A with the largest eigenvalues, A [channels, w_dim] being the weights of the
    affine maps of all chosen layers, one below another. Nothing is sampled but for `scale`, of all classes or of
    `label`. Raises UserError for a model with one style, for layers of a growing model that do not reach the picture
    yet, and for an impossible count.
    """
    weights = style_weights(G)
    used = [i for i in layers if i in weights]
    if not used:
        raise UserError(f"the model has not grown to layers {list(layers)} yet: choose among {sorted(weights)}")
    A = torch.cat([weights[i] for i in used]).double()
    values, vectors = torch.linalg.eigh(A.t() @ A)
    vectors = _leading(vectors, values, count, int(G.w_dim))
    w = sample_w(G, 1000, label=label).to(vectors)
    scales = (w @ vectors.t()).std(0)
    return _collect(G, vectors, scales, layers, "sefa")


def pca(
    G: Generator,
    layers: Sequence[int],
    count: int = 8,
    samples: int = 10_000,
    seed: int = 0,
    *,
    label: int | Sequence[float] | None = None,
) -> Directions:
    """The directions in which w varies most (GANSpace, Härkönen et al. 2020, section 2.1), of `samples` random w.

    Of a conditional model, over all its classes, or within `label`.

    Raises UserError for a model whose w is its z, whose directions are all alike, and for an impossible count.
    """
    _check_styles(G, "PCA: all directions of its z vary alike")
    if samples < 2:
        raise UserError(f"PCA needs at least two samples of w; got {samples}")
    w = sample_w(G, samples, seed, label).double()
    values, vectors = torch.linalg.eigh(torch.cov(w.t()))
    vectors = _leading(vectors, values, count, int(G.w_dim))
    return _collect(G, vectors, (w @ vectors.t()).std(0), layers, "pca")


def style_weights(G: Generator) -> dict[int, Tensor]:
    """Style -> weight [channels, w_dim], as applied, of the affine map that turns it into the scales of its layer.

    Found by watching which style each map receives, so that it holds for every style-based network, and a growing one
    shows the layers it has. StyleGAN2's ToRGB shares the style of the convolution after it, which counts. Raises
    UserError for a model with one style.
    """
    _check_styles(G, "closed-form factorisation, which reads style layers (stylegan1, 2, 3)")
    assert isinstance(G.synthesis, nn.Module)
    ws = torch.randn(1, G.num_ws, G.w_dim, generator=torch.Generator().manual_seed(0)).to(device_of(G))
    found: dict[int, Tensor] = {}

    def watch(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer, FullyConnected)
        fed = [i for i in range(ws.shape[1]) if torch.equal(inputs[0], ws[:, i])]
        found.update({i: layer.weight.detach() * layer.weight_gain for i in fed})

    handles = [m.register_forward_hook(watch) for m in G.synthesis.modules() if isinstance(m, FullyConnected)]
    try:
        with torch.inference_mode():
            G.synthesis(ws, noise_mode="none")
    finally:
        for handle in handles:
            handle.remove()
    return found


def _check_styles(G: Generator, why: str) -> None:
    if G.num_ws == 1:
        raise UserError(
            f"this model has one style, its z, and no {why}. Find directions from attributes (means, ridge, logistic)"
        )


def _leading(vectors: Tensor, values: Tensor, count: int, w_dim: int) -> Tensor:
    """[count, w_dim]: columns of `vectors` with the largest eigenvalues; the largest entry of each is positive."""
    if not 1 <= count <= w_dim:
        raise UserError(f"w has {w_dim} dimensions and as many directions; got a count of {count}")
    rows = vectors[:, values.argsort(descending=True)[:count]].t()
    return rows * rows.gather(1, rows.abs().argmax(1, keepdim=True)).sign()


def _collect(G: Generator, vectors: Tensor, scales: Tensor, layers: Sequence[int], method: str) -> Directions:
    where = tuple(int(i) for i in layers)
    items = [
        Direction(f"{method}{k}", vector.float().cpu(), where, float(scale), method)
        for k, (vector, scale) in enumerate(zip(vectors, scales, strict=True))
    ]
    return Directions(tuple(items), int(G.num_ws), int(G.w_dim))


# ---------------------------------------------------------------------------------------------- pictures


def strip(
    G: Generator,
    direction: Direction,
    ws: Tensor,
    strengths: Sequence[float],
    *,
    names: Sequence[str] | None = None,
    noise_mode: NoiseMode = "const",
    min_cell: int = 96,
    progress: Progress = silent,
) -> np.ndarray:
    """uint8 [H, W, C]: a row for each of ws [N, num_ws, w_dim], a column for each strength, the rows' names left."""
    moved = torch.stack([direction.apply(ws, s) for s in strengths], 1)
    images = render(G, moved.flatten(0, 1), noise_mode=noise_mode, progress=progress)
    grid = image_grid(images, len(strengths), min_cell)
    return grid if names is None else name_rows(grid, names)
