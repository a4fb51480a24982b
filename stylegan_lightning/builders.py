"""From a configuration to objects. The only module of the package that instantiates what configs name."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from stylegan_lightning.config.stored import PARTIAL, PARTS, TARGET, check_stored
from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.data.cache import default_cache_dir, prepare
from stylegan_lightning.data.labels import label_kind
from stylegan_lightning.data.streamed import Shards, StreamedDataset
from stylegan_lightning.errors import UserError, one_line
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
    """What a node names, with what its own nodes name; None for None. Raises UserError where that cannot be."""
    return None if node is None else _built(OmegaConf.to_container(node, resolve=True, throw_on_missing=True))


def _built(node: Any) -> Any:
    """Parts of this package come from their table, never by a path; anything else was typed by the user (`stored`)."""
    if isinstance(node, list):
        return [_built(value) for value in node]
    if not isinstance(node, dict):
        return node
    name = node.get(TARGET)
    try:
        if name is not None and name not in PARTS:
            return hydra.utils.instantiate(node, _convert_="all")
        given = {key: _built(value) for key, value in node.items() if key not in (TARGET, PARTIAL)}
        if name is None:
            return given
        return partial(PARTS[name], **given) if node.get(PARTIAL) else PARTS[name](**given)
    except UserError:
        raise
    except Exception as error:
        cause = error.__cause__ or error
        if isinstance(cause, UserError):
            raise cause from None
        raise UserError(f"{name} cannot be built: {cause}") from cause


def build_dataset(
    cfg: DictConfig, progress: Callable[[int, int], None] | None = None, cache_dir: str | Path | None = None
) -> PreparedDataset:
    """The prepared data of `cfg.data`; the first run on a data set reads all of it once. Shards are not prepared.

    With `cache_dir`, that of the configuration is only read.
    """
    source = _build(cfg.data.source)
    options: dict[str, Any] = {"cache_dir": cache_dir or cfg.data.cache_dir, "mirror": cfg.data.mirror}
    if isinstance(source, Shards):
        more = {key: cfg.data[key] for key in ("max_cache", "window_chunks")}
        dataset: PreparedDataset = StreamedDataset(source, **options, **more)
    else:
        made = cfg.data.cache_dir if cache_dir else None
        dataset = prepare(source, on_error=cfg.data.on_error, progress=progress, made_in=made, **options)
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


def checkpoint_config(checkpoint: dict[str, Any], path: Path) -> DictConfig:
    """The configuration inside a checkpoint, checked as data (`stored`), and that its networks are those of the
    weights beside it. Raises UserError."""
    cfg = OmegaConf.create(check_stored(checkpoint["config"], path))
    for key in ("model.generator", "model.discriminator", "model.name"):
        if OmegaConf.select(cfg, key) is None:
            raise UserError(f"{path} is damaged: its configuration lacks {key}")
    for prefix, build in (("G_ema.", build_generator), ("D.", build_discriminator)):
        state = under(checkpoint["state_dict"], prefix)
        if state or build is build_generator:
            _check_sizes(lambda build=build: build(cfg), state, f"{path}, {prefix[:-1]}")  # type: ignore[misc]
    return cfg


def _check_sizes(build: Callable[[], nn.Module], state: dict[str, Any], where: str) -> None:
    """Raises UserError where the network has other sizes than its weights; found without taking memory for it."""
    room = sum(t.numel() for t in state.values() if isinstance(t, torch.Tensor))
    try:
        with torch.device("meta"), _at_most(2 * room):
            network = build()
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    for name, tensor in _saved(network):
        other = state.get(name)
        if not isinstance(other, torch.Tensor) or tensor.shape != other.shape:
            there = list(other.shape) if isinstance(other, torch.Tensor) else "missing"
            raise UserError(
                f"{where}: the weights do not fit the configuration beside them: {name} is {there}, and should be "
                f"{list(tensor.shape)}"
            )


def _saved(network: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers that are saved, by name."""
    yield from network.named_parameters()
    for prefix, module in network.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield f"{prefix}.{name}" if prefix else name, buffer


@contextlib.contextmanager
def _at_most(limit: int) -> Iterator[None]:
    """While open, networks that this thread builds have at most `limit` numbers in parameters and buffers (and a
    million more in filters, which are not saved): raises UserError as they grow."""
    made, thread = 0, threading.get_ident()

    def count(module: nn.Module, name: str, tensor: torch.Tensor | None) -> None:
        nonlocal made
        if tensor is not None and threading.get_ident() == thread:
            made += tensor.numel()
            if made > limit + 1_000_000:
                raise UserError("the configuration asks for a larger network than there are weights for")

    handles = register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(count)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def load_weights(module: nn.Module, state: dict[str, torch.Tensor], prefix: str, path: Path) -> None:
    """Fills `module` with the entries of `state` under `prefix`. Raises UserError where they do not fit."""
    try:
        module.load_state_dict(under(state, prefix))
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"the weights in {path} do not fit this network: {one_line(error)}") from None


def restored_generator(checkpoint: dict[str, Any], path: Path) -> tuple[Generator, DictConfig]:
    """`G_ema` in eval mode, on the CPU, and the configuration of a checkpoint. Raises UserError as `load_generator`."""
    cfg = checkpoint_config(checkpoint, path)
    G = build_generator(cfg)
    load_weights(G, checkpoint["state_dict"], "G_ema.", path)
    return G.eval().requires_grad_(False), cfg


def load_generator(path: str | Path) -> Generator:
    """`G_ema` of a checkpoint or of a run directory's last checkpoint, in eval mode, on the CPU.

    Everything needed is in the file, which is read without executing anything in it.
    Raises UserError when it is missing, damaged, foreign, or names anything that is not in the table of `stored`.
    """
    path = find_checkpoint(path)
    return restored_generator(read_checkpoint(path), path)[0]
