"""stylegan-lightning explore"""

from __future__ import annotations

import contextlib
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from stylegan_lightning.cli import common
from stylegan_lightning.errors import UserError

if TYPE_CHECKING:
    import uvicorn

SHUTDOWN = 3
SOON = 0.5
LONG_ENOUGH = 20.0
"""Seconds until a browser has read what it was started with."""


def explore(
    model: common.Model,
    directions: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE.safetensors", help="Of the verb directions; again for more files. [SeFa's first 8]"),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to serve at; 0.0.0.0 is all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="STYLEGAN_LIGHTNING_TOKEN",
            help="What the link must have; others on this machine see the option, but not the variable. [random]",
        ),
    ] = None,
    store: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Keeps the codes that were found. [in the cache]")
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open it in the browser.")] = True,
    device: common.Device = "auto",
) -> None:
    """A page in the browser: seeds, mixing, directions, your own pictures."""
    from stylegan_lightning.explore.access import Guard, check_token, new_token

    token = new_token() if token is None else check_token(token)
    listening = _listen(host, port)
    with contextlib.closing(listening):
        from stylegan_lightning.data.cache import default_cache_dir
        from stylegan_lightning.explore.drawing import Painter, choose_directions
        from stylegan_lightning.explore.projecting import Projections
        from stylegan_lightning.explore.server import create_app
        from stylegan_lightning.explore.store import Store, model_hash

        G = common.load_model(model, device)
        moves = choose_directions(G, directions or [])
        kept = Store(store or default_cache_dir() / "explore" / model_hash(G), G, shared=store is None)
        place = str(next(G.parameters()).device)
        app = create_app(Painter(G, moves, kept), Projections(model, place, kept.put), Guard(token), _name(model))
        link = f"http://{_shown(host)}:{listening.getsockname()[1]}/?token={token}"
        print(f"{link}\nCtrl-C ends it", flush=True)
        opened = _opened(link) if open_browser else contextlib.nullcontext()
        with _ended_by_sigterm(), opened, contextlib.suppress(KeyboardInterrupt):
            make_server(app).run(sockets=[listening])


def _name(model: Path) -> str:
    path = model.resolve()
    return path.parent.parent.name if path.parent.name == "checkpoints" else path.stem if path.is_file() else path.name


def _listen(host: str, port: int) -> socket.socket:
    """Raises UserError for an address that cannot be had, before the model is loaded."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)  # from now on a browser waits, and is not refused
    except OSError as error:
        raise UserError(
            f"cannot serve at {host}:{port}: {error.strerror}; choose another --port (0 takes a free one) or --host"
        ) from None
    return listening


def _shown(host: str) -> str:
    everywhere = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}
    host = everywhere.get(host, host)
    return f"[{host}]" if ":" in host else host


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM, which uvicorn raises once more when it has ended, becomes SystemExit: what is open is closed."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # where no signal can be handled
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _opened(link: str) -> Iterator[None]:
    """While open, a browser is started with the link; the file that leads there is gone afterwards."""
    ended = threading.Event()
    opening = threading.Thread(target=_open, args=(link, ended))
    opening.start()
    try:
        yield
    finally:
        ended.set()
        opening.join()


def _open(link: str, ended: threading.Event) -> None:
    """By a file that only this user may read: everyone on the machine sees what a browser is started with. It lies
    where confined browsers may read."""
    import webbrowser

    options = {"prefix": "explore_", "suffix": ".html", "dir": Path.home()}
    with contextlib.suppress(OSError, RuntimeError), tempfile.NamedTemporaryFile("w", **options) as file:  # type: ignore[call-overload]
        file.write(f'<!doctype html><meta http-equiv="refresh" content="0; url={link}"><a href="{link}">explore</a>')
        file.flush()
        if not ended.wait(SOON):
            address = Path(file.name).as_uri()
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()  # it may wait for its end
            ended.wait(LONG_ENOUGH)


def make_server(app: object) -> uvicorn.Server:
    import uvicorn

    from stylegan_lightning.explore import limits
    from stylegan_lightning.explore.connections import Connection

    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=Connection,  # of h11, which bounds the length of headers
        ws="none",
        h11_max_incomplete_event_size=limits.HEADER_BYTES,
        limit_concurrency=limits.CONNECTIONS,
        log_level="warning",
        timeout_graceful_shutdown=SHUTDOWN,
    )
    return uvicorn.Server(config)
