"""The verbs generate, mix, walk and edit as commands, for every model."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from cli_helpers import SMALL, call, exported
from PIL import Image

import stylegan_lightning
from stylegan_lightning.cli.common import messages
from stylegan_lightning.cli.main import main
from stylegan_lightning.errors import UserError
from stylegan_lightning.imaging import image_grid
from stylegan_lightning.latent.codes import Codes, codes_of
from stylegan_lightning.latent.directions import sefa
from stylegan_lightning.latent.editing import edit_region
from stylegan_lightning.latent.sampling import generate
from stylegan_lightning.launch import messages_for_users


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {name: exported(folder / f"{name}.safetensors", name) for name in SMALL}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pixels(path):
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("name", SMALL)
def test_every_model_is_sampled_mixed_and_walked(models, here, name):
    model = models[name]
    assert call("generate", model, "--seeds", "0-3", "--columns", 2, "--out", "grid.png").exit_code == 0
    G = stylegan_lightning.load(model)
    assert np.array_equal(pixels("grid.png"), image_grid(generate(G, range(4))[0], 2))
    assert call("walk", model, "0-1", "--frames", 2, "--out", "walk.webp", "--space", "z").exit_code == 0
    assert Image.open("walk.webp").n_frames == 3
    mixed = call("mix", model, "--rows", "0-1", "--columns", "2", "--layers", "coarse", "--out", "mix.png")
    if G.num_ws > 1:
        assert mixed.exit_code == 0 and pixels("mix.png").shape == (3 * 64, 2 * 64, 3)
    else:
        assert "one style" in str(mixed.exception)
    moved = call("walk", model, "0", "--frames", 3, "--turn", 90, "--out", "turn.gif")
    if name.startswith("stylegan3"):
        assert moved.exit_code == 0 and Image.open("turn.gif").n_frames == 3
    else:
        assert "StyleGAN3" in str(moved.exception)


def test_generate_in_all_its_forms(models, here):
    model = models["stylegan2"]
    assert call("generate", model, "--seeds", "7", "--out", "folder").exit_code == 0
    assert call("generate", model, "--seeds", "5-8", "--out", "many.zip", "--noise", "random").exit_code == 0
    assert call("generate", model, "--seeds", "7,8", "--psi", "0,0.5,1", "--out", "psi.png").exit_code == 0
    assert pixels("psi.png").shape == (128, 192, 3)
    G = stylegan_lightning.load(model)
    assert np.array_equal(pixels("folder/seed0000007.png"), generate(G, [7])[0][0].permute(1, 2, 0).numpy())
    assert call("generate", model, "--dataset", 3, "--seeds", "4", "--out", "data.zip").exit_code == 0
    assert Codes.load(here / "data.codes.safetensors").names == ("seed0000004", "seed0000005", "seed0000006")


def test_a_conditional_model_wants_its_class(here):
    model = exported(here / "G.safetensors", "stylegan2", "data.classes=hair", "model.c_dim=4")
    assert "--class" in str(call("generate", model).exception)
    assert call("generate", model, "--class", 2, "--seeds", "1").exit_code == 0
    a = pixels("generated.png")
    assert call("generate", model, "--class", "0,0,1,0", "--seeds", "1").exit_code == 0
    assert np.array_equal(a, pixels("generated.png"))
    assert "0..3" in str(call("generate", model, "--class", 4).exception)
    assert "must be a class number" in str(call("generate", model, "--class", "hair").exception)


def test_walks_through_files_in_grids(models, here):
    model = models["stylegan2"]
    codes_of(stylegan_lightning.load(model), "3-4").save(here / "mine.safetensors")
    options = ["--grid", "2x1", "--frames", 2, "--loop", "--curve", "cubic", "--size", 16, "--out", "w.gif"]
    done = call("walk", model, "mine.safetensors,0,1", *options)
    assert done.exit_code == 0 and Image.open("w.gif").n_frames == 4 and Image.open("w.gif").size == (32, 16)
    for options, why in (
        (["mine.safetensors", "--space", "z"], "no z"),
        (["0"], "at least two points"),
        (["0-2", "--grid", "2x1"], "shared out"),
        (["0-1", "--grid", "2"], "COLUMNSxROWS"),
        (["0-1", "--pan", "1"], "X,Y"),
        (["0-1", "--fps", "0"], "positive"),
        (["0-1", "--out", "film.avi"], "webp"),
    ):
        result = call("walk", model, *options)
        assert isinstance(result.exception, UserError) and why in str(result.exception)


def test_edits(models, here):
    model = models["stylegan2"]
    G = stylegan_lightning.load(model)
    directions = sefa(G, range(G.num_ws), 2)
    directions.save(here / "d.safetensors")
    first = next(iter(directions))
    done = call("edit", model, "0-1", "--direction", f"d.safetensors:{first.name}=-1,0,2", "--codes", "e.safetensors")
    assert done.exit_code == 0, done.output
    shown = pixels("edit.png").reshape(2, 64, 4, 64, 3).transpose(0, 2, 1, 3, 4)
    assert np.array_equal(shown[:, 0], shown[:, 2]) and not np.array_equal(shown[:, 0], shown[:, 3])
    ws = codes_of(G, "0-1").ws
    assert torch.allclose(Codes.load(here / "e.safetensors").ws[4:], first.apply(ws, 2.0), atol=1e-6)

    assert call("edit", model, "0", "--style", "5", "--layers", "all", "--out", "out").exit_code == 0
    assert np.array_equal(pixels("out/seed_0.png"), generate(G, [5])[0][0].permute(1, 2, 0).numpy())

    mask = np.zeros((16, 16), np.uint8)
    mask[:, 8:] = 255
    Image.fromarray(mask).save("mask.png")
    photo = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(photo).save("photo.png")
    region = ["edit", model, "0", "--style", "5", "--layers", "all", "--mask", "mask.png", "--feather", 0, "--out", "r"]
    assert call(*region).exit_code == 0
    half = torch.zeros(1, 1, 16, 16)
    half[..., 8:] = 1
    expected = edit_region(G, ws[:1], codes_of(G, "5").ws, half)
    drawn = pixels("r/seed_0.png")
    assert np.array_equal(drawn[:, 12:], expected[0].permute(1, 2, 0).numpy()[:, 12:])
    assert call(*region, "--photo", "photo.png").exit_code == 0
    assert np.array_equal(pixels("r/seed_0.png")[:, :6], photo[:, :6])


def test_edits_that_cannot_be(models, here):
    model = models["stylegan2"]
    sefa(stylegan_lightning.load(model), range(6), 1).save(here / "d.safetensors")
    Image.new("L", (8, 8)).save("black.png")
    (here / "text.png").write_text("text")
    for options, why in (
        ([], "nothing to edit"),
        (["--style", "1-2"], "one code"),
        (["--style", "1", "--photo", "x.png"], "--mask"),
        (["--style", "1", "--mask", "x.png", "--codes", "y.safetensors"], "two codes"),
        (["--style", "1", "--mask", "x.png"], "cannot read"),
        (["--style", "1", "--mask", "black.png"], "black everywhere"),
        (["--style", "1", "--mask", "text.png"], "not an image"),
        (["--direction", "d.safetensors"], "FILE:NAME=STRENGTH"),
        (["--direction", "d.safetensors:absent=1"], "absent"),
        (["--direction", "none.safetensors:a=1"], "there is no file"),
    ):
        result = call("edit", model, "0", *options)
        assert isinstance(result.exception, UserError) and why in str(result.exception), (options, result.exception)


def test_errors_are_one_line(models, here, monkeypatch, capsys):
    (here / "text").write_text("")
    for arguments, code, why in (
        (["generate", "absent"], 2, "error: there is no checkpoint at absent"),
        (["generate", models["mlp"], "--device", "cuda:99"], 2, "error: --device"),
        (["generate", models["mlp"], "--seeds", "x"], 2, "error: seeds are"),
        (["generate", models["mlp"], "--out", "text/a.png"], 2, "error: cannot write"),
        (["generat"], 2, "generate"),
        (["--version"], 0, stylegan_lightning.__version__),
    ):
        monkeypatch.setattr(sys, "argv", ["stylegan-lightning", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        said = capsys.readouterr()
        assert stop.value.code == code and why in said.err + said.out and "Traceback" not in said.err


def test_errors_do_not_steer_the_terminal(capsys):
    """Names in files may hold anything; a message may have several lines."""
    for around in (messages, messages_for_users):
        for error in (UserError("a\x1b[2J\u202e\n  b\r"), OSError(13, "no", "a\x1b[2J\u202e\n  b\r")):
            with pytest.raises(SystemExit), around():
                raise error
            said = capsys.readouterr().err
            assert r"a\x1b[2J\x202e" in said and "\n  b\\x0d" in said and not set("\x1b\u202e\r") & set(said)


def test_help_is_quick_and_names_the_verbs():
    """No verb imports torch before it is called."""
    code = "import sys; from stylegan_lightning.cli.main import app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    said = call("--help").output
    assert all(verb in said for verb in ("generate", "mix", "walk", "edit"))
