"""Who imports whom within flare/: no circles, each room only from the rooms below it, plug-ins from next to nothing.

Every import counts: of a module, of a function, under TYPE_CHECKING.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from commands import ROOT

# The rooms from the bottom up, a file of the root is one, too: a room imports from those above its own line alone.
LAYERS = (
    "errors columns files",
    "settings",
    "algorithms models datasets",
    "engine",
    "flare",  # __init__.py: the version, and `flare.simulate`
    "config",
    "tracking",
    "runs",
    "tuning",
    "planning",
    "analysis",
    "figures",
    "status",
    "deadline records",
    "cli",
    "__main__",
)
PLUGINS = {"algorithms", "models", "datasets"}


def below(name: str) -> set[str]:
    """The rooms that a room may import from."""
    lines = [set(line.split()) for line in LAYERS]
    [place] = [place for place, line in enumerate(lines) if name in line]
    return set[str]().union(*lines[:place]) | ({"engine"} if name == "algorithms" else set())  # for its types


@cache
def modules() -> dict[str, Path]:
    """Every module of flare by its dotted name; a package is its __init__.py."""
    out = {}
    for path in sorted((ROOT / "flare").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        out[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return out


def imported(name: str, *, types: bool = True) -> set[str]:
    """The modules of flare that a module imports, and the packages they are in, which Python runs first.

    A package that the module itself is in has begun by then: it counts only if a name of its own is asked for, as does
    the root package. types: those under TYPE_CHECKING, too.
    """
    out: set[str] = set()
    for node in statements(ast.parse(modules()[name].read_text(encoding="utf-8")), types):
        if isinstance(node, ast.Import):
            asked = [alias.name for alias in node.names]
        else:
            assert not node.level, f"{name}: a relative import"
            asked = [f"{node.module}.{alias.name}" for alias in node.names]
        for target in asked:
            if target.split(".")[0] == "flare":
                out |= run_for(target, name)
    return out - {name}


def statements(tree: ast.AST, types: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif types or not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield from statements(node, types)


def run_for(target: str, by: str = "") -> set[str]:
    """The modules that importing a module, or a name of one, runs before the module that imports it goes on."""
    while target not in modules():
        target = target.rpartition(".")[0]
    parts = target.split(".")
    packages = {".".join(parts[:end]) for end in range(2, len(parts))}
    return {target} | {package for package in packages if not by.startswith(f"{package}.")}


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else name


def circles(graph: dict[str, list[str]]) -> list[list[str]]:
    """Groups of modules each of which leads to the others (Tarjan's strongly connected components)."""
    found: list[list[str]] = []
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in graph[name]:
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in graph:
        if name not in order:
            visit(name)
    return found


def test_no_module_leads_back_to_itself() -> None:
    assert circles({name: sorted(imported(name)) for name in modules()}) == []


@pytest.mark.parametrize("name", sorted({room(name) for name in modules()}))
def test_a_room_imports_only_from_below(name: str) -> None:
    wrong = {
        f"{module} imports {other}"
        for module in modules()
        if room(module) == name
        for other in imported(module)
        if room(other) not in {name} | below(name)
    }
    assert wrong == set()


@pytest.mark.parametrize(
    "name", sorted(name for name in modules() if room(name) in PLUGINS and not modules()[name].name.startswith("__"))
)
def test_a_plug_in_needs_next_to_nothing(name: str) -> None:
    own = f"flare.{room(name)}"
    foundation = {"flare.errors", "flare.settings", "flare.files"}
    allowed = {other for other in modules() if other == own or other.startswith(f"{own}.")} | foundation
    assert imported(name, types=False) <= allowed
    typed = imported(name) - imported(name, types=False)
    assert {other for other in typed if room(other) != "engine"} <= allowed


def test_a_circle_is_named() -> None:
    graph = {"a": ["b", "d"], "b": ["c"], "c": ["a", "d"], "d": [], "e": ["f"], "f": ["e", "a"], "g": ["g2"], "g2": []}
    assert sorted(circles(graph)) == [["a", "b", "c"], ["e", "f"]]


def test_every_import_is_counted() -> None:
    """The walk itself: inside a function, under TYPE_CHECKING, a module as a name of its package, several at once."""
    tree = ast.parse(
        "import flare.engine\nfrom flare import datasets, errors\n"
        "def f():\n    from flare.config import Run\n"
        "if TYPE_CHECKING:\n    from flare.settings import setting\n"
    )
    assert len(list(statements(tree, types=True))) == 4 and len(list(statements(tree, types=False))) == 3
    assert run_for("flare.errors.ConfigError") == {"flare.errors"} and run_for("flare.simulate") == {"flare"}
    assert run_for("flare.datasets._fetching.run") == {"flare.datasets", "flare.datasets._fetching"}
    assert run_for("flare.datasets._fetching", "flare.datasets._idx") == {"flare.datasets._fetching"}
    assert run_for("flare.datasets.Split", "flare.datasets._idx") == {"flare.datasets"}
