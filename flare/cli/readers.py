"""What reads one argument of the command line: the value, or argparse's error with what is allowed."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from flare import config as configuration
from flare.errors import ConfigError
from flare.settings import DEVICE_PATTERN, EXPERIMENT_PATTERN

if TYPE_CHECKING:
    # What `add_subparsers` returns, to which each command adds its parser.
    Commands = argparse._SubParsersAction[Any]


def whole(low: int = 1, high: int = 10**9) -> Callable[[str], int]:
    """A reader of a whole number in that range."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not allowed; a whole number, {low} to {high}")
        return number

    return read


seed = whole(0, 2**32 - 1)


def seconds(text: str) -> float:
    """A number of seconds."""
    number = _number(text)
    if not 0 <= number <= 10**9:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; a number of seconds, 0 or more")
    return number


def share(text: str) -> float:
    """The share of the samples that is held out."""
    number = _number(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; a number above 0 and below 1")
    return number


def _number(text: str) -> float:
    """The number; NaN, which lies in no range, if the text is not one."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def name(text: str) -> str:
    """The name of an experiment."""
    if not re.fullmatch(EXPERIMENT_PATTERN, text):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; letters, digits, '_', '.' and '-', at most 64")
    return text


def device(text: str) -> str:
    """The name of a device."""
    if not re.fullmatch(DEVICE_PATTERN, text):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; cpu, cuda or cuda:0, cuda:1, ...")
    return text


def pair(text: str) -> tuple[str, Any]:
    """KEY=VALUE with a value in YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        found = configuration.parse(value)
        configuration.check_values({key: found})
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE with a value in YAML") from None
    return key, found


def settings(flag: str, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """KEY=VALUE arguments as a mapping; ConfigError if a key is there twice. flag: the argument's name."""
    out = dict(pairs)
    if len(out) < len(pairs):
        twice = next(key for place, (key, _) in enumerate(pairs) if key in dict(pairs[:place]))
        raise ConfigError(f"{flag}: {twice} is there twice; once")
    return out
