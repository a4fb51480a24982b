"""Everything that can be wrong with a configuration, found before any work and reported together."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf

from stylegan_lightning.errors import UserError
from stylegan_lightning.networks.stylegan2 import block_resolutions


def raise_together(problems: Sequence[str]) -> None:
    """Raises one UserError that lists every problem."""
    if len(problems) == 1:
        raise UserError(problems[0])
    if problems:
        raise UserError(f"{len(problems)} problems with the configuration:\n" + "\n".join(f"  - {p}" for p in problems))


def check_command_line(conf_dir: Path, config_name: str, arguments: Sequence[str]) -> None:
    """Raises one UserError with every override that the configuration does not know, with the nearest valid
    ones, and every value that cannot work."""
    Plugins.instance()
    overrides, problems = _parse(arguments)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        groups = [o for o in overrides if _is_group(loader, o)]
        wrong = {o.input_line: p for o in groups if (p := _group_problem(loader, o))}
        chosen = [o for o in groups if o.input_line not in wrong and not o.is_sweep_override()]
        keys = _all_keys(compose(config_name, _lines(chosen), return_hydra_config=True))
        # keys below a group whose choice is unknown cannot be judged
        lost = {o.key_or_group for o in groups if o not in chosen}
        values = [o for o in overrides if o not in groups and o.key_or_group.split(".")[0] not in lost]
        wrong |= {o.input_line: p for o in values if (p := _key_problem(o, keys, loader))}
        problems += wrong.values()
        known = [o for o in values if o.input_line not in wrong and not o.is_sweep_override()]
        cfg = compose(config_name, _lines([*chosen, *known]))
    if OmegaConf.select(cfg, "resume", default=None) is None:  # a resumed run has its own configuration
        problems += run_problems(cfg) if config_name == "train" else evaluation_problems(cfg)
    raise_together(problems)


def _parse(arguments: Sequence[str]) -> tuple[list[Override], list[str]]:
    overrides, problems = [], []
    for argument in arguments:
        try:
            override = OverridesParser.create().parse_override(argument)
        except HydraException as error:
            problems.append(f"{argument!r} cannot be read as KEY=VALUE: {str(error).splitlines()[0]}")
            continue
        if override.key_or_group:
            overrides.append(override)
        else:
            problems.append(f"{argument!r} cannot be read as KEY=VALUE: the key is missing")
    return overrides, problems


def _lines(overrides: Sequence[Override]) -> list[str]:
    return [str(o.input_line) for o in overrides]


def _is_group(loader: ConfigLoader, override: Override) -> bool:
    name = override.get_key_element().lstrip("+~").split("@")[0]
    return bool(loader.get_group_options(name)) or name in loader.list_groups("")


def _group_problem(loader: ConfigLoader, override: Override) -> str | None:
    name = override.get_key_element().lstrip("+~").split("@")[0]
    options = loader.get_group_options(name)
    value = override.value()
    if override.is_sweep_override() or override.is_delete() or value is None:
        return None
    chosen = value if isinstance(value, list) else [value]
    unknown = [str(v) for v in chosen if str(v) not in options]
    if not unknown:
        return None
    return f"{name}={','.join(unknown)}: {name} must be one of {', '.join(options)}{_hint(unknown[0], options)}"


def _key_problem(override: Override, keys: Iterable[str], loader: ConfigLoader) -> str | None:
    if override.is_add() or override.is_force_add() or override.is_delete():
        return None
    key = override.key_or_group
    keys = list(keys)
    if key in keys or any(key.startswith(f"{k}.") for k in _OPEN_KEYS):
        return None
    groups = [g for g in loader.list_groups("") if g != "hydra"]
    return f"there is no key {key!r} in the configuration{_hint(key, [*keys, *groups])}"


_OPEN_KEYS = ("hydra.job.env_set", "hydra.launcher", "hydra.sweeper")


def _hint(word: str, options: Iterable[str]) -> str:
    inner = (".object.", ".source.", ".generator.", ".discriminator.")  # filled in by interpolation
    options = dict.fromkeys(o for o in options if not (o + ".").startswith("hydra.") or word.startswith("hydra"))
    options = [o for o in options if not any(part in o for part in inner)]
    near = difflib.get_close_matches(word, options, n=3, cutoff=0.6)
    leaf = word.rsplit(".", 1)[-1]
    near += [o for o in options if o.rsplit(".", 1)[-1] == leaf and o not in near][:3]
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _all_keys(node: Any, prefix: str = "") -> list[str]:
    """Dotted names of every node, lists included whole."""
    keys: list[str] = []
    if isinstance(node, DictConfig):
        for name in map(str, node):
            keys.append(f"{prefix}{name}")
            child = node._get_node(name)
            if isinstance(child, DictConfig):
                keys += _all_keys(child, f"{prefix}{name}.")
    return keys


Rule = tuple[Callable[[Any], bool], str]
"""Whether a value will do, and what it must be."""


def _whole(low: int) -> Rule:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= low, f"a whole number >= {low}"


def _number(low: float, strict: bool = False) -> Rule:
    def holds(v: Any) -> bool:
        return isinstance(v, int | float) and not isinstance(v, bool) and (v > low if strict else v >= low)

    return holds, f"a number {'>' if strict else '>='} {low:g}"


def _one_of(*choices: Any) -> Rule:
    return lambda v: v in choices and not isinstance(v, bool), "one of " + ", ".join(map(str, choices))


def _or_null(rule: Rule) -> Rule:
    return lambda v: v is None or rule[0](v), f"{rule[1]}, or null"


def _is_resolution(v: Any) -> bool:
    try:
        return isinstance(v, int) and bool(block_resolutions(v))
    except ValueError:
        return False


def _is_betas(v: Any) -> bool:
    return isinstance(v, ListConfig | list) and len(v) == 2 and all(isinstance(b, float) and 0 <= b < 1 for b in v)


_BOOL = (lambda v: isinstance(v, bool), "true or false")
_BETAS = (_is_betas, "two numbers with a decimal point in [0, 1), such as [0.0, 0.99]")
_PROBABILITY = (lambda v: _number(0)[0](v) and v <= 1, "a number between 0 and 1")

RULES: dict[str, Rule] = {
    "seed": _whole(0),
    "data.resolution": (_is_resolution, "a power of two >= 8 (8, 16, 32, ...)"),
    "data.channels": _one_of(1, 3, 4),
    "data.size": _whole(2),
    "data.seed": _whole(0),
    "data.on_error": _one_of("skip", "raise"),
    "data.mirror": _BOOL,
    "data.num_workers": _whole(0),
    "model.z_dim": _whole(1),
    "model.w_dim": _whole(1),
    "model.mapping_layers": _whole(0),
    "model.channel_base": _whole(1),
    "model.channel_max": _whole(1),
    "model.g_architecture": _one_of("skip", "resnet", "orig"),
    "model.d_architecture": _one_of("skip", "resnet", "orig"),
    "model.mbstd_group_size": _or_null(_whole(1)),
    "model.use_noise": _BOOL,
    "model.conv_clamp": _or_null(_number(0, strict=True)),
    "model.style_mixing_prob": _PROBABILITY,
    "model.r1_gamma": _number(0),
    "model.r1_interval": _whole(1),
    "model.pl_weight": _number(0),
    "model.pl_interval": _whole(1),
    "model.pl_batch_shrink": _whole(1),
    "model.pl_decay": _PROBABILITY,
    "model.g_lr": _number(0, strict=True),
    "model.d_lr": _number(0, strict=True),
    "model.g_betas": _BETAS,
    "model.d_betas": _BETAS,
    "model.adam_eps": _number(0, strict=True),
    "model.ema_kimg": _number(0),
    "model.ema_rampup": _or_null(_number(0, strict=True)),
    "schedule.total_kimg": _number(0, strict=True),
    "schedule.tick_kimg": _number(0, strict=True),
    "schedule.batch_size": _whole(1),
    "metrics.every_ticks": _whole(1),
    "metrics.extractor": _or_null(_one_of("efflite0", "inception")),
    "metrics.preset": _one_of("quick", "fid10k_full", "fid50k_full"),
    "metrics.num_fake": _or_null(_whole(2)),
    "callbacks.samples.rows": _whole(1),
    "callbacks.samples.columns": _whole(1),
    "callbacks.samples.every_ticks": _whole(1),
    "callbacks.samples.truncation_psi": _number(0),
    "callbacks.samples.seed": _whole(0),
    "callbacks.checkpoint.every_ticks": _whole(1),
    "trainer.accelerator": _one_of("auto", "cpu", "gpu", "cuda", "mps"),
    "precision.matmul": _one_of("highest", "high", "medium"),
    "logger.mode": _one_of("offline", "online"),
}

_EVALUATION_RULES: dict[str, Rule] = {
    "rows": _whole(1),
    "columns": _whole(1),
    "truncation_psi": _number(0),
}


def run_problems(cfg: DictConfig) -> list[str]:
    """Every value of a training configuration that cannot work."""
    broken = _broken(cfg, RULES)
    problems = [*broken.values(), *_relations(cfg, set(broken))]
    path = OmegaConf.select(cfg, "data.path", default=_ABSENT)
    if cfg.data.name == "image_folder" and path is None:
        problems.append("data=image_folder needs data.path=FOLDER (or a zip file)")
    elif cfg.data.name == "image_folder" and not Path(str(path)).expanduser().exists():
        problems.append(f"data.path must be a folder or a zip file; there is nothing at {path}")
    return problems


def evaluation_problems(cfg: DictConfig) -> list[str]:
    """The same for evaluate.py."""
    problems = list(_broken(cfg, RULES | _EVALUATION_RULES).values())
    if OmegaConf.is_missing(cfg, "ckpt"):
        problems.insert(0, "ckpt=... is needed: a checkpoint, a run directory, or a list of them")
    return problems


_ABSENT = object()


def _broken(cfg: DictConfig, rules: dict[str, Rule]) -> dict[str, str]:
    problems = {}
    for key, (holds, text) in rules.items():
        value = OmegaConf.select(cfg, key, default=_ABSENT)
        if value is not _ABSENT and not holds(value):
            problems[key] = f"{key} must be {text}; got {value!r}"
    return problems


def _relations(cfg: DictConfig, broken: set[str]) -> list[str]:
    """Values that are fine alone but not together; those of `broken` keys are not judged again."""
    model, problems = cfg.model, []

    def judged(*keys: str) -> bool:
        return not broken & set(keys)

    if judged("data.resolution", "model.channel_base") and model.channel_base // cfg.data.resolution < 1:
        problems.append(
            f"model.channel_base must be at least data.resolution, so that the last block has a channel; "
            f"got {model.channel_base} for {cfg.data.resolution}"
        )
    if judged("model.mbstd_group_size", "schedule.batch_size"):
        problems += _batch_problems(cfg.schedule.batch_size, model.mbstd_group_size)
    z_is_w = model.z_dim == model.w_dim
    if judged("model.mapping_layers", "model.z_dim", "model.w_dim") and model.mapping_layers == 0 and not z_is_w:
        problems.append(f"model.mapping_layers=0 needs model.z_dim == model.w_dim; got {model.z_dim} and {model.w_dim}")
    return problems


def _batch_problems(batch: int, group: int | None) -> list[str]:
    if batch < 2:
        return [f"schedule.batch_size must be at least 2: statistics are taken over batches; got {batch}"]
    if group and batch % min(group, batch):
        below, above = batch - batch % group, batch - batch % group + group
        return [
            f"schedule.batch_size must be divisible by model.mbstd_group_size={group}; got {batch}, "
            f"the nearest are {below} and {above}"
        ]
    return []


def check_batch_over_ranks(batch_size: int, group: int | None, ranks: int) -> None:
    """Raises UserError unless the batch splits evenly over the ranks, and each part into groups."""
    if batch_size % ranks:
        raise UserError(f"schedule.batch_size must be divisible by the {ranks} devices; got {batch_size}")
    part = batch_size // ranks
    if group and part % min(group, part):
        raise UserError(
            f"each of the {ranks} devices gets {part} images, which must be divisible by "
            f"model.mbstd_group_size={group}; change schedule.batch_size"
        )
