"""python -m stylegan_lightning.dashboard"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from stylegan_lightning.dashboard import compare, workspace
from stylegan_lightning.dashboard.page import page
from stylegan_lightning.dashboard.runs import read_runs
from stylegan_lightning.errors import UserError
from stylegan_lightning.files import printable, replacing

_EXAMPLES = """\
examples
  python -m stylegan_lightning.dashboard runs                       every run below runs/ -> report.html
  python -m stylegan_lightning.dashboard multirun/NAME --metric fid a sweep, ranked by metric/fid
  python -m stylegan_lightning.dashboard runs/A runs/B --out ab.html
  python -m stylegan_lightning.dashboard --wandb ENTITY/PROJECT     a view of the project in Weights & Biases
"""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m stylegan_lightning.dashboard",
        description="Compare training runs: one HTML page with a table, curves, samples and what seems to matter. "
        "It needs no server, no network and no account.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("runs", nargs="*", type=Path, metavar="RUN_OR_FOLDER", help="runs, or folders that hold them at any depth")
    add("--out", type=Path, default=Path("report.html"), metavar="FILE", help="default: report.html")
    add("--metric", help="what to rank by, as metric/fid or fid; default: what best.ckpt follows in most runs")
    add("--title", help="default: the names of the folders")
    add(
        "--wandb",
        metavar="ENTITY/PROJECT",
        help="save a view of this project in Weights & Biases as well; without RUN_OR_FOLDER, only that",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    given = parser().parse_args(arguments)
    try:
        compare_runs(given)
    except UserError as error:
        print("error: " + printable(str(error), keep="\n"), file=sys.stderr)
        raise SystemExit(2) from None


def compare_runs(given: argparse.Namespace) -> None:
    if not given.runs and not given.wandb:
        raise UserError("give run directories, or folders that hold them; --help has examples")
    place = workspace.checked(given.wandb) if given.wandb else None
    runs = read_runs(given.runs) if given.runs else []
    if runs:
        metric = compare.choose_metric(runs, given.metric)
        title = given.title or f"Runs in {', '.join(dict.fromkeys(p.resolve().name for p in given.runs))}"
        save_text(given.out, page(runs, metric, title))
        print(f"{len(runs)} run{'s' * (len(runs) > 1)}: {given.out}")
    if place:
        runs = runs or workspace.online_runs(*place)
        metric = compare.choose_metric(runs, given.metric)
        print(workspace.save(workspace.build(*place, given.title or "Comparison of runs", runs, metric)))


def save_text(path: Path, text: str) -> None:
    """Whole or not at all. Raises UserError where it cannot be written."""
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}. Give another place with --out") from error


if __name__ == "__main__":
    main()
