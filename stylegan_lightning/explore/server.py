"""The server of the page: HTTP around `drawing` and `projecting`."""

from __future__ import annotations

import asyncio
import tempfile
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import numpy as np
import torch
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response

import stylegan_lightning
from stylegan_lightning.errors import UserError
from stylegan_lightning.explore.access import Guard
from stylegan_lightning.explore.drawing import Painter, encode
from stylegan_lightning.explore.projecting import Job, Projections
from stylegan_lightning.explore.state import NOISE, PSI, STRENGTH, Picture, number, parse, parse_point, whole
from stylegan_lightning.explore.uploads import MEGABYTES, UploadError, codes_in, picture_of, read_body
from stylegan_lightning.latent.animation import check_animation, write_animation
from stylegan_lightning.latent.codes import EXTENSION, Codes, check_fits
from stylegan_lightning.latent.projection import Settings
from stylegan_lightning.latent.ranges import parse_range

HERE = Path(__file__).parent
FILES = {"": "page.html"} | {name: name for name in ("style.css", "script.js", "state.js", "projections.js")}
KEPT_PICTURES = 512
FRAMES = (2, 240)
FPS = (1.0, 60.0)
STEPS = (1, 2000)
MOST_CODES = 64
T = TypeVar("T")
Gone = Callable[[], Awaitable[bool]]
"""Whether the browser does not wait any more."""


class Server:
    """What the routes share. Pictures are drawn in one thread, in the order in which they are asked for."""

    def __init__(self, painter: Painter, projections: Projections, name: str) -> None:
        self.painter, self.projections, self.name = painter, projections, name
        self._thread = ThreadPoolExecutor(1, "drawing")
        self._turn = asyncio.Lock()
        self._drawn: OrderedDict[tuple[str, int | None], bytes] = OrderedDict()

    async def draw(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def picture(self, picture: Picture, size: int | None, gone: Gone) -> bytes | None:
        """PNG; None where the browser has gone in the meantime."""
        key = (picture.text(), size)
        if key not in self._drawn:
            async with self._turn:
                if key not in self._drawn:
                    if await gone():
                        return None
                    self._drawn[key] = await self.draw(lambda: encode(self.painter.draw(picture), size))
        self._drawn.move_to_end(key)
        while len(self._drawn) > KEPT_PICTURES:
            self._drawn.popitem(last=False)
        return self._drawn[key]

    async def frame(self, picture: Picture, gone: Gone) -> np.ndarray:
        """Of a film; others' pictures come in between."""
        async with self._turn:
            if await gone():
                raise UserError("the browser has gone")
            return await self.draw(lambda: self.painter.frame(picture))

    def frames(self, pictures: Iterable[Picture], gone: Gone, loop: asyncio.AbstractEventLoop) -> Iterator[np.ndarray]:
        """For another thread than that of the loop."""
        for picture in pictures:
            yield asyncio.run_coroutine_threadsafe(self.frame(picture, gone), loop).result()

    def close(self) -> None:
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
            "megabytes": MEGABYTES,
            "films": kinds_of_films(),
        }


def kinds_of_films() -> list[str]:
    try:
        check_animation(Path("x.mp4"))
    except UserError:
        return ["webp", "gif"]
    return ["mp4", "webp", "gif"]


def film(a: Picture, frames: int) -> Iterator[Picture]:
    """From A to B; without B, from A without directions to A with them. Raises UserError where nothing would move."""
    if a.b is None and not a.moves:
        raise UserError("a film needs a second picture, or a direction to move along")
    for i in range(frames):
        t = i / (frames - 1)
        if a.b is not None:
            yield replace(a, mix=(t,))
        else:
            yield replace(a, moves=tuple((name, t * strength) for name, strength in a.moves))


def create_app(painter: Painter, projections: Projections, guard: Guard, name: str) -> FastAPI:
    server = Server(painter, projections, name)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        server.close()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(guard.middleware)
    app.exception_handler(UserError)(_refuse)
    _add_pictures(app, server)
    _add_codes(app, server)
    _add_projections(app, server)

    @app.get("/{path:path}")
    def page(path: str) -> Response:
        if path not in FILES:
            return JSONResponse({"error": f"there is no page /{path[:80]}"}, 404)
        return FileResponse(HERE / FILES[path])

    return app


def _refuse(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, error.status if isinstance(error, UploadError) else 400)


def _query(request: Request, *own: str) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """The state's keys and values, and those of the route itself."""
    items = parse_qsl(request.url.query, keep_blank_values=True, max_num_fields=200)
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
        if data is None:
            return Response(status_code=204)
        return _file(data, "image/png", "picture.png") if "download" in own else Response(data, media_type="image/png")

    @app.get("/api/film")
    async def moving(request: Request) -> Response:
        state, own = _query(request, "frames", "fps", "kind")
        count = whole("frames", own.get("frames", "48"), *FRAMES)
        fps = number("fps", own.get("fps", "24"), *FPS)
        kind = own.get("kind", kinds_of_films()[0])
        if kind not in kinds_of_films():
            raise UserError(f"a film is one of {', '.join(kinds_of_films())} here; got {kind[:40]!r}")
        pictures = list(film(parse(state, can), count))
        frames = server.frames(pictures, request.is_disconnected, asyncio.get_running_loop())
        data = await asyncio.to_thread(_film_of, frames, fps, kind)
        return _file(data, {"mp4": "video/mp4"}.get(kind, f"image/{kind}"), f"film.{kind}")


def _film_of(frames: Iterable[np.ndarray], fps: float, kind: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"film.{kind}"
        write_animation(path, frames, fps)
        return path.read_bytes()


def _add_codes(app: FastAPI, server: Server) -> None:
    painter = server.painter

    @app.get("/api/codes")
    async def get(request: Request) -> Response:
        """The styles of a state, as a file that the verbs take."""
        picture = parse(_query(request)[0], painter.can)
        code = await server.draw(lambda: painter.code(picture))
        return _file(_codes_file(code), "application/octet-stream", f"codes{EXTENSION}")

    @app.post("/api/codes")
    async def put(request: Request) -> list[dict[str, str]]:
        """Codes of a file that `project` or this page wrote, kept: ids and names."""
        codes = codes_in(await read_body(request, MEGABYTES * 1_000_000))
        check_fits(painter.G, codes, "the file")
        if not 1 <= len(codes) <= MOST_CODES:
            raise UploadError(f"the file must hold 1 to {MOST_CODES} codes; it holds {len(codes)}", 413)
        found = []
        for i, name in enumerate(codes.names):
            noise = {key: maps[i : i + 1] for key, maps in codes.noise.items()}
            found.append({"id": painter.store.put(Codes(codes.ws[i : i + 1], (name,), noise)), "name": name})
        return found


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
            raise UploadError("there is no such projection: the server was started again, or it is long ago", 404)
        return job

    @app.post("/api/projections")
    async def start(request: Request) -> dict[str, Any]:
        """The body is a picture. It waits in line; its page asks how far it is."""
        _, own = _query(request, "name", "steps", "class")
        steps = whole("steps", own.get("steps", "200"), *STEPS)
        label = parse_point("class", f"0c{own.get('class', '0')}", painter.can).label if G.c_dim else None
        data = await read_body(request, MEGABYTES * 1_000_000)
        target = await asyncio.to_thread(picture_of, data, painter.size, int(G.img_channels))
        name = own.get("name", "picture")[:80].replace(",", "_").replace(":", "_") or "picture"
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
            raise UploadError(f"there is no picture {which[:40]!r} yet", 404)
        return Response(job.preview, media_type="image/png")

    @app.delete("/api/projections/{id}")
    def cancel(id: str) -> dict[str, Any]:
        projections.cancel(id)
        return job_of(id).as_dict()
