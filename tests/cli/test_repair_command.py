"""The verb repair, inside this process."""

from __future__ import annotations

import json
from functools import partial

import cli_helpers
import numpy as np
import pytest
from cli_helpers import exported
from PIL import Image

import stylegan_lightning
from stylegan_lightning.latent.codes import codes_of, render, styles_of
from stylegan_lightning.latent.sampling import write_png

call, fails = partial(cli_helpers.call, "repair"), partial(cli_helpers.fails, "repair")
QUICK = ("--steps", 3, "--device", "cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("repair") / "G.safetensors")


@pytest.fixture
def here(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    G = stylegan_lightning.load(model)
    for name, image in zip("ab", render(G, styles_of(G, [0, 1])), strict=True):
        write_png(tmp_path / f"{name}.png", image)
        Image.open(f"{name}.png").convert("L").save(f"{name}_grey.png")
        Image.open(f"{name}.png").resize((4, 4), Image.Resampling.BOX).save(f"{name}_small.png")
    hole = np.zeros((32, 32), np.uint8)
    hole[8:20, 10:24] = 255
    Image.fromarray(hole).save("mask.png")
    return tmp_path


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


def table(folder):
    return json.loads((folder / "results.json").read_text())


def test_inpainting_keeps_all_but_the_hole(model, here):
    result = call(*QUICK, model, "a.png", "b.png", "--task", "inpaint", "--mask", "mask.png", "--batch", 1)
    assert result.exit_code == 0, result.exception
    hole = pixels("mask.png")[::2, ::2] > 0
    for name in "ab":
        before, after = pixels(f"{name}.png"), pixels(f"repaired/{name}.png")
        assert np.array_equal(before[~hole], after[~hole]) and not np.array_equal(before[hole], after[hole])
    assert {p.name for p in here.joinpath("repaired").iterdir()} == {
        "a.png", "b.png", "overview.png", "codes.safetensors", "results.json",
    }  # fmt: skip
    overview = pixels("repaired/overview.png")[::6, ::6]
    assert overview.shape == (16, 64, 3) and (overview[:, :16][hole] == 128).all()
    assert np.array_equal(overview[:, 48:], pixels("repaired/b.png"))
    assert codes_of(stylegan_lightning.load(model), "repaired/codes.safetensors").names == ("a", "b")
    found = table(here / "repaired")
    assert found["task"] == "inpaint" and found["space"] == "w+" and found["settings"]["steps"] == 3


def test_enlarging_keeps_the_small_picture(model, here):
    assert call(*QUICK, model, "a_small.png", "--task", "upscale", "--space", "w", "--out", "u").exit_code == 0
    after = pixels("u/a_small.png").reshape(4, 4, 4, 4, 3).mean((1, 3))
    assert np.abs(after - pixels("a_small.png")).max() <= 1 and table(here / "u")["space"] == "w"
    assert call(*QUICK, model, "a.png", "--task", "upscale", "--factor", 2, "--out", "v").exit_code == 0
    assert pixels("v/a.png").shape == (16, 16, 3)


def test_colouring_keeps_brightness_and_denoising_runs(model, here):
    assert call(*QUICK, model, "a_grey.png", "--task", "colourise", "--out", "c").exit_code == 0
    after = pixels("c/a_grey.png")
    assert np.abs(after @ [0.299, 0.587, 0.114] - pixels("a_grey.png")).max() <= 1
    assert np.ptp(after, 2).max() > 5
    assert call(*QUICK, model, "a.png", "--task", "denoise", "--sigma", 10, "--out", "d").exit_code == 0
    assert table(here / "d")["distance"] == "none"
    assert call(*QUICK, model, "a.png", "--task", "denoise", "--distance", "efflite0", "--out", "e").exit_code == 0
    assert table(here / "e")["pictures"]["a"]["perceptual"] > 0


def test_bad_input_is_said_before_anything_is_written(model, here, tmp_path):
    white = Image.new("L", (16, 16), 255)
    white.save("white.png")
    Image.new("L", (16, 16), 0).save("black.png")
    inpaint = (*QUICK, model, "a.png", "--task", "inpaint")
    assert "needs --mask" in fails(*inpaint)
    assert "covers everything" in fails(*inpaint, "--mask", "white.png")
    assert "black everywhere" in fails(*inpaint, "--mask", "black.png")
    assert "belongs to --task inpaint" in fails(*QUICK, model, "a.png", "--task", "denoise", "--mask", "mask.png")
    assert "belongs to --task upscale" in fails(*inpaint, "--mask", "mask.png", "--factor", 2)
    assert "belongs to --task denoise" in fails(*inpaint, "--mask", "mask.png", "--sigma", 2)
    assert "16 pixels; 3 does not" in fails(*QUICK, model, "a.png", "--task", "upscale", "--factor", 3)
    assert "sigma" in fails(*QUICK, model, "a.png", "--task", "denoise", "--sigma", 0)
    grey = exported(tmp_path / "grey.safetensors", "stylegan2", "data.channels=1")
    assert "no colours to give" in fails(*QUICK, grey, "a.png", "--task", "colourise")
    assert call(*QUICK, model, "a.png", "--task", "sharpen").exit_code == 2
    assert not here.joinpath("repaired").exists()
