"""How different two pictures look: distances between the activations of a trained network (Zhang et al. 2018).

    d(a, b) = sum_l mean_yx sum_k v_lk (f_lk(a) - f_lk(b))^2,    f_l of unit length at every position

f_l are the activations of layer l, v_lk >= 0 the weight of their channel k. Pictures are float [N, 1|3|4, H, W] in
[-1, 1], not quantised: path lengths compare pictures that differ by far less than a grey level.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
import torchmetrics
from torch import Tensor, nn
from torch.nn import functional as F

from stylegan_lightning.errors import UserError, chosen
from stylegan_lightning.metrics.features import VGG16, EfficientNetLite0, load_vgg16


class PerceptualDistance(Protocol):
    """Two batches of pictures [N, C, H, W] in [-1, 1] -> their distances [N], pair by pair."""

    name: str
    weights_hash: str

    def __call__(self, a: Tensor, b: Tensor, /) -> Tensor: ...


def rgb(img: Tensor) -> Tensor:
    """float [N, 1|3|4, H, W] in [-1, 1] -> [N, 3, H, W]: grey is repeated, RGBA composited over white (1)."""
    channels = img.shape[1] if img.ndim == 4 else 0
    if channels not in (1, 3, 4):
        raise UserError(
            "Perceptual distances need pictures [N, C, H, W] with 1 (grey), 3 (RGB) or 4 (RGBA) channels; "
            f"the pictures are {list(img.shape)}. Choose a metric that has no perceptual distance."
        )
    if channels == 4:
        return (img[:, :3] - 1) * (img[:, 3:] + 1) / 2 + 1
    return img.expand(-1, 3, -1, -1)


def unit_length(features: Tensor) -> Tensor:
    """[N, K, H, W] with channels of length 1 at every position; zeros stay zeros."""
    return features / (features.norm(dim=1, keepdim=True) + 1e-10)


class _Frozen(nn.Module, ABC):
    """A distance whose network is never trained; gradients reach the pictures where they are wanted."""

    name: str
    weights_hash: str

    def train(self, mode: bool = True) -> _Frozen:
        """Stays in evaluation mode whatever `mode` says."""
        return super().train(False)

    @abstractmethod
    def layers(self, x: Tensor) -> list[Tensor]:
        """Pictures [N, 3, H, W] in [-1, 1] -> activations [N, K, H, W] of each layer."""

    @abstractmethod
    def weigh(self, layer: int, squares: Tensor) -> Tensor:
        """Squared differences [N, K, H, W] of a layer -> [N, H, W]."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        if a.shape != b.shape:
            raise ValueError(f"pictures to compare must have one shape, got {list(a.shape)} and {list(b.shape)}")
        total = torch.zeros(len(a), device=a.device)
        for number, features in enumerate(self.layers(rgb(torch.cat([a, b])).float())):
            of_a, of_b = unit_length(features).chunk(2)
            total = total + self.weigh(number, (of_a - of_b).square()).mean((1, 2))
        return total


# ------------------------------------------------------------------------------------------- offline default


class EfficientNetPerceptual(_Frozen):
    """The formula above in ImageNet EfficientNet-Lite0, whose weights come in a package, with v_lk = 1 / layers.

    `blocks` (0..15) default to the last block of each size: 64, 32, 16, 8 and 4 positions across. Pictures are
    resized to 128 x 128 (bilinear with anti-aliasing). Between 0 and 2 for activations that are nowhere zero; not
    comparable with LPIPS, which has been fitted to judgements of people.
    """

    def __init__(self, blocks: Sequence[int] = (0, 2, 4, 10, 15)) -> None:
        super().__init__()
        last = EfficientNetLite0.HEAD - 1
        if not blocks or len(set(blocks)) != len(blocks) or not all(0 <= block <= last for block in blocks):
            raise UserError(f"EfficientNetPerceptual: blocks must be different numbers in 0..{last}; got {blocks}.")
        extractor = EfficientNetLite0(max(blocks))
        self.net, self.blocks, self.size = extractor.net, tuple(sorted(blocks)), extractor.SIZE
        self.name, self.weights_hash = "efflite0", extractor.weights_hash
        self.requires_grad_(False).eval()

    def layers(self, x: Tensor) -> list[Tensor]:
        x = x.flip((2, 3)) * 127.5 + 127.5  # turned by 180 degrees, as the convolutions are
        if x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, size=(self.size, self.size), mode="bilinear", antialias=True)
        x, outputs = ((x - 127) / 128).contiguous(memory_format=torch.channels_last), []
        for number, layer in enumerate(self.net, start=-2):  # a convolution and its activation come first
            x = layer(x)
            if number in self.blocks:
                outputs.append(x)
        return outputs

    def weigh(self, layer: int, squares: Tensor) -> Tensor:
        return squares.sum(1) / len(self.blocks)


# ----------------------------------------------------------------------------------------------------- LPIPS


class LPIPSVGG16(_Frozen):
    """LPIPS 0.1 with VGG16 (Zhang et al. 2018, section 3): what published path lengths are measured with.

    Activations after the last ReLU of each of VGG16's five stages; v comes with torchmetrics. Pictures are not
    resized and must have at least 16 pixels. Weights of VGG16: the file `weights_path` (torchvision's names; only
    `features.*` is read); else the one in torch hub's cache; else downloaded there, its checksum checked. Raises
    UserError when there are none or the file holds something else.
    """

    TAPS = (3, 8, 15, 22, 29)
    SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
    MIN_SIZE = 16
    shift: Tensor
    scale: Tensor

    def __init__(self, weights_path: str | Path | None = None) -> None:
        super().__init__()
        path = VGG16.find(weights_path)
        net = load_vgg16(path, classifier_layers=0).features[: self.TAPS[-1] + 1]
        self.net, self.weights = net, nn.ParameterList(_lpips_weights())
        self.register_buffer("shift", torch.tensor(self.SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(self.SCALE).view(1, 3, 1, 1), persistent=False)
        self.name, self.weights_hash = "lpips_vgg16", VGG16.hash_of(path)
        self.requires_grad_(False).eval()

    def layers(self, x: Tensor) -> list[Tensor]:
        if min(x.shape[-2:]) < self.MIN_SIZE:
            raise UserError(
                f"LPIPS needs pictures of at least {self.MIN_SIZE} x {self.MIN_SIZE} pixels; these have "
                f"{x.shape[-2]} x {x.shape[-1]}. The perceptual distance efflite0 takes any size."
            )
        x, outputs = (x - self.shift) / self.scale, []
        for number, layer in enumerate(self.net):
            x = layer(x)
            if number in self.TAPS:
                outputs.append(x)
        return outputs

    def weigh(self, layer: int, squares: Tensor) -> Tensor:
        return F.conv2d(squares, self.weights[layer])[:, 0]


def _lpips_weights() -> list[Tensor]:
    """v of each layer [1, K, 1, 1], from the package that ships them."""
    path = Path(torchmetrics.__file__).parent / "functional" / "image" / "lpips_models" / "vgg.pth"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return [state[f"lin{layer}.model.1.weight"] for layer in range(5)]
    except (OSError, KeyError) as e:
        raise UserError(
            f"LPIPS needs the weights of its layers, lpips_models/vgg.pth, from torchmetrics 1.9; version "
            f"{torchmetrics.__version__} does not have them at {path}. Install that version, or choose the perceptual "
            "distance efflite0."
        ) from e


# --------------------------------------------------------------------------------------------------- by name

DISTANCES: dict[str, Callable[[str | Path | None], PerceptualDistance]] = {
    "efflite0": lambda weights_path: EfficientNetPerceptual(),
    "lpips_vgg16": LPIPSVGG16,
}


def load_distance(name: str, weights_path: str | Path | None = None) -> PerceptualDistance:
    """The perceptual distance called `name`; `weights_path` is for the one whose weights no package ships."""
    return chosen("perceptual distance", DISTANCES, name)(weights_path)
