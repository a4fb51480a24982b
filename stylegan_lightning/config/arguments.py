"""Arguments of train.py and evaluate.py, as Hydra and a shell read them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString

_PLAIN = re.compile(r"[\w./+@-]+", re.ASCII)


def argument(key: str, path: Path | str) -> str:
    """`key=path`, which Hydra reads as that very path: not as a number, null, a list or a reference."""
    text = str(path)
    text = "./???" if text == "???" else text  # which means that a value is missing
    if _PLAIN.fullmatch(text) and OverridesParser.create().parse_override(f"{key}={text}").value() == text:
        return f"{key}={text}"
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # of OmegaConf; what Hydra's quotes need comes on top
    return f"{key}={QuotedString(literal, Quote.single).with_quotes()}"


def shell_argument(key: str, path: Path | str) -> str:
    return shlex.quote(argument(key, path))
