"""Runs every command of docs/latent.md with a trained model and puts the pictures they write into docs/images/latent.

    python benchmarks/latent_pictures.py runs/NAME            # of the default job: python train.py
    python benchmarks/latent_pictures.py runs/NAME --only walk

Commands run in a folder of their own, where `runs/demo` is the given run and `photos/` holds faces that it has never
seen, with masks. Nothing is copied unless all commands succeed. `explore` is served and photographed (needs playwright
and a Chromium).
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from stylegan_lightning.data.faces import draw, sample_factors

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "latent.md"
PICTURES = ROOT / "docs" / "images" / "latent"
COMMAND = "stylegan-lightning"
FRESH_SEED = 1
"""Training faces are drawn with seed 0."""
NOISY = 32
"""Pixels of the noisy photos: those of the default job, since reducing a picture removes noise."""
PAGE_WIDTH, PAGE_HEIGHT = 1180, 1000


def commands(page: str) -> list[list[str]]:
    """Arguments of every command of the page's bash blocks that names runs/demo, in order."""
    blocks = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith(COMMAND) and "runs/demo" in line]


def pictures(page: str) -> list[str]:
    """Names of the page's pictures that its commands write."""
    return re.findall(r"!\[[^]]*\]\(images/latent/([^)]+)\)", page)


def make_photos(folder: Path, resolution: int = 128) -> None:
    """Fresh faces, with noise in `noisy/`, and masks: `eyes.png` is white over the eyes, `top.png` above them."""
    folder.mkdir(parents=True)
    (folder / "noisy").mkdir()
    random = np.random.default_rng(0)
    for name, index in (("anna", 2), ("bert", 3), ("cleo", 5), ("dora", 8)):
        image = draw(sample_factors(index, FRESH_SEED), resolution).transpose(1, 2, 0)
        Image.fromarray(image).save(folder / f"{name}.png")
        small = np.asarray(Image.fromarray(image).resize((NOISY, NOISY), Image.Resampling.BOX)).astype(float)
        noisy = (small + random.normal(0, 25, small.shape)).round().clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / "noisy" / f"{name}.png")
    y, x = (np.mgrid[:resolution, :resolution] + 0.5) / resolution
    masks = {
        "eyes": (abs(y - 0.46) < 0.09) & (abs(x - 0.5) < 0.27),
        "top": y < 0.36,
    }
    for name, inside in masks.items():
        Image.fromarray((inside * 255).astype(np.uint8)).save(folder / f"{name}.png")


def run(arguments: list[str], work: Path) -> None:
    program = [sys.executable, "-m", "stylegan_lightning.cli.main", *arguments[1:]]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    if arguments[1] != "explore":
        subprocess.run(program, cwd=work, check=True, env=environment)
        return
    program += ["--no-open", "--port", "0", "--store", "kept"]
    with subprocess.Popen(program, cwd=work, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        photograph(server.stdout.readline().strip(), work)
        server.terminate()


def photograph(address: str, work: Path) -> None:
    """explore.png: two pictures mixed, a direction moved, a photo found."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": PAGE_WIDTH, "height": PAGE_HEIGHT})
        page.goto(f"{address}#a=1&b=6&mix=0.4&psi=0.8")
        page.wait_for_selector("#picture[data-state]")
        page.set_input_files("#file", work / "photos" / "anna.png")
        page.wait_for_selector("#jobs li[data-state=done]", timeout=300_000)
        page.click("#undo")
        page.get_by_role("button", name="Use as B").click()
        page.locator("#move-0").fill("1")
        page.locator("#move-0").dispatch_event("change")
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_timeout(2000)
        page.screenshot(path=work / "explore.png")
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run of the default job")
    parser.add_argument("--only", help="the commands of this verb alone (those that need others' files will fail)")
    parser.add_argument("--work", type=Path, help="a new folder to work in, which is kept")
    options = parser.parse_args()
    page = PAGE.read_text()
    work = options.work or Path(tempfile.mkdtemp())
    (work / "runs").mkdir(parents=True)
    (work / "runs" / "demo").symlink_to(options.run.resolve())
    make_photos(work / "photos")
    for arguments in commands(page):
        if options.only in (None, arguments[1]):
            start = time.perf_counter()
            run(arguments, work)
            print(f"{time.perf_counter() - start:6.1f} s  {shlex.join(arguments)}", flush=True)
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name in pictures(page):
        if (work / name).exists():
            (PICTURES / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(work / name, PICTURES / name)
        elif not options.only:
            raise SystemExit(f"no command wrote {name}")
    if options.work is None:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
