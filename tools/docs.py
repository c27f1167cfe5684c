"""Write what follows from the code: flare/config/schema.yaml, and tables of config/README.md and of pages of docs/.

Usage: python tools/docs.py
A table stands between `<!-- generated: NAME -->` and `<!-- end -->`. Its rows are the fields of a dataclass, with their
meaning, default and range; a plug-in has one more row, the first paragraph of its file. docs/results.md has the columns
of every table, docs/commands.md the arguments of every command, and docs/pipeline.svg is drawn. A test fails if a file
is not what this writes.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import meanings
import picture
import recorded
import yaml

from flare import algorithms, cli, models
from flare.config import key
from flare.config.levels import Experiment, Sweep, Tuning, keys
from flare.config.run import Run
from flare.config.schema import SCHEMA, build
from flare.datasets import partitions
from flare.engine import probes, schedules, server
from flare.settings import LARGEST

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "config/README.md"
RESULTS = ROOT / "docs/results.md"
COMMANDS = ROOT / "docs/commands.md"
PICTURE = ROOT / "docs/pipeline.svg"
HEADER = """\
# What a configuration may say: written by `make docs` from the fields in flare/config; change it there.
# A description is printed after "is not allowed;", so it says what is allowed.
"""
_MARKED = re.compile(r"(<!-- generated: ([a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def schema_text() -> str:
    """schema.yaml."""
    return HEADER + str(yaml.safe_dump(build(), sort_keys=False, width=120, allow_unicode=True))


def readme_text(text: str, tables: Mapping[str, Callable[[], str]] | None = None) -> str:
    """The text with its tables as the code has them; without `tables`, those of config/README.md."""
    known = TABLES if tables is None else tables
    return _MARKED.sub(lambda found: f"{found[1]}\n{known[found[2]]()}\n{found[3]}", text)


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


def columns_table(table: str) -> str:
    """The columns of a table of results."""
    rows = [(f"`{name}`", kind, _plain(meaning)) for name, kind, meaning in meanings.rows(table)]
    return _table(("column", "type", "meaning"), rows)


def _probe_columns() -> str:
    rows = [(f"`{name}`", f"`{probe}`", _plain(meaning)) for name, probe, meaning in meanings.probe_rows()]
    return _table(("column", "probe", "meaning"), rows)


def subparsers() -> dict[str, tuple[argparse.ArgumentParser, str]]:
    """The parser and the help of every command of `python -m flare`."""
    [found] = [action for action in cli._parser()._actions if isinstance(action, argparse._SubParsersAction)]
    helps = {action.dest: action.help or "" for action in found._choices_actions}
    return {name: (parser, helps[name]) for name, parser in found.choices.items()}


def commands_text() -> str:
    """A section for every command, with its arguments."""
    parts = []
    for name, (parser, said) in subparsers().items():
        whole_run = any(action.dest == "learning_rate" for action in parser._actions)
        own = [
            _argument(action)
            for action in parser._actions
            if action.dest != "help" and not (whole_run and _of_run(action))
        ]
        table = _table(("argument", "meaning"), own)
        more = "\nAnd the [arguments of a run](#arguments-of-a-run).\n" if whole_run else ""
        parts.append(f"## {name}\n\n{said[0].upper()}{said[1:]}.\n\n{table}{more}")
    return "\n".join(parts)


def _argument(action: argparse.Action) -> tuple[str, str]:
    """What an argument is called, and what it means; whether it is needed."""
    named = " ".join(f"`{flag}`" for flag in action.option_strings) or f"`{action.dest}`"
    needed = action.required and action.nargs not in ("?", "*")
    doc = _plain(action.help or _doc_of_key(action.dest))
    return named, f"needed; {doc}" if needed else doc


def _doc_of_key(name: str) -> str:
    """The meaning of an argument that is called as a key is: of a run, of the tuning, or one of the last two."""
    fields = {"study_seed": keys(Tuning)["seed"], **keys(Tuning), **_run_fields()}
    others = {
        "source": "the Markdown file",
        "output": "the page to write",
        "reference": "the authors' numbers (default: `config/reference.csv`)",
    }
    doc = others.get(name) or str(fields[name].metadata["doc"])
    return doc.removeprefix("list: ").replace(" (below)", "")


def _run_fields() -> dict[str, key.Field]:
    return {field.name: field for field in dataclasses.fields(Run)}


def _of_run(action: argparse.Action) -> bool:
    return action.dest in _run_fields() and not action.help


def _run_arguments() -> str:
    """The arguments that `train`, `propose` and `tune` share: the fields of a run that can be given."""
    parser, _ = subparsers()["train"]
    return _table(("argument", "meaning"), [_argument(action) for action in parser._actions if _of_run(action)])


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


# By page, what is generated in it.
PAGES: dict[Path, dict[str, Callable[[], str]]] = {
    README: TABLES,
    RESULTS: {f"columns of {name}": functools.partial(columns_table, name) for name in meanings.TABLES}
    | {"columns of probes": _probe_columns},
    COMMANDS: {"commands": commands_text, "arguments of a run": _run_arguments},
    # What our records say, which no number typed by hand does.
    ROOT / "README.md": {
        "record default": functools.partial(recorded.summary, "default"),
        "verdicts default": functools.partial(recorded.verdicts, "default"),
    },
}


def main() -> None:
    """Write all of them."""
    SCHEMA.write_text(schema_text(), encoding="utf-8")
    for page, tables in PAGES.items():
        page.write_text(readme_text(page.read_text(encoding="utf-8"), tables), encoding="utf-8")
    PICTURE.write_text(picture.svg(), encoding="utf-8")
    recorded.draw()


if __name__ == "__main__":
    main()
