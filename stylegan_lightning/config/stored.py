"""What a configuration that comes from a file may build: the classes of one table, with arguments that they take.

Checkpoints and exported generators carry the configuration that they were made with. It is read as data: the name of
a class is looked up here and nowhere else, so that no name leads to an import, whatever modules hold.
"""

from __future__ import annotations

import inspect
import math
import reprlib
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from stylegan_lightning import augment, losses, networks, schedule
from stylegan_lightning.data.faces import Faces
from stylegan_lightning.data.image_folder import ImageFolder
from stylegan_lightning.data.streamed import Shards
from stylegan_lightning.data.torchvision_sets import TorchvisionImages
from stylegan_lightning.errors import UserError
from stylegan_lightning.training.augment import AdaptiveStrength, ScheduledStrength

Table = dict[str, type]
TARGET, PARTIAL = "_target_", "_partial_"


def _named(package: str, *parts: type) -> Table:
    return {f"stylegan_lightning.{package}.{part.__name__}": part for part in parts}


_PENALTIES = _named("losses", losses.GradientPenalty, losses.PathLength, losses.R1, losses.R2)

PLACES: dict[str, Table] = {
    "model.generator": _named("networks", networks.Generator),
    "model.generator.mapping": _named("networks", networks.MappingNetwork),
    "model.generator.synthesis": _named(
        "networks",
        networks.MLPSynthesis,
        networks.DCGANSynthesis,
        networks.WGANGPSynthesis,
        networks.ProGANSynthesis,
        networks.StyleGAN1Synthesis,
        networks.StyleGAN2Synthesis,
        networks.StyleGAN3Synthesis,
    ),
    "model.discriminator": _named(
        "networks",
        networks.MLPDiscriminator,
        networks.DCGANDiscriminator,
        networks.WGANGPCritic,
        networks.ProgressiveDiscriminator,
        networks.StyleGAN2Discriminator,
    ),
    "model.loss": _named(
        "losses",
        losses.Hinge,
        losses.LeastSquares,
        losses.Minimax,
        losses.NonSaturating,
        losses.Relativistic,
        losses.Wasserstein,
    ),
    "model.g_penalties.*": _PENALTIES,
    "model.d_penalties.*": _PENALTIES,
    "schedule.object": _named("schedule", schedule.FixedSchedule, schedule.ProgressiveSchedule),
    "data.source": _named("data.faces", Faces)
    | _named("data.image_folder", ImageFolder)
    | _named("data.streamed", Shards)
    | _named("data.torchvision_sets", TorchvisionImages),
    "augment.pipe": _named("augment", augment.AugmentPipe, augment.DiffAugment),
    "augment.strength": _named("training.augment", AdaptiveStrength, ScheduledStrength),
}
"""Key of a configuration (* is any name) -> what may stand there, by the names that files have for it. A class that
moves keeps the names that it had."""

PARTS: Table = {name: part for table in PLACES.values() for name, part in table.items()}

UNFINISHED = ("model.generator.mapping",)
"""What waits for arguments that only its owner knows (`_partial_: true`)."""

MOST = {
    "filter_size": 64,
    "lrelu_upsampling": 64,
    "conv_kernel": 64,
    "num_layers": 1000,
    "mapping_layers": 1000,
    "img_resolution": 2**13,
    "margin_size": 1000,
    "seed": 2**64,
}
"""Of arguments, other than 2^31: what a network designs or lists before one of its weights is looked at."""
_KEYS_OF = "the keys of"
MOST_VALUES, DEEPEST, LONGEST_LIST, LONGEST_TEXT = 20_000, 24, 64, 20_000
"""A stored configuration has some hundred values."""


def allow(place: str, part: type) -> None:
    """From now on, in this process, stored configurations may build `part`, by its import path, at `place`, a key of
    `PLACES`: for checkpoints of networks, losses or data sources of one's own."""
    name = f"{part.__module__}.{part.__qualname__}"
    PLACES[place][name] = PARTS[name] = part


def check_stored(config: Any, path: Path) -> dict[str, Any]:
    """The configuration inside the file `path`, with null for networks of the user's own that metrics measure with:
    those are not worth refusing a model for.

    Raises UserError for anything that is not plain data, for an interpolation, and for a `_target_` that is not in the
    table at its place or has an argument that it does not take.
    """
    if not isinstance(config, dict):
        raise UserError(f"{path} is damaged: its configuration is a {type(config).__name__}, not a table of keys")
    for count, (key, value) in enumerate(_leaves(config, path)):
        if count >= MOST_VALUES:
            raise UserError(f"{path} is damaged: its configuration has more than {MOST_VALUES:,} values")
        _check_leaf(key, value, path)
    config = {key: _without_targets(value) if key == "metrics" else value for key, value in config.items()}
    for key, node in _targets(config):
        _check_target(key, node, path)
    for key in PLACES:
        value = _found(config, key)
        if not key.endswith("*") and value is not None and not (isinstance(value, dict) and TARGET in value):
            raise UserError(f"{path} is damaged: {key} names nothing that could be built")
    return config


def foreign_metrics(config: Mapping[str, Any]) -> dict[str, str]:
    """Key -> `_target_` of what measures with code of the user's own, in a stored configuration."""
    return {key: str(node.get(TARGET)) for key, node in _targets(config.get("metrics"), "metrics")}


def _leaves(node: Any, path: Path, key: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Every key and every value that is no container. What is nested without end, or many times over, ends early."""
    if depth > DEEPEST:
        raise UserError(f"{path} is damaged: its configuration is nested more than {DEEPEST} deep, at {key[:80]}")
    if isinstance(node, dict):
        for name, value in node.items():
            yield f"{_KEYS_OF} {key or 'the configuration'}", name
            yield from _leaves(value, path, f"{key}.{name}" if key else str(name), depth + 1)
    elif isinstance(node, list | tuple):
        for i, value in enumerate(node):
            yield from _leaves(value, path, f"{key}[{i}]", depth + 1)
    yield key, None if isinstance(node, dict | list | tuple) else node


def _check_leaf(key: str, value: Any, path: Path) -> None:
    if key.startswith(_KEYS_OF) and type(value) not in (int, str):
        raise UserError(f"{path} is damaged: {key[:80]} are no texts: {reprlib.repr(value)}")
    if type(value) not in (NoneType, bool, int, float, str):
        raise UserError(f"{path} is damaged: {key[:80]} is a {type(value).__name__}, where only plain values may stand")
    if isinstance(value, str) and "${" in value:
        raise UserError(
            f"{path} is not read: {key[:80]} is {value[:80]!r}, and a stored configuration computes nothing"
        )
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        raise UserError(f"{path} is damaged: {key[:80]} has {len(value):,} letters")


def _targets(node: Any, key: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(key, node) of all that would be built."""
    if isinstance(node, dict):
        if any(str(name).startswith("_") and str(name).endswith("_") for name in node):
            yield key, node
        for name, value in node.items():
            yield from _targets(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list | tuple):
        for i, value in enumerate(node):
            yield from _targets(value, f"{key}[{i}]")


def _without_targets(node: Any) -> Any:
    """`node` with null in place of all that would be built."""
    if isinstance(node, dict):
        return None if TARGET in node else {key: _without_targets(value) for key, value in node.items()}
    return [_without_targets(value) for value in node] if isinstance(node, list | tuple) else node


def _found(config: Any, key: str) -> Any:
    """The value at a dotted key; None where there is none."""
    for name in key.split("."):
        config = config.get(name) if isinstance(config, dict) else None
    return config


def _table_at(key: str) -> Table:
    above, _, _ = key.rpartition(".")
    return PLACES.get(key) or PLACES.get(f"{above}.*") or {}


def _check_target(key: str, node: dict[str, Any], path: Path) -> None:
    name = node.get(TARGET)
    part = _table_at(key).get(name) if isinstance(name, str) else None
    if part is None:
        shown = str(name)[:200] if isinstance(name, str) else type(name).__name__
        ours = f"{shown} at {key[:80]}, where it does not belong"
        what = ours if shown in PARTS else f"code outside this package, {shown}"
        raise UserError(f"{path} names {what}: it is not run")
    given = {k: v for k, v in node.items() if k not in (TARGET, PARTIAL)}
    if node.get(PARTIAL, False) is not (key in UNFINISHED):
        raise UserError(f"{path} is damaged: {key} has {PARTIAL}={node.get(PARTIAL)!r}")
    hints, takes = typing.get_type_hints(part.__init__), inspect.signature(part).parameters  # type: ignore[misc]
    for argument, value in given.items():
        if argument not in takes:
            raise UserError(f"{path} is damaged: {key} has {str(argument)[:80]!r}, which {part.__name__} does not take")
        is_part, hint, high = f"{key}.{argument}" in PLACES, hints[argument], MOST.get(argument, 2**31)
        low = -high if float in (hint, *get_args(hint)) else 0
        if (
            is_part != (isinstance(value, dict) and TARGET in value)
            or not (is_part or fits(value, hint))
            or (_is_whole(value) and not low <= value <= high)
        ):
            most = f" from {low} to {high}" if _is_whole(value) else ""
            raise UserError(
                f"{path} is damaged: {key}.{argument} must be {takes[argument].annotation}{most}; got "
                f"{reprlib.repr(value)}"
            )


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is what the annotation says. A whole number is a float, too; a text is a path, too."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, each) for each in inner)
    if origin is Literal:
        return any(type(value) is type(each) and value == each for each in inner)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return (
            isinstance(value, dict)
            and len(value) <= LONGEST_LIST
            and all(fits(k, inner[0]) and fits(v, inner[1]) for k, v in value.items())
        )
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return isinstance(value, list | tuple) and len(value) <= LONGEST_LIST and all(fits(v, inner[0]) for v in value)
    if hint is float:
        return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))
    if hint is int:
        return _is_whole(value)
    return type(value) is {None: NoneType, Path: str}.get(hint, hint)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
