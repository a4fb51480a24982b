"""The whole state of a picture, as it stands in a link: `a=12&b=7&psi=0.7&mix=0,0,1,1&d=smile:1.5`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from stylegan_lightning.errors import UserError
from stylegan_lightning.latent.codes import LARGEST_SEED
from stylegan_lightning.protocols import NoiseMode

PSI = (-2.0, 2.0)
STRENGTH = (-10.0, 10.0)
NOISE: tuple[NoiseMode, ...] = ("const", "random", "none")
KEYS = ("a", "b", "psi", "cutoff", "mix", "noise", "d")
_POINT = re.compile(r"(?P<seed>[0-9]{1,10})(?:c(?P<label>[0-9]{1,6}))?|w(?P<code>[0-9a-f]{16})")


@dataclass(frozen=True)
class Abilities:
    """What a state may ask of a model."""

    styles: int
    """How many styles reach the picture."""
    c_dim: int
    directions: tuple[str, ...]


@dataclass(frozen=True)
class Point:
    """A seed, of a class where the model has some, or a kept code by its id."""

    seed: int | None = None
    label: int | None = None
    code: str | None = None

    def text(self) -> str:
        """ "12", "12c3" (class 3) or "w" and the id of a code."""
        if self.code is not None:
            return f"w{self.code}"
        return f"{self.seed}" if self.label is None else f"{self.seed}c{self.label}"


@dataclass(frozen=True)
class Picture:
    a: Point
    b: Point | None = None
    mix: tuple[float, ...] = ()
    """How much of B each style takes, 0 to 1; empty: nothing."""
    psi: float = 1.0
    cutoff: int | None = None
    moves: tuple[tuple[str, float], ...] = ()
    """Strengths of directions, sorted by name, without zeros."""
    noise: NoiseMode = "const"

    def text(self) -> str:
        """A query that `parse` turns into this very picture; equal pictures have equal texts."""
        parts = [f"a={self.a.text()}"]
        if self.b is not None:
            parts.append(f"b={self.b.text()}")
        if self.psi != 1:
            parts.append(f"psi={_shortest(self.psi)}")
        if self.cutoff is not None:
            parts.append(f"cutoff={self.cutoff}")
        if self.mix:
            weights = self.mix[:1] if len(set(self.mix)) == 1 else self.mix
            parts.append("mix=" + ",".join(map(_shortest, weights)))
        if self.noise != "const":
            parts.append(f"noise={self.noise}")
        return "&".join([*parts, *(f"d={quote(name, safe='')}:{_shortest(x)}" for name, x in self.moves)])


def parse(items: Sequence[tuple[str, str]], can: Abilities) -> Picture:
    """Keys and values of a query -> the picture. Raises UserError for the first that cannot be."""
    given: dict[str, str] = {}
    for key, value in items:
        if key not in KEYS:
            raise UserError(f"there is no setting {key[:40]!r}; a link has {', '.join(KEYS)}")
        if key in given and key != "d":
            raise UserError(f"{key} is given twice")
        given[key] = value
    if "a" not in given:
        raise UserError("the picture is missing: give a seed, such as a=12")
    b = parse_point("b", given["b"], can) if "b" in given else None
    mix = _mix(given["mix"], can.styles) if "mix" in given else ()
    if any(mix) and b is None:
        raise UserError("mix needs a second picture: give its seed, such as b=7")
    noise = given.get("noise", "const")
    if noise not in NOISE:
        raise UserError(f"noise must be one of {', '.join(NOISE)}; got {noise[:40]!r}")
    return Picture(
        a=parse_point("a", given["a"], can),
        b=b,
        mix=mix if any(mix) else (),
        psi=number("psi", given.get("psi", "1"), *PSI),
        cutoff=whole("cutoff", given["cutoff"], 0, can.styles) if "cutoff" in given else None,
        moves=_moves([value for key, value in items if key == "d"], can.directions),
        noise=noise,
    )


def parse_point(key: str, text: str, can: Abilities) -> Point:
    """A conditional model draws class 0 where none is given. Raises UserError."""
    found = _POINT.fullmatch(text)
    if found is None:
        raise UserError(f"{key} must be a seed, such as 12 (12c3 for its class 3), or a kept code; got {text[:40]!r}")
    if found["code"] is not None:
        return Point(code=found["code"])
    seed, label = int(found["seed"]), found["label"]
    if seed > LARGEST_SEED:
        raise UserError(f"a seed is at most {LARGEST_SEED}; got {seed}")
    if not can.c_dim:
        if label is not None:
            raise UserError(f"this model was trained without classes; {key} must be a seed alone, got {text}")
        return Point(seed=seed)
    if int(label or 0) >= can.c_dim:
        raise UserError(f"the class must be one of 0..{can.c_dim - 1} for this model; got {label}")
    return Point(seed=seed, label=int(label or 0))


def number(key: str, text: str, low: float, high: float) -> float:
    """Raises UserError for what is no number from `low` to `high`, NaN included."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise UserError(f"{key} must be a number from {low:g} to {high:g}; got {text[:40]!r}")
    return value + 0.0  # -0 becomes 0


def whole(key: str, text: str, low: int, high: int) -> int:
    """Raises UserError for what is no whole number from `low` to `high`."""
    value = int(text) if re.fullmatch(r"[0-9]{1,10}", text) else -1
    if not low <= value <= high:
        raise UserError(f"{key} must be a whole number from {low} to {high}; got {text[:40]!r}")
    return value


def _mix(text: str, styles: int) -> tuple[float, ...]:
    weights = text.split(",")
    if len(weights) not in (1, styles):
        raise UserError(f"mix must be one number, or one for each of the {styles} styles; got {len(weights)} numbers")
    values = tuple(number("mix", w, 0, 1) for w in weights)
    return values if len(values) == styles else values * styles


def _moves(texts: Sequence[str], names: Sequence[str]) -> tuple[tuple[str, float], ...]:
    found: dict[str, float] = {}
    for text in texts:
        name, _, strength = text.rpartition(":")
        if name not in names:
            known = ", ".join(names) or "none"
            raise UserError(f"there is no direction {name[:40]!r}; this page has {known}")
        if name in found:
            raise UserError(f"the direction {name} is given twice")
        found[name] = number(f"the strength of {name}", strength, *STRENGTH)
    return tuple(sorted((name, x) for name, x in found.items() if x))


def _shortest(value: float) -> str:
    return repr(value).removesuffix(".0")
