"""Weights & Biases runs: names, tags, surroundings, best values, artifacts, alerts, several in one process."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from stylegan_lightning import tracking
from stylegan_lightning.training.checkpoint import BEST, LAST, Checkpoints, read_checkpoint
from tests.conftest import read_rows
from tests.test_process import wandb_records
from tests.training.test_divergence import break_once, nan_weight


def records(run_dir: Path, kind: str) -> list[dict]:
    return [r[kind] for r in wandb_records(run_dir) if r["type"] == kind]


def started(run_dir: Path) -> dict:
    (found,) = records(run_dir, "run")
    return found


def environment(run_dir: Path) -> dict:
    return next(r["update"]["environment"] for r in records(run_dir, "config") if "environment" in r["update"])


def summary(run_dir: Path) -> dict:
    return {k: v for r in records(run_dir, "summary") for k, v in r["update"].items()}


# ------------------------------------------------------------------------------------- what a run is called


@pytest.mark.parametrize(
    ("overrides", "forms"),
    [
        (["model.r1_gamma=1", "seed=2"], ["r1_gamma=1", "seed=2"]),
        (["run_dir=/a", "logger.mode=online", "logger=[wandb]", "resume=x", "name=x", "run_id=a", "cache_dir=b"], []),
        (["augment.kimg=1", "model.ema.kimg=2"], ["augment.kimg=1", "model.ema.kimg=2"]),
        (["data.path=/photos/cats.zip", "data.path='./photos/'"], ["data.path=photos"]),
        (["loss@model.loss=hinge", "+x.y=1", "~x.z"], ["loss=hinge", "y=1", "~z"]),
        (["metrics='[fid,kid]'"], ["metrics=[fid,kid]"]),
    ],
)  # fmt: skip
def test_overrides_in_short(overrides, forms):
    assert list(tracking.short_forms(overrides).values()) == forms


@pytest.mark.parametrize(
    ("name", "overrides", "in_sweep", "expected"),
    [
        ("stylegan2_faces", ["model.r1_gamma=1", "seed=2"], True, "stylegan2_faces r1_gamma=1 seed=2"),
        ("stylegan2_faces", ["seed=2"], False, "stylegan2_faces seed=2"),
        ("mlp_faces", ["model=mlp", "data=faces"], False, "mlp_faces"),
        ("a b", ["name=a b", "model=mlp"], False, "a b"),
        ("a b", ["name=a b", "model=mlp", "seed=1"], True, "a b model=mlp seed=1"),
    ],
)
def test_names(name, overrides, in_sweep, expected):
    assert tracking.run_name(name, overrides, in_sweep) == expected


def test_long_names_are_cut_between_overrides():
    name = tracking.run_name("stylegan2_faces", [f"model.key_number_{i}={i}" for i in range(20)], True)
    assert len(name) <= 100 and name.startswith("stylegan2_faces key_number_0=0 ") and name.endswith("=4 …")
    assert tracking.run_name("n" * 120, ["seed=1"], True) == "n" * 120 + " seed=1"


@pytest.mark.parametrize(
    "stored",
    [
        None,
        "{",
        '{"title": 1}',
        "[" * 100_000,
        '{"name": 1}',
        '{"name": "a", "overrides": "x"}',
        '{"name": "a", "overrides": [1]}',
        '{"name": "a", "sweep": 2}',
        "[]",
        "1",
    ],
)
def test_a_resumed_run_that_has_nothing_stored_keeps_its_name(tmp_path, stored):
    if stored:
        (tmp_path / "wandb").mkdir()
        (tmp_path / "wandb/origin.json").write_text(stored)
    cfg = OmegaConf.create({"name": "n", "resume": "checkpoints/last.ckpt"})
    assert tracking.origin(cfg, tmp_path) == tracking.Origin("n")


def test_jobs_of_a_sweep_are_runs_of_one_group(run, tiny, tmp_path):
    """In one process, one after another; then the first goes on by another command."""
    sweep = tmp_path / "night"
    done = run("train.py", "-m", *tiny, "model.r1_gamma=1,2", f"hydra.sweep.dir={sweep}", "logger.tags=[mine]")
    assert done.code == 0, done.err
    runs = [started(sweep / k) for k in "01"]
    assert [r["run_group"] for r in runs] == ["night"] * 2 and [r["job_type"] for r in runs] == ["sweep"] * 2
    assert runs[0]["run_id"] != runs[1]["run_id"]
    for r, gamma in zip(runs, (1, 2), strict=True):
        assert r["display_name"].startswith(f"stylegan2_faces r1_gamma={gamma} resolution=8 ")
        assert len(r["display_name"]) <= 100
        assert r["tags"][:2] == ["mine", f"r1_gamma={gamma}"] and "channel_base=64" in r["tags"]
        assert r["config"]["update"]["model"]["r1_gamma"] == gamma
    kimg = [[row["item"]["progress/kimg"] for row in records(sweep / k, "history")] for k in "01"]
    assert kimg == [[0, 0.032, 0.064]] * 2  # each has its own rows and no other's
    assert run("train.py", f"resume={sweep}/0", "schedule.total_kimg=0.072", "logger.tags=[new]").code == 0
    again = started(sweep / "0")
    for key in ("run_id", "display_name", "run_group", "job_type"):
        assert again[key] == runs[0][key], key
    assert again["tags"] == ["new", *runs[0]["tags"][1:]]


def test_a_run_left_open_is_not_gone_on_with(run, tiny, tmp_path, monkeypatch):
    import wandb

    with monkeypatch.context() as careless:
        careless.setattr(wandb.Run, "finish", lambda self, *args, **kwargs: None)
        assert run("train.py", *tiny, f"run_dir={tmp_path}/a").code == 0
    assert run("train.py", *tiny, f"run_dir={tmp_path}/b", "logger.group=mine").code == 0
    assert started(tmp_path / "b")["run_group"] == "mine"
    assert started(tmp_path / "a")["run_id"] != started(tmp_path / "b")["run_id"]


# ---------------------------------------------------------------------------------------- its surroundings


def test_the_environment_is_in_the_configuration(run, tiny, tmp_path):
    assert run("train.py", *tiny, "logger.artifacts=[]", f"run_dir={tmp_path}/r").code == 0
    found = environment(tmp_path / "r")
    assert found["versions"].keys() == {
        "stylegan_lightning", "python", "torch", "lightning", "torchvision", "numpy", "wandb",
    }  # fmt: skip
    assert found["versions"]["torch"] == torch.__version__
    assert found["data"]["images"] == 64 and found["data"]["name"] == "faces" and len(found["data"]["fingerprint"]) > 30
    assert found["hardware"]["cpu"] and found["hardware"]["cpus"] >= 1 and found["hardware"]["memory_gib"] > 0.5
    assert "data.size=64" in found["command"] and found["command"].startswith("train.py")
    assert not records(tmp_path / "r", "artifact")


@pytest.fixture
def package(tmp_path):
    """A package in a repository of its own, and git in it."""
    if shutil.which("git") is None:
        pytest.skip("there is no git")
    folder = tmp_path / "repository/package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("one = 1\n")
    identity = ["-c", "user.name=n", "-c", "user.email=n@example.org"]
    git = lambda *words: subprocess.run(["git", "-C", folder, *identity, *words], check=True, capture_output=True)  # noqa: E731
    git("init")
    git("add", ".")
    git("commit", "-m", "one")
    return folder


def test_git_of_a_clean_and_a_changed_repository(package):
    commit, changes = tracking.git_state(package)
    assert len(commit) == 40 and changes == b""
    (package / "__init__.py").write_text("one = 2\n")
    same, changes = tracking.git_state(package)
    assert same == commit and b"-one = 1" in changes and b"+one = 2" in changes


def test_no_git_where_the_package_is_not_in_a_repository(package, tmp_path, monkeypatch):
    installed = package / "site-packages"  # inside a repository that does not track it
    installed.mkdir()
    (installed / "__init__.py").write_text("")
    assert tracking.git_state(installed) is None
    assert tracking.git_state(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tracking.git_state(package) is None


@pytest.mark.parametrize("state", [None, ("c0ffee", b"-a\n+b\n" * 400_000)], ids=["no git", "large changes"])
def test_changes_are_a_file_of_the_run(run, tiny, tmp_path, monkeypatch, state):
    monkeypatch.setattr(tracking, "git_state", lambda folder: state)
    assert run("train.py", *tiny, "logger.artifacts=null", f"run_dir={tmp_path}/r").code == 0
    assert not records(tmp_path / "r", "artifact")
    patches = list((tmp_path / "r/wandb").glob("offline-run-*/files/diff.patch"))
    saved = [f["path"] for r in records(tmp_path / "r", "files") for f in r["files"]]
    if state is None:
        assert "git" not in environment(tmp_path / "r") and not patches and "diff.patch" not in saved
    else:
        assert environment(tmp_path / "r")["git"] == {"commit": "c0ffee", "dirty": True}
        assert "diff.patch" in saved and patches[0].stat().st_size == tracking.LARGEST_DIFF


# ------------------------------------------------------------------------------------- best values, alerts


def test_best_values_go_by_the_direction_of_their_metric():
    rows = [
        {"progress/kimg": "0.0", "metric/fid": "9.5", "metric/pr": "", "metric/fid/class/a": "3", "loss/G": "1"},
        {"progress/kimg": "1.0", "metric/fid": "3.5", "metric/pr": "0.25", "metric/fid/class/a": "4", "metric/x": "1"},
        {"progress/kimg": 2.0, "metric/fid": 4.5, "metric/pr": 0.5},
        {"progress/kimg": 3.0, "metric/fid": math.nan, "metric/pr": 0.5},
    ]
    assert tracking.best_values(rows, {"fid": True, "pr": False}) == {
        "best/fid": 3.5, "best/fid_kimg": 1.0, "best/pr": 0.5, "best/pr_kimg": 2.0,
        "best/fid/class/a": 4.0, "best/fid/class/a_kimg": 1.0,
    }  # fmt: skip
    assert tracking.best_values([], {}) == {}


def test_the_best_values_hold_after_a_resume(run, tiny, tmp_path):
    r = tmp_path / "r"
    arguments = [a for a in tiny if a not in ("metrics=none", "data.resolution=8")]
    arguments += ["data.resolution=16", "metrics=[fd_efflite0,pr]", "metrics.num_fake=16"]
    arguments += ["metrics.extractor=efflite0", "metrics.every_ticks=1"]
    assert run("train.py", *arguments, f"run_dir={r}", "schedule.total_kimg=0.032").code == 0
    assert run("train.py", f"resume={r}", "schedule.total_kimg=0.096").code == 0
    rows, found = read_rows(r / "metrics.csv"), summary(r)
    assert len(rows) == 4
    for name, better in (("fd_efflite0", min), ("precision_efflite0", max), ("recall_efflite0", max)):
        values = [float(row[f"metric/{name}"]) for row in rows[1:]]  # of trained networks
        best = better(values)
        assert found[f"best/{name}"] == pytest.approx(best), name
        assert found[f"best/{name}_kimg"] == float(rows[1 + values.index(best)]["progress/kimg"]), name
    (kept,) = records(r, "artifact")
    assert set(kept["aliases"]) == {"best", "latest"}
    assert set(json.loads(kept["metadata"])) == {"kimg", *(k for k in rows[0] if k.startswith("metric/"))}


def test_divergence_sends_an_alert(run, tiny, tmp_path, monkeypatch):
    with monkeypatch.context() as once, pytest.warns(UserWarning, match="Back at"):
        break_once(once, nan_weight)
        done = run("train.py", *tiny, "on_divergence=rewind", f"run_dir={tmp_path}/a")
    assert done.code == 0, done.err
    (alert,) = records(tmp_path / "a", "alert")
    assert "goes on" in alert["title"] and "rewind 1 of 3" in alert["text"] and alert["level"] == "WARN"
    break_once(monkeypatch, nan_weight)
    assert run("train.py", *tiny, "logger.artifacts=[last]", f"run_dir={tmp_path}/b").code == 2
    (alert,) = records(tmp_path / "b", "alert")
    assert "stopped" in alert["title"] and "model.r1_gamma" in alert["text"] and len(alert["title"]) < 64
    (kept,) = records(tmp_path / "b", "artifact")  # what was good is kept
    assert json.loads(kept["metadata"])["kimg"] == 0.032


# ----------------------------------------------------------------------------------------------- artifacts


def contents(artifact: dict) -> dict[str, Path]:
    return {entry["path"]: Path(entry["local_path"]) for entry in artifact["manifest"]["contents"]}


def test_best_and_last_are_kept_in_the_run(run, tiny, tmp_path, monkeypatch):
    r, note = tmp_path / "r", Checkpoints._note_best
    monkeypatch.setattr(Checkpoints, "_note_best", lambda self, gan: gan.nimg == 32 and note(self, gan))
    arguments = [*(a for a in tiny if a != "metrics=none"), "metrics.num_fake=16", "schedule.total_kimg=0.072"]
    assert run("train.py", *arguments, "logger.artifacts=[last,best]", f"run_dir={r}").code == 0
    kept = records(r, "artifact")
    assert [set(a["aliases"]) for a in kept] == [{"best", "latest"}, {"latest"}]  # the client says latest of every one
    rows = {float(row["progress/kimg"]): row for row in read_rows(r / "metrics.csv")}
    for artifact, kimg, name in zip(kept, (0.032, 0.072), (BEST, LAST), strict=True):
        assert artifact["name"] == f"{started(r)['run_id']}-model" and artifact["type"] == "model"
        files = contents(artifact)
        assert files.keys() == {name, "config.yaml"} and all(path.is_relative_to(r) for path in files.values())
        assert read_checkpoint(files[name])["progress"]["nimg"] == 1000 * kimg
        assert files["config.yaml"].read_text() == (r / "config.yaml").read_text()
        told = json.loads(artifact["metadata"])
        assert told["kimg"] == kimg
        assert told["metric/fd_efflite0"] == pytest.approx(float(rows[kimg]["metric/fd_efflite0"]))
    assert "WANDB_DATA_DIR" not in os.environ


def test_artifacts_wait_where_the_user_wants_them(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DATA_DIR", "/mine")
    with tracking._staged_in(tmp_path):
        assert os.environ["WANDB_DATA_DIR"] == "/mine"
    monkeypatch.delenv("WANDB_DATA_DIR")
    with tracking._staged_in(tmp_path):
        assert os.environ["WANDB_DATA_DIR"] == str(tmp_path)
    assert "WANDB_DATA_DIR" not in os.environ


def test_what_cannot_be_kept_is_reported(run, tiny, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match=r"last\.ckpt could not be kept in the run"):
        assert run("train.py", *tiny, "logger.artifacts=[last]", f"run_dir={tmp_path}/r").code == 0
    assert not records(tmp_path / "r", "artifact")


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("logger.artifacts=[best,first]", "logger.artifacts must be a list of best and last, such as [best]"),
        ("logger.artifacts=best", "logger.artifacts must be a list of best and last, such as [best]"),
        (f"logger.tags=[{'x' * 65}]", "logger.tags must be a list of texts of 1 to 64 characters"),
        ("callbacks.showcase.every_ticks=0", "callbacks.showcase.every_ticks must be a whole number >= 1, or null"),
        ("callbacks.showcase.enabled=3", "callbacks.showcase.enabled must be true or false"),
    ],
)
def test_mistakes(run, tiny, tmp_path, argument, text):
    done = run("train.py", *tiny, argument, f"run_dir={tmp_path}/r")
    assert done.code == 2 and text in done.err and not (tmp_path / "r").exists()
