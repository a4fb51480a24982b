"""Growing runs as a whole: resume, ranks, evaluation in the middle of a fade, refusals."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

import stylegan_lightning
from stylegan_lightning.training.checkpoint import read_checkpoint
from tests.conftest import read_rows
from tests.test_train import assert_same_training

GROW = (
    "data.resolution=16", "data.size=64", "model.z_dim=8", "model.channel_base=64", "model.channel_max=8",
    "schedule=progressive", "schedule.stabilise_kimg=0.016", "schedule.fade_kimg=0.032",
    "schedule.batch_size=8", "schedule.minibatch_repeats=1", "schedule.total_kimg=0.112", "schedule.tick_kimg=0.032",
    "callbacks.samples.rows=2", "callbacks.samples.columns=4", "logger=csv",
)  # fmt: skip
"""4 pixels up to image 16, fade to 8 up to 48, 8 up to 64, fade to 16 up to 96, then 16 pixels. A batch has the
stage of its first image, so those that begin at 16 and 64 are the last before a fade."""

MODELS = {
    "progan": ("model=progan",),
    "stylegan1": ("model=stylegan1", "model.w_dim=8", "model.mapping_layers=2", "model.style_mixing_prob=0.9"),
}
STOPS = {"inside a fade": 0.032, "start of a fade": 0.024, "end of a fade": 0.048, "start of the second": 0.072}


def last(run_dir):
    return read_checkpoint(run_dir / "checkpoints/last.ckpt")


def growth(checkpoint, network="G_ema.synthesis"):
    resolution, alpha = checkpoint["state_dict"][f"{network}._extra_state"].tolist()
    return int(resolution), alpha


@pytest.mark.parametrize("stop_at", STOPS.values(), ids=STOPS)
@pytest.mark.parametrize("model", MODELS)
def test_resume_while_growing_is_bit_identical(run, tmp_path, model, stop_at):
    arguments = [*GROW, *MODELS[model], "metrics=none"]
    straight = run("train.py", *arguments, f"run_dir={tmp_path}/straight")
    assert straight.code == 0, straight.err
    assert run("train.py", *arguments, f"run_dir={tmp_path}/parts", f"schedule.total_kimg={stop_at}").code == 0
    done = run("train.py", f"resume={tmp_path}/parts", "schedule.total_kimg=0.112")
    assert done.code == 0, done.err
    assert_same_training(tmp_path / "straight/checkpoints/last.ckpt", tmp_path / "parts/checkpoints/last.ckpt")


def test_resume_inside_held_batches_is_bit_identical(run, tmp_path):
    arguments = [*GROW, *MODELS["stylegan1"], "metrics=none", "schedule.minibatch_repeats=4"]
    arguments.append("schedule.batch_sizes={4: 16, 8: 8, 16: 4}")
    assert run("train.py", *arguments, f"run_dir={tmp_path}/straight").code == 0
    assert run("train.py", *arguments, f"run_dir={tmp_path}/parts", "schedule.total_kimg=0.072").code == 0
    assert run("train.py", f"resume={tmp_path}/parts", "schedule.total_kimg=0.112").code == 0
    assert_same_training(tmp_path / "straight/checkpoints/last.ckpt", tmp_path / "parts/checkpoints/last.ckpt")


def test_a_checkpoint_of_a_fade_renders_itself(run, tmp_path):
    done = run("train.py", *GROW, *MODELS["stylegan1"], f"run_dir={tmp_path}/r", "schedule.total_kimg=0.080",
               "metrics.num_fake=16")  # fmt: skip
    assert done.code == 0, done.err
    checkpoint = last(tmp_path / "r")
    assert growth(checkpoint) == growth(checkpoint, "D") == growth(checkpoint, "G.synthesis") == (16, 0.25)
    G = stylegan_lightning.load(tmp_path / "r")
    assert (G.synthesis.resolution, float(G.synthesis.alpha)) == (16, 0.25)
    ws = G.mapping(torch.randn(2, 8))
    faded = G.synthesis(ws, noise_mode="const")
    G.synthesis.grow_to(16, 1.0)
    assert not torch.allclose(G.synthesis(ws, noise_mode="const"), faded)
    done = run("evaluate.py", f"ckpt={tmp_path}/r", "metrics.num_fake=16", f"out_dir={tmp_path}/e")
    assert done.code == 0, done.err
    values = [r["metric/fd_efflite0"] for r in read_rows(tmp_path / "r/metrics.csv")]
    assert f"{float(values[-1]):.3f}" in done.out


def test_pictures_of_every_size_have_one_size(run, tmp_path):
    assert run("train.py", *GROW, *MODELS["progan"], "metrics=none", f"run_dir={tmp_path}/r").code == 0
    grids = [p for p in (tmp_path / "r/samples").glob("*.png") if p.name.startswith(("fakes", "reals.png"))]
    sizes = {Image.open(p).size for p in grids}
    assert sizes == {(4 * 64, 2 * 64)}


def test_adam_begins_anew_at_both_ends_of_a_fade(run, tmp_path):
    steps = {}
    for images in (16, 24, 32, 48, 56):
        done = run("train.py", *GROW, *MODELS["stylegan1"], "metrics=none", f"run_dir={tmp_path}/{images}",
                   f"schedule.total_kimg={images / 1000}", "model.r1_interval=100")  # fmt: skip
        assert done.code == 0, done.err
        states = last(tmp_path / str(images))["optimizer_states"][0]["state"]
        steps[images] = int(max(float(s["step"]) for s in states.values()))
    assert steps == {16: 2, 24: 3, 32: 1, 48: 3, 56: 1}


def test_growing_networks_train_at_a_fixed_size_too(run, tmp_path):
    arguments = [a for a in GROW if not a.startswith("schedule.") or "total" in a or "tick" in a or "batch_size" in a]
    arguments[arguments.index("schedule=progressive")] = "schedule=fixed"
    done = run("train.py", *arguments, *MODELS["progan"], "metrics=none", f"run_dir={tmp_path}/r")
    assert done.code == 0, done.err
    assert growth(last(tmp_path / "r")) == (16, 1.0)


def test_two_ranks_grow_as_one_process(tmp_path, command):
    """Without the gradient penalty, whose mixtures each rank draws for itself; a large epsilon, since Adam's first
    steps after each reset are signs of gradients, those of rounding errors included."""
    options = [*GROW, *MODELS["progan"], "metrics=none", "model.gp_gamma=0", "model.mbstd_group_size=1",
               "trainer=cpu", "data.num_workers=1", "model.adam_eps=0.01"]  # fmt: skip
    command("train.py", *options, f"run_dir={tmp_path}/one")
    command("train.py", *options, "trainer.devices=2", f"run_dir={tmp_path}/two")
    one, two = (last(tmp_path / d)["state_dict"] for d in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=2e-5, msg=name)


REFUSED = {
    "cannot grow": (("model=stylegan2",), "which model=stylegan2 cannot"),
    "start above the end": (("model=progan", "schedule.start_resolution=32"), "at most the final resolution 16"),
    "table with a hole": (("model=progan", "schedule.batch_sizes={4: 8, 16: 8}"), "it lacks 8"),
    "table of something else": (("model=progan", "schedule.batch_sizes={4: no}"), "batch_sizes must be a table"),
    "group does not divide": (("model=progan", "schedule.batch_sizes={4: 8, 8: 8, 16: 6}"), "divisible by model.mbstd"),
    "style mixing": (("model=progan", "model.style_mixing_prob=0.5"), "style_mixing_prob must be 0"),
    "no channels": (("model=progan", "model.channel_base=8"), "channel_base=8 leaves no channels at 16"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", REFUSED)
def test_impossible_growth_is_one_message_before_any_work(run, tmp_path, mistake):
    overrides, message = REFUSED[mistake]
    arguments = [a for a in GROW if not (mistake == "no channels" and a.startswith("model.channel_base"))]
    done = run("train.py", *arguments, *overrides, f"run_dir={tmp_path}/r")
    assert done.code == 2 and message in done.err and "Traceback" not in done.err, done.err
    assert not (tmp_path / "r").exists()
