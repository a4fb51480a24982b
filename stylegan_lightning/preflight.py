"""Before training: what it takes of the device's memory, what there is, and which settings take less."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf

from stylegan_lightning.builders import build_module, build_schedule, device_count, ranks_of
from stylegan_lightning.config.arguments import shell_argument
from stylegan_lightning.config_checks import check_batches_over_ranks, run_problems
from stylegan_lightning.errors import UserError
from stylegan_lightning.networks import LowPrecision
from stylegan_lightning.training.checkpoint import LAST
from stylegan_lightning.training.distributed import world_size
from stylegan_lightning.training.memory import (
    MemoryEstimate,
    available_memory,
    estimate_memory,
    explain_out_of_memory,
    is_out_of_memory,
    size_text,
)
from stylegan_lightning.training.module import GAN
from stylegan_lightning.training.recompute import recomputable_blocks

ENOUGH = {"cuda": 0.9, "cpu": 0.75}
"""Of what is available an estimate may use this fraction: libraries and gaps between tensors take the rest. On CPUs
processes grew to 1.2 to 1.4 times the estimate (benchmarks/memory_estimate.py)."""

Settings = dict[str, Any]
"""Values by key of the configuration."""


def device_of_run(cfg: DictConfig) -> torch.device:
    """The first device that `cfg.trainer` names."""
    accelerator, devices = cfg.trainer.accelerator, cfg.trainer.devices
    if accelerator not in ("gpu", "cuda", "auto") or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", devices[0] if isinstance(devices, ListConfig) else 0)


def estimate(cfg: DictConfig, module: GAN) -> MemoryEstimate:
    """On each device. Raises RuntimeError as `estimate_memory`."""
    return estimate_memory(
        module,
        batch_per_device=OmegaConf.select(cfg, "trainer.batch_per_device", default=None),
        ranks=ranks_of(cfg),
        autocast=torch.bfloat16 if OmegaConf.select(cfg, "precision.lightning") == "bf16-mixed" else None,
    )


def memory_lines(cfg: DictConfig, module: GAN) -> list[str]:
    """What the run takes, and a warning where the device may not have it."""
    try:
        found = estimate(cfg, module)
    except RuntimeError as error:  # an objective that reads numbers
        return [f"memory: not estimated ({str(error).splitlines()[0]})"]
    fixed, rest = found.parameters + found.moments, found.gradients + found.activations
    each = " on each device" if ranks_of(cfg) > 1 else ""
    line = (
        f"memory: about {size_text(found.total)}{each} "
        f"(weights and optimizer {size_text(fixed)}, activations {size_text(rest)})"
    )
    room, kind = _room(cfg, found), device_of_run(cfg).type
    if room is None or found.total <= ENOUGH[kind] * room:
        return [line]
    lighter = ", ".join(lighter_settings(cfg, module, ENOUGH[kind] * room)) or "none is known"
    where = "GPU" if kind == "cuda" else "memory of this machine"
    return [
        line,
        f"warning: that is more than {ENOUGH[kind]:.0%} of the {size_text(room)} that the {where} has{each}: the "
        f"run may end out of memory. Settings that need less: {lighter}",
    ]


def _room(cfg: DictConfig, found: MemoryEstimate) -> float | None:
    """Bytes for each device's process; on a CPU they share, and the parameters of this one are there already."""
    device = device_of_run(cfg)
    available = available_memory(device)
    if available is None or device.type == "cuda":
        return available
    return (available + found.parameters) / device_count(cfg.trainer.devices)


def lighter_settings(cfg: DictConfig, module: GAN, room: float = 0) -> list[str]:
    """Overrides that take less memory, with what each would take, the least first: those that train the same model,
    then those that make it smaller."""
    now = estimate(cfg, module).total
    same, smaller = _same_model(cfg, module, room), _smaller_model(cfg)
    return [text for group in (same, smaller) for _, text in sorted(_measured(cfg, group, now))]


def _measured(cfg: DictConfig, settings: Iterator[tuple[str, Settings]], now: int) -> Iterator[tuple[int, str]]:
    for text, changes in settings:
        needed = _total_with(cfg, changes)
        if needed is not None and needed < now:  # a formula may enlarge the batch
            yield needed, f"{text} ({size_text(needed)})"


def _total_with(cfg: DictConfig, changes: Settings) -> int | None:
    """Bytes that the run would take with `changes`; None where they do not fit the rest of the configuration."""
    cfg = cfg.copy()  # type: ignore[assignment]
    for key, value in changes.items():
        OmegaConf.update(cfg, key, value)
    try:
        if run_problems(cfg):
            return None
        schedule = build_schedule(cfg)
        check_batches_over_ranks(cfg, schedule)
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            module = build_module(cfg, schedule)
        return estimate(cfg, module).total
    except (UserError, RuntimeError):
        return None


def _same_model(cfg: DictConfig, module: GAN, room: float) -> Iterator[tuple[str, Settings]]:
    yield from _fewer_at_once(cfg, module, room)
    if not cfg.trainer.get("activation_checkpointing") and _recomputable(module):
        yield "trainer.activation_checkpointing=true", {"trainer.activation_checkpointing": True}
    exact = cfg.precision.get("low_dtype") is None and cfg.precision.get("lightning") == "32-true"
    if exact and device_of_run(cfg).type == "cuda":
        if not isinstance(module.D, LowPrecision):
            yield "precision=bf16_mixed", {"precision.lightning": "bf16-mixed"}
        elif torch.cuda.is_bf16_supported(including_emulation=False):
            yield "precision=bf16", {"precision.low_dtype": "bfloat16", "precision.num_resolutions": 4}
        else:
            yield "precision=fp16", {"precision.low_dtype": "float16", "precision.num_resolutions": 4}


def _recomputable(module: GAN) -> bool:
    return any(recomputable_blocks(net) for net in (module.G, module.D))


def _fewer_at_once(cfg: DictConfig, module: GAN, room: float) -> Iterator[tuple[str, Settings]]:
    """The largest half, quarter, ... of what a device has at once that takes no more than `room`, or the least."""
    share = max(module.schedule.batch_sizes) // ranks_of(cfg)
    n = min(cfg.trainer.get("batch_per_device") or share, share)
    best, least = None, cfg.model.get("mbstd_group_size") or 2  # statistics are taken over what is there at once
    while n % 2 == 0 and n // 2 >= least:
        n //= 2
        changes = {"trainer.batch_per_device": n}
        total = _total_with(cfg, changes)
        if total is None:
            break
        best = f"trainer.batch_per_device={n}", changes
        if total <= room or not room:
            break
    if best is not None:
        yield best


def _smaller_model(cfg: DictConfig) -> Iterator[tuple[str, Settings]]:
    if cfg.get("resume") is not None:  # a run keeps its model
        return
    for key in ("model.channel_base", "model.channel_max", "model.g_hidden", "model.d_hidden", "data.resolution"):
        value = OmegaConf.select(cfg, key, default=None)
        if isinstance(value, int) and value > 8:
            yield f"{key}={value // 2}", {key: value // 2}


def out_of_memory(
    error: BaseException, cfg: DictConfig, module: GAN, device: torch.device, run_dir: Path
) -> str | None:
    """The message for an `error` during training; None when it is something else."""
    if not is_out_of_memory(error):
        return None
    cfg, go_on = cfg.copy(), "No checkpoint had been written yet"  # type: ignore[assignment]
    lighter = ["trainer.batch_per_device=...", "trainer.activation_checkpointing=true", "precision=..."]
    saved = (run_dir / "checkpoints" / LAST).exists()
    if saved:
        cfg.resume = str(run_dir)  # which keeps the model
    if world_size() == 1:  # estimates of one rank alone would wait for the others
        lighter = lighter_settings(cfg, module)
    if saved:
        first = lighter[0].split(" ")[0] if lighter else "precision=..."
        resume = shell_argument("resume", run_dir)
        go_on = f"The last checkpoint is whole; go on from it with: python train.py {resume} {first}"
    return explain_out_of_memory(error, module, device, lighter, go_on)
