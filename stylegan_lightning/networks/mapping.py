"""The mapping network: latent and label to styles (StyleGAN, section 2; conditioning as in StyleGAN2-ADA, D.1)."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from stylegan_lightning.networks.layers import FullyConnected, required_labels
from stylegan_lightning.ops import autocast_device, pixel_norm


def mapping_mlp(
    in_features: int,
    out_features: int,
    num_layers: int,
    hidden: int,
    lr_multiplier: float,
    he_gain: float | None = None,
) -> nn.Sequential:
    """`num_layers` leaky-ReLU layers from in_features over `hidden` to out_features; none is the identity."""
    sizes = [in_features, *[hidden] * (num_layers - 1), out_features] if num_layers else []
    return nn.Sequential(
        *(
            FullyConnected(i, o, activation="lrelu", lr_multiplier=lr_multiplier, he_gain=he_gain)
            for i, o in itertools.pairwise(sizes)
        )
    )


class MappingNetwork(nn.Module):
    """z [N, z_dim], c [N, c_dim] -> ws [N, num_ws, w_dim].

    z and the embedded label are each normalised to unit mean square, concatenated and passed through
    `num_layers` layers. `w_avg` follows the mean of w while `track_running_stats` is set; truncation pulls
    the first `truncation_cutoff` styles towards it (StyleGAN, B). With no layers ws is the normalised z, beside
    it the label in w_dim - z_dim features. `normalize=False` leaves z as it is (the GANs before ProGAN).
    Raises ValueError when a mapping without layers is given a w_dim that cannot hold its inputs.
    """

    w_avg: Tensor

    def __init__(
        self,
        w_dim: int,
        num_ws: int,
        *,
        z_dim: int = 512,
        c_dim: int = 0,
        num_layers: int = 8,
        lr_multiplier: float = 0.01,
        w_avg_beta: float = 0.998,
        he_gain: float | None = None,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim, self.num_ws = z_dim, c_dim, w_dim, num_ws
        self.w_avg_beta = w_avg_beta
        self.track_running_stats = False
        self.normalize = normalize
        if num_layers == 0 and not (w_dim > z_dim if c_dim else w_dim == z_dim):
            rule = "w_dim > z_dim to hold the label" if c_dim else "w_dim == z_dim"
            raise ValueError(f"a mapping without layers needs {rule}, got {z_dim=}, {w_dim=}, {c_dim=}")
        label_features = w_dim if num_layers else w_dim - z_dim
        self.embed = FullyConnected(c_dim, label_features) if c_dim else None
        in_features = z_dim + (label_features if c_dim else 0)
        self.layers = mapping_mlp(in_features, w_dim, num_layers, w_dim, lr_multiplier, he_gain)
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(
        self,
        z: Tensor,
        c: Tensor | None = None,
        *,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        with torch.autocast(autocast_device(z), enabled=False):  # styles are float32 in every precision
            w = self._styles(z, c)
        if self.track_running_stats:
            with torch.no_grad():
                self.w_avg.copy_(w.detach().mean(0).lerp(self.w_avg, self.w_avg_beta))
        ws = w[:, None].expand(-1, self.num_ws, -1)
        if truncation_psi != 1.0:
            ws = self._truncate(ws, truncation_psi, truncation_cutoff)
        return ws

    def _styles(self, z: Tensor, c: Tensor | None) -> Tensor:
        x = pixel_norm(z.float()) if self.normalize else z.float()
        if self.embed is not None:
            c = required_labels(c, self.c_dim, "generator")
            x = torch.cat([x, pixel_norm(self.embed(c))], 1)
        return self.layers(x)

    def _truncate(self, ws: Tensor, psi: float, cutoff: int | None) -> Tensor:
        cutoff = self.num_ws if cutoff is None else cutoff
        return torch.cat([self.w_avg.lerp(ws[:, :cutoff], psi), ws[:, cutoff:]], 1)


class LabelMapping(nn.Module):
    """c [N, c_dim] -> [N, out_features]: what a projection discriminator multiplies its features with."""

    def __init__(self, c_dim: int, out_features: int, *, num_layers: int = 8, lr_multiplier: float = 0.01) -> None:
        super().__init__()
        self.embed = FullyConnected(c_dim, out_features)
        self.layers = mapping_mlp(out_features, out_features, num_layers, out_features, lr_multiplier)

    def forward(self, c: Tensor) -> Tensor:
        return self.layers(pixel_norm(self.embed(c.float())))
