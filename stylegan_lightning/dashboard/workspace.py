"""A saved view of a Weights & Biases project, through the package wandb-workspaces."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from stylegan_lightning.dashboard import compare
from stylegan_lightning.dashboard.runs import KIMG, Run, flat
from stylegan_lightning.errors import UserError

T = TypeVar("T")
_LOCAL = "The local report needs none of this: give folders of runs, without --wandb"
MOST_RUNS = 200
"""Of a project, from which a view learns what there is to show."""


def checked(place: str) -> tuple[str, str]:
    """Entity and project. Raises UserError where `place` is not both, or the package is not there."""
    entity, _, project = place.partition("/")
    if not entity or not project or "/" in project:
        raise UserError(f"--wandb takes ENTITY/PROJECT, as in the address of the project; got {place!r}")
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise UserError(
            '--wandb needs the package wandb-workspaces: pip install "stylegan_lightning[dashboards]". ' + _LOCAL
        )
    return entity, project


def best_of(metric: str) -> str:
    """Where the summary of a W&B run has the best value of metric/NAME."""
    return metric.replace("metric/", "best/", 1)


def build(entity: str, project: str, name: str, runs: Sequence[Run], metric: str | None) -> Any:
    """The view, unsaved, of what `runs` logged and of the keys in which they differ."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    columns = sorted({c for run in runs for c in run.curves}, key=lambda c: (c != metric, c))
    metrics = [c for c in columns if c.startswith("metric/")]
    rest: dict[str, list[Any]] = {}
    for column in columns:
        if column.startswith(("loss/", "logits/", "penalty/", "augment/", "speed/")):
            rest.setdefault(column.split("/")[0], []).append(column)
    lowest = {m: compare.lower_is_better(m) for m in metrics}

    scalars = [
        wr.ScalarChart(
            title=f"best {m}", metric=wr.SummaryMetric(best_of(m)), groupby_aggfunc="min" if lowest[m] else "max"
        )
        for m in metrics
    ]
    curves = [wr.LinePlot(title=m, x=KIMG, y=[m], title_x="kimg", max_runs_to_show=20) for m in metrics]
    pictures = [
        wr.MediaBrowser(
            title="samples", media_keys=["samples/fakes"], mode="grid", grid_x_axis="step", grid_y_axis="run"
        ),
        wr.MediaBrowser(title="real images", media_keys=["samples/reals"], num_columns=1),
    ]
    axes = [
        wr.ParallelCoordinatesPlotColumn(metric=wr.Config(k), display_name=compare.shown_key(k))
        for k in compare.swept_keys(runs)
    ]
    parameters: list[Any] = [wr.RunComparer(diff_only="split")]
    if metric is not None:
        goal = wr.SummaryMetric(best_of(metric))
        axes.append(wr.ParallelCoordinatesPlotColumn(metric=goal, inverted=lowest[metric]))
        parallel = wr.ParallelCoordinatesPlot(title=f"configuration and best {metric}", columns=axes)
        parameters = [parallel, wr.ParameterImportancePlot(with_respect_to=goal.name), *parameters]
    training = [
        wr.LinePlot(title=group, x=KIMG, y=of_group, title_x="kimg", max_runs_to_show=20)
        for group, of_group in rest.items()
    ]
    parts: dict[str, list[Any]] = {
        "Best": scalars,
        "Metrics": curves,
        "Samples": pictures,
        "Parameters": parameters,
        "Training": training,
    }
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[ws.Section(name=k, panels=v, is_open=k != "Training") for k, v in parts.items() if v],
        settings=ws.WorkspaceSettings(x_axis=KIMG, max_runs=20),
        runset_settings=ws.RunsetSettings(**({} if metric is None else _best_first(metric))),
    )


def _best_first(metric: str) -> dict[str, Any]:
    import wandb_workspaces.expr as expr

    order = expr.Ordering(expr.Summary(best_of(metric)), ascending=compare.lower_is_better(metric))
    return {"order": [order], "pinned_columns": ["run:displayName", f"summary:{best_of(metric)}"]}


def online_runs(entity: str, project: str) -> list[Run]:
    """Configurations and columns, without values, of the latest runs of a project. Raises UserError."""

    def ask() -> list[Run]:
        import wandb

        every = wandb.Api().runs(f"{entity}/{project}", order="-created_at", lazy=False)
        found = itertools.islice(every, MOST_RUNS)
        return [Run(Path(), r.name, flat(dict(r.config)), {c: [] for c in dict(r.summary)}) for r in found]

    runs = _online(ask, entity, project)
    if not runs:
        raise UserError(f"the project {entity}/{project} has no runs; train with logger.mode=online, or `wandb sync`")
    return runs


def save(workspace: Any) -> str:
    """The address of the view. Raises UserError."""
    return _online(lambda: workspace.save().url, workspace.entity, workspace.project)


def _online(act: Callable[[], T], entity: str, project: str) -> T:
    import wandb

    try:
        return act()
    except (wandb.errors.Error, OSError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(
            f"Weights & Biases, {entity}/{project}: {reason}. A view needs `wandb login`, a network and a project "
            f"that you may change. {_LOCAL}"
        ) from error
