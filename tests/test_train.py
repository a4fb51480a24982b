"""train.py as users run it: what a run leaves behind, exact resume, errors before work."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import stylegan_lightning
from stylegan_lightning.training.checkpoint import read_checkpoint
from tests.conftest import read_rows


def state(path: Path) -> dict:
    return read_checkpoint(path)


def assert_same_training(a: Path, b: Path) -> None:
    """Bit-identical networks, EMA, buffers, optimizer moments and counters."""
    first, second = state(a), state(b)
    assert first["progress"] == second["progress"]
    for name, tensor in first["state_dict"].items():
        assert torch.equal(tensor, second["state_dict"][name]), name
    for one, two in zip(first["optimizer_states"], second["optimizer_states"], strict=True):
        assert one["state"].keys() == two["state"].keys()
        for key, entry in one["state"].items():
            for name, value in entry.items():
                assert torch.equal(value, two["state"][key][name]), (key, name)


def test_a_run_leaves_everything_behind(run, tiny, tmp_path):
    arguments = [a for a in tiny if a != "metrics=none"]
    options = ["metrics.num_fake=16", "logger=[wandb,tensorboard]", "callbacks.showcase.enabled=true"]
    done = run("train.py", *arguments, *options, f"run_dir={tmp_path}/r")
    assert done.code == 0, done.err
    r = tmp_path / "r"
    rows = read_rows(r / "metrics.csv")
    assert [float(x["progress/kimg"]) for x in rows] == [0.0, 0.032, 0.064]
    for key in ("loss/G", "loss/D", "penalty/r1", "penalty/pl", "speed/img_per_s", "metric/fd_efflite0"):
        assert np.isfinite(float(rows[1][key])), key
    assert float(rows[0]["metric/fd_efflite0"]) > 0
    grids = sorted(p.name for p in (r / "samples").iterdir())
    assert [g for g in grids if g.startswith("fakes")] == [f"fakes_00000.{k}_kimg.png" for k in ("000", "032", "064")]
    assert {"reals.png", "truncation_00000.064_kimg.png", "interpolation_00000.064_kimg.png"} < set(grids)
    grid = np.asarray(Image.open(r / "samples/fakes_00000.064_kimg.png"))
    assert grid.shape == (2 * 64, 4 * 64, 3) and grid.std() > 0
    assert (r / "config.yaml").exists() and (r / "tensorboard").is_dir()
    best, last = state(r / "checkpoints/best.ckpt"), state(r / "checkpoints/last.ckpt")
    assert last["progress"] == {"nimg": 64, "batches": 8, "rewinds": 0}
    values = [float(x["metric/fd_efflite0"]) for x in rows]
    assert best["progress"]["nimg"] in (32, 64) and last["config"]["model"]["c_dim"] == 0
    saved = next(v for k, v in last["callbacks"].items() if "Checkpoints" in k)
    assert saved["best_value"] == pytest.approx(min(values[1:]))  # of trained networks
    assert f"resume={r}" in done.out and "evaluate.py ckpt=" in done.out and "wandb sync" in done.out
    assert not list(r.rglob("*.tmp"))


def test_load_returns_the_ema_generator(run, tiny, tmp_path):
    run("train.py", *tiny, f"run_dir={tmp_path}/r", "logger=csv")
    G = stylegan_lightning.load(tmp_path / "r")
    saved = state(tmp_path / "r/checkpoints/last.ckpt")["state_dict"]
    for name, value in G.state_dict().items():
        assert torch.equal(value, saved[f"G_ema.{name}"])
    assert not G.training and G(torch.randn(2, 8)).shape == (2, 3, 8, 8)


@pytest.mark.parametrize("stop_at", [0.032, 0.04, 0.008], ids=["tick boundary", "inside a tick", "first batch"])
def test_resume_is_bit_identical(run, tiny, tmp_path, stop_at):
    arguments = [*tiny, "logger=csv", "model.pl_interval=2", "model.r1_interval=3"]
    assert run("train.py", *arguments, f"run_dir={tmp_path}/straight", "schedule.total_kimg=0.096").code == 0
    assert run("train.py", *arguments, f"run_dir={tmp_path}/parts", f"schedule.total_kimg={stop_at}").code == 0
    done = run("train.py", f"resume={tmp_path}/parts", "schedule.total_kimg=0.096")
    assert done.code == 0, done.err
    assert_same_training(tmp_path / "straight/checkpoints/last.ckpt", tmp_path / "parts/checkpoints/last.ckpt")
    first, second = (read_rows(tmp_path / d / "metrics.csv") for d in ("straight", "parts"))
    assert first[-1]["loss/G"] == second[-1]["loss/G"]


def test_resume_continues_the_same_run(run, tiny, tmp_path):
    assert run("train.py", *tiny, f"run_dir={tmp_path}/r").code == 0
    before = state(tmp_path / "r/checkpoints/last.ckpt")["config"]["run_id"]
    again = run("train.py", f"resume={tmp_path}/r")
    assert again.code == 2 and "complete at 0.064 kimg" in again.err and "schedule.total_kimg=0.128" in again.err
    assert run("train.py", f"resume={tmp_path}/r/checkpoints/last.ckpt", "schedule.total_kimg=0.1").code == 0
    after = state(tmp_path / "r/checkpoints/last.ckpt")
    assert after["config"]["run_id"] == before and after["progress"]["nimg"] == 104
    folders = [p.name for p in (tmp_path / "r/wandb").iterdir() if p.name.startswith("offline-run")]
    assert len(folders) == 2 and all(f.endswith(before) for f in folders)


def _without(name):
    return lambda c: c["state_dict"].pop(name)


def _put(part, value):
    return lambda c: c.__setitem__(part, value)


DAMAGE = {
    "optimizers": _put("optimizer_states", 3),
    "other optimizers": _put("optimizer_states", [{}, {}]),
    "callbacks": _put("callbacks", 3),
    "means": _put("running_means", None),
    "batches": lambda c: c["progress"].pop("batches"),
    "version": lambda c: c.pop("pytorch-lightning_version"),
    "weights of D": _without("D.epilogue.fc.weight"),
    "weights of G": _without("G.mapping.layers.0.weight"),
    "unknown weights": lambda c: c["state_dict"].update({"penalties.zz": torch.zeros(1)}),
    "data": lambda c: c["config"].pop("data"),
    "loss": lambda c: c["config"]["model"].pop("loss"),
    "seed": lambda c: c["config"].update(seed=10**400),
}


def test_what_cannot_be_gone_on_with_is_one_message(run, tiny, tmp_path):
    """Nothing is written over the checkpoint."""
    run("train.py", *tiny, f"run_dir={tmp_path}/r", "logger=csv")
    path = tmp_path / "r/checkpoints/last.ckpt"
    whole = torch.load(path, weights_only=True)
    for name, damage in DAMAGE.items():
        checkpoint = copy.deepcopy(whole)
        damage(checkpoint)
        torch.save(checkpoint, path)
        damaged = path.read_bytes()
        done = run("train.py", f"resume={tmp_path}/r", "schedule.total_kimg=0.128")
        assert done.code == 2 and done.err.startswith("error: ") and "Traceback" not in done.err, (name, done.err)
        assert path.read_bytes() == damaged, name


def test_data_that_have_moved_are_found_by_the_resumed_run(run, tiny, tmp_path):
    """Also behind links, and for runs that are older than the key."""
    rng = np.random.default_rng(0)
    (tmp_path / "a").mkdir()
    for i in range(16):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(tmp_path / f"a/{i}.png")
    own = [a for a in tiny if not a.startswith("data.size")]
    done = run("train.py", *own, "data=image_folder", f"data.path={tmp_path}/a", "logger=csv", f"run_dir={tmp_path}/r",
               f"data.cache_dir={tmp_path}/c")  # fmt: skip
    assert done.code == 0, done.err
    path = tmp_path / "r/checkpoints/last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["config"]["data"]["follow_links"], checkpoint["config"]["data"]["source"]["follow_links"]
    torch.save(checkpoint, path)
    (tmp_path / "a").rename(tmp_path / "moved")
    (tmp_path / "links").mkdir()
    for i in range(16):
        (tmp_path / f"links/{i}.png").symlink_to(tmp_path / f"moved/{i}.png")
    go_on = ["train.py", f"resume={tmp_path}/r", f"data.cache_dir={tmp_path}/new"]
    assert "nothing at" in run(*go_on, "schedule.total_kimg=0.072").err
    done = run(*go_on, "schedule.total_kimg=0.072", f"data.path={tmp_path}/moved")
    assert done.code == 0, done.err
    done = run(*go_on, "schedule.total_kimg=0.08", f"data.path={tmp_path}/links")
    assert done.code == 2 and "data.follow_links=true" in done.err
    done = run(*go_on, "schedule.total_kimg=0.08", f"data.path={tmp_path}/links", "data.follow_links=true")
    assert done.code == 0, done.err
    wrong = run(*go_on, "data.max_cache=1GB")
    assert wrong.code == 2 and "no data.max_cache" in wrong.err
    wrong = run(*go_on, "data.num_workerz=1")
    assert wrong.code == 2 and "did you mean data.num_workers" in wrong.err


def test_resume_refuses_another_model(run, tiny, tmp_path):
    run("train.py", *tiny, f"run_dir={tmp_path}/r", "logger=csv")
    done = run("train.py", f"resume={tmp_path}/r", "model.z_dim=16", "schedule.total_kimg=1")
    assert done.code == 2 and "model.z_dim" in done.err and "init_from" in done.err


def test_init_from_starts_from_the_weights(run, tiny, tmp_path):
    run("train.py", *tiny, f"run_dir={tmp_path}/a", "logger=csv")
    still = [
        "model.g_lr=1e-30",
        "model.d_lr=1e-30",
        "model.ema_kimg=1e9",
        "schedule.total_kimg=0.008",
        "logger=csv",
    ]
    done = run("train.py", *tiny, *still, f"init_from={tmp_path}/a", "seed=3", f"run_dir={tmp_path}/b")
    assert done.code == 0, done.err
    a, b = (state(tmp_path / d / "checkpoints/last.ckpt") for d in "ab")
    for name, value in a["state_dict"].items():
        if name.startswith(("G.", "D.")) and "w_avg" not in name:
            torch.testing.assert_close(value, b["state_dict"][name])
    wrong = run("train.py", *tiny, "model=stylegan1", f"init_from={tmp_path}/a", f"run_dir={tmp_path}/c")
    assert wrong.code == 2 and "same family" in wrong.err and not (tmp_path / "c").exists()


def test_running_statistics_and_ema_are_tracked(run, tiny, tmp_path):
    run("train.py", *tiny, f"run_dir={tmp_path}/r", "logger=csv")
    s = state(tmp_path / "r/checkpoints/last.ckpt")["state_dict"]
    assert s["G.mapping.w_avg"].abs().max() > 0 and torch.equal(s["G.mapping.w_avg"], s["G_ema.mapping.w_avg"])
    assert s["penalties.pl.pl_mean"] > 0
    assert not torch.equal(s["G.synthesis.blocks.8.conv1.weight"], s["G_ema.synthesis.blocks.8.conv1.weight"])


def test_conditional_training(run, tiny, tmp_path):
    done = run("train.py", *tiny, "data.classes=glasses_smile", f"run_dir={tmp_path}/r", "logger=csv")
    assert done.code == 0, done.err
    G = stylegan_lightning.load(tmp_path / "r")
    assert G.c_dim == 4
    z = torch.randn(4, 8)
    assert not torch.allclose(G(z, torch.eye(4), noise_mode="none"), G(z, torch.eye(4).roll(1, 0), noise_mode="none"))


def _images(folder: Path, count: int, mode: str = "RGB") -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(rng.integers(0, 255, (20, 17, 3), np.uint8)).convert(mode).save(folder / f"{i}.png")
    return folder


def test_image_folder_with_alpha_and_broken_files(run, tiny, tmp_path):
    folder = _images(tmp_path / "images", 12, "RGBA")
    (folder / "broken.png").write_bytes(b"not a png")
    arguments = [a for a in tiny if not a.startswith("data.size")]
    data = ["data=image_folder", f"data.path={folder}", "data.channels=4"]
    done = run("train.py", *arguments, *data, f"run_dir={tmp_path}/r", "logger=csv")
    assert done.code == 0, done.err
    assert "broken.png" in done.out and "12 images" in done.out
    assert Image.open(tmp_path / "r/samples/reals.png").mode == "RGBA"
    strict = run("train.py", *arguments, *data, "data.on_error=raise", f"run_dir={tmp_path}/s", "logger=csv")
    assert strict.code == 2 and "broken.png" in strict.err and not (tmp_path / "s").exists()


MISTAKES = {
    "unknown key": (["schedule.total_kimgs=3"], ["schedule.total_kimgs", "schedule.total_kimg"]),
    "unknown group value": (["model=stylegan5"], ["stylegan5", "stylegan2"]),
    "unknown section": (["modle.z_dim=3"], ["modle.z_dim", "model.z_dim"]),
    "not an override": (["=3"], ["KEY=VALUE"]),
    "bad values together": (
        ["schedule.total_kimg=abc", "data.channels=2", "model.r1_gamma=-1"],
        ["3 problems", "schedule.total_kimg", "'abc'", "data.channels", "1, 3, 4", "model.r1_gamma"],
    ),
    "of every kind together": (
        ["schedule.total_kimgs=3", "model=stylegan5", "data.channels=2", "schedule.batch_size=9"],
        ["4 problems", "total_kimgs", "stylegan5", "data.channels", "batch_size"],
    ),
    "several unknown keys": (["a.b=1", "seeed=3", "data=facez"], ["3 problems", "a.b", "seed", "faces"]),
    "resolution": (["data.resolution=24"], ["power of two", "24"]),
    "batch and groups": (["schedule.batch_size=10"], ["divisible", "10", "8 and 12"]),
    "channels run out": (["model.channel_base=4"], ["channel_base=4", "at least 8"]),
    "no data": (["data=image_folder"], ["data.path"]),
    "missing data": (["data=image_folder", "data.path=/nowhere/at/all"], ["/nowhere/at/all"]),
    "missing checkpoint": (["resume=/nowhere/x.ckpt"], ["/nowhere/x.ckpt"]),
    "missing weights": (["init_from=/nowhere/x.ckpt"], ["/nowhere/x.ckpt"]),
    "betas of whole numbers": (["model.g_betas=[0,0.99]"], ["decimal point", "[0.0, 0.99]"]),
    "gpu": (["trainer=gpu"], ["trainer.accelerator=gpu"]),
    "inception": (["metrics=fid", "metrics.weights.inception=/nowhere.pth"], ["/nowhere.pth"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_message_before_any_work(run, tiny, tmp_path, mistake):
    if mistake == "gpu" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    arguments, expected = MISTAKES[mistake]
    if "data=image_folder" in arguments:
        tiny = [a for a in tiny if not a.startswith("data.size")]
    done = run("train.py", *tiny, *arguments, f"run_dir={tmp_path}/r")
    assert done.code == 2
    assert done.err.startswith("error: ") and "Traceback" not in done.err
    for text in expected:
        assert text in done.err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_images(run, tiny, tmp_path, count):
    arguments = [a for a in tiny if not a.startswith("data.size")]
    folder = _images(tmp_path / "images", count)
    done = run("train.py", *arguments, "data=image_folder", f"data.path={folder}", f"run_dir={tmp_path}/r")
    assert done.code == 2 and str(folder) in done.err and not (tmp_path / "r").exists()


def test_run_dir_that_cannot_be_written(run, tiny, tmp_path):
    (tmp_path / "file").write_text("")
    done = run("train.py", *tiny, f"run_dir={tmp_path}/file/r")
    assert done.code == 2 and "is not a directory" in done.err and "run_dir" in done.err


def test_disk_full_while_saving(run, tiny, tmp_path, monkeypatch):
    from stylegan_lightning.training import checkpoint

    calls = []

    def save(obj, file, *args):
        calls.append(obj)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        original(obj, file, *args)

    original = torch.save
    monkeypatch.setattr(checkpoint.torch, "save", save)
    done = run("train.py", *tiny, f"run_dir={tmp_path}/r", "logger=csv")
    assert done.code == 2 and "No space left" in done.err and "resume=" in done.err
    assert state(tmp_path / "r/checkpoints/last.ckpt")["progress"]["nimg"] == 32
    assert not list((tmp_path / "r").rglob("*.tmp"))


def test_checkpoints_never_run_foreign_code(run, tiny, tmp_path):
    run("train.py", *tiny, f"run_dir={tmp_path}/r", "logger=csv")
    path = tmp_path / "r/checkpoints/last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["config"]["model"]["generator"] = {
        "_target_": "os.system",
        "command": f"touch {tmp_path}/pwned",
    }
    torch.save(checkpoint, path)
    with pytest.raises(stylegan_lightning.UserError, match=r"os\.system"):
        stylegan_lightning.load(path)
    assert not (tmp_path / "pwned").exists()


def test_evaluate_rebuilds_everything_from_the_checkpoint(run, tiny, tmp_path):
    arguments = [a for a in tiny if a != "metrics=none"]
    run("train.py", *arguments, "metrics.num_fake=16", f"run_dir={tmp_path}/a", "logger=csv")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    done = run(
        "evaluate.py",
        f"ckpt=[{tmp_path}/a,{tmp_path}/b/checkpoints/best.ckpt]",
        "metrics.num_fake=16",
        f"out_dir={tmp_path}/e",
    )
    assert done.code == 0, done.err
    results = json.loads((tmp_path / "e/results.json").read_text())
    value = results["results"][0]["metrics"][0]
    rows = read_rows(tmp_path / "a/metrics.csv")
    assert value["value"] == pytest.approx(float(rows[-1]["metric/fd_efflite0"]), rel=1e-6)
    assert (
        value["num_fake"] == 16 and value["num_real"] == 64 and value["weights_hash"] and results["versions"]["torch"]
    )
    assert done.out.count("| ") > 10 and str(tmp_path / "b/checkpoints/best.ckpt") in done.out
    assert len(list((tmp_path / "e").glob("samples_*.png"))) == 2
    again = run("evaluate.py", f"ckpt={tmp_path}/a", "metrics.num_fake=16", f"out_dir={tmp_path}/f")
    assert again.code == 0
    repeat = json.loads((tmp_path / "f/results.json").read_text())["results"][0]["metrics"][0]
    assert repeat["value"] == value["value"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "ckpt=... is needed"),
        (["ckpt=/nowhere.ckpt"], "/nowhere.ckpt"),
        (["ckpt=[]"], "empty list"),
        (["ckpt=x", "metrics=fidd"], "fidd"),
        (["ckpt=x", "rows=0"], "rows must be"),
    ],
)
def test_evaluate_mistakes(run, tmp_path, arguments, expected):
    done = run("evaluate.py", *arguments, f"out_dir={tmp_path}/e")
    assert done.code == 2 and expected in done.err and not (tmp_path / "e").exists()
