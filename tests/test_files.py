"""Files are whole or absent, reading is bounded, names stay where they belong."""

from __future__ import annotations

import io
import os
import random
import unicodedata

import pytest

from stylegan_lightning.errors import UserError
from stylegan_lightning.files import (
    LONGEST_NAME,
    BoundedReads,
    distinct_names,
    parse_json,
    printable,
    read_file,
    read_stream,
    replacing,
    safe_name,
)

NAMES = [
    "../../escaped", "/etc/passwd", "..", ".", "", "   ", "a/..", "a\\..\\b", "C:\\x", "~", "-rf", ".hidden", "..CON",
    "a\0b", "a\nb", "a\r", "a\tb", "a\x1b[31m", "a\u2028b", "a\u202egnp.exe", "a\udcff", "\ud800", "x" * 300, "é" * 300,
    "x" * 199 + "é", "NUL", "nul.png", "COM1", "lpt9.txt", "CON ", "aux .x", "conin$", "com¹", "a.", "a .", ". .",
    "con", '<>:"|?*', "a" * 254 + "/", "e\u0301",
]  # fmt: skip
"""Each names a file elsewhere, or none at all, on some system."""


def check_safe(name: str) -> None:
    assert name and len(name.encode()) <= LONGEST_NAME and name == name.strip() and name not in (".", "..")
    assert not set(name) & set('<>:"/\\|?*') and not name.startswith(".") and not name.endswith(".")
    assert not any(unicodedata.category(s) in ("Cc", "Cs", "Zl", "Zp") or s in "\u202e\u2066" for s in name)
    assert name.split(".")[0].strip().casefold() not in ("con", "prn", "aux", "nul", "com1", "lpt9", "conin$", "com¹")
    assert safe_name(name) == name


@pytest.mark.parametrize("text", NAMES, ids=lambda t: ascii(t)[:24])
def test_names_are_made_safe(text, tmp_path):
    name = safe_name(text)
    check_safe(name)
    (tmp_path / f"{name}.safetensors").write_bytes(b"")
    assert len(os.listdir(tmp_path)) == 1


def test_random_names_are_made_safe():
    draw = random.Random(0)
    signs = [*'ab./\\:*? \0\n"~-_', "é", "\u0301", "\u202e", "\udc80", "\u2029", "C", "O", "N", "💫"]
    for _ in range(20_000):
        check_safe(safe_name("".join(draw.choices(signs, k=draw.randrange(12)))))


@pytest.mark.parametrize("text", ["seed 5", "anna-2", "Zoë (3)", "猫", "smile", "a b.c", "x" * 200, "👩‍🚀"])
def test_safe_names_stay_as_they_are(text):
    assert safe_name(text) == text


def test_distinct_names_are_files_of_their_own(tmp_path):
    texts = ["a", "A", "a", "a/b", "a:b", "a_b", "overview", "x" * 300, "x" * 301, *NAMES]
    names = distinct_names(texts, ["overview"])
    assert len({n.casefold() for n in names}) == len(texts) and "overview" not in names
    for name in names:
        (tmp_path / f"{name}.png").write_bytes(b"")
    assert len(os.listdir(tmp_path)) == len(texts)


def test_replacing_is_whole_or_absent_also_for_the_longest_names(tmp_path):
    for name in ("x" * 255, "é" * 127, os.fsdecode(b"\xff.bin")):
        path = tmp_path / name
        with replacing(path) as temporary:
            temporary.write_text("whole")
        with pytest.raises(RuntimeError), replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError
        assert path.read_text() == "whole"
    assert len(os.listdir(tmp_path)) == 3


def test_files_are_read_up_to_a_limit(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_file(path, 5) == b"12345"
    with pytest.raises(ValueError, match="5 bytes; at most 4 bytes"):
        read_file(path, 4)
    with pytest.raises(ValueError, match="more than 4 bytes"):
        read_stream(io.BytesIO(b"12345"), 4)
    with pytest.raises(OSError):
        read_file(tmp_path / "none", 4)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes that have a name")
def test_what_would_be_read_for_ever_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero", tmp_path):
        with pytest.raises((ValueError, OSError), match=r"regular|directory"):
            read_file(path, 10**12)


@pytest.mark.parametrize("text", ["", "{", "[" * 200_000, b"\xff", "1" * 5000, '{"a": }'])
def test_json_that_is_none_is_one_message(text):
    with pytest.raises(UserError, match=r"^the file (is not valid JSON|is nested too deeply)"):
        parse_json(text, "the file")


def test_what_steers_a_terminal_is_written_out():
    assert printable("a\x1b[31m\n\x07\x9b\u202e\u2028\ud800") == r"a\x1b[31m\x0a\x07\x9b\x202e\x2028\xd800"
    assert printable("a\r\nb\tc", keep="\n") == "a\\x0d\nb\\x09c"
    for text in ("", "Zoë (3) 猫 👩‍🚀", "a\\b"):
        assert printable(text) == text
    assert not any(unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for name in NAMES for sign in printable(name))


def test_a_piece_of_a_file_has_a_limit(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"123456789")
    with BoundedReads(path, 5) as file:
        assert file.read(5) == b"12345" and file.read() == b"6789" and file.seek(2) == 2
        with pytest.raises(ValueError, match="its directory has 6 bytes; at most 5 bytes are read"):
            file.read(6)
        assert file.read(3) == b"345"
