"""What decides the bits of a run: its settings, the code that computes, the data, the versions, the threads.

The files that compute are found by walking the imports from where a run begins: no list of them is kept by hand. Of
files that else only check, save and show, the functions count that hand settings and data to the engine, and that make
numbers of what it gives (`_PARTS`). What only decides whether a run begins is no part of it: `flare.errors`, the checks
of `flare.settings`, `flare.engine.api` and `flare.engine.inputs`. Neither are comments, docstrings, the text of an
error, the range of a setting or how a method looks in a figure. A data set's file counts by what a run takes from it
(its classes, its scale); its samples count by their checksum.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flare import datasets, models
from flare.config.run import Run

ROOT = Path(__file__).parents[1]
# Where a run begins. What it loads by name follows from its settings.
_BEGINS = ("engine/loop", "engine/choose", "runs/data", "models/__init__")
# They decide whether a run begins, never what it gives. The names of columns are in a run's own files.
_NO_ARITHMETIC = ("__init__", "errors", "settings", "columns")
# What figures take from the file of a method.
_LOOKS = ("LABEL", "COLOUR", "MARKER", "DASHES")
# The arguments of a method's `check`, which only decides whether a run begins.
_CHECKED = ["settings", "training"]
# Of files that do not count as a whole, the functions that do.
_PARTS: Mapping[str, tuple[str, ...]] = {
    "config/run": ("arguments",),
    "datasets/__init__": ("load",),
    "datasets/partitions/__init__": ("split",),
    "engine/api": ("simulate_rows", "_first", "_hooks", "_ended", "_tf32"),
    "engine/inputs": ("whole", "rates", "_real", "keep_of", "answering", "pairs", "_pair", "_tensor"),
    "runs/record": ("write_run", "result_hash", "_csv"),
    "runs/train": ("_tensors", "_model", "_simulated", "sample"),
    "settings": ("check_keep",),
}
# What a run takes from the file of a data set.
_OF_DATA = ("KIND", "CLASSES", "SHAPE", "SCALE", "VOCABULARY")


def sources(run: Run) -> tuple[str, ...]:
    """The files of the package, without .py, that decide the result of the run, sorted."""
    named = [f"algorithms/{run.method}", f"models/{models.file(run.model)}"]
    named += [f"datasets/partitions/{run.partition.get('scheme', 'contiguous')}"]
    named += [f"engine/probes/{name}" for name in run.probe_names]
    named += [f"engine/schedules/{run.schedule['name']}"] if run.schedule else []
    named += ["engine/server"] if run.server else []
    return reached((*_BEGINS, *named))


# What decides whether something is made, and no number of it.
WHETHER = ("__init__", "errors", "settings", "analysis/origin", "runs/provenance")


@functools.cache
def reached(names: tuple[str, ...], without: tuple[str, ...] = _NO_ARITHMETIC) -> tuple[str, ...]:
    """These files of the package and all that they import, directly or not, without .py, sorted."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found and name not in without:
            found.add(name)
            waiting += _imports(name)
    return tuple(sorted(found))


@functools.cache
def code_digest(names: tuple[str, ...]) -> str:
    """SHA-256 of what these files of the package do."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\n{_meaning(name)}\n".encode())
    return digest.hexdigest()


def digest_of(run: Run) -> str:
    """SHA-256 of the code that decides the result of the run, and of what it takes from the data set's file."""
    return _with_data(code_digest(sources(run)), run.dataset)


def key_of(run: Run, data: Path, device: str, threads: int = 1) -> dict[str, Any]:
    """All that decides the bits of a run, by name: settings, code, data, versions, the device's kind, its threads."""
    import numpy as np
    import torch

    kind = device.partition(":")[0]
    return {
        **json.loads(json.dumps(dataclasses.asdict(run))),
        "code": digest_of(run),
        "data": data_digest(datasets.read_manifest(run.dataset, data)),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "device": kind,
        "threads": threads if kind == "cpu" else None,
    }


def data_digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of what a data set's manifest says of its files: their checksums and shapes."""
    return hashlib.sha256(json.dumps(manifest["files"], sort_keys=True).encode()).hexdigest()


@functools.cache
def _with_data(code: str, dataset: str) -> str:
    source = datasets.module(dataset)
    taken = [(name, getattr(source, name, None)) for name in _OF_DATA]
    return hashlib.sha256(f"{code}\n{_parts()}\n{taken!r}".encode()).hexdigest()


def _tree(name: str) -> ast.Module:
    return ast.parse((ROOT / f"{name}.py").read_bytes())


# Trees that were looked through for imports and not yet for what they do: a file is parsed once.
_LOOKED_THROUGH: dict[str, ast.Module] = {}


@functools.cache
def _imports(name: str) -> list[str]:
    """The files of the package that a file imports when it runs, anywhere in it."""
    tree = _LOOKED_THROUGH[name] = _tree(name)
    return [found for node in _run(tree) if isinstance(node, _IMPORT) for found in _modules(node)]


def _run(tree: ast.AST) -> Iterator[ast.AST]:
    """All statements except for those that stand under `if TYPE_CHECKING`."""
    rest = [tree]
    while rest:
        node = rest.pop()
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            for child in getattr(node, part, ()):
                if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
                    continue
                yield child
                rest.append(child)


_IMPORT = (ast.Import, ast.ImportFrom)


def _modules(node: ast.Import | ast.ImportFrom) -> Iterable[str]:
    """The files of the package that an import statement names."""
    if isinstance(node, ast.Import):
        paths = [[alias.name] for alias in node.names]
    elif node.module and not node.level:
        paths = [[f"{node.module}.{alias.name}", node.module] for alias in node.names]
    else:
        return
    for choices in paths:
        for choice in choices:
            parts = choice.split(".")
            place = ROOT.joinpath(*parts[1:])
            if parts[0] == "flare" and place.with_suffix(".py").is_file() and len(parts) > 1:
                yield "/".join(parts[1:])
                break
            if parts[0] == "flare" and (place / "__init__.py").is_file():
                yield "/".join([*parts[1:], "__init__"])
                break


class _Meaning(ast.NodeTransformer):
    """Leaves out of a tree what says something to people and computes nothing."""

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        """Which error it is, without its text."""
        kind = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return ast.copy_location(ast.Raise(kind, None), node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """What a method's `check` refuses, before a run begins, is left out."""
        return ast.Pass() if [given.arg for given in node.args.args] == _CHECKED else self._documented(node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        """How a method looks in a figure is left out."""
        looks = all(isinstance(target, ast.Name) and target.id in _LOOKS for target in node.targets)
        return ast.Pass() if looks else self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Of a setting its default alone: its value is in the run's settings, its range and meaning are for people."""
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "setting":
            return ast.copy_location(ast.Call(node.func, node.args, []), node)
        return node

    def _documented(self, node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        """A docstring is left out."""
        if ast.get_docstring(node, clean=False) is not None:
            node.body[0] = ast.Pass()
        return self.generic_visit(node)

    visit_Module = visit_ClassDef = visit_AsyncFunctionDef = _documented


class _MeaningOfPart(_Meaning):
    """Leaves out what a file that does not count as a whole has beside what computes: checks, and texts of messages."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """A call whose result nobody takes, of something that is called a check, a choice or a warning."""
        if isinstance(node.value, ast.Call):
            called = node.value.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name.lstrip("_").startswith("check") or name in ("choose", "warn"):
                return None
        return self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        """A text with values in it is said to somebody."""
        return ast.copy_location(ast.Constant(""), node)


@functools.cache
def _parts() -> str:
    """What the functions of `_PARTS` do."""
    found = []
    for name, functions in _PARTS.items():
        own = {node.name: node for node in ast.walk(_tree(name)) if isinstance(node, ast.FunctionDef)}
        found += [f"{name}\n{function}\n{ast.dump(_MeaningOfPart().visit(own[function]))}" for function in functions]
    return "\n".join(found)


@functools.cache
def _meaning(name: str) -> str:
    tree = _LOOKED_THROUGH.pop(name, None) or _tree(name)
    return ast.dump(_Meaning().visit(tree))
