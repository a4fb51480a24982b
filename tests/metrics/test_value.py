"""Which values may stand beside each other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stylegan_lightning.errors import UserError
from stylegan_lightning.metrics.value import Measured, MetricValue, check_comparable

VALUE = MetricValue(
    "fid", 3.5, "nvidia", "preset=nvidia fake=50 data=a", num_real=9, num_fake=50, seed=0, truncation_psi=1
)


def test_record_holds_everything_under_its_name() -> None:
    record = replace(VALUE, std=0.1, low=3.0, high=4.0, level=0.95, note="few", extractor="inception").as_dict()
    assert MetricValue(**record).as_dict() == record
    assert (record["metric"], record["low"], record["note"], record["weights_hash"]) == ("fid", 3.0, "few", "")
    assert Measured([VALUE]).pictures == {}


def test_values_measured_in_one_way_are_comparable() -> None:
    others = [replace(VALUE, value=9.0, truncation_psi=0.5), replace(VALUE, metric="kid", comparable="other")]
    check_comparable(v.as_dict() for v in (VALUE, *others))
    check_comparable([])


@pytest.mark.parametrize("position", [1, 2])
def test_values_measured_differently_are_refused(position: int) -> None:
    values = [VALUE, VALUE, replace(VALUE, metric="kid")]
    values.insert(position, replace(VALUE, preset="quick", comparable="preset=quick fake=5"))
    with pytest.raises(UserError) as error:
        check_comparable(v.as_dict() for v in values)
    message = str(error.value)
    assert message.startswith("two values of fid cannot be compared: one is of preset nvidia (preset=nvidia fake=50")
    assert "the other of preset quick (preset=quick fake=5)" in message
