"""Files whose bytes were changed at random are read as they are, or refused in one line; nothing else happens."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

import stylegan_lightning
from stylegan_lightning import builders
from stylegan_lightning.cli.common import read_picture
from stylegan_lightning.data.cache import prepare
from stylegan_lightning.data.image_folder import ImageFolder
from stylegan_lightning.errors import UserError
from stylegan_lightning.latent.attributes import examples_of_file
from stylegan_lightning.latent.codes import Codes, check_fits, styles_of
from stylegan_lightning.latent.directions import Directions, sefa
from stylegan_lightning.metrics.value import MetricValue
from stylegan_lightning.reports import read_records
from stylegan_lightning.training.checkpoint import export_generator, write_atomically
from tests.conftest import ROOT

KINDS = ("png", "jpg", "webp", "gif", "bmp", "tiff")
EACH = 200
"""Mutations of each kind of file."""


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("whole")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", ["run_dir=x", "data.resolution=8", "model.z_dim=8", "model.w_dim=8", "model.c_dim=0",
                                "model.mapping_layers=2", "model.channel_base=64", "model.channel_max=8"])  # fmt: skip
    module = builders.build_module(cfg, builders.build_schedule(cfg))
    content = {"state_dict": module.state_dict(), "config": builders.to_plain(cfg), "progress": {"nimg": 1000}}
    write_atomically(folder / "a.ckpt", content)
    export_generator(folder / "a.ckpt", folder / "a.safetensors")
    G = stylegan_lightning.load(folder / "a.ckpt")
    Codes(styles_of(G, [0, 1]), ("a", "b")).save(folder / "codes.safetensors")
    sefa(G, [0, 1], 2).save(folder / "directions.safetensors")
    (folder / "attributes.csv").write_text("seed,smile\n" + "\n".join(f"{s},{s % 2}" for s in range(20)))
    (folder / "attributes.json").write_text('[{"seed": 0, "smile": 0.5}, {"seed": 1, "smile": true}]')
    value = MetricValue("fid", 1.5, "quick_20", "20 images", 20, 20, 0, 1.0)
    record = {"checkpoint": "r/last.ckpt", "kimg": 1.0, "truncation_psi": None, "metrics": [value.as_dict()]}
    (folder / "results.json").write_text(json.dumps({"results": [record]}))
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
    with zipfile.ZipFile(folder / "images.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for kind in KINDS:
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, {"jpg": "jpeg"}.get(kind, kind))
            (folder / f"a.{kind}").write_bytes(buffer.getvalue())
            file.writestr(f"{kind}/a.{kind}", buffer.getvalue())
        file.writestr("dataset.json", json.dumps({"labels": [[f"{k}/a.{k}", i] for i, k in enumerate(KINDS)]}))
    return {path.name: path for path in sorted(folder.iterdir())}


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Bytes that are others, missing, twice there or cut off; more often at the ends, where headers are."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8))):
        place = draw.randrange(len(changed) or 1)
        near = draw.choice((place, min(draw.randrange(200), place), max(len(changed) - 1 - draw.randrange(200), 0)))
        kind = draw.randrange(5)
        if kind == 0:
            changed[near : near + 1] = bytes([draw.randrange(256)])
        elif kind == 1:
            changed[near : near + 4] = draw.choice((b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xff\xff\xff\xff", b"9999"))
        elif kind == 2:
            del changed[near : near + draw.randrange(1, 50)]
        elif kind == 3:
            changed[near:near] = changed[near : near + draw.randrange(1, 50)]
        else:
            del changed[near:]
    return bytes(changed)


READERS: dict[str, Callable[[Path, torch.nn.Module], object]] = {
    "a.ckpt": lambda path, G: stylegan_lightning.load(path),
    "a.safetensors": lambda path, G: stylegan_lightning.load(path),
    "codes.safetensors": lambda path, G: check_fits(G, Codes.load(path), path),
    "directions.safetensors": lambda path, G: Directions.load(path).check_fits(G, path),
    "attributes.csv": lambda path, G: examples_of_file(G, path),
    "attributes.json": lambda path, G: examples_of_file(G, path),
    "results.json": lambda path, G: read_records(path),
    "images.zip": lambda path, G: prepare(ImageFolder(path, 8, labels="auto"), path.parent / "cache", workers=0),
} | {f"a.{kind}": lambda path, G: read_picture(path, 8, 3) for kind in KINDS}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_mutated_files_are_read_or_refused(name, originals, tmp_path):
    G, draw, data = stylegan_lightning.load(originals["a.ckpt"]), random.Random(name), originals[name].read_bytes()
    refused, path = 0, tmp_path / name
    READERS[name](originals[name], G)
    for _ in range(EACH):
        path.unlink(missing_ok=True)
        path.write_bytes(mutated(data, draw))
        try:
            READERS[name](path, G)
        except UserError as error:
            refused += 1
            assert name in str(error) or "image" in str(error), error
    assert refused > EACH // 10
