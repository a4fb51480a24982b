"""StyleGAN3: parity with the reference networks, and the laws of its input, layers and statistics."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from stylegan_lightning.errors import UserError
from stylegan_lightning.interop import from_reference
from stylegan_lightning.losses import path_lengths
from stylegan_lightning.networks import (
    Generator,
    MappingNetwork,
    StyleGAN2Discriminator,
    StyleGAN3Synthesis,
    track_running_stats,
)
from stylegan_lightning.networks.stylegan3 import FourierInput, rigid_transform
from tests.conftest import Reference

R = {"conv_kernel": 1, "use_radial_filters": True}


def small(resolution=16, channels=3, **options):
    options = {"w_dim": 8, "channel_base": 128, "channel_max": 8, "num_layers": 4} | options
    return StyleGAN3Synthesis(resolution, channels, **options)


def styles(synthesis, n=2):
    return torch.randn(n, 1, synthesis.w_dim).expand(-1, synthesis.num_ws, -1)


@pytest.fixture(scope="module", params=["stylegan3_t_res32", "stylegan3_r_res32"])
def ref(request):
    reference = Reference(request.param)
    reference.G = from_reference(reference.under("G/"), reference.meta)
    reference.name = request.param
    return reference


def test_layer_geometry_parity(ref):
    layers = ref.G.synthesis.layers
    assert len(layers) == len(ref.meta["layers"]) and ref.G.num_ws == len(layers) + 1
    for layer, expected in zip(layers, ref.meta["layers"].values(), strict=True):
        for name, value in expected.items():
            assert getattr(layer, name) == pytest.approx(value), name


def test_filter_parity(ref, parity):
    for layer, name in zip(ref.G.synthesis.layers, ref.meta["layers"], strict=True):
        for kind in ("up_filter", "down_filter"):
            key = f"G/synthesis.{name}.{kind}"
            assert (getattr(layer, kind) is None) == (key not in ref)
            if key in ref:
                parity(f"{ref.name} {name} {kind}", getattr(layer, kind), ref[key], 1e-6)


def test_generator_parity(ref, parity):
    ws = ref.G.mapping(ref["z"])
    parity(f"{ref.name} ws", ws, ref["ws"])
    parity(f"{ref.name} image", ref.G(ref["z"]), ref["img"])
    transform = ref.G.synthesis.input.transform
    transform[:2, 2] = torch.tensor([0.11, -0.07])
    parity(f"{ref.name} image, moved", ref.G.synthesis(ws), ref["img_shift"])
    transform.copy_(torch.eye(3))


def test_stored_magnitudes_are_read(ref):
    assert all(float(layer.magnitude_ema) != 1 for layer in ref.G.synthesis.layers)


def test_only_generators_are_read():
    reference = Reference("stylegan3_t_res32")
    with pytest.raises(UserError, match="discriminator"):
        from_reference({}, reference.meta, "D")


@pytest.mark.parametrize("options", [{}, R], ids=["T", "R"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_renders_and_trains_every_parameter(channels, options):
    torch.manual_seed(0)
    G = Generator(small(8, channels, **options), partial(MappingNetwork, z_dim=8, num_layers=2))
    D = StyleGAN2Discriminator(8, channels, channel_base=64, channel_max=8)
    img = G(torch.randn(4, 8), noise_mode="none")
    assert img.shape == (4, channels, 8, 8)
    D(img).sum().backward()
    assert not [n for n, p in G.named_parameters() if p.grad is None]
    bias_only = [n for n, p in G.named_parameters() if not p.grad.any()]
    assert all(n.startswith("mapping") or n.endswith("affine.weight") for n in bias_only)


def test_each_style_reaches_the_image():
    torch.manual_seed(0)
    G = small()
    torch.nn.init.normal_(G.input.affine.weight)
    ws = torch.randn(1, G.num_ws, 8, requires_grad=True)
    G(ws).square().sum().backward()
    assert (ws.grad.abs().sum(2) > 0).all()


def test_samples_do_not_influence_each_other():
    torch.manual_seed(0)
    G = small()
    ws = styles(G, 3)
    torch.testing.assert_close(G(ws)[1:2], G(ws[1:2]))


def test_noise_mode_changes_nothing():
    G = small()
    ws = styles(G)
    torch.testing.assert_close(G(ws, noise_mode="random"), G(ws, noise_mode="none"))


def test_transform_laws():
    torch.manual_seed(0)
    G = small(32)
    ws, crop = styles(G), slice(6, -6)
    img = G(ws)
    G.input.set_transform()
    torch.testing.assert_close(G(ws), img, rtol=0, atol=0)
    G.input.set_transform(translate=(4 / 32, -2 / 32))  # four pixels to the right, two up
    moved = img.roll((-2, 4), (2, 3))
    torch.testing.assert_close(G(ws)[..., crop, crop], moved[..., crop, crop], rtol=0, atol=1e-4)
    G.input.set_transform(angle=2 * math.pi)
    torch.testing.assert_close(G(ws), img, rtol=0, atol=1e-4)


def test_rotation_turns_counter_clockwise():
    torch.manual_seed(0)
    G = small(32, **R)
    ws = styles(G)
    img = G(ws)
    G.input.set_transform(angle=math.pi / 2)
    torch.testing.assert_close(G(ws), img.rot90(1, (2, 3)), rtol=0, atol=1e-4)  # rot90 from rows to columns
    point = rigid_transform(math.pi / 2) @ torch.tensor([0.5, 0.0, 1.0])
    torch.testing.assert_close(point, torch.tensor([0.0, -0.5, 1.0]))  # right becomes up


def test_learned_transform_is_normalised():
    """Only the direction of (cos, sin) counts, and its length scales the shift: t / |(t0, t1)|."""
    torch.manual_seed(0)
    G = small()
    ws = styles(G)
    bias = G.input.affine.bias.data
    bias.copy_(torch.tensor([3.0, 0.0, 0.0, 0.0]))
    img = G(ws)
    bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    torch.testing.assert_close(G(ws), img)
    bias.copy_(torch.tensor([2.0, 0.0, 0.2, 0.0]))
    learned = G(ws)
    bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    G.input.set_transform(translate=(0.1, 0.0))
    torch.testing.assert_close(G(ws), learned, rtol=1e-4, atol=1e-5)


def test_frequencies_fill_the_disc_evenly():
    torch.manual_seed(0)
    squared = FourierInput(8, 2048, 4, sampling_rate=8, cutoff=2).freqs.square().sum(1) / 4
    assert squared.max() <= 1
    assert squared.mean() == pytest.approx(0.5, abs=0.03) and squared.var() == pytest.approx(1 / 12, abs=0.01)


def test_frequencies_beyond_the_band_are_faded_out():
    """A magnifying transform raises all frequencies beyond half the sampling rate: nothing must alias back."""
    G = small(32)
    with torch.no_grad():
        G.input.transform.mul_(1000)
        assert G.input(torch.randn(1, 8)).abs().max() < 1e-2


def test_second_order_gradients():
    torch.manual_seed(0)
    for options in ({}, R):
        G = small(8, **options)
        ws = styles(G).clone().requires_grad_()
        lengths = path_lengths(G, ws, torch.randn_like)
        lengths.square().mean().backward()
        layer = G.layers[1]
        assert lengths.shape == (2,) and (lengths > 0).all()
        assert layer.weight.grad.abs().max() > 0 and layer.affine.weight.grad.abs().max() > 0


def test_second_order_gradients_equal_finite_differences():
    torch.manual_seed(0)
    G = small(8, w_dim=2, channel_base=16, channel_max=2, num_layers=3, margin_size=2).double()
    G.layers[0].weight.data.mul_(3)
    x = torch.randn(1, 2, G.layers[0].in_size[0], G.layers[0].in_size[0]).double().requires_grad_()
    w = torch.randn(1, 2).double().requires_grad_()
    layer = G.layers[1]
    direction = torch.randn_like(x)

    def slope(w):  # of the layer along `direction`
        (g,) = torch.autograd.grad(layer(x, w).pow(3).sum(), x, create_graph=True)
        return (g * direction).sum()

    assert torch.autograd.gradcheck(slope, w)


def test_magnitudes_move_only_while_tracked():
    torch.manual_seed(0)
    G = Generator(small(magnitude_ema_kimg=0.004), partial(MappingNetwork, z_dim=8, num_layers=2))  # half in 4 images
    z = torch.randn(4, 8)
    layers = G.synthesis.layers
    x = G.synthesis.input(G.mapping(z)[:, 0]).detach()
    G(z)
    assert all(layer.magnitude_ema == 1 for layer in layers)
    with track_running_stats(G):
        G(z)
    torch.testing.assert_close(layers[0].magnitude_ema, (1 + x.square().mean()) / 2)
    assert all(layer.magnitude_ema != 1 for layer in layers) and G.mapping.w_avg.abs().max() > 0
    before = layers[0].magnitude_ema.clone()
    G(z)
    assert layers[0].magnitude_ema == before
    G.synthesis.world_size = 2  # two processes: twice the images
    with track_running_stats(G):
        G(z)
    torch.testing.assert_close(layers[0].magnitude_ema, before / 4 + x.square().mean() * 3 / 4)


def test_tracking_is_put_back_as_it_was():
    G = Generator(small(8), partial(MappingNetwork, z_dim=8, num_layers=1))
    G.add_module("norm", torch.nn.BatchNorm2d(2))
    with track_running_stats(G), track_running_stats(G):
        assert G.mapping.track_running_stats and G.synthesis.track_running_stats
    assert not G.mapping.track_running_stats and not G.synthesis.track_running_stats
    assert G.norm.track_running_stats


def test_scale_of_the_input_signal_does_not_matter_once_tracked():
    torch.manual_seed(0)
    G = small(magnitude_ema_kimg=1e-6)
    ws = styles(G)
    with track_running_stats(G), torch.no_grad():
        img = G(ws)
        G.input.weight.mul_(100)
        torch.testing.assert_close(G(ws), img, rtol=1e-3, atol=1e-4)
    assert 0.3 < float(img.std() / G.output_scale) < 3


def test_state_is_the_whole_truth():
    torch.manual_seed(0)
    a, b = small(), small()
    b.load_state_dict(a.state_dict())
    ws = styles(a)
    torch.testing.assert_close(a(ws), b(ws), rtol=0, atol=0)
    assert not any("filter" in name or "grid" in name for name in a.state_dict())


def test_conv_clamp_bounds_the_image():
    G = small(conv_clamp=0.01)
    assert G(styles(G)).abs().max() <= 0.01 * G.output_scale


def test_multiplied_channels_are_those_of_a_larger_base():
    a, b = small(channel_multiplier=2), small(channel_base=256, channel_max=16)
    assert [x.in_channels for x in a.layers] == [x.in_channels for x in b.layers]


def test_can_be_built_without_memory():
    with torch.device("meta"):
        G = StyleGAN3Synthesis(1024)
    assert G.layers[5].weight.is_meta


@pytest.mark.parametrize(
    ("options", "count"), [({}, 22_313_167), (R | {"channel_multiplier": 2}, 15_093_151)], ids=["T", "R"]
)
def test_default_networks_have_the_published_size(options, count):
    """Parameters of G at 1024x1024, mapping included. R: log of a run in NVlabs/stylegan3 issue 181."""
    with torch.device("meta"):
        G = Generator(StyleGAN3Synthesis(1024, **options), partial(MappingNetwork, num_layers=2))
    assert sum(p.numel() for p in G.parameters()) == count


@pytest.mark.parametrize(
    ("resolution", "options", "match"),
    [
        (24, {}, "img_resolution=24 must be a power of two >= 8"),
        (4, {"first_cutoff": 1}, "img_resolution=4"),
        (16, {"num_critical": 4}, "num_critical=4 must be from 0 to num_layers=4 - 1"),
        (16, {"first_cutoff": 9}, r"first_cutoff=9 must be in \(0, img_resolution / 2\]; first_stopband.*exceed"),
        (16, {"last_stopband_rel": 1.0}, "last_stopband_rel=1.0"),
        (64, {"channel_base": 32}, "channel_base=32 must be at least"),
        (16, {"conv_kernel": 2}, "odd"),
    ],
)
def test_impossible_sizes_are_refused(resolution, options, match):
    with pytest.raises(ValueError, match=match):
        small(resolution, **options)
