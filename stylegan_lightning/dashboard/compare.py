"""What differs between runs, which is best, and what seems to matter."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stylegan_lightning.dashboard.runs import Run
from stylegan_lightning.errors import UserError, chosen
from stylegan_lightning.files import is_number

MISSING = object()
_HIGHER_IS_BETTER = re.compile(r"metric/(precision|recall|density|coverage|is|eq[a-z]*)(_|/|$)")
_NOT_OF_THE_MODEL = re.compile(
    r"(run_dir|run_id|name|resume|paths|environment|logger|metrics\.weights)(\.|$)"
    r"|.*(^|[._])(dir|path|root|num_workers)$"
)
_COPIES = re.compile(
    r"(model\.(generator|discriminator|[dg]_penalties)|schedule\.object|data\.source|augment\.(pipe|strength))\."
)
"""Parts that a configuration builds out of its other keys."""
_KIND = re.compile(r"\w+\.name|.*\._target_|.*\.kind")
_TARGETS = {"schedule.object._target_": "schedule"}

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Best:
    value: float
    kimg: float | None


@dataclass(frozen=True)
class Importance:
    key: str
    rho: float
    runs: int


def lower_is_better(column: str) -> bool:
    return not _HIGHER_IS_BETTER.match(column)


def choose_metric(runs: Sequence[Run], wanted: str | None = None) -> str | None:
    """The column to rank by: `wanted`, or what most runs kept their best checkpoint by. Raises UserError."""
    columns = Counter(column for run in runs for column in run.curves if column.startswith("metric/"))
    columns.update(run.result.metric for run in runs if run.result.metric)
    if wanted is not None:
        known = dict.fromkeys(sorted(columns))
        full = wanted if wanted.startswith("metric/") else f"metric/{wanted}"
        if not known:
            raise UserError(f"none of these runs has measured a metric, so not {wanted} either")
        chosen("measured metric", known, full)
        return full
    followed = Counter(run.result.metric for run in runs if run.result.metric)
    lower = Counter({c: n for c, n in columns.items() if lower_is_better(c)})
    ranking = (followed or lower or columns).most_common(1)
    return ranking[0][0] if ranking else None


def best(run: Run, metric: str | None) -> Best | None:
    """Of the curve, without the untrained network; of result.json where there is no curve."""
    curve = run.curves.get(metric or "", [])
    if curve := [point for point in curve if point[0] > 0] or curve:
        kimg, value = (min if lower_is_better(metric or "") else max)(curve, key=lambda point: point[1])
        return Best(value, kimg)
    if metric and run.result.metric == metric and run.result.best_value is not None:
        return Best(run.result.best_value, run.result.best_kimg)
    return None


def ranked(runs: Iterable[Run], metric: str | None) -> list[Run]:
    """Best first; runs without a value last."""

    def rank(run: Run) -> float:
        found = best(run, metric)
        return math.inf if found is None else found.value if lower_is_better(metric or "") else -found.value

    return sorted(runs, key=rank)


# ---------------------------------------------------------------------------------------------------- keys


def swept_keys(runs: Sequence[Run]) -> list[str]:
    """`differing_keys` of the runs that came as far as a whole configuration."""
    whole = [run.config for run in runs if any(key.startswith("schedule.") for key in run.config)]
    return differing_keys(whole, [o for run in runs for o in run.result.overrides])


def differing_keys(configs: Sequence[Config], overrides: Iterable[str] = ()) -> list[str]:
    """Keys whose values differ, in the order of the configurations.

    Left out: places, names and caches; copies that a configuration makes of other keys, unless `overrides` name
    them; keys that only some runs have because they have another model, loss, augmentation or schedule.
    """
    named = {o.lstrip("+~").partition("=")[0] for o in overrides}
    keys = [
        key
        for key in dict.fromkeys(key for config in configs for key in config)
        if not _NOT_OF_THE_MODEL.match(key) and (not _COPIES.match(key) or key in named or key in _TARGETS)
    ]
    return [k for k in keys if len({repr(value(c, k)) for c in configs}) > 1 and not _implied(configs, k)]


def _implied(configs: Sequence[Config], key: str) -> bool:
    """Whether some configurations lack `key`, and its group's choice of a kind explains every value."""
    if key in _TARGETS or all(key in c for c in configs):
        return False
    top = key.partition(".")[0] + "."
    values: dict[str, set[str]] = {}
    for c in configs:
        kind = repr([(k, v) for k, v in c.items() if k.startswith(top) and _KIND.fullmatch(k)])
        values.setdefault(kind, set()).add(repr(value(c, key)))
    return len(values) > 1 and all(len(v) == 1 for v in values.values())


def value(config: Config, key: str) -> Any:
    """MISSING where the key is not there; classes by their last name."""
    found = config.get(key, config.get(key.removesuffix(".name"), MISSING))  # augment=ada is all that a failed run has
    return found.rpartition(".")[2] if key.endswith("_target_") and isinstance(found, str) else found


def shown_key(key: str) -> str:
    """As on the command line: what chooses a part has the name of that part."""
    return _TARGETS.get(key, key.removesuffix("._target_").removesuffix(".name"))


def other_data(runs: Sequence[Run]) -> list[str]:
    """Keys that differ and decide what the metric means: other images, or another way of measuring."""
    configs = [r.config for r in runs if r.curves]
    decisive = re.compile(r"data\.(name|path|seed|resolution|channels|size|classes|crop|max_images|split)|metrics\..*")
    no_matter = re.compile(r".*(every_ticks|monitor|per_class)|metrics\.weights.*")
    keys = dict.fromkeys(k for c in configs for k in c if decisive.fullmatch(k) and not no_matter.fullmatch(k))
    return [k for k in keys if len({repr(c[k]) for c in configs if k in c}) > 1]


# ---------------------------------------------------------------------------------------------------- importance


def importance(runs: Sequence[Run], keys: Iterable[str], metric: str | None) -> list[Importance]:
    """Spearman's rank correlation of each numeric key with the best value, the strongest first."""
    found = []
    for key in keys:
        pairs = [(r.config[key], b.value) for r in runs if is_number(r.config.get(key)) and (b := best(r, metric))]
        x, y = ([float(p[i]) for p in pairs] for i in (0, 1))
        if len(pairs) >= 3 and len(set(x)) > 1 and len(set(y)) > 1 and not key.endswith("seed"):
            found.append(Importance(key, spearman(x, y), len(pairs)))
    return sorted(found, key=lambda i: -abs(i.rho))


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    from scipy.stats import rankdata

    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])
