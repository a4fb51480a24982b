"""A run that starts from the weights of another one: what fits is carried over, the rest starts fresh.

Two tensors correspond when their names are equal; where a name holds a number that depends on the size of the
network, its `roles` say what the number stands for. A tensor of another shape is carried over in part where one
axis differs and that part has an exact meaning (`MAPS`): image channels, inputs behind which labels come, and
logits by class.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stylegan_lightning.errors import UserError
from stylegan_lightning.networks import Generator, GrowingDiscriminator
from stylegan_lightning.training.checkpoint import under
from stylegan_lightning.training.module import GAN

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Pair:
    """One network of the checkpoint (its structure, on the meta device) and of this run, and their sizes."""

    source: nn.Module
    target: nn.Module

    def inputs(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Of both, the input features that are not labels, and with those: latent of a mapping, pixels of an MLP."""
        return _inputs(self.source), _inputs(self.target)


def _inputs(net: nn.Module) -> tuple[int, int]:
    if isinstance(net, Generator):
        embed = getattr(net.mapping, "embed", None)
        return net.z_dim, net.z_dim + (len(embed.weight) if embed is not None else 0)
    pixels = int(net.img_channels) * int(net.img_resolution) ** 2  # type: ignore[arg-type]
    return pixels, pixels + int(net.c_dim)  # type: ignore[arg-type]


def image_map(old: int, new: int) -> Tensor:
    """[new, old]: an image of `old` channels as one of `new`. Grey is the mean of RGB, a new alpha channel is 0."""
    if old == 1:
        return (torch.arange(new) < 3).float()[:, None]
    if new == 1:
        return (torch.arange(old) < 3).float()[None] / min(old, 3)
    return torch.eye(new, old)


def _channels(role: str, old: int, new: int, pair: Pair) -> Tensor | None:
    """What makes an image makes the other kind of it; what reads one sees it as the old kind."""
    if (old, new) != (pair.source.img_channels, pair.target.img_channels):
        return None
    if "torgb" in role:
        return image_map(old, new)
    return image_map(new, old).t() if "fromrgb" in role else None


def _labels_behind(role: str, old: int, new: int, pair: Pair) -> Tensor | None:
    """Inputs before the labels keep their weights, labels that are new start at 0: nothing changes at first."""
    (plain, before), (same, after) = pair.inputs()
    if (old, new) != (before, after) or plain != same:
        return None
    return torch.diag((torch.arange(max(old, new)) < plain).float())[:new, :old]


def _class_logits(role: str, old: int, new: int, pair: Pair) -> Tensor | None:
    """Every class starts with the logit of all images; that of all images is the mean over the classes."""
    if not isinstance(pair.source, GrowingDiscriminator) or not role.startswith("epilogue.out"):
        return None
    before, after = pair.source.c_dim, int(pair.target.c_dim)  # type: ignore[arg-type]
    if (before > 0) == (after > 0):
        return None
    weights = torch.full((new, old), 1 / max(before, 1))
    weights[:, before:] = 1.0
    if new > after > 0:  # beside those of classes there is a logit of all images: it alone takes the old one
        weights[:after] = 0.0
    return weights


MAPS = (_channels, _labels_behind, _class_logits)
"""(role, old size, new size, pair) -> [new, old] for an axis that has changed, or None."""


@dataclass(frozen=True)
class Carried:
    """What became of one network's tensors, by name."""

    whole: tuple[str, ...]
    partly: tuple[str, ...]
    fresh: tuple[str, ...]

    def __str__(self) -> str:
        names = [*self.whole, *self.partly, *self.fresh]
        count = len(self.whole) + len(self.partly)
        partly = f", {len(self.partly)} of them partly ({grouped(self.partly, names)})" if self.partly else ""
        fresh = f"; fresh: {grouped(self.fresh, names)}" if self.fresh else ""
        return f"{count} of {len(names)} tensors carried over{partly}{fresh}"


@dataclass(frozen=True)
class TransferReport:
    source: str
    networks: Mapping[str, Carried]
    frozen: str = ""

    def __str__(self) -> str:
        lines: dict[str, list[str]] = {}
        for name, carried in self.networks.items():
            lines.setdefault(str(carried), []).append(name)
        texts = [f"  {', '.join(names)}: {text}" for text, names in lines.items()]
        return "\n".join([f"init_from {self.source}", *texts, *([f"  frozen: {self.frozen}"] if self.frozen else [])])


def transfer_weights(
    module: GAN, checkpoint: Mapping[str, Any], G: Generator, D: nn.Module, source: str = "checkpoint"
) -> TransferReport:
    """Fills G, D, G_ema and the running means of the penalties with what fits of a checkpoint.

    `G` and `D` have the checkpoint's structure; their weights are not read, so they may be on the meta device.
    Growth is not carried over, it follows the new run's schedule; optimizers start anew.
    Raises UserError for another family, where nothing fits, and where a frozen part would start fresh. Nothing is
    changed then.
    """
    config, kimg = checkpoint["config"]["model"]["name"], checkpoint["progress"]["nimg"] / 1000
    _check_family(module, G, D, f"{source} ({config})")
    pairs = {"G": Pair(G, module.G), "D": Pair(D, module.D), "G_ema": Pair(G, module.G_ema)}
    if len(module.penalties):
        pairs["penalties"] = Pair(nn.Module(), module.penalties)
    plans = {name: _plan(under(checkpoint["state_dict"], f"{name}."), pair) for name, pair in pairs.items()}
    networks = {name: carried for name, (carried, _) in plans.items()}
    _check_weights(module, networks, source)
    _check_frozen(module, networks)
    for name, (_, state) in plans.items():
        pairs[name].target.load_state_dict(state)
    return TransferReport(f"{source} ({config}, {G.img_resolution} pixels, {kimg:g} kimg)", networks, _frozen(module))


def _plan(old: Weights, pair: Pair) -> tuple[Carried, Weights]:
    """What is carried over into `pair.target`, and its whole state then."""
    found = dict(zip(_roles(old, pair.source), old, strict=True))
    state: Weights = pair.target.state_dict()  # type: ignore[assignment]
    whole, partly, fresh = [], [], []
    for name, role in zip(list(state), _roles(state, pair.target), strict=True):
        if name.endswith("_extra_state"):
            continue
        origin = found.get(role)
        if origin is not None and old[origin].shape == state[name].shape:
            state[name] = old[origin]
            whole.append(name)
        elif origin is not None and (part := _part(role, origin, name, old[origin], state[name], pair)) is not None:
            state[name] = part
            partly.append(name)
        else:
            fresh.append(name)
    return Carried(tuple(whole), tuple(partly), tuple(fresh)), state


def _roles(names: Iterable[str], net: nn.Module) -> list[str]:
    """The names, with what `roles` says in place of numbers whose meaning depends on the network's size."""
    roles = {
        f"{path}.{part}".lstrip("."): f"{path}.{role}".lstrip(".")
        for path, module in net.named_modules()
        if hasattr(module, "roles")
        for part, role in module.roles().items()  # type: ignore[operator]
    }
    parts = [next((p for p in roles if name.startswith(f"{p}.")), "") for name in names]
    return [roles[p] + name.removeprefix(p) if p else name for p, name in zip(parts, names, strict=True)]


def _part(role: str, origin: str, name: str, old: Tensor, new: Tensor, pair: Pair) -> Tensor | None:
    """`old` in the shape of `new` by the first map that knows the axis that differs, None without one.

    Weights are stored without their gain, which depends on the number of inputs: it is divided out.
    """
    axes = [i for i, (a, b) in enumerate(zip(old.shape, new.shape, strict=False)) if a != b]
    if old.ndim != new.ndim or len(axes) != 1 or not hasattr(pair.target, "img_channels"):
        return None
    axis = axes[0]
    maps = (known(role, old.shape[axis], new.shape[axis], pair) for known in MAPS)
    weights = next((m for m in maps if m is not None), None)
    if weights is None:
        return None
    gain = _gain(pair.source, origin) / _gain(pair.target, name)
    return torch.tensordot(weights.to(old), old.movedim(axis, 0), 1).movedim(0, axis) * gain


def _gain(net: nn.Module, name: str) -> float:
    path, _, leaf = name.rpartition(".")
    return float(getattr(net.get_submodule(path), "weight_gain", 1.0)) if leaf == "weight" else 1.0


def _check_family(module: GAN, G: Generator, D: nn.Module, source: str) -> None:
    for old, new in ((G.synthesis, module.G.synthesis), (D, module.D)):
        if type(old) is not type(new):
            raise UserError(
                f"init_from must name a checkpoint of the same family: {source} holds a {type(old).__name__}, this "
                f"run has a {type(new).__name__}; choose the checkpoint's model=, or another checkpoint"
            )


def _check_weights(module: GAN, networks: Mapping[str, Carried], source: str) -> None:
    for name, net in (("G", module.G), ("D", module.D)):
        carried = {*networks[name].whole, *networks[name].partly}
        if any(p.ndim > 1 for n, p in net.named_parameters() if n in carried):
            return
    raise UserError(
        f"init_from: no weight of {source} has a place in these networks; choose the sizes of its run "
        "(its config.yaml: model.channel_base, channel_max, z_dim, w_dim, ...), or leave init_from out"
    )


def _frozen_names(module: GAN) -> dict[str, list[str]]:
    held = {id(p) for p in (*module.G.parameters(), *module.D.parameters())}
    held -= {id(p) for parameters in module.trainable for p in parameters}
    nets = {"G": module.G, "D": module.D}
    return {label: [n for n, p in net.named_parameters() if id(p) in held] for label, net in nets.items()}


def _frozen(module: GAN) -> str:
    nets = {"G": module.G, "D": module.D}
    names = {label: grouped(found, nets[label].state_dict()) for label, found in _frozen_names(module).items()}
    return "; ".join(f"{label} {text}" for label, text in names.items() if text)


def _check_frozen(module: GAN, networks: Mapping[str, Carried]) -> None:
    for (label, names), key in zip(_frozen_names(module).items(), ("freeze_mapping", "freeze_d"), strict=True):
        carried = networks[label]
        lost = set(names) & {*carried.partly, *carried.fresh}
        if lost:
            shown = grouped(sorted(lost, key=names.index), [*carried.whole, *carried.partly, *carried.fresh])
            raise UserError(
                f"transfer.{key} keeps weights as they are, so all of them must be carried over; of {label}, "
                f"{shown} would start fresh, at least in part. Leave it out, or keep the checkpoint's "
                "resolution, channels, labels and sizes"
            )


_NUMBER = re.compile(r"(?:(?<=\.)|^)\d+(?=\.|$)")


def grouped(chosen: Iterable[str], everything: Iterable[str]) -> str:
    """The fewest dotted prefixes that hold `chosen` and nothing else of `everything`; those that differ in one number
    are written as one: `blocks.{8,16}.torgb, layers.{2-9}`."""
    chosen = list(chosen)
    others = set(everything) - set(chosen)
    outside = {part for name in others for part in _prefixes(name)}
    shortest = dict.fromkeys(next(p for p in _prefixes(name) if p not in outside) for name in chosen)
    groups: dict[str, list[int]] = {}
    for name in shortest:
        number = _NUMBER.search(name)
        groups.setdefault(_NUMBER.sub("#", name, count=1), []).extend([int(number[0])] if number else [])
    return ", ".join(pattern.replace("#", _numbers(found)) for pattern, found in groups.items())


def _prefixes(name: str) -> list[str]:
    return [name[: dot.start()] for dot in re.finditer(r"\.", name)] + [name]


def _numbers(found: list[int]) -> str:
    low, high = min(found, default=0), max(found, default=0)
    if len(found) > 2 and sorted(found) == list(range(low, high + 1)):
        return f"{{{low}-{high}}}"
    return f"{{{','.join(map(str, found))}}}" if len(found) > 1 else str(low)
