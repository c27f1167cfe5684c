"""The JSON schema of a configuration, made of the metadata of its keys, and its errors in one line.

schema.yaml beside this file is the same, for a reader and for editors: `make docs` writes it, a test compares the two.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flare.config.key as key
from flare.config.levels import Experiment, Sweep, Tuning, keys
from flare.config.run import OVERRIDES
from flare.errors import ConfigError, choose, shown
from flare.settings import EXPERIMENT_PATTERN, is_number

if TYPE_CHECKING:
    from jsonschema import ValidationError

SCHEMA = Path(__file__).with_name("schema.yaml")


def build() -> dict[str, Any]:
    """The whole schema. A description says what is allowed: it is printed after "is not allowed;"."""
    experiment = _level(Experiment, "a mapping with the settings of one experiment")
    experiment["properties"]["methods"] |= {"minProperties": 1, "additionalProperties": _method()}
    tuning = experiment["properties"]["tuning"]
    own = {name: key.schema(field) for name, field in keys(Tuning).items() if field.metadata.get("per_method")}
    tuning["properties"]["methods"]["additionalProperties"] = _mapping(own)
    top = _level(Sweep, "a mapping with at least the key experiments")
    top["properties"]["experiments"] |= {
        "minProperties": 1,
        "propertyNames": {
            "pattern": f"^{EXPERIMENT_PATTERN}$",
            "description": "a name of letters, digits, '_', '.' and '-', at most 64, the first a letter or digit",
        },
        "additionalProperties": {"$ref": "#/$defs/experiment"},
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | top | {"$defs": {"experiment": experiment}}


def _method() -> dict[str, Any]:
    """A method in an experiment. The other settings are its own, which `check_settings` checks, and a mapping in place
    of a value is a range, which `check_ranges` checks.
    """
    places = {name: f"#/$defs/experiment/properties/{name}" for name in OVERRIDES}
    return {
        "type": ["object", "null"],
        "description": f"a mapping with the method's own settings, {' or '.join(OVERRIDES)}; {{}} for the defaults",
        "properties": {name: {"if": {"type": "object"}, "else": {"$ref": place}} for name, place in places.items()},
    }


def _level(level: type, allowed: str = "") -> dict[str, Any]:
    """The schema of a level of the configuration."""
    fields = keys(level)
    properties = {
        name: _level(field.metadata["level"]) if "level" in field.metadata else key.schema(field)
        for name, field in fields.items()
    }
    return _mapping(properties, [name for name, field in fields.items() if key.is_needed(field)], allowed)


def _mapping(properties: dict[str, Any], required: list[str] | None = None, allowed: str = "") -> dict[str, Any]:
    """The schema of a mapping with these keys and no others."""
    return {
        "type": "object",
        "description": allowed or f"a mapping with the keys {', '.join(properties)}",
        "additionalProperties": False,
        **({"required": required} if required else {}),
        "properties": properties,
    }


def refusal(config: Any) -> str | None:
    """One line for what the schema refuses first: the key, its value and what is allowed; None if nothing."""
    from jsonschema.exceptions import best_match

    error = best_match(_of_all().iter_errors(config))
    return _in_words(error) if error else None


def is_allowed(field: key.Field, value: Any) -> bool:
    """Whether the schema of a field allows the value."""
    return bool(_validator()(key.schema(field)).is_valid(value))


@functools.cache
def _of_all() -> Any:
    return _validator()(build())


@functools.cache
def _validator() -> Any:
    """JSON has no infinity, and takes 3.0 for a whole number; here a number is finite and a whole number an int."""
    import jsonschema  # as long as all else that this package imports, and only who checks needs it

    checker = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda _, value: isinstance(value, int) and not isinstance(value, bool),
            "number": lambda _, value: is_number(value),
        }
    )
    return jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=checker)


def _in_words(error: ValidationError) -> str:
    where = ".".join(str(part)[:64] for part in error.absolute_path) or "(top level)"
    schema: Any = error.schema
    if error.validator == "additionalProperties":
        unknown = next(name for name in error.instance if name not in schema["properties"])
        try:
            choose(where, unknown, schema["properties"])
        except ConfigError as problem:
            return str(problem)
    if error.validator == "required":
        missing = next(name for name in schema["required"] if name not in error.instance)
        return f"{where}: {missing!r} is missing; needed are {', '.join(schema['required'])}"
    if error.validator == "enum":
        try:
            choose(where, error.instance, [str(word) for word in schema["enum"]])
        except ConfigError as problem:
            return str(problem)
    description = " ".join(str(schema.get("description", "")).split())
    return f"{where}: {shown(error.instance)} is not allowed; {description or error.message}"
