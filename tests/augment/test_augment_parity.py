"""Every transformation at fixed parameters against the stored reference."""

from __future__ import annotations

import pytest
from augment_helpers import Percentile, only

from stylegan_lightning.augment import AugmentPipe
from tests.conftest import Reference

REF = Reference("ada")


@pytest.mark.parametrize("case", REF.meta["cases"], ids=lambda c: f"{c['id']}-{c['transform'].split()[0]}")
def test_augmentation_parity(case, parity):
    name = case["transform"].split()[0]
    pipe = AugmentPipe("bgc", p=1.0) if name == "bgc" else only(name)
    ours = pipe(REF["x"], Percentile(case["percentile"]))
    parity(f"augment {name} at percentile {case['percentile']}", ours, REF[f"y/{case['id']}"])
