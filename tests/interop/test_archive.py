"""Archives of `torch.save`: what is read is what PyTorch reads, and nothing else is."""

from __future__ import annotations

import os
import resource
import struct
import time
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from stylegan_lightning.errors import UserError
from stylegan_lightning.interop.archive import STORAGES, read_archive
from stylegan_lightning.training.checkpoint import read_checkpoint


def same(ours, theirs) -> bool:
    if isinstance(theirs, torch.Tensor):
        alike = ours.dtype == theirs.dtype and ours.shape == theirs.shape and ours.stride() == theirs.stride()
        return alike and torch.equal(ours, theirs)
    if isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(same(ours[k], v) for k, v in theirs.items())
    if isinstance(theirs, list | tuple):
        return type(ours) is type(theirs) and len(ours) == len(theirs) and all(map(same, ours, theirs))
    return type(ours) is type(theirs) and ours == theirs


def everything():
    flat = torch.arange(24.0)
    module = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.zeros(1, 2, 5, 5)).sum().backward()
    optimizer.step()
    return {
        "state_dict": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "views": [flat[3:9], flat.view(4, 6).t(), flat.view(2, 3, 4)[:, 1], flat],
        "last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "empty": [torch.zeros(0), torch.zeros(3, 0, 2), torch.tensor(3.5)],
        "kinds": {str(kind): torch.ones(3).to(kind) for kind in STORAGES.values()},
        "plain": {"a": None, "b": True, "c": -(2**70), "d": 1e300, "e": "ä\n", 7: ((), (1,), [2, [3]]), "f": 2**40},
        "ordered": OrderedDict(x=1, y=OrderedDict()),
        "large": list(range(3000)) + [str(i) for i in range(300)],
    }


def test_what_torch_writes_is_what_torch_reads(tmp_path):
    torch.save(everything(), tmp_path / "a.ckpt")
    assert same(read_archive(tmp_path / "a.ckpt"), torch.load(tmp_path / "a.ckpt", weights_only=True))


def test_tensors_are_copies_once_they_are_written_to(tmp_path):
    torch.save({"a": torch.zeros(4)}, tmp_path / "a.ckpt")
    read_archive(tmp_path / "a.ckpt")["a"].fill_(7)
    assert read_archive(tmp_path / "a.ckpt")["a"].tolist() == [0, 0, 0, 0]


# ------------------------------------------------------------------------------- archives made by hand


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(16, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def name(module: str, what: str) -> bytes:
    return f"c{module}\n{what}\n".encode()


ORDERED = name("collections", "OrderedDict")


def storage(key: str = "0", numel: int = 4, kind: bytes = name("torch", "FloatStorage"), tag: str = "storage") -> bytes:
    return b"(" + text(tag) + kind + text(key) + text("cpu") + number(numel) + b"tQ"


def tensor(size: bytes, stride: bytes, offset: int = 0, of: bytes | None = None) -> bytes:
    made = name("torch._utils", "_rebuild_tensor_v2") + b"(" + (storage() if of is None else of)
    return made + number(offset) + size + stride + b"\x89" + ORDERED + b")R" + b"tR"


def nested(levels: int) -> bytes:
    """A pair of pairs of pairs, each twice the same."""
    return b"K\x01r" + struct.pack("<I", 0) + b"".join(
        b"j" + struct.pack("<I", k) + b"\x86r" + struct.pack("<I", k + 1) for k in range(levels)
    )  # fmt: skip


def write(path: Path, pickled: bytes, data: bytes = bytes(16), how: int = zipfile.ZIP_STORED, **more: bytes) -> Path:
    with zipfile.ZipFile(path, "w", how) as file:
        members = {"data.pkl": b"\x80\x02" + pickled + b".", "byteorder": b"little", "data/0": data, **more}
        for member, content in members.items():
            file.writestr(f"archive/{member}", content)
    return path


def pair(key: str, value: bytes) -> bytes:
    return text(key) + value


HOSTILE = {
    "bytearray": name("builtins", "bytearray") + number(3_000_000_000) + b"\x85R",
    "os.system": name("os", "system") + text("true") + b"\x85R",
    "by instruction": b"(" + text("true") + b"ios\nsystem\n",
    "by stack": text("os") + text("system") + b"\x93" + text("true") + b"\x85R",
    "by object": b"(" + name("os", "system") + text("true") + b"o",
    "by extension": b"\x82\x01",
    "key that hashes for ever": b"}" + nested(60) + b"Ns",
    "key that is deep": b"}K\x01" + b"\x85" * 1_000_000 + b"Ns",
    "key of bytes": b"}(C\x01aNu",
    "called with that": nested(60) + b")R",
    "copies of a table": ORDERED + b"r\0\0\0\0" + b"](" + (b"j\0\0\0\0" + b"})R") * 10 + b"e",
    "a table with content": ORDERED + b"}\x85R",
    "attributes of a list": b"]}b",
    "appended to a table": b"}(K\x01e",
    "set in a list": b"](K\x01K\x02u",
    "odd number of values": b"}(K\x01u",
    "no mark": b"K\x01e",
    "nothing there": b"0",
    "unknown memo": b"j\x09\0\0\0",
    "two results": b"NN",
    "no result": b"",
    "sets": b"\x8f",
    "zeros of any shape": tensor(numbers(2**20, 2**20), numbers(0, 0)),
    "larger than its storage": tensor(numbers(5), numbers(1)),
    "beyond its storage": tensor(numbers(2), numbers(1), offset=3),
    "steps beyond it": tensor(numbers(2, 2), numbers(3, 1)),
    "negative offset": tensor(numbers(1), numbers(1), offset=-1),
    "negative size": tensor(numbers(-1), numbers(1)),
    "negative stride": tensor(numbers(2), numbers(-1), offset=3),
    "huge size": tensor(numbers(2**63), numbers(1)),
    "sizes that are none": tensor(b"(" + text("a") + b"t", numbers(1)),
    "size that is no tuple": tensor(number(1), numbers(1)),
    "fewer strides": tensor(numbers(1, 1), numbers(1)),
    "storage larger than its part": tensor(numbers(8), numbers(1), of=storage(numel=8)),
    "storage that is missing": tensor(numbers(1), numbers(1), of=storage("7")),
    "storage of another name": tensor(numbers(1), numbers(1), of=storage("../data.pkl")),
    "storage of another kind": tensor(numbers(1), numbers(1), of=storage(kind=name("torch", "QInt8Storage"))),
    "storage that is a text": tensor(numbers(1), numbers(1), of=text("a")),
    "reference to a module": tensor(numbers(1), numbers(1), of=storage(tag="module")),
}


def peak() -> int:
    """MiB"""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


@pytest.mark.parametrize("case", HOSTILE)
def test_what_torch_does_not_write_is_not_read(case, tmp_path):
    path, before, begin = write(tmp_path / "x.ckpt", HOSTILE[case]), peak(), time.monotonic()
    with pytest.raises(UserError, match=r"x\.ckpt is damaged or is not a checkpoint") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    assert peak() - before < 200 and time.monotonic() - begin < 30  # of hours


def test_tensors_together_claim_no_more_than_the_file(tmp_path):
    """A storage may have several views, but not a thousand of all of it."""
    views = b"](" + tensor(numbers(25_000), numbers(1), of=storage(numel=25_000)) * 1000 + b"e"
    with pytest.raises(ValueError, match="claim more"):
        read_archive(write(tmp_path / "x.ckpt", views, bytes(100_000)))


@pytest.mark.parametrize("hidden", ["values", "items", "keys", "get"])
def test_attributes_of_tables_hide_nothing(hidden, tmp_path):
    """PyTorch's reader lets a file replace the methods of an ordered table."""
    table = ORDERED + b")R(" + pair("a", tensor(numbers(4), numbers(1))) + b"u"
    path = write(tmp_path / "x.ckpt", table + b"}(" + pair(hidden, ORDERED) + b"ub")
    found = read_archive(path)
    assert type(found) is dict and next(iter(found.values())).tolist() == [0.0] * 4


@pytest.mark.parametrize("case", ["data.pkl", "data/0"])
def test_compressed_parts_are_not_inflated(case, tmp_path):
    pickled = tensor(numbers(4), numbers(1)) if case == "data/0" else b"](" + b"N" * 1_000_000 + b"e"
    write(tmp_path / "x.ckpt", pickled)
    with zipfile.ZipFile(tmp_path / "x.ckpt") as old, zipfile.ZipFile(tmp_path / "y.ckpt", "w") as new:
        for member in old.namelist():
            how = zipfile.ZIP_DEFLATED if member.endswith(case) else zipfile.ZIP_STORED
            new.writestr(member, old.read(member), how)
    with pytest.raises(ValueError, match="compressed"):
        read_archive(tmp_path / "y.ckpt")


def test_parts_that_are_missing_twice_there_or_too_large(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "x.ckpt", "w") as file:
        file.writestr("a/b", b"")
    with pytest.raises(ValueError, match=r"without data\.pkl"):
        read_archive(tmp_path / "x.ckpt")
    with pytest.raises(ValueError):
        read_archive(write(tmp_path / "x.ckpt", b"N", **{"b/data.pkl": b"\x80\x02N."}))
    with pytest.raises(ValueError, match="byte order"):
        with zipfile.ZipFile(tmp_path / "x.ckpt", "w") as file:
            file.writestr("a/data.pkl", b"\x80\x02N.")
            file.writestr("a/byteorder", b"big")
        read_archive(tmp_path / "x.ckpt")
    monkeypatch.setattr("stylegan_lightning.interop.archive.MOST_PICKLE", 3)
    with pytest.raises(ValueError, match="at most 3"):
        read_archive(write(tmp_path / "x.ckpt", b"N"))


def test_one_reader_sees_one_archive(tmp_path):
    """Two archives in one file: PyTorch's reader and Python's each take another one."""
    evil, benign = (write(tmp_path / n, p) for n, p in (("e", HOSTILE["bytearray"]), ("b", text("b" * 40))))
    whole = evil.read_bytes() + benign.read_bytes()
    (tmp_path / "x.ckpt").write_bytes(whole)
    assert read_archive(tmp_path / "x.ckpt") == "b" * 40


@pytest.mark.parametrize("cut", [1, 100, 700])
def test_truncated_archives(cut, tmp_path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "x.ckpt")
    os.truncate(tmp_path / "x.ckpt", (tmp_path / "x.ckpt").stat().st_size - cut)
    with pytest.raises(UserError, match="damaged"):
        read_checkpoint(tmp_path / "x.ckpt")
