"""What the page takes of a machine: bytes in memory and on the disk, requests at once."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from explore_helpers import client_of, make_app, png, until
from PIL import Image
from starlette.requests import ClientDisconnect

from stylegan_lightning.errors import UserError
from stylegan_lightning.explore import limits
from stylegan_lightning.explore.limits import ENTRY_BYTES, Refused, Weighed
from stylegan_lightning.explore.projecting import Job, Projections
from stylegan_lightning.explore.store import Store, taken
from stylegan_lightning.explore.uploads import Uploads
from stylegan_lightning.latent.codes import Codes, noise_maps, styles_of
from stylegan_lightning.latent.projection import Settings

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
    size = taken((tmp_path / f"{old[0]}.safetensors").stat())
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


def test_small_files_weigh_the_blocks_that_they_take(G, tmp_path, monkeypatch):
    store = Store(tmp_path, G)
    paths = [store._path(store.put(code(G, seed))) for seed in range(4)]
    size, block = paths[0].stat().st_size, 512 * paths[0].stat().st_blocks
    if block <= size:
        pytest.skip("this file system packs small files")
    monkeypatch.setattr(limits, "STORE_BYTES", 3 * block)
    store.prune()
    assert sum(path.exists() for path in paths) == 3
    monkeypatch.setattr(limits, "STORE_BYTES", 100 * block)  # a hundredth of which one file takes
    monkeypatch.setattr(store, "prune", lambda: looked.append(1))
    looked: list[int] = []
    store.put(code(G, 9))
    assert looked == [1]


def test_use_is_seen_by_other_processes(G, tmp_path):
    store = Store(tmp_path, G)
    path = store._path(key := store.put(code(G, 0)))
    for reader in (store, Store(tmp_path, G)):  # from memory, from the disk
        os.utime(path, (1, 1))
        reader.get(key)
        assert time.time() - path.stat().st_mtime < 60


def test_codes_of_this_session_are_removed_last(G, tmp_path, monkeypatch):
    theirs = [tmp_path / f"{name * 16}.safetensors" for name in "0f"]
    code(G, 0).save(theirs[0])
    size = taken(theirs[0].stat())
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
    size = taken(Store(a, G)._path(Store(a, G).put(code(G, 0))).stat())
    for seed in range(1, 4):
        Store(a, G).put(code(G, seed))
    Store(foreign, G).put(code(G, 0))
    monkeypatch.setattr(limits, "STORE_BYTES", int(2.5 * size))
    Store(b, G, shared=False)
    assert len(files_of(a)) == 4
    Store(b, G, shared=True)
    assert len(files_of(a)) == 2 and len(files_of(foreign)) == 1


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


@pytest.mark.parametrize(("broken", "status"), [(False, 408), (True, 400)])
def test_a_body_that_is_slow_or_breaks_off_is_let_go(broken, status, monkeypatch):
    monkeypatch.setattr(limits, "UPLOAD_SECONDS", 0.05)
    uploads, seen = Uploads(), []

    class Sent:
        async def stream(self):
            yield bytes(1000)
            seen.append(uploads.bytes)
            if broken:
                raise ClientDisconnect
            await asyncio.sleep(10)

    async def receive():
        async with uploads.body(Sent()):
            raise AssertionError("it has not arrived")

    with pytest.raises(Refused) as refused:
        asyncio.run(receive())
    assert refused.value.status == status and seen == [1000] and uploads.bytes == 0


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
