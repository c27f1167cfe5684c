"""A key of the configuration: a field of a dataclass whose metadata says, once, what it means and what it may be.

The JSON schema, the errors, the tables of config/README.md and the arguments of the command line follow from it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypedDict, Unpack

Field = dataclasses.Field[Any]

_KINDS: dict[str, type] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": bool,
    "list": list,
    "Mapping": dict,
    "Sequence": list,
    "dict": dict,
}
_JSON: dict[type, str] = {str: "string", int: "integer", float: "number", bool: "boolean", dict: "object"}
_NOUNS: dict[type, str] = {str: "text", int: "a whole number", float: "a number", dict: "a mapping"}
_PLURALS: dict[type, str] = {str: "words", int: "whole numbers", float: "numbers"}


class Facts(TypedDict, total=False):
    """What metadata may say beside the meaning."""

    # What is allowed. low and high are allowed, above and below are not. In a list they hold for each of its values.
    low: float
    high: float
    above: float
    below: float
    words: tuple[str, ...]  # one of these
    pattern: str  # a regular expression for the whole text
    null: bool  # null, too
    required: tuple[str, ...]  # of a mapping: keys that it must have
    level: type  # of a mapping: the dataclass whose fields are its keys
    check: Callable[[Any], object]  # raises ConfigError, which begins with the key, for what the others let through
    # How that is said: an error prints `allowed` after "is not allowed;". {low} and the others stand for the numbers.
    unit: str
    allowed: str
    allowed_list: str
    # How config/README.md says it, if not as its default and range are.
    symbol: str
    default: str
    range: str
    # What a field of Run is in the configuration. axis: the key of a list, of which a run has one value.
    axis: str
    axis_default: list[Any]
    after: str  # the field that it follows in the schema and in config/README.md; without, they go by Run's order
    hidden: bool  # not a key of an experiment
    per_method: bool  # may be given for each method, too
    # The simulation takes it, as an argument of that name; True: of its own.
    engine: bool | str


class Numbers(TypedDict):
    """The range of a whole number, and how it is said."""

    low: int
    high: int
    allowed: str
    allowed_list: str


# What a seed may be, wherever one is given: what NumPy and torch both take.
SEED: Numbers = {
    "low": 0,
    "high": 2**32 - 1,
    "allowed": "a whole number, {low} to {high}",
    "allowed_list": "a list of different whole numbers, each {low} or more",
}


def key(doc: str, **facts: Unpack[Facts]) -> dict[str, Any]:
    """The metadata of a field: its meaning with its unit, a row of config/README.md, and what it may be."""
    return {"doc": doc, **facts}


def kind(field: Field) -> type:
    """What a value is: str, int, float, bool, list or dict. For a field with an axis: of the run's own value."""
    named = field.type if isinstance(field.type, str) else field.type.__name__
    return dict if "level" in field.metadata else _KINDS[named.split(" ")[0].split("[")[0]]


def item_kind(field: Field) -> type:
    """The kind of a value, or of each value of a list."""
    return _KINDS[str(field.type).split("[")[1].rstrip("]")] if kind(field) is list else kind(field)


def is_list(field: Field) -> bool:
    """Whether the configuration gives a list: of which a run has one value, or the whole."""
    return "axis" in field.metadata or kind(field) is list


def name(field: Field) -> str:
    """What the configuration calls it."""
    return str(field.metadata.get("axis", field.name))


def is_needed(field: Field) -> bool:
    """Whether the configuration must give it."""
    has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    return not has_default and not {"axis_default", "default"} & set(field.metadata)


def allowed(field: Field) -> str:
    """What a value may be, or each value of a list, as an error says it."""
    facts, of = field.metadata, item_kind(field)
    if "allowed" in facts:
        return _filled(facts["allowed"], field)
    if "words" in facts:
        *others, last = facts["words"]
        return f"{', '.join(others)} or {last}" if others else str(last)
    if of is bool:
        return "true or false"
    bounds = {"low": "at least", "above": "above", "high": "at most", "below": "below"}
    said = " and ".join(f"{words} {facts[bound]}" for bound, words in bounds.items() if bound in facts)
    unit = f" of {facts['unit']}" if "unit" in facts else ""
    return f"{_NOUNS[of]}{unit}{', ' if said else ''}{said}"


def schema(field: Field) -> dict[str, Any]:
    """The JSON schema of what the configuration may give."""
    if not is_list(field):
        return _one(field)
    said = field.metadata.get(
        "allowed_list", f"a list of different {_PLURALS[item_kind(field)]}, each {allowed(field)}"
    )
    return {
        "type": "array",
        "minItems": 1,
        "uniqueItems": True,
        "items": _one(field),
        "description": _filled(said, field),
    }


def _one(field: Field) -> dict[str, Any]:
    """The JSON schema of a value, or of each value of a list."""
    facts = field.metadata
    if "words" in facts:
        return {"enum": list(facts["words"]), "description": allowed(field)}
    of = _JSON[item_kind(field)]
    out: dict[str, Any] = {"type": [of, "null"] if facts.get("null") else of}
    if "pattern" in facts:
        out["pattern"] = f"^({facts['pattern']})$" if "|" in facts["pattern"] else f"^{facts['pattern']}$"
    for fact, keyword in (
        ("low", "minimum"),
        ("above", "exclusiveMinimum"),
        ("high", "maximum"),
        ("below", "exclusiveMaximum"),
    ):
        if fact in facts:
            out[keyword] = facts[fact]
    if "required" in facts:
        out["required"] = list(facts["required"])
    return out | {"description": allowed(field)}


def _filled(words: str, field: Field) -> str:
    """The words with the numbers of the metadata put in."""
    for bound in ("low", "high", "above", "below"):
        words = words.replace(f"{{{bound}}}", str(field.metadata.get(bound)))
    return words
