"""Figures: one file each, found by listing this folder.

A figure's module has a docstring and `draw(tables) -> Figure`. The docstring's first paragraph is its caption, the
others say how to read it; {level} in it is the intervals' level of confidence. `draw` is given the frames of
`flare.analysis.tables.read`, of one experiment; what it draws gets the paper's sizes and fonts, and colours, panels and
legend are in `flare.figures.style`. It may also have

    TABLES                       the tables that it reads; without it, all that every experiment has
    needs(experiments, name)     whether it says something of the experiment of that name, one of a checked
                                 configuration's; without it, it always does. This function is read without the rest of
                                 the file, whose imports take seconds: it imports within itself what it needs.
    possible(tables)             the same, seen from what is in the tables

Nothing here imports matplotlib before a figure is drawn: Snakemake lists the figures every time it starts.
"""

from __future__ import annotations

import ast
import functools
import importlib
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from flare.analysis.level import with_level
from flare.errors import DataError, choose
from flare.files import write_whole

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    Needs = Callable[[Mapping[str, Any], str], bool]

# What every experiment has; "trials" are only there if it was tuned.
_ALWAYS = ("rounds", "runs", "summary", "costs", "family", "labels")
# What would differ from one day or one version to the next, for files that are byte-identical when drawn again.
_METADATA: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None, "Creator": "FLARE Sweeps", "Producer": "Matplotlib"},
    "png": {"Software": None},
}
_RC: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 8,
    "axes.unicode_minus": False,
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so a figure is the same on every machine
    "font.size": 8,
    "grid.color": "#e5e5e5",
    "grid.linewidth": 0.5,
    "legend.columnspacing": 1.0,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 2.3,
    "legend.handletextpad": 0.5,
    "legend.labelspacing": 0.3,
    "lines.linewidth": 1.2,
    "lines.markeredgewidth": 0.8,
    "lines.markersize": 3.5,
    "path.simplify": False,
    "pdf.fonttype": 42,  # TrueType, which journals ask for
    "savefig.dpi": 300,
    "xtick.labelsize": 7,
    "xtick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.labelsize": 7,
    "ytick.major.width": 0.6,
}


def names() -> list[str]:
    """All figures, sorted: the files of this folder."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))


# ---- what a figure says of itself, without importing it -------------------------------------------------------------


def caption(name: str, *, whole: bool = False) -> str:
    """What the figure shows, the first paragraph of its docstring, or, `whole`, also how to read it: on one line."""
    docstring = ast.get_docstring(_parsed(_file(choose("figure", name, names())))) or name
    return " ".join(with_level(docstring if whole else docstring.split("\n\n")[0]).split())


def reads(name: str) -> tuple[str, ...]:
    """The tables that a figure reads."""
    found = constant(_file(choose("figure", name, names())), "TABLES")
    return _ALWAYS if found is None else tuple(found)


@functools.cache
def needs(name: str) -> Needs | None:
    """The rule that says of what experiments a figure says something; None if it always does."""
    file = _file(name)
    found = [item for item in _parsed(file).body if isinstance(item, ast.FunctionDef) and item.name == "needs"]
    if not found:
        return None
    space: dict[str, Any] = {}
    exec(compile(ast.Module(list[ast.stmt](found), type_ignores=[]), str(file), "exec"), space)
    rule: Needs = space["needs"]
    return rule


def of(config: Mapping[str, Any], experiment: str) -> list[str]:
    """The figures of an experiment of a checked configuration: all except those that need what it does not ask for."""
    rules = {name: needs(name) for name in names()}
    return [name for name, rule in rules.items() if rule is None or rule(config["experiments"], experiment)]


def constant(file: Path, name: str) -> Any:
    """A literal constant of a module, which is not imported; None if there is none."""
    for statement in _parsed(file).body:
        if isinstance(statement, ast.Assign) and any(getattr(t, "id", None) == name for t in statement.targets):
            return ast.literal_eval(statement.value)
    return None


def _file(name: str) -> Path:
    return Path(__file__).with_name(f"{name}.py")


@functools.cache
def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


# ---- drawing --------------------------------------------------------------------------------------------------------


@contextmanager
def paper() -> Iterator[None]:
    """The settings with which every figure is drawn and saved."""
    from matplotlib import rc_context, rcdefaults, rcParams

    with rc_context():
        rcdefaults()  # whatever matplotlibrc lies about
        rcParams.update(_RC)
        yield


def possible(tables: dict[str, pd.DataFrame]) -> list[str]:
    """The figures that the tables of one experiment allow: those of `of`, seen from what is in the tables."""
    return [name for name in names() if getattr(_module(name), "possible", lambda _: True)(tables)]


def draw(name: str, tables: dict[str, pd.DataFrame]) -> Figure:
    """The figure of the tables of one experiment; ConfigError for an unknown name."""
    with paper():
        figure: Figure = _module(choose("figure", name, names())).draw(tables)
    return figure


def save(name: str, tables: Path, experiment: str, output: Path) -> None:
    """Draw a figure of one experiment from a folder of tables to `output`.pdf and `output`.png.

    Each file is whole or absent, and the same bytes for the same tables. Raises ConfigError for an unknown figure or
    experiment, DataError if a table is missing or lacks what the figure shows.
    """
    from flare.analysis.tables import read

    of_experiment = read(Path(tables), experiment, reads(name))
    try:
        figure = draw(name, of_experiment)
    except DataError as problem:
        raise DataError(f"{tables}/{problem}") from None
    for format_, metadata in _METADATA.items():
        buffer = io.BytesIO()
        with paper():
            figure.savefig(buffer, format=format_, metadata=metadata)
        write_whole(Path(f"{output}.{format_}"), buffer.getvalue())


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"flare.figures.{name}")
