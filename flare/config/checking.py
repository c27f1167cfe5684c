"""What is allowed in a configuration; anything else is one line that says what would be."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from flare import algorithms, models
from flare.config.key import allowed
from flare.config.levels import arranged
from flare.config.ranges import check_ranges, check_tuning, overrides, split
from flare.config.reading import DEPTH, VALUES, read
from flare.config.run import AXES, NESTED, Run
from flare.config.schema import refusal
from flare.config.written import as_meant
from flare.engine.server import check as check_server
from flare.engine.server import is_today
from flare.errors import ConfigError, choose, shown
from flare.settings import check_keep, check_settings

# A longer text is not one of a configuration.
_LENGTH = 1000
# Snakemake takes minutes for more runs.
_RUNS = 1_000_000
CHECKED = {name: field for name, field in arranged(Run).items() if "check" in field.metadata}


def load(path: Path) -> dict[str, Any]:
    """Read and check a configuration file."""
    config: dict[str, Any] = as_meant(read(path))
    check(config, str(path))
    return config


def check(config: Any, source: str = "config") -> None:
    """Raise ConfigError, one line, for the first thing in the configuration that is not allowed."""
    try:
        check_values(config)
        if refused := refusal(config):
            raise ConfigError(refused)
        for key in ("data", "results"):
            _check_folder(key, config.get(key, key))
        seen: dict[str, str] = {}
        for name, experiment in config["experiments"].items():
            if (other := seen.setdefault(name.lower(), name)) != name:
                allowed = "another name, as some disks take the two for one folder"
                raise ConfigError(f"experiments: {name!r} is not allowed beside {other!r}; {allowed}")
            _check_experiment(f"experiments.{name}", experiment)
    except ConfigError as problem:
        raise ConfigError(f"{source}: {problem}") from None


def _check_folder(key: str, folder: str) -> None:
    """Refuse a folder whose files Snakemake would know by two names, or that is not for the sweep alone."""
    parts = Path(os.path.normpath(folder)).parts
    if not parts or parts[0] == "//" or parts == ("/",) or ".snakemake" in parts:
        raise ConfigError(
            f"{key}: {shown(folder)} is not allowed; a folder of its own, not '.', '/', '//...' or in .snakemake"
        )
    if any(len(part.encode()) > 255 for part in parts):
        raise ConfigError(f"{key}: {shown(folder)} is not allowed; at most 255 bytes between two slashes")


def check_folders(config: Mapping[str, Any], source: str = "config") -> None:
    """Raise ConfigError if something on the disk is in the way of the folders of a checked configuration, or if a data
    set that is there cannot be dealt as it asks.
    """
    for key in ("data", "results"):
        folder = Path(config.get(key, key))
        for path in (folder, *folder.parents):
            try:
                problem = "" if stat.S_ISDIR(path.stat().st_mode) else "not a folder"
            except (FileNotFoundError, NotADirectoryError):
                if not path.is_symlink():
                    continue
                problem = "a link to nothing"
            except OSError as error:
                problem = f"out of reach ({error.strerror})"
            if problem:
                raise ConfigError(f"{source}: {key}: {str(folder)!r} is not allowed, as {path} is {problem}; a folder")
            break
    check_splits(config, source)


def check_splits(config: Mapping[str, Any], source: str = "config") -> None:
    """Raise ConfigError if a data set that is there cannot be dealt as a checked configuration asks."""
    from flare import datasets
    from flare.datasets import partitions

    for name, experiment in config["experiments"].items():
        try:
            manifest = datasets.read_manifest(experiment["dataset"], Path(config.get("data", "data")))
            samples = int(manifest["files"]["train.npz"]["shapes"]["targets"][0])
        except (OSError, ValueError, LookupError, TypeError):
            continue  # not fetched yet, or not whole, which its reader says
        own = datasets.module(experiment["dataset"])
        try:
            partitions.check_dealt(experiment.get("partition", {}), experiment["clients"], samples, own.CLASSES)
        except ConfigError as problem:
            raise ConfigError(f"{source}: experiments.{name}.{problem}") from None


def check_values(config: Any) -> None:
    """Refuse what no key takes: neither what follows nor a message then needs to fear it."""
    rest: list[tuple[str, Any, int]] = [("", config, 0)]
    for count in itertools.count():
        if not rest:
            return
        where, value, depth = rest.pop()
        key = where or "(top level)"
        if count > VALUES or depth > DEPTH:
            allowed = f"at most {VALUES} values, {DEPTH} levels deep"
            raise ConfigError(f"{key[:60]}: too many values, or a value that holds itself; {allowed}")
        if isinstance(value, Mapping):
            for name, item in value.items():
                if not isinstance(name, str):
                    raise ConfigError(f"{key}: the key {shown(name)[:60]} is not allowed; text, so write it in quotes")
                if not name.isprintable() or len(name) > _LENGTH:
                    raise ConfigError(f"{key}: the key {shown(name)} is not allowed; letters, digits, '_', '.' and '-'")
                rest.append((f"{where}.{name[:64]}".lstrip("."), item, depth + 1))
        elif isinstance(value, list):
            rest += [(f"{where}.{place}", item, depth + 1) for place, item in enumerate(value)]
        elif isinstance(value, str) and not (value.isprintable() and len(value) <= _LENGTH):
            allowed = f"at most {_LENGTH} characters that can be printed"
            raise ConfigError(f"{key}: {shown(value)} is not allowed; {allowed}")
        elif isinstance(value, int) and abs(value) >= 10**18:
            raise ConfigError(f"{key}: a number of more than 18 digits is not allowed; a smaller one")
        elif value is not None and not isinstance(value, str | int | float):
            allowed = "text, a number, true, false, null, a list or a mapping"
            raise ConfigError(f"{key}: a {type(value).__name__} is not allowed; {allowed}")


def _check_experiment(where: str, experiment: Mapping[str, Any]) -> None:
    """Refuse what the schema lets through in an experiment: names, settings, and keys that do not go together."""
    from flare import datasets  # NumPy, which whoever only reads a Run does without

    choose(f"{where}.dataset", experiment["dataset"], datasets.names())
    choose(f"{where}.model", experiment["model"], models.names())
    model = models.load(experiment["model"])
    check_settings(model.Settings, experiment.get("model_settings", {}), f"{where}.model_settings")
    try:
        _check_data(experiment, datasets.module(experiment["dataset"]))
        for name, field in CHECKED.items():
            if name in experiment:
                field.metadata["check"](experiment[name])
    except ConfigError as problem:
        raise ConfigError(f"{where}.{problem}") from None
    available = experiment.get("available")
    if available is not None and available > experiment["clients"]:
        raise ConfigError(f"{where}.available: {available} is not allowed; at most clients, {experiment['clients']}")
    for keep in experiment.get("keep", []):
        check_spelling(f"{where}.keep", keep)
    for name, settings in experiment["methods"].items():
        _check_method(where, experiment, name, settings or {})
    axes = [experiment[key] for key in ("methods", *(axis.metadata["axis"] for axis in AXES)) if key in experiment]
    if (count := math.prod(map(len, axes))) > _RUNS:
        raise ConfigError(f"{where}: methods x keep x local_epochs x seeds are {count} runs; at most {_RUNS}")
    check_tuning(where, experiment)


def _check_data(experiment: Mapping[str, Any], source: ModuleType) -> None:
    """Refuse what does not fit the data set: the model, what is done to its inputs, how it is dealt."""
    from flare import datasets
    from flare.datasets import partitions
    from flare.datasets._fitting import fitted

    is_text = datasets.kind(source) == "text"
    shape = fitted(source.SHAPE, experiment.get("pad_to"), experiment.get("channels"))
    models.check(experiment["model"], source, shape)
    if "sample_text" in experiment and not is_text:
        raise ConfigError(f"sample_text: {experiment['sample_text']} is not allowed; the data set is no text")
    partitions.check(experiment.get("partition", {}), source)


def _check_method(where: str, experiment: Mapping[str, Any], name: str, settings: Mapping[str, Any]) -> None:
    """Refuse a method that is not there, its settings and ranges, and one that lacks a keep."""
    choose(f"{where}.methods", name, algorithms.names())
    method = algorithms.load(name)
    literal, ranges = split(settings)
    _check_server(f"{where}.methods.{name}", literal)
    ranges = check_ranges(f"{where}.methods.{name}", ranges, method.settings, literal.get(NESTED))
    own = {key: value for key, value in literal.items() if key not in overrides(name)}
    found = check_settings(method.settings, own, f"{where}.methods.{name}")
    for given in _together(found, ranges):
        for training in _trainings(experiment, name, literal, ranges):
            algorithms.check(name, given, training, f"{where}.methods.{name}: ")
    if not method.dense and not experiment.get("keep"):
        raise ConfigError(f"{where}: 'keep' is missing; method {name} compresses, so say which fractions are sent")


def _check_server(where: str, literal: Mapping[str, Any]) -> None:
    """Refuse a method's own server's step that is none."""
    server = literal.get(NESTED, {})
    if not isinstance(server, Mapping):
        raise ConfigError(f"{where}.server: {shown(server)} is not allowed; {allowed(arranged(Run)[NESTED])}")
    try:
        check_server(server)
    except ConfigError as problem:
        raise ConfigError(f"{where}.{problem}") from None


def _together(found: Any, ranges: Mapping[str, Any]) -> Iterator[Any]:
    """The method's settings, and those with each choice or end of a range in its place."""
    yield found
    for key, range_ in ranges.items():
        for value in next(iter(range_.values())) if hasattr(found, key) else ():
            yield dataclasses.replace(found, **{key: value})


def _trainings(
    experiment: Mapping[str, Any], method: str, literal: Mapping[str, Any], ranges: Mapping[str, Any]
) -> Iterator[algorithms.Training]:
    """What the method's own check is told: once for every end of a range of the local momentum."""
    used = {**experiment, **{key: value for key, value in literal.items() if key in overrides(method)}}
    stepping = any(key.startswith(f"{NESTED}.") for key in ranges) or not is_today(check_server(used.get(NESTED, {})))
    tuned = ranges.get("momentum") if "momentum" in overrides(method) else None
    for momentum in next(iter(tuned.values())) if tuned else [used.get("momentum", Run.momentum)]:
        yield algorithms.Training(float(momentum), stepping)


def check_spelling(key: str, keep: str) -> None:
    """Refuse a keep that is not spelt in the one way a folder is named: 1e-3, not 0.001; 0.5; 1; dense."""
    if keep == "dense":
        return
    fraction = check_keep(keep, key)
    if fraction is None or fraction < 1e-300:
        raise ConfigError(f"{key}: {shown(keep)} is not allowed; at least '1e-300'")
    mantissa, exponent = f"{fraction:.0e}".split("e")
    short = f"{mantissa}e{int(exponent)}"
    canonical = (
        "1"
        if fraction == 1
        else short
        if fraction < 0.1 and float(short) == fraction
        else f"{fraction:.12f}".rstrip("0")
    )
    if float(canonical) != fraction:
        raise ConfigError(f"{key}: {shown(keep)} is not allowed; at most 12 digits after the point, or '1e-5'")
    if keep != canonical:
        raise ConfigError(f"{key}: {keep!r} is not allowed; write it {canonical!r}, so that a run has one name")


def check_run(run: Run) -> None:
    """Raise ConfigError if a configuration could not have asked for this run."""
    experiment: dict[str, Any] = {}
    for name, field in arranged(Run).items():
        value = getattr(run, field.name)
        is_given = value is not None and (value or field.default_factory not in (dict, list))
        if is_given:
            value = dict(value) if isinstance(value, Mapping) else value
            experiment[name] = [value] if "axis" in field.metadata else value
    experiment["methods"] = {run.method: dict(run.method_settings)}
    check({"experiments": {run.experiment: experiment}}, "train")
    method = algorithms.load(run.method)
    if method.dense and check_keep(run.keep) is not None:
        raise ConfigError(f"train: keep: {run.keep!r} is not allowed; 'dense', as {run.method} sends everything")
    if (run.trial is None) != (run.validation is None):
        raise ConfigError("train: trial, validation: one without the other; a trial is measured on held-out samples")
    own = {field.name: field.default for field in dataclasses.fields(method.settings)} | dict(run.method_settings)
    own |= {name: getattr(run, name) for name in overrides(run.method)}
    own |= {f"{NESTED}.{key}": value for key, value in run.server.items()}
    for key, value in run.tuned.items():
        choose("train: tuned", key, own)
        if value != own[key]:
            raise ConfigError(f"train: tuned: {key}: {shown(value)} is not allowed; the run's value, {shown(own[key])}")
