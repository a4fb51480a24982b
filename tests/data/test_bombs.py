"""Files that are small on disk, or none at all, and would fill the memory or be read for ever: one message each."""

from __future__ import annotations

import bz2
import faulthandler
import io
import json
import lzma
import os
import pickle
import stat
import struct
import subprocess
import sys
import time
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from stylegan_lightning import builders
from stylegan_lightning.candidates import Candidate, load_images, training_data
from stylegan_lightning.cli.common import read_picture
from stylegan_lightning.cli.project import gather
from stylegan_lightning.config_rules import EVALUATION_RULES, RULES, broken_rules
from stylegan_lightning.dashboard.pictures import embed
from stylegan_lightning.data import containers, image_folder, streamed
from stylegan_lightning.data import decode as decoding
from stylegan_lightning.data.cache import prepare
from stylegan_lightning.data.decode import MOST_BYTES, MOST_PIXELS, UnreadableImage, decode, decode_options, webp_size
from stylegan_lightning.data.image_folder import ImageFolder
from stylegan_lightning.data.streamed import Shards, StreamedDataset, encode
from stylegan_lightning.data.summary import summary_text
from stylegan_lightning.errors import UserError
from stylegan_lightning.latent.attributes import examples_of_file
from stylegan_lightning.resume import differences
from tests.conftest import ROOT

SIDE = 15_000
"""Of a picture with more pixels than may be, in every format: WebP ends at 16384."""
TOO_MANY = "it says that it has 15,000 x 15,000 pixels; the most is 179 million"
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP")
EVALUATION = {"resolution": 8, "channels": 3}


def saved(fmt: str, picture: Image.Image | None = None, **options) -> bytes:
    file = io.BytesIO()
    (picture or Image.new("L" if fmt == "GIF" else "RGB", (16, 16), 7)).save(file, fmt, **options)
    return file.getvalue()


def with_size(fmt: str, side: int) -> bytes:
    """A small file whose header says that it is `side` pixels wide and high."""
    data = bytearray(saved(fmt, **({"lossless": True} if fmt == "WEBP" else {})))
    if fmt == "PNG":
        data[16:24] = struct.pack(">II", side, side)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif fmt == "JPEG":
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", side, side)
    elif fmt == "TIFF":
        at = struct.unpack("<I", data[4:8])[0]
        for entry in range(at + 2, at + 2 + 12 * struct.unpack("<H", data[at : at + 2])[0], 12):
            if struct.unpack("<H", data[entry : entry + 2])[0] in (256, 257):
                data[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, side)
    elif fmt == "WEBP":
        bits = struct.unpack("<I", data[21:25])[0] & ~0xFFFFFFF
        data[21:25] = struct.pack("<I", bits | (side - 1) << 14 | side - 1)
    elif fmt == "GIF":
        data[6:10] = struct.pack("<HH", side, side)
    else:
        data[18:26] = struct.pack("<ii", side, side)
    return bytes(data)


def extended_webp(side: int) -> bytes:
    """VP8X: the canvas of a film."""
    size = (side - 1).to_bytes(3, "little")
    content = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + size + size + saved("WEBP", lossless=True)[12:]
    return b"RIFF" + struct.pack("<I", len(content)) + content


def gif_with_a_large_frame() -> bytes:
    data = bytearray(saved("GIF"))
    at = data.index(b",", 13 + 3 * 2 ** ((data[10] & 7) + 1))
    data[at + 5 : at + 9] = struct.pack("<HH", 60_000, 60_000)
    return bytes(data)


def tiff_with_a_large_tile(side: int) -> bytes:
    """Of 8 x 8 pixels."""
    tags = [(256, 8), (257, 8), (258, 8), (259, 8), (262, 1), (277, 1), (322, side), (323, side), (324, 8), (325, 9)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


BOMBS = {
    **{fmt: (with_size(fmt, SIDE), TOO_MANY) for fmt in FORMATS},
    "PNG of 60,000": (with_size("PNG", 60_000), "60,000 x 60,000 pixels"),
    "WEBP, extended": (extended_webp(SIDE), TOO_MANY),
    "GIF, frame": (gif_with_a_large_frame(), "it says that it has more than 179 million pixels"),
    "TIFF, tile": (tiff_with_a_large_tile(20_000), "tiles of 20,000 x 20,000 pixels"),
}


def member(name: str, content: bytes, method: int = zipfile.ZIP_DEFLATED) -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo(name)
    info.compress_type = method
    return info, content


def archive(path: Path, *members: tuple[zipfile.ZipInfo, bytes]) -> Path:
    """With two good pictures beside the members."""
    with zipfile.ZipFile(path, "w") as file:
        for info, content in (member("a.png", saved("PNG")), member("b.png", saved("PNG")), *members):
            file.writestr(info, content, compresslevel=9)
    return path


def folder(path: Path, **files: bytes) -> Path:
    """With two good pictures beside the files."""
    path.mkdir(exist_ok=True)
    for name, content in ({"a": saved("PNG"), "b": saved("PNG")} | files).items():
        (path / f"{name}.png").write_bytes(content)
    return path


def reading(path: Path, name: str = "x.png") -> str:
    """The message for one image of a folder or an archive."""
    source = ImageFolder(path, 8)
    with pytest.raises(UnreadableImage) as caught:
        source.read(source.names.index(name))
    assert str(caught.value).startswith(f"{name}: ") and "\n" not in str(caught.value)
    return caught.value.reason


# ------------------------------------------------------------------------------------------------- pixels


@pytest.mark.parametrize(
    ("kind", "pillow"),
    [(k, p) for k in BOMBS for p in (None, 89_478_485, 1000) if (k, p) != ("GIF, frame", None)],  # Pillow opens that
)
def test_a_picture_of_too_many_pixels_is_refused_by_its_header(kind, pillow, monkeypatch):
    """Whatever limit Pillow has been given, before anything is decoded."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillow)
    data, words = BOMBS[kind]
    if pillow == 1000 and kind.startswith("WEBP"):
        words = "pixels; the most is"
    begin = time.perf_counter()
    with pytest.raises(UnreadableImage) as caught:
        decode(data, decode_options(8), name="a/b.png")
    assert str(caught.value).startswith("a/b.png: ") and words in str(caught.value)
    assert time.perf_counter() - begin < 1


def test_a_picture_at_the_limit_is_read(monkeypatch):
    assert MOST_PIXELS == 2 * 89_478_485
    monkeypatch.setattr(decoding, "MOST_PIXELS", 256)
    for fmt in FORMATS:
        assert decode(saved(fmt), decode_options(8), name="x")[0].shape == (3, 8, 8)
    monkeypatch.setattr(decoding, "MOST_PIXELS", 255)
    for fmt in FORMATS:
        with pytest.raises(UnreadableImage, match="16 x 16 pixels"):
            decode(saved(fmt), decode_options(8), name="x")


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}])
def test_the_size_of_a_webp_is_that_of_its_header(options):
    assert webp_size(saved("WEBP", Image.new("RGB", (300, 17)), **options)) == (300, 17)
    assert webp_size(saved("PNG")) == webp_size(b"RIFF") == (0, 0)


def film(fmt: str, frames: int) -> bytes:
    """Of 400 x 400 noise; the first picture is red."""
    noise = np.random.default_rng(0).integers(0, 256, (frames, 400, 400, 3), np.uint8)
    pictures = [Image.new("RGB", (400, 400), "red"), *map(Image.fromarray, noise)]
    more = {"WEBP": {"lossless": True, "method": 0, "quality": 0}, "PNG": {"compress_level": 1}}.get(fmt, {})
    return saved(fmt, pictures[0], save_all=True, append_images=pictures[1:], **more)


@pytest.mark.parametrize("fmt", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_a_film_the_first_picture_alone_is_decoded(fmt, monkeypatch):
    data = film(fmt, 4)
    seeks = []
    for kind in (Image.Image, *(type(Image.open(io.BytesIO(data))),)):
        monkeypatch.setattr(kind, "seek", lambda self, frame: seeks.append(frame))
    image, info = decode(data, decode_options(8, filter="box"), name="x")
    assert image[0].min() >= 250 and image[1:].max() <= 5 and info["size"] == (400, 400)
    assert not [frame for frame in seeks if frame]


def test_a_film_of_many_pictures_is_as_quick_as_one():
    first, rest = saved("GIF"), Image.new("L", (16, 16))
    many = saved("GIF", save_all=True, append_images=[rest.point(lambda _, i=i: i % 250) for i in range(3000)])
    assert len(many) > 100 * len(first)
    begin = time.perf_counter()
    assert decode(many, decode_options(8), name="x")[0].max() == 7
    assert time.perf_counter() - begin < 0.1


def with_scans(count: int, picture: Image.Image | None = None) -> bytes:
    """A progressive JPEG whose last scan comes again without content, up to that many scans."""
    data = saved("JPEG", picture, progressive=True)
    at = data.rindex(b"\xff\xda")
    head = data[at : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")]
    return data[:-2] + head * (count - data.count(b"\xff\xda")) + data[-2:]


def noise(side: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8))


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded(monkeypatch):
    data = with_scans(20_000, Image.new("RGB", (4000, 4000)))
    assert len(data) < 600_000
    begin = time.perf_counter()
    with pytest.raises(UnreadableImage, match=r"^x: it has 20,000 scans; the most is 100$"):
        decode(data, decode_options(8), name="x")
    assert time.perf_counter() - begin < 1
    assert decode(with_scans(100), decode_options(8), name="x")[0].shape == (3, 8, 8)
    with pytest.raises(UnreadableImage, match="it has 101 scans"):
        decode(with_scans(101), decode_options(8), name="x")


@pytest.mark.parametrize("subsampling", [0, 2])
def test_honest_progressive_jpegs_are_read(subsampling):
    """With thumbnails, with what a phone appends, and with the bytes of a marker in what is no marker."""
    picture, options = noise(30).resize((300, 300)), {"progressive": True, "quality": 95, "subsampling": subsampling}
    data, marks = saved("JPEG", picture, **options), b"\xff\xda" * 200
    expected = decode(data, decode_options(8), name="x")[0]
    with_marks = saved("JPEG", picture, comment=marks, **options)
    for more in (data, data + b"\xff\xda" * 1000, data + 200 * data, with_marks):
        assert np.array_equal(decode(more, decode_options(8), name="x")[0], expected)


HOSTILE = "a\x1b]0;owned\x07\nb\u202e.png"


def test_names_of_unreadable_images_are_on_one_line():
    error = UnreadableImage(HOSTILE, "odd\x1b[2J\nreason")
    assert str(error) == r"a\x1b]0;owned\x07\x0ab\x202e.png: odd\x1b[2J\x0areason"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("zipped", [False, True])
def test_names_of_files_do_not_steer_a_terminal(zipped, tmp_path, capsys):
    if zipped:
        path = archive(tmp_path / "f.zip", member(HOSTILE, b"none"))
    else:
        (folder(path := tmp_path / "f") / HOSTILE).write_bytes(b"none")
    dataset = prepare(ImageFolder(path, 8), tmp_path / "c")
    text = summary_text(dataset)
    assert r"a\x1b]0;owned\x07\x0ab\x202e.png: not an image" in text
    dataset.name = HOSTILE  # of a file
    assert not set("\x1b\x07\u202e") & set(summary_text(dataset))


def with_damaged_tags() -> list[bytes]:
    """Pictures that Pillow warns of."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0" + struct.pack("<HHII", 0x0112, 3, 10**6, 10**6)
    tiff = bytearray(saved("TIFF"))
    at = struct.unpack("<I", tiff[4:8])[0]
    last = at + 2 + 12 * (struct.unpack("<H", tiff[at : at + 2])[0] - 1)
    tiff[last : last + 12] = struct.pack("<HHII", 700, 1, 10**6, 10**6)
    return [saved("JPEG", exif=exif), saved("PNG", exif=exif), bytes(tiff)]


SILENT = """
import sys
from stylegan_lightning.data.decode import decode, decode_options
for path in sys.argv[1:]:
    decode(open(path, "rb").read(), decode_options(8), name=path)
"""


def test_damaged_tags_are_passed_over_in_silence(tmp_path):
    paths = [tmp_path / str(i) for i in range(3)]
    for path, content in zip(paths, with_damaged_tags(), strict=True):
        path.write_bytes(content)
        with pytest.warns(UserWarning), Image.open(path) as image:
            image.getexif()
    done = subprocess.run([sys.executable, "-c", SILENT, *paths], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


# ------------------------------------------------------------------------------------------- ways in


def bomb_of_a_folder(tmp_path):
    return folder(tmp_path / "f", x=BOMBS["PNG"][0])


def bomb_of_an_archive(tmp_path):
    return archive(tmp_path / "f.zip", member("x.png", BOMBS["PNG"][0]))


@pytest.mark.parametrize("make", [bomb_of_a_folder, bomb_of_an_archive])
def test_every_way_in_names_the_file(make, tmp_path):
    path = make(tmp_path)
    assert reading(path) == TOO_MANY
    dataset = prepare(ImageFolder(path, 8), tmp_path / "c")
    assert dataset.stats["skipped"] == [["x.png", TOO_MANY]] and len(dataset) == 2
    assert f"x.png: {TOO_MANY}" in summary_text(dataset)
    for way in (
        lambda: prepare(ImageFolder(path, 8), tmp_path / "d", on_error="raise"),
        lambda: load_images(path, OmegaConf.create({**EVALUATION, "data_cache_dir": str(tmp_path / "e")})),
        lambda: gather([path], 8, 3, "center"),
    ):
        with pytest.raises(UserError) as caught:
            way()
        assert f"x.png: {TOO_MANY}" in str(caught.value)


def test_a_single_picture_and_one_of_a_run_name_the_file(tmp_path):
    (tmp_path / "x.png").write_bytes(BOMBS["PNG"][0])
    with pytest.raises(UserError, match=f"x.png: {TOO_MANY}"):
        read_picture(tmp_path / "x.png", 8, 3)
    notes: list[str] = []
    assert embed(tmp_path / "x.png", 1e6, notes) is None and notes == [f"x.png cannot be read: {TOO_MANY}"]


@pytest.mark.parametrize("where", ["folder", "single", "run"])
def test_a_file_of_too_many_bytes_is_not_read(where, tmp_path):
    path = folder(tmp_path / "f") / "x.png"
    with open(path, "wb") as file:
        file.truncate(MOST_BYTES + 1)  # takes no room on the disk
    words = "it has 1,074 MB; at most 1,074 MB are read"
    tracemalloc.start()
    try:
        if where == "folder":
            assert reading(path.parent) == words
        elif where == "single":
            with pytest.raises(UserError, match=f"x.png: {words}"):
                read_picture(path, 8, 3)
        else:
            assert embed(path, 1e6, notes := []) is None and words in notes[0]
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


# ------------------------------------------------------------------------------------------------ archives

METHODS = {
    "stored": zipfile.ZIP_STORED,
    "deflate": zipfile.ZIP_DEFLATED,
    "bzip2": zipfile.ZIP_BZIP2,
    "lzma": zipfile.ZIP_LZMA,
}


def patched(path: Path, name: str, at: int, value: bytes) -> Path:
    """The entry of `name` in the directory of an archive, changed."""
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\x01\x02")
    while data[start + 46 : start + 46 + len(name)] != name.encode():
        start = data.index(b"PK\x01\x02", start + 4)
    data[start + at : start + at + len(value)] = value
    path.write_bytes(data)
    return path


def claiming(path: Path, size: int, name: str = "x.png", crc: int | None = None) -> Path:
    if crc is not None:
        patched(path, name, 16, struct.pack("<I", crc))
    return patched(path, name, 24, struct.pack("<I", size))


@pytest.mark.parametrize("method", METHODS)
def test_members_are_read_whichever_way_they_are_packed(method, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    path = archive(tmp_path / "f.zip", member("x.png", saved("PNG", Image.fromarray(noise)), METHODS[method]))
    assert np.array_equal(ImageFolder(path, 200).read(2), noise.transpose(2, 0, 1))
    assert ImageFolder(path, 8)._files.read("x.png") == zipfile.ZipFile(path).read("x.png")


def test_lzma_without_an_end_mark_is_read(tmp_path):
    """As other programs than Python write it."""
    content = saved("PNG")
    alone = lzma.compress(content, lzma.FORMAT_ALONE)
    path = archive(tmp_path / "f.zip", member("x.png", b"\x09\x04\x05\0" + alone[:5] + alone[13:], zipfile.ZIP_STORED))
    claiming(path, len(content), crc=zlib.crc32(content))
    patched(patched(path, "x.png", 10, struct.pack("<H", zipfile.ZIP_LZMA)), "x.png", 8, b"\0\0")
    assert ImageFolder(path, 8)._files.read("x.png") == content


@pytest.mark.parametrize("method", METHODS)
def test_a_member_that_is_stated_to_be_too_large_is_not_unpacked(method, tmp_path):
    path = archive(tmp_path / "f.zip", member("x.png", saved("PNG"), METHODS[method]))
    assert reading(claiming(path, MOST_BYTES + 1)) == "it has 1,074 MB unpacked; the most is 1,074 MB"


@pytest.mark.parametrize("method", METHODS)
def test_a_member_above_the_limit_is_refused_whatever_it_says(method, tmp_path, monkeypatch):
    monkeypatch.setattr(containers, "MOST_BYTES", 1_000_000)
    path = archive(tmp_path / "f.zip", member("x.png", saved("BMP", Image.new("RGB", (600, 600))), METHODS[method]))
    assert reading(path) == "it has 1 MB unpacked; the most is 1 MB"
    if method != "stored":
        words = reading(claiming(path, 900_000))
        assert "CRC" in words or words == "it is larger than the archive says"


def zeros(method: str, size: int) -> tuple[bytes, int]:
    """As much of zeros, packed, and the checksum of its first 1000 bytes; made piece by piece."""
    piece = bytes(1 << 20)
    packer = {"deflate": lambda: zlib.compressobj(9, zlib.DEFLATED, -15), "bzip2": bz2.BZ2Compressor,
              "lzma": lambda: lzma.LZMACompressor(lzma.FORMAT_ALONE, preset=0)}[method]()  # fmt: skip
    packed = b"".join(packer.compress(piece) for _ in range(size >> 20)) + packer.flush()
    packed = b"\x09\x04\x05\0" + packed[:5] + packed[13:] if method == "lzma" else packed
    return packed, zlib.crc32(bytes(1000))


READ_WITHIN = """
import resource, sys, tracemalloc
from pathlib import Path
from stylegan_lightning.data.containers import Zip
for path in sys.argv[1:]:
    files = Zip(Path(path))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        found = len(files.read("x.png"))
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
    traced, after = tracemalloc.get_traced_memory()[1], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.stop()
    print(found, traced, 1024 * (after - before), sep="|")
from PIL import Image
from stylegan_lightning.data.decode import decode, decode_options
for fmt in ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP"):
    path = Path(sys.argv[1]).with_name("wide")
    Image.new("L" if fmt == "GIF" else "RGB", (32, 16)).save(path, fmt)
    Image.MAX_IMAGE_PIXELS = 260  # which warns of more
    decode(path.read_bytes(), decode_options(8), name="wide")
"""


@pytest.fixture(scope="module")
def liars(tmp_path_factory) -> dict[str, tuple[str, int, int]]:
    """Of members that say that they have 1000 bytes and unpack to 96 MB: what reading gave, and the memory it took.

    In another process, whose greatest memory is its own.
    """
    folder, methods = tmp_path_factory.mktemp("liars"), ("deflate", "bzip2", "lzma")
    for method in methods:
        packed, crc = zeros(method, 96 << 20)
        assert len(packed) < 200_000
        path = archive(folder / f"{method}.zip", member("x.png", packed, zipfile.ZIP_STORED))
        claiming(path, 1000, crc=crc)
        patched(path, "x.png", 10, struct.pack("<H", METHODS[method]))
        patched(path, "x.png", 8, struct.pack("<H", 2 if method == "lzma" else 0))
    command = [sys.executable, "-W", "always", "-c", READ_WITHIN, *(str(folder / f"{m}.zip") for m in methods)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "DecompressionBombWarning" not in done.stderr
    rows = [line.split("|") for line in done.stdout.splitlines()]
    return {m: (what, int(traced), int(resident)) for m, (what, traced, resident) in zip(methods, rows, strict=True)}


@pytest.mark.parametrize("method", ["deflate", "bzip2", "lzma"])
def test_a_member_that_lies_about_its_size_takes_little_memory(method, liars):
    what, traced, resident = liars[method]
    assert what == ("1000" if method == "deflate" else "ValueError: it is larger than the archive says")
    assert traced < 4e6 and resident < 30e6, (traced, resident)


SPECIAL = {
    "encrypted": (lambda p: patched(p, "x.png", 8, b"\x01\0"), "it is encrypted"),
    "unknown method": (lambda p: patched(p, "x.png", 10, b"\x5d\0"), "it is packed by method 93"),
    "link": (lambda p: patched(p, "x.png", 38, struct.pack("<I", (stat.S_IFLNK | 0o777) << 16)), "it is a link"),
    "pipe": (lambda p: patched(p, "x.png", 38, struct.pack("<I", (stat.S_IFIFO | 0o777) << 16)), "not a regular file"),
    "elsewhere": (lambda p: patched(p, "x.png", 42, struct.pack("<I", 3)), "Bad magic number"),
    "smaller": (lambda p: claiming(p, 20), "CRC"),
    "checksum": (lambda p: patched(p, "x.png", 16, bytes(4)), "CRC"),
}


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("method", METHODS)
def test_members_that_cannot_be_read_are_named(kind, method, tmp_path):
    change, words = SPECIAL[kind]
    path = change(archive(tmp_path / "f.zip", member("x.png", saved("PNG"), METHODS[method])))
    found = reading(path)
    assert words in found or (kind == "smaller" and "larger than the archive says" in found)
    assert [name for name, _ in prepare(ImageFolder(path, 8), tmp_path / "c").stats["skipped"]] == ["x.png"]


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9, 0.99])
def test_truncated_archives_are_one_message(kept, tmp_path):
    path = archive(tmp_path / "f.zip", member("x.png", saved("PNG")))
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(UserError, match=r"f\.zip is neither a folder nor a readable zip file"):
        ImageFolder(path, 8)


def test_an_archive_of_too_long_a_directory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = archive(tmp_path / "f.zip", *(member(f"{i:0100d}.png", b"") for i in range(100)))
    monkeypatch.setattr(containers, "MOST_DIRECTORY", 10_000)
    monkeypatch.setattr(zipfile.ZipInfo, "__init__", lambda *_, **__: pytest.fail("read"))
    words = r"f\.zip is neither .* \(its directory has 15,102 bytes; at most 10,000 bytes are read\)"
    with pytest.raises(UserError, match=words):
        ImageFolder(path, 8)


def test_archives_inside_are_named_and_never_opened(tmp_path):
    inner = archive(tmp_path / "inner.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "f.zip", "w") as file:
        file.writestr("inner.zip", inner)
    with pytest.raises(UserError, match=r"No images in .*f\.zip.* not opened: unpack inner\.zip"):
        ImageFolder(tmp_path / "f.zip", 8)
    path = archive(tmp_path / "g.zip", member("inner.zip", inner), member("x.png", inner))
    assert ImageFolder(path, 8).names == ["a.png", "b.png", "x.png"]
    assert "not an image in a known format" in reading(path)


LABEL_FILES = {
    "deep": (b'{"labels": ' + b"[" * 100_000, "nested too deeply"),
    "deep entry": (b'{"labels": [' + b"[" * 200 + b"]" * 200 + b"]}", r"must be a pair .* got \[\[\["),
    "no text": (b"\xff\xfe\xfd", "not valid JSON"),
    "long number": (b'{"labels": [["a.png", ' + b"9" * 5000 + b"]]}", "not valid JSON"),
    "wide": (json.dumps({"labels": [[n, "x" * 100_000] for n in ("a.png", "b.png")]}).encode(), "a.png has 'xxx"),
}


@pytest.mark.parametrize("kind", LABEL_FILES)
@pytest.mark.parametrize("zipped", [False, True])
def test_label_files_that_cannot_be_are_one_short_message(kind, zipped, tmp_path):
    content, words = LABEL_FILES[kind]
    if zipped:
        path = archive(tmp_path / "f.zip", member("dataset.json", content))
    else:
        (folder(path := tmp_path / "f") / "dataset.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"(?s)dataset\.json in .*{words}") as caught:
        ImageFolder(path, 8, labels="json")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("zipped", [False, True])
def test_a_label_file_has_a_limit(zipped, tmp_path, monkeypatch):
    monkeypatch.setattr(image_folder, "MOST_LABELS", 2000)
    if zipped:
        path = archive(tmp_path / "f.zip", member("dataset.json", bytes(2001)))
    else:
        (folder(path := tmp_path / "f") / "dataset.json").write_bytes(bytes(2001))
    with pytest.raises(UserError, match=r"dataset\.json in .* cannot be read: it has"):
        ImageFolder(path, 8, labels="auto")


def test_a_high_class_number_does_not_make_a_square_of_it(tmp_path):
    """Which has 40 GB."""
    root = folder(tmp_path / "f")
    (root / "dataset.json").write_text(json.dumps({"labels": [["a.png", 99_999], ["b.png", 3]]}))
    source = ImageFolder(root, 8, labels="json")
    tracemalloc.start()
    try:
        labels = source.labels()
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()
    assert labels.shape == (2, 100_000) and labels.dtype == np.float32
    assert [row.nonzero()[0].tolist() for row in labels] == [[99_999], [3]] and labels.sum() == 2


# ------------------------------------------------------------------------------- links, pipes, devices


@pytest.fixture
def outside(tmp_path) -> Path:
    return folder(tmp_path / "elsewhere")


LINKS = {
    "x.png": ("a.png", "x.png"),
    "deeper/x.png": ("a.png", "deeper/x.png"),
    "more": (".", "more"),
    "dataset.json": ("a.png", "dataset.json"),
}


def link(root: Path, name: str, target: Path | str) -> Path:
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).symlink_to(target)
    return root


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.parametrize("relative", [False, True])
def test_a_link_out_of_the_folder_is_refused_and_named(kind, relative, outside, tmp_path):
    target, name = LINKS[kind]
    place = Path(os.path.relpath(outside / target, (tmp_path / "f" / name).parent)) if relative else outside / target
    root = link(folder(tmp_path / "f"), kind, place)
    leads = os.path.realpath(outside / target)
    with pytest.raises(UserError) as caught:
        ImageFolder(root, 8)
    words = f"{root} holds a link that leads out of it: {name} -> {leads}. Set data.follow_links=true"
    assert str(caught.value).startswith(words)
    assert len(ImageFolder(root, 8, follow_links=True)) == 2 + {"more": 2, "dataset.json": 0}.get(kind, 1)


def test_links_out_are_counted_and_their_folders_not_entered(outside, tmp_path):
    root = folder(tmp_path / "f")
    for i in range(12):
        link(root, f"{i:02d}.png", outside / "a.png")
    link(root, "everything", "/")
    with pytest.raises(UserError, match=r"holds 13 links that lead out of it: 00\.png -> "):
        ImageFolder(root, 8)


def test_links_that_stay_inside_or_do_not_matter_are_as_they_were(outside, tmp_path):
    root = folder(tmp_path / "f")
    link(root, "c.png", "a.png")
    link(root, "deeper/d.png", root / "b.png")
    before = ImageFolder(root, 8)
    assert before.names == ["a.png", "b.png", "c.png", "deeper/d.png"]
    link(root, "notes.txt", outside / "a.png")
    link(root, ".hidden.png", outside / "a.png")
    (tmp_path / "also").symlink_to(root)  # the folder itself may be a link
    for source in (ImageFolder(tmp_path / "also", 8), ImageFolder(root, 8, follow_links=True)):
        assert source.fingerprint == before.fingerprint and source.names == before.names


def test_the_fingerprint_of_a_folder_is_what_it_was(tmp_path):
    """Caches that exist stay valid."""
    root = tmp_path / "f"
    root.mkdir()
    for name in ("a", "b"):
        (root / f"{name}.png").write_bytes(name.encode())
    known = "7f5bb8c3b8e25f6d8904d8a113d5f5693543f6be0bffd2ac2c85405a761e4631"
    assert ImageFolder(root, 8).fingerprint == ImageFolder(root, 8, follow_links=True).fingerprint == known


def test_each_way_in_says_what_to_do_about_links(outside, tmp_path, capsys):
    root = link(folder(tmp_path / "f"), "x.png", outside / "a.png")
    cfg = OmegaConf.create({**EVALUATION, "data_cache_dir": str(tmp_path / "c")})
    with pytest.raises(UserError, match=r"x\.png -> .*a\.png\. Set follow_links=true"):
        load_images(root, cfg)
    assert len(load_images(root, OmegaConf.merge(cfg, {"follow_links": True}))) == 3
    with pytest.raises(UserError, match=r"x\.png -> .*a\.png\. Give what links lead to"):
        gather([root], 8, 3, "center")
    with pytest.raises(SystemExit):
        streamed.main([str(root), str(tmp_path / "s"), "--resolution", "8"])
    assert "a.png. Add --follow-links" in capsys.readouterr().err


def test_runs_older_than_the_option_go_on(outside, tmp_path):
    """Their configuration lacks it; evaluate.py and resuming can set it."""
    root = folder(tmp_path / "f")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", ["data=image_folder", f"data.path={root}", "data.resolution=8", "run_dir=x",
                                f"data.cache_dir={tmp_path}/c", "model.c_dim=0"])  # fmt: skip
    old = OmegaConf.create(builders.to_plain(cfg))
    del old.data["follow_links"], old.data.source["follow_links"]
    assert differences(old, cfg) == [] and len(builders.build_dataset(old)) == 2
    link(root, "x.png", outside / "a.png")
    given = OmegaConf.create({"data_path": None, "data_cache_dir": None, "cache_dir": f"{tmp_path}/c"})
    trained = Candidate(tmp_path, SimpleNamespace(c_dim=0), old)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"x\.png -> .*a\.png\. Set follow_links=true"):
        training_data(trained, given)
    assert len(training_data(trained, OmegaConf.merge(given, {"follow_links": True}))) == 3  # type: ignore[arg-type]


def test_the_option_is_true_or_false():
    for key in ("data.follow_links", "follow_links"):
        cfg = OmegaConf.from_dotlist([f"{key}=maybe"])
        assert "true or false; got 'maybe'" in broken_rules(cfg, RULES | EVALUATION_RULES)[key]


def test_links_in_circles_end(tmp_path):
    root = folder(tmp_path / "f")
    link(root, "x.png", "y.png")
    link(root, "y.png", "x.png")
    link(root, "self", "self")
    link(root, "again", ".")
    assert ImageFolder(root, 8).names == ["a.png", "b.png", "x.png", "y.png"]
    assert "Too many levels of symbolic links" in reading(root)


def test_links_that_multiply_the_folders_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(containers, "MOST_AGAIN", 200)
    root = folder(tmp_path / "f")
    for i in range(40):
        (root / f"d{i}").mkdir()
        for name in ("left", "right"):
            (root / f"d{i}" / name).symlink_to(f"../d{i + 1}")
    (root / "d40").mkdir()
    with pytest.raises(UserError, match=r"lead to the same folders again and again, e\.g\. d"):
        ImageFolder(root, 8)


@pytest.mark.parametrize("follow", [False, True])
def test_names_that_links_reach_again_are_counted(follow, tmp_path, monkeypatch):
    """Few folders of many files make as many names as many folders do."""
    root, inner = folder(tmp_path / "f"), folder(tmp_path / "f" / "inner")
    for i in range(8):
        os.link(inner / "a.png", inner / f"{i}.png")
    for i in range(5):
        link(root, f"d{i}", "inner")
    monkeypatch.setattr(containers, "MOST_AGAIN", 5 * (10 + 1))
    assert len(ImageFolder(root, 8, follow_links=follow)) == 2 + 6 * 10, "hard links are files"
    monkeypatch.setattr(containers, "MOST_AGAIN", 5 * (10 + 1) - 1)
    with pytest.raises(UserError, match=r"lead to the same folders again and again, e\.g\. "):
        ImageFolder(root, 8, follow_links=follow)


def test_a_link_to_nothing_is_an_unreadable_file(tmp_path):
    """Also where nothing is outside."""
    root = link(folder(tmp_path / "f"), "gone.png", tmp_path / "elsewhere.png")
    assert "No such file" in reading(root, "gone.png")
    assert len(prepare(ImageFolder(root, 8), tmp_path / "c")) == 2


@pytest.fixture
def ends():
    """Stops everything where a test would wait for ever, threads included."""
    faulthandler.dump_traceback_later(60, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.usefixtures("ends")
@pytest.mark.parametrize("make", [pipe, device])
def test_pipes_and_devices_are_neither_waited_for_nor_read_for_ever(make, tmp_path):
    root = folder(tmp_path / "f")
    make(root / "x.png")
    words = "it is not a regular file"
    source = ImageFolder(root, 8, follow_links=True)
    with pytest.raises(UnreadableImage, match=f"x.png: {words}"):
        source.read(2)
    assert prepare(source, tmp_path / "c").stats["skipped"] == [["x.png", words]]
    with pytest.raises(UserError, match=f"x.png: {words}"):
        read_picture(root / "x.png", 8, 3)
    assert embed(root / "x.png", 1e6, notes := []) is None and words in notes[0]
    make(root / "dataset.json")
    with pytest.raises(UserError, match=rf"dataset\.json in .* cannot be read: {words}"):
        ImageFolder(root, 8, labels="json", follow_links=True)
    make(tmp_path / "x.zip")
    with pytest.raises(UserError, match=r"x\.zip is neither .* \(it is a device or a pipe\)"):
        ImageFolder(tmp_path / "x.zip", 8)


# -------------------------------------------------------------------------------------------------- shards


def chunk(*images: bytes, starts: list[int] | None = None, count: int | None = None) -> bytes:
    items = [struct.pack("<I", len(image)) + image for image in images]
    places = np.cumsum([4 * (2 + len(items)), *map(len, items)]) if starts is None else np.array(starts)
    head = struct.pack("<I", len(items) if count is None else count)
    return head + places.astype("<u4").tobytes() + b"".join(items)


def shards(path: Path, content: bytes, **changes) -> Path:
    path.mkdir(exist_ok=True)
    (path / "chunk-0-0.bin").write_bytes(content)
    meta = {"format": 1, "name": "n", "fingerprint": "f", "shape": [3, 8, 8], "label_names": [], "stats": {}}
    meta |= {"chunks": [["chunk-0-0.bin", len(content), 2]], **changes}
    (path / "shards.json").write_text(json.dumps(meta))
    return path


GOOD = encode(np.zeros((3, 8, 8), np.uint8))
SECOND = 16 + 4 + len(GOOD)
"""Where the second image of a chunk of two begins."""
CHUNKS = {
    "size": (
        chunk(GOOD, with_size("WEBP", SIDE)),
        "it holds an image of 15,000 x 15,000 pixels instead of 8 x 8",
    ),
    "canvas": (chunk(GOOD, extended_webp(12_000)), "it holds an image of 12,000 x 12,000 pixels instead of 8 x 8"),
    "another size": (chunk(GOOD, encode(np.zeros((3, 9, 8), np.uint8))), "an image of 8 x 9 pixels instead of 8 x 8"),
    "no picture": (chunk(GOOD, bytes(50)), "is damaged"),
    "behind the end": (
        chunk(GOOD, GOOD, starts=[16, SECOND, 10**6]),
        f"image 1 lies at bytes {SECOND} to 1,000,000 of",
    ),
    "backwards": (chunk(GOOD, GOOD, starts=[16, SECOND, 50]), f"its image 1 lies at bytes {SECOND} to 50 of"),
    "no room": (chunk(GOOD, GOOD, starts=[16, SECOND, SECOND + 3]), f"its image 1 lies at bytes {SECOND} to"),
    "overflow": (chunk(GOOD, GOOD, starts=[16, 2**32 - 1, 2]), "its image . lies at bytes .*4,294,967,295"),
    "count": (chunk(GOOD, GOOD, count=2**32 - 1), "it says that it holds 4,294,967,295 images"),
    "fewer": (chunk(GOOD, GOOD, count=1), "it says that it holds 1 images"),
}


@pytest.mark.parametrize("kind", CHUNKS)
@pytest.mark.parametrize("place", ["{}", "local:{}", "few"])
def test_shards_that_lie_are_refused_before_they_are_decoded(kind, place, tmp_path):
    """Where they lie, through the cache, and a single image of a place that is not cached."""
    content, words = CHUNKS[kind]
    root = shards(tmp_path / "s", content)
    address = f"local:{root}" if place == "few" else place.format(root)
    dataset = StreamedDataset(Shards(address, 8), tmp_path / "c", window_chunks=1)
    assert kind in ("count", "overflow") or not dataset.batch([0])[0].any()
    begin = time.perf_counter()
    with pytest.raises(UserError, match=words) as caught, warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset.batch([1] if place == "few" else [0, 1])
    assert "chunk-0-0.bin" in str(caught.value) and time.perf_counter() - begin < 2


def test_an_image_of_an_object_store_lies_in_its_chunk(tmp_path, monkeypatch):
    content, words = CHUNKS["behind the end"]
    files = streamed.ShardFiles(str(shards(tmp_path / "s", content)))
    store = SimpleNamespace(download_bytes=lambda _, start, size, __: content[start : start + size])
    monkeypatch.setattr(files, "_own", lambda: SimpleNamespace(downloader=store))
    assert files._item("chunk-0-0.bin", 0) == GOOD
    with pytest.raises(ValueError, match=words):
        files._item("chunk-0-0.bin", 1)


METAS = {
    "many images": {"chunks": [["chunk-0-0.bin", len(chunk(GOOD, GOOD)), 10**30]]},
    "more images than bytes": {"chunks": [["chunk-0-0.bin", len(chunk(GOOD, GOOD)), len(chunk(GOOD, GOOD))]]},
    "large": {"chunks": [["chunk-0-0.bin", 10**30, 2]]},
    "half": {"chunks": [["chunk-0-0.bin", 100.5, 1.5]]},
    "size": {"shape": [3, 8.0, 8.0]},
    "names": {"label_names": [[[]]]},
    "no stats": {"stats": []},
    "skipped": {"stats": {"skipped": 5}},
    "skipped names": {"stats": {"skipped": [["a"]]}},
    "skipped numbers": {"stats": {"skipped": [[1, 2]]}},
    "sizes": {"stats": {"sizes": [1]}},
    "common sizes": {"stats": {"sizes": {"common": [1], "distinct": 2, "min": "1x1", "max": "2x2"}}},
    "distinct sizes": {"stats": {"sizes": {"common": {"1x1": 2}}}},
    "least size": {"stats": {"sizes": {"common": {"1x1": 2}, "distinct": 2, "min": [], "max": None}}},
    "modes": {"stats": {"modes": 7}},
    "modes counted": {"stats": {"modes": {"RGB": "a"}}},
    "labels": {"stats": {"labels": [1]}},
    "labels counted": {"stats": {"labels": {"a": None}}},
    "mean": {"stats": {"mean": ["a"], "std": [1]}},
    "mean alone": {"stats": {"mean": [1.0]}},
    "mean without end": {"stats": {"mean": [10**400], "std": [1]}},
    "no list of means": {"stats": {"mean": 5, "std": 5}},
}


@pytest.mark.parametrize("kind", METAS)
def test_an_index_that_cannot_be_is_refused(kind, tmp_path):
    root = shards(tmp_path / "s", chunk(GOOD, GOOD), **METAS[kind])
    with pytest.raises(UserError, match=r"shards\.json is damaged"):
        StreamedDataset(Shards(str(root), 8))


def test_parts_of_the_statistics_are_enough(tmp_path):
    made = {"count": 2, "skipped": [["x\x1b", "y"]], "modes": {"RGB": 2}, "labels": {}, "mean": [1, 2.5], "std": [0, 1]}
    made["sizes"] = {"distinct": 0, "common": {}, "min": None, "max": None}
    for stats in (made, {}, *({key: value} for key, value in made.items() if key not in ("mean", "std"))):
        root = shards(tmp_path / "s", chunk(GOOD, GOOD), stats=stats)
        text = summary_text(StreamedDataset(Shards(str(root), 8)))
        assert text.startswith("n: 2 images of 3x8x8") and "\x1b" not in text


def test_an_index_without_end_is_refused(tmp_path, monkeypatch):
    root = shards(tmp_path / "s", chunk(GOOD, GOOD))
    (root / "shards.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"shards\.json is damaged"):
        StreamedDataset(Shards(str(root), 8))
    monkeypatch.setattr(streamed, "MOST_META", 1000)
    (root / "shards.json").write_bytes(bytes(1001))
    with pytest.raises(UserError, match=r"shards\.json cannot be read: it has 1,001 bytes; at most 1,000 are read"):
        StreamedDataset(Shards(str(root), 8))
    with pytest.raises(ValueError, match="more than 1,000 bytes"):
        streamed._Bounded().write(bytes(1001))  # of an object store


@pytest.mark.usefixtures("ends")
@pytest.mark.parametrize("make", [pipe, device])
@pytest.mark.parametrize("name", ["shards.json", "labels.npy", "chunk-0-0.bin"])
@pytest.mark.parametrize("place", ["{}", "local:{}"])
def test_pipes_and_devices_among_shards_are_refused(make, name, place, tmp_path):
    root = shards(tmp_path / "s", chunk(GOOD, GOOD), label_names=["a"])
    (root / name).unlink(missing_ok=True)
    make(root / name)
    with pytest.raises(UserError, match=name):
        StreamedDataset(Shards(place.format(root), 8, labels=True), tmp_path / "c", window_chunks=1).batch([0])


CLAIM = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1000000000000)}"


@pytest.mark.parametrize("header", ["(" * 3000, "-" * 3000 + "1", CLAIM])
@pytest.mark.parametrize("place", ["{}", "local:{}"])
def test_labels_that_claim_too_much_are_refused(header, place, tmp_path):
    root = shards(tmp_path / "s", chunk(GOOD, GOOD), label_names=["a"])
    (root / "labels.npy").write_bytes(b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header.encode())
    with pytest.raises(UserError, match=r"labels\.npy is damaged"):
        StreamedDataset(Shards(place.format(root), 8, labels=True), tmp_path / "c", window_chunks=1)


# ---------------------------------------------------------------------------------------- tables of attributes

TABLES = {
    "a.json": ("[" * 100_000, "nested too deeply"),
    "b.json": ('[{"seed": 0, "x": ' + "9" * 400 + '}, {"seed": 1, "x": 1}]', "row 1: x must be a number"),
    "c.json": ('[{"seed": "²", "x": 1}, {"seed": 1, "x": 1}]', "row 1: a seed is a whole number"),
    "d.json": ('[{"seed": "' + "1" * 9000 + '", "x": 1}, {"seed": 1, "x": 1}]', "row 1: a seed is a whole number"),
    "e.csv": ("seed,x\n0," + "1" * 200_000 + "\n1,1\n", "is no table of attributes"),
    "f.csv": ("x\n1,2,3\n1\n", "must have a column 'seed'"),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_that_cannot_be_are_one_short_message(name, tmp_path):
    content, words = TABLES[name]
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=words) as caught:
        examples_of_file(None, tmp_path / name)  # type: ignore[arg-type]
    assert str(caught.value).startswith(str(tmp_path / name)) and len(str(caught.value)) < 500


@pytest.mark.usefixtures("ends")
@pytest.mark.parametrize("make", [pipe, device])
def test_a_table_is_a_regular_file(make, tmp_path):
    make(tmp_path / "a.csv")
    with pytest.raises(UserError, match=r"a\.csv is no table of attributes: it is not a regular file"):
        examples_of_file(None, tmp_path / "a.csv")  # type: ignore[arg-type]
