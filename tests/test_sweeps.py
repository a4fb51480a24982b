"""Sweeps by every engine: failures, going on, several processes for a job."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra._internal.config_loader_impl import ConfigLoaderImpl

from stylegan_lightning import sweeps
from stylegan_lightning.outcome import Outcome, read_outcome
from stylegan_lightning.training.checkpoint import read_checkpoint
from tests.conftest import ROOT, command_environment, read_rows

SEEDS = "seed=1,2,3"


@pytest.fixture
def small(tiny) -> tuple[str, ...]:
    return (*(a for a in tiny if a != "metrics=none"), "metrics.num_fake=16", "logger=csv")


def outcomes(folder: Path) -> dict[str, Outcome]:
    found = {p.parent.name: read_outcome(p.parent) for p in folder.glob("*/result.json")}
    return {name: o for name, o in sorted(found.items()) if o is not None}


LAUNCHERS = {
    "basic": [],
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"],
    "ray": [
        "hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2", "+hydra.launcher.ray.init.include_dashboard=false",
    ],
}  # fmt: skip
PLUGINS = {"joblib": "joblib", "submitit_local": "submitit", "ray": "ray"}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_launcher_runs_three_jobs_of_which_one_fails(command, small, tmp_path, launcher):
    if launcher in PLUGINS and importlib.util.find_spec(PLUGINS[launcher]) is None:
        pytest.skip(f'needs pip install "stylegan_lightning[sweeps,ray]" for {launcher}')
    jobs = "model.r1_gamma=1,-1,2"
    done = command("train.py", "-m", *small, jobs, *LAUNCHERS[launcher], f"hydra.sweep.dir={tmp_path}/s")
    found = outcomes(tmp_path / "s")
    assert [o.status for o in found.values()] == ["finished", "failed", "finished"]
    assert found["1"].reason == "model.r1_gamma must be a number >= 0; got -1"
    for name in ("0", "2"):
        assert (tmp_path / f"s/{name}/checkpoints/last.ckpt").exists() and found[name].kimg == 0.064
        values = [float(r["metric/fd_efflite0"]) for r in read_rows(tmp_path / f"s/{name}/metrics.csv")]
        assert found[name].best_value == min(values[1:]) and found[name].metric == "metric/fd_efflite0"
    table = (tmp_path / "s/sweep.md").read_text()
    assert table.strip() in done.stdout and "model.r1_gamma=-1" in table and "train the best on" in table
    assert [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")][-1] == "1"


def test_a_sweep_started_again_repeats_nothing_and_goes_on_with_what_was_stopped(command, small, tmp_path):
    place = f"hydra.sweep.dir={tmp_path}/s"
    command("train.py", "-m", *small, SEEDS, place)
    kept = tmp_path / "s/0/checkpoints/last.ckpt"
    finished = kept.stat().st_mtime_ns, torch.load(tmp_path / "s/1/checkpoints/last.ckpt")["state_dict"]
    # job 1 as if stopped half-way, job 2 as if never begun
    command("train.py", *small, "seed=2", "schedule.total_kimg=0.032", f"run_dir={tmp_path}/half")
    checkpoint = read_checkpoint(tmp_path / "half/checkpoints/last.ckpt")
    checkpoint["config"]["schedule"]["total_kimg"] = checkpoint["config"]["schedule"]["object"]["total_kimg"] = 0.064
    checkpoint["config"]["run_dir"] = f"{tmp_path}/s/1"
    torch.save(checkpoint, tmp_path / "s/1/checkpoints/last.ckpt")
    outcome = json.loads((tmp_path / "s/1/result.json").read_text()) | {"status": "running"}
    (tmp_path / "s/1/result.json").write_text(json.dumps(outcome))
    shutil.rmtree(tmp_path / "s/2")
    done = command("train.py", "-m", *small, SEEDS, place)
    assert "job 0 was finished before" in done.stdout and kept.stat().st_mtime_ns == finished[0]
    assert [o.status for o in outcomes(tmp_path / "s").values()] == ["finished"] * 3
    again = read_checkpoint(tmp_path / "s/1/checkpoints/last.ckpt")["state_dict"]
    for name, tensor in finished[1].items():
        assert torch.equal(tensor, again[name]), name


@pytest.mark.slow
def test_a_job_of_two_processes_does_not_let_the_other_rank_walk_the_sweep(command, small, tmp_path):
    options = [*small, "trainer=cpu", "model.use_noise=false", "model.mbstd_group_size=1"]
    command("train.py", "-m", *options, "seed=1,2", "trainer.devices=2", f"hydra.sweep.dir={tmp_path}/two",
            cwd=tmp_path)  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == ["two"]  # no second walk anywhere
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == ["0", "1", "multirun.yaml", "sweep.md"]
    for number, seed in enumerate((1, 2)):
        command("train.py", *options, f"seed={seed}", "trainer.devices=1", f"run_dir={tmp_path}/one{seed}")
        two, one = (
            read_checkpoint(p / "checkpoints/last.ckpt")["state_dict"]
            for p in (tmp_path / "two" / str(number), tmp_path / f"one{seed}")
        )
        for name in one:
            torch.testing.assert_close(two[name], one[name], rtol=2e-3, atol=2e-4, msg=name)


# ---------------------------------------------------------------------------------------------------- Optuna


def study_of(folder: Path) -> Any:
    optuna = pytest.importorskip("optuna")
    return optuna.load_study(study_name="s", storage=f"sqlite:///{folder}/study.db")


@pytest.mark.slow
def test_an_interrupted_optuna_study_goes_on(command, small, tmp_path, shared_cache):
    """Stopped inside its second trial, which then continues from its checkpoint, up to three trials in all."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    folder = tmp_path / "s"
    search = ["hparams_search=tpe", "study=s", "trials=3", f"hydra.sweep.dir={folder}"]
    arguments = ["-m", *small, *search, "schedule.total_kimg=1.6"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments], cwd=ROOT, env=command_environment(shared_cache),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while len(list(folder.glob("trial_*/checkpoints/last.ckpt"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out = process.communicate(timeout=100)[0]
    assert process.returncode == 130 and f"the same command with hydra.sweep.dir={folder} goes on" in out, out
    assert "Traceback" not in out, out
    (stopped,) = [name for name, o in outcomes(folder).items() if o.status == "interrupted"]
    assert [t.state.name for t in study_of(folder).trials] == ["COMPLETE", "RUNNING"]
    done = command("train.py", *arguments)
    assert "1 interrupted trial of this study will go on" in done.stdout
    trials = study_of(folder).trials
    assert [t.state.name for t in trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert trials[1].params == trials[2].params and trials[3].params != trials[0].params
    found = outcomes(folder)
    assert len(found) == 3 and all(o.status == "finished" and o.kimg == 1.6 for o in found.values())
    kimg = [float(r["progress/kimg"]) for r in read_rows(folder / stopped / "metrics.csv")]
    assert kimg == sorted(set(kimg)) and kimg[0] == 0 and kimg[-1] == 1.6  # one run, not two
    best = min(o.best_value for o in found.values() if o.best_value is not None)
    assert study_of(folder).best_value == best and f"{best:.3f}" in done.stdout
    nothing = command("train.py", *arguments)
    assert len(study_of(folder).trials) == 4 and "Launching" not in nothing.stdout


@pytest.mark.slow
def test_a_diverging_trial_is_recorded_as_a_failure_with_its_reason(command, small, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    folder = tmp_path / "s"
    command("train.py", "-m", *small, "hparams_search=tpe", "study=s", "trials=1", "model.g_lr=1.0e+9",
            "model.d_lr=1.0e+9", "model.r1_gamma=1", f"hydra.sweep.dir={folder}", check=False)  # fmt: skip
    (outcome,) = outcomes(folder).values()
    assert outcome.status == "failed" and outcome.reason is not None and "training diverged" in outcome.reason
    assert [t.state.name for t in study_of(folder).trials] == ["FAIL"]


def test_trials_left_counts_what_is_done(tmp_path):
    optuna = pytest.importorskip("optuna")
    storage = f"sqlite:///{tmp_path}/study.db"
    assert sweeps.trials_left(storage, "s", 5) == 5 and sweeps.search_seed(storage, "s", 2) == 20_000
    study = optuna.create_study(study_name="s", storage=storage)
    assert sweeps.trials_left(storage, "other", 5) == 5
    for x, state in ((0.1, "COMPLETE"), (0.2, "FAIL"), (0.3, "RUNNING")):
        trial = study.ask()
        trial.suggest_float("x", x, x)
        if state != "RUNNING":
            study.tell(trial, 1.0 if state == "COMPLETE" else None, state=optuna.trial.TrialState[state])
    assert sweeps.trials_left(storage, "s", 5) == 3
    assert sweeps.run_again(storage, "s") == 1 and sweeps.trials_left(storage, "s", 5) == 3
    assert sweeps.run_again(storage, "s") == 0 and sweeps.search_seed(storage, "s", 0) == 4
    again = study.ask()
    assert again.suggest_float("x", 0, 1) == 0.3
    study.tell(again, 2.0)
    assert sweeps.trials_left(storage, "s", 5) == 2 and sweeps.trials_left(storage, "s", 1) == 0


# --------------------------------------------------------------------------------------------------- searches


@pytest.mark.slow
@pytest.mark.parametrize("search", ["r1_gamma", "ada_target", "capacity"])
def test_the_ready_searches_run(command, small, tmp_path, search):
    quick = [*(a for a in small if not a.startswith(("model.channel_base", "metrics"))), "metrics=none"]
    command("train.py", "-m", *quick, f"hparams_search={search}", "schedule.total_kimg=0.016", "model.channel_max=8",
            f"hydra.sweep.dir={tmp_path}/s")  # fmt: skip
    found = outcomes(tmp_path / "s")
    assert len(found) == {"r1_gamma": 5, "ada_target": 4, "capacity": 3}[search]
    assert all(o.status == "finished" for o in found.values())
    configs = [read_checkpoint(tmp_path / f"s/{name}/checkpoints/last.ckpt")["config"] for name in found]
    values = {
        "r1_gamma": lambda c: c["model"]["r1_gamma"] / (0.0002 * 8**2 / 8),
        "ada_target": lambda c: c["augment"]["target"],
        "capacity": lambda c: c["model"]["channel_base"] / 16384,
    }[search]
    expected = {"r1_gamma": [0.25, 0.5, 1, 2, 4], "ada_target": [0.5, 0.6, 0.7, 0.8], "capacity": [0.5, 1, 2]}[search]
    assert [values(c) for c in configs] == pytest.approx(expected)


def test_a_missing_engine_says_what_to_install(run, small, tmp_path, monkeypatch):
    done = run("train.py", "-m", *small, "hydra/launcher=joblibs", SEEDS)
    assert done.code == 2 and "joblibs: hydra/launcher must be one of" in done.err
    known = ConfigLoaderImpl.get_group_options
    gone = lambda *a, **k: [o for o in known(*a, **k) if o not in ("joblib", "optuna")]  # noqa: E731
    monkeypatch.setattr(ConfigLoaderImpl, "get_group_options", gone)
    done = run("train.py", "-m", *small, "hydra/launcher=joblib", SEEDS)
    assert (
        done.code == 2 and 'needs packages that are not installed: pip install "stylegan_lightning[sweeps]"' in done.err
    )


def test_single_runs_leave_their_outcome_too(run, small, tmp_path):
    assert run("train.py", *small, f"run_dir={tmp_path}/r").code == 0
    outcome = read_outcome(tmp_path / "r")
    assert outcome is not None and outcome.status == "finished" and "data.size=64" in outcome.overrides
    assert math.isfinite(outcome.best_value or math.nan)
    done = run("train.py", *small, "model.g_lr=1.0e+9", "model.d_lr=1.0e+9", f"run_dir={tmp_path}/bad")
    outcome = read_outcome(tmp_path / "bad")
    assert done.code == 2 and outcome is not None and outcome.status == "failed"
    assert "training diverged" in str(outcome.reason)
    (tmp_path / "r/result.json").write_text("{")
    assert read_outcome(tmp_path / "r") is None
    assert os.listdir(tmp_path / "r") and not list((tmp_path / "r").glob("*.tmp"))


WHOLE = {"status": "finished", "overrides": ["a=1"], "metric": "m", "best_value": 2.0, "best_kimg": 1, "kimg": 8}


@pytest.mark.parametrize(
    "change",
    [
        {"best_value": "x"}, {"kimg": None}, {"overrides": 5}, {"overrides": [1]}, {"overrides": "a=1"}, {"metric": 1},
        {"status": "done"}, {"status": []}, {"best_kimg": True}, {"kimg": int("9" * 400)}, {"best_value": math.nan},
        {"reason": ["x"]},
    ],
)  # fmt: skip
def test_outcomes_of_the_wrong_kind_are_damaged(tmp_path, change):
    (tmp_path / "result.json").write_text(json.dumps(WHOLE))
    assert read_outcome(tmp_path) == Outcome(**WHOLE)
    (tmp_path / "result.json").write_text(json.dumps(WHOLE | change))
    assert read_outcome(tmp_path) is None


def test_an_outcome_is_read_up_to_a_limit(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(WHOLE) + " " * (1 << 22))
    assert read_outcome(tmp_path) is None
    (tmp_path / "result.json").unlink()
    os.mkfifo(tmp_path / "result.json")
    assert read_outcome(tmp_path) is None


def test_completion_is_installed_by_the_script_itself(command):
    assert "hydra_bash_completion()" in command("train.py", "-sc", "install=bash").stdout
