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
from stylegan_lightning.config.stored import check_stored
from stylegan_lightning.config_checks import run_problems
from stylegan_lightning.data.faces import Faces
from stylegan_lightning.data.streamed import write_shards
from tests.conftest import ROOT, read_rows

CONF = ROOT / "conf"
GROUPS = {g.name: sorted(f.stem for f in g.glob("*.yaml")) for g in sorted(CONF.iterdir()) if g.is_dir()}
SETS = {"cifar10": "CIFAR10", "fashion_mnist": "FashionMNIST", "celeba": "CelebA", "flowers102": "Flowers102"}
NEED = {"trainer/gpu": "a GPU", "metrics/is": "the Inception weights"}
OFFLINE = ["metrics.extractor=efflite0", "metrics.perceptual=efflite0"]
"""In place of networks whose weights are downloaded."""


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


SMALL = {
    "z_dim": 8, "w_dim": 8, "mapping_layers": 2, "channel_base": 64, "channel_max": 8, "g_hidden": 16, "d_hidden": 16,
    "num_layers": 4, "num_critical": 1, "magnitude_ema_kimg": 0.1, "blur_fade_kimg": 0.1, "mbstd_group_size": 4,
}  # fmt: skip
"""Sizes by name of the key in a model's file."""


def reduced(*choices: str) -> list[str]:
    """Overrides that make the model of a configuration small, whichever it is."""
    model = composed(*choices).model
    keys = [k for k in SMALL if model.get(k) and not OmegaConf.is_interpolation(model, k)]
    return [f"model.{k}={SMALL[k]}" for k in keys]


def short(name: str) -> list[str]:
    """Overrides for eight batches or more that pass through growth, where there is any."""
    lengths = ["schedule.total_kimg=0.128", "schedule.tick_kimg=0.064", "metrics=none", "data.resolution=16"]
    if "progressive" not in name:
        return lengths
    table = "{4: 16, 8: 16, 16: 8}"
    return [*lengths, "schedule.stabilise_kimg=0.016", "schedule.fade_kimg=0.016", f"schedule.batch_sizes={table}"]


def arguments_for(group: str, name: str, tiny: tuple[str, ...], tmp_path) -> list[str]:
    """The overrides of one real run of a file in conf/."""
    plain = [a for a in tiny if not a.startswith("model.")]
    few = ["data.size=64", "callbacks.samples.rows=2", "callbacks.samples.columns=4"]
    if group == "model":
        return [*plain, "data.resolution=16", f"model={name}", *reduced(f"model={name}")]
    if group == "loss":
        return [*tiny, f"loss@model.loss={name}"]
    if group == "recipe":
        experiment, model = name.split("_", 1)
        return [*plain, "data.resolution=16", f"experiment={experiment}", f"model={model}"]
    if group == "schedule" and name != "fixed":
        choices = [f"schedule={name}", "model=progan"]
        return [*few, *choices, *reduced(*choices), *short(name)]
    if group == "experiment":
        choice = f"experiment={name}"
        kind = "progressive" if "batch_sizes" in composed(choice).schedule else "fixed"
        where = [f"data.path={tmp_path}"] if name == "cifar" else ["data.size=64"]
        return [choice, "precision=fp32", *few[1:], *where, *reduced(choice), *short(kind)]
    if group == "data" and name == "image_folder":
        for i in range(4):
            Image.new("RGB", (9, 9), (i, 0, 0)).save(tmp_path / f"{i}.png")
    if group == "data" and name == "streamed":
        shards = write_shards(Faces(8, 64), tmp_path / "shards", chunk_mb=0.004)
        return [*(a for a in tiny if not a.startswith("data.size")), f"data={name}", f"data.path={shards}"]
    if group == "data" and name != "faces":
        files = [f"data.path={tmp_path}", *(["data.labels=true"] if name in SETS else [])]
        return [*(a for a in tiny if not a.startswith("data.size")), f"data={name}", *files]
    extra = {
        "trainer=ddp": ["trainer.devices=1"],
        "trainer=multi_node": ["trainer.accelerator=cpu", "trainer.devices=1"],
    }
    rest = [a for a in tiny if not (group == "metrics" and a == "metrics=none")]
    if group == "metrics":
        rest = [*(a for a in rest if a != "data.resolution=8"), "data.resolution=32", "metrics.num_fake=16", *OFFLINE]
    if group == "metrics" and name.startswith("eq"):
        rest = [a for a in rest if not a.startswith("model.")] + ["model=stylegan3_r", *reduced("model=stylegan3_r")]
    return [*rest, f"{group}={name}", *extra.get(f"{group}={name}", []), f"name={name}"]


@pytest.mark.parametrize("choice", [f"{g}={name}" for g in GROUPS for name in GROUPS[g]])
def test_every_config_runs(run, tiny, tmp_path, choice, stand_ins):
    group, name = choice.split("=")
    if f"{group}/{name}" in NEED and not (name == "gpu" and torch.cuda.is_available()):
        done = run("train.py", *[a for a in tiny if a != "metrics=none"], choice, f"run_dir={tmp_path}/r",
                   "metrics.weights.inception=/nowhere" if name == "is" else "seed=0")  # fmt: skip
        assert done.code == 2 and done.err.startswith("error: ")
        return
    arguments = arguments_for(group, name, tiny, tmp_path)
    logger = [] if group == "logger" else ["logger=csv"]
    done = run("train.py", *arguments, *logger, f"run_dir={tmp_path}/r")
    assert done.code == 0, done.err
    rows = read_rows(tmp_path / "r/metrics.csv")
    assert math.isfinite(float(rows[-1]["loss/G"])) and math.isfinite(float(rows[-1]["loss/D"]))
    if group == "metrics" and name != "none":
        values = {k: v for k, v in rows[-1].items() if k.startswith("metric/")}
        assert values and all(math.isfinite(float(v)) for v in values.values()), values


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


RUNS = {  # of the StyleGAN3 paper: data -> resolution, batch, kimg, gamma of StyleGAN2, 3-T and 3-R
    "ffhqu1024": (1024, 32, 25_000, (10, 32.8, 32.8)),
    "metfacesu1024": (1024, 32, 5000, (10, 16.4, 6.6)),
    "metfaces1024": (1024, 32, 5000, (5, 6.6, 3.3)),
    "afhqv2": (512, 32, 25_000, (5, 8.2, 16.4)),
    "ffhqu256": (256, 64, 25_000, (1, 1, 1)),
}


@pytest.mark.parametrize("data", RUNS)
@pytest.mark.parametrize(("column", "model"), list(enumerate(["stylegan2", "stylegan3_t", "stylegan3_r"])))
def test_the_runs_of_the_stylegan3_paper(data, column, model):
    cfg = composed(f"experiment={model}_{data}")
    resolution, batch, kimg, gammas = RUNS[data]
    values = (cfg.data.resolution, cfg.schedule.batch_size, cfg.schedule.total_kimg, cfg.model.r1_gamma)
    assert values == (resolution, batch, kimg, gammas[column])
    assert cfg.model.name == model and cfg.data.mirror is True
    assert cfg.model.d_lr == (0.0025 if data == "ffhqu256" else 0.002)
    assert cfg.model.g_lr == (0.0025 if model != "stylegan2" or data == "ffhqu256" else 0.002)
    assert cfg.model.channel_base == (16384 if data == "ffhqu256" else 32768)
    if model == "stylegan3_r":
        assert (cfg.model.blur_sigma, cfg.model.blur_fade_kimg) == (10, batch * 200 / 32)
        assert cfg.model.generator.synthesis.channel_multiplier == 2


@pytest.mark.parametrize("gpus", [1, 2, 4, 8])
def test_the_published_growing_runs(gpus):
    progan, stylegan1 = composed(f"experiment=progan_{gpus}gpu"), composed(f"experiment=stylegan1_{gpus}gpu")
    assert progan.schedule.batch_sizes == stylegan1.schedule.batch_sizes
    assert (progan.schedule.start_resolution, stylegan1.schedule.start_resolution) == (4, 8)
    assert (progan.schedule.total_kimg, stylegan1.schedule.total_kimg) == (12_000, 25_000)
    assert dict(stylegan1.schedule.lrs) == {128: 0.0015, 256: 0.002, 512: 0.003, 1024: 0.003}
    rates = {1: {1024: 0.0015}, 2: {512: 0.0015, 1024: 0.002}, 4: {256: 0.0015, 512: 0.002, 1024: 0.003}}
    assert dict(progan.schedule.lrs) == rates.get(gpus, dict(stylegan1.schedule.lrs))
    for cfg in (progan, stylegan1):
        assert (cfg.schedule.stabilise_kimg, cfg.schedule.fade_kimg, cfg.schedule.minibatch_repeats) == (600, 600, 4)
    r1 = stylegan1.model.d_penalties.r1
    assert (r1.gamma, r1.interval, r1.full_resolution) == (10, 1, 1024)
    gp = progan.model.d_penalties.gp
    assert (gp.gamma, gp.center, gp.full_resolution, progan.model.loss.drift) == (10, 1, 1024, 0.001)


@pytest.mark.parametrize("name", GROUPS["experiment"])
def test_every_experiment_is_valid_as_it_stands(name):
    cfg = composed(f"experiment={name}")
    assert run_problems(cfg) == []


@pytest.mark.parametrize(
    ("resolution", "gpus", "expected"),
    [(256, 1, (16, 0.8192, 5)), (1024, 8, (32, 6.5536, 10)), (32, 1, (32, 0.0064, 10))],
)
def test_auto_follows_resolution_and_devices(resolution, gpus, expected):
    cfg = composed("experiment=auto", f"data.resolution={resolution}", f"trainer.devices={gpus}")
    assert (cfg.schedule.batch_size, cfg.model.r1_gamma, cfg.model.ema_kimg) == pytest.approx(expected)
    assert run_problems(cfg) == []


def test_the_demo_takes_slower_steps_on_larger_images():
    small, large = composed().model, composed("data.resolution=64").model
    assert (small.g_lr, small.d_lr, small.r1_gamma) == pytest.approx((0.01, 0.01, 0.5))
    assert (large.g_lr, large.d_lr, large.r1_gamma) == pytest.approx((0.003, 0.003, 5.12))


def test_resolved_config_is_plain_and_names_only_our_parts():
    cfg = composed("model.c_dim=0")
    plain = builders.to_plain(cfg)
    assert check_stored(plain, CONF) == plain
    assert OmegaConf.create(plain).model.generator.synthesis.channel_base == cfg.model.channel_base


def test_the_default_run_names_every_documented_key():
    cfg = composed()
    for key in (
        "seed", "run_dir", "resume", "init_from", "schedule.total_kimg", "schedule.tick_kimg", "schedule.batch_size",
        "data.resolution", "data.channels", "data.on_error", "augment", "metrics", "precision", "trainer", "logger",
    ):  # fmt: skip
        assert OmegaConf.select(cfg, key, default="absent") != "absent", key


def test_published_runs_with_augmentation_and_float16():
    ada = {n for n in GROUPS["experiment"] if composed(f"experiment={n}").augment.name == "ada"}
    few = ("afhqv2", "metfaces1024", "metfacesu1024")
    assert ada == {"auto", "cifar", *(f"{m}_{d}" for m in ("stylegan2", "stylegan3_t", "stylegan3_r") for d in few)}
    half = {n for n in GROUPS["experiment"] if composed(f"experiment={n}").precision.low_dtype == "float16"}
    assert half == {
        n for n in GROUPS["experiment"] if n.startswith(("stylegan2_", "stylegan3_", "paper")) and n != "stylegan2_f"
    } | {"cifar"}
    assert composed("experiment=paper256").model.conv_clamp == 256
    assert composed("experiment=auto", "init_from=x").augment.kimg == 100
