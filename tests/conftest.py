"""Shared fixtures. Parity tests add their largest relative differences to a table printed at the end."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:  # several workers: threads of their own would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
REFERENCE = Path(__file__).parent / "reference"
_PARITY: list[tuple[str, float, float]] = []


class Reference:
    """A stored reference file: `meta`, tensors by name, and network states."""

    def __init__(self, name: str) -> None:
        self.data = np.load(REFERENCE / f"{name}.npz", allow_pickle=False)
        self.meta: dict[str, Any] = json.loads(str(self.data["meta"]))

    def __getitem__(self, key: str) -> torch.Tensor:
        return torch.from_numpy(self.data[key])

    def __contains__(self, key: str) -> bool:
        return key in self.data.files

    def under(self, prefix: str) -> dict[str, np.ndarray]:
        return {k.removeprefix(prefix): self.data[k] for k in self.data.files if k.startswith(prefix)}


@pytest.fixture(scope="session")
def reference():
    return Reference


@pytest.fixture
def parity():
    """parity(what, ours, theirs, tolerance): largest difference relative to the largest magnitude."""

    def check(what: str, ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-4) -> None:
        assert ours.shape == theirs.shape, what
        ours = ours.detach()
        difference = float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-30))
        _PARITY.append((what, difference, tolerance))
        assert difference <= tolerance, f"{what}: {difference:.2e} > {tolerance:.0e}"

    return check


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _PARITY:
        terminalreporter.section("parity: largest difference relative to the largest magnitude")
        for what, difference, tolerance in _PARITY:
            terminalreporter.write_line(f"{what:60s} {difference:9.2e}  (allowed {tolerance:.0e})")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["parity"] = _PARITY


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Of pytest-xdist: what a worker has collected."""
    _PARITY.extend(map(tuple, getattr(node, "workeroutput", {}).get("parity", [])))  # type: ignore[arg-type]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of prepared data for all command-line runs of a session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def command(shared_cache: Path):
    """command("train.py", "key=value", ...) runs a script as a user does and returns the finished process."""

    def run(script: str, *arguments: str, cwd: Path | None = None, check: bool = True, timeout: float = 300):
        done = subprocess.run(
            [sys.executable, str(ROOT / script), *arguments],
            cwd=cwd or ROOT,
            env=command_environment(shared_cache),
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode:
            raise AssertionError(f"{script} {' '.join(arguments)} failed:\n{done.stdout}\n{done.stderr}")
        return done

    return run


def command_environment(cache: Path) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "HYDRA"))}
    return {**clean, "STYLEGAN_LIGHTNING_CACHE": str(cache), "WANDB_MODE": "offline"}


TINY = (
    "data.resolution=8",
    "data.size=64",
    "model.z_dim=8",
    "model.w_dim=8",
    "model.mapping_layers=2",
    "model.channel_base=64",
    "model.channel_max=8",
    "schedule.batch_size=8",
    "schedule.total_kimg=0.064",
    "schedule.tick_kimg=0.032",
    "callbacks.samples.rows=2",
    "callbacks.samples.columns=4",
    "callbacks.showcase.enabled=false",
    "metrics=none",
)
"""A complete run of 8 batches in about a second."""


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    return TINY


def read_rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


class Outcome:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(shared_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """run("train.py", "key=value", ...): a command inside this process, several times faster than `command`."""
    import importlib

    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("STYLEGAN_LIGHTNING_CACHE", str(shared_cache))
    monkeypatch.delenv("WANDB_MODE", raising=False)

    def go(script: str, *arguments: str) -> Outcome:
        module = importlib.import_module(script.removesuffix(".py"))
        launch = importlib.import_module("stylegan_lightning.launch")
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        capsys.readouterr()
        code = 0
        try:
            launch.entry_point(module.main, module.CONF, script.removesuffix(".py"))
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return go


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium; where there is none the tests are skipped, visibly, or fail where CI is set."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of stylegan_lightning[dev]")
    with api.sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, CHROMIUMS)), None)
        try:
            chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except api.Error as error:
            missing = pytest.fail if os.environ.get("CI") else pytest.skip
            missing(f"no browser: apt-get install chromium, or playwright install chromium ({str(error)[:80]})")
        yield chromium
        chromium.close()
