"""The verb project, inside this process."""

from __future__ import annotations

import json
import zipfile
from functools import partial

import cli_helpers
import numpy as np
import pytest
from cli_helpers import exported
from PIL import Image

import stylegan_lightning
from stylegan_lightning.cli.project import _apart
from stylegan_lightning.latent.codes import codes_of, render, styles_of
from stylegan_lightning.latent.sampling import write_png

call, fails = partial(cli_helpers.call, "project"), partial(cli_helpers.fails, "project")
QUICK = ("--steps", 3, "--candidates", 4, "--starts", 1, "--device", "cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("project") / "G.safetensors", "stylegan2", "model.use_noise=true")


@pytest.fixture
def photos(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    G = stylegan_lightning.load(model)
    for name, image in zip("ab", render(G, styles_of(G, [0, 1])), strict=True):
        write_png(tmp_path / "photos" / f"{name}.png", image)
    Image.fromarray(np.random.RandomState(0).randint(0, 255, (40, 30), np.uint8)).save("grey.jpg")
    with zipfile.ZipFile("more.zip", "w") as file:
        file.write("photos/a.png", "inner/a.png")
        file.write("photos/b.png", "inner/overview.png")
    return tmp_path


def pixels(path):
    return np.asarray(Image.open(path))


def test_files_folders_and_archives_become_codes(model, photos):
    result = call("--batch", 2, *QUICK, model, "photos", "grey.jpg", "more.zip", "--out", "out")
    assert result.exit_code == 0, result.exception
    names = ["a", "b", "grey", "a_2", "overview_2"]
    written = {p.name for p in photos.joinpath("out").iterdir()}
    assert written == {f"{n}.png" for n in [*names, "overview", "curve"]} | {"codes.safetensors", "results.json"}
    G = stylegan_lightning.load(model)
    codes = codes_of(G, "out/codes.safetensors")
    assert codes.names == tuple(names)
    pair = pixels("out/b.png")
    assert pair.shape == (64, 128, 3) and np.array_equal(pair[::4, :64:4], pixels("photos/b.png"))
    after = render(G, codes_of(G, "out/codes.safetensors:b").ws)[0].permute(1, 2, 0).numpy()
    assert np.array_equal(pair[::4, 64::4], after)
    table = json.loads(photos.joinpath("out/results.json").read_text())
    assert list(table["pictures"]) == names and table["space"] == "w+" and table["distance"] == "efflite0"
    assert table["settings"]["steps"] == 3 and all(p["perceptual"] > 0 < p["psnr"] for p in table["pictures"].values())
    assert "b: " in result.stdout and "dB" in result.stdout and pixels("out/curve.png").ndim == 3


def test_options_reach_the_search(model, photos):
    options = ("--space", "w", "--distance", "none", "--noise-maps", "--lr", 0.2, "--seed", 3, "--prior", 0.5)
    assert call(*QUICK, model, "photos/a.png", *options, "--schedule", "0,0,1", "--out", "w").exit_code == 0
    table = json.loads(photos.joinpath("w/results.json").read_text())
    used = table["settings"]
    assert table["space"] == "w" and table["pictures"]["a"]["perceptual"] is None
    assert used["lr"] == 0.2 and used["seed"] == 3 and used["optimise_noise"] and used["prior_weight"] == 0.5
    assert used["release"] == [0, 0, 1] and used["perceptual_weight"] == 0
    codes = codes_of(stylegan_lightning.load(model), "w/codes.safetensors")
    assert codes.noise and (codes.ws == codes.ws[:, :1]).all()


def test_a_model_without_styles_and_one_with_classes(photos, tmp_path):
    grey = exported(tmp_path / "dcgan.safetensors", "dcgan", "data.channels=1")
    assert call(*QUICK, grey, "grey.jpg", "--out", "g").exit_code == 0
    assert json.loads((tmp_path / "g/results.json").read_text())["space"] == "z"
    assert "no noise inputs" in fails(*QUICK, grey, "grey.jpg", "--noise-maps", "--out", "n")
    classes = exported(tmp_path / "classes.safetensors", "stylegan2", "data.classes=hair", "model.c_dim=4")
    assert "--class 0..3" in fails(*QUICK, classes, "grey.jpg", "--out", "n")
    assert call(*QUICK, classes, "grey.jpg", "--class", 2, "--out", "n").exit_code == 0


def test_nothing_is_written_for_bad_input(model, photos):
    photos.joinpath("broken.png").write_bytes(b"\x89PNG no")
    photos.joinpath("bad").mkdir()
    photos.joinpath("bad/x.png").write_bytes(b"nothing")
    assert "broken.png" in fails(*QUICK, model, "photos/a.png", "broken.png")
    assert "x.png" in fails(*QUICK, model, "photos", "bad")
    assert "missing.png" in fails(*QUICK, model, "missing.png")
    assert "is a folder here; got x.png" in fails(*QUICK, model, "photos", "--out", "x.png")
    assert "numbers joined by commas" in fails(*QUICK, model, "photos", "--schedule", "coarse")
    assert "three shares" in fails(*QUICK, model, "photos", "--schedule", "0.1,0.2")
    assert "lpips_vgg16" in fails(*QUICK, model, "photos", "--weights", "vgg.pth")
    assert "starts" in fails(model, "photos", "--starts", 30)
    assert not photos.joinpath("projected").exists()


def test_names_differ_and_can_be_named():
    assert _apart(["a", "a", "a_2", "x,y:z", "curve"]) == ["a", "a_2", "a_2_2", "x_y_z", "curve_2"]
