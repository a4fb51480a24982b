"""What became of a run: result.json in its directory."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from hydra.core.hydra_config import HydraConfig

from stylegan_lightning.errors import UserError
from stylegan_lightning.files import is_number, is_texts, parse_json, read_file, replacing

RESULT = "result.json"
MOST_BYTES = 1 << 22
"""Of it; it has some hundred."""
Status = Literal["running", "finished", "interrupted", "failed"]


@dataclass(frozen=True)
class Outcome:
    """`best_value` is that of `metric`, reached at `best_kimg`; `overrides` are the command line's."""

    status: Status
    overrides: Sequence[str] = ()
    metric: str | None = None
    best_value: float | None = None
    best_kimg: float | None = None
    kimg: float = 0.0
    reason: str | None = None

    def write(self, run_dir: Path) -> None:
        """Whole or not at all."""
        with replacing(run_dir / RESULT) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=2) + "\n")


def read_outcome(run_dir: Path) -> Outcome | None:
    """None where there is none, or where the file is damaged."""
    try:
        found = Outcome(**parse_json(read_file(run_dir / RESULT, MOST_BYTES), RESULT))
    except (OSError, TypeError, ValueError, UserError):
        return None
    texts = (found.metric, found.reason)
    numbers = (found.best_value, found.best_kimg)
    fits = (
        found.status in get_args(Status)
        and is_texts(found.overrides)
        and all(t is None or isinstance(t, str) for t in texts)
        and all(n is None or is_number(n) for n in numbers)
        and is_number(found.kimg)
    )
    return found if fits else None


def outcome_of(
    status: Literal["finished", "interrupted"], kimg: float, metric: str | None, best_value: float, best_kimg: float
) -> Outcome:
    """Of a run that has come to its end or was stopped; `best_value` is inf where nothing was measured."""
    if not math.isfinite(best_value):
        return Outcome(status, task_overrides(), kimg=kimg)
    return Outcome(status, task_overrides(), metric, best_value, best_kimg, kimg)


def task_overrides() -> list[str]:
    """What the command line, or the sweep, asks of this run."""
    return list(HydraConfig.get().overrides.task)


def reason_of(error: BaseException) -> str:
    """One text for a person: the message of a UserError, the kind and first line of anything else."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return f"out of memory: {text.splitlines()[0]}"
    return text if type(error).__name__ == "UserError" else f"{type(error).__name__}: {text.splitlines()[0]}"


@contextlib.contextmanager
def failures_recorded(run_dir: Path, always: bool) -> Iterator[None]:
    """Writes the reason of an error into `run_dir`, if the run had begun there or `always`, and raises it again."""
    try:
        yield
    except BaseException as error:
        if always or (run_dir / "config.yaml").exists():
            before = read_outcome(run_dir) or Outcome("failed")
            stopped = isinstance(error, KeyboardInterrupt | SystemExit)
            status: Literal["interrupted", "failed"] = "interrupted" if stopped else "failed"
            rest = {"overrides": task_overrides(), "reason": None if stopped else reason_of(error), "status": status}
            with contextlib.suppress(OSError):
                Outcome(**{**asdict(before), **rest}).write(run_dir)
        raise
