"""The server of the page: HTTP around `drawing`, `films` and `projecting`."""

from __future__ import annotations

import asyncio
import math
import re
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import numpy as np
import torch
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

import stylegan_lightning
from stylegan_lightning.errors import UserError
from stylegan_lightning.explore import limits
from stylegan_lightning.explore.access import Guard
from stylegan_lightning.explore.drawing import Painter, encode
from stylegan_lightning.explore.films import FPS, Film, Films, check_frames, kinds_of_films, way
from stylegan_lightning.explore.limits import MB, HasGone, Refused, Weighed
from stylegan_lightning.explore.projecting import Job, Projections
from stylegan_lightning.explore.state import NOISE, PSI, STRENGTH, Picture, number, parse, parse_point, whole
from stylegan_lightning.explore.uploads import Uploads, codes_in, picture_of
from stylegan_lightning.files import safe_name
from stylegan_lightning.latent.codes import EXTENSION, Codes
from stylegan_lightning.latent.projection import Settings
from stylegan_lightning.latent.ranges import parse_range

HERE = Path(__file__).parent
FILES = {"": "page.html"} | {
    name: name for name in ("style.css", "script.js", "state.js", "projections.js", "saving.js")
}
STEPS = (1, 2000)
FIELDS = 200
LONGEST_MESSAGE = 600
T = TypeVar("T")
Gone = Callable[[], Awaitable[bool]]
"""Whether the browser does not wait any more."""


class Server:
    """What the routes share. Pictures are drawn in one thread, in the order in which they are asked for."""

    def __init__(self, painter: Painter, projections: Projections, name: str) -> None:
        self.painter, self.projections, self.name = painter, projections, name
        self.films, self.uploads = Films(), Uploads()
        self.drawn = Weighed[tuple[str, int | None], bytes](limits.PICTURES_BYTES, len)
        self._thread = ThreadPoolExecutor(1, "drawing")
        self._turn, self._waiting = asyncio.Lock(), 0

    async def draw(self, work: Callable[[], T], gone: Gone, most: float | None = None) -> T:
        """Raises HasGone where the browser does not wait any more, Refused where `most` others wait."""
        if self._waiting >= (limits.DRAWINGS_WAITING if most is None else most):
            raise Refused("too many pictures are asked for at once: try again in a moment", 503)
        self._waiting += 1
        try:
            async with self._turn:
                if await gone():
                    raise HasGone
                return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._waiting -= 1

    async def picture(self, picture: Picture, size: int | None, gone: Gone) -> bytes:
        """PNG"""
        key = (picture.text(), size)

        def draw() -> bytes:
            data = self.drawn.get(key)  # another may have asked in the meantime
            if data is None:
                data = encode(self.painter.draw(picture), size)
                self.drawn.put(key, data)
            return data

        found = self.drawn.get(key)
        return await self.draw(draw, gone) if found is None else found

    async def film(self, film: Film, gone: Gone) -> bytes:
        """Others' pictures come in between."""

        async def frame(picture: Picture) -> np.ndarray:
            return await self.draw(lambda: self.painter.frame(picture), gone, math.inf)

        return await self.films.make(film, frame)

    def close(self) -> None:
        self.films.close()
        self.projections.close()
        self._thread.shutdown(cancel_futures=True)

    def about(self) -> dict[str, Any]:
        G, can = self.painter.G, self.painter.can
        groups = {}
        if G.num_ws > 1:
            for name in ("coarse", "middle", "fine"):
                groups[name] = [i for i in parse_range(name, int(G.num_ws)) if i < can.styles]
        return {
            "name": self.name,
            "size": self.painter.size,
            "styles": can.styles,
            "classes": can.c_dim,
            "groups": groups,
            "directions": can.directions,
            "noise": NOISE if self.painter.has_noise else ("const",),
            "psi": PSI,
            "strength": STRENGTH,
            "megabytes": limits.UPLOAD_BYTES // MB,
            "films": kinds_of_films(),
        }


def create_app(painter: Painter, projections: Projections, guard: Guard, name: str) -> FastAPI:
    server = Server(painter, projections, name)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        server.close()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.server = server
    app.add_middleware(guard.middleware)
    for kind in (UserError, HasGone, HTTPException, Exception):
        app.exception_handler(kind)(_refuse)
    _add_pictures(app, server)
    _add_films(app, server)
    _add_codes(app, server)
    _add_projections(app, server)

    @app.get("/{path:path}")
    def page(path: str) -> Response:
        if path not in FILES:
            raise Refused(f"there is no page /{path[:80]}", 404)
        return FileResponse(HERE / FILES[path])

    return app


def _refuse(_: Request, error: Exception) -> Response:
    if isinstance(error, HasGone):
        return Response(status_code=204)
    if isinstance(error, HTTPException):
        status, message = error.status_code, str(error.detail)
    elif isinstance(error, UserError):
        status, message = error.status if isinstance(error, Refused) else 400, str(error)
    else:
        status, message = 500, "something went wrong here: where the server runs, it is said what"
    message = message[:LONGEST_MESSAGE].encode("utf-8", "replace").decode()
    return JSONResponse({"error": message}, status)


def _query(request: Request, *own: str) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """The state's keys and values, and those of the route itself. Raises UserError where there are too many."""
    try:
        text = request.scope["query_string"].decode("latin-1")
        items = parse_qsl(text, keep_blank_values=True, max_num_fields=FIELDS)
    except ValueError:
        raise UserError(f"a link has at most {FIELDS} settings; this one has more") from None
    return [(k, v) for k, v in items if k not in own], {k: v for k, v in items if k in own}


def _file(data: bytes, kind: str, name: str) -> Response:
    return Response(data, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})


def _add_pictures(app: FastAPI, server: Server) -> None:
    can = server.painter.can

    @app.get("/api/model")
    def about() -> dict[str, Any]:
        return {**server.about(), "version": stylegan_lightning.__version__}

    @app.get("/api/image")
    async def image(request: Request) -> Response:
        """PNG of a state, of its own size, or reduced to `size` pixels; `download` makes it a file."""
        state, own = _query(request, "size", "download")
        picture = parse(state, can)
        size = whole("size", own["size"], 8, 4096) if "size" in own else None
        data = await server.picture(picture, size, request.is_disconnected)
        return _file(data, "image/png", "picture.png") if "download" in own else Response(data, media_type="image/png")


def _add_films(app: FastAPI, server: Server) -> None:
    def film_of(id: str) -> Film:
        film = server.films.ask(id)
        if film is None:
            raise Refused("there is no such film in the making", 404)
        return film

    @app.get("/api/film")
    async def make(request: Request) -> Response:
        """`id`, 16 hex digits, lets the page ask how far it is, and cancel it."""
        state, own = _query(request, "frames", "fps", "kind", "id")
        count = whole("frames", own.get("frames", "48"), *limits.FILM_FRAMES)
        fps = number("fps", own.get("fps", "24"), *FPS)
        kind = own.get("kind", kinds_of_films()[0])
        if kind not in kinds_of_films():
            raise UserError(f"a film is one of {', '.join(kinds_of_films())} here; got {kind[:40]!r}")
        check_frames(count, kind, server.painter.frame_size)
        film = Film(way(parse(state, server.painter.can), count), fps, kind)
        if "id" in own:
            if not re.fullmatch("[0-9a-f]{16}", own["id"]):
                raise UserError(f"the id of a film has 16 hex digits; got {own['id'][:40]!r}")
            film.id = own["id"]
        data = await server.film(film, request.is_disconnected)
        return _file(data, {"mp4": "video/mp4"}.get(kind, f"image/{kind}"), f"film.{kind}")

    @app.get("/api/film/{id}")
    def ask(id: str) -> dict[str, int]:
        film = film_of(id)
        return {"frame": film.done, "frames": len(film.pictures)}

    @app.delete("/api/film/{id}")
    def cancel(id: str) -> dict[str, int]:
        film_of(id).stopped.set()
        return {}


def _add_codes(app: FastAPI, server: Server) -> None:
    painter = server.painter

    @app.get("/api/codes")
    async def get(request: Request) -> Response:
        """The styles of a state, as a file that the verbs take."""
        picture = parse(_query(request)[0], painter.can)
        data = await server.draw(lambda: _codes_file(painter.code(picture)), request.is_disconnected)
        return _file(data, "application/octet-stream", f"codes{EXTENSION}")

    @app.post("/api/codes")
    async def put(request: Request) -> list[dict[str, str]]:
        """Codes of a file that `project` or this page wrote, kept: ids and names."""

        def keep() -> list[dict[str, str]]:
            codes, found = codes_in(painter.G, data), []
            for i, name in enumerate(codes.names):
                noise = {key: maps[i : i + 1] for key, maps in codes.noise.items()}
                found.append({"id": painter.store.put(Codes(codes.ws[i : i + 1], (name,), noise)), "name": name})
            return found

        async with server.uploads.body(request) as data:
            return await server.uploads.decode(keep)


def _codes_file(code: Codes) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"codes{EXTENSION}"
        code.save(path)
        return path.read_bytes()


def _add_projections(app: FastAPI, server: Server) -> None:
    painter, projections = server.painter, server.projections
    G = painter.G

    def job_of(id: str) -> Job:
        job = projections.ask(id)
        if job is None:
            raise Refused("there is no such projection: the server was started again, or it is long ago", 404)
        return job

    @app.post("/api/projections")
    async def start(request: Request) -> dict[str, Any]:
        """The body is a picture. It waits in line; its page asks how far it is."""
        _, own = _query(request, "name", "steps", "class")
        steps = whole("steps", own.get("steps", "200"), *STEPS)
        label = parse_point("class", f"0c{own.get('class', '0')}", painter.can).label if G.c_dim else None
        name = safe_name(own.get("name", "picture")[:80].replace(",", "_"))  # a comma parts codes on the command line
        async with server.uploads.body(request) as data:
            target = await server.uploads.decode(lambda: picture_of(data, painter.size, int(G.img_channels)))
        return projections.start(Job(name, target, Settings(steps=steps, starts=1), label)).as_dict()

    @app.get("/api/projections/{id}")
    def ask(id: str) -> dict[str, Any]:
        return job_of(id).as_dict()

    @app.get("/api/projections/{id}/{which}.png")
    def look(id: str, which: str) -> Response:
        """`target`, as it was cut; `preview`, how far it is."""
        job = job_of(id)
        if which == "target":
            return Response(encode(torch.from_numpy(job.target)), media_type="image/png")
        if which != "preview" or job.preview is None:
            raise Refused(f"there is no picture {which[:40]!r} yet", 404)
        return Response(job.preview, media_type="image/png")

    @app.delete("/api/projections/{id}")
    def cancel(id: str) -> dict[str, Any]:
        projections.cancel(id)
        return job_of(id).as_dict()
