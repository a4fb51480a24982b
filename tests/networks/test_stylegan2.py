"""StyleGAN2: parity with the reference networks, and the laws of mapping and synthesis."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from stylegan_lightning.interop import from_reference, translate_name
from stylegan_lightning.losses import path_lengths, squared_gradient_norm
from stylegan_lightning.networks import (
    Generator,
    MappingNetwork,
    StyleGAN2Discriminator,
    StyleGAN2Synthesis,
    track_running_stats,
)
from tests.conftest import Reference

FILES = ("stylegan2_res32", "stylegan2_res16_cond")


def small(architecture="skip", resolution=16, c_dim=0, channels=3, **mapping):
    synthesis = StyleGAN2Synthesis(
        resolution, channels, w_dim=16, channel_base=256, channel_max=16, architecture=architecture
    )
    return Generator(synthesis, partial(MappingNetwork, z_dim=16, c_dim=c_dim, num_layers=2, **mapping))


@pytest.fixture(scope="module", params=FILES)
def ref(request):
    reference = Reference(request.param)
    reference.G = from_reference(reference.under("G/"), reference.meta, "G")
    reference.D = from_reference(reference.under("D/"), reference.meta, "D")
    reference.name = request.param
    reference.c = reference["c"] if "c" in reference else None  # noqa: SIM401
    return reference


def test_generator_parity(ref, parity):
    z, c = ref["z"], ref.c
    ws = ref.G.mapping(z, c)
    parity(f"{ref.name} ws", ws, ref["ws"])
    truncation = {"truncation_psi": 0.5, "truncation_cutoff": 4}
    parity(f"{ref.name} ws truncated", ref.G.mapping(z, c, **truncation), ref["ws_t"])
    parity(f"{ref.name} image, stored noise", ref.G.synthesis(ws, noise_mode="const"), ref["img_const"])
    parity(f"{ref.name} image, no noise", ref.G.synthesis(ws, noise_mode="none"), ref["img_none"])
    parity(f"{ref.name} image, truncated", ref.G(z, c, noise_mode="const", **truncation), ref["img_t"])


def test_discriminator_parity(ref, parity):
    parity(f"{ref.name} logits of fakes", ref.D(ref["img_const"], ref.c), ref["logits"])
    parity(f"{ref.name} logits of reals", ref.D(ref["real"], ref.c), ref["real_logits"])


def _check_gradients(ref, network, kind, prefix, parity):
    expected = ref.under(prefix)
    assert expected
    for name in expected:
        parameter = network.get_parameter(translate_name(name, "stylegan2", kind))
        ours = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        parity(f"{ref.name} {prefix}{name}", ours, ref[prefix + name], 1e-3)


def test_r1_and_its_gradients_parity(ref, parity):
    ref.D.requires_grad_(True).zero_grad()
    r1 = squared_gradient_norm(lambda x: ref.D(x, ref.c), ref["real"])
    parity(f"{ref.name} R1", r1, ref["r1"])
    (0.5 * r1).mean().backward()
    _check_gradients(ref, ref.D, "D", "grad_r1_D/", parity)


def test_path_length_and_its_gradients_parity(ref, parity):
    ref.G.requires_grad_(True).zero_grad()
    y = ref["pl_noise"] * ref.meta["img_resolution"]  # stored with its factor 1 / sqrt(H W)
    lengths = path_lengths(ref.G.synthesis, ref.G.mapping(ref["z"], ref.c), lambda imgs: y, noise_mode="const")
    parity(f"{ref.name} path lengths", lengths, ref["pl_lengths"])
    (lengths - 0.7).square().mean().backward()
    _check_gradients(ref, ref.G, "G", "grad_pl_G/", parity)


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_architecture_renders_and_judges(architecture, channels):
    torch.manual_seed(0)
    G = small(architecture, channels=channels)
    D = StyleGAN2Discriminator(16, channels, channel_base=256, channel_max=16, architecture=architecture)
    assert G.num_ws == 6
    img = G(torch.randn(4, 16))
    assert img.shape == (4, channels, 16, 16) and D(img).shape == (4, 1)
    D(img).sum().backward()
    unused = [n for n, p in [*G.named_parameters(), *D.named_parameters()] if p.grad is None]
    assert not unused


def test_each_style_reaches_the_image():
    torch.manual_seed(0)
    G = small("resnet")
    ws = torch.randn(1, G.num_ws, 16, requires_grad=True)
    G.synthesis(ws, noise_mode="none").square().sum().backward()
    assert (ws.grad.abs().sum(2) > 0).all()


def test_truncation_laws():
    torch.manual_seed(0)
    G = small()
    G.mapping.w_avg.normal_()
    z = torch.randn(3, 16)
    ws = G.mapping(z)
    torch.testing.assert_close(G.mapping(z, truncation_psi=1.0), ws)
    torch.testing.assert_close(G.mapping(z, truncation_psi=0.0), G.mapping.w_avg.expand_as(ws))
    cut = G.mapping(z, truncation_psi=0.0, truncation_cutoff=2)
    torch.testing.assert_close(cut[:, 2:], ws[:, 2:])
    assert not torch.allclose(cut[:, :2], ws[:, :2])


def test_w_avg_moves_only_while_tracked():
    G = small(w_avg_beta=0.5)
    z = torch.randn(64, 16)
    ws = G.mapping(z)
    assert G.mapping.w_avg.abs().max() == 0
    with track_running_stats(G):
        G.mapping(z)
    torch.testing.assert_close(G.mapping.w_avg, ws[:, 0].mean(0) * 0.5)
    G.mapping(z)
    torch.testing.assert_close(G.mapping.w_avg, ws[:, 0].mean(0) * 0.5)


def test_noise_modes():
    G = small()
    for name, p in G.named_parameters():
        if name.endswith("noise_strength"):
            torch.nn.init.constant_(p, 0.5)
    ws = G.mapping(torch.randn(2, 16))
    const, none = G.synthesis(ws, noise_mode="const"), G.synthesis(ws, noise_mode="none")
    torch.testing.assert_close(G.synthesis(ws, noise_mode="const"), const)
    assert not torch.allclose(const, none)
    assert not torch.allclose(G.synthesis(ws), G.synthesis(ws))


def test_scale_of_z_does_not_matter():
    G = small()
    z = torch.randn(2, 16)
    torch.testing.assert_close(G(z, noise_mode="none"), G(z * 5, noise_mode="none"))


def test_labels_matter_and_are_required():
    G = small(c_dim=3)
    D = StyleGAN2Discriminator(16, 3, 3, channel_base=256, channel_max=16)
    z, a, b = torch.randn(2, 16), torch.eye(3)[:2], torch.eye(3)[1:]
    img = G(z, a, noise_mode="none")
    assert not torch.allclose(img, G(z, b, noise_mode="none"))
    assert not torch.allclose(D(img, a), D(img, b))
    with pytest.raises(ValueError, match="conditional"):
        G(z)
    with pytest.raises(ValueError, match="conditional"):
        D(img)


def test_conv_clamp_bounds_the_activations():
    G = StyleGAN2Synthesis(16, 3, w_dim=8, channel_base=128, channel_max=8, conv_clamp=0.01)
    img = G(torch.randn(2, 6, 8) * 100)
    assert img.abs().max() <= 3 * 0.01 * 4  # sums of at most three clamped RGB outputs, enlarged


@pytest.mark.parametrize("resolution", [4, 24, 0])
def test_impossible_resolutions_are_refused(resolution):
    with pytest.raises(ValueError, match="power of two"):
        StyleGAN2Synthesis(resolution)


def test_default_networks_have_the_published_size():
    """30.37 M parameters of G, mapping included, and 29.01 M of D at 1024x1024 (configuration F)."""
    G = Generator(StyleGAN2Synthesis(1024), partial(MappingNetwork))
    D = StyleGAN2Discriminator(1024)
    assert sum(p.numel() for p in G.parameters()) / 1e6 == pytest.approx(30.37, abs=0.01)
    assert sum(p.numel() for p in D.parameters()) / 1e6 == pytest.approx(29.01, abs=0.01)
