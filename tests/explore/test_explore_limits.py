"""What the page takes of a machine, and what it answers to whatever is sent."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import io
import os
import random
import tempfile
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from explore_helpers import TOKEN, client_of, make_app, png
from PIL import Image

import stylegan_lightning
import stylegan_lightning.cli.explore
from stylegan_lightning.cli.explore import _listen, make_server
from stylegan_lightning.errors import UserError
from stylegan_lightning.explore import films, limits
from stylegan_lightning.explore.films import Film, check_frames
from stylegan_lightning.explore.limits import ENTRY_BYTES, Refused, Weighed
from stylegan_lightning.explore.projecting import Job, Projections
from stylegan_lightning.explore.store import Store
from stylegan_lightning.latent.codes import Codes, noise_maps, styles_of
from stylegan_lightning.latent.projection import Settings
from tests.cli.cli_helpers import exported
from tests.latent.codes_helpers import broken_codes
from tests.latent.latent_helpers import tiny

BROKEN = tuple(broken_codes(tiny("stylegan2")))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("limits") / "G.safetensors", "stylegan2", "model.use_noise=true")


@pytest.fixture(scope="module")
def G(model):
    return stylegan_lightning.load(model)


@pytest.fixture(scope="module")
def served(model, tmp_path_factory):
    """Answers 500, as a browser sees it, where a test client would raise."""
    app, painter = make_app(model, tmp_path_factory.mktemp("kept"))
    with client_of(app, raise_server_exceptions=False) as client:
        yield client, painter


@pytest.fixture
def client(served):
    return served[0]


@pytest.fixture
def server(client):
    return client.app.state.server


# ---------------------------------------------------------------------------------------- whatever is sent


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


# ------------------------------------------------------------------------------------------ bytes in memory


def test_the_oldest_are_forgotten_by_weight():
    kept = Weighed[str, bytes](10 * ENTRY_BYTES, len)
    for name in "abcd":
        kept.put(name, bytes(ENTRY_BYTES))
    assert len(kept) == 4 and kept.bytes == 8 * ENTRY_BYTES and kept.get("a") is not None
    kept.put("e", bytes(3 * ENTRY_BYTES))
    assert [kept.get(x) is not None for x in "abcde"] == [True, False, True, True, True]
    kept.put("a", bytes(0))
    assert kept.bytes == (1 + 2 + 2 + 4) * ENTRY_BYTES
    kept.put("too large", bytes(10 * ENTRY_BYTES))
    assert kept.get("too large") is None and len(kept) == 4
    kept.put("e", bytes(10 * ENTRY_BYTES))
    assert kept.get("e") is None and kept.bytes == 5 * ENTRY_BYTES


def test_what_is_held_is_counted_and_not_forgotten():
    kept = Weighed[int, list[int]](10 * ENTRY_BYTES, len, most=3, held=lambda value: value[0] == 1)
    held, other = [1] * 6 * ENTRY_BYTES, [0] * 2 * ENTRY_BYTES
    kept.put(0, held)
    kept.put(1, other)
    kept.put(2, other)
    assert kept.get(0) is held and kept.get(1) is None and kept.get(2) is other
    held[0] = 0  # not held any more
    kept.put(3, other)
    assert kept.get(0) is None and kept.get(2) is other
    for key in range(4, 9):
        kept.put(key, [0])
    assert len(kept) == 3 and kept.bytes == 3 * (1 + ENTRY_BYTES)


def test_drawn_pictures_are_weighed(model, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "PICTURES_BYTES", 8000)
    app, _ = make_app(model, tmp_path)
    with client_of(app) as client:
        drawn = client.app.state.server.drawn
        pictures = [client.get(f"/api/image?a={seed}").content for seed in range(12)]
        assert 4 <= len(drawn) < 12 and drawn.bytes <= 8000
        assert drawn.get(("a=0", None)) is None and drawn.get(("a=11", None)) == pictures[-1]
        drawn.limit = 600
        assert client.get("/api/image?a=50").status_code == 200 and drawn.get(("a=50", None)) is None


def job(state="done", pixels=1000):
    return Job("x", np.zeros((1, 1, pixels), np.uint8), Settings(steps=1), state=state, preview=bytes(pixels))


@pytest.fixture
def idle():
    """Projections that never start one."""
    made = Projections(Path("none"), "cpu", keep=lambda code: "")
    made.close()
    return made


def test_ended_projections_are_weighed_and_waiting_ones_stay(idle, monkeypatch):
    idle._jobs.limit = 10_000
    ended = [idle.start(job()) for _ in range(10)]
    assert idle.ask(ended[0].id) is None and idle.ask(ended[-1].id) is ended[-1] and idle._jobs.bytes <= 10_000
    waiting = [idle.start(job("waiting")) for _ in range(limits.JOBS_WAITING)]
    assert all(idle.ask(w.id) is w for w in waiting) and not any(idle.ask(e.id) for e in ended)
    with pytest.raises(Refused, match="wait to be projected already"):
        idle.start(job("waiting"))
    idle._update(waiting[0], preview=bytes(5000))
    assert idle._jobs.bytes == limits.JOBS_WAITING * (2000 + ENTRY_BYTES) + 4000
    for w in waiting:
        idle.cancel(w.id)
    idle.start(job())
    assert idle._jobs.bytes <= 10_000


def test_a_cancelled_projection_is_held_by_nothing(idle):
    """Also not by the line, while a long one is searched for."""
    idle._jobs.limit = 0
    seen = [weakref.ref(idle.start(job("waiting"))) for _ in range(limits.JOBS_WAITING)]
    assert all(ref() is not None for ref in seen)
    for ref in seen:
        idle.cancel(ref().id)
    idle.start(job("waiting"))
    gc.collect()
    assert [ref() for ref in seen] == [None] * limits.JOBS_WAITING


# ------------------------------------------------------------------------------------------- kept codes


def code(G, seed, noise=False):
    maps = {m.name: torch.full((1, 1, *m.size), float(seed)) for m in noise_maps(G)} if noise else {}
    return Codes(styles_of(G, [seed]), (f"n{seed}",), maps)


def test_codes_in_memory_are_weighed_with_their_noise_and_without_their_neighbours(G, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "CODES_BYTES", 20_000)
    store = Store(tmp_path, G)
    many = styles_of(G, range(64))
    ids = [store.put(Codes(many[i : i + 1], ("x",))) for i in range(64)]
    assert store._recent.bytes <= 20_000 and 5 < len(store._recent) < 64
    assert all(c.ws.untyped_storage().nbytes() == c.ws.nbytes for c in store._recent.values())
    light = len(store._recent)
    for seed in range(20):
        store.put(code(G, seed, noise=True))
    assert store._recent.bytes <= 20_000 and len(store._recent) < light
    assert torch.equal(store.get(ids[0]).ws, many[:1])  # from the disk


def files_of(folder):
    return {path.name for path in folder.iterdir()}


def test_the_store_removes_what_was_used_longest_ago(G, tmp_path, monkeypatch):
    before = Store(tmp_path, G)
    old = [before.put(code(G, seed)) for seed in range(6)]
    size = (tmp_path / f"{old[0]}.safetensors").stat().st_size
    for i, key in enumerate(old):
        os.utime(tmp_path / f"{key}.safetensors", (1000 + i, 1000 + i))
    for name in ("mine.safetensors", "0123456789abcdef.txt", "0123456789ABCDEF.safetensors", "0123.safetensors"):
        (tmp_path / name).write_bytes(bytes(10 * size))
    monkeypatch.setattr(limits, "STORE_BYTES", int(4.5 * size))
    store = Store(tmp_path, G)  # looks at once
    assert [before._path(key).exists() for key in old] == [False, False, True, True, True, True]
    store.get(old[2])
    new = store.put(code(G, 7))
    assert [before._path(key).exists() for key in old] == [False, False, True, False, True, True]
    assert len(files_of(tmp_path)) == 4 + 4 and store.get(new) and store.get(old[2])
    with pytest.raises(UserError, match="too long ago"):
        store.get(old[0])


def test_codes_of_this_session_are_removed_last(G, tmp_path, monkeypatch):
    theirs = [tmp_path / f"{name * 16}.safetensors" for name in "0f"]
    code(G, 0).save(theirs[0])
    size = theirs[0].stat().st_size
    monkeypatch.setattr(limits, "STORE_BYTES", int(3.5 * size))
    store = Store(tmp_path, G)
    mine = [store.put(code(G, seed)) for seed in (1, 2)]
    for key in mine:
        os.utime(store._path(key), (1, 1))  # older than what others use
    code(G, 3).save(theirs[1])
    mine.append(store.put(code(G, 4)))
    assert all(store._path(key).exists() for key in mine) and not any(path.exists() for path in theirs)
    for seed in range(5, 12):
        store.put(code(G, seed))
    assert len(files_of(tmp_path)) == 3, "the budget is kept, also where all are of this session"


def test_stores_of_other_models_count_where_they_are_beside(G, tmp_path, monkeypatch):
    a, b, foreign = (tmp_path / name for name in ("a" * 16, "b" * 16, "mine"))
    size = Store(a, G)._path(Store(a, G).put(code(G, 0))).stat().st_size
    for seed in range(1, 4):
        Store(a, G).put(code(G, seed))
    Store(foreign, G).put(code(G, 0))
    monkeypatch.setattr(limits, "STORE_BYTES", int(2.5 * size))
    Store(b, G, shared=False)
    assert len(files_of(a)) == 4
    Store(b, G, shared=True)
    assert len(files_of(a)) == 2 and len(files_of(foreign)) == 1


# ---------------------------------------------------------------------------------------------------- films


def test_frames_that_an_encoder_would_hold_are_bounded(client, monkeypatch):
    check_frames(240, "mp4", 1024)
    for kind, most in (("webp", 122), ("gif", 488)):
        check_frames(most, kind, 1024)
        with pytest.raises(UserError, match=f"at most {most}: make it shorter"):
            check_frames(most + 1, kind, 1024)
    monkeypatch.setattr(limits, "FILM_BYTES", 3 * 4 * 256 * 256)  # pictures of 16 pixels are enlarged
    assert client.get("/api/film?a=1&b=2&frames=3&kind=webp").status_code == 200
    refused = client.get("/api/film?a=1&b=2&frames=4&kind=webp")
    assert refused.status_code == 400 and "at most 3" in refused.json()["error"]


@pytest.fixture
def slow_frames(monkeypatch, tmp_path):
    """Frames of a painter take a while, and films have a place to be made in."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def slow_down(painter):
        draw = painter.frame
        monkeypatch.setattr(painter, "frame", lambda picture: time.sleep(0.03) or draw(picture))

    return slow_down


@pytest.fixture
def slow(server, slow_frames, monkeypatch, tmp_path):
    slow_frames(server.painter)
    monkeypatch.setattr(limits, "FILM_SECONDS", 0.1)
    yield
    assert list(tmp_path.iterdir()) == [], "the folder is removed"
    assert server.films._now is None and not server.films._turn.locked()


def until(what, seconds=10.0):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_one_film_at_a_time_which_can_be_cancelled(client, server, slow):
    link, id = "/api/film?a=1&b=2&kind=gif", "0123456789abcdef"
    with ThreadPoolExecutor(1) as pool:
        film = pool.submit(client.get, f"{link}&frames=240&id={id}")
        until(lambda: server.films._now is not None and server.films._now.done > 2)
        busy = client.get(f"{link}&frames=2")
        assert busy.status_code == 429 and "being made already" in busy.json()["error"]
        assert client.get("/api/image?a=1").status_code == 200
        progress = client.get(f"/api/film/{id}").json()
        assert 2 < progress["frame"] < 240 == progress["frames"]
        assert client.delete("/api/film/fedcba9876543210").status_code == 404
        assert client.delete(f"/api/film/{id}").status_code == 200
        cancelled = film.result(10)
    assert cancelled.status_code == 409 and "cancelled" in cancelled.json()["error"]
    assert client.get(f"/api/film/{id}").status_code == 404
    assert client.get(f"{link}&frames=2").status_code == 200


def test_a_film_stops_when_the_server_does(server, slow):
    """Of the task that a server cancels, and of the thread that draws for it."""

    async def end():
        made = films.Films()
        film = Film(list(range(200)), 24, "gif")

        async def frame(_):
            await asyncio.sleep(0.01)
            return np.zeros((8, 8, 3), np.uint8)

        task = asyncio.create_task(made.make(film, frame))
        while film.done < 3:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return film.done

    threads = threading.active_count()
    assert asyncio.run(end()) < 200 and threading.active_count() <= threads


@pytest.fixture
def running(model, tmp_path, slow_frames, monkeypatch):
    """A server as the command makes it, in a thread: (its app's server, connections to it, what ends it)."""
    app, painter = make_app(model, tmp_path)
    slow_frames(painter)
    monkeypatch.setattr(stylegan_lightning.cli.explore, "SHUTDOWN", 1)
    with contextlib.closing(_listen("127.0.0.1", 0)) as listening:
        server = make_server(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()

        def end():
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()

        yield app.state.server, partial(http.client.HTTPConnection, *listening.getsockname(), timeout=10), end
        end()


OWN = {"Authorization": f"Bearer {TOKEN}"}


def start_film(server, connection):
    connection.request("GET", "/api/film?a=1&b=2&kind=gif&frames=240", headers=OWN)
    until(lambda: server.films._now is not None and server.films._now.done > 2)
    return server.films._now


def test_a_film_ends_when_its_browser_goes_and_when_the_server_does(running, tmp_path):
    server, connect, end = running
    connection = connect()
    film = start_film(server, connection)
    connection.close()
    until(lambda: server.films._now is None, 3)
    assert film.done < 100
    another = connect()
    film = start_film(server, another)
    start = time.monotonic()
    end()
    assert film.done < 240 and time.monotonic() - start < 4
    another.close()
    assert not list(tmp_path.glob("tmp*")), "no folder is left"


def test_headers_have_an_end(running):
    _, connect, _ = running
    for length, status in ((60_000, 200), (1_000_000, 400)):
        connection = connect()
        with contextlib.suppress(ConnectionError):  # it may be closed before all is sent
            connection.request("GET", "/api/image?a=1", headers={**OWN, "X-Long": "x" * length})
        with contextlib.suppress(ConnectionError):
            assert connection.getresponse().status == status


# ------------------------------------------------------------------------------------ many requests at once


def test_only_so_many_pictures_wait(client, server, monkeypatch):
    monkeypatch.setattr(limits, "DRAWINGS_WAITING", 3)
    draw, go_on = server.painter.draw, threading.Event()
    monkeypatch.setattr(server.painter, "draw", lambda picture: go_on.wait(10) and draw(picture))
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(client.get, f"/api/image?a={seed}") for seed in range(9000, 9012)]
        until(lambda: sum(a.done() for a in asked) == 9)
        go_on.set()
        answers = [a.result(10) for a in asked]
    assert sorted(a.status_code for a in answers) == [200] * 3 + [503] * 9
    assert "too many pictures" in next(a for a in answers if a.status_code == 503).json()["error"]
    assert server._waiting == 0 and client.get("/api/image?a=9020").status_code == 200


def test_files_on_their_way_are_weighed_together(client, server, monkeypatch):
    monkeypatch.setattr(limits, "UPLOADS_BYTES", 3000)
    assert client.post("/api/codes", content=bytes(2900)).status_code == 422 and server.uploads.bytes == 0
    full = client.post("/api/codes", content=bytes(3100))
    assert full.status_code == 503 and "too many files" in full.json()["error"] and server.uploads.bytes == 0
    server.uploads.bytes = 2000  # of another
    assert client.post("/api/projections", content=bytes(1100)).status_code == 503 and server.uploads.bytes == 2000
    server.uploads.bytes = 0
    monkeypatch.setattr(limits, "UPLOAD_BYTES", 1000)
    assert client.post("/api/codes", content=bytes(1100)).status_code == 413 and server.uploads.bytes == 0


def test_many_requests_from_many_threads(model, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "PICTURES_BYTES", 20_000)
    monkeypatch.setattr(limits, "CODES_BYTES", 10_000)
    monkeypatch.setattr(limits, "STORE_BYTES", 50_000)
    monkeypatch.setattr(Projections, "_run", lambda self, job: self._update(job, state="done", preview=bytes(500)))
    app, painter = make_app(model, tmp_path)
    server = app.state.server
    server.projections._jobs.limit = 10_000

    def ask(client, number):
        kind = number % 4
        if kind == 0:
            codes = client.get(f"/api/codes?a={number}").content
            kept = client.post("/api/codes", content=codes)
            return kept, client.get(f"/api/image?a=w{kept.json()[0]['id']}&size=8")
        if kind == 1:
            return (client.post("/api/projections?steps=1", content=png(16, number)),)
        return client.get(f"/api/image?a={number % 30}&b=3&mix=0.5"), client.get(f"/api/image?a={number % 5}")

    with client_of(app, raise_server_exceptions=False) as client, ThreadPoolExecutor(8) as pool:
        answers = [a for found in pool.map(lambda n: ask(client, n), range(200)) for a in found]
        assert {a.status_code for a in answers} <= {200, 429}, {a.status_code: a.text[:200] for a in answers}
        assert sum(a.status_code == 200 for a in answers) > 250
        for memory in (server.drawn, painter.store._recent, server.projections._jobs):
            weights = sum(ENTRY_BYTES + memory._weigh(value) for value in memory.values())
            assert 0 < memory.bytes == weights <= memory.limit
        assert sum(f.stat().st_size for f in painter.store.folder.iterdir()) < 55_000
        assert server._waiting == server.uploads.bytes == 0
        assert Image.open(io.BytesIO(client.get("/api/image?a=4").content)).size == (16, 16)
