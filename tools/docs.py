"""Write what follows from the code: flare/config/schema.yaml and the tables of config/README.md.

Usage: python tools/docs.py
A table stands between `<!-- generated: NAME -->` and `<!-- end -->`. Its rows are the fields of a dataclass, with their
meaning, default and range; a plug-in has one more row, the first paragraph of its file. A test fails if either file is
not what this writes.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from flare import algorithms, models
from flare.config import key
from flare.config.levels import Experiment, Sweep, Tuning, keys
from flare.config.schema import SCHEMA, build
from flare.datasets import partitions
from flare.engine import probes, schedules, server
from flare.settings import LARGEST

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "config/README.md"
HEADER = """\
# What a configuration may say: written by `make docs` from the fields in flare/config; change it there.
# A description is printed after "is not allowed;", so it says what is allowed.
"""
_MARKED = re.compile(r"(<!-- generated: ([a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def schema_text() -> str:
    """schema.yaml."""
    return HEADER + str(yaml.safe_dump(build(), sort_keys=False, width=120, allow_unicode=True))


def readme_text(text: str) -> str:
    """The text with its tables as the code has them."""
    return _MARKED.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n{found[3]}", text)


def level_table(level: type, symbols: bool = False) -> str:
    """The keys of a level of the configuration; those of a level in it that has no row of its own, too."""
    head = ("key", *(["symbol"] if symbols else []), "meaning, unit", "default, range")
    return _table(head, list(_level_rows(level, symbols)))


def _level_rows(level: type, symbols: bool, prefix: str = "") -> Iterator[tuple[str, ...]]:
    for name, field in keys(level).items():
        if field.metadata["doc"]:
            yield (f"`{prefix}{name}`", *([_symbol(field)] if symbols else []), _meaning(field), _default(field))
        else:
            yield from _level_rows(field.metadata["level"], symbols, f"{name}.")


def plugin_table(what: str, rows: Iterator[tuple[str, Path, type]], symbols: bool = False) -> str:
    """Plug-ins by name, with their file and their settings: the first paragraph of the file, and a row each setting."""
    head = (what, "setting", *(["symbol"] if symbols else []), "meaning", "default, range")
    out: list[tuple[str, ...]] = []
    for name, file, settings in rows:
        out.append((name, "", *([""] if symbols else []), _plain(_first_paragraph(file)), ""))
        for field in dataclasses.fields(settings):
            symbol = [_symbol(field)] if symbols else []
            out.append(("", f"`{field.name}`", *symbol, _meaning(field), _default(field)))
    return _table(head, out)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n".replace("|  |", "| |").replace("|  |", "| |") for line in lines)


def _files(package: Any) -> Iterator[tuple[str, Path]]:
    folder = Path(package.__file__).parent
    return ((name, folder / f"{name}.py") for name in package.names())


def _methods() -> Iterator[tuple[str, Path, type]]:
    return ((f"`{name}`", file, algorithms.load(name).settings) for name, file in _files(algorithms))


def _models() -> Iterator[tuple[str, Path, type]]:
    names: dict[str, list[str]] = {}
    for name in models.names():
        names.setdefault(models.file(name), []).append(name)
    for file, found in names.items():
        path = Path(models.__file__).parent / f"{file}.py"
        yield ", ".join(f"`{name}`" for name in found), path, models.load(found[0]).Settings


def _modules(package: Any) -> Iterator[tuple[str, Path, type]]:
    return ((f"`{name}`", file, package.load(name).Settings) for name, file in _files(package))


def _probes() -> str:
    rows = [(f"`{name}`", _plain(_first_paragraph(file))) for name, file in _files(probes)]
    return _table(("probe", "what it measures"), rows)


def _server_steps() -> str:
    head = ("optimizer", "setting", "symbol", "meaning", "default, range")
    out: list[tuple[str, ...]] = []
    for name, step in server.OPTIMIZERS.items():
        out.append((f"`{name}`", "", "", _plain(" ".join(str(step.__doc__).split())), ""))
        for field in dataclasses.fields(step):
            out.append(("", f"`{field.name}`", _symbol(field), _meaning(field), _default(field)))
    return _table(head, out)


def _first_paragraph(file: Path) -> str:
    said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(said.split("\n\n")[0].split())


def _meaning(field: key.Field) -> str:
    return _plain(field.metadata["doc"])


def _symbol(field: key.Field) -> str:
    return str(field.metadata.get("symbol", ""))


def _default(field: key.Field) -> str:
    """The default and the range."""
    facts, value = field.metadata, field.default
    if "default" in facts:
        said = facts["default"]
    elif "axis_default" in facts:
        said = f"`{facts['axis_default']}`"
    elif value is dataclasses.MISSING:
        said = "needed"
    else:
        said = "none" if value is None else _value(value, apart="")
    allowed = facts.get("range") or _range(field)
    return _plain(f"{said}; {allowed}" if allowed else said)


def _range(field: key.Field) -> str:
    facts = field.metadata
    low, high, above, below = (facts.get(bound) for bound in ("low", "high", "above", "below"))
    high = None if high == LARGEST else high  # a guard, which nobody needs to know
    if low is not None and high is not None:
        said = [f"{_value(low)} to {_value(high)}"]
    else:
        bounds = {"above": above, "at least": low, "below": below, "at most": high}
        said = [f"{words} {_value(bound)}" for words, bound in bounds.items() if bound is not None]
    if said and ("axis" in facts or str(field.type).startswith("list")):
        said[0] = f"each {said[0]}"
    if facts.get("choices"):
        said = [", ".join(f"`{choice}`" for choice in facts["choices"] if choice != field.default)]
    others = [f"`{word}`" for word in facts.get("words", ()) if word != field.default]
    if others:
        said.append(f"or {', '.join(others)}")
    return ", ".join(said)


def _value(value: Any, apart: str = ",") -> str:
    """A number, with its thousands apart unless it is to be copied; a word as code."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:{apart}.12g}" if isinstance(value, int | float) else f"`{value}`"


def _plain(text: str) -> str:
    """The text as a cell: what Markdown would take for more is escaped, except in code."""
    pieces = re.split(r"(`[^`]*`)", text.replace("|", r"\|"))
    return "".join(piece if piece.startswith("`") else piece.replace("*", r"\*") for piece in pieces)


TABLES: dict[str, Callable[[], str]] = {
    "top level": lambda: level_table(Sweep),
    "experiment": lambda: level_table(Experiment, symbols=True),
    "tuning": lambda: level_table(Tuning),
    "methods": lambda: plugin_table("method", _methods(), symbols=True),
    "models": lambda: plugin_table("model", _models()),
    "partition schemes": lambda: plugin_table("scheme", _modules(partitions)),
    "schedules": lambda: plugin_table("schedule", _modules(schedules)),
    "server steps": _server_steps,
    "probes": _probes,
}


def main() -> None:
    """Write both files."""
    SCHEMA.write_text(schema_text(), encoding="utf-8")
    README.write_text(readme_text(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
