"""`data=faces`: procedural portraits whose every factor is known."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from stylegan_lightning.data.face_painter import paint_face
from stylegan_lightning.errors import UserError

DRAWING_VERSION = 1
"""Part of the fingerprint; raise it with any change that moves a pixel or a sampled factor."""


class Factor(NamedTuple):
    low: float
    high: float
    meaning: str


FACTORS: dict[str, Factor] = {
    "yaw": Factor(-0.6, 0.6, "radians; positive turns the face to the right of the picture"),
    "pitch": Factor(-0.28, 0.28, "radians; positive looks up"),
    "roll": Factor(-0.2, 0.2, "radians; positive tilts the head to the right of the picture"),
    "face_width": Factor(0, 1, "narrow to wide"),
    "jaw": Factor(0, 1, "pointed to square"),
    "skin_tone": Factor(0, 1, "light to dark"),
    "skin_undertone": Factor(-1, 1, "cool to warm"),
    "hair_length": Factor(0, 1, "below 0.03 bald, to 0.3 short, above 0.5 over the ears, 1 past the shoulders"),
    "hair_volume": Factor(0, 1, "flat to full"),
    "hair_fringe": Factor(0, 1, "open forehead to fringe at the brows"),
    "hair_part": Factor(-1, 1, "parting at the left to the right of the picture"),
    "hair_curl": Factor(0, 1, "straight to curly"),
    "hair_melanin": Factor(0, 1, "platinum to black"),
    "hair_redness": Factor(0, 1, "ash to red"),
    "eye_size": Factor(0, 1, "small to large"),
    "eye_spacing": Factor(0, 1, "close to wide apart"),
    "eye_open": Factor(0, 1, "sleepy to wide open"),
    "iris": Factor(0, 1, "blue, green, hazel, brown, dark"),
    "brow_angle": Factor(-1, 1, "outer ends low (worried) to high (stern)"),
    "brow_thickness": Factor(0, 1, "thin to thick"),
    "brow_height": Factor(0, 1, "low to raised"),
    "nose_size": Factor(0, 1, "small to large"),
    "smile": Factor(-1, 1, "frown to smile"),
    "mouth_open": Factor(0, 1, "closed to open"),
    "lips": Factor(0, 1, "thin to full"),
    "beard": Factor(0, 1, "none to full"),
    "blush": Factor(0, 1, "none to rosy cheeks"),
    "freckles": Factor(0, 1, "none to many"),
    "glasses": Factor(0, 1, "worn above 0.5"),
    "frame_shape": Factor(0, 1, "round to rectangular frames"),
    "frame_size": Factor(0, 1, "small to large frames"),
    "frame_hue": Factor(0, 1, "hue of the frames"),
    "light_azimuth": Factor(-1.2, 1.2, "radians; positive lights from the right of the picture"),
    "light_elevation": Factor(-0.1, 1.0, "radians; positive lights from above"),
    "background_hue": Factor(0, 1, "hue of the background"),
    "background_lightness": Factor(0, 1, "dark to light background"),
    "clothes_hue": Factor(0, 1, "hue of the clothes"),
    "clothes_lightness": Factor(0, 1, "dark to light clothes"),
}


class Classes(NamedTuple):
    """Four classes from two factors; a face has a property when the factor lies above its threshold."""

    names: tuple[str, str, str, str]
    """Neither property, the second alone, the first alone, both."""
    first: tuple[str, float]
    second: tuple[str, float]

    def column(self, factors: Mapping[str, np.ndarray]) -> np.ndarray:
        """int64 [N]: the class of each face."""
        (first, a), (second, b) = self.first, self.second
        return 2 * (factors[first] > a) + (factors[second] > b)


CLASSES: dict[str, Classes] = {
    "glasses_smile": Classes(("plain", "smile", "glasses", "glasses_smile"), ("glasses", 0.5), ("smile", 0.2)),
    "hair": Classes(
        ("short_fair", "short_dark", "long_fair", "long_dark"), ("hair_length", 0.5), ("hair_melanin", 0.5)
    ),
}

# How a uniform draw in [0, 1] is bent before it is stretched over the factor's range; uniform when not named.
_SHAPES: dict[str, tuple[list[float], list[float]]] = {
    name: ([float(x) for x in xs.split()], [float(y) for y in ys.split()])
    for name, xs, ys in (
        ("yaw", "0 .25 .75 1", "0 .32 .68 1"),
        ("pitch", "0 .2 .8 1", "0 .35 .65 1"),
        ("roll", "0 .2 .8 1", "0 .38 .62 1"),
        ("hair_length", "0 .07 .071 .50 1", "0 .03 .10 .34 1"),
        ("hair_redness", "0 .7 1", "0 .3 1"),
        ("eye_open", "0 .1 1", "0 .3 1"),
        ("smile", "0 .25 1", "0 .45 1"),
        ("mouth_open", "0 .45 1", "0 .05 1"),
        ("beard", "0 .74 .75 1", "0 0 .15 1"),
        ("freckles", "0 .7 1", "0 0 1"),
        ("glasses", "0 .66 1", "0 .5 1"),
        ("light_elevation", "0 .2 1", "0 .3 1"),
    )
}


def _bend(u: float, xs: list[float], ys: list[float]) -> float:
    k = min(bisect_right(xs, u), len(xs) - 1) - 1
    return ys[k] + (ys[k + 1] - ys[k]) * (u - xs[k]) / (xs[k + 1] - xs[k])


def sample_factors(index: int, seed: int) -> dict[str, float]:
    """The factors of face `index` of the population `seed`."""
    draws = np.random.default_rng([seed, index]).random(len(FACTORS)).tolist()
    factors = {}
    for (name, (low, high, _)), u in zip(FACTORS.items(), draws, strict=True):
        if name in _SHAPES:
            u = _bend(u, *_SHAPES[name])
        factors[name] = low + (high - low) * u
    if factors["hair_length"] > 0.5:
        factors["beard"] = 0.0
    if factors["beard"] > 0:
        factors["lips"] *= 0.4
        factors["blush"] *= 0.4
    return factors


def draw(factors: Mapping[str, float], resolution: int, channels: int = 3) -> np.ndarray:
    """uint8 [channels, resolution, resolution]. UserError for a factor missing, unknown or out of range."""
    _check("resolution", resolution, 8)
    _check_channels(channels)
    wrong = sorted(set(FACTORS) ^ set(factors))
    if wrong:
        kind = "unknown" if wrong[0] in factors else "missing"
        raise UserError(
            f"draw needs exactly the factors in FACTORS, but {wrong[0]!r} is {kind}; "
            "start from sample_factors(index, seed) and change its values"
        )
    for name, (low, high, meaning) in FACTORS.items():
        if not low - 1e-6 <= factors[name] <= high + 1e-6:  # a float32 attribute may round past the end
            raise UserError(
                f"draw: {name} ({meaning}) must lie in [{low}, {high}], got {factors[name]}; clip it to the range"
            )
    return paint_face({name: float(value) for name, value in factors.items()}, resolution, channels)


def _check(option: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise UserError(
            f"faces: {option} must be a whole number of at least {least}, got {value!r}; change data.{option}"
        )


def _check_channels(channels: int) -> None:
    if channels not in (1, 3, 4):
        raise UserError(
            f"faces: channels must be 1 (grey), 3 (RGB) or 4 (RGBA), got {channels!r}; change data.channels"
        )


class Faces:
    """`size` portraits; index and seed decide a face, so every resolution shows the same people."""

    name = "faces"

    def __init__(
        self,
        resolution: int = 32,
        size: int = 4096,
        seed: int = 0,
        channels: int = 3,
        classes: str | None = None,
    ) -> None:
        _check("resolution", resolution, 8)
        _check("size", size, 1)
        _check("seed", seed, 0)
        _check_channels(channels)
        if classes is not None and classes not in CLASSES:
            raise UserError(
                f"faces: classes must be null or one of {', '.join(CLASSES)}, got {classes!r}; change data.classes"
            )
        self.resolution, self.size, self.seed = int(resolution), int(size), int(seed)
        self.channels, self.classes = int(channels), classes
        self.label_names: tuple[str, ...] = CLASSES[classes].names if classes else ()
        options = [DRAWING_VERSION, self.name, self.resolution, self.size, self.seed, self.channels, classes]
        self.fingerprint = hashlib.sha256(json.dumps(options).encode()).hexdigest()

    def __len__(self) -> int:
        return self.size

    def read(self, index: int) -> np.ndarray:
        if not 0 <= index < self.size:
            raise IndexError(f"face {index} of {self.size}")
        return paint_face(sample_factors(int(index), self.seed), self.resolution, self.channels)

    def labels(self) -> np.ndarray:
        if not self.classes:
            return np.zeros((self.size, 0), np.float32)
        return np.eye(4, dtype=np.float32)[CLASSES[self.classes].column(self.attributes())]

    def attributes(self) -> dict[str, np.ndarray]:
        rows = [list(sample_factors(i, self.seed).values()) for i in range(self.size)]
        table = np.array(rows, np.float32)
        return {name: table[:, k].copy() for k, name in enumerate(FACTORS)}
