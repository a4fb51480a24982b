"""Translation of parameter names by rules."""

from __future__ import annotations

import re

Rules = tuple[tuple[str, str], ...]
"""(pattern, replacement) as of `re.sub`."""


def apply_first(name: str, rules: Rules) -> str:
    """`name` after the first rule that applies."""
    for pattern, replacement in rules:
        new = re.sub(pattern, replacement, name)
        if new != name:
            return new
    return name
