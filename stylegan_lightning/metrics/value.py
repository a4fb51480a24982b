"""A number together with all that decides it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from stylegan_lightning.errors import UserError


@dataclass(frozen=True)
class MetricValue:
    """Two values compare when `metric` and `comparable` are equal; `truncation_psi` may differ."""

    metric: str
    value: float
    preset: str
    comparable: str
    """Numbers of images, data, network and every other choice, readable."""
    num_real: int
    num_fake: int
    seed: int
    truncation_psi: float
    extractor: str = ""
    weights_hash: str = ""
    resize: str = ""
    std: float | None = None
    low: float | None = None
    high: float | None = None
    """Ends of the bootstrap interval."""
    level: float | None = None
    note: str | None = None
    """What a reader must know, such as a sample too small."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Measured:
    """Values of one metric, and pictures uint8 [H, W, C] by name."""

    values: list[MetricValue]
    pictures: dict[str, np.ndarray] = field(default_factory=dict)


def check_comparable(values: Iterable[Mapping[str, Any]]) -> None:
    """Raises UserError where values of one metric were not measured in the same way."""
    first: dict[str, Mapping[str, Any]] = {}
    for value in values:
        other = first.setdefault(value["metric"], value)
        if other["comparable"] != value["comparable"]:
            raise UserError(
                f"two values of {value['metric']} cannot be compared: one is of preset {other['preset']} "
                f"({other['comparable']}), the other of preset {value['preset']} ({value['comparable']}). Measure both "
                "with the same preset, data and network, or put them into different tables."
            )
