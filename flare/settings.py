"""Settings of a method, a model or a way to deal data: fields of a frozen dataclass, each with its range.

A plug-in imports this and `flare.errors`, and nothing else of the package's foundations.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from flare.errors import ConfigError, choose, shown

# What a name may be, whole: in the configuration, on the command line and in Snakemake's wildcards.
EXPERIMENT_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
DEVICE_PATTERN = r"cpu|cuda(:[0-9]{1,3})?"
KEEP_PATTERN = r"dense|1|0\.[0-9]+|[1-9]e-[0-9]+"
FOLDER_PATTERN = r"[\w./+,=@%][\w./+,=@% -]*"
# A free word of a method's settings: it reaches a shell, so it is one, and quoting it changes nothing.
METHOD_WORD_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"

FIDELITIES = ("paper", "authors")
ENGINES = ("one-at-a-time", "together")
WANDB_MODES = ("offline", "online", "disabled")
WANDB_PROJECT = "flare-sweeps"

# Beyond this no setting has a meaning, and whole numbers do not fit where they are used.
LARGEST = 1_000_000_000


def is_number(value: Any) -> bool:
    """Whether it is a finite number, whole or not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def as_number(value: Any, *, whole: bool) -> Any:
    """The number that text like 5e-2 or 1e3 stands for, which YAML 1.1 reads as text; anything else as it is.

    whole: 1e3 is the whole number 1000.
    """
    if not isinstance(value, str) or not re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]{1,4}", value):
        return value
    number = float(value)
    return int(number) if whole and abs(number) <= 1e15 and number == int(number) else number


def setting(
    default: Any,
    *,
    doc: str,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    words: tuple[str, ...] = (),
    choices: tuple[int | str, ...] = (),
    symbol: str = "",
) -> Any:
    """A field of a settings dataclass, and its row in config/README.md, which `make docs` writes.

    doc: its meaning, with its unit. low, high: the range, both ends in it; above, below: ends that are not. words:
    allowed instead of a number. choices: all that is allowed. symbol: what the paper calls it.
    """
    metadata: dict[str, Any] = {"doc": doc, "low": low, "high": high, "words": words, "symbol": symbol}
    metadata |= {"above": above, "below": below, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


def check_keep(keep: Any, key: str = "keep") -> float | None:
    """The fraction sent, in (0, 1], of a number or its string; None for "dense"."""
    if keep is None or keep == "dense":
        return None
    try:
        fraction = math.nan if isinstance(keep, bool) else float(keep)
    except (TypeError, ValueError, OverflowError):
        fraction = math.nan
    if not 0 < fraction <= 1:
        raise ConfigError(f"{key}: {shown(keep)} is out of range; 'dense', or above 0 and at most 1")
    return fraction


def check_settings(cls: type, given: Mapping[str, Any], where: str) -> Any:
    """An instance of the settings dataclass; ConfigError for an unknown key or a value of wrong type or range."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    values = {}
    for key, value in given.items():
        if not fields:
            raise ConfigError(f"{where}: {key}: {shown(value)}; it has no settings")
        choose(where, key, fields)
        values[key] = _check_value(f"{where}: {key}", value, fields[key])
    return cls(**values)


def _check_value(key: str, value: Any, field: dataclasses.Field[Any]) -> Any:
    low, high, words = (field.metadata[name] for name in ("low", "high", "words"))
    kind: Any = type(field.default)
    allowed = {int: "a whole number", float: "a number", bool: "true or false", str: "a name"}[kind]
    if high is None and kind is int and is_number(value) and value > LARGEST:
        high = LARGEST
    above, below, choices = (field.metadata[name] for name in ("above", "below", "choices"))
    for words_of, end in (("at least", low), ("above", above), ("at most", high), ("below", below)):
        if end is not None:
            allowed += f", {words_of} {end}"
    if choices:
        allowed = " or ".join(map(str, choices))
    if words:
        allowed += f", or {' or '.join(words)}"
    if value in words and isinstance(value, str):
        return value
    value = as_number(value, whole=kind is int) if kind in (int, float) else value
    right_type = {
        int: isinstance(value, int) and not isinstance(value, bool),
        float: is_number(value),
        bool: isinstance(value, bool),
        str: isinstance(value, str) and not words and bool(re.fullmatch(METHOD_WORD_PATTERN, value)),
    }[kind]
    if right_type and choices:
        right_type = value in choices
    outside = right_type and (
        (low is not None and value < low)
        or (high is not None and value > high)
        or (above is not None and value <= above)
        or (below is not None and value >= below)
    )
    if not right_type or outside:
        raise ConfigError(f"{key}: {shown(value)} is not allowed; {allowed}")
    return kind(value)
