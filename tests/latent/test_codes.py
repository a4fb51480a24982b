"""Codes of pictures: from seeds, in files, and back into pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from codes_helpers import broken_codes, codes_file
from latent_helpers import FAMILIES, tiny

from stylegan_lightning.errors import UserError
from stylegan_lightning.files import safe_name
from stylegan_lightning.imaging import to_uint8
from stylegan_lightning.latent import tensor_files
from stylegan_lightning.latent.codes import (
    Codes,
    check_fits,
    codes_of,
    noise_maps,
    parse_seeds,
    render,
    sample_w,
    styles_of,
    synthesise,
    z_of,
)
from stylegan_lightning.latent.ranges import parse_range

BROKEN = broken_codes(tiny("stylegan2"))


def test_seeds_are_numbers_and_ranges():
    assert parse_seeds("3") == [3] and parse_seeds("0-2, 7,9-9") == [0, 1, 2, 7, 9]
    wrongs = {"": "whole", "a": "whole", "1-": "whole", "-1": "whole", "3-1": "upwards", str(2**32): "at most"}
    for wrong, why in wrongs.items():
        with pytest.raises(UserError, match=why):
            parse_seeds(wrong)


def test_z_of_a_seed_is_numpys_published_stream():
    assert torch.equal(z_of([5, 7], 4)[1:], z_of([7], 4))
    assert np.array_equal(z_of([42], 512)[0].numpy(), np.random.RandomState(42).randn(1, 512)[0].astype(np.float32))
    assert z_of([0], 2)[0].tolist() == pytest.approx([1.7640524, 0.4001572])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("noise_mode", ["const", "random"])
def test_a_picture_depends_on_its_seed_alone(family, noise_mode):
    G, seeds = tiny(family), [4, 1, 9]
    state = torch.get_rng_state()
    together = render(G, styles_of(G, seeds), noise_mode=noise_mode, seeds=seeds)
    alone = [render(G, styles_of(G, [s]), noise_mode=noise_mode, seeds=[s]) for s in seeds]
    assert torch.equal(together, torch.cat(alone)) and not torch.equal(together[0], together[1])
    assert torch.equal(torch.get_rng_state(), state)
    whole = to_uint8(G(z_of(seeds, G.z_dim), noise_mode="const"))
    if noise_mode == "const":
        assert (whole.int() - together.int()).abs().max() <= 1  # in a batch, equal but for rounding


def test_random_noise_differs_with_the_seed_only():
    G = tiny("stylegan2")
    ws = styles_of(G, [0]).expand(2, -1, -1)
    a, b = render(G, ws, noise_mode="random", seeds=[1, 2])
    assert not torch.equal(a, b) and torch.equal(*render(G, ws, noise_mode="random", seeds=[1, 1]))
    assert torch.equal(*render(G, ws, noise_mode="const", seeds=[1, 2]))


def test_truncation():
    G = tiny("stylegan2")
    ws = styles_of(G, [0, 1])
    assert torch.allclose(styles_of(G, [0, 1], psi=0), G.mapping.w_avg.expand_as(ws), atol=1e-6)
    half = styles_of(G, [0, 1], psi=0.5, cutoff=2)
    assert torch.equal(half[:, 2:], ws[:, 2:])
    assert torch.allclose(half[:, :2], (ws[:, :2] + G.mapping.w_avg) / 2, atol=1e-6)
    with pytest.raises(UserError, match=r"0\.\.6"):
        styles_of(G, [0], cutoff=7)


def test_labels():
    G = tiny("stylegan2", c_dim=3)
    assert torch.equal(styles_of(G, [0], label=1), styles_of(G, [0], label=[0, 1, 0]))
    assert not torch.equal(styles_of(G, [0], label=1), styles_of(G, [0], label=2))
    for label, why in ((None, "choose one"), (3, r"0\.\.2"), ([1.0, 0.0], "3 numbers")):
        with pytest.raises(UserError, match=why):
            styles_of(G, [0], label=label)
    with pytest.raises(UserError, match="without classes"):
        styles_of(tiny("stylegan2"), [0], label=0)
    w = sample_w(G, 6, seed=1)
    assert w.shape == (6, G.w_dim) and torch.equal(w, sample_w(G, 6, seed=1))
    assert not torch.allclose(w[:1], sample_w(G, 6, seed=1, label=1)[:1])  # the first is of class 0


@pytest.mark.parametrize("family", ["stylegan1", "stylegan2"])
def test_noise_maps_of_each_picture(family):
    G = tiny(family)
    maps = noise_maps(G)
    assert maps[0].size == (4, 4) and maps[-1].size == (16, 16)
    ws = styles_of(G, [0, 1])
    buffers = dict(G.synthesis.named_buffers())
    same = {m.name: buffers[m.name].expand(2, 1, *m.size) for m in maps}
    assert torch.equal(synthesise(G, ws, noise=same), synthesise(G, ws))
    other = {name: t.clone() for name, t in same.items()}
    other[maps[-1].name][1] += 1
    changed = synthesise(G, ws, noise=other)
    assert torch.equal(changed[0], synthesise(G, ws)[0]) and not torch.equal(changed[1], synthesise(G, ws)[1])
    assert torch.equal(render(G, ws, noise=other), torch.cat([render(G, ws[:1]), to_uint8(changed[1:])]))


def test_growing_networks_have_the_noise_maps_of_their_size():
    G = tiny("stylegan1")
    G.synthesis.grow_to(8, 0.5)
    assert noise_maps(G)[-1].size == (8, 8) and render(G, styles_of(G, [0])).shape[2:] == (8, 8)
    assert render(G, styles_of(G, [])).shape == (0, 3, 8, 8)


def test_codes_go_through_files(tmp_path):
    G = tiny("stylegan2")
    maps = {m.name: torch.randn(2, 1, *m.size) for m in noise_maps(G)}
    codes = Codes(styles_of(G, [0, 1]), ("anna", "bert"), maps)
    codes.save(tmp_path / "new" / "codes.safetensors")
    back = Codes.load(tmp_path / "new" / "codes.safetensors")
    assert torch.equal(back.ws, codes.ws) and back.names == codes.names
    assert all(torch.equal(back.noise[n], t) for n, t in maps.items())
    file = str(tmp_path / "new" / "codes.safetensors")
    mixed = codes_of(G, f"3,{file}:bert,{file}", psi=0.5)
    assert mixed.names == ("seed 3", "bert", "anna", "bert") and not mixed.noise
    assert torch.equal(mixed.ws[0], styles_of(G, [3], psi=0.5)[0]) and torch.equal(mixed.ws[1], codes.ws[1])
    assert codes_of(G, f"{file}:bert").noise.keys() == maps.keys()


def test_files_that_do_not_hold_fitting_codes(tmp_path):
    G = tiny("stylegan2")
    (tmp_path / "damaged.safetensors").write_bytes(b"nothing")
    Codes(torch.zeros(1, 5, 7), ("a",)).save(tmp_path / "other.safetensors")
    Codes(styles_of(G, [0]), ("a",)).save(tmp_path / "good.safetensors")
    wrongs = {"absent": "there is no file", "damaged": "damaged", "other": "another model", "good.safetensors:b": "no"}
    for name, why in wrongs.items():
        with pytest.raises(UserError, match=why):
            codes_of(G, str(tmp_path / (name if ":" in name else f"{name}.safetensors")))
    with pytest.raises(UserError, match=r"\.safetensors"):
        Codes(torch.zeros(1, 1, 1), ("a",)).save(tmp_path / "codes.pt")
    with pytest.raises(UserError, match="noise map"):
        check_fits(G, Codes(styles_of(G, [0]), ("a",), {"blocks.4.conv1.noise_const": torch.zeros(1, 1, 8, 8)}), "x")
    with pytest.raises(ValueError):
        Codes(torch.zeros(2, 1, 1), ("a",))


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_in_one_line(name, tmp_path):
    content, why = BROKEN[name]
    (tmp_path / "c.safetensors").write_bytes(content)
    for points in ("c.safetensors", "c.safetensors:a", "0,c.safetensors"):
        with pytest.raises(UserError) as refused:
            codes_of(tiny("stylegan2"), points.replace("c.saf", f"{tmp_path}/c.saf"))
        said = str(refused.value)
        assert why in said and said.startswith(f"{tmp_path}/c.safetensors") and len(said) < 600 and "\n" not in said


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_numbers_are_taken(kind, tmp_path):
    G = tiny("stylegan2")
    ws = styles_of(G, [0, 1])
    map_ = noise_maps(G)[0]
    noise = torch.ones(2, 1, *map_.size, dtype=kind)
    content = codes_file({"ws": ws.to(kind), f"noise.{map_.name}": noise, "other": torch.zeros(3)}, ["a", "a"])
    (tmp_path / "c.safetensors").write_bytes(content)
    codes = codes_of(G, str(tmp_path / "c.safetensors"))
    assert codes.ws.dtype == codes.noise[map_.name].dtype == torch.float32 and codes.names == ("a", "a")
    assert torch.allclose(codes.ws, ws, atol=0.05) and list(codes.noise) == [map_.name]


def test_names_are_safe_in_files_and_out_of_them(tmp_path):
    wild = ("../../etc/passwd", "line\nbreak", "\ud800", "", "x" * 5000, "anna")
    path = tmp_path / "c.safetensors"
    path.write_bytes(codes_file({"ws": torch.zeros(6, 2, 3)}, wild))
    names = Codes.load(path).names
    assert names == tuple(map(safe_name, wild)) and "_.._etc_passwd" in names[0] and names[-1] == "anna"
    Codes(torch.zeros(6, 2, 3), wild).save(path)
    with safetensors.safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["names"]) == list(names)


def test_a_code_is_found_by_the_name_it_was_given(tmp_path):
    G = tiny("stylegan2")
    Codes(styles_of(G, range(30)), (*(f"n{i}" for i in range(29)), "what?")).save(tmp_path / "c.safetensors")
    assert codes_of(G, f"{tmp_path}/c.safetensors:what?").names == ("what_",)
    with pytest.raises(UserError, match=r"no code named 'x'; it has n0, .*n19 and 10 more"):
        codes_of(G, f"{tmp_path}/c.safetensors:x")


def test_files_are_read_up_to_a_size(tmp_path, monkeypatch):
    path = tmp_path / "c.safetensors"
    Codes(torch.zeros(1, 2, 3), ("a",)).save(path)
    monkeypatch.setattr(tensor_files, "LARGEST", path.stat().st_size)
    Codes.load(path)
    monkeypatch.setattr(tensor_files, "LARGEST", path.stat().st_size - 1)
    with pytest.raises(UserError, match="at most"):
        Codes.load(path)
    for no_file in (tmp_path, tmp_path / "absent", Path("/dev/zero"), tmp_path / ("x" * 300), tmp_path / "\0"):
        with pytest.raises(UserError):
            Codes.load(no_file)


def test_ranges_of_layers():
    assert parse_range("coarse", 18) == [0, 1, 2, 3] and parse_range("middle", 18) == [4, 5, 6, 7]
    assert parse_range("fine", 18) == list(range(8, 18)) and parse_range("all", 1) == [0]
    for n in range(2, 20):
        parts = [parse_range(name, n) for name in ("coarse", "middle", "fine")]
        assert [*parts[0], *parts[1], *parts[2]] == list(range(n))
        assert n < 3 or all(parts)
    assert parse_range("0-2, 5,4-4", 6) == [0, 1, 2, 4, 5]
    for wrong, why in (("big", "coarse"), ("3-1", "upwards"), ("6", r"0\.\.5"), ("", "coarse")):
        with pytest.raises(UserError, match=why):
            parse_range(wrong, 6)
    with pytest.raises(UserError, match="one style"):
        parse_range("coarse", 1)


def test_files_are_readable_as_others_are(tmp_path):
    """The writer of safetensors makes files for their owner alone; everything else here is as the umask says."""
    Codes(torch.zeros(1, 2, 3), ("a",)).save(tmp_path / "c.safetensors")
    (tmp_path / "plain").touch()
    assert (tmp_path / "c.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
