"""The estimate of training/memory.py against what a training step really takes, with and without recomputation.

    python benchmarks/memory_estimate.py [--rows "model=stylegan2 data.resolution=128 schedule.batch_size=4" ...]

Every row is a process of its own, given as overrides of the configuration. Two batches with all phases due are
trained by the run's own Trainer; measured are tensors, on a GPU torch.cuda.max_memory_allocated, on a CPU the
profiler's peak in the second batch above parameters and moments, and the growth of the process in the first.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader

from stylegan_lightning.builders import build_module, build_schedule
from stylegan_lightning.launch import keep_freed_memory
from stylegan_lightning.preflight import estimate
from stylegan_lightning.trainer import build_trainer
from stylegan_lightning.training.module import GAN

CONF = Path(__file__).parent.parent / "conf"
RECOMPUTE = "trainer.activation_checkpointing=true"
TINY = "experiment=none model.channel_base=4096 model.channel_max=128"
SMALL = f"{TINY} model.mapping_layers=2"
ROWS = [
    f"{SMALL} model=stylegan2 data.resolution=64 schedule.batch_size=16",
    f"{SMALL} model=stylegan2 data.resolution=64 schedule.batch_size=16 {RECOMPUTE}",
    f"{SMALL} model=stylegan2 data.resolution=128 schedule.batch_size=8",
    f"{SMALL} model=stylegan2 data.resolution=128 schedule.batch_size=8 {RECOMPUTE}",
    f"{SMALL} model=stylegan2 data.resolution=128 schedule.batch_size=8 trainer.batch_per_device=4",
    f"{SMALL} model=stylegan2 data.resolution=256 schedule.batch_size=4",
    f"{SMALL} model=stylegan2 data.resolution=256 schedule.batch_size=4 {RECOMPUTE}",
    f"{SMALL} model=stylegan3_t data.resolution=64 schedule.batch_size=4",
    f"{SMALL} model=stylegan3_t data.resolution=64 schedule.batch_size=4 {RECOMPUTE}",
    f"{SMALL} model=stylegan1 data.resolution=64 schedule.batch_size=8",
    f"{SMALL} model=stylegan1 data.resolution=64 schedule.batch_size=8 {RECOMPUTE}",
    f"{TINY} model=progan data.resolution=64 schedule.batch_size=8",
    f"{TINY} model=progan data.resolution=64 schedule.batch_size=8 {RECOMPUTE}",
    "experiment=none model=dcgan model.channel_base=2048 data.resolution=64 schedule.batch_size=32",
    "experiment=none model=wgan_gp model.channel_base=2048 data.resolution=64 schedule.batch_size=16",
    f"experiment=none model=wgan_gp model.channel_base=2048 data.resolution=64 schedule.batch_size=16 {RECOMPUTE}",
    "experiment=none model=mlp data.resolution=64 schedule.batch_size=64",
]


class Watch(L.Callback):
    """All phases in every batch; time and peak of the second batch."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        pl_module.batches = 0
        self.started = time.perf_counter()
        if batch_idx == 1:
            self.resident = resident()
        if batch_idx == 1 and pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        elif batch_idx == 1:
            states = [t for o in trainer.optimizers for s in o.state.values() for t in s.values() if t.ndim]
            self.before = sum(t.nbytes for t in [*pl_module.parameters(), *pl_module.buffers(), *states])
            self.profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            self.profile.__enter__()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
            self.peak = torch.cuda.max_memory_allocated()
        elif hasattr(self, "profile"):
            self.profile.__exit__(None, None, None)
            self.peak = self.before + _peak_of(self.profile)
        self.seconds = getattr(self, "seconds", None) or time.perf_counter() - self.started


def _peak_of(profiled: profile) -> int:
    """Of the sum of all allocations and releases, in their order."""
    kineto = profiled.profiler.kineto_results.events()  # type: ignore[union-attr]
    events = sorted((e.start_ns(), e.nbytes()) for e in kineto if e.name() == "[memory]")  # type: ignore[union-attr]
    now = peak = 0
    for _, nbytes in events:
        now += nbytes
        peak = max(peak, now)
    return peak


def resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(overrides: list[str]) -> dict[str, float]:
    keep_freed_memory()  # these two as every run does
    torch.set_flush_denormal(True)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides)
    cfg.model.c_dim = 0
    cfg.schedule.total_kimg = 2 * cfg.schedule.batch_size / 1000
    module = build_module(cfg, build_schedule(cfg))
    began = time.perf_counter()
    expected = estimate(cfg, module)
    took, watch = time.perf_counter() - began, Watch()
    start = resident() - expected.parameters
    with tempfile.TemporaryDirectory() as directory:
        trainer = build_trainer(cfg, Path(directory), [watch], [])
        trainer.fit(module, _batches(cfg, module))
    return {
        "estimate": expected.total,
        "activations": expected.gradients + expected.activations,
        "measured": watch.peak,
        "resident": watch.resident - start,
        "estimate_s": took,
        "step_s": watch.seconds,
    }


def _batches(cfg: DictConfig, module: GAN) -> DataLoader:
    n, size = cfg.schedule.batch_size, cfg.data.resolution
    img = torch.randint(0, 256, (n, module.G.img_channels, size, size), dtype=torch.uint8)
    return DataLoader([(img, torch.zeros(n, 0), torch.zeros(n, 0))] * 2, batch_size=None)  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", default=ROWS, help="overrides, one string a row")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(measure(args.one.split())))
        return
    print("MiB: estimate, of it gradients and activations, measured, estimate / measured, process; s: estimate, step")
    for row in args.rows:
        done = subprocess.run([sys.executable, __file__, "--one", row], capture_output=True, text=True)
        if done.returncode:
            print(f"failed: {row}: {done.stderr.strip().splitlines()[-1]}")
            continue
        r = json.loads(done.stdout.splitlines()[-1])
        sizes = [r[k] / 2**20 for k in ("estimate", "activations", "measured", "resident")]
        print(
            f"{sizes[0]:7.0f} {sizes[1]:7.0f} {sizes[2]:7.0f} {sizes[0] / sizes[2]:5.2f} {sizes[3]:7.0f}"
            f" {r['estimate_s']:5.1f} {r['step_s']:6.2f}  {row}",
            flush=True,
        )


if __name__ == "__main__":
    main()
