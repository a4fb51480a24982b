"""On a GPU: the numbers of the CPU, and not one wait for the device."""

from __future__ import annotations

import pytest
import torch
from augment_helpers import Percentile, seeded

from stylegan_lightning.augment import AugmentParams, AugmentPipe, DiffAugment
from stylegan_lightning.losses import squared_gradient_norm
from tests.conftest import Reference

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _full_precision():
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def moved(params: AugmentParams) -> AugmentParams:
    return AugmentParams(**{k: v.cuda() for k, v in vars(params).items()})


class CudaPercentile(Percentile):
    def uniform(self, n, *shape):
        return super().uniform(n, *shape).cuda()

    def normal(self, n, *shape):
        return super().normal(n, *shape).cuda()


@pytest.mark.parametrize("case", [28, 29])
def test_augmentation_on_cuda_equals_the_reference(case, parity):
    ref = Reference("ada")
    percentile = ref.meta["cases"][case]["percentile"]
    ours = AugmentPipe("bgc", p=1.0).cuda()(ref["x"].cuda(), CudaPercentile(percentile))
    parity(f"cuda augment bgc at percentile {percentile}", ours.cpu(), ref[f"y/{case}"])


def test_r1_through_the_pipe_equals_the_cpu():
    torch.manual_seed(0)
    pipe, x = AugmentPipe("bgcfnc", p=1.0), torch.randn(4, 3, 32, 24)
    params = pipe.draw(x.shape, seeded())
    cpu = squared_gradient_norm(lambda imgs: pipe.transform(imgs, params).pow(3).sum((1, 2, 3)), x)
    pipe, params = pipe.cuda(), moved(params)
    gpu = squared_gradient_norm(lambda imgs: pipe.transform(imgs, params).pow(3).sum((1, 2, 3)), x.cuda())
    torch.testing.assert_close(gpu.cpu(), cpu, rtol=1e-3, atol=0)


@pytest.mark.parametrize("augment", [AugmentPipe("bgcfnc", p=0.5), DiffAugment()], ids=["ada", "diffaugment"])
def test_nothing_waits_for_the_device(augment):
    augment, x = augment.cuda(), torch.randn(4, 3, 32, 32, device="cuda")
    augment(x)  # first calls load libraries
    squared_gradient_norm(lambda imgs: augment(imgs).pow(2).sum((1, 2, 3)), x)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        augment(x)
        squared_gradient_norm(lambda imgs: augment(imgs).pow(2).sum((1, 2, 3)), x)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_at_p_0_nothing_happens_on_cuda():
    x = torch.randn(3, 3, 32, 32, device="cuda")
    assert torch.equal(AugmentPipe("bgcfnc").cuda()(x), x)
