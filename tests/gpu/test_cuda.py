"""What only a GPU shows: the same numbers as on the CPU, and a whole run. `pytest -m gpu` on a machine with one."""

from __future__ import annotations

import pytest
import torch

from stylegan_lightning import ops
from stylegan_lightning.interop import from_reference
from stylegan_lightning.losses import path_lengths, squared_gradient_norm
from tests.conftest import Reference, read_rows
from tests.test_growth import GROW, MODELS

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _full_precision():
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def test_stylegan2_on_cuda_equals_the_reference(parity):
    ref = Reference("stylegan2_res32")
    G = from_reference(ref.under("G/"), ref.meta, "G").cuda()
    D = from_reference(ref.under("D/"), ref.meta, "D").cuda()
    img = G(ref["z"].cuda(), noise_mode="const")
    parity("cuda image", img.cpu(), ref["img_const"])
    parity("cuda logits", D(img).cpu(), ref["logits"], 1e-3)
    parity("cuda R1", squared_gradient_norm(D, ref["real"].cuda()).cpu(), ref["r1"], 1e-3)
    ws = G.mapping(ref["z"].cuda())
    y = ref["pl_noise"].cuda() * 32
    lengths = path_lengths(G.synthesis, ws, lambda imgs: y, noise_mode="const")
    parity("cuda path lengths", lengths.cpu(), ref["pl_lengths"], 1e-3)


@pytest.mark.parametrize("name", ["stylegan3_t_res32", "stylegan3_r_res32"])
def test_stylegan3_on_cuda_equals_the_reference(name, parity):
    ref = Reference(name)
    G = from_reference(ref.under("G/"), ref.meta, "G").cuda()
    parity(f"cuda {name} image", G.synthesis(ref["ws"].cuda()).cpu(), ref["img"])


@pytest.mark.parametrize("name", ["progan_res16", "stylegan1_res16", "stylegan1_res16_fused"])
def test_growing_networks_on_cuda_equal_the_reference(name, parity):
    ref = Reference(name)
    G = from_reference(ref.under("G/"), ref.meta, "G").cuda()
    D = from_reference(ref.under("D/"), ref.meta, "D").cuda()
    parity(f"cuda {name} image", G(ref["z"].cuda(), noise_mode="const").cpu(), ref["img/lod0.0"])
    parity(f"cuda {name} logits", D(ref["real"].cuda()).cpu(), ref["logits/lod0.0"], 1e-3)


@pytest.mark.parametrize("up", [1, 2])
def test_second_derivatives_on_cuda_equal_the_cpu(up):
    torch.manual_seed(0)
    x, w, s = torch.randn(2, 8, 8, 8), torch.randn(4, 8, 3, 3), torch.rand(2, 8)
    f = ops.setup_filter([1, 3, 3, 1])
    results = []
    for device in ("cpu", "cuda"):
        xd, wd, sd = (t.to(device).requires_grad_() for t in (x, w, s))
        y = ops.modulated_conv2d(xd, wd, sd, up=up, resample_filter=f.to(device))
        (g,) = torch.autograd.grad(y.pow(3).sum(), xd, create_graph=True)
        results.append([t.cpu() for t in torch.autograd.grad(g.square().sum(), (xd, wd, sd))])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(a.abs().max()))


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16", "bf16_mixed"])
def test_a_run_on_cuda(run, tiny, tmp_path, precision):
    done = run(
        "train.py", *tiny, "trainer=gpu", f"precision={precision}", "augment=ada", f"run_dir={tmp_path}/r", "logger=csv"
    )
    assert done.code == 0, done.err
    assert float(read_rows(tmp_path / "r/metrics.csv")[-1]["memory/gpu_gib"]) > 0
    assert run("train.py", f"resume={tmp_path}/r", "schedule.total_kimg=0.1").code == 0


@pytest.mark.parametrize("model", MODELS)
def test_a_growing_run_on_cuda(run, tmp_path, model):
    done = run("train.py", *GROW, *MODELS[model], "metrics=none", "trainer=gpu", f"run_dir={tmp_path}/r")
    assert done.code == 0, done.err
