"""Does it pay to keep freed memory? Training steps on the CPU with and without `launch.keep_freed_memory`.

    python benchmarks/keep_memory.py [--batch 16 --resolution 32 --threads 2 --rounds 3]

Each measurement is a process of its own, since the setting cannot be undone; the two take turns.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import torch

from stylegan_lightning.launch import keep_freed_memory
from stylegan_lightning.networks import StyleGAN2Synthesis, StyleGAN3Synthesis

KINDS = {"stylegan2": StyleGAN2Synthesis, "stylegan3": StyleGAN3Synthesis}


def measure(kind: str, batch: int, resolution: int, threads: int) -> tuple[float, float]:
    """Median milliseconds of a forward and backward pass of G, and peak memory in GiB."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    G = KINDS[kind](resolution, w_dim=128, channel_base=1024, channel_max=64)
    ws = torch.randn(batch, G.num_ws, 128)
    times = []
    for _ in range(12):
        start = time.perf_counter()
        G(ws).square().mean().backward()
        times.append(time.perf_counter() - start)
    return sorted(times[2:])[5] * 1e3, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"batch": 16, "resolution": 32, "threads": 2, "rounds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    sizes = [args.batch, args.resolution, args.threads]
    if args.one:
        if args.one[1] == "kept":
            keep_freed_memory()
        print(*measure(args.one[0], *sizes))
        return
    print(f"torch {torch.__version__}, {args.threads} threads; forward + backward of G, best of {args.rounds}")
    flags = [f"--{n}={v}" for n, v in zip(("batch", "resolution", "threads"), sizes, strict=True)]
    for kind in KINDS:
        results: dict[str, list[tuple[float, float]]] = {"returned": [], "kept": []}
        for _ in range(args.rounds):
            for mode, values in results.items():
                command = [sys.executable, __file__, "--one", kind, mode, *flags]
                out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
                values.append((float(out[0]), float(out[1])))
        best = {mode: min(values) for mode, values in results.items()}
        text = ", ".join(f"{mode} {ms:.0f} ms, {gib:.2f} GiB" for mode, (ms, gib) in best.items())
        print(f"{kind}: {text}; ratio {best['returned'][0] / best['kept'][0]:.2f}")


if __name__ == "__main__":
    main()
