"""The command explore, without its server."""

from __future__ import annotations

import stat
import threading
import webbrowser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from stylegan_lightning.cli import explore
from tests.cli.cli_helpers import exported, fails

LINK = "http://127.0.0.1:8000/?token=a-long-secret"


def test_a_browser_is_started_without_the_token_in_its_command(tmp_path, monkeypatch):
    """Everyone on a machine sees the arguments of all programs."""
    opened, seen = threading.Event(), []

    def open_browser(address):
        path = Path(unquote(urlsplit(address).path))
        seen.append((address, path.read_text(), stat.S_IMODE(path.stat().st_mode)))
        opened.set()

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(webbrowser, "open", open_browser)
    monkeypatch.setattr(explore, "SOON", 0)
    with explore._opened(LINK):
        assert opened.wait(10)
    ((address, text, mode),) = seen
    assert address.startswith("file://") and "secret" not in address
    assert LINK in text and mode == 0o600 and list(tmp_path.iterdir()) == []


def test_where_no_file_can_be_made_the_printed_link_is_enough(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "absent"))
    monkeypatch.setattr(webbrowser, "open", lambda address: pytest.fail("opened"))
    monkeypatch.setattr(explore, "SOON", 0)
    explore._open(LINK, threading.Event())


@pytest.mark.parametrize("token", ["short", "", "with space and more", "semi;colon;"])
def test_tokens_that_are_refused(token, tmp_path, monkeypatch):
    model = exported(tmp_path / "G.safetensors")
    assert "--token must have at least 8" in fails("explore", model, "--no-open", "--port", 0, "--token", token)
    monkeypatch.setenv("STYLEGAN_LIGHTNING_TOKEN", token or "short")
    assert "--token must have at least 8" in fails("explore", model, "--no-open", "--port", 0)
