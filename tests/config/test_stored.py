"""Files run no code and take no more memory than they have bytes: configurations, archives, weights."""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import pkgutil
import resource
import sys
import types

import pytest
import safetensors.torch
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from typer.testing import CliRunner

import stylegan_lightning
from stylegan_lightning import builders, networks
from stylegan_lightning.cli.main import app
from stylegan_lightning.config import stored
from stylegan_lightning.config.stored import PARTS, PLACES, check_stored
from stylegan_lightning.errors import UserError
from stylegan_lightning.training.checkpoint import read_checkpoint
from tests.conftest import ROOT

SMALL = ("data.resolution=8", "model.z_dim=8", "model.w_dim=8", "model.mapping_layers=2", "model.channel_base=64",
         "model.channel_max=8")  # fmt: skip


def composed(*overrides: str):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", ["run_dir=x", "model.c_dim=0", *overrides])


@pytest.fixture(scope="module")
def untrained():
    """What a checkpoint holds, of a small StyleGAN2."""
    cfg = composed(*SMALL)
    module = builders.build_module(cfg, builders.build_schedule(cfg))
    return {"state_dict": module.state_dict(), "config": builders.to_plain(cfg), "progress": {"nimg": 1000}}


@pytest.fixture
def save(untrained, tmp_path):
    """save(change, kind): a checkpoint or an exported generator whose configuration `change` has altered."""

    def write(change=lambda config: None, kind: str = ".ckpt"):
        content = {**untrained, "config": copy.deepcopy(untrained["config"])}
        change(content["config"])
        torch.save(content, tmp_path / "model.ckpt")
        if kind == ".ckpt":
            return tmp_path / "model.ckpt"
        weights = {k.removeprefix("G_ema."): v.contiguous() for k, v in content["state_dict"].items() if "G_ema." in k}
        about = {"format": "stylegan_lightning generator 1", "config": json.dumps(content["config"]), "nimg": "1000"}
        safetensors.torch.save_file(weights, tmp_path / "model.safetensors", about)
        return tmp_path / "model.safetensors"

    return write


def put(key: str, value):
    """A change of a configuration: `value` at the dotted `key`."""

    def change(config):
        *above, last = key.split(".")
        for name in above:
            config = config[name]
        config[last] = value

    return change


# ------------------------------------------------------------------------------------------- names of code


def modules():
    package = stylegan_lightning.__path__, "stylegan_lightning."
    names = [m.name for m in pkgutil.walk_packages(*package) if not m.name.endswith("__main__")]
    return ["stylegan_lightning", *names]


def attribute_paths(name: str):
    """Every path that begins at a module of the package, through the modules that it holds, two of them deep."""
    module = importlib.import_module(name)
    for first, inner in vars(module).items():
        yield f"{name}.{first}"
        if isinstance(inner, types.ModuleType):
            for second, deeper in list(vars(inner).items()):
                yield f"{name}.{first}.{second}"
                if isinstance(deeper, types.ModuleType) and second in ("hub", "serialization", "path", "_C", "utils"):
                    yield from (f"{name}.{first}.{second}.{third}" for third in vars(deeper))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("module", modules())
def test_no_path_of_attributes_leads_out_of_the_table(module, tmp_path):
    """Also those to functions and classes of the package itself that are not in the table."""
    paths = [p for p in attribute_paths(module) if p not in PARTS]
    for path in paths:
        with pytest.raises(UserError, match="it is not run"):
            check_stored({"model": {"generator": {"_target_": path}}}, tmp_path)


def test_the_table_is_of_classes_and_does_not_follow_imports(save, monkeypatch):
    """Whatever a module holds under a name of the table or under a new one, what is built stays the same."""
    path, called = save(), []
    for module, name in ((networks, "Generator"), (networks, "MappingNetwork"), (networks, "StyleGAN2Synthesis")):
        monkeypatch.setattr(module, name, called.append)
    assert stylegan_lightning.load(path).img_resolution == 8 and not called
    monkeypatch.setattr(networks, "extra", torch, raising=False)
    with pytest.raises(UserError, match="it is not run"):
        stylegan_lightning.load(save(put("model.generator._target_", "stylegan_lightning.networks.extra.load")))
    assert all(inspect.isclass(part) and part.__module__.startswith("stylegan_lightning.") for part in PARTS.values())


def attacks(folder):
    """Change of a configuration, and how often it would leave a trace."""
    hub = {"repo_or_dir": str(folder), "source": "local", "model": "evil", "trust_repo": True}
    pickled = {"f": str(folder / "evil.pkl"), "weights_only": False}
    target, own = "_target_", "stylegan_lightning.builders"
    generator = {target: "stylegan_lightning.networks.Generator"}
    touch = {target: "os.system", "command": f"touch {folder}/pwned"}
    return {
        "hub": put("model.generator", {target: f"{own}.torch.hub.load", **hub}),
        "pickle": put("model.generator", {target: f"{own}.torch.load", **pickled}),
        "foreign": put("model.generator", touch),
        "nested": put("model.generator.synthesis", touch),
        "deeper": put("model.generator.synthesis.resample_filter", [touch]),
        "argument": put("model.generator.mapping.z_dim", touch),
        "mapping": put("model.generator.mapping._target_", "os.system"),
        "discriminator": put("model.discriminator", touch),
        "loss": put("model.loss", touch),
        "penalty": put("model.d_penalties.evil", touch),
        "schedule": put("schedule.object", touch),
        "source": put("data.source", touch),
        "augment": put("augment.pipe", touch),
        "elsewhere": put("evil", {"a": [{"b": touch}]}),
        "object": put("model.generator._target_", ["os.system"]),
        "wrong place": put("model.generator", {target: "stylegan_lightning.data.faces.Faces"}),
        "partial": put("model.generator", {**generator, "_partial_": True}),
        "args": put("model.generator", {**generator, "_args_": [touch]}),
        "recursive": put("model.generator._recursive_", False),
        "convert": put("model.generator._convert_", "none"),
        "no target": put("model.generator", {"_args_": [1]}),
        "interpolation": put("model.generator.synthesis.img_channels", "${oc.env:HOME}"),
        "resolver": put("data.path", "a${oc.decode:x}"),
        "in a key": lambda config: config["data"].update({"${oc.env:HOME}": 1}),
        "reference": put("seed", "${data}"),
    }


@pytest.fixture
def trap(tmp_path):
    """A folder with code that leaves a trace when it runs."""
    (tmp_path / "hubconf.py").write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')\ndef evil(): return 1\n")
    (tmp_path / "evil.pkl").write_bytes(f"cos\nsystem\n(S'touch {tmp_path}/pwned'\ntR.".encode())
    return tmp_path


NAMES = sorted(attacks(ROOT))


@pytest.mark.parametrize("kind", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("name", NAMES)
def test_no_configuration_runs_code(name, kind, trap, save):
    path = save(attacks(trap)[name], kind)
    with pytest.raises(UserError, match=r"model\.(ckpt|safetensors)") as caught:
        stylegan_lightning.load(path)
    assert "\n" not in str(caught.value) and not (trap / "pwned").exists()


@pytest.mark.parametrize("verb", [c.name or c.callback.__name__ for c in app.registered_commands])
@pytest.mark.parametrize("name", ["hub", "pickle", "args"])
def test_no_verb_runs_code(verb, name, trap, save, monkeypatch):
    monkeypatch.chdir(trap)
    more = {"edit": ["0", "--style", "1"], "project": ["a.png"], "export": ["G.safetensors"],
            "explore": ["--port", "0"], "repair": ["a.png", "--task", "denoise"]}  # fmt: skip
    result = CliRunner().invoke(app, [verb, str(save(attacks(trap)[name])), *more.get(verb, [])])
    assert isinstance(result.exception, UserError) and "model.ckpt" in str(result.exception), result.output
    assert not (trap / "pwned").exists()


@pytest.mark.parametrize("name", ["hub", "pickle", "args"])
@pytest.mark.parametrize(
    "command", ["evaluate.py ckpt=", "evaluate.py fakes=", "train.py resume=", "train.py init_from="], ids=str.strip
)
def test_no_command_runs_code(command, name, trap, save, run, tiny):
    script, key = command.split()
    place = f"run_dir={trap}/r" if script == "train.py" else f"out_dir={trap}/e"
    arguments = (*tiny, "logger=csv") if key == "init_from=" else ()
    done = run(script, f"{key}{save(attacks(trap)[name])}", place, *arguments)
    assert done.code == 2 and "model.ckpt" in done.err and not (trap / "pwned").exists()


# ---------------------------------------------------------------------------------------------- arguments


def arguments():
    for place, table in PLACES.items():
        for name, part in table.items():
            for argument, parameter in inspect.signature(part).parameters.items():
                if f"{place}.{argument}" not in PLACES:
                    yield pytest.param(place.replace("*", "x"), name, argument, parameter, id=f"{name}.{argument}")


@pytest.mark.parametrize(("place", "name", "argument", "parameter"), list(arguments()))
def test_every_argument_is_of_the_kind_that_its_class_takes(place, name, argument, parameter, tmp_path):
    def check(given):
        node = {"_target_": name, argument: given}
        node |= {"_partial_": True} if place in stored.UNFINISHED else {}
        config: dict = {}
        for key in reversed(place.split(".")):
            config, node = {key: node}, {key: node}
        if place.startswith("model.generator."):
            config["model"]["generator"]["_target_"] = "stylegan_lightning.networks.Generator"
        return check_stored(config, tmp_path)

    if isinstance(parameter.default, int | float | str):
        check(parameter.default)
    for wrong in ({"a": 1}, [[1]], [None], object(), b"x", 1j, float("nan"), 2**65, [1] * 100_000, {1: {2: 3}}):
        with pytest.raises(UserError, match=rf"{argument}|damaged"):
            check(wrong)
    if parameter.annotation in ("float", "float | None"):
        check(-1)
    elif parameter.annotation != "bool":
        with pytest.raises(UserError, match=argument):
            check(-1)
    if "str" not in parameter.annotation:
        with pytest.raises(UserError, match=argument):
            check("word")


def test_arguments_that_no_class_takes(save):
    with pytest.raises(UserError, match=r"'hidden', which StyleGAN2Synthesis does not take"):
        stylegan_lightning.load(save(put("model.generator.synthesis.hidden", 1)))


@pytest.mark.parametrize("choice", ["model", "loss@model.loss", "schedule", "data", "augment", "experiment"])
def test_the_table_has_all_that_our_own_configurations_build(choice, tmp_path):
    for option in sorted((ROOT / "conf" / choice.split("@")[0]).glob("*.yaml")):
        path = ["data.path=x"] if option.stem in ("image_folder", "streamed") else []
        plain = builders.to_plain(composed(f"{choice}={option.stem}", *path))
        assert check_stored(plain, tmp_path) == plain


# --------------------------------------------------------------------------------------------------- sizes


def doubled(levels: int):
    node: list = [0]
    for _ in range(levels):
        node = [node, node]
    return node


def nested(levels: int):
    node: dict = {}
    for _ in range(levels):
        node = {"a": node}
    return node


HUGE = {
    "wide": put("model.generator.mapping.z_dim", 2**31),
    "deep": put("model.generator.mapping.num_layers", 2**31),
    "channels": put("model.generator.synthesis.w_dim", 2**31),
    "resolution": put("model.generator.synthesis.img_resolution", 2**13),
    "negative": put("model.generator.mapping.z_dim", -1),
    "resolutions": put("model.generator.synthesis.img_resolution", 2**31),
    "number": put("model.generator.mapping.z_dim", 10**4000),
    "texts": put("a", "x" * 10**6),
    "values": put("a", [0] * 10**6),
    "doubled": put("a", doubled(40)),
    "discriminator": put("model.discriminator.mapping_layers", 2**31),
    "labels": put("model.discriminator.c_dim", 2**31),
    "taps": put("model.generator.synthesis", {"_target_": "stylegan_lightning.networks.StyleGAN3Synthesis",
                                              "img_resolution": 8, "filter_size": 2**31, "num_layers": 2}),
    "filters": put("model.generator.synthesis.resample_filter", [1.0] * 10_000),
}  # fmt: skip


def peak() -> int:
    """MiB"""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


@pytest.mark.parametrize("name", HUGE)
def test_networks_are_not_made_larger_than_their_weights(name, save):
    path, before = save(HUGE[name]), peak()
    with pytest.raises(UserError, match=r"model\.ckpt"):
        stylegan_lightning.load(path)
    assert peak() - before < 64


@pytest.mark.parametrize("levels", [30, 200])
def test_configurations_nested_without_end(levels, save):
    with pytest.raises(UserError, match="nested"):
        stylegan_lightning.load(save(put("a", nested(levels))))


@pytest.mark.parametrize("levels", [30, 900, 100_000])
def test_exported_configurations_nested_without_end(levels, save):
    path, text = save(kind=".safetensors"), '{"a":' * levels + "1" + "}" * levels
    weights = safetensors.torch.load_file(path)
    about = {"format": "stylegan_lightning generator 1", "config": text, "nimg": "1000"}
    safetensors.torch.save_file({name: t.clone() for name, t in weights.items()}, path, about)
    with pytest.raises(UserError, match="nested"):
        stylegan_lightning.load(path)


@pytest.mark.parametrize("entry", ["G_ema.synthesis.blocks.4.const", "G_ema.mapping.w_avg"])
def test_weights_that_are_missing_are_not_made_up(entry, untrained, tmp_path):
    """Parameters and buffers: a network of any size would be made for a file without them."""
    state = {name: value for name, value in untrained["state_dict"].items() if name != entry}
    torch.save({**untrained, "state_dict": state}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=rf"x\.ckpt, G_ema: .* {entry.removeprefix('G_ema.')} is missing"):
        stylegan_lightning.load(tmp_path / "x.ckpt")


def test_buffers_are_counted(untrained, tmp_path):
    config = copy.deepcopy(untrained["config"])
    config["model"]["generator"]["synthesis"].update(
        img_resolution=8192, channel_base=16384, channel_max=2, use_noise=True
    )
    torch.save({**untrained, "config": config, "state_dict": {"G_ema.pad": torch.zeros(20_000)}}, tmp_path / "x.ckpt")
    before = peak()
    with pytest.raises(UserError, match="larger network than there are weights"):
        stylegan_lightning.load(tmp_path / "x.ckpt")
    assert peak() - before < 64


@pytest.mark.parametrize("value", [3, None, "text", torch.zeros(0), torch.tensor([torch.nan, 1.0]), torch.zeros(2), {}],
                         ids=ascii)  # fmt: skip
def test_states_of_growth_that_cannot_be(value, tmp_path):
    cfg = composed("model=stylegan1", "data.resolution=8", "model.channel_base=64", "model.channel_max=8")
    module = builders.build_module(cfg, builders.build_schedule(cfg))
    state = {k: value if k.endswith("_extra_state") else v for k, v in module.state_dict().items()}
    content = {"state_dict": state, "config": builders.to_plain(cfg), "progress": {"nimg": 1000}}
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=r"x\.ckpt do not fit this network"):
        stylegan_lightning.load(tmp_path / "x.ckpt")


BROKEN = {
    "state_dict": [5, [], {1: 2}, None],
    "config": [
        5,
        [],
        None,
        "text",
        {},
        {"model": 5},
        {"model": {}},
        {"model": {"generator": None}},
        {None: 1},
        {1.5: 1},
        {"model": {"generator": {}}},
        {"model": {"generator": 1}},
        {"data": {"source": []}},
    ],
    "progress": [5, {}, {"nimg": -1}, {"nimg": "1"}, {"nimg": True}, {"nimg": 1.5}, {"nimg": 2**70}, None],
}


@pytest.mark.parametrize(("part", "value"), [(p, v) for p, values in BROKEN.items() for v in values], ids=str)
def test_parts_of_other_kinds_are_one_message(part, value, untrained, tmp_path):
    torch.save({**untrained, part: value}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=r"x\.ckpt.* (is damaged|names|has|lacks)") as caught:
        stylegan_lightning.load(tmp_path / "x.ckpt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", ["", "{", "[]", "5", '{"²": 1}'])
@pytest.mark.parametrize("nimg", ["1000", "", "x", "-1", "1e9", "²"])
def test_metadata_of_exported_generators_that_is_none(config, nimg, tmp_path):
    about = {"format": "stylegan_lightning generator 1", "config": config, "nimg": nimg}
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", about)
    with pytest.raises(UserError, match=r"x\.safetensors"):
        stylegan_lightning.load(tmp_path / "x.safetensors")


# ------------------------------------------------------------------------------- what the user's own code is


def test_networks_of_ones_own_for_metrics_do_not_keep_a_model_from_loading(save):
    def change(config):
        config["metrics"]["each"]["fid"] = {"kind": "frechet", "extractor": {"_target_": "my.Net", "depth": 3}}
        config["metrics"]["extractor"] = {"_target_": "my.Net"}

    path = save(change)
    assert stylegan_lightning.load(path).img_resolution == 8 and "my" not in sys.modules
    assert stored.foreign_metrics(read_checkpoint(path)["config"]) == {
        "metrics.each.fid.extractor": "my.Net",
        "metrics.extractor": "my.Net",
    }


class Hinge(torch.nn.Module):
    """A user's loss."""


def test_a_class_of_ones_own_is_allowed_by_the_program_alone(save, monkeypatch):
    name = f"{Hinge.__module__}.Hinge"
    path = save(put("model.loss", {"_target_": name}))
    with pytest.raises(UserError, match=f"{name}: it is not run"):
        stylegan_lightning.load(path)
    monkeypatch.setitem(PLACES, "model.loss", dict(PLACES["model.loss"]))
    monkeypatch.setattr(stored, "PARTS", dict(PARTS))
    stored.allow("model.loss", Hinge)
    assert stylegan_lightning.load(path).img_resolution == 8 and stored.PARTS[name] is Hinge


def test_a_class_of_ones_own_is_built_when_it_was_typed():
    node = composed("loss@model.loss=hinge")
    node.model.loss = {"_target_": "collections.Counter", "a": 3}
    assert builders._build(node.model.loss) == {"a": 3}
