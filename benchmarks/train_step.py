"""Speed of a StyleGAN2 training step against the machine's own dense matrix products.

    python benchmarks/train_step.py [--resolution 64 --batch 8 --channel-base 4096 --channel-max 128 --threads 2]

For each phase: time, peak memory, model FLOP and FLOP/s; then the amortised step, G + D + path length / 4 +
R1 / 16, and its ratio to the float32 matrix-product rate measured in the same process. FLOP are counted as they
run (2 for a multiply-add): matrix products and convolutions, forward and backward; resampling filters, which are
depthwise, and elementwise work are left out, so that the figure is useful work per second. `--naive` measures the
same networks with one modulated weight per sample, PyTorch's own derivatives of convolutions, contiguous layout.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import resource
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from stylegan_lightning import ops
from stylegan_lightning.launch import keep_freed_memory
from stylegan_lightning.losses import R1, NonSaturating, PathLength
from stylegan_lightning.networks import (
    Generator,
    MappingNetwork,
    StyleGAN2Discriminator,
    StyleGAN2Synthesis,
    stylegan2,
)
from stylegan_lightning.protocols import Phase
from stylegan_lightning.training.phases import LatentStream, Objectives, build_phases

aten = torch.ops.aten
_GROUPS = {aten.convolution: 8, aten.convolution_backward: 9}
"""Where the number of groups is among the arguments."""


class CountFlops(TorchDispatchMode):
    """FLOP of dense products and convolutions executed while open."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        depthwise = packet in _GROUPS and args[_GROUPS[packet]] > 1
        if packet in flop_registry and not depthwise:
            self.total += flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        return out


@contextlib.contextmanager
def naive() -> Iterator[None]:
    """The straightforward way to write StyleGAN2: grouped convolutions of per-sample weights, stock autograd."""

    def layer(self: Any, x: Tensor, w: Tensor, noise_mode: Any, gain: float = 1.0) -> Tensor:
        s, n = self.affine(w), len(x)
        weight = self.weight[None] * s[:, None, :, None, None]
        weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        o, i, k = weight.shape[1], weight.shape[2], weight.shape[3]
        x = x.reshape(1, n * i, *x.shape[2:])
        if self.up == 2:
            weight = weight.transpose(1, 2).reshape(n * i, o, k, k)
            x = F.conv_transpose2d(x, weight, stride=2, groups=n)
            x = ops.upfirdn2d_ref(x, self.resample_filter, padding=1, gain=4)
        else:
            x = F.conv2d(x, weight.reshape(n * o, i, k, k), padding=1, groups=n)
        x = x.reshape(n, o, *x.shape[2:])
        noise = self._noise(x, noise_mode)
        x = x if noise is None else x + noise * self.noise_strength
        return ops.bias_act(x, self.bias, act="lrelu") * gain

    with (
        mock.patch.object(stylegan2.SynthesisLayer, "forward", layer),
        mock.patch("stylegan_lightning.ops.conv_resample.conv2d", F.conv2d),
        mock.patch("stylegan_lightning.ops.fir.upfirdn2d", ops.upfirdn2d_ref),
        mock.patch("stylegan_lightning.ops.conv_resample.upfirdn2d", ops.upfirdn2d_ref),
    ):
        yield


def median_time(function: Callable[[], Any], runs: int, device: torch.device) -> float:
    """Seconds, the median over `runs` after one call to warm up."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[runs // 2]


def matmul_rate(device: torch.device, runs: int) -> float:
    """FLOP/s of the best of three sizes of square float32 matrix product."""
    rates = []
    for size in (1024, 2048, 4096):
        a = torch.randn(size, size, device=device)
        rates.append(2 * size**3 / median_time(lambda a=a: a @ a, runs, device))  # type: ignore[misc]
    return max(rates)


def peak_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def build(args: argparse.Namespace, device: torch.device) -> tuple[list[Phase], Callable[[Phase], None]]:
    size = {"channel_base": args.channel_base, "channel_max": args.channel_max}
    synthesis = StyleGAN2Synthesis(args.resolution, 3, **size)
    G = Generator(synthesis, partial(MappingNetwork, num_layers=args.mapping_layers)).to(device)
    D = StyleGAN2Discriminator(args.resolution, 3, **size).to(device)
    objectives = Objectives(G, D, NonSaturating(), 0.9, stream=LatentStream(torch.Generator(device)))
    phases = build_phases(objectives, {"pl": PathLength().to(device)}, {"r1": R1(1.0)})
    nets: tuple[nn.Module, nn.Module] = (G, D)
    adams = [torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.0, 0.99), fused=True) for net in nets]
    reals = torch.randn(args.batch, 3, args.resolution, args.resolution, device=device)
    c = torch.zeros(args.batch, 0, device=device)

    def step(phase: Phase) -> None:
        for index, net in enumerate(nets):
            net.requires_grad_(index == phase.optimizer)
        adams[phase.optimizer].zero_grad(set_to_none=True)
        phase.objective(reals, c, c).backward()
        adams[phase.optimizer].step()

    return phases, step


def measure(args: argparse.Namespace, device: torch.device, rate: float) -> float:
    """Prints the table and returns the seconds of an amortised step."""
    phases, step = build(args, device)
    print(f"{'phase':12s} {'ms':>8s} {'GFLOP':>8s} {'GFLOP/s':>8s} {'ratio':>6s} {'peak GiB':>9s}")
    seconds = flop = 0.0
    for phase in phases:
        with CountFlops() as count:
            step(phase)
        took = time_phase(phase, step, args, device)
        line = f"{phase.name:12s} {took * 1e3:8.1f} {count.total / 1e9:8.1f} {count.total / took / 1e9:8.1f} "
        print(line + f"{count.total / took / rate:6.2f} {peak_gib(device):9.2f}", flush=True)
        seconds += took / phase.interval
        flop += count.total / phase.interval
    line = f"{'amortised':12s} {seconds * 1e3:8.1f} {flop / 1e9:8.1f} {flop / seconds / 1e9:8.1f} "
    print(line + f"{flop / seconds / rate:6.2f}   {args.batch / seconds:.2f} img/s")
    return seconds


def measure_naive(args: argparse.Namespace, device: torch.device) -> float:
    """The same for the straightforward version: times only, since its work is the same."""
    phases, step = build(args, device)
    print(f"{'phase':12s} {'ms':>8s} {'peak GiB':>9s}")
    seconds = 0.0
    for phase in phases:
        took = time_phase(phase, step, args, device)
        print(f"{phase.name:12s} {took * 1e3:8.1f} {peak_gib(device):9.2f}", flush=True)
        seconds += took / phase.interval
    print(f"{'amortised':12s} {seconds * 1e3:8.1f}   {args.batch / seconds:.2f} img/s")
    return seconds


def time_phase(phase: Phase, step: Callable[[Phase], None], args: argparse.Namespace, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    return median_time(lambda: step(phase), args.runs, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {
        "resolution": 64, "batch": 8, "channel-base": 4096, "channel-max": 128, "mapping-layers": 8,
        "threads": 2, "runs": 5,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--naive", action="store_true", help="also measure the straightforward version")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_flush_denormal(True)  # these two as every run does
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rate = matmul_rate(device, args.runs)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{args.threads} threads, {platform.machine()}"
    print(f"torch {torch.__version__}, {where}; float32 matrix products: {rate / 1e9:.0f} GFLOP/s")
    ours = measure(args, device, rate)
    if args.naive:
        print("\nstraightforward version")
        with naive():
            theirs = measure_naive(args, device)
        print(f"\nthe straightforward version takes {theirs / ours:.2f} times as long")


if __name__ == "__main__":
    main()
