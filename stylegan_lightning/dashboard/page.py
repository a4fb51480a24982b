"""Runs -> one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from stylegan_lightning.config.arguments import shell_argument
from stylegan_lightning.dashboard import compare, pictures
from stylegan_lightning.dashboard.runs import Curve, Run

POINTS = 400
"""Of a curve; longer ones keep the lowest and the highest point of every stretch."""
SPEED = "speed/img_per_s"


def page(runs: Sequence[Run], metric: str | None, title: str) -> str:
    script = _asset("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template(_asset("template.html")).substitute(
        title=html.escape(title.encode(errors="replace").decode()),  # names of files need not be UTF-8
        style=_asset("style.css"),
        script=script,
        script_hash=f"sha256-{digest}",  # no other script of the page may run
        data=json.dumps(content(runs, metric), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
    )


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def content(runs: Sequence[Run], metric: str | None) -> dict[str, Any]:
    """All that the page shows."""
    runs = compare.ranked(runs, metric)
    keys = compare.swept_keys(runs)
    moments = pictures.moments(runs)
    budget = pictures.BYTES / (len(runs) * len(moments) + pictures.MOST_REALS)
    reals = pictures.distinct_reals(runs, budget)
    return {
        "metric": metric,
        "lower": metric is None or compare.lower_is_better(metric),
        "made": datetime.now().astimezone().isoformat(timespec="minutes"),
        "keys": [compare.shown_key(k) for k in keys],
        "columns": sorted({c for run in runs for c in run.curves}, key=lambda c: (not c.startswith("metric/"), c)),
        "moments": moments,
        "reals": [{"of": [r.name for r in same] * (len(reals) > 1), "src": src} for src, same in reals.items()],
        "runs": [_run(run, keys, metric, moments, budget) for run in runs],
        "importance": [
            {"key": compare.shown_key(i.key), "rho": round(i.rho, 3), "runs": i.runs}
            for i in compare.importance(runs, keys, metric)
        ],
        "otherData": compare.other_data(runs),
        "thinned": any(len(c) > POINTS for run in runs for c in run.curves.values()),
    }


def _run(run: Run, keys: Sequence[str], metric: str | None, moments: Sequence[float], budget: float) -> dict[str, Any]:
    best, curve = compare.best(run, metric), run.curves.get(metric or "", [])
    speeds = [v for _, v in run.curves.get(SPEED, [])]
    shown = {k: pictures.nearest(run, k) for k in moments}
    embedded = {
        k: pictures.embed(run.samples[k], budget, run.notes) for k in dict.fromkeys(shown.values()) if k is not None
    }
    samples = [{"kimg": k, "value": _near(curve, k), "src": src} for k, src in embedded.items() if src]
    return {
        "name": run.name,
        "hint": _hint(run, keys),
        "path": str(run.path),
        "status": run.status,
        "reason": run.result.reason,
        "best": _rounded(best.value) if best else None,
        "bestKimg": best.kimg if best else None,
        "last": _rounded(curve[-1][1]) if curve else None,
        "kimg": run.kimg,
        "speed": _rounded(_median(speeds)) if speeds else None,
        "values": [_plain(compare.value(run.config, k)) for k in keys],
        "overrides": run.result.overrides,
        "curves": {name: [list(axis) for axis in zip(*thinned(c), strict=True)] for name, c in run.curves.items()},
        "samples": samples,
        "moments": [next((i for i, s in enumerate(samples) if s["kimg"] == shown[k]), None) for k in moments],
        "checkpoint": str(shorter(run.checkpoint)) if run.checkpoint else None,
        "commands": commands(run),
        "notes": run.notes,
    }


def commands(run: Run) -> list[dict[str, str]]:
    """What to do next with a run that has a checkpoint."""
    if run.checkpoint is None:
        return []
    resume = f"python train.py {shell_argument('resume', shorter(run.path))}"
    if run.total_kimg is not None and run.kimg >= run.total_kimg - 1e-6:
        train = {"what": "train on", "text": f"{resume} schedule.total_kimg={2 * run.total_kimg:g}"}
    else:
        train = {"what": "go on", "text": resume}
    return [
        train,
        {"what": "evaluate", "text": f"python evaluate.py {shell_argument('ckpt', shorter(run.checkpoint))}"},
    ]


def shorter(path: Path) -> Path:
    """From here, where it lies below."""
    here = Path.cwd().resolve()
    return path.relative_to(here) if path.is_relative_to(here) else path


def thinned(curve: Curve, most: int = POINTS) -> Curve:
    """The same curve to the eye: its first, last, lowest and highest points, stretch by stretch, five digits."""
    kept = curve
    if len(curve) > most:
        kept = [curve[0], curve[-1]]
        for stretch in np.array_split(np.array(curve), most // 2):
            kept += [tuple(stretch[stretch[:, 1].argmin()]), tuple(stretch[stretch[:, 1].argmax()])]
        kept = sorted(set(kept))
    return [(round(float(x), 3), _rounded(float(y))) for x, y in kept]


def _rounded(number: float) -> float:
    """Five digits, as far as that is a float."""
    found = float(f"{number:.5g}")
    return found if math.isfinite(found) else number


def _median(numbers: Sequence[float]) -> float:
    return 2 * float(np.median(np.divide(numbers, 2)))  # halves, so that the sum of two stays a number


def _near(curve: Curve, kimg: float) -> float | None:
    """The value measured when a picture was drawn, if any was."""
    at, found = min(curve, key=lambda p: abs(p[0] - kimg), default=(None, None))
    return _rounded(found) if found is not None and at is not None and abs(at - kimg) < 1e-3 else None


def _plain(value: Any) -> float | int | bool | str | None:
    """As JSON, and as a browser can hold it: null where the run has no such key."""
    if value is compare.MISSING:
        return None
    exact = compare.is_number(value) and (isinstance(value, float) or abs(value) <= 2**53)
    shown = exact or isinstance(value, bool | str)
    return value if shown else "null" if value is None else str(value)


def _hint(run: Run, keys: Sequence[str]) -> str:
    """What is special about a job of a sweep, whose name is only a number."""
    if not re.fullmatch(r"(.*/)?(\d+|trial_\w+)", run.name):
        return ""
    values = {compare.shown_key(k).rpartition(".")[2]: _plain(compare.value(run.config, k)) for k in keys}
    return " ".join(f"{k}={v:.3g}" if compare.is_number(v) else f"{k}={v}" for k, v in values.items() if v is not None)
