"""The FID Inception, untrained."""

from __future__ import annotations

from pathlib import Path

import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3


def untrained_inception(path: Path) -> torch.nn.Module:
    """Randomly initialised, with BatchNorm statistics that are not the identity, so that a forgotten evaluation mode
    or a wrong layer shows. `path` is a file that may be written to meanwhile."""
    created: list[torch.nn.Module] = []

    class Untrained(FeatureExtractorInceptionV3):
        def load_state_dict(self, state_dict, *args, **kwargs):
            created.append(self)

    torch.save({}, path)
    torch.manual_seed(0)
    Untrained("inception-v3-compat", ["2048"], str(path))
    for module in created[0].modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.8, 1.2)
    return created[0]
