"""Going on with a run: its configuration from the checkpoint, and what the command line may change of it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from stylegan_lightning.builders import change, checkpoint_config, to_plain
from stylegan_lightning.config.stored import foreign_metrics
from stylegan_lightning.errors import UserError
from stylegan_lightning.training.checkpoint import LAST, check_resumable, find_checkpoint, read_checkpoint

AUTO = "auto"
"""As `resume`: the run in run_dir where there is one, else a new one, always by the same command."""
_MAY_CHANGE = (
    "resume",
    "run_dir",
    "on_divergence",
    "precision",
    "schedule.total_kimg",
    "trainer",
    "logger",
    "callbacks",
    "metrics",
    "cache_dir",
    "paths",
    "data.path",
    "data.follow_links",
    "data.source.follow_links",
    "data.num_workers",
    "data.cache_dir",
    "data.max_cache",
)
_OF_ITS_GROUPS = (*(key for key in _MAY_CHANGE if key.startswith("data.")), "metrics.each")

_NEEDED = (
    *("seed", "model.loss", "schedule.object", "schedule.total_kimg", "data.source", "data.name"),
    *("metrics", "precision", "trainer", "callbacks", "logger"),
)


def resumed_config(cfg: DictConfig, path: Path, same_command: bool = False) -> tuple[DictConfig, Path]:
    """The configuration inside the checkpoint at `path`, with what the command line may change.

    With `same_command` the command line is that of the run itself and is compared as a whole. Raises UserError when
    the command line asks for another model, data set, seed, ...: that is a new run (init_from=), or when the run has
    already reached its end.
    """
    checkpoint = read_checkpoint(path)
    check_resumable(checkpoint, path)
    saved = checkpoint_config(checkpoint, path)
    lacks = [key for key in _NEEDED if OmegaConf.select(saved, key) is None]
    if lacks:
        raise UserError(f"{path} is damaged: its configuration lacks {', '.join(lacks)}")
    refused = differences(saved, cfg) if same_command else []
    for text in HydraConfig.get().overrides.task:
        override = OverridesParser.create().parse_override(text)
        key = override.key_or_group
        if not _may_change(key):
            refused += [] if same_command else [key]
        elif key not in ("resume", "run_dir"):
            _check_has(saved, key)
            change(saved, key, OmegaConf.select(cfg, key))
            if key == "data.follow_links":  # which runs that are older do not have
                change(saved, "data.source.follow_links", OmegaConf.select(cfg, key))
    lost = {k: t for k, t in foreign_metrics(checkpoint["config"]).items() if OmegaConf.select(saved, k) is None}
    if lost:
        said = " ".join(f"'{key}={{_target_: {target}}}'" for key, target in lost.items())
        raise UserError(
            f"this run measures with code of your own, which is not taken from a checkpoint: add {said} to the "
            "command, or choose other metrics=..."
        )
    if refused:
        raise UserError(
            f"resume continues a run with its own configuration, which keeps {', '.join(refused)} as it was; leave "
            "that out, or start a new run from these weights with init_from="
        )
    done, total = checkpoint["progress"]["nimg"] / 1000, saved.schedule.total_kimg
    if done >= total:
        raise UserError(
            f"this run is complete at {done:g} kimg; to train further add schedule.total_kimg={2 * total:g}"
        )
    saved.resume = str(path)
    return saved, path


def _may_change(key: str, keys: Sequence[str] = _MAY_CHANGE) -> bool:
    return any(key == k or key.startswith(f"{k}.") for k in keys)


def for_resumed_run(argument: str) -> str:
    """An argument KEY=VALUE where a run is resumed, whose data and metrics are not those of a new run by default: Hydra
    is told to add what it does not know, and `resumed_config` looks for it in the run's own configuration."""
    return f"++{argument}" if _may_change(argument.partition("=")[0], _OF_ITS_GROUPS) else argument


def _check_has(saved: DictConfig, key: str) -> None:
    """Raises UserError for a key of other data than the run's. Older runs on folders lack follow_links."""
    group, _, name = key.partition(".")
    known = [*saved.data, *(["follow_links"] if saved.data.name == "image_folder" else [])]
    if group == "data" and name not in known:
        raise UserError(f"this run was trained on data={saved.data.name}, which have no {key}: leave it out")


def differences(saved: DictConfig, cfg: DictConfig) -> list[str]:
    """Keys at which a composed configuration asks for another run than the saved one."""
    cfg = cfg.copy()  # type: ignore[assignment]
    cfg.model.c_dim = saved.model.c_dim
    before, now = flat(to_plain(saved)), flat(to_plain(cfg))
    chosen_late = ("run_id", "model.shared_logit")  # null stands for what only the run knows
    return [
        key
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
        and not _may_change(key)
        and not (now.get(key) is None and key in chosen_late)
        and not any(
            key.startswith(f"{base}.") for base in ("model.generator", "model.discriminator", "schedule.object")
        )
    ]


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """{"a.b": value} of nested dicts."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        k: v for name, sub in tree.items() for k, v in flat(sub, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def start_config(cfg: DictConfig) -> tuple[DictConfig, Path, Path | None]:
    """(configuration, run directory, checkpoint to resume from or None)."""
    resume, run_dir = None, Path(HydraConfig.get().runtime.output_dir)
    if cfg.resume == AUTO:
        last = run_dir / "checkpoints" / LAST
        if last.exists():
            cfg, resume = resumed_config(cfg, last, same_command=True)
    elif cfg.resume is not None:
        cfg, resume = resumed_config(cfg, find_checkpoint(cfg.resume))
    cfg.run_dir = str(run_dir)
    cfg.run_id = cfg.run_id or secrets.token_hex(4)
    return cfg, run_dir, resume
