"""Whatever is sent to the page is answered, in plain words."""

from __future__ import annotations

import random

import pytest
import torch

from stylegan_lightning.explore import limits
from stylegan_lightning.latent.codes import Codes, styles_of
from tests.latent.codes_helpers import broken_codes
from tests.latent.latent_helpers import tiny

BROKEN = tuple(broken_codes(tiny("stylegan2")))


@pytest.mark.parametrize("name", BROKEN)
def test_broken_codes_are_refused_and_not_kept(served, name):
    client, painter = served
    content, why = broken_codes(painter.G)[name]
    before = set(painter.store.folder.iterdir())
    refused = client.post("/api/codes", content=content)
    assert refused.status_code == 422, refused.text
    said = refused.json()["error"]
    assert said.startswith("the file") and why in said and len(said) < 600
    assert set(painter.store.folder.iterdir()) == before


def test_codes_of_huge_numbers_are_drawn(served, tmp_path):
    client, painter = served
    Codes(torch.full((1, painter.G.num_ws, painter.G.w_dim), 3e38), ("huge",)).save(tmp_path / "c.safetensors")
    kept = client.post("/api/codes", content=(tmp_path / "c.safetensors").read_bytes()).json()
    assert client.get(f"/api/image?a=w{kept[0]['id']}&d=sefa0:10").status_code == 200


def test_a_file_of_too_many_codes(served, tmp_path, monkeypatch):
    client, painter = served
    Codes(styles_of(painter.G, [1, 2, 3]), ("a", "b", "c")).save(tmp_path / "c.safetensors")
    content = (tmp_path / "c.safetensors").read_bytes()
    monkeypatch.setattr(limits, "MOST_CODES", 2)
    assert client.post("/api/codes", content=content).status_code == 413
    monkeypatch.setattr(limits, "MOST_CODES", 3)
    assert client.post("/api/codes", content=content).status_code == 200


PIECES = (
    *("0", "1", "-1", "1e999", "nan", "inf", "-0", "9" * 400, "4294967295", "4294967296", "1_0", "0x1", "٣", "１", ""),
    *("%00", "%FF", "%ED%A0%80", "%F0%9F%98%80", "..%2F..%2Fetc%2Fpasswd", "..", "%0d%0aX-Evil:1", "%", "a%", "+"),
    *("w0123456789abcdef", "w" + "0" * 16, "1c0", "1c999999", "sefa0:1", "sefa0:1e308", ":", "[" * 500, "x" * 3000),
    *("0,1,1,0", " ", "<script>", "preview.png", "gif", "webp"),
)
KEYS = ("a", "b", "psi", "cutoff", "mix", "noise", "d", "size", "frames", "fps", "kind", "id", "name", "steps", "class")
PATHS = ("/api/image", "/api/codes", "/api/film", "/api/model", "/api/projections", "/api", "/page", "/style.css")
BODIES = (b"", b"x", b"\0" * 100, b"\xff" * 100, b'{"a":1}', b"[" * 2000, b"\x89PNG\r\n\x1a\n" + b"\0" * 50)
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE")


def anything(chance: random.Random) -> tuple[str, str, bytes]:
    """A request: method, path with query, body."""
    path = chance.choice(PATHS) + "".join(f"/{chance.choice(PIECES)}" for _ in range(chance.choice((0, 0, 1, 2))))
    count = 300 if chance.random() < 0.02 else chance.randrange(6)
    own = ["a=1"] if chance.random() < 0.7 else []
    query = "&".join([*own, *(f"{chance.choice(KEYS)}={chance.choice(PIECES)}" for _ in range(count))])
    return chance.choice((*METHODS, "GET", "GET", "POST")), f"{path}?{query}", chance.choice(BODIES)


@pytest.mark.parametrize("path", ["/api/image", "/api/codes", "/api/film", "/api/projections"])
@pytest.mark.parametrize("count", [190, 199, 5000])
def test_links_of_many_settings(client, path, count):
    send = client.post if path == "/api/projections" else client.get
    answered = send(f"{path}?a=1{'&d=sefa0:1' * count}")
    assert answered.status_code == 400
    assert ("at most 200 settings" in answered.json()["error"]) == (count > 200), answered.text


def test_whatever_is_asked_is_answered(client, monkeypatch):
    monkeypatch.setattr(limits, "FILM_FRAMES", (2, 3))
    chance, seen = random.Random(0), set()
    for _ in range(600):
        method, path, body = anything(chance)
        answered = client.request(method, path, content=body)
        seen.add(answered.status_code)
        assert answered.status_code < 500, (method, path, body, answered.text)
        if answered.status_code >= 400 and method != "HEAD":
            said = answered.json()["error"]
            assert 0 < len(said) <= 600 and "Traceback" not in said, (method, path, said)
    assert {200, 400, 404, 405} <= seen


def test_an_error_of_the_program_is_no_secret_and_no_traceback(client, server, monkeypatch):
    def fail(*_):
        raise RuntimeError("of /home/me")

    monkeypatch.setattr(server.painter, "draw", fail)
    failed = client.get("/api/image?a=777")
    assert failed.status_code == 500 and "went wrong" in failed.json()["error"] and "home" not in failed.text
