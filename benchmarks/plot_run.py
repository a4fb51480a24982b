"""Curves of one or several runs as a picture: python benchmarks/plot_run.py RUN_DIR [RUN_DIR ...] OUT.png [COLUMN]

COLUMN is one of metrics.csv, by default the distance.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt


def read(run: Path, column: str | None) -> tuple[str, list[float], list[float]]:
    """Name of the column, kimg and values where there are any."""
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    column = column or next(c for c in rows[0] if c.startswith("metric/"))
    points = [(float(r["progress/kimg"]), float(r[column])) for r in rows if r.get(column)]
    return column, [x for x, _ in points], [y for _, y in points]


def main(runs: list[Path], out: Path, column: str | None) -> None:
    figure, axes = plt.subplots(figsize=(7.2, 3.2), layout="constrained")
    for run in runs:
        name, kimg, values = read(run, column)
        axes.plot(kimg, values, "o-", label=run.name)
    axes.set(xlabel="kimg", ylabel=name.removeprefix("metric/"), ylim=(0, None))
    axes.grid(alpha=0.3)
    if len(runs) > 1:
        axes.legend()
    figure.savefig(out, dpi=200)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    column = None if arguments[-1:] and arguments[-1].endswith(".png") else arguments.pop() if arguments else None
    if len(arguments) < 2:
        sys.exit(__doc__)
    main([Path(p) for p in arguments[:-1]], Path(arguments[-1]), column)
