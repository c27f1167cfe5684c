"""What a configuration says, as its keys take it: one rule for numbers, wherever one is wanted.

YAML 1.1 reads 5e-2 and 1e3, which have no point or no sign, as text; here they are numbers. And of nested values given
with --config Snakemake makes text of all: `--config 'checkpoint={seconds: 10}'`. What is not meant stays what it is,
and is refused by the check.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import yaml

from flare import algorithms, models
from flare.config.key import item_kind
from flare.config.levels import Experiment, Sweep, Tuning, keys
from flare.config.ranges import SCALES
from flare.config.reading import parse
from flare.config.run import OVERRIDES, Run
from flare.errors import ConfigError
from flare.settings import as_number

_FIELDS = {field.name: field for field in dataclasses.fields(Run)}


def as_meant(config: Any, given: Any = None) -> Any:
    """A copy of the configuration with its numbers as numbers. given: the part of it that --config gave, all text."""
    return _level(Sweep, config, given)


def _level(level: type, config: Any, given: Any) -> Any:
    """A level of the configuration, whose keys are the fields of a dataclass."""
    if not isinstance(config, Mapping):
        return config
    fields = keys(level)
    out = {}
    for key, value in config.items():
        said, field = _part(given, key), fields.get(key)
        if field is None:
            out[key] = value
        elif level is Sweep and key == "experiments":
            out[key] = _each(value, said, _experiment)
        elif "level" in field.metadata:
            out[key] = _level(field.metadata["level"], value, said)
        elif level is Tuning and key == "methods":
            out[key] = _each(value, said, lambda own, part: _level(Tuning, own, part))
        else:
            out[key] = _value(value, item_kind(field), said)
    return out


def _experiment(config: Any, given: Any) -> Any:
    if not isinstance(config, Mapping):
        return config
    out = _level(Experiment, config, given)
    named = {
        "model_settings": lambda: models.load(config["model"]).Settings,
        "partition": lambda: _scheme(config["partition"]),
        "schedule": lambda: _schedule(config["schedule"]),
    }
    for key, settings in named.items():
        if key in config:
            out[key] = _settings(config[key], _part(given, key), _of(settings))
    methods, said = config.get("methods"), _part(given, "methods")
    if isinstance(methods, Mapping):
        out["methods"] = {
            name: _settings(own, _part(said, name), _of(lambda name=name: algorithms.load(name).settings))
            for name, own in methods.items()
        }
    return out


def _scheme(given: Any) -> type:
    from flare.datasets import partitions  # NumPy, which whoever only reads a Run does without

    settings: type = partitions.load(given.get("scheme", "contiguous")).Settings
    return settings


def _schedule(given: Any) -> type:
    from flare.engine import schedules

    settings: type = schedules.load(str(given["name"])).Settings
    return settings


def _of(find: Any) -> dict[str, type]:
    """The kinds of some settings; none if what they belong to is not there, which the check says."""
    try:
        own = {field.name: type(field.default) for field in dataclasses.fields(find())}
    except (ConfigError, KeyError, AttributeError, TypeError):
        own = {}
    return own | {name: item_kind(_FIELDS[name]) for name in OVERRIDES}


def _settings(config: Any, given: Any, kinds: Mapping[str, type]) -> Any:
    """Settings of a plug-in, each a value or a range of values."""
    if config in ("", "null", "~") and given == config:
        return None
    if not isinstance(config, Mapping):
        return config
    out = {}
    for key, value in config.items():
        said, kind = _part(given, key), kinds.get(key, str)
        if isinstance(value, Mapping):
            out[key] = {
                scale: _value(ends, kind, _part(said, scale)) if scale in SCALES else ends
                for scale, ends in value.items()
            }
        else:
            out[key] = _value(value, kind, said)
    return out


def _each(config: Any, given: Any, read_one: Any) -> Any:
    if not isinstance(config, Mapping):
        return config
    return {name: read_one(value, _part(given, name)) for name, value in config.items()}


def _part(given: Any, key: Any) -> Any:
    return given.get(key) if isinstance(given, Mapping) else None


def _value(value: Any, kind: type, given: Any) -> Any:
    """The value, or each of a list, as that kind; text of --config as YAML would read it."""
    if isinstance(value, list):
        return [_value(item, kind, item if given is not None else None) for item in value]
    if not isinstance(value, str) or kind not in (int, float, bool):
        return None if given == value and value in ("null", "~") else value
    if kind is not bool:
        value = as_number(value, whole=kind is int)
    if given is None or not isinstance(value, str):
        return value
    try:
        found = parse(value)
    except (yaml.YAMLError, ValueError, RecursionError):
        return value
    wanted = {int: (int,), float: (int, float), bool: (bool,)}[kind]
    return found if type(found) in wanted or (found is None and value) else value
