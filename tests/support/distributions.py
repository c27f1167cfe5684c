"""Installed packages: which of them some requirements need, and a folder that holds these and no others."""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path

from commands import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements(*extras: str) -> list[str]:
    """The project's own lines: its dependencies, and those of the extras; without a line that names the project."""
    lines = list(PROJECT["dependencies"])
    for extra in extras:
        for line in PROJECT["optional-dependencies"][extra]:
            named = Requirement(line)
            lines += requirements(*sorted(named.extras)) if named.name == PROJECT["name"] else [line]
    return list(dict.fromkeys(lines))


def needed(lines: Iterable[str]) -> set[str]:
    """Names of the installed packages that the requirements need, and those need, and so on."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(line) for line in lines]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        try:
            further = [Requirement(line) for line in distribution(name).requires or ()]
        except PackageNotFoundError:  # one that a marker of another platform asks for is not here
            continue
        found.add(name)
        for extra in {"", *wanted.extras} - {extra for known, extra in seen if known == name}:
            seen.add((name, extra))
            waiting += [line for line in further if not line.marker or line.marker.evaluate({"extra": extra})]
    return found


def link(names: Iterable[str], folder: Path) -> None:
    """Fill the folder with links to the installed packages of these names, and to nothing of any other."""
    names = set(names)
    wanted, others = [], set[str]()
    for installed in distributions():
        if canonicalize_name(installed.metadata["Name"]) in names:
            wanted.append(installed)
        else:
            for inside in {file.rpartition("/")[0] for file in _files(installed)}:
                others.update(_parents(inside))
    for installed in wanted:
        # A whole folder if the package shares it with no other one.
        for part in {next(part for part in _parents(file) if part not in others) for file in _files(installed)}:
            place = folder / part
            if not place.is_symlink():
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(Path(str(installed.locate_file(part))))


def _files(installed: Distribution) -> list[str]:
    """What it put below site-packages. Not `installed.files`: that takes seconds for all packages."""
    record = installed.read_text("RECORD") or ""
    return [row[0] for row in csv.reader(record.splitlines()) if not row[0].startswith(("/", "../"))]


def _parents(file: str) -> list[str]:
    """The folders that it is in, the outermost first, and itself."""
    return [file[:end] for end, character in enumerate(file) if character == "/"] + [file]
