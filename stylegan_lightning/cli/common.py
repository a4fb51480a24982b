"""What the verbs share: their arguments, the model, progress, errors as messages."""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stylegan_lightning.errors import UserError
from stylegan_lightning.files import printable, read_file

if TYPE_CHECKING:
    from torch import Tensor

    from stylegan_lightning.latent.codes import Progress
    from stylegan_lightning.networks import Generator

Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A run directory, a checkpoint, or an exported .safetensors generator.")
]
Seeds = Annotated[str, typer.Option(help="Numbers and ranges, such as 0-15 or 3,7,20-29.")]
Psi = Annotated[float, typer.Option(help="Truncation: 1 as drawn, smaller is closer to the mean picture.")]
Cutoff = Annotated[int | None, typer.Option(help="Truncate the first this many styles only.")]
Class = Annotated[
    str | None,
    typer.Option("--class", metavar="NUMBER", help="Class number, or a whole label 0,1,0.5, for a conditional model."),
]
Noise = Annotated[
    Literal["const", "random", "none"], typer.Option(help="Noise inputs: fixed, drawn from the seed, or off.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}


@contextlib.contextmanager
def messages() -> Iterator[None]:
    """UserErrors and full or read-only disks become one line and exit status 2, Ctrl-C status 130."""
    try:
        yield
    except UserError as error:
        message = str(error)
    except OSError as error:
        if error.errno not in _DISK:
            raise
        message = f"cannot write {error.filename or ''}: {error.strerror}; choose another --out"
    except KeyboardInterrupt:
        print("\nstopped; no file is left half-written", file=sys.stderr)
        raise SystemExit(130) from None
    else:
        return
    print("error: " + printable(message, keep="\n"), file=sys.stderr)
    raise SystemExit(2)


def load_model(path: Path, device: str = "auto") -> Generator:
    """The generator, on its device. Raises UserError for an unknown device."""
    import torch

    import stylegan_lightning
    from stylegan_lightning.launch import keep_freed_memory

    keep_freed_memory()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
        torch.zeros((), device=place)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device must be auto or a device of this machine; {device!r}: {error}") from None
    return stylegan_lightning.load(path).to(place)


def parse_class(text: str | None) -> int | list[float] | None:
    """ "2" is a class, "0,1,0.5" a whole label. Raises UserError for what is no number."""
    if text is None:
        return None
    try:
        return int(text) if "," not in text else [float(x) for x in text.split(",")]
    except ValueError:
        raise UserError(f"--class must be a class number or numbers joined by commas; got {text!r}") from None


def progress(what: str, unit: str = "img") -> Progress:
    """A bar on a terminal; nothing elsewhere."""
    from tqdm import tqdm

    bar: list[Any] = []

    def update(done: int, total: int) -> None:
        if not bar:
            bar.append(tqdm(total=total, desc=what, unit=unit, leave=False, disable=not sys.stderr.isatty()))
        bar[0].update(done - bar[0].n)
        if done >= total:
            bar[0].close()

    return update


def read_picture(path: Path, resolution: int, channels: int, crop: str = "center") -> Tensor:
    """uint8 [1, C, R, R], decoded as training data are. Raises UserError for what is no image."""
    import torch

    from stylegan_lightning.data.decode import MOST_BYTES, UnreadableImage, decode, decode_options

    try:
        data = read_file(path.expanduser(), MOST_BYTES)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"cannot read {path}: {error}") from None
    try:
        image, _ = decode(data, decode_options(resolution, channels, crop), name=str(path))
    except UnreadableImage as error:
        raise UserError(f"{error}; give a png, jpg, webp, bmp, gif or tiff picture") from None
    return torch.from_numpy(image)[None]


def read_mask(path: Path, resolution: int) -> Tensor:
    """float [1, 1, R, R] in [0, 1]: 1 where the picture is white. Raises UserError, also where all of it is black."""
    mask = read_picture(path, resolution, 1, "stretch").float() / 255
    if not bool(mask.any()):
        raise UserError(f"{path} is black everywhere: a mask is white where something is to happen")
    return mask


def check_png(path: Path) -> None:
    """Raises UserError for another ending."""
    if path.suffix.lower() != ".png":
        raise UserError(f"--out must be a .png file here; got {path}")


def say_written(*paths: Path) -> None:
    for path in paths:
        print(path)
