"""Decoding every kind of file to known pixels; folders, zips and labels; messages for what cannot work."""

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from stylegan_lightning.data.base import ImageError, ImageSource
from stylegan_lightning.data.decode import UnreadableImage, decode, decode_options, finish
from stylegan_lightning.data.image_folder import ImageFolder
from stylegan_lightning.errors import UserError

RED, BLUE = (200, 30, 10), (20, 40, 220)


def encoded(img, fmt, **options):
    buffer = io.BytesIO()
    img.save(buffer, fmt, **options)
    return buffer.getvalue()


def pixels(data, resolution=8, **options):
    return decode(data, decode_options(resolution, **options), name="x")[0]


def halves(mode="RGB", size=8):
    """Left half red, right half blue."""
    array = np.empty((size, size, 3), np.uint8)
    array[:, : size // 2], array[:, size // 2 :] = RED, BLUE
    return Image.fromarray(array).convert(mode, palette=Image.Palette.ADAPTIVE)


def grey_of(rgb):
    return Image.new("RGB", (1, 1), rgb).convert("L").getpixel((0, 0))


LOSSLESS = [
    *(("PNG", m, {}) for m in ("1", "L", "LA", "P", "RGB", "RGBA")),
    *(("BMP", m, {}) for m in ("1", "L", "P", "RGB")),
    *(("GIF", m, {}) for m in ("1", "L", "P")),
    *(("TIFF", m, {}) for m in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")),
    *(("WEBP", m, {"lossless": True}) for m in ("RGB", "RGBA")),
]


@pytest.mark.parametrize(("fmt", "mode", "options"), LOSSLESS)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_lossless_formats_keep_the_exact_colours(fmt, mode, options, channels):
    img = halves(mode)
    out = pixels(encoded(img, fmt, **options), channels=channels)
    expected = np.asarray(img.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels]))
    expected = expected.reshape(8, 8, channels).transpose(2, 0, 1)
    assert out.dtype == np.uint8 and out.shape == (channels, 8, 8) and out.flags.c_contiguous
    # grey of a palette or CMYK picture goes through RGB, which may round once more
    assert np.abs(out.astype(int) - expected).max() <= (1 if channels == 1 else 0)
    if channels == 3 and mode not in ("1", "L", "LA"):
        assert np.abs(out[:, 0, 0].astype(int) - RED).max() <= 1
        assert np.abs(out[:, 0, 7].astype(int) - BLUE).max() <= 1
    if channels == 4:
        assert (out[3] == 255).all()


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_keeps_colours_closely(mode):
    out = pixels(encoded(halves(mode, 32), "JPEG", quality=100, subsampling=0), resolution=32)
    left, right = ((grey_of(RED),) * 3, (grey_of(BLUE),) * 3) if mode == "L" else (RED, BLUE)
    assert np.abs(out[:, 16, 4].astype(int) - left).max() <= 3
    assert np.abs(out[:, 16, 28].astype(int) - right).max() <= 3


def test_the_two_picture_files_of_phones_are_read():
    data = encoded(halves(size=32), "MPO", save_all=True, append_images=[Image.new("RGB", (32, 32))])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert np.abs(pixels(data)[:, 4, 1].astype(int) - RED).max() <= 12


def test_animations_give_their_first_frame():
    frames = [Image.new("RGB", (8, 8), c) for c in (RED, BLUE)]
    for fmt, options in [("GIF", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("PNG", {})]:
        data = encoded(frames[0], fmt, save_all=True, append_images=frames[1:], **options)
        assert pixels(data)[:, 4, 4].tolist() == list(RED), fmt


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fmt", ["PNG", "WEBP", "TIFF"])
def test_exif_orientation_gives_the_upright_picture(orientation, fmt):
    turn = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
    turn |= {6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}  # how the stored picture must be turned away
    upright = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    stored = Image.fromarray(upright)
    if orientation > 1:
        stored = stored.transpose(Image.Transpose[turn[orientation]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, fmt, exif=exif, **({"lossless": True} if fmt == "WEBP" else {}))
    out, info = decode(data, decode_options(8, crop="pad"), name="x")
    assert np.array_equal(out[:, 1:7].transpose(1, 2, 0), upright)
    assert info["size"] == (8, 6)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_cost_the_picture():
    data = encoded(halves(), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    assert np.array_equal(pixels(data), finish(halves(), decode_options(8)))


def test_sixteen_bits_are_scaled_by_257():
    ramp = np.array([[0, 128, 129, 257], [32896, 65535, 65406, 65407]], np.uint16).repeat(2, 0)
    expected = np.array([[0, 0, 1, 1], [128, 255, 254, 255]]).repeat(2, 0)
    for img in (Image.fromarray(ramp), Image.fromarray(ramp.astype(np.int32))):
        for fmt in ("PNG", "TIFF"):
            if fmt == "TIFF" or img.mode == "I;16":
                assert np.array_equal(pixels(encoded(img, fmt), 4, channels=1)[0], expected), (fmt, img.mode)
    big_endian = Image.frombytes("I;16B", (4, 4), ramp.astype(">u2").tobytes())
    assert np.array_equal(finish(big_endian, decode_options(4, 1))[0], expected)
    as_float = encoded(Image.fromarray(ramp.astype(np.float32)), "TIFF")
    assert np.array_equal(pixels(as_float, 4, channels=1)[0], expected)
    unit = encoded(Image.fromarray(np.array([[0, 0.5], [0.25, 1]], np.float32)), "TIFF")
    assert pixels(unit, 2, channels=1)[0].tolist() == [[0, 128], [64, 255]]


@pytest.mark.parametrize("value", [-5.0, 70000.0, np.nan])
def test_float_pictures_without_a_known_white_are_refused(value):
    data = encoded(Image.fromarray(np.full((4, 4), value, np.float32)), "TIFF")
    with pytest.raises(ImageError, match=r"x: values from .* outside 0\.\.65535"):
        pixels(data, 4)


def sixteen_bit_png_with_clear_value(values, clear):
    def part(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    size = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 0, 0, 0, 0)
    tail = part(b"tRNS", struct.pack(">H", clear)) + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", size) + tail


def test_a_clear_value_makes_transparency():
    values = np.array([[1000, 1001], [1000, 65535]], np.uint16)
    out = pixels(sixteen_bit_png_with_clear_value(values, 1000), 2, channels=4)
    assert out[3].tolist() == [[0, 255], [0, 255]]
    grey = Image.fromarray(np.array([[7, 8], [7, 9]], np.uint8))
    assert pixels(encoded(grey, "PNG", transparency=7), 2, channels=4)[3].tolist() == [[0, 255], [0, 255]]
    bits = Image.fromarray(np.array([[0, 255], [255, 255]], np.uint8)).convert("1")
    assert pixels(encoded(bits, "PNG", transparency=1), 2, channels=4)[3].tolist() == [[255, 0], [0, 0]]
    rgb = encoded(halves(), "PNG", transparency=RED)
    assert pixels(rgb, channels=4)[3, 0].tolist() == [0] * 4 + [255] * 4


def palette(transparency, fmt):
    img = Image.fromarray(np.array([[0, 1], [2, 0]], np.uint8))
    img = Image.frombytes("P", (2, 2), img.tobytes())
    img.putpalette([*RED, *BLUE, 0, 255, 0])
    return encoded(img, fmt, transparency=transparency)


@pytest.mark.parametrize("fmt", ["PNG", "GIF"])
def test_palette_with_one_transparent_entry(fmt):
    data = palette(1, fmt)
    out = pixels(data, 2, channels=4)
    assert out[3].tolist() == [[255, 0], [255, 255]]
    assert out[:3, 0, 0].tolist() == list(RED) and out[:3, 0, 1].tolist() == [0, 0, 0]
    assert pixels(data, 2, background="#010203")[:, 0, 1].tolist() == [1, 2, 3]


def test_palette_with_an_alpha_table():
    out = pixels(palette(bytes([255, 0, 51]), "PNG"), 2, background=[100, 100, 100])
    assert out[:, 0, 0].tolist() == list(RED)
    assert out[:, 0, 1].tolist() == [100] * 3
    assert out[:, 1, 0].tolist() == [80, 131, 80]  # a fifth of (0, 255, 0), four fifths of 100


@pytest.mark.parametrize("mode", ["PA", "LA", "La", "RGBa", "YCbCr", "HSV", "RGBX", "CMYK"])
def test_rare_modes_keep_colour_and_alpha(mode):
    base = Image.new("RGBA", (4, 4), (60, 60, 60, 128))
    if mode == "PA":
        img = base.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE)
        img.putalpha(128)
    elif mode in ("LA", "La"):
        img = base.convert("LA").convert(mode)
    else:
        img = (base if mode == "RGBa" else base.convert("RGB")).convert(mode)
    assert img.mode == mode
    out = finish(img, decode_options(4, 4)).astype(int)
    assert np.abs(out[:3] - 60).max() <= 2
    assert (out[3] == (128 if mode in ("PA", "LA", "La", "RGBa") else 255)).all()


def test_transparency_is_composited_over_the_background_exactly():
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (32, 32, 4), dtype=np.uint8)
    background = np.array([250, 128, 3])
    out = pixels(encoded(Image.fromarray(rgba), "PNG"), 32, background="#fa8003")
    colour, alpha = rgba[..., :3].astype(float), rgba[..., 3:].astype(float)
    expected = np.floor((colour * alpha + background * (255 - alpha)) / 255 + 0.5)
    assert np.array_equal(out.transpose(1, 2, 0), expected)
    white = pixels(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "PNG"), 4)
    assert (white == 255).all()
    grey = pixels(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "PNG"), 4, channels=1, background="#0000ff")
    assert (grey == grey_of((0, 0, 255))).all()


@pytest.mark.parametrize("filter", ["lanczos", "box", "bicubic", "bilinear"])
def test_hidden_colours_do_not_bleed_when_resizing(filter):
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[:, :29] = (200, 100, 50, 255)
    rgba[:, 29:] = (0, 255, 0, 0)  # invisible green
    data = encoded(Image.fromarray(rgba), "PNG")
    out = pixels(data, 16, channels=4, filter=filter)
    red, green, blue = out[:3, out[3] > 100].astype(float)  # lanczos may overshoot, but keeps the hue
    assert np.abs(green - red / 2).max() <= 2 and np.abs(blue - red / 4).max() <= 2
    assert np.abs(red - 200).max() <= 10 and red.size >= 7 * 16
    assert (out[:3, out[3] == 0] == 0).all() and (out[3] == 0).any()
    over_black = pixels(data, 16, background="#000000", filter=filter)
    ratio = over_black[1].astype(float) - over_black[0] / 2  # green stays half of red: none came from outside
    assert np.abs(ratio).max() <= 1


def test_crops_of_a_wide_picture():
    array = np.zeros((8, 24, 3), np.uint8)
    array[:, :8], array[:, 8:16], array[:, 16:] = RED, (0, 255, 0), BLUE
    data = encoded(Image.fromarray(array), "PNG")
    assert (pixels(data, crop="center") == np.array([0, 255, 0]).reshape(3, 1, 1)).all()
    stretched = pixels(data, 6, crop="stretch", filter="box")
    assert stretched[:, 2, 0].tolist() == list(RED) and stretched[:, 2, 5].tolist() == list(BLUE)
    padded = pixels(data, 24, crop="pad", background="#070809")
    assert np.array_equal(padded[:, 8:16].transpose(1, 2, 0), array)
    assert (padded[:, :8] == np.array([7, 8, 9]).reshape(3, 1, 1)).all()
    clear = pixels(data, 24, crop="pad", channels=4)
    assert (clear[3, 8:16] == 255).all() and (clear[:, :8] == 0).all() and (clear[:, 16:] == 0).all()
    assert pixels(encoded(Image.new("RGB", (1, 500)), "PNG"), 8, crop="pad").shape == (3, 8, 8)


def test_box_filter_averages():
    array = np.array([[0, 100], [50, 250]], np.uint8)
    assert pixels(encoded(Image.fromarray(array), "PNG"), 1, channels=1, filter="box").item() == 100


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"])
def test_truncated_files_are_named(fmt):
    rng = np.random.default_rng(0)
    data = encoded(Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)), fmt)
    with pytest.raises(UnreadableImage) as caught:
        decode(data[: len(data) // 2], decode_options(8), name="sub/cut.file")
    assert caught.value.file == "sub/cut.file" and caught.value.reason
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_other_unreadable_files_are_named(monkeypatch):
    for data, reason in [(b"", "empty"), (b"not an image", "not an image in a known format")]:
        with pytest.raises(ImageError, match=f"^a.png: .*{reason}"):
            decode(data, decode_options(8), name="a.png")
    monkeypatch.setattr("stylegan_lightning.data.decode.MOST_PIXELS", 1000)
    with pytest.raises(ImageError, match=r"^bomb\.png: it says that it has 200 x 200 pixels; the most is"):
        decode(encoded(Image.new("L", (200, 200)), "PNG"), decode_options(8), name="bomb.png")


def test_bad_options_name_the_valid_ones():
    for options, words in [
        ({"crop": "centre"}, "crop must be one of center, stretch, pad; got 'centre'. Did you mean 'center'"),
        ({"filter": "lanzcos"}, "Did you mean 'lanczos'"),
        ({"filter": 3}, "filter must be one of"),
        ({"channels": 2}, "channels must be 1"),
        ({"channels": True}, "channels must be 1"),
        ({"resolution": 0}, "resolution must be"),
        ({"resolution": 64.0}, "resolution must be"),
        ({"background": "whyte"}, "background must be a colour"),
        ({"background": "#ffffff80"}, "background must be a colour"),
        ({"background": [1, 2]}, "background must be a colour"),
        ({"background": [1, 2, 300]}, "background must be a colour"),
    ]:
        with pytest.raises(UserError) as caught:
            decode_options(**{"resolution": 8, **options})
        assert words in str(caught.value)
    assert decode_options(8, background="navy").background == (0, 0, 128)


# ---- folders and zips ----


@pytest.fixture
def tree(tmp_path):
    """Four images in two folders, and things that must be left out."""
    root = tmp_path / "pictures"
    rng = np.random.default_rng(0)
    for name in ("cats/b.png", "cats/a.PNG", "dogs/deep/c.webp", "dogs/d.bmp"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        img = Image.fromarray(rng.integers(0, 256, (10, 12, 3), dtype=np.uint8))
        img.save(root / name, **({"lossless": True} if name.endswith("webp") else {}))
    for name in (".hidden.png", "__MACOSX/cats/._b.png", ".git/x.png", "cats/notes.txt"):
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_bytes(b"left out")
    return root


def zipped(root, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*"), reverse=True):
            archive.write(file, file.relative_to(root).as_posix())
    return path


def contents(source):
    return np.stack([source.read(i) for i in range(len(source))])


def test_folder_lists_recursively_sorted_without_hidden_files(tree):
    source = ImageFolder(tree, 8)
    assert isinstance(source, ImageSource) and source.name == "pictures"
    assert source.names == ["cats/a.PNG", "cats/b.png", "dogs/d.bmp", "dogs/deep/c.webp"]
    assert source.read_with_info(0)[1] == {"size": (12, 10), "mode": "RGB"}
    assert source.labels().shape == (4, 0) and source.label_names == () and source.attributes() == {}


def test_zip_and_folder_give_the_same_pixels(tree, tmp_path):
    folder = ImageFolder(tree, 8, labels="folders")
    archive = ImageFolder(zipped(tree, tmp_path / "p.zip"), 8, labels="folders")
    assert folder.names == archive.names and folder.label_names == archive.label_names
    assert np.array_equal(contents(folder), contents(archive))
    assert np.array_equal(folder.labels(), archive.labels())


def test_sources_pickle_small_and_read_on(tree, tmp_path):
    for path in (tree, zipped(tree, tmp_path / "p.zip")):
        source = ImageFolder(path, 8, labels="folders")
        before = contents(source)
        copy = pickle.loads(pickle.dumps(source))
        assert np.array_equal(contents(copy), before) and copy.fingerprint == source.fingerprint
        assert np.array_equal(copy.labels(), source.labels())


def test_a_zip_is_read_from_threads_and_reopened_in_a_new_process(tree, tmp_path, monkeypatch):
    source = ImageFolder(zipped(tree, tmp_path / "p.zip"), 8)
    expected = contents(source)
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(source.read, list(range(4)) * 25))
    assert np.array_equal(np.stack(read), np.tile(expected, (25, 1, 1, 1)))
    opened = source._files._zip()
    assert source._files._zip() is opened
    monkeypatch.setattr(os, "getpid", lambda: -1)  # as in a forked child, which would share the file position
    assert source._files._zip() is not opened and np.array_equal(contents(source), expected)


def test_links_to_folders_are_followed_once(tree):
    (tree / "loop").symlink_to(tree)
    (tree / "more").symlink_to(tree / "cats")
    assert [n for n in ImageFolder(tree, 8).names if n.startswith(("loop", "more"))] == [
        "more/a.PNG",
        "more/b.png",
    ]


def test_max_images_is_spread_over_the_classes(tree):
    source = ImageFolder(tree, 8, labels="folders", max_images=2)
    assert source.names == ["cats/a.PNG", "dogs/d.bmp"]
    assert source.labels().tolist() == [[1, 0], [0, 1]]
    assert len(ImageFolder(tree, 8, max_images=99)) == 4
    with pytest.raises(UserError, match="max_images"):
        ImageFolder(tree, 8, max_images=1)


def test_fingerprint_follows_content_and_options_only(tree, tmp_path):
    base = ImageFolder(tree, 8).fingerprint
    assert ImageFolder(tree, 8).fingerprint == base
    (tree / "cats/notes.txt").write_text("changed")
    assert ImageFolder(tree, 8).fingerprint == base
    changed = [{"resolution": 16}, {"channels": 1}, {"crop": "pad"}, {"filter": "box"}, {"max_images": 3}]
    changed += [{"background": "#fffffe"}, {"labels": "folders"}]
    prints = {ImageFolder(tree, **{"resolution": 8, **c}).fingerprint for c in changed}
    assert len(prints | {base}) == len(changed) + 1
    first, second = zipped(tree, tmp_path / "1.zip"), zipped(tree, tmp_path / "2.zip")
    assert ImageFolder(first, 8).fingerprint == ImageFolder(second, 8).fingerprint
    data = bytearray((tree / "dogs/d.bmp").read_bytes())
    data[-1] ^= 1
    (tree / "dogs/d.bmp").write_bytes(data)
    assert ImageFolder(tree, 8).fingerprint != base
    assert ImageFolder(zipped(tree, second), 8).fingerprint != ImageFolder(first, 8).fingerprint
    (tree / "dogs/d.bmp").rename(tree / "dogs/e.bmp")
    assert ImageFolder(tree, 8).fingerprint not in (base, *prints)


def test_damaged_zip_members_are_named(tree, tmp_path):
    path = zipped(tree, tmp_path / "p.zip")
    data = path.read_bytes()
    at = data.index(b"BM", data.index(b"dogs/d.bmp"))
    path.write_bytes(data[: at + 100] + bytes([data[at + 100] ^ 255]) + data[at + 101 :])
    with pytest.raises(ImageError, match=r"^dogs/d\.bmp: .*CRC"):
        ImageFolder(path, 8).read(2)


def test_folder_labels(tree):
    source = ImageFolder(tree, 8, labels="folders")
    assert source.label_names == ("cats", "dogs")
    assert source.labels().dtype == np.float32
    assert source.labels().tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]
    Image.new("RGB", (4, 4)).save(tree / "loose.png")
    with pytest.raises(UserError, match=r"1 are not, e\.g\. loose\.png"):
        ImageFolder(tree, 8, labels="folders")
    with pytest.raises(UserError, match="found one class only, 'deep'"):
        (tree / "dogs/d.bmp").rename(tree / "dogs/deep/d.bmp")
        ImageFolder(tree / "dogs", 8, labels="folders")


def write_labels(tree, labels):
    (tree / "dataset.json").write_text(json.dumps({"labels": labels}))


def test_json_labels(tree, tmp_path):
    names = ["dogs/d.bmp", "cats/a.PNG", "cats/b.png", "dogs/deep/c.webp", "gone.png"]
    write_labels(tree, [[n, i] for n, i in zip(names, (2, 0, 0, 4, 5), strict=True)])
    for path in (tree, zipped(tree, tmp_path / "p.zip")):
        source = ImageFolder(path, 8, labels="json")
        assert source.label_names == ("0", "1", "2", "3", "4", "5")
        assert source.labels().argmax(1).tolist() == [0, 0, 2, 4] and (source.labels().sum(1) == 1).all()
    write_labels(tree, [[n, [i, 0.5]] for i, n in enumerate(names)])
    source = ImageFolder(tree, 8, labels="json")
    assert source.label_names == ("0", "1")
    assert source.labels().tolist() == [[1, 0.5], [2, 0.5], [0, 0.5], [3, 0.5]]


def test_auto_labels(tree):
    assert ImageFolder(tree, 8, labels="auto").label_names == ("cats", "dogs")
    assert ImageFolder(tree / "dogs", 8, labels="auto").label_names == ()
    write_labels(tree, None)
    assert ImageFolder(tree, 8, labels="auto").label_names == ()
    write_labels(tree, [[n, 1] for n in ("dogs/d.bmp", "cats/a.PNG", "cats/b.png", "dogs/deep/c.webp")])
    source = ImageFolder(tree, 8, labels="auto")
    assert source.label_names == ("0", "1")
    write_labels(tree, [[n, i % 2] for i, n in enumerate(source.names)])
    assert ImageFolder(tree, 8, labels="auto").fingerprint != source.fingerprint


ALL = ("cats/a.PNG", "cats/b.png", "dogs/d.bmp", "dogs/deep/c.webp")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is none"),
        ("{", "not valid JSON"),
        ("[]", "must look like"),
        ('{"label": []}', "must look like"),
        ('{"labels": null}', "holds no labels"),
        ('{"labels": [["cats/a.PNG", 1, 2]]}', "must be a pair"),
        ('{"labels": [["cats/a.PNG", 1]]}', "no label for 3 of 4 images: cats/b.png, dogs/d.bmp"),
        (json.dumps({"labels": [[n, -1] for n in ALL]}), "class numbers"),
        (json.dumps({"labels": [[n, "cat"] for n in ALL]}), "has 'cat'"),
        (
            json.dumps({"labels": [[n, [0.5] * (1 + (n == ALL[2]))] for n in ALL]}),
            r"dogs/d.bmp has \[0.5, 0.5\]",
        ),
        (json.dumps({"labels": [[n, [float("nan")]] for n in ALL]}), "finite"),
        (json.dumps({"labels": [[n, [] if n == ALL[0] else 1] for n in ALL]}), "class numbers"),
    ],
)
def test_bad_label_files(tree, content, words):
    if content is not None:
        (tree / "dataset.json").write_text(content)
    with pytest.raises(UserError, match=words):
        ImageFolder(tree, 8, labels="json")


def test_label_file_in_the_wrong_place_is_pointed_at(tree):
    write_labels(tree / "cats", [])
    with pytest.raises(UserError, match=r"one at cats/dataset\.json"):
        ImageFolder(tree, 8, labels="json")


def test_paths_that_cannot_work(tmp_path):
    with pytest.raises(UserError, match="no folder or zip file at"):
        ImageFolder(tmp_path / "missing", 8)
    (tmp_path / "x.tar").write_bytes(b"nothing")
    with pytest.raises(UserError, match="neither a folder nor a readable zip"):
        ImageFolder(tmp_path / "x.tar", 8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"No images.*Accepted: \.png, \.jpg"):
        ImageFolder(tmp_path / "empty", 8)
    (tmp_path / "empty/a.psd").write_bytes(b"")
    with pytest.raises(UserError, match=r"1 other files, e\.g\. a\.psd"):
        ImageFolder(tmp_path / "empty", 8)
    (tmp_path / "empty/a.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"Only one image \(a\.png\)"):
        ImageFolder(tmp_path / "empty", 8)
    with pytest.raises(UserError, match="Did you mean 'folders'"):
        ImageFolder(tmp_path / "empty", 8, labels="folder")
