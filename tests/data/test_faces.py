import pickle
from typing import Any

import numpy as np
import pytest

from stylegan_lightning.data.base import ImageSource
from stylegan_lightning.data.faces import (
    CLASSES,
    FACTORS,
    Faces,
    draw,
    sample_factors,
)
from stylegan_lightning.errors import UserError

SIGNED = ("yaw", "roll", "hair_part", "light_azimuth")


def plain(**changes: float) -> dict[str, float]:
    """A frontal face in the middle of every range, hair to the chin, without glasses or beard."""
    factors = {name: (low + high) / 2 for name, (low, high, _) in FACTORS.items()}
    factors |= {"glasses": 0.0, "beard": 0.0, "freckles": 0.0, "hair_length": 0.3, "mouth_open": 0.0}
    return factors | changes


def change(factors: dict[str, float], resolution: int = 64, /, **changes: float) -> np.ndarray:
    """Per pixel, how far any channel moves when these factors do: [R, R]."""
    before, after = draw(factors, resolution), draw(factors | changes, resolution)
    return np.abs(before.astype(int) - after.astype(int)).max(0)


def box(image: np.ndarray, xs: tuple[float, float], ys: tuple[float, float]) -> np.ndarray:
    """Mask [R, R] of a box in canvas coordinates, [-1, 1] right and down."""
    axis = (np.arange(image.shape[-1]) + 0.5) / image.shape[-1] * 2 - 1
    inside_x, inside_y = (axis > xs[0]) & (axis < xs[1]), (axis > ys[0]) & (axis < ys[1])
    return inside_y[:, None] & inside_x[None, :]


def test_is_an_image_source():
    assert isinstance(Faces(), ImageSource)
    source = Faces(size=7)
    assert (source.name, source.resolution, source.channels, len(source)) == ("faces", 32, 3, 7)
    assert source.label_names == () and source.labels().shape == (7, 0)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("resolution", [16, 33, 64])
def test_shape_and_dtype(channels, resolution):
    image = Faces(resolution, channels=channels).read(3)
    assert image.shape == (channels, resolution, resolution) and image.dtype == np.uint8
    assert image.flags.c_contiguous and image.max() - image.min() > 80


def test_same_index_and_seed_same_bytes():
    a, b, other = Faces(seed=4), Faces(seed=4), Faces(seed=5)
    for i in (0, 11):
        assert a.read(i).tobytes() == b.read(i).tobytes()
        assert a.read(i).tobytes() != other.read(i).tobytes()
    assert a.read(0).tobytes() != a.read(1).tobytes()


def test_grey_is_luma_of_rgb():
    factors = sample_factors(2, 0)
    luma = np.tensordot([0.299, 0.587, 0.114], draw(factors, 32).astype(float), 1)
    assert np.abs(draw(factors, 32, 1)[0] - luma).max() < 1.6


def test_rgba_background_is_transparent_and_the_person_is_not():
    factors = plain()
    rgba, opaque = draw(factors, 64, 4).astype(int), draw(factors, 64)
    assert rgba[3, :4].max() == 0 and rgba[3, 20:44, 24:40].min() == 255
    solid = rgba[3] == 255
    assert 0.3 < solid.mean() < 0.8
    assert np.abs(rgba[:3] - opaque)[:, solid].max() <= 1
    assert change(factors, background_hue=1 - factors["background_hue"] + 0.3).max() > 20
    assert np.array_equal(draw(factors | {"background_hue": 0.9}, 64, 4), rgba)


@pytest.mark.parametrize("index", range(6))
def test_every_resolution_shows_the_same_picture(index):
    factors = sample_factors(index, 1)
    small = draw(factors, 32).astype(float)
    large = draw(factors, 128).reshape(3, 32, 4, 32, 4).mean((2, 4))
    assert np.abs(small - large).mean() < 2.2
    other = draw(sample_factors(index + 1, 1), 32)
    assert np.abs(other - large).mean() > 10  # what a different picture measures


def test_factors_stay_in_range_and_fill_it():
    known = Faces(size=600).attributes()
    assert tuple(known) == tuple(FACTORS)
    for name, (low, high, _) in FACTORS.items():
        values = known[name]
        assert values.dtype == np.float32 and values.shape == (600,)
        assert values.min() >= np.float32(low) and values.max() <= np.float32(high), name
        assert np.ptp(values) > 0.85 * (high - low), name


def test_attributes_are_the_sampled_factors():
    known = Faces(size=5, seed=9).attributes()
    for i in range(5):
        expected = {name: np.float32(value) for name, value in sample_factors(i, 9).items()}
        assert {name: values[i] for name, values in known.items()} == expected


def test_attributes_redraw_the_picture():
    source = Faces(32, size=3)
    known = source.attributes()
    redrawn = draw({name: values[2] for name, values in known.items()}, 32).astype(int)
    assert np.abs(redrawn - source.read(2)).max() <= 1


def test_read_draws_the_sampled_factors():
    assert np.array_equal(Faces(32, seed=9).read(4), draw(sample_factors(4, 9), 32))


@pytest.mark.parametrize("name", FACTORS)
def test_every_factor_is_visible(name):
    low, high, _ = FACTORS[name]
    if name.endswith("hue"):  # the ends of a hue circle meet
        high = low + (high - low) / 2
    worn = float(name.startswith("frame"))
    factors = plain(hair_length=0.45, hair_fringe=0.7, hair_part=0.3, glasses=worn)
    moved = change(factors | {name: low}, **{name: high})
    assert moved.max() > 25 and (moved > 8).sum() > 12, (moved.max(), (moved > 8).sum())


@pytest.mark.parametrize(
    ("name", "xs", "ys"),
    [
        ("smile", (-0.5, 0.5), (-0.08, 0.56)),  # mouth and cheeks
        ("iris", (-0.38, 0.38), (-0.22, 0.10)),
        ("brow_angle", (-0.42, 0.42), (-0.50, -0.10)),
        ("nose_size", (-0.25, 0.25), (-0.25, 0.25)),
        ("clothes_hue", (-1, 1), (0.55, 1)),
        ("glasses", (-0.62, 0.62), (-0.35, 0.25)),
    ],
)
def test_a_local_factor_changes_only_its_place(name, xs, ys):
    low, high, _ = FACTORS[name]
    if name.endswith("hue"):
        high = 0.5
    moved = change(plain(**{name: low}), **{name: high})
    inside = box(moved, xs, ys)
    assert moved[inside].max() > 25
    assert moved[~inside].max() <= 2


def test_background_leaves_the_face_alone():
    moved = change(plain(background_hue=0.1), background_hue=0.6, background_lightness=1.0)
    assert moved[box(moved, (-0.3, 0.3), (-0.5, 0.4))].max() == 0
    assert moved[:6].min() > 10


def test_light_comes_from_its_side():
    for azimuth in (-0.9, 0.9):
        grey = draw(plain(light_azimuth=azimuth), 64, 1)[0].astype(float)
        left = grey[box(grey, (-0.4, -0.2), (-0.05, 0.3))].mean()
        right = grey[box(grey, (0.2, 0.4), (-0.05, 0.3))].mean()
        assert (right - left) * np.sign(azimuth) > 25


def columns(yaw: float, name: str) -> np.ndarray:
    """The columns of a 128 px picture, in canvas units, that a factor touches."""
    low, high, _ = FACTORS[name]
    moved = change(plain(yaw=yaw, **{name: low}), 128, **{name: high})
    return (np.flatnonzero((moved > 12).any(0)) + 0.5) / 64 - 1


def eyes(yaw: float) -> tuple[np.ndarray, np.ndarray]:
    x = columns(yaw, "iris")
    split = int(np.argmax(np.diff(x))) + 1
    return x[:split], x[split:]


def test_yaw_turns_a_rounded_head():
    left, right = eyes(0.0)
    far_left, far_right = eyes(0.5)
    assert np.ptp(left) == pytest.approx(np.ptp(right), abs=0.02)
    assert np.ptp(far_right) < 0.85 * np.ptp(far_left)  # the far eye is foreshortened
    middle = (far_left.mean() + far_right.mean()) / 2
    assert middle > 0.08
    nose = columns(0.5, "nose_size").mean() - columns(0.0, "nose_size").mean()
    assert nose > middle + 0.03  # what stands out moves further


@pytest.mark.parametrize("index", range(8))
def test_mirrored_factors_draw_the_mirror_image(index):
    factors = sample_factors(index, 2)
    mirrored = factors | {name: -factors[name] for name in SIGNED}
    picture, mirror = draw(factors, 48).astype(int), draw(mirrored, 48)[..., ::-1].astype(int)
    assert np.abs(picture - mirror).max() <= 2
    assert np.abs(picture - picture[..., ::-1]).mean() > 3  # no face is its own mirror image


def test_faces_differ():
    source = Faces(32, size=40)
    images = np.stack([source.read(i) for i in range(40)]).astype(float)
    pairs = np.abs(images[:20] - images[20:]).mean((1, 2, 3))
    assert pairs.mean() > 45 and pairs.min() > 12
    people = np.stack([draw(sample_factors(i, 0), 32, 4) for i in range(40)]).astype(float)
    centre = people[:, :3, 8:22, 9:23]
    assert np.abs(centre[:20] - centre[20:]).mean() > 35  # not only the backgrounds


@pytest.mark.parametrize(
    ("classes", "names", "first", "second"),
    [
        ("glasses_smile", ("plain", "smile", "glasses", "glasses_smile"), ("glasses", 0.5), ("smile", 0.2)),
        ("hair", ("short_fair", "short_dark", "long_fair", "long_dark"), ("hair_length", 0.5), ("hair_melanin", 0.5)),
    ],
)
def test_classes_agree_with_the_factors(
    classes: str, names: tuple[str, ...], first: tuple[str, float], second: tuple[str, float]
):
    source = Faces(size=300, classes=classes)
    labels, known = source.labels(), source.attributes()
    assert source.label_names == names
    assert labels.shape == (300, 4) and labels.dtype == np.float32
    assert np.array_equal(labels.sum(1), np.ones(300)) and set(np.unique(labels)) == {0, 1}
    assert np.array_equal(labels[:, 2] + labels[:, 3], known[first[0]] > first[1])
    assert np.array_equal(labels[:, 1] + labels[:, 3], known[second[0]] > second[1])
    assert labels.mean(0).min() > 0.1


def test_glasses_are_worn_above_the_class_threshold():
    threshold = CLASSES["glasses_smile"].first[1]
    below, above = threshold - 1e-3, threshold + 1e-3
    assert change(plain(glasses=0.0), glasses=below).max() == 0
    assert change(plain(glasses=below), glasses=above).max() > 25


def test_fingerprint_follows_every_option():
    base = Faces()
    options: list[dict[str, Any]] = [
        {"resolution": 64},
        {"size": 5},
        {"seed": 1},
        {"channels": 1},
        {"classes": "glasses_smile"},
    ]
    prints = {base.fingerprint, *(Faces(**o).fingerprint for o in options)}
    assert len(prints) == 1 + len(options) and Faces().fingerprint == base.fingerprint
    assert len(bytes.fromhex(base.fingerprint)) == 32


def test_pickles():
    source = Faces(48, size=9, seed=3, channels=4, classes="glasses_smile")
    copy = pickle.loads(pickle.dumps(source))
    assert np.array_equal(copy.read(8), source.read(8)) and copy.fingerprint == source.fingerprint


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"resolution": 4}, "resolution .* at least 8, got 4"),
        ({"resolution": 32.5}, "resolution .* got 32.5"),
        ({"size": 0}, "size .* at least 1, got 0"),
        ({"seed": -1}, "seed .* got -1"),
        ({"channels": 2}, "channels must be 1 .* got 2"),
        ({"classes": "hats"}, "classes must be .*glasses_smile.* got 'hats'"),
    ],
)
def test_bad_options_say_what_to_change(options, words):
    with pytest.raises(UserError, match=words) as caught:
        Faces(**options)
    assert f"change data.{next(iter(options))}" in str(caught.value)


def test_draw_wants_exactly_the_factors():
    with pytest.raises(UserError, match="'hat' is unknown"):
        draw(plain(hat=1.0), 32)
    missing = plain()
    del missing["yaw"]
    with pytest.raises(UserError, match="'yaw' is missing"):
        draw(missing, 32)
    for value in (0.7, float("nan")):
        with pytest.raises(UserError, match=rf"yaw .* \[-0.6, 0.6\], got {value}"):
            draw(plain(yaw=value), 32)
    with pytest.raises(UserError, match="channels"):
        draw(plain(), 32, 2)


@pytest.mark.parametrize("index", [-1, 4])
def test_index_out_of_range(index):
    with pytest.raises(IndexError):
        Faces(size=4).read(index)
