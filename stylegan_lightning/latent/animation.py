"""Moving pictures: animated WebP and GIF by Pillow, mp4 by PyAV where it is installed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from stylegan_lightning.errors import UserError
from stylegan_lightning.files import replacing

KINDS = (".mp4", ".webp", ".gif")


def check_animation(path: Path) -> None:
    """Raises UserError where `path` is no animation, or is an mp4 and PyAV is not installed."""
    if path.suffix.lower() not in KINDS:
        raise UserError(f"an animation is a {', '.join(KINDS)} file; got {path}")
    if path.suffix.lower() == ".mp4":
        try:
            import av  # noqa: F401
        except ImportError:
            raise UserError(
                f"{path} needs PyAV: pip install av, or choose {path.with_suffix('.webp').name} or .gif"
            ) from None


def write_animation(path: Path, frames: Iterable[np.ndarray], fps: float = 24) -> None:
    """Frames uint8 [H, W, C] (1, 3 or 4 channels) of one size; by the ending, whole or not at all; repeats for ever
    (WebP, GIF).

    Transparency is kept by WebP alone; elsewhere it is laid over white. Raises UserError as `check_animation`, for a
    rate that is not positive, and where there are no frames.
    """
    check_animation(path)
    if not fps > 0:
        raise UserError(f"fps must be positive; got {fps}")
    head = list(itertools.islice(iterator := iter(frames), 1))
    if not head:
        raise UserError(f"an animation needs at least one frame; there are none for {path}")
    with replacing(path) as temporary:
        if path.suffix.lower() == ".mp4":
            _write_mp4(temporary, itertools.chain(head, iterator), fps)
        else:
            _write_pillow(temporary, itertools.chain(head, iterator), fps, path.suffix.lower() == ".webp")


def _write_pillow(path: Path, frames: Iterable[np.ndarray], fps: float, webp: bool) -> None:
    mode = {4: "RGBA"} if webp else {}
    pictures = (Image.fromarray(f if f.shape[2] in mode else opaque(f)) for f in frames)
    first = next(pictures)
    options = {"quality": 90, "method": 3} if webp else {}
    first.save(
        path,
        format="WEBP" if webp else "GIF",
        save_all=True,
        append_images=pictures,
        duration=round(1000 / fps),
        loop=0,
        **options,
    )


def _write_mp4(path: Path, frames: Iterator[np.ndarray], fps: float) -> None:
    """H.264, which wants even sizes: an odd row or column is repeated."""
    from fractions import Fraction

    import av

    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "17"}
        for number, frame in enumerate(frames):
            picture = opaque(frame)
            picture = np.pad(picture, ((0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0)), mode="edge")
            if number == 0:
                stream.height, stream.width = picture.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def opaque(frame: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 1|3|4] -> [H, W, 3]: grey is repeated, transparency laid over white."""
    if frame.shape[2] == 1:
        return frame.repeat(3, 2)
    if frame.shape[2] == 3:
        return frame
    rgb, alpha = frame[..., :3].astype(np.float32), frame[..., 3:].astype(np.float32)
    return np.round((rgb * alpha + 255 * (255 - alpha)) / 255).astype(np.uint8)
