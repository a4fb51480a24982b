"""float16 and bfloat16 in the highest resolutions: what runs in which type, and how far it is from float32."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from stylegan_lightning.losses import R1
from stylegan_lightning.losses.penalties import path_lengths
from stylegan_lightning.networks import (
    Generator,
    MappingNetwork,
    StyleGAN2Discriminator,
    StyleGAN2Synthesis,
    StyleGAN3Synthesis,
)
from stylegan_lightning.networks.stylegan2 import SynthesisLayer, prenormalize

SYNTHESES = {
    "stylegan2": lambda: StyleGAN2Synthesis(32, w_dim=16, channel_base=512, channel_max=32, conv_clamp=256.0),
    "stylegan3": lambda: StyleGAN3Synthesis(32, w_dim=16, channel_base=512, channel_max=16, num_layers=5),
}
TOLERANCE = {torch.bfloat16: 0.08, torch.float16: 0.02}  # of 8 and 11 bits over a dozen layers


def networks(kind):
    torch.manual_seed(0)
    G = Generator(SYNTHESES[kind](), partial(MappingNetwork, z_dim=16, num_layers=2))
    return G, StyleGAN2Discriminator(32, channel_base=512, channel_max=32, conv_clamp=256.0)


def quantities(G, D):
    """Images, logits, R1, path lengths and the gradients of both penalties."""
    torch.manual_seed(1)
    z, reals = torch.randn(4, 16), torch.randn(4, 3, 32, 32)
    imgs = G(z, noise_mode="const")
    r1, lengths = R1(1.0)(D, reals), path_lengths(G.synthesis, G.mapping(z).detach(), noise_mode="const")
    of_d = torch.autograd.grad(r1, D.epilogue.fc.weight)[0]
    of_g = torch.autograd.grad(lengths.mean(), next(p for n, p in G.named_parameters() if n.endswith("affine.weight")))[
        0
    ]
    return {"imgs": imgs, "logits": D(reals), "r1": r1, "lengths": lengths, "R1 gradient": of_d, "PL gradient": of_g}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("kind", list(SYNTHESES))
def test_low_precision_is_close_to_float32(kind, dtype):
    G, D = networks(kind)
    exact = quantities(G, D)
    for net in (G.synthesis, D):
        net.set_low_precision(dtype, 2)
    close = quantities(G, D)
    for name, value in close.items():
        assert value.dtype == torch.float32
        error = float((value - exact[name]).detach().norm() / exact[name].detach().norm())
        assert 0 < error < TOLERANCE[dtype], (name, error)
    for net in (G.synthesis, D):
        net.set_low_precision(None)
    again = quantities(G, D)
    assert all(torch.equal(again[name], exact[name]) for name in exact)


def test_only_the_highest_resolutions_run_in_low_precision():
    G, D = networks("stylegan2")
    seen = {}
    for prefix, net in (("G", G.synthesis), ("D", D)):
        net.set_low_precision(torch.bfloat16, 2)
        for resolution, block in net.blocks.items():
            block.conv1.register_forward_hook(lambda m, i, o, key=prefix + resolution: seen.update({key: o.dtype}))
    D.epilogue.conv.register_forward_hook(lambda m, i, o: seen.update({"D4": o.dtype}))
    D(G(torch.randn(2, 16)))
    low = {key for key, dtype in seen.items() if dtype == torch.bfloat16}
    assert low == {"G16", "G32", "D32", "D16"} and set(seen.values()) == {torch.bfloat16, torch.float32}
    D.set_low_precision(torch.bfloat16, 9)
    D(torch.zeros(2, 3, 32, 32))
    assert seen["D8"] == torch.bfloat16 and seen["D4"] == torch.float32
    assert all(p.dtype == torch.float32 for p in D.parameters())


def test_demodulation_undoes_the_normalisation_of_weights_and_styles():
    layer = SynthesisLayer(6, 8, 4, 8, use_noise=False)
    x, w = torch.randn(3, 6, 8, 8), torch.randn(3, 4)
    expected = layer(x, w, "none")
    weight, _ = prenormalize(layer.weight, torch.ones(1, 6))
    with torch.no_grad():
        layer.weight.copy_(weight)
    torch.testing.assert_close(layer(x, w, "none"), expected, rtol=1e-4, atol=1e-5)


def test_large_weights_and_styles_do_not_overflow_float16():
    layer = SynthesisLayer(32, 8, 4, 8, use_noise=False)
    x, w = torch.randn(3, 32, 8, 8), torch.randn(3, 4)
    with torch.no_grad():
        layer.weight.mul_(3e3)
        layer.affine.weight.mul_(3e3)
    exact = layer(x, w, "none")
    close = layer(x.half(), w, "none")
    assert close.dtype == torch.float16
    torch.testing.assert_close(close.float(), exact, rtol=0.02, atol=0.02)
    plain = (x.half() * layer.affine(w).half()[:, :, None, None]).float()
    assert not nn.functional.conv2d(plain, layer.weight, padding=1).half().isfinite().all()


@pytest.mark.parametrize("model", ["mlp", "wgan_gp", "progan", "stylegan2"])
def test_whole_networks_train_under_autocast(run, tmp_path, model):
    options = (
        f"model={model}", "precision=bf16_mixed", "experiment=none", "data.resolution=8", "data.size=64",
        "metrics=none", "schedule.batch_size=4", "schedule.total_kimg=0.064", "schedule.tick_kimg=0.064", "logger=csv",
        f"run_dir={tmp_path}/r", *(["model.g_hidden=16"] if model == "mlp" else
        ["model.channel_base=64", "model.channel_max=8"]),
    )  # fmt: skip
    outcome = run("train.py", *options)
    assert outcome.code == 0, outcome.err
    assert "nan" not in (tmp_path / "r/metrics.csv").read_text()


def test_models_without_low_precision_say_so(tiny, run, tmp_path):
    outcome = run("train.py", "model=dcgan", "precision=fp16", f"run_dir={tmp_path}/r")
    assert outcome.code == 2 and "precision.low_dtype=float16 is for StyleGAN 2 and 3" in outcome.err
    outcome = run("train.py", "precision.lightning=16-mixed", f"run_dir={tmp_path}/r")
    assert outcome.code == 2 and "loss scaling" in outcome.err
