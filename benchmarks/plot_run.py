"""Curves of one or several runs as a picture: python benchmarks/plot_run.py RUN_DIR [RUN_DIR ...] OUT.png"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, SCALE = 720, 320, 2
LEFT, RIGHT, TOP, BOTTOM = 60, 20, 36, 44
COLOURS = ("#2a6fdb", "#d1495b", "#2e8b57", "#8a5a9e")


def read(run: Path, column: str) -> list[tuple[float, float]]:
    with open(run / "metrics.csv", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r.get(column)]
    return [(float(r["progress/kimg"]), float(r[column])) for r in rows]


def metric_column(run: Path) -> str:
    with open(run / "metrics.csv", newline="") as file:
        return next(c for c in csv.DictReader(file).fieldnames or [] if c.startswith("metric/"))


def nice_step(top: float) -> float:
    """1, 2 or 5 times a power of ten, four to eight steps to the top."""
    power = 10.0 ** (len(str(int(top))) - 1)
    return next(s for s in (power / 5, power / 2, power, 2 * power) if top / s <= 8)


def main(runs: list[Path], out: Path) -> None:
    column = metric_column(runs[0])
    curves = [read(run, column) for run in runs]
    right, top = max(x for c in curves for x, _ in c), max(y for c in curves for _, y in c) * 1.05
    image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=13 * SCALE)

    def at(x: float, y: float) -> tuple[float, float]:
        px = LEFT + x / right * (WIDTH - LEFT - RIGHT)
        py = HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM)
        return px * SCALE, py * SCALE

    for step, limit, horizontal in ((nice_step(top), top, True), (nice_step(right), right, False)):
        value = 0.0
        while value <= limit:
            a, b = (at(0, value), at(right, value)) if horizontal else (at(value, 0), at(value, 0))
            draw.line([a, b], "#e4e4e4", SCALE)
            anchor, offset = ("rm", (-8 * SCALE, 0)) if horizontal else ("mt", (0, 8 * SCALE))
            draw.text((a[0] + offset[0], a[1] + offset[1]), f"{value:g}", "#444444", font, anchor)
            value += step
    name = column.removeprefix("metric/")
    draw.text((LEFT * SCALE, 10 * SCALE), f"{name} of G_ema (lower is better)", "#222222", font)
    draw.text(((WIDTH - RIGHT) * SCALE, (HEIGHT - 20) * SCALE), "kimg", "#444444", font, "rm")
    for curve, colour in zip(curves, COLOURS, strict=False):
        points = [at(x, y) for x, y in curve]
        draw.line(points, colour, 3 * SCALE, joint="curve")
        for x, y in points:
            draw.ellipse([x - 6, y - 6, x + 6, y + 6], colour)
    image.save(out, optimize=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main([Path(p) for p in sys.argv[1:-1]], Path(sys.argv[-1]))
