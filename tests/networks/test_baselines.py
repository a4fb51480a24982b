"""The networks before StyleGAN: shapes, gradients, labels and the laws of their parts."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from stylegan_lightning.losses import GradientPenalty, NonSaturating
from stylegan_lightning.networks import (
    DCGANDiscriminator,
    DCGANSynthesis,
    Generator,
    MappingNetwork,
    MLPDiscriminator,
    MLPSynthesis,
    WGANGPCritic,
    WGANGPSynthesis,
)
from stylegan_lightning.networks.baselines import Maxout, ResidualBlock
from stylegan_lightning.recipes import zero_layer_w_dim

NARROW = {"channel_base": 64, "channel_max": 8}
FAMILIES = {
    "mlp": (partial(MLPSynthesis, hidden=24), partial(MLPDiscriminator, hidden=16)),
    "dcgan": (partial(DCGANSynthesis, **NARROW), partial(DCGANDiscriminator, **NARROW)),
    "wgan_gp": (partial(WGANGPSynthesis, **NARROW), partial(WGANGPCritic, **NARROW)),
}
every_family = pytest.mark.parametrize("family", FAMILIES)


def pair(family, resolution=16, channels=3, c_dim=0, z_dim=8):
    torch.manual_seed(0)
    synthesis, discriminator = FAMILIES[family]
    mapping = partial(MappingNetwork, z_dim=z_dim, c_dim=c_dim, num_layers=0, normalize=False)
    w_dim = zero_layer_w_dim(z_dim, c_dim, 4)
    G = Generator(synthesis(resolution, channels, w_dim=w_dim), mapping)
    return G, discriminator(resolution, channels, c_dim)


SIZES = [("mlp", 28), ("mlp", 5)] + [(f, r) for f in FAMILIES for r in (8, 32)]


@pytest.mark.parametrize(("family", "resolution"), SIZES)
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("c_dim", [0, 3])
def test_images_are_made_and_judged_and_every_parameter_learns(family, resolution, channels, c_dim):
    G, D = pair(family, resolution, channels, c_dim)
    c = torch.eye(3)[[0, 1, 2, 0, 1]] if c_dim else None
    img = G(torch.randn(5, 8), c)
    logits = D(img, c)
    assert img.shape == (5, channels, resolution, resolution) and img.abs().max() <= 1
    assert logits.shape == (5, 1)
    NonSaturating().generator(logits).backward()
    dead = [n for n, p in [*G.named_parameters(), *D.named_parameters()] if p.grad is None or not p.grad.any()]
    assert not dead


@every_family
def test_contracts(family):
    G, D = pair(family, 16, 4, c_dim=3)
    assert (G.num_ws, G.w_dim, G.z_dim, G.c_dim, G.img_resolution, G.img_channels) == (1, 12, 8, 3, 16, 4)
    assert G.synthesis.active_ws == 1
    assert (D.img_resolution, D.img_channels, D.c_dim) == (16, 4, 3)
    G.eval()
    ws = G.mapping(torch.randn(2, 8), torch.eye(3)[:2])
    for mode in ("const", "none"):
        torch.testing.assert_close(G.synthesis(ws, noise_mode=mode), G.synthesis(ws))


@every_family
def test_latents_matter_also_by_their_length(family):
    G, _ = pair(family)
    G.eval()
    z = torch.randn(2, 8)
    img = G(z)
    assert not torch.allclose(img[0], img[1], atol=1e-6) and not torch.allclose(G(2 * z), img, atol=1e-6)


@every_family
def test_labels_matter_and_are_required(family):
    G, D = pair(family, c_dim=3)
    G.eval(), D.eval()
    z, a, b = torch.randn(2, 8), torch.eye(3)[:2], torch.eye(3)[1:]
    img = G(z, a)
    assert not torch.allclose(img, G(z, b), atol=1e-6)
    assert not torch.allclose(D(img, a), D(img, b), atol=1e-6)
    with pytest.raises(ValueError, match="conditional"):
        G(z)
    with pytest.raises(ValueError, match="conditional"):
        D(img)


@pytest.mark.parametrize("network", [DCGANSynthesis, DCGANDiscriminator, WGANGPSynthesis, WGANGPCritic])
@pytest.mark.parametrize("resolution", [4, 28, 0])
def test_impossible_resolutions_are_refused(network, resolution):
    with pytest.raises(ValueError, match="power of two"):
        network(resolution)


@pytest.mark.parametrize("network", [DCGANSynthesis, WGANGPCritic])
def test_widths_without_channels_are_refused(network):
    with pytest.raises(ValueError, match="channel_base=8 leaves no channels at 16 pixels"):
        network(16, channel_base=8)


@pytest.mark.parametrize("network", [MLPSynthesis, MLPDiscriminator])
def test_impossible_mlps_are_refused(network):
    for sizes in ({"img_resolution": 0}, {"img_resolution": 8, "num_layers": 0}, {"img_resolution": 8, "hidden": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            network(**sizes)


def test_mapping_without_layers_is_the_latent_and_the_label():
    z, c = torch.randn(3, 8), torch.eye(3)
    plain = MappingNetwork(8, 2, z_dim=8, num_layers=0, normalize=False)(z)
    torch.testing.assert_close(plain, z[:, None].expand(-1, 2, -1))
    unit = MappingNetwork(8, 1, z_dim=8, num_layers=0)(z)
    torch.testing.assert_close(unit.square().mean(2), torch.ones(3, 1))
    mapping = MappingNetwork(13, 1, z_dim=8, c_dim=3, num_layers=0, normalize=False)
    ws = mapping(z, c)
    torch.testing.assert_close(ws[:, 0, :8], z)
    assert ws.shape == (3, 1, 13) and not torch.allclose(ws[0, 0, 8:], ws[1, 0, 8:])
    torch.testing.assert_close(ws[:, 0, 8:].square().mean(1), torch.ones(3))


@pytest.mark.parametrize(
    ("w_dim", "c_dim", "rule"), [(9, 0, "w_dim == z_dim"), (8, 3, "w_dim > z_dim"), (7, 3, "w_dim > z_dim")]
)
def test_mapping_without_layers_needs_room_for_its_inputs(w_dim, c_dim, rule):
    with pytest.raises(ValueError, match=f"needs {rule}.*z_dim=8, w_dim={w_dim}, c_dim={c_dim}"):
        MappingNetwork(w_dim, 1, z_dim=8, c_dim=c_dim, num_layers=0)


def test_width_of_a_mapping_without_layers():
    assert (zero_layer_w_dim(100, 0), zero_layer_w_dim(100, 10), zero_layer_w_dim(8, 3, 4)) == (100, 132, 12)


def test_maxout_is_the_largest_of_its_pieces():
    layer, x = Maxout(6, 4, pieces=3), torch.randn(5, 6)
    w, b = layer.linear.weight.view(4, 3, 6), layer.linear.bias.view(4, 3)
    pieces = torch.einsum("opi,ni->nop", w, x) + b
    torch.testing.assert_close(layer(x), pieces.max(2).values)
    with torch.no_grad():  # |x| = max(x, -x)
        absolute = Maxout(1, 1, pieces=2)
        absolute.linear.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        absolute.linear.bias.zero_()
    torch.testing.assert_close(absolute(x[:, :1]), x[:, :1].abs())


def test_dropout_acts_in_training_only():
    _, D = pair("mlp")
    x = torch.randn(4, 3, 16, 16)
    assert not torch.allclose(D(x), D(x))
    D.eval()
    torch.testing.assert_close(D(x), D(x))


def test_dcgan_weights_start_as_published():
    torch.manual_seed(0)
    for network in (DCGANSynthesis(32), DCGANDiscriminator(32)):
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                assert float(module.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
                assert float(module.weight.detach().mean()) == pytest.approx(0, abs=2e-3)
                assert module.bias is None or not module.bias.any()


def test_published_widths():
    transposed = [m for m in DCGANSynthesis(64).modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [m.in_channels for m in transposed] == [100, 1024, 512, 256, 128] and transposed[-1].out_channels == 3
    blocks = [m for m in WGANGPSynthesis(64).modules() if isinstance(m, ResidualBlock)]
    assert [m.conv0.out_channels for m in blocks] == [512, 256, 128, 64]
    blocks = [m for m in WGANGPCritic(64).modules() if isinstance(m, ResidualBlock)]
    assert [m.conv0.out_channels for m in blocks] == [128, 256, 512, 512]


def test_batch_norm_is_where_the_papers_have_it():
    def norms(network):
        return sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())

    assert (norms(DCGANSynthesis(32)), norms(DCGANDiscriminator(32))) == (3, 2)  # not at the image
    assert (norms(WGANGPSynthesis(32)), norms(WGANGPCritic(32))) == (7, 0)


def test_dcgan_in_evaluation_does_not_depend_on_the_batch():
    G, _ = pair("dcgan")
    z = torch.randn(6, 8)
    assert not torch.allclose(G(z)[:2], G(z[:2]), atol=1e-6)
    G.eval()
    torch.testing.assert_close(G(z)[:2], G(z[:2]))


def test_wgan_gp_critic_judges_each_image_alone():
    _, D = pair("wgan_gp")
    x = torch.randn(6, 3, 16, 16)
    torch.testing.assert_close(D(x)[:2], D(x[:2]))


@pytest.mark.parametrize("up", [True, False])
def test_both_branches_of_a_residual_block_resample(up):
    """Nearest-neighbour enlargement or averages, seen with one branch off and the other's last layer the identity."""

    def resampled(x):
        return (
            x.repeat_interleave(2, 2).repeat_interleave(2, 3) if up else x.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
        )

    block, x, one = ResidualBlock(2, 2, up=up), torch.randn(3, 2, 4, 4), torch.eye(2)
    with torch.no_grad():
        block.conv1.weight.zero_()
        block.skip.weight.copy_(one[:, :, None, None])
    torch.testing.assert_close(block(x), resampled(x))
    with torch.no_grad():
        block.conv1.weight[:, :, 1, 1] = one
        block.skip.weight.zero_()
    torch.testing.assert_close(block(x), resampled(block.conv0(x.relu()).relu()))


@pytest.mark.parametrize("family", ["wgan_gp", "mlp"])
def test_gradient_penalty_reaches_the_critics_weights(family):
    """Against finite differences along a random direction, float64."""
    _, D = pair(family, 8)
    D.double()
    if family == "mlp":
        D.eval()  # the same function at every call
    reals, fakes = torch.randn(2, 4, 3, 8, 8, dtype=torch.float64)

    def penalty():
        torch.manual_seed(0)
        return GradientPenalty()(D, reals, fakes)

    penalty().backward()
    weights = [p for p in D.parameters() if p.grad is not None]
    directions = [torch.randn_like(p) for p in weights]
    slope = sum(float((p.grad * d).sum()) for p, d in zip(weights, directions, strict=True))
    values, eps = [], 1e-7
    for sign in (1, -2):
        with torch.no_grad():
            for p, d in zip(weights, directions, strict=True):
                p.add_(d, alpha=sign * eps)
        values.append(float(penalty().detach()))
    assert slope == pytest.approx((values[0] - values[1]) / (2 * eps), rel=1e-4)
    assert slope != 0
    assert all(p.grad is not None and p.grad.any() for p in D.parameters() if p.ndim > 1)


@every_family
def test_learns_the_colour_of_a_toy(family):
    """Reals are one flat colour; a few steps bring the mean of the fakes near it."""
    G, D = pair(family, 8)
    colour, loss = torch.tensor([0.6, -0.6, 0.2]), NonSaturating()
    optimizers = [torch.optim.Adam(net.parameters(), 2e-3, betas=(0.5, 0.9)) for net in (G, D)]
    reals = colour.view(1, 3, 1, 1) + 0.05 * torch.randn(16, 3, 8, 8)

    def distance():
        return float((G(torch.randn(64, 8)).detach().mean((0, 2, 3)) - colour).abs().mean())

    before = distance()
    for _ in range(120):
        for index, optimizer in enumerate(optimizers):
            optimizer.zero_grad()
            fakes = G(torch.randn(16, 8))
            value = loss.discriminator(D(reals), D(fakes.detach())) if index else loss.generator(D(fakes))
            value.backward()
            optimizer.step()
    assert before > 0.3 and distance() < before / 2
