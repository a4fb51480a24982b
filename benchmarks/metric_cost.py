"""What watching a metric costs a training run: throughput with it over throughput without.

    python benchmarks/metric_cost.py RUN_DIR [--ticks 3] [KEY=VALUE ...]

Trains the demo (KEY=VALUE as for train.py) for some ticks and reads its metrics.csv: the steps of a tick and the
measurement after it are timed apart, so both throughputs come from one run. Real features are computed before.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from pathlib import Path

from compare_models import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--ticks", type=int, default=3)
    parser.add_argument("--model", default="stylegan2")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_intermixed_args()
    train(args.model, args.run_dir, 7.0 * args.ticks, args.overrides)
    with open(args.run_dir / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["speed/img_per_s"]]
    ends = [float(r["progress/kimg"]) for r in rows]
    images = [b - a for a, b in itertools.pairwise([0.0, *ends])]
    steps = sum(1000 * n / float(r["speed/img_per_s"]) for n, r in zip(images, rows, strict=True))
    metrics = sum(float(r["speed/metric_s"] or 0) for r in rows)
    total = 1000 * sum(images)
    print(f"{args.model}: {total / steps:.1f} img/s without, {total / (steps + metrics):.1f} with metrics, ", end="")
    print(f"ratio {steps / (steps + metrics):.3f} ({metrics / len(rows):.1f} s for each of {len(rows)} measurements)")


if __name__ == "__main__":
    main()
