"""What reads one argument of the command line: the value, or argparse's error with what is allowed."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from flare import config as configuration
from flare.config import key
from flare.config.schema import is_allowed
from flare.errors import ConfigError
from flare.settings import DEVICE_PATTERN, EXPERIMENT_PATTERN, as_number

if TYPE_CHECKING:
    # What `add_subparsers` returns, to which each command adds its parser.
    Commands = argparse._SubParsersAction[Any]


def whole(low: int = 1, high: int = 10**9) -> Callable[[str], int]:
    """A reader of a whole number in that range."""

    def read(text: str) -> int:
        try:
            number = int(as_number(text, whole=True))
        except (ValueError, OverflowError):
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


def minutes(text: str) -> float:
    """A number of minutes."""
    number = _number(text)
    if not 0 < number <= 10**6:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; a number of minutes, above 0")
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
        found = as_number(configuration.parse(value), whole=True)
        configuration.check_values({key: found})
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE with a value in YAML") from None
    return key, found


def of_run(field: dataclasses.Field[Any]) -> Callable[[str], Any]:
    """A reader of a number that a field of a run takes, with the range and the words of its metadata."""
    kind = key.kind(field)

    def read(text: str) -> Any:
        with contextlib.suppress(ValueError, OverflowError):
            number = kind(as_number(text, whole=kind is int))
            if is_allowed(field, [number] if key.is_list(field) else number):
                return number
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; {key.allowed(field)}")

    return read


def add_config(parser: argparse.ArgumentParser, name: str = "config", words: str = "the sweep's configuration") -> None:
    """CONFIG or --config CONFIG, whichever a person remembers."""
    parser.add_argument(name, nargs="?", type=Path, help=words)
    parser.add_argument("--config", dest="named", metavar="CONFIG", type=Path, help="the same")


def config_of(chosen: argparse.Namespace, name: str = "config") -> Path | None:
    """The file that was given in one of the two ways, if any."""
    first, named = getattr(chosen, name), chosen.named
    if first is not None and named is not None:
        raise ConfigError(f"--config: {str(named)!r} is not allowed beside {str(first)!r}; one configuration")
    return first if named is None else named


def settings(flag: str, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """KEY=VALUE arguments as a mapping; ConfigError if a key is there twice. flag: the argument's name."""
    out = dict(pairs)
    if len(out) < len(pairs):
        twice = next(key for place, (key, _) in enumerate(pairs) if key in dict(pairs[:place]))
        raise ConfigError(f"{flag}: {twice} is there twice; once")
    return out


def records_of(names: Sequence[str], folder: Path | None) -> list[tuple[str, Path]]:
    """The named records, or all that there are, and their folders; ConfigError if there is none of that name."""
    from flare import records

    where = folder or records.FOLDER
    there = records.names(where)
    if not there:
        raise ConfigError(f"{where}: no record is there")
    for name in names:
        if name not in there:
            raise ConfigError(f"RECORD: {name!r} is not allowed; one of {', '.join(there)}")
    return [(name, where / name) for name in names or there]
