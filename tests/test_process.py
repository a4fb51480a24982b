"""Whole processes: signals, sudden death, what W&B recorded, two ranks, help."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from stylegan_lightning.training.checkpoint import read_checkpoint
from tests.conftest import ROOT, command_environment, read_rows
from tests.test_train import assert_same_training


def start(cache: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=ROOT,
        env=command_environment(cache),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if condition():
            return
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"did not happen in time:\n{process.communicate()}")


LONG = ("schedule.total_kimg=1000", "logger=csv")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_save_and_the_run_goes_on_exactly(tiny, tmp_path, shared_cache, command, number):
    r = tmp_path / "r"
    process = start(shared_cache, *tiny, *LONG, f"run_dir={r}")
    wait_for((r / "checkpoints/last.ckpt").exists, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Stopped at" in out and f"resume={r}" in out and number.name in err and "Traceback" not in err
    stopped = read_checkpoint(r / "checkpoints/last.ckpt")["progress"]["nimg"]
    total = f"schedule.total_kimg={(stopped + 40) / 1000}"
    command("train.py", f"resume={r}", total)
    command("train.py", *tiny, "logger=csv", total, f"run_dir={tmp_path}/straight")
    assert_same_training(r / "checkpoints/last.ckpt", tmp_path / "straight/checkpoints/last.ckpt")


def test_sigkill_at_any_moment_leaves_a_whole_checkpoint(tiny, tmp_path, shared_cache, command):
    r = tmp_path / "r"
    process = start(shared_cache, *tiny, *LONG, "schedule.tick_kimg=0.008", f"run_dir={r}")
    wait_for((r / "checkpoints/last.ckpt").exists, process)
    # saves follow each other every few milliseconds now: stop while a temporary file is being written
    wait_for(lambda: any((r / "checkpoints").glob("*.tmp")), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    nimg = read_checkpoint(r / "checkpoints/last.ckpt")["progress"]["nimg"]
    command("train.py", f"resume={r}", f"schedule.total_kimg={(nimg + 16) / 1000}")
    assert read_checkpoint(r / "checkpoints/last.ckpt")["progress"]["nimg"] == nimg + 16
    kimg = [float(row["progress/kimg"]) for row in read_rows(r / "metrics.csv")]
    assert kimg == sorted(set(kimg))


def _wandb(*arguments: str) -> str:
    exe = shutil.which("wandb", path=str(Path(sys.executable).parent)) or shutil.which("wandb")
    assert exe, "wandb is a dependency"
    env = {**os.environ, "WANDB_MODE": "offline"}
    return subprocess.run([exe, *arguments], capture_output=True, text=True, check=True, env=env, timeout=120).stdout


def wandb_records(run_dir: Path) -> list[dict]:
    """All that the newest offline run in `run_dir` holds."""
    folder = sorted((run_dir / "wandb").glob("offline-run-*"))[-1]
    return [json.loads(line) for line in _wandb("leet", "inspect", "--json", str(folder)).splitlines() if line]


def test_what_wandb_recorded(run, tiny, tmp_path):
    arguments = [a for a in tiny if a != "metrics=none" and "showcase" not in a]
    done = run("train.py", *arguments, "metrics.num_fake=16", f"run_dir={tmp_path}/r", "name=my run")
    assert done.code == 0, done.err
    (folder,) = (tmp_path / "r/wandb").glob("offline-run-*")
    records = wandb_records(tmp_path / "r")
    rows = [r["history"]["item"] for r in records if r["type"] == "history"]
    assert [row["progress/kimg"] for row in rows] == [0, 0.032, 0.064]
    for key in (
        "loss/G",
        "loss/D",
        "penalty/r1",
        "penalty/pl",
        "logits/real",
        "speed/img_per_s",
        "memory/cpu_gib",
    ):
        assert key in rows[1], key
    assert "metric/fd_efflite0" in rows[0] and rows[-1]["samples/fakes._type"] == "image-file"
    assert rows[0]["samples/reals._type"] == "image-file"
    for name in ("truncation", "mixing", "interpolation", "reals_and_fakes"):
        assert rows[-1][f"samples/{name}._type"] == "image-file" and f"samples/{name}._type" not in rows[1]
    for name in ("logits_real", "logits_fake", "w"):
        assert rows[-1][f"histograms/{name}._type"] == "histogram"
    assert sum(rows[-1]["histograms/logits_fake.values"]) == 256
    started = next(r["run"] for r in records if r["type"] == "run")
    assert started["display_name"] == "my run" and "run_group" not in started and "job_type" not in started
    assert "z_dim=8" in started["tags"] and started["config"]["update"]["model"]["channel_base"] == 64
    metrics = [r["metric"] for r in records if r["type"] == "metric"]
    assert {"glob_name": "*", "step_metric": "progress/kimg"}.items() <= metrics[-1].items(), metrics
    pictures = sorted((folder / "files/media/images/samples").glob("fakes_*.png"))
    from PIL import Image

    stored = sorted((tmp_path / "r/samples").glob("fakes_*.png"))
    assert {Image.open(p).tobytes() for p in pictures} == {Image.open(p).tobytes() for p in stored}


def test_help_and_config_are_readable(command):
    text = command("train.py", "--help").stdout
    for word in ("python train.py", "experiment", "model", "resume=", "celeba, cifar10, faces"):
        assert word in text
    config = command("train.py", "--cfg", "job", "--resolve").stdout
    assert "total_kimg" in config and "${" not in config


def test_two_ranks_equal_one_process_with_the_whole_batch(tiny, tmp_path, command):
    """All phases, R1 and path length included; without noise, which each rank draws for itself."""
    options = [
        *tiny, "logger=csv", "model.use_noise=false", "model.mbstd_group_size=2",
        "model.pl_interval=2", "model.r1_interval=2",
        "schedule.total_kimg=0.032", "trainer=cpu",
    ]  # fmt: skip
    command("train.py", *options, f"run_dir={tmp_path}/one")
    command("train.py", *options, "trainer.devices=2", f"run_dir={tmp_path}/two")
    one, two = (read_checkpoint(tmp_path / d / "checkpoints/last.ckpt")["state_dict"] for d in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=2e-3, atol=2e-4, msg=name)
    assert len(list((tmp_path / "two/samples").glob("fakes_*.png"))) == 2


def test_two_ranks_resume_between_two_steps_of_ada(tiny, tmp_path, command):
    """Sums that each rank keeps by itself, the signs for p and the means of the tick, add up again."""
    options = [
        *tiny, "logger=csv", "trainer=cpu", "trainer.devices=2", "augment=ada", "augment.kimg=0.1",
        "augment.start=0.4", "augment.target=0", "schedule.total_kimg=0.096", "schedule.tick_kimg=0.048",
    ]  # fmt: skip
    command("train.py", *options, f"run_dir={tmp_path}/straight")
    command("train.py", *options, "schedule.total_kimg=0.048", f"run_dir={tmp_path}/r")
    stopped = read_checkpoint(tmp_path / "r/checkpoints/last.ckpt")["state_dict"]["strength.signs"]
    assert float(stopped[1]) == 8  # each rank's half of two batches
    command("train.py", f"resume={tmp_path}/r", "schedule.total_kimg=0.096")
    assert_same_training(tmp_path / "r/checkpoints/last.ckpt", tmp_path / "straight/checkpoints/last.ckpt")


def test_slurm_notice_saves_requeues_and_the_same_command_goes_on(tiny, tmp_path, shared_cache, monkeypatch, command):
    calls = tmp_path / "calls"
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    (tmp_path / "scontrol").chmod(0o755)
    for key, value in {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "77", "SLURM_ARRAY_JOB_ID": "70",
        "SLURM_ARRAY_TASK_ID": "3",
    }.items():  # fmt: skip
        monkeypatch.setenv(key, value)
    options = (*tiny, "logger=csv", f"run_dir={tmp_path}/r", "resume=auto")
    process = start(shared_cache, *options, "schedule.total_kimg=1000")
    wait_for((tmp_path / "r/checkpoints/last.ckpt").exists, process)
    process.send_signal(signal.SIGUSR1)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "job 70_3 is queued again" in out and calls.read_text() == "requeue 70_3\n"
    stopped = read_checkpoint(tmp_path / "r/checkpoints/last.ckpt")["progress"]["nimg"]
    total = f"schedule.total_kimg={(stopped + 40) / 1000}"
    again = command("train.py", *options, total)
    assert f"Finished at {(stopped + 40) / 1000:g} kimg" in again.stdout
    command("train.py", *tiny, "logger=csv", total, f"run_dir={tmp_path}/straight")
    assert_same_training(tmp_path / "r/checkpoints/last.ckpt", tmp_path / "straight/checkpoints/last.ckpt")
    other = command("train.py", *options, "model.r1_gamma=3", "schedule.total_kimg=1000", check=False)
    assert other.returncode == 2 and "keeps model.d_penalties.r1.gamma, model.r1_gamma as it was" in other.stderr


def test_resume_auto_needs_a_place(command):
    done = command("train.py", "resume=auto", check=False)
    assert done.returncode == 2 and "resume=auto needs run_dir=" in done.stderr


def test_processes_started_by_torchrun_train_as_one(tiny, tmp_path, shared_cache, command):
    options = [
        *tiny, "logger=csv", "model.use_noise=false", "schedule.total_kimg=0.032", "trainer=multi_node",
        "trainer.accelerator=cpu",
    ]  # fmt: skip
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    place = f"run_dir={tmp_path}/two"
    done = subprocess.run(
        [*launch, str(ROOT / "train.py"), *options, place],
        cwd=ROOT, env=command_environment(shared_cache), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    command("train.py", *options, "trainer.devices=1", f"run_dir={tmp_path}/one")
    one, two = (read_checkpoint(tmp_path / d / "checkpoints/last.ckpt")["state_dict"] for d in ("one", "two"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=2e-3, atol=2e-4, msg=name)
    lost = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *options],
        cwd=ROOT, env={**command_environment(shared_cache), "WORLD_SIZE": "2"}, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert lost.returncode == 2 and "must agree on it" in lost.stderr


@pytest.mark.parametrize("rank", [0, 1])
def test_the_death_of_one_rank_ends_the_run_and_keeps_the_checkpoint(tiny, tmp_path, shared_cache, rank):
    r = tmp_path / "r"
    process = start(shared_cache, *tiny, *LONG, f"run_dir={r}", "trainer=cpu", "trainer.devices=2")
    wait_for((r / "checkpoints/last.ckpt").exists, process)
    group = lambda: [int(p) for p in subprocess.run(  # noqa: E731
        ["pgrep", "-g", str(process.pid), "-f", "train.py"], capture_output=True, text=True
    ).stdout.split()]  # fmt: skip
    members = group()
    assert len(members) == 2
    os.kill(process.pid if rank == 0 else next(p for p in members if p != process.pid), signal.SIGKILL)
    _, err = process.communicate(timeout=90)
    assert process.returncode != 0
    if rank == 1:
        assert "resume=" in err and "last.ckpt" in err, err
    end = time.monotonic() + 30
    while group() and time.monotonic() < end:
        time.sleep(0.1)
    assert not group(), "a rank is left behind"
    assert read_checkpoint(r / "checkpoints/last.ckpt")["progress"]["nimg"] >= 32
