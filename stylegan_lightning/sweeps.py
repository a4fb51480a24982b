"""Jobs of a sweep: a failing one does not end it, a finished one is not repeated, an interrupted one goes on."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from stylegan_lightning.config.arguments import argument, shell_argument
from stylegan_lightning.errors import UserError
from stylegan_lightning.outcome import Outcome, failures_recorded, read_outcome, reason_of, task_overrides
from stylegan_lightning.reports import markdown, write_text
from stylegan_lightning.resume import AUTO
from stylegan_lightning.training.checkpoint import LAST


def in_sweep() -> bool:
    return HydraConfig.get().mode == RunMode.MULTIRUN


def job(cfg: DictConfig, run: Callable[[DictConfig], float | None]) -> float | None:
    """The value of one job; None, which every sweeper takes for a failure, where it failed, with the reason in its
    result.json and on the screen.

    In a sweep that is started again in the same directory (`hydra.sweep.dir`) a finished job gives its value without
    running, and one that has a checkpoint goes on from it. Being stopped by a signal ends the sweep.
    """
    folder, number = Path(HydraConfig.get().runtime.output_dir), HydraConfig.get().job.num
    known = read_outcome(folder)
    if known is not None and known.status == "finished" and decisive(known.overrides) == decisive(task_overrides()):
        print(f"job {number} was finished before: {known.metric} {known.best_value}")
        return known.best_value
    if cfg.resume is None and (folder / "checkpoints" / LAST).exists():
        cfg.resume = AUTO
    try:
        with failures_recorded(folder, always=True), own_process_state():
            value = run(cfg)
    except Exception as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        print(f"error: job {number} failed: {reason_of(error)}", file=sys.stderr, flush=True)
        return None
    done = read_outcome(folder)
    if done is not None and done.status == "interrupted":
        again = f"hydra.sweep.dir={HydraConfig.get().sweep.dir}"
        print(f"the sweep stops at job {number}; the same command with {again} goes on with it", flush=True)
        raise KeyboardInterrupt
    return value


def decisive(overrides: Sequence[str]) -> list[str]:
    """Those that make a run another one."""
    return sorted(o for o in overrides if not o.startswith(("trials=", "logger", "trainer", "resume=")))


@contextlib.contextmanager
def own_process_state() -> Iterator[None]:
    """Environment and process group of a job end with it: the next one may have other ranks."""
    before = dict(os.environ)
    try:
        yield
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        os.environ.clear()
        os.environ.update(before)


def command_of_ranks(cfg: DictConfig) -> list[str] | None:
    """How a job of a sweep starts its other ranks: as this one run, since its own command line would walk the whole
    sweep. None outside of sweeps."""
    if not in_sweep():
        return None
    folder = str(Path(HydraConfig.get().runtime.output_dir).absolute())
    conf = next(s.path for s in HydraConfig.get().runtime.config_sources if s.provider == "main")
    own = [o for o in task_overrides() if not o.startswith(("run_dir=", "resume="))]
    resume = [f"resume={AUTO}"] if cfg.resume is not None else []
    return [
        sys.executable,
        str(Path(conf).parent / "train.py"),
        *own,
        argument("run_dir", folder),
        f"run_id={cfg.run_id}",
        *resume,
    ]


# -------------------------------------------------------------------------------------------------- searches


def trials_left(storage: str | None, study_name: str | None, total: int) -> int:
    """How many of `total` trials an Optuna study still has to run; all of them for a new study.

    An interrupted trial, and one that waits to be run again, is not done. Trials of the same values count once.
    """
    study = _study(storage, study_name)
    if study is None:
        return total
    waiting = [t.system_attrs.get("fixed_params", {}) for t in study.trials if t.state.name == "WAITING"]
    ended = [t.params for t in study.trials if t.state.name in ("COMPLETE", "PRUNED", "FAIL")]
    done = [params for params in ended if params not in waiting]
    return max(total - len({str(sorted(p.items())) for p in done}), 0)


def search_seed(storage: str | None, study_name: str | None, seed: int) -> int:
    """Of a sampler: another one for each trial that a study has seen, so that one that goes on draws new values."""
    study = _study(storage, study_name)
    return seed * 10_000 + (len(study.trials) if study is not None else 0)


def run_again(storage: str | None, study_name: str | None) -> int:
    """Trials that were running when a search ended are asked again, with the same values; their number."""
    study = _study(storage, study_name)
    lost = [t for t in study.trials if t.state.name == "RUNNING"] if study is not None else []
    for trial in lost:
        import optuna

        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        if trial.params:
            study.enqueue_trial(trial.params)
    return len(lost)


def _study(storage: str | None, study_name: str | None) -> Any:
    """None where there is no study yet."""
    if not storage or not study_name:
        return None
    import optuna

    logging.getLogger("alembic").setLevel(logging.WARNING)
    path = storage.removeprefix("sqlite:///")
    if path != storage and not Path(path).exists():
        return None
    try:
        return optuna.load_study(study_name=study_name, storage=storage)
    except KeyError:
        return None


def short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


for _name, _function in (("trials_left", trials_left), ("search_seed", search_seed), ("short_hash", short_hash)):
    OmegaConf.register_new_resolver(_name, _function, replace=True)


class SweepReport(Callback):
    """Before `train.py --multirun`: interrupted trials are queued again. After it: a table of all jobs, best first,
    and the commands to go on with the best."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        sweeper, folder = config.hydra.sweeper, Path(config.hydra.sweep.dir)
        logging.getLogger("alembic").setLevel(logging.WARNING)  # of Optuna's storage
        folder.mkdir(parents=True, exist_ok=True)
        if sweeper.get("storage"):
            count = run_again(sweeper.storage, sweeper.study_name)
            if count:
                print(f"{count} interrupted trial{'s' if count > 1 else ''} of this study will go on")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        jobs = [(p.parent, o) for p in sorted(folder.glob("*/result.json")) if (o := read_outcome(p.parent))]
        if jobs:
            text = sweep_table(jobs)
            write_text(folder / "sweep.md", text + "\n")
            print(f"\n{text}")


def sweep_table(jobs: list[tuple[Path, Outcome]]) -> str:
    """Markdown, best first, failures last with their reasons."""
    jobs = sorted(jobs, key=lambda job: math.inf if job[1].best_value is None else job[1].best_value)
    shared = set.intersection(*(set(o.overrides) for _, o in jobs))
    header = ["job", "status", "best", "at kimg", "kimg", "overrides"]
    rows = [
        [
            path.name,
            o.status,
            "–" if o.best_value is None else f"{o.best_value:.3f}",
            "–" if o.best_kimg is None else f"{o.best_kimg:g}",
            f"{o.kimg:g}",
            " ".join(_short(x) for x in o.overrides if x not in shared) or "–",
        ]
        for path, o in jobs
    ]
    metric = next((o.metric for _, o in jobs if o.metric), None)
    lines = [f"{len(jobs)} jobs" + (f" by {metric}" if metric else ""), "", markdown(header, rows)]
    failed = [f"{path.name}: {o.reason}" for path, o in jobs if o.status == "failed"]
    lines += ["", "Failed", *(f"  {text}" for text in failed)] if failed else []
    best, outcome = jobs[0]
    if outcome.best_value is not None:
        resume = shell_argument("resume", best)
        lines += [
            "",
            "Next",
            f"  train the best on  python train.py {resume} schedule.total_kimg={2 * outcome.kimg:g}",
            f"  compare            python -m stylegan_lightning.dashboard {shlex.quote(str(best.parent))}",
        ]
    return "\n".join(lines)


def _short(override: str) -> str:
    """Numbers with four digits."""
    key, _, value = override.partition("=")
    try:
        return f"{key}={float(value):.4g}"
    except ValueError:
        return override
