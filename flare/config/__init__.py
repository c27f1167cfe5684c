"""The configuration: what is allowed, said in one line where it is not, and the runs it asks for.

Imports neither torch nor pandas: Snakemake reads this every time it starts.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import os
import re
import shlex
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from flare.errors import ConfigError, choose, shown
from flare.settings import check_keep, check_settings, is_number

SCHEMA = Path(__file__).with_name("schema.yaml")
# What a method may have its own value of, beside its own settings.
OVERRIDES = ("learning_rate", "momentum")


# A configuration with more values than this, or deeper, is no configuration: YAML can refer to itself.
_VALUES, _DEPTH, _LENGTH = 100_000, 20, 1000
# YAML takes seconds for a larger file; and Snakemake minutes for more runs.
_BYTES, _RUNS = 256_000, 1_000_000


# JSON has no infinity, and takes 3.0 for a whole number; here a number is finite and a whole number an int.
Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda _, value: isinstance(value, int) and not isinstance(value, bool),
            "number": lambda _, value: is_number(value),
        }
    ),
)


@dataclass(frozen=True)
class Run:
    """Everything that decides the result of one run; what does not (paths, device, threads, W&B) is not here.

    The fields are the keys of config/README.md. `keep` is the string that names the run's folder.
    """

    experiment: str
    dataset: str
    model: str
    method: str
    keep: str
    local_epochs: int
    seed: int
    clients: int
    rounds: int
    batch_size: int
    learning_rate: float
    momentum: float = 0.0
    evaluate_every: int = 10
    available: int | None = None
    fidelity: str = "paper"
    double_softmax: bool = False
    shuffle: bool = False
    pad_to: int | None = None
    channels: int | None = None
    sample_text: int | None = None
    staleness: bool = False
    tf32: bool = False
    engine: str | None = None
    partition: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"scheme": "contiguous"})
    model_settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    method_settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # The settings that a study chose, by key; None while it has yet to: such a setting is in no other field.
    tuned: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # A trial of the cell's study: its number, and the share of every client's samples that is kept to evaluate on.
    trial: int | None = None
    validation: float | None = None

    @property
    def cell(self) -> str:
        """The run without its seed; also the name of the study that tunes it."""
        return f"{self.experiment}/{self.method}/keep-{self.keep}/epochs-{self.local_epochs}"

    @property
    def folder(self) -> str:
        """Where the run lies below results/runs; a trial's name."""
        return f"{self.cell}/{'' if self.trial is None else f'trial-{self.trial}/'}seed-{self.seed}"

    def flags(self, *names: str) -> str:
        """The run, or those fields of it, as arguments of `python -m flare train`, quoted for a shell."""
        words = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is None or value is False or value == {} or (names and field.name not in names):
                continue
            if self.tuned.get(field.name, ...) is None:
                continue
            words.append("--" + field.name.replace("_", "-"))
            if isinstance(value, Mapping):
                words += [f"{key}={yaml_scalar(item)}" for key, item in value.items()]
            elif value is not True:
                words.append(str(value))
        return shlex.join(words)


def yaml_scalar(value: Any) -> str:
    """The value as YAML reads it back: numbers with all their digits, and a word that it would take for more quoted."""
    if isinstance(value, float):
        digits = repr(value)  # 1e-05 without a point would be text
        return digits.replace("e", ".0e") if "e" in digits and "." not in digits else digits
    if isinstance(value, str):
        try:
            return value if yaml.safe_load(value) == value else json.dumps(value)
        except ValueError:  # a date that is none
            return json.dumps(value)
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice, of which YAML would quietly take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            said = (key.tag, key.value if isinstance(key, yaml.ScalarNode) else id(key))
            if said in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {shown(key.value)} is there twice; once in its mapping", key.start_mark
                )
            seen.add(said)
        return super().construct_mapping(node, deep)

    def fetch_flow_collection_start(self, *given: Any) -> None:
        """Ends what is nested in brackets without end, at which the scanner takes the square of the depth."""
        if self.flow_level > 10 * _DEPTH:
            raise RecursionError
        super().fetch_flow_collection_start(*given)


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    """Refuses 010 and 1:30, which YAML 1.1 would quietly read as 8 and 90."""
    number: int = loader.construct_yaml_int(node)
    if ":" in node.value or re.fullmatch(r"[-+]?0[0-9_]+", node.value):
        said = f"{shown(node.value)} would be read as {shown(number)}; write the number plainly, or text in quotes"
        raise yaml.constructor.ConstructorError(None, None, said, node.start_mark)
    return number


_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)


def load(path: Path) -> dict[str, Any]:
    """Read and check a configuration file."""
    config = read(path)
    check(config, str(path))
    checked: dict[str, Any] = config
    return checked


def read(path: Path) -> Any:
    """What is in a configuration file, yet to be checked; ConfigError where that is not UTF-8 or not YAML."""
    try:
        with open(path, "rb") as file:
            content = file.read(_BYTES + 1)
        if len(content) > _BYTES:
            raise ConfigError(f"{path}: more than {_BYTES} bytes; a configuration, at most that long")
        return parse(content.decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; a file with a configuration") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply; at most {_DEPTH} levels") from None
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        said = f"line {mark.line + 1}: {getattr(error, 'problem', '')}" if mark else str(error)
        raise ConfigError(f"{path}: {' '.join(said.split())[:300]}; YAML in UTF-8 is expected") from None


def parse(text: str) -> Any:
    """The value of a YAML text; YAMLError, ValueError or RecursionError where it is none, or a key is there twice."""
    try:
        return yaml.load(text, _Loader)
    except (LookupError, AttributeError, TypeError) as error:  # what YAML makes of !!bool x, !!int "" or !!timestamp x
        raise ValueError("a tag (!!) that its value does not fit") from error


def check(config: Any, source: str = "config") -> None:
    """Raise ConfigError, one line, for the first thing in the configuration that is not allowed."""
    try:
        check_values(config)
        error = jsonschema.exceptions.best_match(_validator().iter_errors(config))
        if error:
            raise ConfigError(_in_words(error))
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
    """Refuse a folder whose files Snakemake would have under two names, or that is not one's own to keep things in."""
    parts = Path(os.path.normpath(folder)).parts
    if not parts or parts[0] == "//" or parts == ("/",) or ".snakemake" in parts:
        raise ConfigError(
            f"{key}: {shown(folder)} is not allowed; a folder of its own, not '.', '/', '//...' or in .snakemake"
        )
    if any(len(part.encode()) > 255 for part in parts):
        raise ConfigError(f"{key}: {shown(folder)} is not allowed; at most 255 bytes between two slashes")


def check_folders(config: Mapping[str, Any], source: str = "config") -> None:
    """Raise ConfigError where something on the disk is in the way of the folders of a checked configuration."""
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


@functools.cache
def _validator() -> Any:
    fast = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # where libyaml is
    return Validator(yaml.load(SCHEMA.read_text(encoding="utf-8"), fast))


def check_values(config: Any) -> None:
    """What no key takes, wherever it is: so that what follows needs no fear of it, and neither does a message."""
    rest: list[tuple[str, Any, int]] = [("", config, 0)]
    for count in itertools.count():
        if not rest:
            return
        where, value, depth = rest.pop()
        key = where or "(top level)"
        if count > _VALUES or depth > _DEPTH:
            allowed = f"at most {_VALUES} values, {_DEPTH} levels deep"
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


def _in_words(error: jsonschema.ValidationError) -> str:
    key = ".".join(str(part)[:64] for part in error.absolute_path) or "(top level)"
    schema: Any = error.schema
    if error.validator == "additionalProperties":
        unknown = next(name for name in error.instance if name not in schema["properties"])
        try:
            choose(key, unknown, schema["properties"])
        except ConfigError as problem:
            return str(problem)
    if error.validator == "required":
        missing = next(name for name in schema["required"] if name not in error.instance)
        return f"{key}: {missing!r} is missing; needed are {', '.join(schema['required'])}"
    if error.validator == "enum":
        try:
            choose(key, error.instance, [str(word) for word in schema["enum"]])
        except ConfigError as problem:
            return str(problem)
    description = " ".join(str(schema.get("description", "")).split())
    return f"{key}: {shown(error.instance)} is not allowed; {description or error.message}"


def _check_experiment(where: str, experiment: Mapping[str, Any]) -> None:
    from flare import algorithms, datasets, models, tuning
    from flare.datasets import partition
    from flare.datasets._fitting import fitted

    choose(f"{where}.dataset", experiment["dataset"], datasets.names())
    choose(f"{where}.model", experiment["model"], models.names())
    model = models.load(experiment["model"])
    check_settings(model.Settings, experiment.get("model_settings", {}), f"{where}.model_settings")
    source = datasets.module(experiment["dataset"])
    try:
        shape = fitted(source.SHAPE, experiment.get("pad_to"), experiment.get("channels"))
        models.check(experiment["model"], source, shape)
        if "sample_text" in experiment and not hasattr(source, "VOCABULARY"):
            raise ConfigError(f"sample_text: {experiment['sample_text']} is not allowed; the data set is no text")
    except ConfigError as problem:
        raise ConfigError(f"{where}.{problem}") from None
    try:
        scheme = partition.check(experiment.get("partition", {}))
        if hasattr(source, "VOCABULARY") and isinstance(scheme, partition.Dirichlet | partition.Shards):
            given = experiment["partition"]["scheme"]
            raise ConfigError(f"partition: scheme: {given!r} is not allowed for text; contiguous or natural")
        if isinstance(scheme, partition.Natural) and not getattr(source, "NATURAL", False):
            allowed = "contiguous, dirichlet or shards, as the data set has no clients of its own"
            raise ConfigError(f"partition: scheme: 'natural' is not allowed; {allowed}")
        if isinstance(scheme, partition.Shards) and scheme.classes_per_client > source.CLASSES:
            given, most = scheme.classes_per_client, f"at most {source.CLASSES}, the data set's classes"
            raise ConfigError(f"partition: shards: classes_per_client: {given} is not allowed; {most}")
    except ConfigError as problem:
        raise ConfigError(f"{where}.{problem}") from None
    available = experiment.get("available")
    if available is not None and available > experiment["clients"]:
        raise ConfigError(f"{where}.available: {available} is not allowed; at most clients, {experiment['clients']}")
    for keep in experiment.get("keep", []):
        check_spelling(f"{where}.keep", keep)
    for name, settings in experiment["methods"].items():
        choose(f"{where}.methods", name, algorithms.names())
        method = algorithms.load(name)
        literal, ranges = tuning.split(settings or {})
        tuning.check_ranges(f"{where}.methods.{name}", ranges, method.settings)
        own = {key: value for key, value in literal.items() if key not in OVERRIDES}
        check_settings(method.settings, own, f"{where}.methods.{name}")
        if not method.dense and not experiment.get("keep"):
            raise ConfigError(f"{where}: 'keep' is missing; method {name} compresses, so say which fractions are sent")
    axes = (experiment[key] for key in ("methods", "seeds", "keep", "local_epochs") if key in experiment)
    if (count := math.prod(map(len, axes))) > _RUNS:
        raise ConfigError(f"{where}: methods x keep x local_epochs x seeds are {count} runs; at most {_RUNS}")
    tuning.check(where, experiment)


def check_spelling(key: str, keep: str) -> None:
    """Refuse a keep whose folder would have a second name: 1e-3, not 0.001; 0.5; 1; dense."""
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


def runs(config: Mapping[str, Any]) -> list[Run]:
    """Every run that a checked configuration asks for, in the order of the file."""
    from flare import algorithms, tuning

    out = []
    shared = {field.name for field in dataclasses.fields(Run)} - {"keep", "local_epochs", "seed", "method"}
    for name, experiment in config["experiments"].items():
        common = {key: value for key, value in experiment.items() if key in shared}
        for method, settings in experiment["methods"].items():
            settings, ranges = tuning.split(settings or {})
            overrides = {key: settings.pop(key) for key in OVERRIDES if key in settings}
            keeps = ["dense"] if algorithms.load(method).dense else experiment["keep"]
            epochs = experiment.get("local_epochs", [1])
            first = Run(
                **{**common, **overrides},
                experiment=name,
                method=method,
                method_settings=settings,
                keep=keeps[0],
                local_epochs=epochs[0],
                seed=experiment["seeds"][0],
            )
            first = tuning.leave_open(with_defaults(first), ranges)
            out += [
                dataclasses.replace(first, keep=keep, local_epochs=local_epochs, seed=seed)
                for keep, local_epochs, seed in itertools.product(keeps, epochs, experiment["seeds"])
            ]
    return out


def with_defaults(run: Run) -> Run:
    """The run with every setting of its model and its method spelt out, so that its record says what was used."""
    from flare import algorithms, models

    model = check_settings(models.load(run.model).Settings, run.model_settings, "model_settings")
    method = check_settings(algorithms.load(run.method).settings, run.method_settings, "method_settings")
    return dataclasses.replace(
        run, model_settings=dataclasses.asdict(model), method_settings=dataclasses.asdict(method)
    )


def check_run(run: Run) -> None:
    """Raise ConfigError where a configuration could not have asked for this run."""
    experiment = {
        key: dict(value) if isinstance(value, Mapping) else value
        for key, value in dataclasses.asdict(run).items()
        if value is not None
        and key not in ("experiment", "method", "method_settings", "seed", "tuned", "trial", "validation")
    }
    experiment |= {
        "local_epochs": [run.local_epochs],
        "keep": [run.keep],
        "seeds": [run.seed],
        "methods": {run.method: dict(run.method_settings)},
    }
    check({"experiments": {run.experiment: experiment}}, "train")
    from flare import algorithms

    method = algorithms.load(run.method)
    if method.dense and check_keep(run.keep) is not None:
        raise ConfigError(f"train: keep: {run.keep!r} is not allowed; 'dense', as {run.method} sends everything")
    if (run.trial is None) != (run.validation is None):
        raise ConfigError("train: trial, validation: one without the other; a trial is measured on held-out samples")
    own = {field.name: field.default for field in dataclasses.fields(method.settings)} | dict(run.method_settings)
    own |= {name: getattr(run, name) for name in OVERRIDES}
    for key, value in run.tuned.items():
        choose("train: tuned", key, own)
        if value != own[key]:
            raise ConfigError(f"train: tuned: {key}: {shown(value)} is not allowed; the run's value, {shown(own[key])}")
