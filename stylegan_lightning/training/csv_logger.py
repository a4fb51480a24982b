"""metrics.csv: one row a tick, whole after every write, cut back to the checkpoint on resume."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

KIMG = "progress/kimg"


class MetricsCSV(Logger):
    """Rows keyed by `progress/kimg`; new columns may appear at any time.

    `start_kimg` is where the run (re)starts: later rows, left by a run that was killed after its last
    checkpoint, are dropped.
    """

    def __init__(self, path: Path, start_kimg: float = 0.0) -> None:
        super().__init__()
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if path.exists() and start_kimg > 0:
            with open(path, newline="") as file:
                self.rows = [r for r in csv.DictReader(file) if float(r[KIMG]) <= start_kimg + 1e-9]

    name = property(lambda self: "csv")
    version = property(lambda self: 0)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The resolved configuration has a file of its own."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append(dict(metrics))
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(self.path.name + ".tmp")
        with open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(self.rows)
        os.replace(temporary, self.path)
