"""From a configuration to objects. The only module of the package that instantiates what configs name."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.data.cache import default_cache_dir, prepare
from stylegan_lightning.data.labels import label_kind
from stylegan_lightning.data.streamed import Shards, StreamedDataset
from stylegan_lightning.errors import UserError
from stylegan_lightning.metrics.features import FeatureExtractor, ModuleFeatures, load_extractor
from stylegan_lightning.metrics.perceptual import PerceptualDistance, load_distance
from stylegan_lightning.metrics.preset import Resize, get_preset, with_counts
from stylegan_lightning.metrics.suite import Entry, Suite, Tools, build_metric
from stylegan_lightning.networks import Generator, LowPrecision
from stylegan_lightning.recipes import RESOLVERS
from stylegan_lightning.schedule import Schedule
from stylegan_lightning.training.checkpoint import find_checkpoint, read_checkpoint, under
from stylegan_lightning.training.module import GAN, AdamSettings, EMASettings
from stylegan_lightning.training.recompute import set_activation_checkpointing

OURS = "stylegan_lightning."


def device_count(devices: Any) -> int:
    """How many devices `trainer.devices` stands for: a number, a list, or all (-1, "auto")."""
    if isinstance(devices, ListConfig | list):
        return len(devices)
    if str(devices) in ("-1", "auto"):
        return max(torch.cuda.device_count(), 1)
    return int(devices)


def launched(what: str) -> int:
    """Number of `nodes`, or of `devices` on each, that torchrun or srun has started processes for.

    Without them, this node and all its devices.
    """
    names = {"nodes": ("GROUP_WORLD_SIZE", "SLURM_NNODES"), "devices": ("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE")}
    given = [os.environ[name] for name in names[what] if name in os.environ]
    return int(given[0]) if given else {"nodes": 1, "devices": -1}[what]


def ranks_of(cfg: DictConfig) -> int:
    """Processes that share the batch, over all nodes."""
    return device_count(cfg.trainer.devices) * int(cfg.trainer.num_nodes)


for _name, _function in RESOLVERS.items():
    OmegaConf.register_new_resolver(_name, _function, replace=True)  # type: ignore[arg-type]


def group_options(group: str) -> str:
    """The choices of a configuration group, for help."""
    return ", ".join(GlobalHydra.instance().config_loader().get_group_options(group))


OmegaConf.register_new_resolver("options", group_options, replace=True)
OmegaConf.register_new_resolver("device_count", device_count, replace=True)
OmegaConf.register_new_resolver("launched", launched, replace=True)


def to_plain(cfg: DictConfig) -> dict[str, Any]:
    """Resolved plain containers: what goes into checkpoints and loads with weights_only."""
    plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)
    assert isinstance(plain, dict)
    return {str(k): v for k, v in plain.items() if k != "hydra"}


def _build(node: Any) -> Any:
    if node is None:
        return None
    try:
        return hydra.utils.instantiate(node, _convert_="all")
    except hydra.errors.InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        raise UserError(f"{node.get('_target_')} cannot be built: {cause or error}") from error


def build_dataset(cfg: DictConfig, progress: Callable[[int, int], None] | None = None) -> PreparedDataset:
    """The prepared data of `cfg.data`; the first run on a data set reads all of it once. Shards are not prepared."""
    data = cfg.data
    if data.get("path", "") is None:
        data = OmegaConf.merge(data, {"path": str(default_cache_dir() / "torchvision")})
        cfg = OmegaConf.merge(cfg, {"data": data})  # type: ignore[assignment]
    source = _build(cfg.data.source)
    options: dict[str, Any] = {"cache_dir": cfg.data.cache_dir, "mirror": cfg.data.mirror}
    if isinstance(source, Shards):
        more = {key: cfg.data[key] for key in ("max_cache", "window_chunks")}
        dataset: PreparedDataset = StreamedDataset(source, **options, **more)
    else:
        dataset = prepare(source, on_error=cfg.data.on_error, progress=progress, **options)
    if len(dataset.images) < 2:
        raise UserError(f"{dataset.name} has {len(dataset.images)} image; training needs at least 2")
    return dataset if cfg.get("first_images") is None else dataset.first(cfg.first_images)


def fit_labels(cfg: DictConfig, dataset: PreparedDataset) -> None:
    """Tells the model what labels the data have."""
    cfg.model.c_dim = dataset.c_dim
    if "shared_logit" in cfg.model and cfg.model.shared_logit is None:
        cfg.model.shared_logit = label_kind(dataset.targets) in ("attributes", "vectors")


def build_schedule(cfg: DictConfig) -> Schedule:
    return _build(cfg.schedule.object)


def build_generator(cfg: DictConfig) -> Generator:
    return _build(cfg.model.generator)


def build_discriminator(cfg: DictConfig) -> nn.Module:
    return _build(cfg.model.discriminator)


def build_module(cfg: DictConfig, schedule: Schedule) -> GAN:
    """The LightningModule with freshly initialised networks, drawn from `cfg.seed`."""
    torch.manual_seed(cfg.seed)
    model = cfg.model
    g_penalties = {name: _build(p) for name, p in model.g_penalties.items() if p.weight > 0}
    d_penalties = {name: _build(p) for name, p in model.d_penalties.items() if p.gamma > 0}
    G, D = build_generator(cfg), build_discriminator(cfg)
    set_precision(cfg, G, D)
    gan = GAN(
        G,
        D,
        loss=_build(model.loss),
        g_penalties=g_penalties,
        d_penalties=d_penalties,
        schedule=schedule,
        style_mixing_prob=model.style_mixing_prob,
        g_interval=model.g_interval,
        ema=EMASettings(model.ema_kimg, model.ema_rampup),
        g_adam=AdamSettings(tuple(model.g_betas), model.adam_eps),
        d_adam=AdamSettings(tuple(model.d_betas), model.adam_eps),
        augment=_build(cfg.augment.pipe),
        strength=_build(cfg.augment.strength),
        batch_per_device=cfg.trainer.batch_per_device,
        seed=cfg.seed,
        config=to_plain(cfg),
        **cfg.get("transfer", {}),
    )
    for net in (G, D):
        set_activation_checkpointing(net, bool(OmegaConf.select(cfg, "trainer.activation_checkpointing")))
    return gan


def set_precision(cfg: DictConfig, G: Generator, D: nn.Module) -> None:
    """Low precision in the highest resolutions of the networks that have it, as `cfg.precision` says."""
    if cfg.precision.low_dtype is not None:
        for net in (G.synthesis, D):
            assert isinstance(net, LowPrecision)
            net.set_low_precision(getattr(torch, cfg.precision.low_dtype), cfg.precision.num_resolutions)


def build_suite(cfg: DictConfig, psi: float = 1.0) -> Suite:
    """The metrics of `cfg.metrics`, measured at truncation `psi`. Raises UserError where weights are missing."""
    tools = MetricTools(cfg)
    return Suite([tools.entry(each, psi) for each in cfg.metrics.each.values()])


class MetricTools:
    """Builds metrics from their configuration; networks that several need are loaded once."""

    def __init__(self, cfg: DictConfig) -> None:
        self.settings = cfg.metrics
        self._extractors: dict[tuple[str, Resize], FeatureExtractor] = {}
        self._distances: dict[str, PerceptualDistance] = {}

    def entry(self, each: DictConfig, psi: float) -> Entry:
        """`each` is an entry of metrics.each; settings of metrics itself go before it."""
        common = self.settings
        preset = with_counts(get_preset(common.preset or each.preset), common.num_real, common.num_fake)
        preset = dataclasses.replace(preset, truncation_psi=psi)
        extractor = each.get("extractor")
        if extractor is not None and each.kind != "score":  # which only Inception has
            extractor = common.extractor or extractor
        tools = Tools(
            preset,
            extractor=lambda: self.extractor(extractor, preset.resize),
            perceptual=lambda: self.distance(common.perceptual or each.perceptual),
            classifier=_build(each.get("classifier")),
            bootstrap=common.bootstrap,
            infinity=common.infinity,
            per_class=common.per_class,
        )
        return Entry(build_metric(each.kind, tools), common.get("every_ticks") or each.every_ticks)

    def extractor(self, choice: str | DictConfig, resize: Resize) -> FeatureExtractor:
        """By name, or any module by `_target_`."""
        key = str(choice), resize
        if key not in self._extractors:
            if isinstance(choice, str):
                self._extractors[key] = load_extractor(choice, self.settings.weights.get(choice), resize)
            else:
                built = _build(choice)
                given = isinstance(built, FeatureExtractor)
                self._extractors[key] = built if given else ModuleFeatures(built, type(built).__name__.lower())
        return self._extractors[key]

    def distance(self, name: str) -> PerceptualDistance:
        if name not in self._distances:
            self._distances[name] = load_distance(name, self.settings.weights.vgg16)
        return self._distances[name]


_COPIES = {
    "schedule.total_kimg": ("schedule.object.total_kimg",),
    "data.path": ("data.source.path", "data.source.root"),
}


def change(cfg: DictConfig, key: str, value: Any) -> None:
    """Sets `key` in a resolved configuration, and the places that were interpolations of it."""
    OmegaConf.update(cfg, key, value, merge=False, force_add=True)
    for copy in _COPIES.get(key, ()):
        if OmegaConf.select(cfg, copy, default=None) is not None:
            OmegaConf.update(cfg, copy, value)


def cache_dir(cfg: DictConfig) -> Path:
    return Path(cfg.cache_dir).expanduser() if cfg.cache_dir else default_cache_dir()


def foreign_targets(node: Any) -> list[str]:
    """Every `_target_` in `node` that is not a part of this package."""
    if isinstance(node, dict):
        target = node.get("_target_", OURS)
        own = [] if str(target).startswith(OURS) else [str(target)]
        return own + [t for value in node.values() for t in foreign_targets(value)]
    if isinstance(node, list):
        return [t for value in node for t in foreign_targets(value)]
    return []


def checkpoint_config(checkpoint: dict[str, Any], path: Path) -> DictConfig:
    """The configuration inside a checkpoint. Raises UserError when it would run code from outside this package."""
    config = {**checkpoint["config"]}
    metrics = config.get("metrics", {})
    own = {name: each for name, each in metrics.get("each", {}).items() if not foreign_targets(each)}
    if len(own) < len(metrics.get("each", {})):  # a metric is not worth refusing the model for
        config["metrics"] = {**metrics, "each": own}
    foreign = foreign_targets(config)
    if foreign:
        raise UserError(f"{path} names code outside this package, which is not run: {', '.join(sorted(set(foreign)))}")
    cfg = OmegaConf.create(config)
    assert isinstance(cfg, DictConfig)
    return cfg


def load_weights(module: nn.Module, state: dict[str, torch.Tensor], prefix: str, path: Path) -> None:
    """Fills `module` with the entries of `state` under `prefix`. Raises UserError where they do not fit."""
    try:
        module.load_state_dict(under(state, prefix))
    except RuntimeError as error:
        raise UserError(f"the weights in {path} do not fit this network: {error}") from None


def load_generator(path: str | Path) -> Generator:
    """`G_ema` of a checkpoint or of a run directory's last checkpoint, in eval mode, on the CPU.

    Everything needed is in the file, which is read without executing anything in it.
    Raises UserError when it is missing, damaged, foreign, or names code outside this package.
    """
    path = find_checkpoint(path)
    checkpoint = read_checkpoint(path)
    G = build_generator(checkpoint_config(checkpoint, path))
    load_weights(G, checkpoint["state_dict"], "G_ema.", path)
    return G.eval().requires_grad_(False)
