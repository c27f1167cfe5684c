"""The syntax of what is tuned: a range in place of a setting's value, and the budget of a study."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from flare import algorithms
from flare.config.key import allowed
from flare.config.levels import Tuning
from flare.config.run import NESTED, OVERRIDES, Run
from flare.config.schema import is_allowed
from flare.engine.server import check as check_server
from flare.errors import ConfigError, choose, shown
from flare.settings import as_number, check_settings

SCALES = ("log", "linear", "choices")
# Runs of a study; Snakemake lists them all.
MOST = 100_000

Range = dict[str, list[Any]]


def split(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A method's settings in the configuration: those with a value, and those with a range to be tuned in."""
    literal = {key: value for key, value in settings.items() if not isinstance(value, Mapping)}
    ranges = {key: value for key, value in settings.items() if key not in literal and key != NESTED}
    if isinstance(inner := settings.get(NESTED), Mapping):
        literal[NESTED] = {key: value for key, value in inner.items() if not isinstance(value, Mapping)}
        ranges |= {f"{NESTED}.{key}": value for key, value in inner.items() if isinstance(value, Mapping)}
    return literal, ranges


def overrides(method: str) -> tuple[str, ...]:
    """What the method may have its own value of, beside its own settings: an own setting of the name comes first."""
    own = {field.name for field in dataclasses.fields(algorithms.load(method).settings)}
    return tuple(name for name in OVERRIDES if name not in own)


def check_ranges(
    where: str, given: Mapping[str, Any], settings: type, server: Mapping[str, Any] | None = None
) -> dict[str, Range]:
    """The ranges with their ends as numbers; ConfigError for one that is not allowed.

    settings: the method's settings dataclass; server: what is given of the server's step. Every end and choice must be
    allowed as a value. `1e-4`, which YAML reads as text, is a number here.
    """
    fields = {field.name: field for field in dataclasses.fields(settings)}
    inside = [key for key in given if key.startswith(f"{NESTED}.")]
    return {
        choose(where, key, (*fields, *OVERRIDES, *inside)): _check_range(
            f"{where}.{key}",
            range_,
            functools.partial(_check_inside, where, key, server=server or {})
            if key in inside
            else functools.partial(_check_end, where, key, settings=settings),
        )
        for key, range_ in given.items()
    }


def _check_inside(where: str, key: str, value: Any, *, server: Mapping[str, Any]) -> Any:
    """As `_check_end`, of a setting of the server's step."""
    name = key.removeprefix(f"{NESTED}.")
    try:
        step = check_server({**server, name: as_number(value, whole=False)})
    except ConfigError as problem:
        raise ConfigError(f"{where}.{problem}") from None
    return value if name == "optimizer" else getattr(step, name)


def _check_end(where: str, key: str, value: Any, *, settings: type) -> Any:
    """An end of a range, or a choice, as the setting takes it; ConfigError if it is not allowed as a value."""
    number = as_number(value, whole=False)
    if key not in OVERRIDES or key in {field.name for field in dataclasses.fields(settings)}:
        return getattr(check_settings(settings, {key: value}, where), key)
    own = next(field for field in dataclasses.fields(Run) if field.name == key)
    if not is_allowed(own, number):
        raise ConfigError(f"{where}.{key}: {shown(value)} is not allowed; {allowed(own)}")
    return float(number)


def _check_range(where: str, given: Mapping[str, Any], check_end: Callable[[Any], Any]) -> Range:
    scale, ends = next(iter(given.items())) if isinstance(given, Mapping) and len(given) == 1 else (None, None)
    if scale not in SCALES or not isinstance(ends, list):
        raise ConfigError(
            f"{where}: {shown(given)} is not allowed; a value, or a range to tune it in: {{log: [low, high]}},"
            " {linear: [low, high]} or {choices: [one, another]}"
        )
    values = [check_end(end) for end in ends]
    if scale == "choices":
        if len(values) < 2 or len(set(map(repr, values))) < len(values):
            raise ConfigError(f"{where}.choices: {shown(ends)} is not allowed; two different values or more")
    elif (
        len(values) != 2
        or any(isinstance(value, (str, bool)) for value in values)
        or not values[0] < values[1]
        or (scale == "log" and values[0] <= 0)
    ):
        positive = ", above 0" if scale == "log" else ""
        raise ConfigError(
            f"{where}.{scale}: {shown(ends)} is not allowed; [low, high], two ascending numbers{positive}"
        )
    return {scale: values}


def check_tuning(where: str, experiment: Mapping[str, Any]) -> None:
    """Raise ConfigError if the tuning is wrong of an experiment of the configuration that is right otherwise."""
    ranges = {name: split(settings or {})[1] for name, settings in experiment["methods"].items()}
    settings = experiment.get("tuning")
    for name, keys in ranges.items():
        if keys and settings is None:
            raise ConfigError(
                f"{where}.methods.{name}.{next(iter(keys))}: {shown(next(iter(keys.values())))} is a range, so"
                f" {where}.tuning is needed: at least {{seeds: [...]}}, other than the experiment's"
            )
    settings = settings or {}
    defaults = {"batches": Tuning.batches, "trials": Tuning.trials}
    for name in ("", *settings.get("methods", {})):
        budget = defaults | settings | settings.get("methods", {}).get(name, {})
        count = budget["batches"] * budget["trials"] * len(budget.get("seeds", ()))
        if count > MOST:
            place = f"{where}.tuning" + (f".methods.{name}" if name else "")
            raise ConfigError(f"{place}: batches x trials x seeds are {count} runs of a study; at most {MOST}")
    for seed in settings.get("seeds", []):
        if seed in experiment["seeds"]:
            raise ConfigError(
                f"{where}.tuning.seeds: {seed} is not allowed; other seeds than the experiment's,"
                f" {experiment['seeds']}, which report what was tuned"
            )
    for name in settings.get("methods", {}):
        choose(f"{where}.tuning.methods", name, [name for name, keys in ranges.items() if keys])


def leave_open(run: Run, ranges: Mapping[str, Any]) -> Run:
    """The run with these settings open: a study chooses them."""
    own = {key: value for key, value in run.method_settings.items() if key not in ranges}
    inside = {key: value for key, value in run.server.items() if f"{NESTED}.{key}" not in ranges}
    return dataclasses.replace(run, method_settings=own, server=inside, tuned=dict.fromkeys(ranges))
