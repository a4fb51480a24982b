"""Run directories as values. A damaged file becomes a note of its run, never an error."""

from __future__ import annotations

import contextlib
import csv
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from stylegan_lightning.errors import UserError
from stylegan_lightning.files import parse_json, read_file

KIMG = "progress/kimg"
MOST_BYTES = 1 << 28
"""Of each file of a run; metrics.csv has some hundred bytes a tick."""
FILES = ("config.yaml", "metrics.csv", "result.json")
LONGEST_OVERRIDE = 10_000
SMALL = 1 << 22
"""Bytes of the other files, and characters of a value in YAML: they have some thousand."""
MOST_KIMG = 1e12
_LEFT_OUT = "is left out: it is a link that leads out of the run"
_SAMPLES = re.compile(r"fakes_(\d+(?:\.\d+)?)_kimg\.png")

Curve = list[tuple[float, float]]
"""(kimg, value), by kimg."""


@dataclass
class Result:
    """result.json: what became of the run, as the run itself says."""

    status: str = ""
    reason: str | None = None
    metric: str | None = None
    best_value: float | None = None
    best_kimg: float | None = None
    kimg: float = 0.0
    overrides: list[str] = field(default_factory=list)


@dataclass
class Run:
    path: Path
    name: str
    config: dict[str, Any] = field(default_factory=dict)
    """{"model.r1_gamma": 1.0}; only the overrides where the run failed before it had a configuration."""
    curves: dict[str, Curve] = field(default_factory=dict)
    samples: dict[float, Path] = field(default_factory=dict)
    reals: Path | None = None
    checkpoint: Path | None = None
    result: Result = field(default_factory=Result)
    notes: list[str] = field(default_factory=list)

    @property
    def kimg(self) -> float:
        return max([self.result.kimg, *(curve[-1][0] for curve in self.curves.values())])

    @property
    def total_kimg(self) -> float | None:
        return _kimg(self.config.get("schedule.total_kimg"))

    @property
    def status(self) -> str:
        """Without result.json a run that did not reach its end may have been stopped or may still go on."""
        if self.result.status:
            return self.result.status
        return "finished" if self.total_kimg is not None and self.kimg >= self.total_kimg - 1e-6 else "unfinished"


def read_runs(places: Iterable[Path]) -> list[Run]:
    """Every run at or below `places`, with names that tell them apart. Raises UserError where there is none."""
    folders = find_runs(places)
    names = [f.name for f in folders]
    if len(set(names)) < len(names):
        top = Path(os.path.commonpath([f.parent for f in folders]))
        names = [str(f.relative_to(top)) for f in folders]
    return [read_run(folder, name) for folder, name in zip(folders, names, strict=True)]


def find_runs(places: Iterable[Path]) -> list[Path]:
    found: dict[Path, None] = {}
    places = list(places)
    for place in places:
        if not place.is_dir():
            raise UserError(f"{place} is not a directory; give run directories, or folders that hold them")
        for folder, below, files in os.walk(place):
            if is_run(Path(folder), files):
                found[Path(folder).resolve()] = None
                below.clear()
            below[:] = sorted((d for d in below if d != "wandb" and not d.startswith(".")), key=_natural)
    if not found:
        where = ", ".join(map(str, places))
        raise UserError(f"no runs in {where}: a run directory holds {FILES[0]} and, once it trains, {FILES[1]}")
    return list(found)


def is_run(folder: Path, files: Iterable[str]) -> bool:
    there = set(files)
    if FILES[0] in there and not there & set(FILES[1:]):  # such a file may be of anything else
        with contextlib.suppress(OSError, ValueError):
            return "schedule:" in _text(folder / FILES[0], SMALL)
    return bool(there & set(FILES[1:]))


def read_run(folder: Path, name: str) -> Run:
    run = Run(folder, name)
    run.result = read_result(folder / "result.json", run.notes)
    run.config = read_config(folder / "config.yaml", run.notes) or parsed(run.result.overrides)
    run.curves = read_curves(folder / "metrics.csv", run.notes)
    for file in _own_files(folder, "samples", run.notes):
        if (match := _SAMPLES.fullmatch(file.name)) and (kimg := _kimg(match[1])) is not None:
            run.samples[kimg] = file
        elif file.name == "reals.png":
            run.reals = file
    run.checkpoint = _existing(*(folder / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")))
    return run


def _own_files(folder: Path, name: str, notes: list[str]) -> list[Path]:
    """Pictures of a folder of a run, without those that are links to somewhere else."""
    if _leads_out(folder / name, folder):
        notes.append(f"{name} {_LEFT_OUT}")
        return []
    files = sorted((folder / name).glob("*.png"))
    out = [file for file in files if _leads_out(file, folder)]
    notes += [f"{name}/{file.name} {_LEFT_OUT}" for file in out]
    return [file for file in files if file not in out]


def _leads_out(path: Path, folder: Path) -> bool:
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def read_result(path: Path, notes: list[str]) -> Result:
    if not path.exists():
        return Result()
    try:
        content = parse_json(_text(path, SMALL), path.name)
        kinds: dict[str, Any] = {"overrides": lambda o: [str(x) for x in o], "best_value": _number}
        kinds |= dict.fromkeys(("best_kimg", "kimg"), _kimg)
        fields = {k: v for k, v in content.items() if k in Result.__dataclass_fields__ and v is not None}
        known: dict[str, Any] = {k: kinds.get(k, str)(v) for k, v in fields.items()}
        return Result(**{k: v for k, v in known.items() if v is not None})
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, UserError) as error:
        notes.append(f"{path.name} cannot be read: {_first_line(error)}")
        return Result()


def read_config(path: Path, notes: list[str]) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return flat(_tamed(OmegaConf.to_container(OmegaConf.create(_without_aliases(_text(path, SMALL))))))
    except Exception as error:  # whatever a damaged file makes of the YAML and OmegaConf parsers
        notes.append(f"{path.name} cannot be read: {_first_line(error)}")
        return {}


def read_curves(path: Path, notes: list[str]) -> dict[str, Curve]:
    """Columns that are numbers; of two rows at one kimg the later counts."""
    if not path.exists():
        notes.append(f"no {path.name}: nothing was measured")
        return {}
    points: dict[str, dict[float, float]] = {}
    skipped = 0
    try:
        for row in csv.DictReader(_text(path).splitlines()):
            kimg = _kimg(row.pop(KIMG, None))
            skipped += kimg is None
            for column, text in row.items():
                value = _number(text)
                if kimg is not None and value is not None and column and not column.startswith("progress/"):
                    points.setdefault(column, {})[kimg] = value
    except (OSError, ValueError, csv.Error) as error:
        notes.append(f"{path.name} cannot be read: {_first_line(error)}")
    if skipped:
        rows = f"{skipped} row{'s' * (skipped > 1)}"
        notes.append(f"{path.name} is damaged: {rows} without {KIMG} from 0 to {MOST_KIMG:g} left out")
    return {column: sorted(values.items()) for column, values in points.items()}


def parsed(overrides: Sequence[str]) -> dict[str, Any]:
    """{"model.r1_gamma": 1.0} of ["model.r1_gamma=1.0"]."""
    pairs = (o.lstrip("+~").partition("=") for o in overrides)
    return {key: _value(text) for key, _, text in pairs}


def _value(text: str) -> Any:
    try:
        found = OmegaConf.to_container(OmegaConf.from_dotlist([f"v={_without_aliases(text, LONGEST_OVERRIDE)}"]))
        return _tamed(found["v"])  # type: ignore[index,call-overload]
    except Exception:  # as above
        return text


def _without_aliases(text: str, longest: int = SMALL) -> str:
    """The same YAML. Raises ValueError where it refers to parts of itself, or is longer."""
    if len(text) > longest:
        raise ValueError(f"it has {len(text):,} characters; at most {longest:,} are read")
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
        raise ValueError("it refers to parts of itself, which no run writes and which may grow without end")
    return text


def _tamed(value: Any) -> Any:
    """Integers beyond any float as hexadecimal text: Python refuses to print longer ones."""
    if isinstance(value, dict):
        return {key: _tamed(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_tamed(v) for v in value]
    return hex(value) if isinstance(value, int) and value.bit_length() > 1000 else value


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """{"a.b": value} of nested dicts."""
    if not isinstance(tree, dict):
        return {prefix: tree} if prefix else {}
    return {
        k: v for name, sub in tree.items() for k, v in flat(sub, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _kimg(value: Any) -> float | None:
    number = _number(value)
    return number if number is not None and 0 <= number <= MOST_KIMG else None


def _text(path: Path, limit: int = MOST_BYTES) -> str:
    """Of a file of a run directory. Raises OSError, ValueError."""
    if _leads_out(path, path.parent):
        raise ValueError("it is a link that leads out of the run")
    return read_file(path, min(limit, MOST_BYTES)).decode(errors="replace").replace("\0", "")


def _existing(*paths: Path) -> Path | None:
    return next((p for p in paths if p.exists()), None)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _natural(name: str) -> list[Any]:
    """2 before 10."""
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", name)]
