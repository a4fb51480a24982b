"""Conditional runs: every model, every kind of label, balanced data, pictures and distances of classes."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

import stylegan_lightning
from stylegan_lightning.builders import build_discriminator, checkpoint_config, load_weights
from stylegan_lightning.networks import Growing
from stylegan_lightning.training.checkpoint import read_checkpoint
from tests.conftest import read_rows
from tests.test_configs import GROUPS, reduced, short
from tests.test_train import assert_same_training

FACES = ("data.classes=glasses_smile", "logger=csv")
NAMES = ("plain", "smile", "glasses", "glasses_smile")


def discriminator(run_dir):
    path = run_dir / "checkpoints/last.ckpt"
    checkpoint = read_checkpoint(path)
    D = build_discriminator(checkpoint_config(checkpoint, path))
    load_weights(D, checkpoint["state_dict"], "D.", path)
    return D.eval()


def assert_conditional(run_dir, c_dim=4):
    """Finite losses; both networks look at the label of every image, and learn what to do with it."""
    rows = read_rows(run_dir / "metrics.csv")
    assert all(np.isfinite(float(rows[-1][key])) for key in ("loss/G", "loss/D"))
    G, D = stylegan_lightning.load(run_dir), discriminator(run_dir)
    assert G.c_dim == D.c_dim == c_dim
    z, c = torch.randn(1, G.z_dim).repeat(c_dim, 1), torch.eye(c_dim)
    with torch.no_grad():
        imgs = G(z, c, noise_mode="const")
        assert (imgs[1:] - imgs[:1]).abs().amax((1, 2, 3)).min() > 1e-4
        logits = D(imgs[:1].repeat(c_dim, 1, 1, 1), c).flatten()
    assert len(set(logits.tolist())) == c_dim
    for name, p in D.named_parameters():
        embedding = name.endswith("embed.weight") or name == "epilogue.out.weight"
        assert not embedding or p.detach().std() > 0, name


@pytest.mark.parametrize("model", GROUPS["model"])
def test_every_model_trains_on_classes(run, tiny, tmp_path, model):
    plain = [a for a in tiny if not a.startswith("model.")]
    choices = ["data.resolution=16", f"model={model}", *reduced(f"model={model}")]
    done = run("train.py", *plain, *choices, *FACES, "data.balance=true", f"run_dir={tmp_path}/r")
    assert done.code == 0, done.err
    assert_conditional(tmp_path / "r")
    assert len(list((tmp_path / "r/samples").glob("classes_*_kimg.png"))) == 3


@pytest.mark.parametrize("model", ["progan", "stylegan1"])
def test_growing_models_train_on_classes(run, tmp_path, model):
    choices = ["schedule=progressive", f"model={model}", "schedule.start_resolution=4"]
    small = ["data.size=64", "callbacks.samples.rows=2", "callbacks.samples.columns=3"]
    done = run("train.py", *small, *choices, *reduced(*choices), *short("progressive"), *FACES,
               f"run_dir={tmp_path}/r")  # fmt: skip
    assert done.code == 0, done.err
    assert_conditional(tmp_path / "r")
    D = discriminator(tmp_path / "r")
    assert isinstance(D, Growing) and D.resolution == 16
    pictures = [np.asarray(Image.open(p)) for p in sorted((tmp_path / "r/samples").glob("classes_*.png"))]
    assert len({p.shape for p in pictures}) == 1 and pictures[0].shape[0] == 4 * 64  # the first at 4 pixels


KINDS = {"attributes": [[1, 0, 1], [0, 0, 0], [0, 1, 0]], "vectors": [[0.5, -2, 1], [0, 0, 0], [0, 1, 3]]}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", ["stylegan2", "stylegan1", "progan", "dcgan", "mlp"])
def test_multi_label_and_float_vectors(run, tiny, tmp_path, model, kind):
    (tmp_path / "in").mkdir()
    for i in range(12):
        Image.new("RGB", (16, 16), (20 * i, 0, 0)).save(tmp_path / "in" / f"{i}.png")
    labels = [[f"{i}.png", KINDS[kind][i % 3]] for i in range(12)]
    (tmp_path / "in/dataset.json").write_text(json.dumps({"labels": labels}))
    plain = [a for a in tiny if not a.startswith(("model.", "data."))]
    done = run("train.py", *plain, f"model={model}", *reduced(f"model={model}"), "logger=csv", "data=image_folder",
               f"data.path={tmp_path}/in", "data.labels=json", "data.resolution=16",
               f"run_dir={tmp_path}/r")  # fmt: skip
    assert done.code == 0, done.err
    assert_conditional(tmp_path / "r", 3)
    D = discriminator(tmp_path / "r")
    judged = D(torch.randn(2, 3, 16, 16), torch.zeros(2, 3))
    assert judged.std() > 0  # an image without any of the labels is judged, too
    assert not list((tmp_path / "r/samples").glob("classes_*"))


def test_balanced_runs_resume_exactly(run, tiny, tmp_path):
    arguments = [*tiny, *FACES, "data.balance=true"]
    assert run("train.py", *arguments, f"run_dir={tmp_path}/straight", "schedule.total_kimg=0.096").code == 0
    assert run("train.py", *arguments, f"run_dir={tmp_path}/parts", "schedule.total_kimg=0.04").code == 0
    assert run("train.py", f"resume={tmp_path}/parts", "schedule.total_kimg=0.096").code == 0
    assert_same_training(tmp_path / "straight/checkpoints/last.ckpt", tmp_path / "parts/checkpoints/last.ckpt")
    refused = run("train.py", f"resume={tmp_path}/parts", "data.balance=false", "schedule.total_kimg=0.2")
    assert refused.code == 2 and "data.balance" in refused.err


def test_distances_and_pictures_of_classes(run, tiny, tmp_path):
    arguments = [a for a in tiny if a != "metrics=none"]
    few = ["metrics.num_fake=16", "metrics.per_class=true"]
    done = run("train.py", *arguments, *few, "data.classes=glasses_smile", "logger=[wandb,tensorboard]",
               f"run_dir={tmp_path}/r")  # fmt: skip
    assert done.code == 0, done.err
    rows, keys = read_rows(tmp_path / "r/metrics.csv"), [f"metric/fd_efflite0/class/{n}" for n in NAMES]
    assert all(float(row[key]) > 0 for row in rows for key in keys)
    best = min(float(row["metric/fd_efflite0"]) for row in rows[1:])
    saved = read_checkpoint(tmp_path / "r/checkpoints/last.ckpt")["callbacks"]
    assert next(v for k, v in saved.items() if "Checkpoints" in k)["best_value"] == pytest.approx(best)
    assert "fd_efflite0:" in done.out and "class" not in done.out.split("Finished")[1].split("\n")[0]
    done = run("evaluate.py", f"ckpt={tmp_path}/r", *few, f"out_dir={tmp_path}/e")
    assert done.code == 0, done.err
    result = json.loads((tmp_path / "e/results.json").read_text())["results"][0]
    names = ["fd_efflite0", *(f"fd_efflite0/class/{n}" for n in NAMES)]
    assert [m["metric"] for m in result["metrics"]] == names
    last = [float(rows[-1][f"metric/{n}"]) for n in names]
    assert [m["value"] for m in result["metrics"]] == pytest.approx(last, rel=1e-5)
    assert sum(m["num_real"] for m in result["metrics"][1:]) == 64
    with open(tmp_path / "e/results.csv", newline="") as file:
        assert [r["metric"] for r in csv.DictReader(file)] == names
    assert all(f"| fd_efflite0/class/{n} " in done.out for n in NAMES)
    grid = Image.open(result["class_grid"])
    assert grid.height == 4 * 64 and grid.width > 10 * 64


NEEDS_LABELS = {
    "balance": (["data.balance=true"], "data.balance=true needs labels: choose data.classes, which is None"),
    "distances": (["metrics=fd_efflite0", "metrics.per_class=true"], "metrics.per_class=true needs labels"),
    "no distance": ([FACES[0], "metrics.per_class=true"], "needs a distance: choose metrics=fd_efflite0"),
    "not a switch": ([FACES[0], "data.balance=yes_please"], "data.balance must be true or false"),
}


@pytest.mark.parametrize("case", NEEDS_LABELS)
def test_what_needs_labels_says_so_before_any_work(run, tiny, tmp_path, case):
    arguments, words = NEEDS_LABELS[case]
    done = run("train.py", *tiny, *arguments, f"run_dir={tmp_path}/r")
    assert done.code == 2 and words in done.err and not (tmp_path / "r").exists()


def test_balance_is_refused_when_the_files_turn_out_to_have_no_labels(run, tiny, tmp_path):
    for i in range(4):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / "in" / f"{i}.png")
    plain = [a for a in tiny if not a.startswith("data.size")]
    data = ["data=image_folder", f"data.path={tmp_path}/in", "data.labels=auto", "data.balance=true"]
    done = run("train.py", *plain, *data, f"run_dir={tmp_path}/r", "logger=csv")
    assert done.code == 2 and "in has no labels" in done.err and not (tmp_path / "r").exists()


@pytest.mark.slow
def test_two_ranks_measure_classes_of_balanced_data_as_one(tiny, tmp_path, command):
    arguments = [a for a in tiny if a != "metrics=none"]
    options = ["model.use_noise=false", "model.mbstd_group_size=1", "schedule.total_kimg=0.016", "trainer=cpu"]
    classes = [*FACES, "data.balance=true", "metrics.per_class=true", "metrics.num_fake=16"]
    for name, devices in (("one", 1), ("two", 2)):
        command("train.py", *arguments, *options, *classes, f"trainer.devices={devices}", f"run_dir={tmp_path}/{name}")
    one, two = (read_rows(tmp_path / name / "metrics.csv")[-1] for name in ("one", "two"))
    keys = ["loss/D", *(k for k in one if k.startswith("metric/"))]
    assert len(keys) == 6 and [float(two[k]) for k in keys] == pytest.approx([float(one[k]) for k in keys], rel=2e-2)
