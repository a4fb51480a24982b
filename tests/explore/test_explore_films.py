"""Films: one at a time, bounded, and ended when nobody waits."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from explore_helpers import TOKEN, make_app, until

import stylegan_lightning
import stylegan_lightning.cli.explore
from stylegan_lightning.cli.explore import _listen, make_server
from stylegan_lightning.errors import UserError
from stylegan_lightning.explore import films, limits
from stylegan_lightning.explore.films import Film, check_frames


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


def test_a_film_stops_when_the_server_does(server, slow, caplog):
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
        gc.collect()
        return film.done

    threads = threading.active_count()
    assert asyncio.run(end()) < 200 and threading.active_count() <= threads
    assert not caplog.records, "nothing is said of it"


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
