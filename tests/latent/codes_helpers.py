"""Files that do not hold latent codes, and what is said about them."""

from __future__ import annotations

import json

import safetensors.torch
import torch
from torch import Tensor

from stylegan_lightning.latent.codes import FORMAT, noise_maps
from stylegan_lightning.networks import Generator


def codes_file(tensors: dict[str, Tensor], names: object = None, **metadata: str) -> bytes:
    """`names`: what is written as JSON, or the text itself."""
    text = names if isinstance(names, str) else json.dumps(names)
    return safetensors.torch.save(tensors, {"format": FORMAT, "names": text, **metadata})


def broken_codes(G: Generator) -> dict[str, tuple[bytes, str]]:
    """Name -> (content, what is said about it)."""
    ws, map_ = torch.zeros(2, G.num_ws, G.w_dim), noise_maps(G)[-1]
    good, key, (high, wide) = {"ws": ws}, f"noise.{map_.name}", map_.size
    nan, inf = ws.clone(), ws.clone()
    nan[1, 0, 0], inf[0, -1, -1] = torch.nan, -torch.inf
    two = ["a", "b"]

    def noise(*shape: int, name: str = key, value: float = 0.0) -> bytes:
        return codes_file({**good, name: torch.full(shape, value)}, two)

    names = {"5": 5, "null": None, "dict": {"a": 1, "b": 2}, "ints": [1, 2], "nulls": [None, None], "text": '"ab"'}
    names |= {
        "short": ["a"],
        "long": ["a", "b", "c"],
        "nested": "[" * 100_000,
        "lists": [["a"], ["b"]],
        "no JSON": "a,b",
    }
    files = {f"names {name}": (codes_file(good, value), "list of") for name, value in names.items()}
    files |= {
        "no names": (safetensors.torch.save(good, {"format": FORMAT}), "list of"),
        "another format": (codes_file(good, two, format="something else"), "written by something else"),
        "no metadata": (safetensors.torch.save(good), "written by something else"),
        "no styles": (codes_file({"w": ws}, two), "no styles"),
        "no codes": (codes_file({"ws": ws[:0]}, []), "styles are"),
        "flat": (codes_file({"ws": ws[:, 0].contiguous()}, two), "styles are"),
        "a number": (codes_file({"ws": torch.tensor(1.0)}, two), "styles are"),
        "four axes": (codes_file({"ws": ws[None]}, ["a"]), "styles are"),
        "another size": (codes_file({"ws": torch.zeros(2, 3, 5)}, two), "another model"),
        "NaN": (codes_file({"ws": nan}, two), "finite"),
        "infinite": (codes_file({"ws": inf}, two), "finite"),
        "too large for float32": (codes_file({"ws": ws.double() + 1e300}, two), "finite"),
        "empty": (b"", "damaged"),
        "cut": (codes_file(good, two)[:-8], "damaged"),
        "a long header": (b"\xff" * 8 + b"{}", "damaged"),
        "a nested header": ((100_000).to_bytes(8, "little") + b"[" * 100_000, "damaged"),
        "noise of another name": (noise(2, 1, high, wide, name="noise.x"), "noise map x"),
        "noise of a name of many lines": (noise(2, 1, 4, 4, name="noise." + "x\n" * 5000), "noise map x_x"),
        "noise of three channels": (noise(2, 3, high, wide), "must be [2, 1, height, width]"),
        "noise of one code": (noise(1, 1, high, wide), "must be [2, 1, height, width]"),
        "noise without axes": (noise(), "must be [2, 1, height, width]"),
        "noise of five axes": (noise(2, 1, high, wide, 1), "must be [2, 1, height, width]"),
        "noise of another size": (noise(2, 1, high * 2, wide), "does not fit"),
        "noise of no size": (noise(2, 1, 0, 0), "does not fit"),
        "noise NaN": (noise(2, 1, high, wide, value=torch.nan), "finite"),
        "noise infinite": (noise(2, 1, high, wide, value=torch.inf), "finite"),
        "noise of whole numbers": (codes_file({**good, key: torch.zeros(2, 1, high, wide).int()}, two), "type int32"),
    }
    for kind in (torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn):
        name = str(kind).removeprefix("torch.")
        files[f"styles of {name}"] = (codes_file({"ws": ws.to(kind)}, two), f"type {name}")
    return files
