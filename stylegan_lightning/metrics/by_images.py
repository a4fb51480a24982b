"""Metrics of a generator, and of images as they are: path length, equivariance, patches, diversity, separability."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.data.labels import label_kind, label_names
from stylegan_lightning.errors import UserError
from stylegan_lightning.imaging import to_uint8
from stylegan_lightning.metrics.equivariance import equivariance
from stylegan_lightning.metrics.features import FeatureExtractor
from stylegan_lightning.metrics.images import ImageSet
from stylegan_lightning.metrics.metric import Metric, Subject, make_value
from stylegan_lightning.metrics.ms_ssim import diversity, ms_ssim, scale_weights
from stylegan_lightning.metrics.path_length import get_path_length_preset, path_length
from stylegan_lightning.metrics.perceptual import PerceptualDistance
from stylegan_lightning.metrics.preset import Preset
from stylegan_lightning.metrics.sampling import draw_labels, evaluating, fail_together, join_ranks, own_rows
from stylegan_lightning.metrics.separability import AttributeClassifier, fit_svm, separability
from stylegan_lightning.metrics.sliced_wasserstein import PatchSet, level_sizes, patch_distance
from stylegan_lightning.metrics.value import Measured


class PathLength(Metric):
    """Perceptual path length (`path_length`; Karras et al. 2019, section 4.1)."""

    needs_generator, needs_reals = True, False

    def __init__(self, preset: Preset, variant: str, distance: PerceptualDistance) -> None:
        super().__init__(preset)
        self.kind, self.distance = variant, distance
        self.options = replace(get_path_length_preset(variant, preset.count(variant)), seed=preset.seed)

    @property
    def names(self) -> tuple[str, ...]:
        published = self.distance.name == "lpips_vgg16"
        return (self.kind if published else f"{self.kind}_{self.distance.name}",)

    def measure(self, subject: Subject) -> Measured:
        found = path_length(subject.G, self.distance, self.options, subject.c_sampler(), subject.device)
        choices = [f"epsilon={found.epsilon:g}", f"distance={found.distance}-{found.weights_hash}"]
        options: dict[str, Any] = {"num_real": 0, "num_fake": found.num_pairs, "truncation_psi": 1.0}
        value = make_value(self, self.names[0], found.value, subject, choices=choices, **options)
        return Measured([value])


class Equivariance(Metric):
    """StyleGAN3's PSNR under translation or rotation of the network's input (`equivariance`)."""

    needs_generator, needs_reals, lower_is_better = True, False, False
    batch_size = 4
    """Each batch draws one move."""

    def __init__(self, preset: Preset, kind: str) -> None:
        super().__init__(preset)
        self.kind = kind

    names = property(lambda self: (self.kind,))

    def check(self, subject: Subject) -> None:
        super().check(subject)
        if not hasattr(getattr(subject.G.synthesis, "input", None), "set_transform"):
            raise UserError(f"{self.kind} moves the input of the synthesis network, which only StyleGAN3's models have")
        if self.kind == "eqr" and int(subject.G.img_resolution) < 32:
            raise UserError(
                f"eqr needs images of at least 32 pixels, got {subject.G.img_resolution}: the borders that a rotation "
                "does not fill leave nothing to compare"
            )

    def measure(self, subject: Subject) -> Measured:
        G, preset, n = subject.G, self.preset, self.preset.count(self.kind)
        z = torch.randn(n, G.z_dim, generator=torch.Generator().manual_seed(preset.seed))
        c = draw_labels(G.c_dim, n, preset.seed, subject.c_sampler())
        with evaluating(G), torch.inference_mode():
            batches = (
                G.mapping(zi.to(subject.device), ci.to(subject.device), truncation_psi=preset.truncation_psi)
                for zi, ci in zip(z.split(self.batch_size), c.split(self.batch_size), strict=True)
            )
            psnr = equivariance(G.synthesis, batches, kinds=[self.kind], seed=preset.seed)[self.kind]
        choices = [f"images_per_move={self.batch_size}"]
        return Measured([make_value(self, self.kind, psnr, subject, num_real=0, num_fake=n, choices=choices)])


class SlicedWassersteinMetric(Metric):
    """Sliced Wasserstein distance of patches, times 1000: the mean over levels, and each (`sliced_wasserstein`)."""

    kind = "swd"
    names = ("swd",)

    def check(self, subject: Subject) -> None:
        super().check(subject)
        for side in (subject.fakes, subject.reals):
            size = int(side.img_resolution)  # type: ignore[union-attr, arg-type]
            level_sizes(size, size)

    def measure(self, subject: Subject) -> Measured:
        preset, wanted = self.preset, self.preset.count(self.kind)
        reals, fakes = subject.real_set(preset, wanted), subject.fake_set(preset, wanted)
        n = min(len(reals), len(fakes))
        sets = [self._patches(images, n, subject.device) for images in (reals, fakes)]
        found = patch_distance(*sets, seed=preset.seed)
        numbers = {"swd": found.average} | {f"swd/{size}": value for size, value in found.levels.items()}
        options: dict[str, Any] = {"num_real": n, "num_fake": n, "choices": ["patches=128 directions=4x128"]}
        return Measured([make_value(self, name, value, subject, **options) for name, value in numbers.items()])

    def _patches(self, images: ImageSet, n: int, device: torch.device) -> PatchSet:
        filled: PatchSet | None = None
        failure: Exception | None = None
        try:
            for rows in own_rows(n).split(self.preset.batch_size):
                batch = images.batch(rows if len(rows) else torch.tensor([0]), device)
                filled = filled or PatchSet(n, *batch.shape[2:], seed=self.preset.seed, device=device)
                if len(rows):
                    filled.add(batch, rows)
        except (RuntimeError, ValueError, UserError) as error:
            failure = error
        fail_together(failure, device)
        assert filled is not None
        return filled


class Diversity(Metric):
    """Mean MS-SSIM of pairs, within classes where there are any (`ms_ssim`): high where images are alike."""

    kind = "ms_ssim"
    names = ("ms_ssim",)
    needs_reals = False

    def check(self, subject: Subject) -> None:
        super().check(subject)
        scale_weights(int(subject.fakes.img_resolution))  # type: ignore[arg-type]

    def measure(self, subject: Subject) -> Measured:
        pairs = self.preset.count(self.kind)
        if isinstance(subject.fakes, nn.Module):
            options: dict[str, Any] = {
                "truncation_psi": self.preset.truncation_psi,
                "seed": self.preset.seed,
                "device": subject.device,
            }
            found = diversity(subject.G, pairs, c_sampler=subject.c_sampler(), **options)
            value, choices = found.value, [f"scales={found.scales}", f"within_class={found.within_class}"]
        else:
            value, pairs = self._of_stored(subject.fakes, pairs, subject.device)
            scales = len(scale_weights(subject.fakes.img_resolution))
            choices = [f"scales={scales}", "within_class=False"]
        return Measured([make_value(self, "ms_ssim", value, subject, num_real=0, num_fake=pairs, choices=choices)])

    def _of_stored(self, images: PreparedDataset, pairs: int, device: torch.device) -> tuple[float, int]:
        """Over disjoint pairs, as many as there are."""
        order = np.random.default_rng(self.preset.seed).permutation(len(images.images))
        pairs = min(pairs, len(order) // 2)
        values = torch.zeros(pairs, dtype=torch.float64, device=device)
        for rows in own_rows(pairs).split(self.preset.batch_size):
            if len(rows):
                a, b = (images.batch(order[rows.numpy() + k * pairs].tolist())[0].to(device) for k in (0, 1))
                values[rows.to(device)] = ms_ssim(a, b).double()
        return float(join_ranks(values).mean()), pairs


# --------------------------------------------------------------------------------------------- separability


class AttributeProbe:
    """Linear classifiers of the attributes of real images on a network's features, in place of one trained network
    an attribute (the paper's): img [N, C, H, W] in [-1, 1] -> logits [N, A]."""

    def __init__(self, extractor: FeatureExtractor, weight: Tensor, bias: Tensor) -> None:
        self.extractor, self.weight, self.bias = extractor, weight, bias

    def __call__(self, img: Tensor) -> Tensor:
        return self.extractor(to_uint8(img)) @ self.weight.T + self.bias


class Separability(Metric):
    """Linear separability of the latents by attributes (`separability`; Karras et al. 2019, section 4.2).

    Attributes are the label columns of the real images or, where there are none, their known factors, each above or
    below its median; `classifier` (None: an AttributeProbe learned from the real images) finds them in fakes.
    """

    needs_generator = True

    def __init__(
        self,
        preset: Preset,
        space: Literal["z", "w"],
        extractor: FeatureExtractor,
        classifier: AttributeClassifier | None = None,
        most_real: int = 10_000,
    ) -> None:
        super().__init__(preset)
        self.kind, self.space, self.extractor = "separability", space, extractor
        self.classifier, self.most_real = classifier, most_real
        self.needs_reals = classifier is None
        self._probes: dict[str, AttributeProbe] = {}

    names = property(lambda self: (f"separability_{self.space}",))

    def check(self, subject: Subject) -> None:
        super().check(subject)
        if self.classifier is None and not attributes_of(subject.dataset):
            raise UserError(
                f"{self.names[0]} needs attributes of the real images: {subject.dataset.name} has neither labels nor "
                "known factors. Choose labels (data.labels, data.classes), or give metrics.each.separability.classifier"
            )

    def prepare(self, subject: Subject) -> None:
        if self.classifier is None:
            self.probe(subject)

    def probe(self, subject: Subject) -> AttributeProbe:
        """Learned once from the same real images."""
        known = subject.dataset.fingerprint
        if known not in self._probes:
            self._probes[known] = self._learn(subject)
        return self._probes[known]

    def _learn(self, subject: Subject) -> AttributeProbe:
        images = subject.dataset
        rows = np.random.default_rng(self.preset.seed).permutation(len(images.images))[: self.most_real]
        x = torch.cat(
            [
                self.extractor.to(subject.device)(images.batch(part.tolist())[0].to(subject.device)).double()
                for part in np.array_split(rows, max(len(rows) // self.preset.batch_size, 1))
            ]
        )
        deviation, mean = torch.std_mean(x, 0, correction=0)
        deviation = deviation.clamp(min=1e-9)
        planes = []
        for has in attributes_of(images).values():
            y = torch.from_numpy(np.where(has[rows], 1.0, -1.0)).to(x)
            planes.append(fit_svm((x - mean) / deviation, y))
        weight = torch.stack([w for w, _ in planes]).to(x) / deviation
        bias = x.new_tensor([b for _, b in planes]) - weight @ mean
        return AttributeProbe(self.extractor, weight.float(), bias.float())

    def measure(self, subject: Subject) -> Measured:
        classifier = self.classifier or self.probe(subject)
        if isinstance(classifier, nn.Module):
            classifier.to(subject.device).eval()
        n = self.preset.count(self.kind)
        options: dict[str, Any] = {"seed": self.preset.seed, "device": subject.device}
        found = separability(
            subject.G, classifier, space=self.space, num_images=n, c_sampler=subject.c_sampler(), **options
        )
        choices = ["classifier=given", f"kept={found.kept}"]
        if self.classifier is None:
            network = f"{self.extractor.name}-{self.extractor.weights_hash}"
            choices[0] = f"classifier=probe-{network} data={subject.dataset.fingerprint[:12]}"
        options = {"num_real": 0, "num_fake": n, "truncation_psi": 1.0}
        return Measured([make_value(self, self.names[0], found.value, subject, choices=choices, **options)])


def attributes_of(dataset: PreparedDataset) -> dict[str, np.ndarray]:
    """bool [N] by name: label columns of zeros and ones, else known factors above their median; both values occur."""
    if label_kind(dataset.targets) in ("classes", "attributes"):
        columns = dict(zip(label_names(dataset), dataset.targets.T > 0, strict=True))
    else:
        columns = {name: values > np.median(values) for name, values in dataset.attributes.items()}
    return {name: has for name, has in columns.items() if 0 < has.sum() < len(has)}
