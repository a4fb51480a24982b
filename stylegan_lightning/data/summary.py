"""Counts and pixel statistics of a source that is being prepared, and a summary of them to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.data.labels import label_kind
from stylegan_lightning.files import printable

NAMED = 10
"""How many skipped files, or classes, are named; the rest are counted."""


@dataclass
class Chunk:
    """What one worker call returns: readable images, whose row numbers these are, and what went wrong."""

    images: np.ndarray
    rows: list[int]
    skipped: list[tuple[str, str]]
    infos: list[dict[str, Any]]
    sums: np.ndarray
    squares: np.ndarray


@dataclass
class Tally:
    """Sums over the chunks, for the summary."""

    sums: np.ndarray
    squares: np.ndarray
    pixels_per_image: int
    kept: list[int] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)

    def add(self, chunk: Chunk) -> None:
        self.kept += chunk.rows
        self.skipped += chunk.skipped
        self.sizes.update(tuple(i["size"]) for i in chunk.infos)
        self.modes.update(i["mode"] for i in chunk.infos)
        self.sums += chunk.sums
        self.squares += chunk.squares


def statistics(tally: Tally, targets: np.ndarray, names: Sequence[str], seconds: float) -> dict[str, Any]:
    """The summary; mean and std are per channel over every pixel, in 0..255."""
    count = len(tally.kept)
    pixels = count * tally.pixels_per_image
    mean = tally.sums / pixels
    by_area = sorted(tally.sizes, key=lambda s: (s[0] * s[1], s))
    counted = label_kind(targets) in ("classes", "attributes")
    return {
        "count": count,
        "skipped": [list(s) for s in tally.skipped],
        "sizes": {
            "distinct": len(by_area),
            "common": {f"{w}x{h}": n for (w, h), n in tally.sizes.most_common(5)},
            "min": "x".join(map(str, by_area[0])) if by_area else None,
            "max": "x".join(map(str, by_area[-1])) if by_area else None,
        },
        "modes": dict(tally.modes.most_common()),
        "labels": dict(zip(names, targets.sum(0).astype(int).tolist(), strict=True)) if counted else {},
        "mean": mean.tolist(),
        "std": np.sqrt(np.maximum(tally.squares / pixels - mean**2, 0)).tolist(),
        "prepare_img_per_s": round((count + len(tally.skipped)) / max(seconds, 1e-9), 1),
    }


def are_stats(stats: dict[str, Any]) -> bool:
    """Whether they are what `statistics` makes, or a part of it."""
    skipped, sizes = stats.get("skipped", []), stats.get("sizes", {})
    mean, std = stats.get("mean", []), stats.get("std", [])
    whole = all(isinstance(value, list) for value in (skipped, mean, std)) and isinstance(sizes, dict)
    if not whole:
        return False
    tables = [stats.get("modes", {}), stats.get("labels", {})]
    if sizes:
        tables.append(sizes.get("common"))
        whole = type(sizes.get("distinct")) is int and all(isinstance(sizes.get(k), str | None) for k in ("min", "max"))
    return (
        whole
        and all(isinstance(pair, list) and [type(x) for x in pair] == [str, str] for pair in skipped)
        and all(isinstance(table, dict) and all(type(n) is int for n in table.values()) for table in tables)
        and len(mean) == len(std)
        and all(type(x) in (int, float) and 0 <= x <= 255 for x in (*mean, *std))
    )


def refusal(skipped: Sequence[Sequence[str]], total: int) -> str:
    lines = "".join(f"\n  {name}: {reason}" for name, reason in skipped[:NAMED])
    more = f"\n  ... and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
    return f"{len(skipped)} of {total} images cannot be read:{lines}{more}"


def summary_text(dataset: PreparedDataset) -> str:
    """A few lines to read before training: what there is, what it was made from, what was left out."""
    stats, shape = dataset.stats, "x".join(map(str, dataset.images.shape[1:]))
    mirrored = f", with mirrored copies {len(dataset)}" if dataset.mirror else ""
    lines = [f"{dataset.name}: {len(dataset.images)} images of {shape}{mirrored}"]
    if sizes := stats.get("sizes", {}).get("common"):
        spread = f" ({stats['sizes']['distinct']} sizes, {stats['sizes']['min']} to {stats['sizes']['max']})"
        lines.append(f"  sizes    {_counts(sizes)}{spread if stats['sizes']['distinct'] > 1 else ''}")
    if stats.get("modes"):
        lines.append(f"  modes    {_counts(stats['modes'])}")
    lines.append(f"  labels   {_label_text(dataset)}")
    if "mean" in stats:
        pairs = (f"{m:.1f} ± {s:.1f}" for m, s in zip(stats["mean"], stats["std"], strict=True))
        lines.append(f"  pixels   {', '.join(pairs)} (mean ± spread per channel, 0..255)")
    if skipped := stats.get("skipped"):
        lines.append(f"  skipped  {refusal(skipped, len(dataset.images) + len(skipped))}")
    return printable("\n".join(lines), keep="\n")


def _counts(table: dict[str, int]) -> str:
    return ", ".join(f"{name}: {n}" for name, n in table.items())


def _label_text(dataset: PreparedDataset) -> str:
    counts = dataset.stats.get("labels")
    if not counts:
        return f"vectors of {dataset.c_dim} numbers" if dataset.c_dim else "none (unconditional)"
    shown = _counts(dict(list(counts.items())[:NAMED])) + (", ..." if len(counts) > NAMED else "")
    empty = sum(n == 0 for n in counts.values())
    what = "classes" if label_kind(dataset.targets) == "classes" else "yes/no labels"
    return f"{len(counts)} {what} ({shown})" + (f"; {empty} of them without an image" if empty else "")
