"""stylegan-lightning explore"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import Annotated

import typer

from stylegan_lightning.cli import common
from stylegan_lightning.errors import UserError

SHUTDOWN = 3


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
            help="What the link must have where others can reach it; drawn at random where it is not given.",
        ),
    ] = None,
    store: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Keeps the codes that were found. [in the cache]")
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open it in the browser.")] = True,
    device: common.Device = "auto",
) -> None:
    """A page in the browser: seeds, mixing, directions, your own pictures."""
    from stylegan_lightning.explore.access import Guard, is_loopback, new_token

    if token is not None and len(token) < 8:
        raise UserError(f"--token must have at least 8 characters; it has {len(token)}")
    if token is None and not is_loopback(host):
        token = new_token()
    listening = _listen(host, port)
    with contextlib.closing(listening):
        from stylegan_lightning.data.cache import default_cache_dir
        from stylegan_lightning.explore.drawing import Painter, choose_directions
        from stylegan_lightning.explore.projecting import Projections
        from stylegan_lightning.explore.server import create_app
        from stylegan_lightning.explore.store import Store, model_hash

        G = common.load_model(model, device)
        moves = choose_directions(G, directions or [])
        kept = Store(store or default_cache_dir() / "explore" / model_hash(G), G)
        place = str(next(G.parameters()).device)
        guard = Guard(token, [*Guard.hosts, host.strip("[]")])
        app = create_app(Painter(G, moves, kept), Projections(model, place, kept.put), guard, _name(model))
        address = f"http://{_shown(host)}:{listening.getsockname()[1]}/"
        link = address if token is None else f"{address}?token={token}"
        print(f"{link}\nCtrl-C ends it", flush=True)
        if open_browser:
            _open(link)
        _serve(app, listening)


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


def _open(link: str) -> None:
    import threading
    import webbrowser

    threading.Timer(0.5, webbrowser.open, [link]).start()


def _serve(app: object, listening: socket.socket) -> None:
    import uvicorn

    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=SHUTDOWN)  # type: ignore[arg-type]
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
