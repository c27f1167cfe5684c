"""Figures: one file each, found by listing this folder.

A figure's module has a docstring, whose first paragraph is its caption, and `draw(tables) -> Figure`. `tables` has the
frames "rounds", "runs", "summary" and "labels" of `flare.tables.read`, of one experiment. It decorates `draw` with
`@_style.paper()` and takes colours, panels and the legend from `_style`. A constant NEEDS names the keys that an
experiment must set to true to have the figure.

Nothing here imports matplotlib before a figure is drawn: Snakemake lists the figures every time it starts.
"""

from __future__ import annotations

import ast
import importlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flare.config import choose
from flare.record import write_whole

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


def caption(name: str) -> str:
    """The first paragraph of the figure's docstring, on one line; the module is not imported."""
    docstring = ast.get_docstring(_parsed(choose("figure", name, names())))
    return " ".join((docstring or name).split("\n\n")[0].split())


def of(experiment: Mapping[str, Any]) -> list[str]:
    """The figures of an experiment: all but those whose NEEDS names a key that the experiment does not set to true."""
    return [name for name in names() if all(experiment.get(key) for key in _constant(name, "NEEDS", ()))]


def possible(tables: dict[str, pd.DataFrame]) -> list[str]:
    """The figures that the tables of one experiment allow: those of `of`, seen from the measured columns."""
    measured = tables["rounds"].dropna(axis="columns", how="all").columns
    return [
        name
        for name in names()
        if all(any(column.startswith(key) for column in measured) for key in _constant(name, "NEEDS", ()))
    ]


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
    from flare.figures import _style
    from flare.tables import read

    figure = draw(name, read(Path(tables), experiment))
    for format_, metadata in _METADATA.items():
        buffer = io.BytesIO()
        with _style.paper():
            figure.savefig(buffer, format=format_, metadata=metadata)
        write_whole(Path(f"{output}.{format_}"), buffer.getvalue())
