"""ProGAN and StyleGAN1: parity with the originals at every level of detail, and the laws of growth."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from stylegan_lightning.interop import from_reference
from stylegan_lightning.interop.progressive import growth_of
from stylegan_lightning.losses import squared_gradient_norm
from stylegan_lightning.networks import (
    Generator,
    MappingNetwork,
    ProGANSynthesis,
    ProgressiveDiscriminator,
    StyleGAN1Synthesis,
)
from stylegan_lightning.networks.growing import nearest_up
from stylegan_lightning.networks.progressive import adain
from stylegan_lightning.ops import conv2d_downscale, upscale_conv2d
from tests.conftest import Reference

FILES = ("progan_res16", "stylegan1_res16", "stylegan1_res16_fused")


@pytest.fixture(scope="module", params=FILES)
def ref(request):
    reference = Reference(request.param)
    reference.G = from_reference(reference.under("G/"), reference.meta, "G")
    reference.D = from_reference(reference.under("D/"), reference.meta, "D")
    reference.name = request.param
    return reference


def enlarged(img, resolution):
    while img.shape[-1] < resolution:
        img = nearest_up(img)
    return img


def test_generator_parity(ref, parity):
    ws = ref.G.mapping(ref["z"])
    if "w" in ref:
        parity(f"{ref.name} w", ws[:, 0], ref["w"])
    for lod in ref.meta["lods"]:
        ref.G.synthesis.grow_to(*growth_of(16, lod))
        img = ref.G.synthesis(ws, noise_mode="const")
        assert img.shape[-1] == 16 >> int(lod)
        parity(f"{ref.name} image at lod {lod}", enlarged(img, 16), ref[f"img/lod{lod}"])


@pytest.mark.parametrize("ref", FILES[1:], indirect=True)
def test_truncation_parity(ref, parity):
    ref.G.synthesis.grow_to(16, 1.0)
    img = ref.G(ref["z"], truncation_psi=0.7, truncation_cutoff=4, noise_mode="const")
    parity(f"{ref.name} image, truncated", img, ref["img_trunc"])


def test_discriminator_parity(ref, parity):
    """The ProGAN file holds the full-resolution logits under every level: its D kept the stored level 0."""
    for lod in ref.meta["lods"]:
        resolution, alpha = growth_of(16, 0.0 if ref.meta["kind"] == "progan" else lod)
        ref.D.grow_to(resolution, alpha)
        img = F.avg_pool2d(ref["real"], 16 // resolution)
        parity(f"{ref.name} logits at lod {lod}", ref.D(img), ref[f"logits/lod{lod}"])


def generator(kind, resolution=16, channels=3):
    if kind == "progan":
        synthesis = ProGANSynthesis(resolution, channels, w_dim=8, channel_base=128, channel_max=16)
        return Generator(synthesis, partial(MappingNetwork, z_dim=8, num_layers=0))
    synthesis = StyleGAN1Synthesis(resolution, channels, w_dim=8, channel_base=128, channel_max=16)
    return Generator(synthesis, partial(MappingNetwork, z_dim=8, num_layers=2))


def discriminator(blur, resolution=16, c_dim=0, fused_scale=True):
    return ProgressiveDiscriminator(
        resolution, 3, c_dim, channel_base=128, channel_max=16, blur=blur, fused_scale=fused_scale
    )


@pytest.mark.parametrize("flip", [True, False])
def test_enlarging_and_pooling_convolutions_equal_two_steps(flip):
    x, w = torch.randn(2, 3, 6, 4), torch.randn(5, 3, 3, 3)
    slow = F.conv2d(nearest_up(x), w if flip else w.flip((2, 3)), padding=1)
    torch.testing.assert_close(upscale_conv2d(x, w, flip=flip), slow, rtol=1e-4, atol=1e-5)
    slow = F.avg_pool2d(F.conv2d(x, w, padding=1), 2)
    torch.testing.assert_close(conv2d_downscale(x, w), slow, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["progan", "stylegan1"])
def test_a_fade_runs_from_the_smaller_image_to_the_larger(kind):
    torch.manual_seed(0)
    G = generator(kind)
    z = torch.randn(2, 8)
    S, ws = G.synthesis, G.mapping(z)
    S.grow_to(8, 1.0)
    small = S(ws, noise_mode="const")
    S.grow_to(16, 1.0)
    full = S(ws, noise_mode="const")
    S.grow_to(16, 0.25)
    torch.testing.assert_close(S(ws, noise_mode="const"), nearest_up(small) * 0.75 + full * 0.25)


@pytest.mark.parametrize("blur", [True, False])
@pytest.mark.parametrize("fused_scale", [True, False])
def test_a_discriminator_fade_runs_from_the_smaller_network_to_the_larger(blur, fused_scale):
    torch.manual_seed(0)
    D = discriminator(blur, fused_scale=fused_scale)
    img = torch.randn(4, 3, 16, 16)
    full = D(img)
    D.grow_to(16, 1e-6)
    started = D(img)
    D.grow_to(8, 1.0)
    torch.testing.assert_close(started, D(F.avg_pool2d(img, 2)), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(started, full, atol=1e-3)


def test_grow_to_reports_new_blocks_and_the_end_of_fades():
    D = discriminator(True)
    steps = [(4, 1.0), (4, 1.0), (8, 0.1), (8, 0.9), (8, 1.0), (16, 0.5), (16, 1.0), (16, 1.0)]
    assert [D.grow_to(*step) for step in steps] == [True, False, True, False, True, True, True, False]


@pytest.mark.parametrize("state", [(32, 1.0), (12, 1.0), (8, 0.0), (8, 1.5), (4, 0.5)])
def test_impossible_growth_is_refused(state):
    with pytest.raises(ValueError, match="resolution must be one of"):
        discriminator(True).grow_to(*state)


@pytest.mark.parametrize("kind", ["progan", "stylegan1"])
def test_growth_is_saved_with_the_weights(kind):
    G, other = generator(kind), generator(kind)
    G.synthesis.grow_to(8, 0.375)
    other.load_state_dict(G.state_dict())
    assert (other.synthesis.resolution, float(other.synthesis.alpha)) == (8, 0.375)
    z = torch.randn(2, 8)
    torch.testing.assert_close(other(z, noise_mode="none"), G(z, noise_mode="none"))


@pytest.mark.parametrize("kind", ["progan", "stylegan1"])
def test_only_live_parts_learn(kind):
    torch.manual_seed(0)
    G, D = generator(kind), discriminator(kind == "stylegan1")
    for part in (G.synthesis, D):
        part.grow_to(8, 0.5)
    D(G(torch.randn(4, 8))).sum().backward()
    learn = {n for net in (G, D) for n, p in net.named_parameters() if p.grad is not None}
    idle = {n for net in (G, D) for n, p in net.named_parameters() if p.grad is None}
    assert idle and all("16" in n for n in idle) and not any(".16." in n for n in learn)


def test_styles_in_use_follow_the_growth():
    S = generator("stylegan1").synthesis
    assert (S.num_ws, S.active_ws) == (6, 6)
    S.grow_to(8, 0.5)
    assert (S.num_ws, S.active_ws) == (6, 4)
    assert generator("progan").synthesis.active_ws == 1


def test_adain_sets_mean_and_deviation():
    style = torch.randn(3, 10)
    y = adain(torch.randn(3, 5, 16, 16) * 7 + 2, style)
    torch.testing.assert_close(y.mean((2, 3)), style[:, 5:], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(y.std((2, 3), unbiased=False), (style[:, :5] + 1).abs(), atol=1e-4, rtol=1e-3)


def test_labels_select_a_logit():
    D = discriminator(True, c_dim=3)
    img, c = torch.randn(3, 3, 16, 16), torch.eye(3)
    assert D(img, c).shape == (3, 1) and not torch.allclose(D(img, c), D(img, c.roll(1, 0)))
    with pytest.raises(ValueError, match="conditional"):
        D(img)


def test_a_shared_logit_judges_images_without_any_label():
    torch.manual_seed(0)
    plain = ProgressiveDiscriminator(16, 3, 3, channel_base=128, channel_max=16)
    D = ProgressiveDiscriminator(16, 3, 3, channel_base=128, channel_max=16, shared_logit=True)
    img, none, c = torch.randn(3, 3, 16, 16), torch.zeros(3, 3), torch.tensor([[1.0, 1, 0], [0, 0.5, 0], [0, 0, 2]])
    assert plain(img, none).abs().max() == 0 < D(img, none).std()
    selected = D(img, c) - D(img, none)  # linear in the label
    torch.testing.assert_close(D(img, 2 * c) - D(img, none), 2 * selected, atol=1e-6, rtol=1e-4)
    assert ProgressiveDiscriminator(16, 3, 0, channel_base=128, channel_max=16, shared_logit=True)(img).shape == (3, 1)


@pytest.mark.parametrize("kind", ["progan", "stylegan1"])
def test_gradients_of_gradients(kind):
    D = discriminator(kind == "stylegan1")
    D.grow_to(8, 0.5)
    squared_gradient_norm(D, torch.randn(2, 3, 8, 8)).sum().backward()
    assert all(p.grad is not None for n, p in D.blocks.named_parameters() if "weight" in n and n.startswith("8"))


def test_too_few_channels_are_refused():
    with pytest.raises(ValueError, match="channel_base=8 leaves no channels at 16 pixels"):
        ProGANSynthesis(16, channel_base=8)
