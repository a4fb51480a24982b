"""Sets of pictures and style mixing."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
import torch
from latent_helpers import STYLE_BASED, tiny
from PIL import Image

from stylegan_lightning.data.image_folder import ImageFolder
from stylegan_lightning.errors import UserError
from stylegan_lightning.latent.codes import Codes, codes_of, render, styles_of
from stylegan_lightning.latent.mixing import mixing_table, take_layers
from stylegan_lightning.latent.sampling import export_dataset, generate, psi_sweep, write_images


def test_a_sweep_of_psi_has_the_pictures_of_each():
    G = tiny("stylegan2")
    sweep = psi_sweep(G, [3, 4], [0, 0.5, 1], noise_mode="random")
    for row, seed in enumerate((3, 4)):
        for column, psi in enumerate((0, 0.5, 1)):
            assert torch.equal(sweep[3 * row + column], generate(G, [seed], psi=psi, noise_mode="random")[0][0])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pictures_in_folders_and_archives(tmp_path, channels):
    G = tiny("stylegan2", channels=channels)
    images, codes = generate(G, [0, 1])
    assert codes.names == ("seed 0", "seed 1")
    write_images(tmp_path / "folder", images, ["a", "b"])
    write_images(tmp_path / "pictures.zip", images, ["a", "b"])
    from_zip = zipfile.ZipFile(tmp_path / "pictures.zip").read("b.png")
    assert from_zip == (tmp_path / "folder" / "b.png").read_bytes()
    pixels = np.asarray(Image.open(io.BytesIO(from_zip))).reshape(16, 16, channels)
    assert np.array_equal(pixels, images[1].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("c_dim", [0, 3])
@pytest.mark.parametrize("name", ["folder", "pictures.zip"])
def test_a_data_set_is_what_training_reads(tmp_path, name, c_dim):
    G = tiny("stylegan2", c_dim=c_dim)
    export_dataset(G, tmp_path / name, 4, first_seed=5, psi=0.7)
    source = ImageFolder(tmp_path / name, 16, labels="json" if c_dim else "none")
    assert source.names == [f"seed{s:07d}.png" for s in range(5, 9)]
    for i, seed in enumerate(range(5, 9)):
        expected = generate(G, [seed], label=seed % 3 if c_dim else None, psi=0.7)[0][0]
        assert np.array_equal(source.read(i), expected.numpy())
    if c_dim:
        assert source.labels().argmax(1).tolist() == [2, 0, 1, 2]
    codes = Codes.load(tmp_path / ("folder/codes.safetensors" if name == "folder" else "pictures.codes.safetensors"))
    assert torch.equal(render(G, codes.ws[1:2])[0], torch.from_numpy(source.read(1)))
    assert codes.names[0] == "seed0000005" and not list(tmp_path.rglob("*.tmp"))


def test_a_data_set_is_never_mixed_with_other_files_or_half_an_archive(tmp_path, monkeypatch):
    G = tiny("stylegan2")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    with pytest.raises(UserError, match="already has files"):
        export_dataset(G, tmp_path / "full", 2)
    with pytest.raises(UserError, match="at least one"):
        export_dataset(G, tmp_path / "none.zip", 0)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_dataset(G, tmp_path / "half.zip", 2, progress=stop)
    with pytest.raises(KeyboardInterrupt):
        export_dataset(G, tmp_path / "half", 2, progress=stop)
    assert not list(tmp_path.glob("half*.zip*")) and not (tmp_path / "half" / "dataset.json").exists()


def test_labels_of_a_whole_export(tmp_path):
    G = tiny("stylegan2", c_dim=2)
    export_dataset(G, tmp_path / "d", 2, label=1)
    table = json.loads((tmp_path / "d" / "dataset.json").read_text())
    assert table == {"labels": [["seed0000000.png", 1], ["seed0000001.png", 1]]}


@pytest.mark.parametrize("family", STYLE_BASED)
def test_the_table_mixes_layers(family):
    G = tiny(family)
    rows, columns = codes_of(G, "0-1"), codes_of(G, "2-4")
    table = mixing_table(G, rows, columns, [0, 1]).unflatten(0, (3, 4))
    assert torch.equal(table[1:, 0], render(G, rows.ws)) and torch.equal(table[0, 1:], render(G, columns.ws))
    assert bool((table[0, 0] == 255).all())
    mixed = rows.ws[1:].clone()
    mixed[:, :2] = columns.ws[2, :2]
    assert torch.equal(table[2, 3], render(G, mixed)[0])
    everything = mixing_table(G, rows, columns, range(G.num_ws)).unflatten(0, (3, 4))
    assert torch.equal(everything[1, 1:], everything[0, 1:])
    nothing = mixing_table(G, rows, columns, []).unflatten(0, (3, 4))
    assert torch.equal(nothing[1:, 3], nothing[1:, 0])


def test_one_style_cannot_be_mixed():
    G = tiny("progan")
    with pytest.raises(UserError, match="one style"):
        mixing_table(G, codes_of(G, "0"), codes_of(G, "1"), [0])


def test_taking_layers_leaves_its_inputs():
    a, b = torch.zeros(2, 3, 4), torch.ones(3, 4)
    mixed = take_layers(a, b, [1])
    assert mixed[:, 1].eq(1).all() and mixed[:, [0, 2]].eq(0).all() and a.eq(0).all()
    assert styles_of(tiny("stylegan2"), [0]).shape == (1, 6, 16)
