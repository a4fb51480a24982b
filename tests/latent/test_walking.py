"""Paths, films, and the files they are kept in."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from latent_helpers import tiny
from PIL import Image

from stylegan_lightning.errors import UserError
from stylegan_lightning.latent.animation import opaque, write_animation
from stylegan_lightning.latent.codes import render, styles_of
from stylegan_lightning.latent.walking import Motion, moving_input, slerp, w_path, walk, z_path


def test_slerp_keeps_to_the_sphere_at_constant_speed():
    a, b = torch.randn(2, 512, generator=torch.Generator().manual_seed(0)).split(1)
    t = torch.linspace(0, 1, 9)[:, None]
    path = slerp(a, b, t)
    assert torch.allclose(path[0], a[0], atol=1e-5) and torch.allclose(path[-1], b[0], atol=1e-5)
    lengths = a.norm().lerp(b.norm(), t[:, 0])
    assert torch.allclose(path.norm(dim=1), lengths, rtol=1e-5)
    unit = path / path.norm(dim=1, keepdim=True)
    steps = (unit[1:] * unit[:-1]).sum(1).acos()
    assert torch.allclose(steps, steps.mean().expand(8), rtol=1e-2)
    assert torch.allclose(slerp(b, a, t), path.flip(0), atol=1e-5)
    assert torch.allclose(slerp(a, a, t), a.expand(9, -1), atol=1e-5)
    assert slerp(a, -a, t).isfinite().all()


@pytest.mark.parametrize("curve", ["linear", "cubic"])
@pytest.mark.parametrize("loop", [False, True])
def test_paths_pass_their_points(curve, loop):
    ws = torch.randn(3, 2, 4)
    path = w_path(ws, 5, loop=loop, curve=curve)
    assert path.shape == ((15 if loop else 11), 2, 4)
    assert torch.allclose(path[::5][:3], ws, atol=1e-6)
    if curve == "linear":
        assert torch.allclose(path[2], ws[0].lerp(ws[1], 0.4), atol=1e-6)
        if loop:
            assert torch.allclose(path[12], ws[2].lerp(ws[0], 0.4), atol=1e-6)
    elif loop:  # no corner where it closes
        step = torch.cat([path, path[:1]]).diff(dim=0)
        assert float((step[0] - step[-1]).abs().max()) < 2 * float(step.diff(dim=0).abs().max())
    z = torch.randn(3, 16)
    assert torch.allclose(z_path(z, 5, loop=loop)[::5][:3], z, atol=1e-5)
    with pytest.raises(UserError, match="at least one frame"):
        w_path(ws, 0)


def test_frames_are_the_pictures_of_the_path():
    G = tiny("stylegan2")
    path = w_path(styles_of(G, [0, 1]), 3)
    film = list(walk(G, [path, path.flip(0)], columns=2, min_cell=32))
    assert len(film) == 4 and film[0].shape == (32, 64, 3)
    images = render(G, path)
    assert np.array_equal(film[1][::2, :32:2], images[1].permute(1, 2, 0).numpy())
    assert np.array_equal(film[1][::2, 32::2], images[2].permute(1, 2, 0).numpy())
    with pytest.raises(UserError, match="one number of frames"):
        walk(G, [path, path[:2]])


def test_stylegan3_moves_and_is_left_as_it_was():
    G = tiny("stylegan3_t")
    w = styles_of(G, [0])
    still = render(G, w)[0].permute(1, 2, 0).numpy()
    film = list(walk(G, [w.repeat(5, 1, 1)], motion=Motion((0.25, 0.0), 360.0), min_cell=16))
    assert np.array_equal(film[0], still) and not np.array_equal(film[2], still)
    assert torch.equal(moving_input(G).transform, torch.eye(3))
    turned = list(walk(G, [w.repeat(4, 1, 1)], motion=Motion(turn=360.0), loop=True, min_cell=16))
    assert not np.array_equal(turned[-1], turned[0])  # in a loop the frame after the last would be the first
    half = walk(G, [w.repeat(3, 1, 1)], motion=Motion(turn=90.0))
    next(half), next(half)
    half.close()
    assert torch.equal(moving_input(G).transform, torch.eye(3))
    with pytest.raises(UserError, match="StyleGAN3"):
        walk(tiny("stylegan2"), [w], motion=Motion(turn=10.0))


def frames(channels=3, count=4, size=(17, 20)):
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 255, (count, 1, 1, channels)).repeat(size[0], 1).repeat(size[1], 2)
    return [f.astype(np.uint8) for f in smooth]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", ["webp", "gif"])
def test_animations_hold_all_frames(tmp_path, kind, channels):
    film = frames(channels)
    write_animation(tmp_path / f"film.{kind}", iter(film), fps=10)
    with Image.open(tmp_path / f"film.{kind}") as picture:
        assert picture.n_frames == 4 and picture.size == (20, 17) and picture.info["loop"] == 0
        picture.seek(2)
        picture.load()
        assert picture.info["duration"] == 100
        shown = np.asarray(picture.convert("RGBA" if channels == 4 and kind == "webp" else "RGB")).astype(int)
    expected = film[2] if channels == 4 and kind == "webp" else opaque(film[2])
    assert np.abs(shown - expected.astype(int)).mean() < 4


def test_mp4(tmp_path):
    av = pytest.importorskip("av")
    film = frames(3, 6)
    write_animation(tmp_path / "film.mp4", film, fps=12)
    with av.open(str(tmp_path / "film.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 12 and (stream.width, stream.height) == (20, 18)
        back = [f.to_ndarray(format="rgb24") for f in container.decode(stream)]
    assert len(back) == 6 and np.abs(back[3][:17].astype(int) - film[3].astype(int)).mean() < 8


def test_animations_that_cannot_be(tmp_path, monkeypatch):
    wrongs = (("a.avi", frames(), 24, "webp"), ("a.gif", [], 24, "at least one"), ("a.gif", frames(), 0, "positive"))
    for name, film, fps, why in wrongs:
        with pytest.raises(UserError, match=why):
            write_animation(tmp_path / name, film, fps)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match="pip install av"):
        write_animation(tmp_path / "a.mp4", frames())

    def breaks():
        yield frames()[0]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_animation(tmp_path / "a.webp", breaks())
    assert not list(tmp_path.iterdir())
