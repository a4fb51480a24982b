"""Every file in conf/ is composed, checked and run for real steps, with widths and lengths made small."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchvision
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from PIL import Image

from stylegan_lightning import builders
from stylegan_lightning.config_checks import run_problems
from tests.conftest import ROOT, read_rows

CONF = ROOT / "conf"
GROUPS = {g.name: sorted(f.stem for f in g.glob("*.yaml")) for g in sorted(CONF.iterdir()) if g.is_dir()}
SETS = {"cifar10": "CIFAR10", "fashion_mnist": "FashionMNIST", "celeba": "CelebA", "flowers102": "Flowers102"}
NEED = {"trainer/gpu": "a GPU", "metrics/fid": "the Inception weights"}


class StandIn(torch.utils.data.Dataset):
    """Takes the place of a torchvision set that would be downloaded."""

    classes = tuple(str(i) for i in range(10))
    attr_names = (*map(str, range(40)), "")

    def __init__(self, root, *args, transform=None, target_transform=None, target_type="attr", **kwargs):
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 255, (16, 40, 36, 3), np.uint8)
        self.targets = self._labels = [i % 10 for i in range(16)]
        self.attr = torch.zeros(16, 40, dtype=torch.int64)
        self.data = self.images

    def __len__(self):
        return 16

    def __getitem__(self, index):
        return Image.fromarray(self.images[index]), self.targets[index]


@pytest.fixture
def stand_ins(monkeypatch):
    for name in SETS.values():
        monkeypatch.setattr(torchvision.datasets, name, StandIn)


def composed(*overrides: str):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", list(overrides))


SMALL = {  # for experiments, whose own values would win over `tiny` given as a group
    "model.z_dim": 8, "model.w_dim": 8, "model.mapping_layers": 2, "model.channel_base": 64, "model.channel_max": 8,
    "schedule.total_kimg": 0.128, "schedule.tick_kimg": 0.064,
}  # fmt: skip


@pytest.mark.parametrize("choice", [f"{g}={name}" for g in GROUPS for name in GROUPS[g]])
def test_every_config_runs(run, tiny, tmp_path, choice, stand_ins):
    group, name = choice.split("=")
    if f"{group}/{name}" in NEED and not (name == "gpu" and torch.cuda.is_available()):
        done = run("train.py", *[a for a in tiny if a != "metrics=none"], choice, f"run_dir={tmp_path}/r",
                   "metrics.weights_path=/nowhere" if name == "fid" else "seed=0")  # fmt: skip
        assert done.code == 2 and done.err.startswith("error: ")
        return
    arguments = [a for a in tiny if not (group == "metrics" and a == "metrics=none")]
    if group == "data":
        arguments = [a for a in arguments if not a.startswith("data.size") or name == "faces"]
        if name == "image_folder":
            for i in range(4):
                Image.new("RGB", (9, 9), (i, 0, 0)).save(tmp_path / f"{i}.png")
            arguments.append(f"data.path={tmp_path}")
        elif name in SETS:
            arguments += [f"data.path={tmp_path}", "data.labels=true"]
    if group == "experiment":
        arguments = ["metrics=none", "data.resolution=8", *(f"{k}={v}" for k, v in SMALL.items())]
        arguments += [f"data.path={tmp_path}"] if name == "cifar" else ["data.size=64"]
    if group == "trainer" and name == "ddp":
        arguments.append("trainer.devices=1")
    if group == "logger":
        arguments.append(f"name={name}")
    arguments += ["metrics.num_fake=16"] if (group, name) == ("metrics", "fd_efflite0") else []
    done = run("train.py", *arguments, choice, f"run_dir={tmp_path}/r", *(["logger=csv"] if group != "logger" else []))
    assert done.code == 0, done.err
    rows = read_rows(tmp_path / "r/metrics.csv")
    assert math.isfinite(float(rows[-1]["loss/G"])) and math.isfinite(float(rows[-1]["loss/D"]))


PUBLISHED = {  # experiment -> batch, mbstd, channel_base, lr, gamma, ema kimg, mapping layers
    "paper256": (64, 8, 16384, 0.0025, 1.0, 20, 8),
    "paper512": (64, 8, 32768, 0.0025, 0.5, 20, 8),
    "paper1024": (32, 4, 32768, 0.002, 2.0, 10, 8),
    "stylegan2_f": (32, 4, 32768, 0.002, 10.0, 10, 8),
    "cifar": (64, 32, 32768, 0.0025, 0.01, 500, 2),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_experiments_hold_the_published_values(name):
    cfg = composed(f"experiment={name}")
    m, s = cfg.model, cfg.schedule
    values = (s.batch_size, m.mbstd_group_size, m.channel_base, m.d_lr, m.r1_gamma, m.ema_kimg, m.mapping_layers)
    assert values == pytest.approx(PUBLISHED[name])
    assert s.total_kimg == (100_000 if name == "cifar" else 25_000)
    if name == "cifar":
        assert (m.g_lr, m.g_betas[1]) == pytest.approx((0.0025 * 0.8, 0.99**0.8), rel=1e-5)
        assert (m.pl_weight, m.style_mixing_prob, m.d_architecture) == (0, 0, "orig")
    assert run_problems(cfg) == []


@pytest.mark.parametrize(
    ("resolution", "gpus", "expected"),
    [(256, 1, (16, 0.8192, 5)), (1024, 8, (32, 6.5536, 10)), (32, 1, (32, 0.0064, 10))],
)
def test_auto_follows_resolution_and_devices(resolution, gpus, expected):
    cfg = composed("experiment=auto", f"data.resolution={resolution}", f"trainer.devices={gpus}")
    assert (cfg.schedule.batch_size, cfg.model.r1_gamma, cfg.model.ema_kimg) == pytest.approx(expected)
    assert run_problems(cfg) == []


def test_resolved_config_is_plain_and_names_only_our_parts():
    cfg = composed("model.c_dim=0")
    plain = builders.to_plain(cfg)
    assert builders.foreign_targets(plain) == []
    assert OmegaConf.create(plain).model.generator.synthesis.channel_base == cfg.model.channel_base


def test_the_default_run_names_every_documented_key():
    cfg = composed()
    for key in (
        "seed", "run_dir", "resume", "init_from", "schedule.total_kimg", "schedule.tick_kimg", "schedule.batch_size",
        "data.resolution", "data.channels", "data.on_error", "augment", "metrics", "precision", "trainer", "logger",
    ):  # fmt: skip
        assert OmegaConf.select(cfg, key, default="absent") != "absent", key
