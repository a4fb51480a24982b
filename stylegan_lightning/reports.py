"""Results of evaluations as tables, plots and files."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from stylegan_lightning.errors import UserError
from stylegan_lightning.files import is_number, parse_json, read_file, replacing, safe_name
from stylegan_lightning.metrics.value import MetricValue, check_comparable

Record = dict[str, Any]
RESULTS = "results.json"
MOST_BYTES = 1 << 28
"""Of it; it has some kilobytes for each value, of which every class may have its own."""


def read_records(path: Path) -> list[Record]:
    """Of an earlier evaluation: its results.json, or the folder that holds it. Raises UserError."""
    path = path / RESULTS if path.is_dir() else path
    try:
        content = parse_json(read_file(path, MOST_BYTES), path)
        records = _dict(content, "the file").get("results")
        if not isinstance(records, list):
            raise ValueError("results is no list")
        return [_record(record) for record in records]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} holds no results of evaluate.py ({error})") from error


def _record(content: Any) -> Record:
    record = _checked(content, _OF_RECORD, "a result")
    record["metrics"] = [_checked(metric, _OF_METRIC, "a metric") for metric in record["metrics"]]
    if any((m["low"] is None) != (m["high"] is None) for m in record["metrics"]):
        raise ValueError("low and high are ends of one interval")
    return record


_text = lambda value: isinstance(value, str)  # noqa: E731
_count = lambda value: type(value) is int and value >= 0  # noqa: E731
_any_number = lambda value: is_number(value, finite=False)  # noqa: E731
_NEEDED = object()
_OF_RECORD: dict[str, tuple[Callable[[Any], bool], Any]] = {
    "checkpoint": (_text, _NEEDED),
    "kimg": (is_number, None),
    "model": (_text, ""),
    "data": (_text, ""),
    "truncation_psi": (is_number, None),
    "metrics": (lambda value: isinstance(value, list), _NEEDED),
}
_OF_METRIC: dict[str, tuple[Callable[[Any], bool], Any]] = {
    **dict.fromkeys(("metric", "preset", "comparable"), (_text, _NEEDED)),
    **dict.fromkeys(("value", "truncation_psi"), (_any_number, _NEEDED)),
    **dict.fromkeys(("num_real", "num_fake"), (_count, _NEEDED)),
    "seed": (lambda value: type(value) is int, _NEEDED),
    **dict.fromkeys(("extractor", "weights_hash", "resize"), (_text, "")),
    **dict.fromkeys(("std", "low", "high", "level"), (_any_number, None)),
    "note": (_text, None),
}
"""What a value must be, and what it is where there is none."""


def _checked(content: Any, fields: dict[str, tuple[Callable[[Any], bool], Any]], what: str) -> dict[str, Any]:
    """With defaults. Raises ValueError."""
    found = dict(_dict(content, what))
    for name, (fits, default) in fields.items():
        value = found.setdefault(name, default)
        if value is _NEEDED:
            raise ValueError(f"{what} has no {name}")
        if not fits(value) and (value is not None or default is not None):
            raise ValueError(f"{name} of {what} is of another kind")
    return found


def _dict(content: Any, what: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{what} is no object")
    return content


# ---------------------------------------------------------------------------------------------------- tables


def table(records: Sequence[Record]) -> str:
    """Markdown, one row a checkpoint; below it the classes, and what a reader of the values must know."""
    whole = [[m for m in r["metrics"] if not _of_class(m)] for r in records]
    names = list(dict.fromkeys(m["metric"] for metrics in whole for m in metrics))
    psi = len({r["truncation_psi"] for r in records} - {None}) > 1
    header = ["checkpoint", "kimg", *(["psi"] if psi else []), *names, *(["preset", "reals", "fakes"] if names else [])]
    rows = []
    for record, metrics in zip(records, whole, strict=True):
        values = {m["metric"]: m for m in metrics}
        cells = [_number(values[n]) if n in values else "–" for n in names]
        rows.append([*_start(record, psi), *cells, *(_numbers(metrics) if names else [])])
    tables = [markdown(header, rows)]
    classes = [
        [*_start(r), m["metric"], _number(m), *_numbers([m])] for r in records for m in r["metrics"] if _of_class(m)
    ]
    if classes:
        tables.append(markdown(["checkpoint", "kimg", "metric", "value", "preset", "reals", "fakes"], classes))
    notes = dict.fromkeys(f"{m['metric']}: {m['note']}" for metrics in whole for m in metrics if m["note"])
    return "\n\n".join([*tables, *notes])


def _start(record: Record, psi: bool = False) -> list[str]:
    kimg = "–" if record["kimg"] is None else f"{record['kimg']:g}"
    shown = [f"{record['truncation_psi']:g}" if record["truncation_psi"] is not None else "–"] if psi else []
    return [record["checkpoint"], kimg, *shown]


def _number(metric: dict[str, Any]) -> str:
    value = f"{metric['value']:.3f}" if abs(metric["value"]) >= 0.1 or not metric["value"] else f"{metric['value']:.2e}"
    if metric["low"] is not None:
        return f"{value} [{metric['low']:.3f}, {metric['high']:.3f}]"
    return value if metric["std"] is None else f"{value} ± {metric['std']:.2g}"


def _of_class(metric: dict[str, Any]) -> bool:
    return "/class/" in metric["metric"]


def _numbers(metrics: Sequence[dict[str, Any]]) -> list[str]:
    """Presets and numbers of images; several where the metrics differ in them."""
    columns = ([m["preset"] for m in metrics], [m["num_real"] or "" for m in metrics], [m["num_fake"] for m in metrics])
    return [", ".join(dict.fromkeys(str(v) for v in column if v != "")) or "–" for column in columns]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    line = lambda cells: "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"  # noqa: E731
    return "\n".join([line(header), line(["-" * w for w in widths]), *map(line, rows)])


def rows_of_values(records: Sequence[Record]) -> str:
    """CSV, one row a value, with the choices that decide it."""
    text = io.StringIO()
    columns = ["checkpoint", "kimg", "model", "data", *(f.name for f in dataclasses.fields(MetricValue))]
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({**record, **metric} for record in records for metric in record["metrics"])
    return text.getvalue()


# ---------------------------------------------------------------------------------------------------- plots


def plot_over_kimg(records: Sequence[Record], out_dir: Path) -> list[Path]:
    """A picture for each metric that was measured at two or more points of a run, a line a run."""
    files = []
    for name in dict.fromkeys(m["metric"] for r in records for m in r["metrics"] if not _of_class(m)):
        lines: dict[str, list[tuple[float, dict[str, Any]]]] = {}
        for record in records:
            value = next((m for m in record["metrics"] if m["metric"] == name), None)
            if value is not None and record["kimg"] is not None:
                lines.setdefault(run_name(Path(record["checkpoint"])), []).append((record["kimg"], value))
        if all(len({kimg for kimg, _ in points}) < 2 for points in lines.values()):
            continue

        def draw(axes: Any, lines: Any = lines, name: str = name) -> None:
            for run, points in lines.items():
                points = sorted(points, key=lambda p: p[0])
                x, y = [p[0] for p in points], [p[1]["value"] for p in points]
                axes.plot(x, y, "o-", markersize=4, label=run)
                if all(p[1]["low"] is not None for p in points):
                    low, high = ([p[1][end] for p in points] for end in ("low", "high"))
                    axes.fill_between(x, low, high, alpha=0.2)
            axes.set(xlabel="kimg", ylabel=name)
            axes.grid(alpha=0.3)
            if len(lines) > 1:
                axes.legend()

        files.append(out_dir / f"{safe_name(f'curve_{name}')}.png")
        save_plot(files[-1], draw)
    return files


def run_name(checkpoint: Path) -> str:
    folder = checkpoint.parent
    return (folder.parent if folder.name == "checkpoints" else folder).name


def plot_trade_off(records: Sequence[Record], path: Path) -> bool:
    """Values over truncation psi, and recall over precision where both were measured; whether there was anything."""
    measured = sorted((r for r in records if r["truncation_psi"] is not None), key=lambda r: r["truncation_psi"])
    if len({r["truncation_psi"] for r in measured}) < 2:
        return False
    names = list(dict.fromkeys(m["metric"] for r in measured for m in r["metrics"] if not _of_class(m)))
    pairs = [(p, p.replace("precision", "recall")) for p in names if p.startswith("precision")]
    pairs = [(p, r) for p, r in pairs if r in names]
    checkpoints = list(dict.fromkeys(r["checkpoint"] for r in measured))

    def draw(axes: Any) -> None:
        panels = axes if isinstance(axes, list) else [axes]
        for checkpoint in checkpoints:
            rows = [r for r in measured if r["checkpoint"] == checkpoint]
            values = [{m["metric"]: m["value"] for m in r["metrics"]} for r in rows]
            psi = [r["truncation_psi"] for r in rows]
            label = run_name(Path(checkpoint))
            for panel, name in zip(panels, names, strict=False):
                panel.plot(psi, [v.get(name) for v in values], "o-", markersize=4, label=label)
                panel.set(xlabel="truncation psi", ylabel=name)
            for panel, (precision, recall) in zip(panels[len(names) :], pairs, strict=True):
                x, y = [v.get(precision) for v in values], [v.get(recall) for v in values]
                panel.plot(x, y, "o-", markersize=4, label=label)
                for xi, yi, p in zip(x, y, psi, strict=True):
                    panel.annotate(f"{p:g}", (xi, yi), textcoords="offset points", xytext=(5, 5), fontsize=8)
                panel.set(xlabel=precision, ylabel=recall)
        for panel in panels:
            panel.grid(alpha=0.3)
            panel.locator_params(axis="x", nbins=6)
        if len(checkpoints) > 1:
            panels[0].legend()

    save_plot(path, draw, panels=len(names) + len(pairs))
    return True


def save_plot(path: Path, draw: Callable[[Any], None], panels: int = 1) -> None:
    """`draw` gets the axes, a list where there are several; the file is whole or absent."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 if panels == 1 else 4.2 * min(panels, 3), 3.6 * -(-panels // 3)), layout="constrained")
    columns = min(panels, 3)
    axes = [figure.add_subplot(-(-panels // columns), columns, i + 1) for i in range(panels)]
    draw(axes[0] if panels == 1 else axes)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


class SweepReport(Callback):
    """After `evaluate.py --multirun`: one table of all jobs and, where truncation differs, the trade-off curve."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        files = sorted(folder.glob(f"*/{RESULTS}"), key=lambda p: (len(p.parent.name), p.parent.name))
        records = [record for file in files for record in read_records(file)]
        if not records:
            return
        check_comparable(value for record in records for value in record["metrics"])
        write_json(folder / RESULTS, {"results": records})
        write_text(folder / "results.csv", rows_of_values(records))
        write_text(folder / "results.md", table(records) + "\n")
        print(f"\n{table(records)}")
        picture = folder / "trade_off.png"
        print(f"all jobs: {folder}/results.md" + (f", {picture}" if plot_trade_off(records, picture) else ""))


# ---------------------------------------------------------------------------------------------------- files


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)
