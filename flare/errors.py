"""Errors that a user sees: one line that names the key, the value and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class ConfigError(ValueError):
    """A setting is wrong. The message is one line: key, value, what is allowed."""


class DataError(ValueError):
    """A data set cannot be had, or a file is bad; the message names it, what was expected and what to do."""


def shown(value: Any) -> str:
    """The value as a message shows it: one line, at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def choose(key: str, value: Any, allowed: Iterable[str]) -> str:
    """The value, if it is one of the allowed ones; ConfigError with the nearest spelling if it is not."""
    names = list(allowed)
    if value in names:
        return str(value)
    near = difflib.get_close_matches(str(value)[:60], names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ConfigError(f"{key}: {shown(value)} is unknown{hint}; one of {', '.join(names)}")
