"""Models and pictures for the page, and files that are none."""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

import stylegan_lightning
from stylegan_lightning.explore.access import Guard
from stylegan_lightning.explore.drawing import Painter, choose_directions
from stylegan_lightning.explore.projecting import Projections
from stylegan_lightning.explore.server import create_app
from stylegan_lightning.explore.store import Store

TOKEN = "a-long-secret"


def make_app(model: Path, folder: Path, lease: float = 20.0) -> tuple[FastAPI, Painter]:
    G = stylegan_lightning.load(model)
    painter = Painter(G, choose_directions(G, []), Store(folder / "codes", G))
    projections = Projections(model, "cpu", painter.store.put, lease)
    return create_app(painter, projections, Guard(TOKEN), "tiny"), painter


def client_of(app: FastAPI, **options: bool) -> TestClient:
    """Of somebody who has the token."""
    return TestClient(app, headers={"authorization": f"Bearer {TOKEN}"}, **options)


def png(size: int = 16, seed: int = 0) -> bytes:
    array = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def bad_files() -> dict[str, tuple[bytes, str]]:
    """Name -> (content, what the page says about it)."""
    good = png(64)
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 0xFF
    pickled = io.BytesIO()
    torch.save({"ws": torch.zeros(1)}, pickled)
    return {
        "empty.png": (b"", "empty"),
        "text.png": (b"this is no picture", "not a picture"),
        "page.html": (b"<script>alert(1)</script>", "not a picture"),
        "cut.png": (good[: len(good) // 2], "damaged"),
        "flipped.png": (bytes(flipped), "damaged"),
        "bomb.png": (bomb(), "50 million"),
        "vector.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', "not a picture"),
        "large.png": (b"\x89PNG" + bytes(20_100_000), "20 MB"),
        "pickle.safetensors": (pickled.getvalue(), "the file"),
        "short.safetensors": (b"\xff" * 20, "the file"),
        "<img src=x onerror=alert(1)>.jpg": (b"\xff\xd8\xff\xe0 no jpeg", "damaged"),
    }


def until(what: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)
