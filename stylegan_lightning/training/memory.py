"""How much memory a run takes, found without taking any; how much there is; what to say when it was not enough."""

from __future__ import annotations

import contextlib
import os
import re
import weakref
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stylegan_lightning.networks import Growing
from stylegan_lightning.protocols import Phase
from stylegan_lightning.schedule import Stage
from stylegan_lightning.training.module import GAN
from stylegan_lightning.training.phases import LatentStream, parts_of

META = torch.device("meta")


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device at the peak of the phase that takes most, which the last three fields name.

    `gradients` and `activations` together are what the phase adds: `activations` is what is kept for the way back,
    temporary tensors and the batch.
    """

    parameters: int  # of G, D and G_ema, with their buffers
    gradients: int
    moments: int  # Adam's two for each parameter of G and D
    activations: int
    phase: str = ""
    resolution: int = 0
    batch: int = 0  # images at once

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.moments + self.activations


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages that operations made while open and that are still alive: `now`, and their `peak`."""

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes = {t.untyped_storage()._cdata: 0 for t in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.now += self._sizes[key]
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


class _OnMeta(torch.Generator):
    device = META  # type: ignore[assignment]


@contextlib.contextmanager
def _without_numbers(module: GAN) -> Iterator[None]:
    """While open, the tensors of `module` are shapes on the meta device; afterwards all is as it was."""
    growing = [(m, m.resolution, float(m.alpha)) for m in module.modules() if isinstance(m, Growing)]
    stores = [s for m in module.modules() for s in (m._parameters, m._buffers)]
    before = [dict(s) for s in stores]
    objectives = module.objectives
    kept = objectives.stream, objectives.record, objectives.blur_sigma
    try:
        for store in stores:
            for name, tensor in store.items():
                store[name] = tensor if tensor is None else _shape_of(tensor)  # type: ignore[assignment]
        objectives.stream, objectives.record = LatentStream(_OnMeta()), lambda name, value: None
        yield
    finally:
        for store, tensors in zip(stores, before, strict=True):
            store.update(tensors)  # type: ignore[arg-type]
        objectives.stream, objectives.record, objectives.blur_sigma = kept
        for net, resolution, alpha in growing:
            net.grow_to(resolution, alpha)


def _shape_of(tensor: Tensor) -> Tensor:
    shape = tensor.detach().to(META)
    return nn.Parameter(shape, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else shape


def estimate_memory(
    module: GAN, *, batch_per_device: int | None = None, ranks: int = 1, autocast: torch.dtype | None = None
) -> MemoryEstimate:
    """What training `module` by its schedule takes on each of `ranks` devices, with at most `batch_per_device` images
    at once (None: the device's whole share) and, where given, under `torch.autocast` to that type.

    Every phase is run on the meta device, forward and backward: there tensors have no memory, but live as long as in
    the run, and their live bytes are added up. Not counted: the process, its libraries' work space and what the
    allocator loses between tensors. Raises RuntimeError for an objective that reads numbers, which are not there.
    """
    nets = (module.G, module.D)
    parameters = sum(_bytes([*net.parameters(), *net.buffers()]) for net in (*nets, module.G_ema))
    moments = 2 * sum(_bytes(net.parameters()) for net in nets)
    worst = MemoryEstimate(parameters, 0, moments, 0)
    with _without_numbers(module), torch.autocast("cpu", autocast, enabled=autocast is not None):
        stage = _largest_stage(module)
        _enter(module, stage)
        share = stage.batch_size // ranks
        parts = parts_of(share, batch_per_device)
        for phase in module.phases:
            peak = _peak(module, phase, stage.resolution, share, parts, ranks)
            gradients = _bytes(nets[phase.optimizer].parameters())
            rest = max(peak - gradients, 0)
            where = (phase.name, stage.resolution, -(-share // parts))
            worst = max(worst, MemoryEstimate(parameters, gradients, moments, rest, *where), key=lambda e: e.total)
    return worst


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _largest_stage(module: GAN) -> Stage:
    """Of the stages in which a resolution that the run reaches begins to fade in, the one whose images take most."""
    schedule, stages = module.schedule, []
    every = range(schedule.total_nimg)
    for resolution in schedule.resolutions:
        first = bisect_left(every, resolution, key=lambda n: schedule.at(n).resolution)
        stages += [schedule.at(first)] if first in every else []
    return max(stages, key=lambda s: _held_by_images(module, s)) if len(stages) > 1 else stages[0]


def _held_by_images(module: GAN, stage: Stage) -> int:
    """Bytes that the images of a batch keep for the way back."""
    _enter(module, stage)
    with LiveBytes([*module.parameters(), *module.buffers()]) as live:
        ws = torch.empty(stage.batch_size, module.G.num_ws, module.G.w_dim, device=META)
        imgs = module.G.synthesis(ws)
        held = live.now
    del imgs
    return held


def _enter(module: GAN, stage: Stage) -> None:
    module.objectives.blur_sigma = stage.blur_sigma
    for net in (module.G.synthesis, module.D):
        if isinstance(net, Growing):
            net.grow_to(stage.resolution, stage.alpha)


def _peak(module: GAN, phase: Phase, resolution: int, share: int, parts: int, ranks: int) -> int:
    """The most bytes alive in one step of `phase`; of several parts all but the first find gradients."""
    nets = (module.G, module.D)
    for index, net in enumerate(nets):
        net.requires_grad_(index == phase.optimizer)
    trained = list(nets[phase.optimizer].parameters())
    with LiveBytes([*module.parameters(), *module.buffers()]) as live:
        reals = torch.empty(share, module.G.img_channels, resolution, resolution, device=META)
        c = torch.empty(share, module.G.c_dim, device=META)
        if parts > 1:
            for parameter in trained:
                parameter.grad = torch.empty_like(parameter)
        phase.objective(reals[::parts], c[::parts], c[::parts]).backward()
        copied = _bytes(trained) if ranks > 1 else 0  # gradients are averaged as one tensor
        peak = max(live.peak, live.now + copied)
    for parameter in trained:
        parameter.grad = None
    return peak


def available_memory(device: torch.device) -> int | None:
    """Bytes that this process may still take on `device`: what is free on a GPU; elsewhere what the system, or a
    tighter control group, has left. None where that cannot be found out."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return min([*_system_memory(), *_group_memory()], default=None)


def _system_memory(root: Path = Path("/")) -> Iterator[int]:
    try:
        fields = dict(line.split(":") for line in (root / "proc/meminfo").read_text().splitlines())
        yield int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux: all there is
        if {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= getattr(os, "sysconf_names", {}).keys():
            yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


_GROUPS_V2 = ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")
_GROUPS_V1 = ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _group_memory(root: Path = Path("/")) -> Iterator[int]:
    """What the limits of this process's control groups, its own and those around it, leave; cached files can go."""
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number != "0" and "memory" not in controllers.split(","):
                continue
            mount, limit, usage, cache = _GROUPS_V2 if number == "0" else _GROUPS_V1
            own = root / mount / path.lstrip("/")
            for group in (own, *own.parents):
                with contextlib.suppress(OSError, ValueError):  # no such file, no limit ("max")
                    stat = dict(x.split() for x in (group / "memory.stat").read_text().splitlines())
                    used = int((group / usage).read_text()) - int(stat.get(cache, 0))
                    yield max(int((group / limit).read_text()) - used, 0)


_OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)
    )


def explain_out_of_memory(
    error: BaseException, module: GAN, device: torch.device, lighter: Sequence[str], go_on: str
) -> str | None:
    """One message instead of a traceback: where it happened, what there is, `lighter` settings, how to `go_on`.

    None when `error` is something else.
    """
    if not is_out_of_memory(error):
        return None
    stage = module.schedule.at(module.nimg)
    inside = f"in phase {module.running} at {stage.resolution} pixels, batch {stage.batch_size}"
    where = inside if module.running else "outside of the training step"
    wanted = re.search(r"ried to allocate ([\d.]+ ?\w+)", str(error))
    asked = f", asking for {wanted[1]} more" if wanted else ""
    settings = lighter if module.running else ("metrics=none", "callbacks.samples.rows=2 callbacks.samples.columns=4")
    return (
        f"out of memory {where}{asked}; {_whole_memory(device)}. "
        f"Settings that need less: {', '.join(settings)}. {go_on}"
    )


def _whole_memory(device: torch.device) -> str:
    if device.type == "cuda":
        return f"the GPU has {size_text(torch.cuda.get_device_properties(device).total_memory)}"
    room = available_memory(device)
    return "on the CPU" if room is None else f"{size_text(room)} are available now that it has stopped"


def size_text(nbytes: float) -> str:
    """Such as 8.8 GiB or 53 MiB."""
    return f"{nbytes / 2**30:.1f} GiB" if nbytes >= 0.1 * 2**30 else f"{nbytes / 2**20:.0f} MiB"
