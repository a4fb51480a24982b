"""Everything that can be wrong with a configuration, found before any work and reported together."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stylegan_lightning.builders import build_discriminator, build_generator, build_schedule, ranks_of
from stylegan_lightning.config_rules import ABSENT, EVALUATION_RULES, METRIC_RULES, RULES, broken_rules, whole
from stylegan_lightning.data.streamed import NO_BALANCE, PLACES
from stylegan_lightning.errors import UserError
from stylegan_lightning.networks import Generator, Growing, LowPrecision
from stylegan_lightning.schedule import Schedule
from stylegan_lightning.training.freeze import first_layers
from stylegan_lightning.training.recompute import recomputable_blocks

T = TypeVar("T")


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
        try:
            cfg = compose(config_name, _lines([*chosen, *known]))
        except (HydraException, OmegaConfBaseException) as error:
            raise_together([*problems, str(error).strip().splitlines()[0]])
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
    if unknown[0] in _ENGINES:
        extra = _ENGINES[unknown[0]]
        return f'{name}={unknown[0]} needs packages that are not installed: pip install "stylegan_lightning[{extra}]"'
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


_ENGINES = {
    "optuna": "sweeps",
    "joblib": "sweeps",
    "submitit_local": "sweeps",
    "submitit_slurm": "sweeps",
    "ray": "ray",
    "ray_aws": "ray",
}
"""Launchers and sweepers, and the extra that brings them."""
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
        for name in node:
            keys.append(f"{prefix}{name!s}")
            child = node._get_node(name)
            if isinstance(child, DictConfig):
                keys += _all_keys(child, f"{prefix}{name!s}.")
    return keys


def run_problems(cfg: DictConfig) -> list[str]:
    """Every value of a training configuration that cannot work."""
    rules = RULES | ({"data.resolution": whole(4)} if cfg.model.name == "mlp" else {})
    broken = broken_rules(cfg, rules)
    problems = [*broken.values(), *_relations(cfg, broken), *_label_problems(cfg), *_metric_problems(cfg)]
    path = OmegaConf.select(cfg, "data.path", default=ABSENT)
    if cfg.data.name == "image_folder" and path is None:
        problems.append("data=image_folder needs data.path=FOLDER (or a zip file)")
    elif cfg.data.name == "image_folder" and not Path(str(path)).expanduser().exists():
        problems.append(f"data.path must be a folder or a zip file; there is nothing at {path}")
    if cfg.data.name == "streamed" and path is None:
        problems.append(f"data=streamed needs data.path={PLACES}")
    if cfg.data.name == "streamed" and cfg.data.balance is True:
        problems.append(NO_BALANCE)
    return problems


def evaluation_problems(cfg: DictConfig) -> list[str]:
    """The same for evaluate.py."""
    problems = [*broken_rules(cfg, RULES | EVALUATION_RULES).values(), *_metric_problems(cfg)]
    if cfg.ckpt is None and cfg.fakes is None:
        problems.insert(0, "ckpt=... is needed: a checkpoint, a run directory, or a list of them (or fakes=FOLDER)")
    if cfg.ckpt is not None and cfg.fakes is not None:
        problems.append("ckpt= and fakes= name the same side of the comparison: give one of them, a list if need be")
    return problems


def _label_problems(cfg: DictConfig) -> list[str]:
    """Options that need labels where the data are told to have none."""
    wanted = [key for key in ("data.balance", "metrics.per_class") if OmegaConf.select(cfg, key) is True]
    option = "classes" if "classes" in cfg.data else "labels"
    value, problems = cfg.data.get(option, ABSENT), []
    if value in (None, False, "none"):
        remedy = f"needs labels: choose data.{option}, which is {value}, or leave it out"
        problems = [f"{key}=true {remedy}" for key in wanted]
    if "metrics.per_class" in wanted and not any(each.get("kind") == "frechet" for each in cfg.metrics.each.values()):
        problems.append("metrics.per_class=true needs a distance: choose metrics=fd_efflite0 or metrics=fid")
    return problems


def _metric_problems(cfg: DictConfig) -> list[str]:
    """Entries of metrics.each that are not metrics, and values in them that cannot work."""
    problems = []
    for name, each in cfg.metrics.each.items():
        unknown = [str(key) for key in each if key not in METRIC_RULES]
        missing = [key for key in ("kind", "preset", "every_ticks") if key not in each]
        problems += [f"metrics.each.{name} has no setting {key!r}{_hint(key, METRIC_RULES)}" for key in unknown]
        problems += [f"metrics.each.{name} needs {key}" for key in missing]
        broken = broken_rules(each, METRIC_RULES)
        problems += [f"metrics.each.{name}.{text}" for text in broken.values()]
    return problems


def _relations(cfg: DictConfig, broken: Iterable[str]) -> list[str]:
    """Values that are fine alone but not together, found by building schedule and networks, these without weights.

    What depends on a key of `broken` is not judged again.
    """
    cfg = cfg.copy()  # type: ignore[assignment]
    cfg.model.c_dim = 0
    sections = {key.split(".")[0] for key in broken}
    problems: list[str] = []
    schedule = None if "schedule" in sections else _try(build_schedule, cfg, problems)
    for batch_size in schedule.batch_sizes if schedule and "model.mbstd_group_size" not in broken else ():
        problems += _batch_problems(batch_size, cfg.model.get("mbstd_group_size"))
    if not sections & {"data", "model"}:
        with torch.device("meta"):
            G = _try(build_generator, cfg, problems)
            D = _try(build_discriminator, cfg, problems)
        if G is not None and D is not None:
            problems += _model_problems(cfg, G)
            problems += _growth_problems(cfg, G, D, schedule) if schedule else []
            problems += _recompute_problems(cfg, G, D)
            problems += _freeze_problems(cfg, D) if "transfer" not in sections else []
    return list(dict.fromkeys(problems))


def _try(build: Callable[[DictConfig], T], cfg: DictConfig, problems: list[str]) -> T | None:
    try:
        return build(cfg)
    except UserError as error:
        problems.append(str(error.__cause__ or error))
        return None


def _model_problems(cfg: DictConfig, G: Generator) -> list[str]:
    model, problems = cfg.model, []
    low = OmegaConf.select(cfg, "precision.low_dtype")
    if low is not None and not isinstance(G.synthesis, LowPrecision):
        problems.append(
            f"precision.low_dtype={low} is for StyleGAN 2 and 3; with model={model.name} use precision=fp32, tf32 or "
            "bf16_mixed"
        )
    if OmegaConf.select(cfg, "trainer.batch_per_device") and model.get("pl_weight", 0) > 0 and model.pl_interval == 1:
        problems.append(
            "model.pl_interval=1 needs whole batches: set it to 2 or more, or trainer.batch_per_device=null"
        )
    if model.style_mixing_prob > 0 and G.num_ws == 1:
        problems.append(
            f"model.style_mixing_prob must be 0: model={model.name} has one style; got {model.style_mixing_prob}"
        )
    if not len(getattr(G.mapping, "layers", [1])) and model.get("pl_weight", 0) > 0:
        problems.append(
            "path length needs a mapping network: set model.pl_weight=0, or model.mapping_layers to 1 or more"
        )
    return problems


def _growth_problems(cfg: DictConfig, G: Generator, D: Any, schedule: Schedule) -> list[str]:
    first, last = schedule.resolutions[0], schedule.resolutions[-1]
    if first < last and not (isinstance(G.synthesis, Growing) and isinstance(D, Growing)):
        return [
            f"this schedule grows from {first} to {last} pixels, which model={cfg.model.name} cannot: "
            "use schedule=fixed, or model=progan or model=stylegan1"
        ]
    return []


def _recompute_problems(cfg: DictConfig, G: Generator, D: Any) -> list[str]:
    wanted = OmegaConf.select(cfg, "trainer.activation_checkpointing", default=False)
    if wanted and not recomputable_blocks(G) and not recomputable_blocks(D):
        return [
            f"trainer.activation_checkpointing must be false: model={cfg.model.name} has no blocks that can be "
            "computed twice; for less memory use trainer.batch_per_device"
        ]
    return []


def _freeze_problems(cfg: DictConfig, D: Any) -> list[str]:
    wanted = [f"transfer.{key}" for key, value in cfg.get("transfer", {}).items() if value]
    if wanted and cfg.init_from is None:
        return [f"{' and '.join(wanted)} needs init_from=CHECKPOINT: what starts fresh cannot stay as it is"]
    problems: list[str] = []
    _try(lambda cfg: first_layers(D, OmegaConf.select(cfg, "transfer.freeze_d", default=0)), cfg, problems)
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


def check_batches_over_ranks(cfg: DictConfig, schedule: Schedule) -> None:
    """Raises UserError unless each batch splits evenly over the ranks and on each into parts, and these into groups."""
    for batch_size in schedule.batch_sizes:
        _check_batch(batch_size, cfg.model.get("mbstd_group_size"), ranks_of(cfg), cfg.trainer.get("batch_per_device"))


def _check_batch(batch_size: int, group: int | None, ranks: int, batch_per_device: int | None) -> None:
    if batch_size % ranks:
        raise UserError(f"schedule.batch_size must be divisible by the {ranks} devices; got {batch_size}")
    part = batch_size // ranks
    if batch_per_device is not None and part > batch_per_device:
        if part % batch_per_device:
            raise UserError(
                f"each of the {ranks} devices gets {part} images, which must be divisible by trainer.batch_per_device="
                f"{batch_per_device}"
            )
        part = batch_per_device
    if group and part % min(group, part):
        raise UserError(
            f"each of the {ranks} devices gets {part} images at a time, which must be divisible by "
            f"model.mbstd_group_size={group}; change schedule.batch_size or trainer.batch_per_device"
        )
