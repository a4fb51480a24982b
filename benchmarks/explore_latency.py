"""How long the page of `explore` waits for a picture, warm, at 64 and 256 pixels, alone and beside a projection.

    python benchmarks/explore_latency.py
    python benchmarks/explore_latency.py --resolutions 64 --count 50

StyleGAN2 of the size that `experiment=auto` chooses, with weights at random, which do not matter here. Each picture is
new: a seed and a direction nobody has asked for. The requests go through HTTP to a server in a process of its own, one
after another, as the page sends them. The last column is the ratio to the alternative, drawing and encoding pictures
in a loop without a server.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import safetensors.torch
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

import stylegan_lightning
from stylegan_lightning import builders
from stylegan_lightning.explore.drawing import encode
from stylegan_lightning.latent.codes import render, styles_of
from stylegan_lightning.latent.directions import Direction, sefa
from stylegan_lightning.networks import Generator
from stylegan_lightning.training.checkpoint import EXPORT_FORMAT

ROOT = Path(__file__).resolve().parent.parent
WARM_UP = 5


def make_model(path: Path, resolution: int) -> None:
    overrides = [
        "experiment=auto",
        "model=stylegan2",
        f"data.resolution={resolution}",
        "model.c_dim=0",
        "run_dir=x",
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", overrides)
    torch.manual_seed(0)
    G = builders.build_generator(cfg)
    weights = {name: t.contiguous() for name, t in G.state_dict().items()}
    config = json.dumps(OmegaConf.to_container(cfg, resolve=True))
    safetensors.torch.save_file(weights, path, {"format": EXPORT_FORMAT, "config": config, "nimg": "0"})


def timed(draw: Callable[[int], object], count: int, first: int) -> np.ndarray:
    """Milliseconds of `count` pictures."""
    times = []
    for seed in range(first, first + WARM_UP + count):
        start = time.perf_counter()
        draw(seed)
        times.append(1000 * (time.perf_counter() - start))
    return np.array(times[WARM_UP:])


class Page:
    def __init__(self, model: Path, folder: Path) -> None:
        program = [sys.executable, "-m", "stylegan_lightning.cli.main", "explore", str(model), "--no-open"]
        self.server = subprocess.Popen(
            [*program, "--port", "0", "--store", str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert self.server.stdout is not None
        parts = urlsplit(self.server.stdout.readline().strip())
        self.headers = {"Authorization": f"Bearer {parse_qs(parts.query)['token'][0]}"}
        self.connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 0, timeout=120)

    def ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        self.connection.request(method, path, body, self.headers)
        response = self.connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise RuntimeError(content.decode(errors="replace"))
        return content

    def draw(self, seed: int) -> bytes:
        return self.ask("GET", f"/api/image?a={seed}&d=sefa0:0.5")

    def start_projection(self, resolution: int) -> str:
        """Its id, once it runs."""
        image = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (resolution, resolution, 3), np.uint8)).save(
            image, "PNG"
        )
        job = json.loads(self.ask("POST", "/api/projections?steps=2000", image.getvalue()))
        while (job := json.loads(self.ask("GET", f"/api/projections/{job['id']}")))["step"] == 0:
            if job["state"] not in ("waiting", "running"):
                raise RuntimeError(job["error"])
            time.sleep(0.2)
        return str(job["id"])

    def close(self) -> None:
        self.server.terminate()
        self.server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resolutions", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--count", type=int, default=100)
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {options.count} pictures\n")
    print("| pixels | what | median ms | 95 of 100 within ms | ratio to no server |\n|---|---|---|---|---|")
    for resolution in options.resolutions:
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / "G.safetensors"
            make_model(model, resolution)
            G = stylegan_lightning.load(model)
            direction = next(iter(sefa(G, range(G.num_ws), 1)))

            def draw(seed: int, G: Generator = G, direction: Direction = direction) -> bytes:
                return encode(render(G, direction.apply(styles_of(G, [seed]), 0.5))[0])

            plain = timed(draw, options.count // 2, 0)
            page = Page(model, Path(folder) / "codes")
            try:
                alone = timed(page.draw, options.count, 10_000)
                job = page.start_projection(resolution)
                beside = timed(page.draw, options.count, 20_000)
                page.ask("DELETE", f"/api/projections/{job}")
            finally:
                page.close()
            plain = np.concatenate([plain, timed(draw, options.count // 2, 1000)])  # machines change their pace
        for what, times in (("no server", plain), ("explore", alone), ("explore, while a photo is projected", beside)):
            ratio = np.median(times) / np.median(plain)
            print(
                f"| {resolution} | {what} | {np.median(times):.1f} | {np.percentile(times, 95):.1f} | {ratio:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
