"""Starting from the weights of another run: what is carried over, what starts fresh, what stays as it is."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from stylegan_lightning import builders
from stylegan_lightning.config_checks import run_problems
from stylegan_lightning.errors import UserError
from stylegan_lightning.training.checkpoint import read_checkpoint, write_atomically
from stylegan_lightning.training.transfer import grouped, image_map, transfer_weights
from tests.conftest import ROOT
from tests.test_train import assert_same_training

SMALL = (
    "data.resolution=16", "model.z_dim=8", "schedule.batch_size=4", "schedule.total_kimg=0.016", "metrics=none",
    "model.style_mixing_prob=0", "experiment=none",
)  # fmt: skip
BASELINE = (*SMALL, "model.channel_base=64", "model.channel_max=8")
STYLED = (*BASELINE, "model.w_dim=12", "model.mapping_layers=2")
MODELS = {
    "stylegan2": ("model=stylegan2", *STYLED),
    "stylegan3_t": ("model=stylegan3_t", *STYLED, "model.num_layers=4", "model.num_critical=1"),
    "stylegan1": ("model=stylegan1", *STYLED),
    "progan": ("model=progan", *BASELINE),
    "dcgan": ("model=dcgan", *BASELINE),
    "wgan_gp": ("model=wgan_gp", *BASELINE),
    "mlp": ("model=mlp", *SMALL, "model.g_hidden=16", "model.d_hidden=8"),
}
RESOLUTION = {16: (), 32: ("data.resolution=32",)}


@functools.lru_cache
def _composed(*overrides):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", [*overrides, "run_dir=x"])


def composed(model, *overrides):
    """The configuration of a small model. Values are set later, since composing takes long."""
    values = [o for o in overrides if o.startswith(("init_from", "data.", "model.", "transfer."))]
    cfg = copy.deepcopy(_composed(*MODELS[model], *(o for o in overrides if o not in values)))
    for key, value in (o.split("=") for o in values):
        OmegaConf.update(cfg, key, yaml.safe_load(value))
    return cfg


def built(model, *overrides, c_dim=0, seed=0):
    """A module, every parameter of which differs from those of other seeds."""
    cfg = composed(model, *overrides)
    cfg.model.c_dim, cfg.seed = c_dim, seed
    module = builders.build_module(cfg, builders.build_schedule(cfg))
    with torch.no_grad():
        for parameter in (*module.G.parameters(), *module.D.parameters()):
            parameter += 0.1 * torch.randn_like(parameter)
        for ours, theirs in zip(module.G_ema.parameters(), module.G.parameters(), strict=True):
            ours.copy_(theirs * 1.01)
    return module


def checkpoint_of(module):
    return {"state_dict": module.state_dict(), "config": module.config, "progress": {"nimg": 42_000}}


def transferred(source, target):
    """The report of the transfer of `source`'s weights into `target`."""
    checkpoint = checkpoint_of(source)
    cfg = OmegaConf.create(source.config)
    with torch.device("meta"):
        G, D = builders.build_generator(cfg), builders.build_discriminator(cfg)
    return transfer_weights(target, checkpoint, G, D, "runs/x/best.ckpt")


def images(G, c_dim=0, n=4):
    z = torch.randn(n, G.z_dim, generator=torch.Generator().manual_seed(1))
    c = torch.eye(max(c_dim, 1))[torch.arange(n) % max(c_dim, 1)] if c_dim else torch.zeros(n, 0)
    with torch.no_grad():
        return G(z, c, noise_mode="const")


def logits(D, img, c_dim=0):
    c = torch.eye(max(c_dim, 1))[torch.arange(len(img)) % max(c_dim, 1)] if c_dim else None
    with torch.no_grad():
        return D.eval()(img, c)


@pytest.mark.parametrize("model", MODELS)
def test_the_same_networks_are_carried_over_whole(model):
    a, b = built(model), built(model, seed=1)
    assert not torch.allclose(images(a.G), images(b.G))
    report = transferred(a, b)
    for name in ("G", "D", "G_ema"):
        assert not report.networks[name].partly and not report.networks[name].fresh
        torch.testing.assert_close(getattr(b, name).state_dict(), getattr(a, name).state_dict(), rtol=0, atol=0)
    assert torch.equal(images(a.G_ema), images(b.G_ema)) and not torch.equal(images(b.G), images(b.G_ema))


FRESH = {  # of G and D, 16 to 32 pixels
    "stylegan2": ("synthesis.blocks.32", "blocks.32"),
    "stylegan3_t": ("synthesis.layers.{1-4}", "blocks.32"),
    "stylegan1": ("synthesis.blocks.32, synthesis.torgb.32", "fromrgb.32, blocks.32"),
    "progan": ("synthesis.blocks.32, synthesis.torgb.32", "fromrgb.32, blocks.32"),
    "dcgan": ("synthesis.layers.{7,8,10}", "layers.{0,2,3}"),
    "wgan_gp": ("synthesis.layers.{4,5,7}", "layers.{0,1}"),
    "mlp": ("synthesis.layers.4", "layers.0.linear.weight"),
}


@pytest.mark.parametrize("model", MODELS)
def test_a_higher_resolution_adds_fresh_layers(model):
    a, b, untouched = built(model), built(model, *RESOLUTION[32], seed=1), built(model, *RESOLUTION[32], seed=1)
    report = transferred(a, b)
    for name, fresh in zip("GD", FRESH[model], strict=True):
        carried, state = report.networks[name], getattr(b, name).state_dict()
        assert grouped(carried.fresh, state) == fresh and not carried.partly
        for tensor in carried.fresh:
            torch.testing.assert_close(state[tensor], getattr(untouched, name).state_dict()[tensor])
        if model not in ("dcgan", "wgan_gp") or name == "G":  # where layers of D are numbered, from the image
            for tensor in carried.whole:
                torch.testing.assert_close(state[tensor], getattr(a, name).state_dict()[tensor])
    assert images(b.G_ema).isfinite().all() and images(b.G_ema).shape[-1] == 32
    assert logits(b.D, images(b.G)).isfinite().all()


@pytest.mark.parametrize(("model", "shift"), [("dcgan", 3), ("wgan_gp", 1)])
def test_numbered_layers_of_d_are_matched_from_the_other_end(model, shift):
    wide = ("model.channel_max=4",)  # all layers have the same shape
    a, b = built(model, *wide), built(model, *wide, *RESOLUTION[32], seed=1)
    transferred(a, b)
    old, new = list(a.D.layers), list(b.D.layers)
    first = shift if model == "wgan_gp" else 2
    for before, after in zip(old[first:], new[first + shift :], strict=True):
        torch.testing.assert_close(before.state_dict(), after.state_dict())


def test_a_lower_resolution_keeps_the_common_blocks():
    a, b = built("stylegan2", *RESOLUTION[32]), built("stylegan2", seed=1)
    report = transferred(a, b)
    assert grouped(report.networks["G"].fresh, b.G.state_dict()) == ""  # every block of "skip" makes an image
    assert grouped(report.networks["D"].fresh, b.D.state_dict()) == "blocks.16.fromrgb"
    assert images(b.G).shape[-1] == 16


@pytest.mark.parametrize("model", MODELS)
def test_labels_that_are_new_change_no_image_at_first(model):
    a, b = built(model), built(model, c_dim=4, seed=1)
    report = transferred(a, b)
    torch.testing.assert_close(images(b.G, 4), images(a.G), rtol=1e-4, atol=1e-4)
    assert grouped(report.networks["G"].fresh, b.G.state_dict()) == "mapping.embed"
    torch.testing.assert_close(b.G.mapping.w_avg[: len(a.G.mapping.w_avg)], a.G.mapping.w_avg)
    img = images(a.G)
    if model in ("stylegan1", "progan", "mlp"):  # D starts with the same logits
        torch.testing.assert_close(logits(b.D, img, 4), logits(a.D, img), rtol=1e-4, atol=1e-4)
    assert logits(b.D, img, 4).isfinite().all()


@pytest.mark.parametrize("shared", [True, False])
def test_class_logits_there_and_back(shared):
    options = (f"model.shared_logit={str(shared).lower()}",)
    a, b, c = built("progan"), built("progan", *options, c_dim=4, seed=1), built("progan", seed=2)
    transferred(a, b)
    transferred(b, c)
    img = images(a.G)
    for module, c_dim in ((b, 4), (c, 0)):
        torch.testing.assert_close(logits(module.D, img, c_dim), logits(a.D, img), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("model", MODELS)
def test_other_labels_start_fresh(model, after):
    a, b = built(model, c_dim=4), built(model, c_dim=after, seed=1)
    G, D = (transferred(a, b).networks[name] for name in "GD")
    assert set(G.fresh) == ({"mapping.embed.weight"} if after else set())
    projected = {"stylegan2": "mapping.embed.weight", "dcgan": "head.embed.weight", "wgan_gp": "head.embed.weight"}
    if model in projected:
        fresh = set() if not after else {projected[model]}
        assert set(D.fresh) == (fresh or ({"epilogue.out.weight", "epilogue.out.bias"} if "style" in model else set()))
    assert images(b.G, after).isfinite().all() and logits(b.D, images(b.G, after), after).isfinite().all()


def gray(img):
    return img[:, :3].mean(1, keepdim=True)


@pytest.mark.parametrize("model", [m for m in MODELS if m != "mlp"])
def test_other_channels_keep_what_is_known(model):
    rgb, rgba, grey = built(model), built(model, "data.channels=4", seed=1), built(model, "data.channels=1", seed=2)
    for target in (rgba, grey):
        report = transferred(rgb, target)
        assert not report.networks["G"].fresh and not report.networks["D"].fresh and report.networks["D"].partly
    before, after = images(rgb.G), images(rgba.G)
    torch.testing.assert_close(after[:, :3], before, rtol=1e-4, atol=1e-4)
    assert not after[:, 3].any()
    torch.testing.assert_close(logits(rgba.D, after), logits(rgb.D, before), rtol=1e-4, atol=1e-4)
    tanh = model in ("dcgan", "wgan_gp")  # the mean is taken before it
    expected = torch.tanh(gray(torch.atanh(before))) if tanh else gray(before)
    torch.testing.assert_close(images(grey.G), expected, rtol=1e-3, atol=1e-4)
    one = gray(before)
    expected = logits(rgb.D, one.expand(-1, 3, -1, -1))
    torch.testing.assert_close(logits(grey.D, one), expected, rtol=1e-4, atol=1e-4)


def test_image_maps_undo_each_other_where_they_can():
    for few, many in ((1, 3), (1, 4), (3, 4)):
        torch.testing.assert_close(image_map(many, few) @ image_map(few, many), torch.eye(few))
    assert image_map(1, 4).tolist() == [[1], [1], [1], [0]]


def test_other_sizes_start_fresh_where_they_differ():
    a, b = built("stylegan2"), built("stylegan2", "model.z_dim=16", "model.mapping_layers=3", seed=1)
    assert transferred(a, b).networks["G"].fresh == (
        "mapping.layers.0.weight",
        *(f"mapping.layers.2.{x}" for x in ("weight", "bias")),
    )
    wide = built("stylegan2", "model.w_dim=16", seed=1)
    assert "blocks.{4,8,16}.conv1.affine.weight" in grouped(transferred(a, wide).networks["G"].fresh, a.G.state_dict())


def test_growth_follows_the_new_run():
    a, b = built("progan"), built("progan", "schedule=progressive", seed=1)
    a.G.synthesis.grow_to(8, 0.5)
    b.enter(b.schedule.at(0))
    transferred(a, b)
    assert (b.G.synthesis.resolution, float(b.G.synthesis.alpha)) == (4, 1.0)
    torch.testing.assert_close(b.D.fromrgb.state_dict(), a.D.fromrgb.state_dict())


def test_the_mean_path_length_is_carried_over():
    a, b, without = built("stylegan2"), built("stylegan2", seed=1), built("stylegan2", "model.pl_weight=0")
    a.penalties["pl"].pl_mean.fill_(3.0)
    transferred(a, b)
    assert float(b.penalties["pl"].pl_mean) == 3.0
    assert transferred(without, b).networks["penalties"].fresh == ("pl.pl_mean",)


@pytest.mark.parametrize(
    ("old", "new"), [("stylegan1", "progan"), ("stylegan3_t", "stylegan2"), ("dcgan", "mlp"), ("dcgan", "wgan_gp")]
)
def test_another_family_is_refused(old, new):
    with pytest.raises(UserError, match=rf"same family: runs/x/best\.ckpt \({old}\) holds a "):
        transferred(built(old), built(new))


def test_nothing_that_fits_is_refused():
    target = built("mlp", "model.g_hidden=24", "model.d_hidden=16", "data.resolution=32")
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(UserError, match=r"no weight of runs/x/best\.ckpt has a place"):
        transferred(built("mlp"), target)
    torch.testing.assert_close(target.state_dict(), before)


def test_the_report_is_short():
    a, b = built("stylegan2"), built("stylegan2", *RESOLUTION[32], c_dim=2, seed=1)
    assert str(transferred(a, b)).splitlines() == [
        "init_from runs/x/best.ckpt (stylegan2, 16 pixels, 42 kimg)",
        "  G, G_ema: 48 of 66 tensors carried over, 1 of them partly (mapping.layers.0.weight); fresh: "
        "synthesis.blocks.32, mapping.embed",
        "  D: 14 of 41 tensors carried over; fresh: blocks.32, mapping, epilogue.out",
        "  penalties: 1 of 1 tensors carried over",
    ]


def test_grouped_names():
    names = ["a.4.x", "a.4.y", "a.8.x", "a.8.y", "a.16.x", "b.0", "b.1", "b.2", "b.3"]
    assert grouped(["a.4.x", "a.4.y", "a.8.x", "a.8.y"], names) == "a.{4,8}"
    assert grouped(["a.4.x", "b.1", "b.2", "b.3"], names) == "a.4.x, b.{1-3}"
    assert grouped(names, names) == "a, b" and grouped([], names) == ""


LAYERS = {  # of D at 16 pixels
    "stylegan2": ["blocks.16.fromrgb", "blocks.16.conv0", "blocks.16.conv1", "blocks.16.skip",
                  "blocks.8.conv0", "blocks.8.conv1", "blocks.8.skip"],
    "progan": ["fromrgb", "blocks.16.conv0", "blocks.16.conv1", "blocks.8.conv0", "blocks.8.conv1"],
    "dcgan": ["layers.0", "layers.2 layers.3"],
    "wgan_gp": ["layers.0", "layers.1.conv0", "layers.1.conv1", "layers.1.skip", "layers.2.conv0", "layers.2.conv1",
                "layers.2.skip"],
    "mlp": ["layers.0", "layers.2"],
}  # fmt: skip


@pytest.mark.parametrize("model", LAYERS)
def test_layers_are_counted_from_the_image(model):
    overrides, names = ("init_from=x",), [n for n in LAYERS[model] for n in n.split()]
    module = built(model, *overrides, f"transfer.freeze_d={len(LAYERS[model])}")
    trained = {id(p) for p in module.trainable[1]}
    frozen = [n for n, p in module.D.named_parameters() if id(p) not in trained]
    assert all(any(f.startswith(f"{n}.") for n in names) for f in frozen)
    assert all(any(f.startswith(f"{n}.") for f in frozen) for n in names)
    cfg = composed(model, *overrides, f"transfer.freeze_d={len(LAYERS[model]) + 1}")
    assert any(f"must be at most {len(LAYERS[model])}" in p for p in run_problems(cfg))
    assert len(built(model, *overrides, "transfer.freeze_d=1").trainable[1]) < len(list(module.D.parameters()))


def test_freezing_needs_a_checkpoint_and_weights_of_it():
    for option in ("transfer.freeze_d=2", "transfer.freeze_mapping=true"):
        assert any("needs init_from" in p for p in run_problems(composed("stylegan2", option)))
        assert not run_problems(composed("stylegan2", option, "init_from=x"))
    assert any("whole number" in p for p in run_problems(composed("stylegan2", "transfer.freeze_d=-1")))
    higher = built("stylegan2", *RESOLUTION[32], "init_from=x", "transfer.freeze_d=2", seed=1)
    with pytest.raises(
        UserError, match=r"transfer\.freeze_d .* of D, blocks\.32\.fromrgb, blocks\.32\.conv0 would start fresh"
    ):
        transferred(built("stylegan2"), higher)
    labels = built("stylegan2", "init_from=x", "transfer.freeze_mapping=true", c_dim=2, seed=1)
    with pytest.raises(UserError, match=r"transfer\.freeze_mapping .* of G, mapping"):
        transferred(built("stylegan2"), labels)
    with pytest.raises(UserError, match="mapping has no weights"):
        built("dcgan", "init_from=x", "transfer.freeze_mapping=true")


@pytest.mark.parametrize(
    ("model", "override", "tuned", "anew"),
    [
        ("stylegan2", "experiment=auto", (None, 0.0), (0.05, 0.0)),
        ("stylegan3_t", "experiment=none", (None, 0.0), (0.05, 0.0)),
        ("stylegan3_t", "model=stylegan3_r", (None, 0.0), (0.05, 10.0)),
        ("stylegan2", "model.ema_rampup=0.1", (0.1, 0.0), (0.1, 0.0)),
    ],
)
def test_fine_tuning_has_no_ramps(model, override, tuned, anew):
    for start, expected in (("init_from=x", tuned), ("init_from=null", anew)):
        cfg = composed(model, override, start).model
        assert (cfg.ema_rampup, cfg.get("blur_sigma", 0.0)) == expected


RUN = (
    *MODELS["stylegan2"], "data.size=64", "schedule.total_kimg=0.016", "schedule.tick_kimg=0.016", "logger=csv",
    "callbacks.samples.rows=2", "callbacks.samples.columns=2", "model.r1_interval=2", "model.pl_interval=2",
)  # fmt: skip
"""4 batches, every phase in 2 of them."""


def weights(path):
    return read_checkpoint(path)["state_dict"]


def test_frozen_parts_stay_and_a_frozen_run_resumes_exactly(run, tmp_path):
    old, new = tmp_path / "old.ckpt", tmp_path / "a/checkpoints/last.ckpt"
    write_atomically(old, checkpoint_of(built("stylegan2")))
    start = (f"init_from={old}", "transfer.freeze_d=4", "transfer.freeze_mapping=true")
    done = run("train.py", *RUN, *start, f"run_dir={tmp_path}/a")
    assert done.code == 0, done.err
    assert "frozen: G mapping.layers; D blocks.16" in done.out and done.out.count("init_from") == 1
    before, after = weights(old), weights(new)
    for name, value in before.items():
        if name.startswith(("D.blocks.16.", "G.mapping.layers.")):
            assert torch.equal(value, after[name]), name
        elif name.startswith(("D.", "G.")) and name.endswith(("weight", "bias")):
            assert not torch.equal(value, after[name]), name
    assert not torch.equal(before["G.mapping.w_avg"], after["G.mapping.w_avg"])

    assert run("train.py", *RUN, *start, f"run_dir={tmp_path}/b", "schedule.total_kimg=0.008").code == 0
    done = run("train.py", f"resume={tmp_path}/b", "schedule.total_kimg=0.016")
    assert done.code == 0 and "carried over" not in done.out, done.err
    assert_same_training(new, tmp_path / "b/checkpoints/last.ckpt")


def test_the_command_line_reports_a_higher_resolution(run, tmp_path):
    write_atomically(tmp_path / "old.ckpt", checkpoint_of(built("stylegan2")))
    start = (f"init_from={tmp_path}/old.ckpt", "data.resolution=32", "schedule.total_kimg=0.004")
    done = run("train.py", *RUN, *start, f"run_dir={tmp_path}/a")
    assert done.code == 0, done.err
    assert f"init_from {tmp_path}/old.ckpt (stylegan2, 16 pixels, 42 kimg)\n" in done.out
    assert "fresh: synthesis.blocks.32\n" in done.out
