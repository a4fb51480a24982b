from __future__ import annotations

import pytest

from stylegan_lightning import UserError
from stylegan_lightning.interop import from_reference
from tests.conftest import Reference


@pytest.fixture(scope="module")
def ref():
    return Reference("stylegan2_res16_cond")


def test_networks_come_back_in_eval_mode_without_gradients(ref):
    G = from_reference(ref.under("G/"), ref.meta)
    assert not G.training and not any(p.requires_grad for p in G.parameters())


def test_wrong_input_is_one_message(ref):
    state = ref.under("G/")
    with pytest.raises(UserError, match="stylegan2"):
        from_reference(state, {**ref.meta, "kind": "biggan"})
    with pytest.raises(UserError, match="'G' or 'D'"):
        from_reference(state, ref.meta, "E")
    missing = {k: v for k, v in state.items() if k != "mapping.fc0.weight"}
    with pytest.raises(UserError, match=r"mapping\.layers\.0\.weight"):
        from_reference(missing, ref.meta)
    with pytest.raises(UserError, match=r"surplus"):
        from_reference({**state, "surplus": state["mapping.w_avg"]}, ref.meta)
    with pytest.raises(UserError, match="size mismatch"):
        from_reference(state, {**ref.meta, "w_dim": 25})
