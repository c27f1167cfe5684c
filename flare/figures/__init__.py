"""Figures: one file each, found by listing this folder.

A figure's module has a docstring, whose first paragraph is its caption, and `draw(tables) -> Figure`. `tables` has the
frames of `tables.read`, of one experiment. It decorates `draw` with `@_style.paper()` and takes colours, panels
and the legend from `_style`. A constant NEEDS says what an experiment must have for the figure to say something: one of
the keys of `_ASKED`.

Nothing here imports matplotlib before a figure is drawn: Snakemake lists the figures every time it starts.
"""

from __future__ import annotations

import ast
import importlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flare.errors import choose
from flare.runs.record import write_whole

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# What would differ from one day or one version to the next, for files that are byte-identical when drawn again.
_METADATA: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "Creator": "FLARE Sweeps", "Producer": "Matplotlib"},
    "png": {"Software": None},
}


def names() -> list[str]:
    """All figures, sorted: the files of this folder."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))


def caption(name: str, *, whole: bool = False) -> str:
    """What the figure shows, the first paragraph of its docstring, or, `whole`, also how to read it: on one line.

    The module is not imported.
    """
    docstring = ast.get_docstring(_parsed(choose("figure", name, names()))) or name
    return " ".join((docstring if whole else docstring.split("\n\n")[0]).split())


def of(config: Mapping[str, Any], experiment: str) -> list[str]:
    """The figures of an experiment of a checked configuration: all but those that NEED what it does not ask for."""
    return [name for name in names() if _ASKED[_constant(name, "NEEDS", None)](config["experiments"], experiment)]


def _heads_a_family(experiments: Mapping[str, Any], name: str) -> bool:
    """Whether the experiment is the first of several that differ in nothing but `available`."""
    own = {key: value for key, value in experiments[name].items() if key != "available"}
    family = [
        other
        for other, asked in experiments.items()
        if {key: value for key, value in asked.items() if key != "available"} == own
    ]
    return len(family) > 1 and family[0] == name


_ASKED: dict[str | None, Callable[[Mapping[str, Any], str], bool]] = {
    None: lambda experiments, name: True,
    "available": _heads_a_family,
    "local_epochs": lambda experiments, name: len(experiments[name].get("local_epochs", ())) > 1,
    "staleness": lambda experiments, name: bool(experiments[name].get("staleness")),
    "importance": lambda experiments, name: any(
        sum(isinstance(value, Mapping) for value in (own or {}).values()) > 1
        for own in experiments[name]["methods"].values()
    ),
    "tuning": lambda experiments, name: any(
        isinstance(value, Mapping) for own in experiments[name]["methods"].values() for value in (own or {}).values()
    ),
}


def possible(tables: dict[str, pd.DataFrame]) -> list[str]:
    """The figures that the tables of one experiment allow: those of `of`, seen from what is in the tables."""
    runs, family = tables["runs"], tables["family"]
    has = {
        None: True,
        "available": family["available"].nunique() > 1 and family["experiment"].iloc[0] == runs["experiment"].iloc[0],
        "local_epochs": runs["local_epochs"].nunique() > 1,
        "staleness": bool(tables["rounds"].get("staleness_mean", runs["seed"].iloc[:0]).notna().any()),
        "tuning": len(tables["trials"]) > 0,
        "importance": bool(tables["trials"]["importance"].notna().any()),
    }
    return [name for name in names() if has[_constant(name, "NEEDS", None)]]


def _constant(name: str, constant: str, default: Any) -> Any:
    """A literal constant of a figure's module, which is not imported."""
    for statement in _parsed(name).body:
        if isinstance(statement, ast.Assign) and any(getattr(t, "id", None) == constant for t in statement.targets):
            return ast.literal_eval(statement.value)
    return default


def _parsed(name: str) -> ast.Module:
    return ast.parse(Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8"))


def draw(name: str, tables: dict[str, pd.DataFrame]) -> Figure:
    """The figure of the tables of one experiment; ConfigError for an unknown name."""
    module = importlib.import_module(f"flare.figures.{choose('figure', name, names())}")
    figure: Figure = module.draw(tables)
    return figure


def save(name: str, tables: Path, experiment: str, output: Path) -> None:
    """Draw a figure of one experiment from a folder of tables to `output`.pdf and `output`.png.

    Each file is whole or absent, and the same bytes for the same tables. Raises ConfigError for an unknown figure or
    experiment, DataError where the tables are missing.
    """
    from flare.analysis.tables import read
    from flare.errors import DataError
    from flare.figures import _style

    name = choose("figure", name, names())
    of_experiment = read(Path(tables), experiment)
    if _constant(name, "NEEDS", None) == "staleness" and "staleness_mean" not in of_experiment["rounds"]:
        raise DataError(f"{tables}/rounds.csv: no column staleness_mean; {experiment} was run without staleness: true")
    figure = draw(name, of_experiment)
    for format_, metadata in _METADATA.items():
        buffer = io.BytesIO()
        with _style.paper():
            figure.savefig(buffer, format=format_, metadata=metadata)
        write_whole(Path(f"{output}.{format_}"), buffer.getvalue())
