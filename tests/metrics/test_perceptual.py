"""Perceptual distances: laws, LPIPS against torchmetrics with random weights, and what is said without weights."""

from __future__ import annotations

import urllib.error
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stylegan_lightning.errors import UserError
from stylegan_lightning.metrics import perceptual
from stylegan_lightning.metrics.features import VGG16, VGG16_FILE, VGG16_SHA256
from stylegan_lightning.metrics.perceptual import LPIPSVGG16, EfficientNetPerceptual, load_distance, rgb


def pictures(n: int, size: int = 32, channels: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The convolutions of a VGG16 with random weights, and one of the entries that are not read."""
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    numbers = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    generator = torch.Generator().manual_seed(0)
    state = {"classifier.0.bias": torch.zeros(3)}
    for number, i, o in zip(numbers, widths[:-1], widths[1:], strict=True):
        state[f"features.{number}.weight"] = torch.randn(o, i, 3, 3, generator=generator) * (2 / (9 * i)) ** 0.5
        state[f"features.{number}.bias"] = torch.randn(o, generator=generator) * 0.1
    path = tmp_path_factory.mktemp("vgg") / "random.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def lpips(vgg_file: Path) -> LPIPSVGG16:
    with pytest.warns(UserWarning, match="not torchvision's VGG16"):
        return LPIPSVGG16(vgg_file)


@pytest.fixture(scope="module", params=["efflite0", "lpips_vgg16"])
def distance(request: pytest.FixtureRequest, vgg_file: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_distance(request.param, vgg_file)


def test_a_distance_is_zero_for_equal_pictures_symmetric_and_grows(distance) -> None:
    a, noise = pictures(3), pictures(3, seed=1)
    assert distance(a, a).tolist() == [0, 0, 0]
    near, far = distance(a, a + 0.02 * noise), distance(a, a + 0.5 * noise)
    assert near.shape == (3,) and (near > 0).all() and (far > 5 * near).all()
    torch.testing.assert_close(distance(a + 0.5 * noise, a), far, rtol=1e-4, atol=1e-7)


def test_pairs_do_not_influence_each_other(distance) -> None:
    a, b = pictures(3), pictures(3, seed=1)
    alone = torch.cat([distance(a[i : i + 1], b[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(distance(a, b), alone, rtol=1e-4, atol=1e-7)


def test_grey_is_repeated_and_gradients_reach_the_pictures(distance) -> None:
    a, b = pictures(2, channels=1), pictures(2, channels=1, seed=1)
    torch.testing.assert_close(distance(a, b), distance(a.repeat(1, 3, 1, 1), b.repeat(1, 3, 1, 1)))
    a.requires_grad_()
    distance(a, b).sum().backward()
    assert a.grad is not None and a.grad.abs().max() > 0
    assert not any(p.requires_grad for p in distance.parameters())
    assert not any(module.training for module in distance.train().modules())


def test_alpha_is_composited_over_white() -> None:
    rgba = torch.tensor([[-1.0, 0.5, 0.2], [-1, -1, -1], [1, 1, 1], [-1, 1, 0]]).reshape(1, 4, 1, 3)
    torch.testing.assert_close(rgb(rgba).reshape(3, 3), torch.tensor([[1, 0.5, 0.6], [1, -1, 0], [1, 1, 1]]))


def test_bad_pictures(distance) -> None:
    with pytest.raises(UserError, match=r"1 \(grey\), 3 \(RGB\) or 4"):
        distance(pictures(1, channels=2), pictures(1, channels=2))
    with pytest.raises(ValueError, match="one shape"):
        distance(pictures(1), pictures(2))


# ------------------------------------------------------------------------------------------- efficientnet


def test_efficientnet_takes_the_outputs_of_its_blocks() -> None:
    """One block against the extractor that stops there; unit length makes 2 - 2 cos of the angle."""
    from stylegan_lightning.metrics.features import EfficientNetLite0

    images = torch.randint(0, 256, (4, 3, 128, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    a, b = (images / 127.5 - 1).chunk(2)
    features = EfficientNetLite0(4).net((images.flip((2, 3)).float() - 127) / 128)
    cosine = torch.cosine_similarity(*features.chunk(2), dim=1)
    expected = (2 - 2 * cosine).mean((1, 2))
    torch.testing.assert_close(EfficientNetPerceptual((4,))(a, b), expected, rtol=1e-4, atol=1e-5)


def test_efficientnet_averages_its_blocks() -> None:
    a, b = pictures(2), pictures(2, seed=1)
    single = [EfficientNetPerceptual((block,))(a, b) for block in (0, 2)]
    torch.testing.assert_close(EfficientNetPerceptual((2, 0))(a, b), (single[0] + single[1]) / 2)


@pytest.mark.parametrize("blocks", [(), (16,), (-1, 2), (3, 3)])
def test_bad_blocks(blocks: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"different numbers in 0\.\.15"):
        EfficientNetPerceptual(blocks)


# -------------------------------------------------------------------------------------------------- LPIPS


def test_lpips_equals_torchmetrics(lpips: LPIPSVGG16) -> None:
    """Their network with our random weights in it; their lengths have an epsilon of 1e-8 under the root."""
    from torchmetrics.functional.image import lpips as theirs

    with torch.device("meta"):
        net = theirs._LPIPS(pretrained=False, net="vgg", pnet_rand=True)
    net.scaling_layer = theirs.ScalingLayer()
    ours = dict(enumerate(lpips.net))
    for part in (net.net.slice1, net.net.slice2, net.net.slice3, net.net.slice4, net.net.slice5):
        for number, _ in part.named_children():
            setattr(part, number, ours[int(number)])
    for number, weight in enumerate(lpips.weights):
        net.lins[number].model[-1].weight = torch.nn.Parameter(weight)
    a, b = pictures(2, 48), pictures(2, 48, seed=1)
    with torch.no_grad():
        expected = net.eval()(a, b).flatten()
    assert expected.min() > 1e-3
    torch.testing.assert_close(lpips(a, b), expected, rtol=1e-4, atol=1e-6)


def test_lpips_weights_of_the_layers_are_not_negative() -> None:
    weights = perceptual._lpips_weights()
    assert [w.shape[1] for w in weights] == [64, 128, 256, 512, 512]
    assert all(float(w.min()) >= 0 and float(w.max()) > 0 for w in weights)


def test_lpips_needs_16_pixels(lpips: LPIPSVGG16) -> None:
    assert lpips(pictures(1, 16), pictures(1, 16, seed=1)).item() > 0
    with pytest.raises(UserError, match=r"at least 16 x 16 pixels; these have 15 x 15.*efflite0"):
        lpips(pictures(1, 15), pictures(1, 15))


def test_loading_leaves_the_global_random_state_alone(vgg_file: Path) -> None:
    before = torch.get_rng_state()
    with pytest.warns(UserWarning, match="not torchvision's"):
        LPIPSVGG16(vgg_file)
    assert torch.equal(before, torch.get_rng_state())


def test_download_is_checked_and_kept_in_the_hub_cache(
    vgg_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads: list[str] = []

    def download(url: str, dst: str, hash_prefix: str, progress: bool) -> None:
        assert url == "https://download.pytorch.org/models/vgg16-397923af.pth" and hash_prefix == VGG16_SHA256
        downloads.append(url)
        Path(dst).symlink_to(vgg_file)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        assert VGG16.find(None) == tmp_path / "hub" / "checkpoints" / VGG16_FILE
    assert len(downloads) == 1


@pytest.mark.parametrize("error", [urllib.error.URLError("no route"), RuntimeError("invalid hash value")])
def test_failed_download_says_what_to_do(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(UserError) as caught:
        load_distance("lpips_vgg16")
    for part in (VGG16_FILE, VGG16_SHA256, "https://download.", str(tmp_path / "hub"), "weights.vgg16=", "efflite0"):
        assert part in str(caught.value)


def test_files_that_are_not_the_network(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no file .*absent\.pth"):
        LPIPSVGG16(tmp_path / "absent.pth")
    for content, reason in (
        (b"text", "cannot be read"),
        ([1, 2], "plain state dict"),
        ({"features.0.weight": torch.zeros(64, 3, 3, 3)}, "Missing key"),
        ({"conv.weight": torch.zeros(1)}, "Missing key"),
    ):
        path = tmp_path / "wrong.pth"
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        with pytest.raises(UserError, match=f"(?s)not torchvision's VGG16: .*{reason}.*{VGG16_FILE}"):
            LPIPSVGG16(path)


def test_unknown_name() -> None:
    with pytest.raises(UserError, match=r"'lpips_vgg'; choose one of efflite0, lpips_vgg16\. Did you mean"):
        load_distance("lpips_vgg")
