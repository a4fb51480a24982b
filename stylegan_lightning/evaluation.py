"""Measuring and sampling checkpoints, from nothing but the checkpoints."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from omegaconf import DictConfig, OmegaConf

import stylegan_lightning
from stylegan_lightning import builders
from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.errors import UserError
from stylegan_lightning.imaging import image_grid, save_png
from stylegan_lightning.metrics.frechet import FrechetDistance, FrechetResult, label_sampler
from stylegan_lightning.metrics.per_class import ClassDistances
from stylegan_lightning.networks import Generator
from stylegan_lightning.training.checkpoint import find_checkpoint, read_checkpoint
from stylegan_lightning.training.samples import class_picture, sample_fixed


@dataclass(frozen=True)
class Candidate:
    """A checkpoint made ready to be measured."""

    path: Path
    G: Generator
    cfg: DictConfig
    kimg: float


def checkpoint_paths(value: Any) -> list[Path]:
    """The checkpoints that `ckpt=` names: one, or a list. Raises UserError when there is none or one is missing."""
    values = list(value) if OmegaConf.is_list(value) or isinstance(value, list | tuple) else [value]
    if not values:
        raise UserError("ckpt is an empty list: give a checkpoint or a run directory, or several")
    return [find_checkpoint(str(v)) for v in values]


def load_candidate(path: Path) -> Candidate:
    """Rebuilds `G_ema` and the configuration of a checkpoint. Raises UserError as `load` does."""
    checkpoint = read_checkpoint(path)
    cfg = builders.checkpoint_config(checkpoint, path)
    G = builders.build_generator(cfg)
    builders.load_weights(G, checkpoint["state_dict"], "G_ema.", path)
    return Candidate(path, G.eval().requires_grad_(False), cfg, checkpoint["progress"]["nimg"] / 1000)  # type: ignore[arg-type]


def training_data(candidate: Candidate, data_path: str | None) -> PreparedDataset:
    """The data that the checkpoint was trained on, from `data_path` if they have moved.

    Raises UserError when their labels no longer fit the network.
    """
    cfg = candidate.cfg.copy()
    if data_path is not None:
        if "path" not in cfg.data:
            raise UserError(
                f"data_path is given, but {candidate.path} was trained on {cfg.data.name}, which has no files"
            )
        builders.change(cfg, "data.path", data_path)
    dataset = builders.build_dataset(cfg)
    if dataset.c_dim != candidate.G.c_dim:
        raise UserError(
            f"{candidate.path} was trained with {candidate.G.c_dim} label columns; the data now give {dataset.c_dim}"
        )
    return dataset


def device_of(cfg: DictConfig) -> torch.device:
    """The device that `trainer.accelerator` names. Raises UserError when it is not there."""
    name = cfg.trainer.accelerator
    cuda = torch.cuda.is_available()
    if name in ("gpu", "cuda") and not cuda:
        raise UserError(f"trainer.accelerator={name}, but PyTorch sees no GPU; use trainer=cpu or trainer=auto")
    return torch.device("cuda" if cuda and name != "cpu" else "cpu")


def evaluate_all(cfg: DictConfig, out_dir: Path) -> list[dict[str, Any]]:
    """One record for each checkpoint; writes grids, results.json, .csv and .md into `out_dir`."""
    paths = checkpoint_paths(cfg.ckpt)
    distance = builders.build_distance(cfg)
    candidates = [load_candidate(path) for path in paths]
    device = device_of(cfg)
    records, known, classes = [], "", None
    for number, candidate in enumerate(candidates):
        dataset = training_data(candidate, cfg.data_path)
        if distance is not None and dataset.fingerprint != known:
            statistics = builders.cache_dir(cfg) / "statistics"
            distance.to(device).set_real(dataset, statistics)
            if cfg.metrics.per_class:
                classes = ClassDistances(distance.extractor, distance.preset, dataset, statistics, device)
            known = dataset.fingerprint
        records.append(_evaluate(candidate, dataset, distance, classes, cfg, out_dir, number, device))
    _write(out_dir / "results.json", json.dumps({"results": records, "versions": versions()}, indent=2) + "\n")
    _write(out_dir / "results.csv", rows_of_values(records))
    _write(out_dir / "results.md", table(records) + "\n")
    return records


def _evaluate(
    candidate: Candidate,
    dataset: PreparedDataset,
    distance: FrechetDistance | None,
    classes: ClassDistances | None,
    cfg: DictConfig,
    out_dir: Path,
    number: int,
    device: torch.device,
) -> dict[str, Any]:
    G, psi = candidate.G.to(device), cfg.truncation_psi
    imgs = sample_fixed(G, dataset, cfg.rows * cfg.columns, cfg.seed, psi, device)
    grid = out_dir / f"samples_{number:02d}_{candidate.path.stem}.png"
    save_png(grid, image_grid(imgs, cfg.columns))
    by_class = class_picture(G, dataset, cfg.columns, cfg.seed, psi, device)
    class_grid = out_dir / f"classes_{number:02d}_{candidate.path.stem}.png"
    if by_class is not None:
        save_png(class_grid, by_class)
    record: dict[str, Any] = {
        "checkpoint": str(candidate.path),
        "kimg": candidate.kimg,
        "model": candidate.cfg.model.name,
        "data": dataset.name,
        "data_fingerprint": dataset.fingerprint,
        "grid": str(grid),
        "class_grid": str(class_grid) if by_class is not None else None,
        "grid_seed": cfg.seed,
        "truncation_psi": psi,
        "metrics": [],
    }
    if distance is not None:
        preset = dataclasses.replace(distance.preset, truncation_psi=psi)
        distance.evaluate_generator(G, label_sampler(dataset), preset, device=device)
        record["metrics"].append(distance.result().as_dict())
        parts = classes.evaluate_generator(G, preset, device) if classes else []
        record["metrics"] += [part.as_dict() for part in parts]
    return record


def table(records: Sequence[dict[str, Any]]) -> str:
    """A Markdown table, one row a checkpoint; below it one of the classes, where they were measured."""
    names = list(dict.fromkeys(m["metric"] for r in records for m in r["metrics"] if not _of_class(m)))
    header = ["checkpoint", "kimg", *names, *(["preset", "reals", "fakes"] if names else [])]
    rows, classes = [], []
    for record in records:
        metrics = {m["metric"]: m for m in record["metrics"] if not _of_class(m)}
        first = next(iter(metrics.values()), None)
        start = [record["checkpoint"], f"{record['kimg']:g}"]
        rows.append([*start, *(f"{metrics[n]['value']:.3f}" for n in names), *(_preset(first) if first else [])])
        parts = filter(_of_class, record["metrics"])
        classes += [[*start, m["metric"], f"{m['value']:.3f}", *_preset(m)] for m in parts]
    tables = [_markdown(header, rows)]
    if classes:
        tables.append(_markdown(["checkpoint", "kimg", "metric", "value", "preset", "reals", "fakes"], classes))
    return "\n\n".join(tables)


def _of_class(metric: dict[str, Any]) -> bool:
    return "/class/" in metric["metric"]


def _preset(metric: dict[str, Any]) -> list[str]:
    return [metric["preset"], str(metric["num_real"]), str(metric["num_fake"])]


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    line = lambda cells: "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"  # noqa: E731
    return "\n".join([line(header), line(["-" * w for w in widths]), *map(line, rows)])


def rows_of_values(records: Sequence[dict[str, Any]]) -> str:
    """CSV, one row a value, with the choices that decide it."""
    text = io.StringIO()
    columns = ["checkpoint", "kimg", "model", "data", *(f.name for f in dataclasses.fields(FrechetResult))]
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({**record, **metric} for record in records for metric in record["metrics"])
    return text.getvalue()


def versions() -> dict[str, str]:
    return {
        "stylegan_lightning": stylegan_lightning.__version__,
        "torch": str(torch.__version__),
        "lightning": lightning.__version__,
        "python": platform.python_version(),
    }


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
