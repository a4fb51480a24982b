"""What stays as it is while a run is fine-tuned: the first layers of D (FreezeD, Mo et al. 2020), G's mapping."""

from __future__ import annotations

from torch import nn

from stylegan_lightning.errors import UserError
from stylegan_lightning.networks import Generator
from stylegan_lightning.protocols import Discriminator


def first_layers(D: Discriminator, count: int) -> list[nn.Module]:
    """The `count` layers of D that the image meets first. Raises UserError when there are not as many."""
    layers = D.layers_from_image()
    if count > len(layers):
        raise UserError(
            f"transfer.freeze_d must be at most {len(layers)}, the number of layers before the head of this "
            f"discriminator; got {count}"
        )
    return layers[:count]


def trainable_parameters(
    G: Generator, D: Discriminator, freeze_d: int = 0, freeze_mapping: bool = False
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters of G and D that are trained; the others no longer require gradients.

    Raises UserError for more layers than D has, or where the mapping has nothing to freeze.
    """
    mapping = [G.mapping] if freeze_mapping else []
    if mapping and not any(True for _ in G.mapping.parameters()):  # type: ignore[attr-defined]
        raise UserError("transfer.freeze_mapping must be false: this model's mapping has no weights")
    parts = ((G, mapping), (D, first_layers(D, freeze_d) if freeze_d else []))
    return tuple(_without(net, frozen) for net, frozen in parts)  # type: ignore[arg-type, return-value]


def _without(net: nn.Module, frozen: list[nn.Module]) -> list[nn.Parameter]:
    for part in frozen:
        part.requires_grad_(False)
    held = {id(p) for part in frozen for p in part.parameters()}
    return [p for p in net.parameters() if id(p) not in held]
