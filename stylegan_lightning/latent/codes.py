"""Latent codes of pictures: made from seeds, kept in files, turned into pictures.

Everything works on any generator: a model without style layers (ProGAN and the GANs before it) has one style,
which is its z itself.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylegan_lightning.errors import UserError
from stylegan_lightning.files import replacing, safe_name
from stylegan_lightning.imaging import to_uint8
from stylegan_lightning.latent.tensor_files import finite_floats, names_in, read_tensors
from stylegan_lightning.networks import Generator
from stylegan_lightning.protocols import NoiseMode

Progress = Callable[[int, int], None]
"""(done, total), called as a long piece of work goes on."""

FORMAT = "stylegan_lightning codes 1"
EXTENSION = ".safetensors"
LARGEST_SEED = 2**32 - 1
LISTED = 20
"""So many names of a file are told."""
NOISE = "noise_const"
"""What the layers of a synthesis network call their noise map."""


def silent(done: int, total: int) -> None:
    """Progress that nobody watches."""


def device_of(G: nn.Module) -> torch.device:
    return next(G.parameters()).device


# -------------------------------------------------------------------------------------------------- seeds


@contextlib.contextmanager
def frozen(G: Generator) -> Iterator[None]:
    """While open, G is in eval mode and none of its parameters collects gradients."""
    training, needed = G.training, [p for p in G.parameters() if p.requires_grad]
    G.eval().requires_grad_(False)
    try:
        yield
    finally:
        G.train(training)
        for parameter in needed:
            parameter.requires_grad_(True)


def parse_seeds(text: str) -> list[int]:
    """ "0-3,7" -> [0, 1, 2, 3, 7]. Raises UserError for anything else than numbers and ranges."""
    seeds: list[int] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdigit() or (dash and not high.isdigit()):
            raise UserError(f"seeds are whole numbers and ranges such as 0-15 or 3,7,20-29; got {text!r}")
        first, last = int(low), int(high or low)
        if last < first or last > LARGEST_SEED:
            rule = "a range goes upwards" if last < first else f"a seed is at most {LARGEST_SEED}"
            raise UserError(f"{rule}; got {part.strip()!r}")
        seeds.extend(range(first, last + 1))
    return seeds


def z_of(seeds: Sequence[int], z_dim: int) -> Tensor:
    """[N, z_dim]: each row depends on its seed alone.

    The numbers are those of NumPy's `RandomState(seed)`, whose stream never changes and which the published
    sampling commands of StyleGAN use: with the same weights, the same seed shows the same picture.
    """
    rows = [np.random.RandomState(seed).randn(z_dim) for seed in seeds]
    return torch.from_numpy(np.array(rows, np.float32).reshape(len(seeds), z_dim))


def label_of(G: Generator, label: int | Sequence[float] | None) -> Tensor | None:
    """c [1, c_dim] of a class number or of a whole label; None for an unconditional generator.

    Raises UserError where G takes a label and gets none, or gets one that it does not take.
    """
    c_dim = int(G.c_dim)
    if label is None:
        if c_dim:
            raise UserError(f"this model draws {c_dim} classes: choose one with --class 0..{c_dim - 1}")
        return None
    if not c_dim:
        raise UserError(f"this model was trained without classes; leave the class out (got {label})")
    if isinstance(label, int):
        if not 0 <= label < c_dim:
            raise UserError(f"the class must be one of 0..{c_dim - 1} for this model; got {label}")
        return F.one_hot(torch.tensor([label]), c_dim).float()
    if len(label) != c_dim:
        raise UserError(f"a label of this model has {c_dim} numbers; got {len(label)}: {list(label)}")
    return torch.tensor([list(label)], dtype=torch.float32)


def styles_of(
    G: Generator,
    seeds: Sequence[int],
    *,
    label: int | Sequence[float] | None = None,
    psi: float = 1.0,
    cutoff: int | None = None,
) -> Tensor:
    """ws [N, num_ws, w_dim] of seeds; each row depends on its seed alone.

    `psi` 1 leaves them, 0 is the mean (truncation, StyleGAN, appendix B), for the first `cutoff` styles only where
    that is given.
    """
    return styles_of_z(G, z_of(seeds, G.z_dim), label=label, psi=psi, cutoff=cutoff)


@torch.inference_mode()
def styles_of_z(
    G: Generator,
    z: Tensor,
    *,
    label: int | Sequence[float] | None = None,
    psi: float = 1.0,
    cutoff: int | None = None,
) -> Tensor:
    """ws [N, num_ws, w_dim] of z [N, z_dim], row by row, otherwise as `styles_of`."""
    c, device = label_of(G, label), device_of(G)
    c = None if c is None else c.to(device)
    if cutoff is not None and not 0 <= cutoff <= G.num_ws:
        raise UserError(f"the truncation cutoff counts styles, 0..{G.num_ws} for this model; got {cutoff}")
    rows = [G.mapping(row[None].to(device), c, truncation_psi=psi, truncation_cutoff=cutoff) for row in z]
    return torch.cat(rows).clone() if rows else torch.zeros(0, G.num_ws, G.w_dim, device=device)


@torch.inference_mode()
def sample_w(G: Generator, count: int, seed: int = 0, label: int | Sequence[float] | None = None) -> Tensor:
    """w [count, w_dim] of random latents, on G's device; for a conditional model of all its classes, in turn."""
    z = torch.randn(count, G.z_dim, generator=torch.Generator().manual_seed(seed)).to(device_of(G))
    c = label_of(G, label) if label is not None else None
    classes = torch.arange(count) % max(int(G.c_dim), 1)

    def labels(part: Tensor) -> Tensor | None:
        if not G.c_dim:
            return None
        return (F.one_hot(part, int(G.c_dim)).float() if c is None else c.expand(len(part), -1)).to(z.device)

    parts = zip(z.split(1024), classes.split(1024), strict=True)
    return torch.cat([G.mapping(part, labels(own))[:, 0] for part, own in parts]).clone()


# ----------------------------------------------------------------------------------------------- pictures


def size_of(G: Generator) -> int:
    """Pixels across of the pictures that G draws at present; a growing network has a way to go to `img_resolution`."""
    return int(getattr(G.synthesis, "resolution", G.img_resolution))


class NoiseMap(NamedTuple):
    name: str
    size: tuple[int, int]


def noise_maps(G: Generator) -> list[NoiseMap]:
    """The noise inputs of the synthesis network that reach the picture, coarse to fine; none for most models."""
    found = [NoiseMap(n, (b.shape[-2], b.shape[-1])) for n, b in _buffers(G) if n.rsplit(".", 1)[-1] == NOISE]
    return [m for m in found if m.size[0] <= size_of(G)]


def own_noise(G: Generator) -> dict[str, Tensor]:
    """float [1, 1, H, W], of the model itself, by the names of `noise_maps`."""
    own = dict(_buffers(G))
    return {m.name: own[m.name].float().expand(1, 1, *m.size) for m in noise_maps(G)}


def _buffers(G: Generator) -> list[tuple[str, Tensor]]:
    assert isinstance(G.synthesis, nn.Module)
    return list(G.synthesis.named_buffers())


def synthesise(
    G: Generator, ws: Tensor, *, noise_mode: NoiseMode = "const", noise: Mapping[str, Tensor] | None = None
) -> Tensor:
    """img [N, C, H, W] in [-1, 1], with gradients; `noise` replaces noise maps by [N, 1, H, W] of each picture."""
    if not noise:
        return G.synthesis(ws, noise_mode=noise_mode)
    assert isinstance(G.synthesis, nn.Module)
    return torch.func.functional_call(G.synthesis, dict(noise), (ws,), {"noise_mode": "const"})


@torch.inference_mode()
def render(
    G: Generator,
    ws: Tensor,
    *,
    noise_mode: NoiseMode = "const",
    seeds: Sequence[int] | None = None,
    noise: Mapping[str, Tensor] | None = None,
    progress: Progress = silent,
) -> Tensor:
    """uint8 [N, C, H, W] on the CPU.

    One picture at a time, so that each depends on its own style alone, to the last bit. Random noise is drawn from
    `seeds`, one for each picture (0, 1, ... where they are not given), and leaves the global random state as it is.
    """
    images = []
    for i, w in enumerate(ws.to(device_of(G))[:, None]):
        own = {name: maps[i : i + 1].to(w) for name, maps in (noise or {}).items()}
        with _seeded(seeds[i] if seeds is not None else i, noise_mode == "random" and not own):
            images.append(to_uint8(synthesise(G, w, noise_mode=noise_mode, noise=own).float()).cpu())
        progress(i + 1, len(ws))
    return torch.cat(images) if images else torch.zeros(0, G.img_channels, size_of(G), size_of(G), dtype=torch.uint8)


@contextlib.contextmanager
def _seeded(seed: int, needed: bool) -> Iterator[None]:
    """While open, the global random numbers are those of `seed`."""
    if not needed:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


# -------------------------------------------------------------------------------------------------- files


@dataclass(frozen=True)
class Codes:
    """Styles of pictures, what to call them, and their own noise maps where they have some."""

    ws: Tensor
    """[N, num_ws, w_dim]"""
    names: tuple[str, ...]
    noise: dict[str, Tensor] = field(default_factory=dict)
    """Buffer of the synthesis network -> [N, 1, H, W]."""

    def __post_init__(self) -> None:
        if len(self.names) != len(self.ws) or any(len(maps) != len(self.ws) for maps in self.noise.values()):
            raise ValueError(f"{len(self.ws)} codes need as many names and noise maps")

    def __len__(self) -> int:
        return len(self.ws)

    def save(self, path: Path) -> None:
        """As safetensors, whole or not at all. Raises UserError for another ending."""
        if path.suffix != EXTENSION:
            raise UserError(f"latent codes are kept in {EXTENSION} files; got {path}")
        tensors = {"ws": self.ws, **{f"noise.{name}": maps for name, maps in self.noise.items()}}
        with replacing(path) as temporary:
            own = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
            metadata = {"format": FORMAT, "names": json.dumps([safe_name(name) for name in self.names])}
            temporary.write_bytes(safetensors.torch.save(own, metadata))

    @classmethod
    def load(cls, path: Path) -> Codes:
        """float32, finite, of safe names. Raises UserError for a file that is missing, damaged or holds something
        else."""
        tensors, metadata = read_tensors(path, FORMAT, "latent codes")
        if "ws" not in tensors:
            raise UserError(f"{path} is damaged: it has no styles")
        ws = finite_floats(tensors["ws"], "its styles", path)
        if ws.ndim != 3 or not len(ws):
            raise UserError(f"{path} is damaged: styles are [codes, styles, numbers]; it has {list(ws.shape)}")
        names = names_in(metadata.get("names"), len(ws), path)
        noise = {name.removeprefix("noise."): t for name, t in tensors.items() if name.startswith("noise.")}
        for name, maps in noise.items():
            what = f"its noise maps {safe_name(name)}"
            if maps.ndim != 4 or maps.shape[:2] != (len(ws), 1):
                rule = f"must be [{len(ws)}, 1, height, width]"
                raise UserError(f"{path} is damaged: {what} {rule}; they are {list(maps.shape)}")
            noise[name] = finite_floats(maps, what, path)
        return cls(ws, names, noise)

    @staticmethod
    def join(parts: Sequence[Codes]) -> Codes:
        """One after another; noise maps only where all have them."""
        shared = set.intersection(*(set(p.noise) for p in parts)) if parts else set()
        return Codes(
            torch.cat([p.ws.cpu() for p in parts]),
            tuple(name for p in parts for name in p.names),
            {name: torch.cat([p.noise[name].cpu() for p in parts]) for name in sorted(shared)},
        )


def check_fits(G: Generator, codes: Codes, path: Path | str) -> Codes:
    """`codes`. Raises UserError where they are of a model of other sizes than G."""
    sizes, own = tuple(codes.ws.shape[1:]), (int(G.num_ws), int(G.w_dim))
    maps = {m.name: m.size for m in noise_maps(G)}
    foreign = [n for n, t in codes.noise.items() if n not in maps or tuple(t.shape) != (len(codes), 1, *maps[n])]
    if sizes != own or foreign:
        which = f"its noise map {safe_name(foreign[0])}" if foreign else f"[{sizes[0]}, {sizes[1]}]"
        raise UserError(
            f"{path} holds codes of another model: {which} does not fit, this one has styles [{own[0]}, {own[1]}]"
        )
    return codes


def codes_of(
    G: Generator,
    points: str,
    *,
    label: int | Sequence[float] | None = None,
    psi: float = 1.0,
    cutoff: int | None = None,
) -> Codes:
    """What a user names: seeds and ranges, files of codes, or single codes FILE:NAME, joined by commas.

    "0-3,me.safetensors,others.safetensors:anna". Truncation is for seeds; codes of files are taken as they are.
    Raises UserError.
    """
    found: list[Codes] = []
    for part in (p.strip() for p in points.split(",")):
        file, colon, name = part.rpartition(":")
        if part.endswith(EXTENSION) or (colon and file.endswith(EXTENSION)):
            path = Path(part if part.endswith(EXTENSION) else file).expanduser()
            codes = check_fits(G, Codes.load(path), path)
            found.append(codes if part.endswith(EXTENSION) else _named(codes, name, path))
        else:
            seeds = parse_seeds(part)
            ws = styles_of(G, seeds, label=label, psi=psi, cutoff=cutoff)
            found.append(Codes(ws.cpu(), tuple(f"seed {s}" for s in seeds)))
    return Codes.join(found)


def _named(codes: Codes, name: str, path: Path) -> Codes:
    name = safe_name(name)
    if name not in codes.names:
        more = f" and {len(codes) - LISTED} more" if len(codes) > LISTED else ""
        raise UserError(f"{path} has no code named {name!r}; it has {', '.join(codes.names[:LISTED])}{more}")
    i = codes.names.index(name)
    return Codes(codes.ws[i : i + 1], (name,), {key: maps[i : i + 1] for key, maps in codes.noise.items()})
