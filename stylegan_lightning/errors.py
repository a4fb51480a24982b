"""The one exception that a user sees as a message instead of a traceback, and its most frequent case."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
    """Something the user gave cannot work.

    The message is the whole explanation: what must hold, what was given, what to change.
    Entry points print it and exit with status 2; library callers catch it like any exception.
    """


def one_line(error: BaseException) -> str:
    """What it says, on one line; of a long one, the beginning."""
    return textwrap.shorten(" ".join(str(error).split()), 400, placeholder=" ...")


def chosen(kind: str, choices: Mapping[str, T], name: str) -> T:
    """`choices[name]`. Raises UserError, which lists them, for a name that is not there."""
    if name not in choices:
        near = difflib.get_close_matches(name, choices, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UserError(f"There is no {kind} {name!r}; choose one of {', '.join(choices)}.{hint}")
    return choices[name]
