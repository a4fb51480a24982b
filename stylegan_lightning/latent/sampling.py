"""Pictures of seeds: one by one, as a grid over truncation, as a labelled data set."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from stylegan_lightning.errors import UserError
from stylegan_lightning.files import distinct_names, replacing
from stylegan_lightning.imaging import image_grid, to_pil
from stylegan_lightning.latent.codes import Codes, Progress, render, silent, styles_of
from stylegan_lightning.networks import Generator
from stylegan_lightning.protocols import NoiseMode


def generate(
    G: Generator,
    seeds: Sequence[int],
    *,
    label: int | Sequence[float] | None = None,
    psi: float = 1.0,
    cutoff: int | None = None,
    noise_mode: NoiseMode = "const",
    progress: Progress = silent,
) -> tuple[Tensor, Codes]:
    """uint8 [N, C, H, W] and the codes. A picture depends on its seed alone, not on the others or their number."""
    ws = styles_of(G, seeds, label=label, psi=psi, cutoff=cutoff)
    images = render(G, ws, noise_mode=noise_mode, seeds=seeds, progress=progress)
    return images, Codes(ws.cpu(), tuple(f"seed {s}" for s in seeds))


def psi_sweep(
    G: Generator,
    seeds: Sequence[int],
    psis: Sequence[float],
    *,
    label: int | Sequence[float] | None = None,
    cutoff: int | None = None,
    noise_mode: NoiseMode = "const",
    progress: Progress = silent,
) -> Tensor:
    """uint8 [len(seeds) * len(psis), C, H, W], a row for each seed (StyleGAN, figure 8)."""
    columns = [styles_of(G, seeds, label=label, psi=psi, cutoff=cutoff) for psi in psis]
    ws = torch.stack(columns, 1).flatten(0, 1)
    noise_seeds = [seed for seed in seeds for _ in psis]
    return render(G, ws, noise_mode=noise_mode, seeds=noise_seeds, progress=progress)


def png(image: Tensor) -> bytes:
    """uint8 [C, H, W] -> the bytes of a PNG file."""
    buffer = io.BytesIO()
    to_pil(image_grid(image[None], 1, min_cell=1)).save(buffer, format="PNG")
    return buffer.getvalue()


def write_png(path: Path, image: Tensor) -> None:
    """uint8 [C, H, W]; whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(png(image))


def write_images(out: Path, images: Tensor, names: Sequence[str]) -> None:
    """uint8 [N, C, H, W] as NAME.png into a folder, or into an archive where `out` ends in .zip; names are made safe
    and, where they would be one file, numbered."""
    names = distinct_names(names)
    if out.suffix != ".zip":
        for image, name in zip(images, names, strict=True):
            write_png(out / f"{name}.png", image)
        return
    with replacing(out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as file:
        for image, name in zip(images, names, strict=True):
            file.writestr(f"{name}.png", png(image))


def export_dataset(
    G: Generator,
    out: Path,
    count: int,
    *,
    first_seed: int = 0,
    label: int | Sequence[float] | None = None,
    psi: float = 1.0,
    cutoff: int | None = None,
    noise_mode: NoiseMode = "const",
    progress: Progress = silent,
) -> None:
    """`count` generated pictures of the seeds from `first_seed` on, to train something else with.

    A folder or a .zip that `data=image_folder` reads: seed0000000.png and so on, `dataset.json` with their labels, and
    beside it OUT.codes.safetensors (in a folder: codes.safetensors) with the w of each, by the same names. A
    conditional model without `label` draws its classes in turn: class seed mod c_dim. An archive appears as a whole; a
    folder gets dataset.json last, so that one that has it is whole. Raises UserError for a count below 1 and for a
    folder that has other files.
    """
    if count < 1:
        raise UserError(f"a data set needs at least one picture; got {count}")
    zipped = out.suffix == ".zip"
    if not zipped and out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} already has files; give an empty or new folder, or a .zip")
    names, labels, codes = [], [], []
    with contextlib.ExitStack() as stack:
        archive = None
        if zipped:
            temporary = stack.enter_context(replacing(out))
            archive = stack.enter_context(zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED))
        for i, seed in enumerate(range(first_seed, first_seed + count)):
            own = seed % G.c_dim if G.c_dim and label is None else label
            ws = styles_of(G, [seed], label=own, psi=psi, cutoff=cutoff)
            image = render(G, ws, noise_mode=noise_mode, seeds=[seed])[0]
            names.append(f"seed{seed:07d}")
            labels.append([f"{names[-1]}.png", own])
            codes.append(ws.cpu())
            if archive is not None:
                archive.writestr(f"{names[-1]}.png", png(image))
            else:
                write_png(out / f"{names[-1]}.png", image)
            progress(i + 1, count)
        table = json.dumps({"labels": labels if G.c_dim else None})
        Codes(torch.cat(codes), tuple(names)).save(
            out.with_suffix(".codes.safetensors") if zipped else out / "codes.safetensors"
        )
        if archive is not None:
            archive.writestr("dataset.json", table)
        else:
            with replacing(out / "dataset.json") as temporary:
                temporary.write_text(table)
