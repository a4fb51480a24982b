"""Generators as files of their own."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch
from cli_helpers import call

import stylegan_lightning
from stylegan_lightning.errors import UserError


@pytest.fixture
def trained(run, tiny, tmp_path):
    arguments = [a for a in tiny if a not in ("metrics=none", "data.resolution=8")]
    done = run(
        "train.py", *arguments, "data.resolution=16", "metrics.num_fake=16", "logger=csv", f"run_dir={tmp_path}/r"
    )
    assert done.code == 0, done.err
    return tmp_path / "r"


def test_an_exported_generator_is_the_one_of_the_checkpoint(run, trained, tmp_path):
    assert "MiB" in call("export", trained, tmp_path / "new/G.safetensors").output
    G, same = stylegan_lightning.load(trained), stylegan_lightning.load(tmp_path / "new/G.safetensors")
    z = torch.randn(4, G.z_dim)
    assert torch.equal(G(z, noise_mode="const"), same(z, noise_mode="const"))
    for name, path in (("a", trained), ("b", tmp_path / "new/G.safetensors")):
        done = run("evaluate.py", f"ckpt={path}", "metrics.num_fake=16", f"out_dir={tmp_path}/{name}")
        assert done.code == 0, done.err
    a, b = (json.loads((tmp_path / n / "results.json").read_text())["results"][0] for n in "ab")
    assert a["metrics"] == b["metrics"] and b["kimg"] == 0.064 and not list(tmp_path.rglob("*.tmp"))


def test_growth_and_tables_survive(run, tiny, tmp_path):
    done = run("train.py", "experiment=growth", "model=progan", "data.size=64", "model.channel_base=64", "logger=csv",
               "model.channel_max=8", "model.z_dim=8", "metrics=none", "data.resolution=16",
               "schedule.total_kimg=0.064", "schedule.tick_kimg=0.032", "schedule.stabilise_kimg=0.016",
               "schedule.fade_kimg=0.016", "schedule.batch_sizes={4: 8, 8: 8}", f"run_dir={tmp_path}/r")  # fmt: skip
    assert done.code == 0, done.err
    assert call("export", tmp_path / "r", tmp_path / "G.safetensors").exit_code == 0
    G, same = stylegan_lightning.load(tmp_path / "r"), stylegan_lightning.load(tmp_path / "G.safetensors")
    z = torch.randn(2, G.z_dim)
    assert torch.equal(G(z), same(z)) and G(z).shape == same(z).shape


def test_what_an_exported_generator_cannot_do_is_said(run, tiny, trained, tmp_path):
    file = tmp_path / "G.safetensors"
    assert call("export", trained, file).exit_code == 0
    done = run("train.py", f"resume={file}")
    assert done.code == 2 and "without the discriminator" in done.err
    arguments = [a for a in tiny if a != "data.resolution=8"]
    done = run("train.py", *arguments, "data.resolution=16", f"init_from={file}", f"run_dir={tmp_path}/s")
    assert done.code == 2 and "without the discriminator" in done.err
    assert "is a .safetensors file" in str(call("export", trained, tmp_path / "G.pt").exception)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged"):
        stylegan_lightning.load(file)
    safetensors.torch.save_file({"x": torch.zeros(1)}, file)
    with pytest.raises(UserError, match=r"not written by stylegan-lightning export"):
        stylegan_lightning.load(file)
