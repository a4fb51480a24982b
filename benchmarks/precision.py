"""float32, TF32, bfloat16 and float16 side by side: speed, memory, R1, path lengths and images of one StyleGAN.

    python benchmarks/precision.py [OUT_DIR] [--model stylegan2] [--resolution 256 --batch 16] [--device cuda]

All types start from the same weights and see the same latents, images and noise. Prints each type's speed as a ratio
to float32 in the same run, and how far R1, path lengths and images are from float32's; OUT_DIR gets a picture with a
row of samples for each type after a few training steps from the same seed. On a CPU it runs at 32 pixels by default.
"""

from __future__ import annotations

import argparse
import copy
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stylegan_lightning.imaging import image_grid, save_png, to_uint8
from stylegan_lightning.losses import R1, NonSaturating, PathLength
from stylegan_lightning.losses.penalties import path_lengths
from stylegan_lightning.networks import (
    Generator,
    MappingNetwork,
    StyleGAN2Discriminator,
    StyleGAN2Synthesis,
    StyleGAN3Synthesis,
)
from stylegan_lightning.training.phases import LatentStream, Objectives, build_phases

TYPES = {"fp32": ("highest", None), "tf32": ("high", None), "bf16": ("highest", torch.bfloat16),
         "fp16": ("highest", torch.float16)}  # fmt: skip


def networks(options: argparse.Namespace) -> tuple[Generator, StyleGAN2Discriminator]:
    torch.manual_seed(0)
    sizes = {"channel_base": options.channel_base, "conv_clamp": 256.0}
    if options.model == "stylegan2":
        synthesis: torch.nn.Module = StyleGAN2Synthesis(options.resolution, w_dim=512, **sizes)
    else:
        synthesis = StyleGAN3Synthesis(options.resolution, w_dim=512, **sizes)
    G = Generator(synthesis, partial(MappingNetwork, z_dim=512, num_layers=2))
    D = StyleGAN2Discriminator(options.resolution, **sizes)
    return G.to(options.device), D.to(options.device)


def set_type(name: str, G: Generator, D: StyleGAN2Discriminator) -> None:
    matmul, dtype = TYPES[name]
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = matmul != "highest"
    for net in (G.synthesis, D):
        net.set_low_precision(dtype)  # type: ignore[union-attr]


def quantities(G: Generator, D: StyleGAN2Discriminator, reals: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(1)
    z = torch.randn(len(reals), 512).to(reals.device)
    lengths = path_lengths(G.synthesis, G.mapping(z).detach(), noise_mode="const")
    return {
        "images": G(z, noise_mode="const").detach(),
        "R1": R1(1.0)(D, reals).detach(),
        "path lengths": lengths.detach(),
    }


def train(G: Generator, D: StyleGAN2Discriminator, reals: Tensor, steps: int) -> float:
    """Seconds per step, R1 every 16 and path length every 4 included."""
    device = reals.device
    stream = LatentStream(torch.Generator(device).manual_seed(2))
    objectives = Objectives(G, D, NonSaturating(), 0.9, stream=stream)
    penalty = PathLength().to(device)
    phases = build_phases(objectives, {"pl": penalty}, {"r1": R1(1.0)})
    optimizers = [torch.optim.Adam(net.parameters(), 0.002, (0.0, 0.99)) for net in (G, D)]
    c = torch.zeros(len(reals), 0, device=device)
    started = 0.0
    for step in range(-2, steps):  # two to warm up
        if step == 0:
            _wait(device)
            started = time.perf_counter()
        for phase in phases:
            if step % phase.interval == 0:
                for index, net in enumerate((G, D)):
                    net.requires_grad_(index == phase.optimizer)
                optimizers[phase.optimizer].zero_grad()
                phase.objective(reals, c, c).backward()
                optimizers[phase.optimizer].step()
    _wait(device)
    return (time.perf_counter() - started) / steps


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_gib(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cuda = torch.cuda.is_available()
    parser.add_argument("out_dir", type=Path, nargs="?")
    parser.add_argument("--model", choices=["stylegan2", "stylegan3_t"], default="stylegan2")
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--resolution", type=int, default=256 if cuda else 32)
    parser.add_argument("--batch", type=int, default=16 if cuda else 4)
    parser.add_argument("--channel-base", type=int, default=16384 if cuda else 1024)
    parser.add_argument("--steps", type=int, default=32 if cuda else 16)
    options = parser.parse_args()
    device = torch.device(options.device)
    names = [n for n in TYPES if n != "tf32" or device.type == "cuda"]
    first, rows, base = networks(options), [], 0.0
    exact: dict[str, Tensor] = {}
    reals = torch.randn(options.batch, 3, options.resolution, options.resolution, device=device).clamp(-1, 1)
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{options.model}, {options.resolution} pixels, batch {options.batch}; torch {torch.__version__}, {place}")
    print("type    img/s  speed / fp32  peak GiB   relative difference to fp32: images       R1  path lengths")
    for name in names:
        G, D = copy.deepcopy(first)
        set_type(name, G, D)
        found = quantities(G, D, reals)
        exact = exact or found
        apart = [float((found[k] - exact[k]).norm() / exact[k].norm()) for k in found]
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds = train(G, D, reals, options.steps)
        base = base or seconds
        print(
            f"{name:5} {options.batch / seconds:8.1f} {base / seconds:13.2f} {peak_gib(device):9.2f} "
            f"{apart[0]:37.1e} {apart[1]:8.1e} {apart[2]:13.1e}",
            flush=True,
        )
        z = torch.randn(8, 512, generator=torch.Generator().manual_seed(3)).to(device)
        with torch.no_grad():
            rows.append(image_grid(to_uint8(G(z, noise_mode="const")).cpu(), 8))
    if options.out_dir:
        save_png(options.out_dir / "precision.png", np.concatenate(rows))


if __name__ == "__main__":
    main()
