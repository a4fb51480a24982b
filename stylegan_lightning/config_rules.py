"""What each key of a configuration must be, by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from stylegan_lightning.data.streamed import size_in_bytes
from stylegan_lightning.metrics.features import EXTRACTORS
from stylegan_lightning.metrics.perceptual import DISTANCES
from stylegan_lightning.metrics.preset import PRESETS
from stylegan_lightning.metrics.suite import METRICS
from stylegan_lightning.networks.stylegan2 import block_resolutions

Rule = tuple[Callable[[Any], bool], str]
"""Whether a value will do, and what it must be."""


LARGEST_SEED = 2**63 - 1


def whole(low: int, high: int | None = None) -> Rule:
    text = f"a whole number >= {low}" if high is None else f"a whole number from {low} to {high}"
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v <= (high or 2**63), text


def _number(low: float, strict: bool = False) -> Rule:
    def holds(v: Any) -> bool:
        return isinstance(v, int | float) and not isinstance(v, bool) and (v > low if strict else v >= low)

    return holds, f"a number {'>' if strict else '>='} {low:g}"


def _one_of(*choices: Any) -> Rule:
    return lambda v: any(v is c or (v == c and not isinstance(v, bool)) for c in choices), "one of " + ", ".join(
        map(str, choices)
    )


def _or_null(rule: Rule) -> Rule:
    return lambda v: v is None or rule[0](v), f"{rule[1]}, or null"


def _list_of(holds: Callable[[Any], bool], what: str) -> Rule:
    return lambda v: isinstance(v, ListConfig | list) and all(map(holds, v)), f"a list of {what}"


def _table(rule: Rule, example: str) -> Rule:
    """Values by resolution."""

    def holds(v: Any) -> bool:
        return isinstance(v, DictConfig | dict) and all(isinstance(k, int) and rule[0](x) for k, x in v.items())

    return holds, f"a table of resolutions, such as {example}, each value {rule[1]}"


def _is_resolution(v: Any) -> bool:
    try:
        return isinstance(v, int) and bool(block_resolutions(v))
    except ValueError:
        return False


def _is_size(v: Any) -> bool:
    try:
        return v is None or size_in_bytes(v) is not None
    except ValueError:
        return False


def _is_betas(v: Any) -> bool:
    return isinstance(v, ListConfig | list) and len(v) == 2 and all(isinstance(b, float) and 0 <= b < 1 for b in v)


_BOOL = (lambda v: isinstance(v, bool), "true or false")
_BETAS = (_is_betas, "two numbers with a decimal point in [0, 1), such as [0.0, 0.99]")
_PROBABILITY = (lambda v: _number(0)[0](v) and v <= 1, "a number between 0 and 1")

_DATA_PARALLEL = (
    "auto or ddp: the networks fit one device each, and R1 and path length need gradients of gradients, which sharded "
    "parameters do not give; for more memory use trainer.batch_per_device or trainer.activation_checkpointing"
)
_LIGHTNING = (
    "32-true or bf16-mixed: float16 of whole networks needs loss scaling, which gradients of gradients break; "
    "precision=fp16 has float16 where it is safe"
)

_is_network = (
    lambda v: v in EXTRACTORS if isinstance(v, str) else isinstance(v, DictConfig | dict) and "_target_" in v,
    f"one of {', '.join(EXTRACTORS)}, or {{_target_: your.Module}}",
)

METRIC_RULES: dict[str, Rule] = {
    "kind": _one_of(*METRICS),
    "preset": _one_of(*PRESETS),
    "every_ticks": whole(1),
    "extractor": _is_network,
    "perceptual": _one_of(*DISTANCES),
    "classifier": (lambda v: v is None or "_target_" in v, "{_target_: your.Classifier}, or null"),
}
"""Of each entry of metrics.each."""

RULES: dict[str, Rule] = {
    "seed": whole(0, LARGEST_SEED),
    "first_images": _or_null(whole(2)),
    "trainer.profiler": _one_of(None, "simple", "advanced", "pytorch"),
    "trainer.detect_anomaly": _BOOL,
    "transfer.freeze_d": whole(0),
    "transfer.freeze_mapping": _BOOL,
    "data.resolution": (_is_resolution, "a power of two >= 8 (8, 16, 32, ...)"),
    "data.channels": _one_of(1, 3, 4),
    "data.size": whole(2),
    "data.seed": whole(0, LARGEST_SEED),
    "data.on_error": _one_of("skip", "raise"),
    "data.mirror": _BOOL,
    "data.balance": _BOOL,
    "data.follow_links": _BOOL,
    "data.num_workers": whole(0),
    "data.window_chunks": whole(1),
    "data.max_cache": (_is_size, "a size such as 500MB, 10GB or 1.5TB, or null for no limit"),
    "model.z_dim": whole(1),
    "model.w_dim": whole(1),
    "model.mapping_layers": whole(0),
    "model.d_mapping_layers": whole(0),
    "model.channel_base": whole(1),
    "model.channel_max": whole(1),
    "model.channel_multiplier": _number(0, strict=True),
    "model.g_architecture": _one_of("skip", "resnet", "orig"),
    "model.d_architecture": _one_of("skip", "resnet", "orig"),
    "model.mbstd_group_size": _or_null(whole(1)),
    "model.shared_logit": _or_null(_BOOL),
    "model.use_noise": _BOOL,
    "model.conv_clamp": _or_null(_number(0, strict=True)),
    "model.style_mixing_prob": _PROBABILITY,
    "model.r1_gamma": _number(0),
    "model.r1_interval": whole(1),
    "model.pl_weight": _number(0),
    "model.pl_interval": whole(1),
    "model.pl_batch_shrink": whole(1),
    "model.pl_decay": _PROBABILITY,
    "model.g_interval": whole(1),
    "model.gp_gamma": _number(0),
    "model.gp_center": _number(0),
    "model.gp_resolution": _or_null(whole(4)),
    "model.r1_resolution": _or_null(whole(4)),
    "model.fused_scale": _one_of(True, False, "auto"),
    "model.g_lr": _number(0, strict=True),
    "model.d_lr": _number(0, strict=True),
    "model.g_betas": _BETAS,
    "model.d_betas": _BETAS,
    "model.adam_eps": _number(0, strict=True),
    "model.ema_kimg": _number(0),
    "model.ema_rampup": _or_null(_number(0, strict=True)),
    "schedule.total_kimg": _number(0, strict=True),
    "schedule.tick_kimg": _number(0, strict=True),
    "schedule.batch_size": whole(1),
    "schedule.start_resolution": whole(4),
    "schedule.stabilise_kimg": _number(0),
    "schedule.fade_kimg": _number(0),
    "schedule.minibatch_repeats": whole(1),
    "schedule.batch_sizes": _or_null(_table(whole(1), "{4: 16, 8: 16}")),
    "schedule.lrs": _or_null(_table(_number(0, strict=True), "{128: 0.0015}")),
    "metrics.preset": _or_null(_one_of(*PRESETS)),
    "metrics.num_fake": _or_null(whole(2)),
    "metrics.num_real": _or_null(whole(2)),
    "metrics.extractor": _or_null(_is_network),
    "metrics.perceptual": _or_null(_one_of(*DISTANCES)),
    "metrics.every_ticks": _or_null(whole(1)),
    "metrics.per_class": _BOOL,
    "metrics.infinity": _BOOL,
    "metrics.bootstrap": (lambda v: whole(0)[0](v) and v != 1, "0, or a whole number >= 2"),
    "callbacks.samples.rows": whole(1),
    "callbacks.samples.columns": whole(1),
    "callbacks.samples.every_ticks": whole(1),
    "callbacks.samples.truncation_psi": _number(0),
    "callbacks.samples.seed": whole(0, LARGEST_SEED),
    "callbacks.showcase.enabled": _BOOL,
    "callbacks.showcase.every_ticks": _or_null(whole(1)),
    "callbacks.checkpoint.every_ticks": whole(1),
    "callbacks.checkpoint.keep_every_ticks": _or_null(whole(1)),
    "on_divergence": _one_of("stop", "rewind"),
    "callbacks.divergence.max_logit": _number(0, strict=True),
    "callbacks.divergence.max_rewinds": whole(0),
    "augment.preset": _one_of(
        "blit", "geom", "color", "filter", "noise", "cutout", "bg", "bgc", "bgcf", "bgcfn", "bgcfnc"
    ),
    "augment.target": _number(-1),
    "augment.interval": whole(1),
    "augment.kimg": _number(0),
    "augment.start": _PROBABILITY,
    "augment.p": _PROBABILITY,
    "augment.max_p": _PROBABILITY,
    "augment.shape": _one_of("linear", "cosine"),
    "trainer.strategy": (lambda v: v in ("auto", "ddp"), _DATA_PARALLEL),
    "trainer.batch_per_device": _or_null(whole(1)),
    "trainer.activation_checkpointing": _BOOL,
    "trainer.num_nodes": whole(1),
    "trainer.accelerator": _one_of("auto", "cpu", "gpu", "cuda", "mps"),
    "precision.matmul": _one_of("highest", "high", "medium"),
    "precision.low_dtype": _one_of(None, "float16", "bfloat16"),
    "precision.num_resolutions": whole(0),
    "precision.lightning": (lambda v: v in ("32-true", "bf16-mixed"), _LIGHTNING),
    "logger.mode": _one_of("offline", "online"),
    "logger.tags": _list_of(
        lambda v: 0 < len(str(v)) <= 64, "texts of 1 to 64 characters, such as [faces]; [] for none"
    ),
    "logger.artifacts": _or_null(
        _list_of(lambda v: v in ("best", "last"), "best and last, such as [best]; [] for none")
    ),
}

EVALUATION_RULES: dict[str, Rule] = {
    "rows": whole(1),
    "columns": whole(1),
    "truncation_psi": _number(0),
    "follow_links": _BOOL,
}

ABSENT = object()
"""In place of the value of a key that a configuration does not have."""


def broken_rules(cfg: DictConfig, rules: dict[str, Rule]) -> dict[str, str]:
    problems = {}
    for key, (holds, text) in rules.items():
        value = OmegaConf.select(cfg, key, default=ABSENT)
        if value is not ABSENT and not holds(value):
            problems[key] = f"{key} must be {text}; got {value!r}"
    return problems
