"""Whoever has the token finds room, and the command ends when it is told to."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from http.client import HTTPConnection

import pytest
from explore_helpers import TOKEN, make_app, until

from stylegan_lightning.cli.explore import _listen, make_server
from stylegan_lightning.explore import limits

OWN = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def address(model, tmp_path, monkeypatch):
    """Of a server as the command makes it, which has room for eight."""
    monkeypatch.setattr(limits, "CONNECTIONS", 8)
    monkeypatch.setattr(limits, "HEAD_SECONDS", 1.0)
    with contextlib.closing(_listen("127.0.0.1", 0)) as listening:
        server = make_server(make_app(model, tmp_path)[0])
        thread = threading.Thread(target=partial(server.run, sockets=[listening]))
        thread.start()
        until(lambda: server.started)
        yield listening.getsockname()
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def connect(address):
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(contextlib.closing(socket.create_connection(address, 10)))


def has_ended(connection: socket.socket, within: float = 0.0) -> bool:
    connection.settimeout(max(within, 1e-3))
    try:
        while connection.recv(1000):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


def status(address, headers=OWN) -> int:
    with contextlib.closing(HTTPConnection(*address, timeout=10)) as connection:
        connection.request("GET", "/script.js", headers=headers)
        return connection.getresponse().status


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_whoever_sends_no_request_does_not_lock_others_out(sent, address, connect):
    strangers = []
    for _ in range(20):
        strangers.append(connect())
        strangers[-1].sendall(sent)
    assert status(address) == 200, "at once"
    assert sum(has_ended(s) for s in strangers) >= 16
    assert all(has_ended(s, 5) for s in strangers) and status(address) == 200


def test_slow_heads_end_also_behind_an_answer(address, connect):
    connection, start = connect(), time.monotonic()
    with contextlib.suppress(ConnectionError):
        for _ in range(100):
            connection.sendall(b"G")
            time.sleep(0.1)
    assert 0.8 < time.monotonic() - start < 5
    another = connect()
    head = f"GET /style.css HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
    another.sendall(head + b"GET /")
    assert another.recv(15) == b"HTTP/1.1 200 OK" and not has_ended(another, 0.3) and has_ended(another, 5)
    twice = connect()
    twice.sendall(head * 2)
    assert has_ended(twice, 5)


def test_a_request_that_is_worked_on_may_take_longer(address, connect):
    connection = connect()
    head = f"POST /api/codes HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 4\r\n\r\n"
    connection.sendall(head.encode())
    time.sleep(1.5)
    connection.sendall(b"none")
    assert connection.recv(12) == b"HTTP/1.1 422"


@pytest.mark.parametrize(("header", "answer"), [("X: y", 401), ("Sec-Fetch-Site: cross-site", 403)])
def test_nothing_is_read_of_whoever_may_not_use_the_page(header, answer, address, connect):
    sent = f"POST /api/codes HTTP/1.1\r\nHost: x\r\n{header}\r\nContent-Length: 9000000\r\n\r\n".encode()
    for _ in range(20):
        connection = connect()
        connection.sendall(sent)
        connection.settimeout(10)
        head = connection.recv(1000).decode()
        assert head.startswith(f"HTTP/1.1 {answer}") and "connection: close" in head.lower()
        assert has_ended(connection, 0.9)
    assert status(address, {}) == 401


# ------------------------------------------------------------------------------------------------ the end


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize("foreground", [False, True])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 0)])
def test_signals_leave_no_token_behind(number, code, foreground, model, tmp_path):
    """Also while a browser runs in the foreground."""
    home, seen = tmp_path / "home", tmp_path / "seen"
    home.mkdir()
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {seen}\n{"exec sleep 30" if foreground else ""}\n')
    browser.chmod(0o755)
    command = [sys.executable, "-m", "stylegan_lightning.cli.main", "explore", str(model), "--port", "0"]
    env = os.environ | {"HOME": str(home), "BROWSER": f"{browser} %s", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    with open(tmp_path / "said", "w") as said:  # a pipe would be held by the browser
        run = subprocess.Popen([*command, "--device", "cpu"], env=env, stdout=said, stderr=said)
    try:
        until(lambda: seen.exists() and seen.read_text().endswith("\n"), 60)
        assert list(home.glob("explore_*.html"))
        run.send_signal(number)
        assert run.wait(20) == code
    finally:
        run.kill()
    assert not list(home.glob("explore_*")) and "Traceback" not in (tmp_path / "said").read_text()


DECODING = """
import asyncio, contextlib, time
from stylegan_lightning.explore.uploads import Uploads

async def main():
    uploads = Uploads()
    assert await uploads.decode(lambda: 5) == 5
    try:
        await uploads.decode(lambda: 1 / 0)
    except ZeroDivisionError:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(uploads.decode(lambda: time.sleep(300)), 0.1)
        print("ended")

asyncio.run(main())
"""


def test_a_picture_that_is_decoded_does_not_hold_the_end_up():
    done = subprocess.run([sys.executable, "-c", DECODING], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended\n", "")
