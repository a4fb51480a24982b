"""Attributes of generated pictures: read from them by a regressor, or given by seed in a file."""

from __future__ import annotations

import csv
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from stylegan_lightning.errors import UserError
from stylegan_lightning.files import parse_json, read_file
from stylegan_lightning.imaging import to_uint8
from stylegan_lightning.latent.codes import LARGEST_SEED, Progress, sample_w, silent, styles_of
from stylegan_lightning.networks import Generator

BATCH = 16
READABLE = 0.5
"""R^2 on held-out pictures from which a reading is good enough to find and to judge directions by."""
SEED = "seed"
MOST_BYTES = 1 << 28
"""Of a table of attributes."""


class AttributeRegressor(Protocol):
    """uint8 images [N, C, H, W] on any device -> float readings [N, A] on the same one."""

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def deviation(self) -> Tensor:
        """[A]: standard deviation of each attribute over real pictures, the unit in which changes are told."""
        ...

    @property
    def quality(self) -> Tensor:
        """[A]: share of its variance that the reading explains in real pictures kept aside (R^2)."""
        ...

    def __call__(self, images: Tensor, /) -> Tensor: ...


def readable(regressor: AttributeRegressor) -> tuple[str, ...]:
    """The attributes that it reads well enough (`READABLE`). Raises UserError where there are none."""
    names = tuple(n for n, q in zip(regressor.names, regressor.quality.tolist(), strict=True) if q >= READABLE)
    if not names:
        raise UserError("the regressor reads no attribute of pictures of this size and these channels")
    return names


@dataclass(frozen=True)
class Examples:
    """Codes of pictures and their attributes, to find directions in."""

    ws: Tensor
    """[n, w_dim], one w for all styles; or [n, num_ws, w_dim], each style drawn by itself."""
    names: tuple[str, ...]
    values: Tensor
    """[n, A] of any unit; two values are a yes and a no."""
    deviation: Tensor | None = None
    """[A]: standard deviations that count as one step; those of `values` where they are not given."""

    def __post_init__(self) -> None:
        if self.values.shape != (len(self.ws), len(self.names)):
            raise ValueError(f"{len(self.ws)} codes and {len(self.names)} names, but {list(self.values.shape)} values")

    def only(self, names: Sequence[str]) -> Examples:
        """With these attributes. Raises UserError for one that is not there."""
        for name in names:
            if name not in self.names:
                raise UserError(f"there is no attribute {name!r}; there are {', '.join(self.names)}")
        columns = [self.names.index(n) for n in names]
        deviation = None if self.deviation is None else self.deviation[columns]
        return Examples(self.ws, tuple(names), self.values[:, columns], deviation)


# ---------------------------------------------------------------------------------------------- by a regressor


@torch.inference_mode()
def read_codes(G: Generator, regressor: Callable[[Tensor], Tensor], ws: Tensor, progress: Progress = silent) -> Tensor:
    """float [N, A] on the CPU: readings of the pictures of ws [N, num_ws, w_dim], which are drawn in batches."""
    rows = []
    for i in range(0, len(ws), BATCH):
        images = to_uint8(G.synthesis(ws[i : i + BATCH], noise_mode="const").float())
        rows.append(regressor(images).float().cpu())
        progress(min(i + BATCH, len(ws)), len(ws))
    return torch.cat(rows)


def sample_examples(
    G: Generator,
    regressor: AttributeRegressor,
    samples: int = 20_000,
    *,
    seed: int = 0,
    mixed: bool = True,
    label: int | Sequence[float] | None = None,
    progress: Progress = silent,
) -> Examples:
    """Readings of random pictures, without those attributes that the regressor reads badly.

    `mixed`: every style has a w of its own, so that what each style does can be told apart (style mixing, StyleGAN,
    section 3.1, of all layers); of a model with one style it changes nothing. Raises UserError where nothing can be
    read, and for a number of samples below 2.
    """
    if samples < 2:
        raise UserError(f"directions are found from many pictures; got {samples} samples")
    names = readable(regressor)
    w = sample_w(G, samples, seed, label)
    ws = w[:, None].expand(-1, G.num_ws, -1)
    mixed = mixed and G.num_ws > 1
    if mixed:
        ws = w[_shuffles(samples, int(G.num_ws), seed, int(G.c_dim)).to(w.device)]
    values = read_codes(G, regressor, ws, progress)
    kept = [regressor.names.index(n) for n in names]
    return Examples(ws if mixed else w, names, values[:, kept], regressor.deviation.cpu()[kept])


def _shuffles(count: int, styles: int, seed: int, classes: int) -> Tensor:
    """[count, styles]: a permutation of the rows for each style, which leaves every row in its class."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.arange(count)
    columns = []
    for _ in range(styles):
        column = torch.empty_like(rows)
        for k in range(max(classes, 1)):
            own = rows[k :: max(classes, 1)]
            column[own] = own[torch.randperm(len(own), generator=generator)]
        columns.append(column)
    return torch.stack(columns, 1)


# ------------------------------------------------------------------------------------------------ from a file


def examples_of_file(G: Generator, path: Path, label: int | Sequence[float] | None = None) -> Examples:
    """Attributes of the pictures of seeds, from a table.

    A .csv with a header line, or a .json with a list of rows {"seed": 0, "smile": 0.8, "glasses": false}: a column
    `seed` and any others, whose values are numbers, true or false. The pictures are those of `codes_in_turn`, not
    truncated. Raises UserError for a file that is something else, and for what is no such value.
    """
    rows = _rows(path)
    names = tuple(name for name in rows[0] if name != SEED)
    if SEED not in rows[0] or not names:
        raise UserError(
            f"{path} must have a column {SEED!r} and at least one attribute; it has {', '.join(map(str, rows[0]))}"
        )
    values, seeds = [], []
    for number, row in enumerate(rows, 1):
        if set(row) != {SEED, *names}:
            raise UserError(
                f"{path}: row {number} must have the columns of the first; it has {', '.join(map(str, row))}"
            )
        seeds.append(_seed(path, number, row[SEED]))
        values.append([_value(path, number, name, row[name]) for name in names])
    w = codes_in_turn(G, seeds, label)[:, 0]
    return Examples(w, names, torch.tensor(values))


def codes_in_turn(
    G: Generator, seeds: Sequence[int], label: int | Sequence[float] | None = None, psi: float = 1.0
) -> Tensor:
    """ws [N, num_ws, w_dim] of seeds as `generate --dataset` draws them: without a label of class seed mod c_dim."""
    if label is not None or not G.c_dim:
        return styles_of(G, seeds, label=label, psi=psi)
    return torch.cat([styles_of(G, [s], label=s % int(G.c_dim), psi=psi) for s in seeds])


def _rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix.lower() not in (".csv", ".json"):
        raise UserError(f"attributes are `faces`, or a .csv or .json file; got {path}")
    try:
        text = read_file(path.expanduser(), MOST_BYTES).decode("utf-8-sig")
        if path.suffix.lower() == ".json":
            rows = parse_json(text, f"{path} is no table of attributes: it")
        else:
            rows = list(csv.DictReader(text.splitlines()))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path} is no table of attributes: {error}") from None
    if not isinstance(rows, list) or len(rows) < 2 or not all(isinstance(row, dict) and row for row in rows):
        raise UserError(f'{path} must be a list of at least two rows such as {{"{SEED}": 0, "smile": 0.8}}')
    return rows


def _seed(path: Path, number: int, given: Any) -> int:
    text = str(given)
    if text.isdecimal() and len(text) <= 20 and int(text) <= LARGEST_SEED:
        return int(text)
    raise UserError(f"{path}: row {number}: a seed is a whole number of 0..{LARGEST_SEED}; got {reprlib.repr(given)}")


def _value(path: Path, number: int, name: str, given: Any) -> float:
    words = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}
    try:
        value = words.get(str(given).strip().lower())
        value = float(given) if value is None else value
    except (TypeError, ValueError, OverflowError):
        value = float("nan")
    if not -1e30 < value < 1e30:
        raise UserError(f"{path}: row {number}: {name} must be a number, true or false; got {reprlib.repr(given)}")
    return value
