"""Projections in a process of their own, at low priority, so that a slow one never holds up the pictures.

Uploads wait in line; one is searched for at a time. A job lives as long as somebody asks for it: one that nobody has
asked for in `LEASE` seconds, because its page was closed, is given up.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stylegan_lightning.errors import UserError
from stylegan_lightning.explore import limits
from stylegan_lightning.explore.drawing import encode
from stylegan_lightning.explore.limits import Refused, Weighed
from stylegan_lightning.imaging import to_uint8
from stylegan_lightning.latent.codes import Codes
from stylegan_lightning.latent.projection import Look, Settings, project

LEASE = 20.0
IDLE = 300.0
"""Seconds without work after which the process ends and gives its memory back."""
PATIENCE = 10.0
"""Seconds that the process gets to obey before it is ended."""
EVERY = 5
NICENESS = 10
FINAL = ("done", "failed", "cancelled")


@dataclass
class Job:
    """What the page shows of a projection."""

    name: str
    target: np.ndarray
    settings: Settings
    label: int | None = None
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    state: str = "waiting"
    """waiting, running, done, failed or cancelled"""
    step: int = 0
    steps: int = 0
    loss: float | None = None
    psnr: float | None = None
    perceptual: float | None = None
    code: str | None = None
    error: str | None = None
    preview: bytes | None = None
    asked: float = field(default_factory=time.monotonic)

    def as_dict(self) -> dict[str, Any]:
        names = ("id", "name", "state", "step", "steps", "loss", "psnr", "perceptual", "code", "error")
        return {name: getattr(self, name) for name in names}

    @property
    def weight(self) -> int:
        """Bytes of its pictures."""
        return self.target.nbytes + len(self.preview or b"")


class Projections:
    """Jobs of all tabs. `keep` gets the code that was found and returns its id."""

    def __init__(self, model: Path, device: str, keep: Callable[[Codes], str], lease: float = LEASE) -> None:
        self._model, self._device, self._keep, self.lease = model, device, keep, lease
        self._lock = threading.Lock()
        self._jobs = Weighed[str, Job](
            limits.JOBS_BYTES, lambda job: job.weight, most=limits.MOST_JOBS, held=lambda job: job.state not in FINAL
        )
        self._line: queue.Queue[str | None] = queue.Queue()  # ids: jobs that were cancelled and forgotten weigh nothing
        self._worker: _Worker | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="projections", daemon=True)
        self._thread.start()

    def start(self, job: Job) -> Job:
        """Raises Refused where too many wait already."""
        with self._lock:
            waiting = sum(j.state == "waiting" for j in self._jobs.values())
            if waiting >= limits.JOBS_WAITING:
                raise Refused(
                    f"{waiting} pictures wait to be projected already: try again when one of them is done", 429
                )
            self._jobs.put(job.id, job)
        self._line.put(job.id)
        return job

    def ask(self, id: str) -> Job | None:
        """The job, which lives on for another `LEASE` seconds."""
        with self._lock:
            job = self._jobs.get(id)
            if job is not None:
                job.asked = time.monotonic()
            return job

    def cancel(self, id: str) -> None:
        with self._lock:
            job = self._jobs.get(id)
            if job is not None and job.state not in FINAL:
                job.state = "cancelled"

    def close(self) -> None:
        self._closed = True
        self._line.put(None)
        self._thread.join(PATIENCE)

    # ------------------------------------------------------------------------------- in the thread

    def _serve(self) -> None:
        while not self._closed:
            try:
                id = self._line.get(timeout=IDLE)
            except queue.Empty:
                self._end_worker()
                continue
            if id is None:
                break
            job = self._jobs.get(id)
            if job is not None and self._wanted(job):
                try:
                    self._run(job)
                except Exception as error:  # the thread outlives whatever a job does
                    self._end_worker()
                    self._fail(job, f"{type(error).__name__}: {error}")
        self._end_worker()

    def _wanted(self, job: Job) -> bool:
        """False for a job that was cancelled, or that nobody asks for any more, which then is cancelled."""
        with self._lock:
            if job.state not in FINAL and time.monotonic() - job.asked > self.lease:
                job.state = "cancelled"
            return job.state not in FINAL and not self._closed

    def _run(self, job: Job) -> None:
        if self._worker is None or not self._worker.alive:
            self._end_worker()
            self._worker = _Worker(self._model, self._device)
        worker = self._worker
        worker.send(job)
        with self._lock:
            if job.state == "waiting":
                job.state, job.steps = "running", job.settings.steps * job.settings.starts
        told: float | None = None
        while True:
            if told is None and not self._wanted(job):
                worker.stop()
                told = time.monotonic()
            if told is not None and time.monotonic() - told > PATIENCE:
                self._end_worker()
                return
            try:
                message = worker.receive(0.1)
            except EOFError:
                self._end_worker()
                self._fail(job, "the projection ended unexpectedly, perhaps for want of memory: try again")
                return
            if message is not None and self._take(job, message):
                return

    def _take(self, job: Job, message: tuple[str, dict[str, Any]]) -> bool:
        """Whether the job has ended."""
        kind, values = message
        if kind == "failed":
            self._fail(job, values["error"])
        elif kind == "done":
            noise = {name: torch.from_numpy(maps) for name, maps in values.pop("noise").items()}
            code = Codes(torch.from_numpy(values.pop("ws")), (job.name,), noise)
            try:
                key = self._keep(code)
            except UserError as error:
                self._fail(job, str(error))
                return True
            self._update(job, state="done", code=key, **values)
        elif kind == "look":
            self._update(job, **values)
        return kind in ("failed", "done", "stopped")

    def _update(self, job: Job, **values: Any) -> None:
        with self._lock:
            if job.state not in FINAL:
                for name, value in values.items():
                    setattr(job, name, value)
                self._jobs.put(job.id, job)

    def _fail(self, job: Job, error: str) -> None:
        self._update(job, state="failed", error=error)

    def _end_worker(self) -> None:
        if self._worker is not None:
            self._worker.end()
            self._worker = None


class _Worker:
    """The other process, as this one sees it."""

    def __init__(self, model: Path, device: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_work, args=(other, model, device), daemon=True)
        self._process.start()
        other.close()

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def send(self, job: Job) -> None:
        self._pipe.send((job.target, job.settings, job.label))

    def receive(self, seconds: float) -> Any:
        """A message, or None. Raises EOFError where the process is gone."""
        try:
            return self._pipe.recv() if self._pipe.poll(seconds) else None
        except OSError as error:
            raise EOFError from error

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._pipe.send(None)

    def end(self) -> None:
        self._process.terminate()
        self._process.join(PATIENCE)
        self._pipe.close()


# ---------------------------------------------------------------------------------------- the other process


class _Stopped(Exception):
    """The search is not wanted any more."""


def _work(pipe: Connection, model: Path, device: str) -> None:
    import signal

    import stylegan_lightning

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends this process
    with contextlib.suppress(OSError, AttributeError):
        os.nice(NICENESS)
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
    G = stylegan_lightning.load(model).to(device)
    while True:
        try:
            message = pipe.recv()
        except (EOFError, OSError):
            return
        if message is None:  # to stop what has ended in the meantime
            continue
        target, settings, label = message
        try:
            pipe.send(_project(G, pipe, target, settings, label))
        except _Stopped:
            pipe.send(("stopped", {}))
        except BrokenPipeError:
            return
        except Exception as error:
            pipe.send(("failed", {"error": str(error) or type(error).__name__}))


def _project(
    G: Any, pipe: Connection, target: np.ndarray, settings: Settings, label: int | None
) -> tuple[str, dict[str, Any]]:
    def watch(look: Look) -> None:
        if pipe.poll():
            pipe.recv()
            raise _Stopped
        preview = encode(to_uint8(look.img[:1]).cpu()[0])
        values = {"step": look.step, "steps": look.steps, "loss": float(look.loss[0]), "preview": preview}
        pipe.send(("look", values))

    found = project(G, torch.from_numpy(target)[None], settings, label=label, watch=watch, every=EVERY)
    near, psnr = found.perceptual, float(found.psnr[0])
    return "done", {
        "ws": found.codes.ws.numpy(),
        "noise": {name: maps.numpy() for name, maps in found.codes.noise.items()},
        "psnr": min(psnr, 99.0),
        "perceptual": None if near is None else float(near[0]),
        "preview": encode(found.images[0]),
    }
