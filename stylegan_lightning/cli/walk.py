"""stylegan-lightning walk"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stylegan_lightning.cli import common
from stylegan_lightning.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from stylegan_lightning.networks import Generator


def walk(
    model: common.Model,
    points: Annotated[
        str,
        typer.Argument(
            metavar="POINTS",
            help="Seeds, or files of codes (FILE.safetensors, FILE.safetensors:NAME), joined by commas.",
        ),
    ] = "0-3",
    out: Annotated[Path, typer.Option(help="A .mp4, .webp or .gif file.")] = Path("walk.webp"),
    space: Annotated[
        Literal["w", "z"], typer.Option(help="Straight through w, or on great circles through z (seeds only).")
    ] = "w",
    curve: Annotated[
        Literal["linear", "cubic"], typer.Option(help="In w: straight, or on a curve without corners.")
    ] = "linear",
    frames: Annotated[
        int, typer.Option(min=1, help="Frames from each point to the next; of the whole where there is one point.")
    ] = 24,
    loop: Annotated[bool, typer.Option("--loop", help="Back to the first point.")] = False,
    fps: Annotated[float, typer.Option(help="Frames a second.")] = 24.0,
    grid: Annotated[
        str, typer.Option(metavar="COLUMNSxROWS", help="Several walks side by side, each over its share of the points.")
    ] = "1x1",
    size: Annotated[
        int, typer.Option(min=1, help="Small pictures are enlarged by whole factors to this many pixels.")
    ] = 256,
    pan: Annotated[
        str, typer.Option(metavar="X,Y", help="StyleGAN3: the picture moves by this over the walk, in widths.")
    ] = "0,0",
    turn: Annotated[float, typer.Option(help="StyleGAN3: the picture turns by this many degrees over the walk.")] = 0.0,
    psi: common.Psi = 1.0,
    cutoff: common.Cutoff = None,
    label: common.Class = None,
    noise: Annotated[Literal["const", "none"], typer.Option(help="Noise inputs: fixed, or off.")] = "const",
    device: common.Device = "auto",
) -> None:
    """A film that goes from picture to picture."""
    from stylegan_lightning.latent import walking
    from stylegan_lightning.latent.animation import check_animation, write_animation

    check_animation(out)
    if fps <= 0:
        raise UserError(f"--fps must be positive; got {fps}")
    motion = walking.Motion(_pan(pan), turn)
    columns, rows = _grid(grid)
    own = common.parse_class(label)
    G = common.load_model(model, device)
    if not motion.still:
        walking.moving_input(G)
    paths = _paths(G, points, space, curve, frames, loop, columns * rows, own, psi, cutoff, not motion.still)
    film = walking.walk(
        G, paths, columns=columns, motion=motion, loop=loop, noise_mode=noise, min_cell=size,
        progress=common.progress("drawing", "frame"),
    )  # fmt: skip
    write_animation(out, film, fps)
    common.say_written(out)


def _paths(
    G: Generator,
    points: str,
    space: Literal["w", "z"],
    curve: Literal["linear", "cubic"],
    frames: int,
    loop: bool,
    cells: int,
    label: int | list[float] | None,
    psi: float,
    cutoff: int | None,
    moves: bool,
) -> list[Tensor]:
    """ws [T, num_ws, w_dim] of each cell of the grid."""
    from stylegan_lightning.latent import walking
    from stylegan_lightning.latent.codes import EXTENSION, codes_of, parse_seeds, styles_of_z, z_of

    if space == "z" and EXTENSION in points:
        raise UserError("codes of files are styles, which have no z: use --space w, or seeds")
    where = (
        z_of(parse_seeds(points), G.z_dim)
        if space == "z"
        else codes_of(G, points, label=label, psi=psi, cutoff=cutoff).ws
    )
    if len(where) % cells:
        raise UserError(f"{len(where)} points cannot be shared out among the {cells} walks of the grid")
    parts = where.unflatten(0, (cells, -1))
    if parts.shape[1] == 1:
        if not moves:
            raise UserError(
                "a walk needs at least two points for each cell of the grid, or --pan or --turn (StyleGAN3)"
            )
        parts = parts.repeat_interleave(frames, 1)
        frames, loop = 1, False
    if space == "w":
        return [walking.w_path(part, frames, loop=loop, curve=curve) for part in parts]
    paths = [walking.z_path(part, frames, loop=loop) for part in parts]
    return [styles_of_z(G, path, label=label, psi=psi, cutoff=cutoff) for path in paths]


def _pan(text: str) -> tuple[float, float]:
    try:
        x, y = (float(v) for v in text.split(","))
    except ValueError:
        raise UserError(f"--pan must be two numbers X,Y; got {text!r}") from None
    return x, y


def _grid(text: str) -> tuple[int, int]:
    columns, cross, rows = text.partition("x")
    if not (cross and columns.isdigit() and rows.isdigit() and int(columns) * int(rows)):
        raise UserError(f"--grid must be COLUMNSxROWS, such as 3x2; got {text!r}")
    return int(columns), int(rows)
