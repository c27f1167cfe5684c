"""Figures: one file each, found by listing this folder.

A figure's module has a docstring, whose first paragraph is its caption, and `draw(tables) -> Figure`. `tables` has the
frames "rounds", "runs" and "summary" of `flare.tables.read`, of one experiment. It decorates `draw` with
`@_style.paper()` and takes colours, panels and the legend from `_style`.

Nothing here imports matplotlib before a figure is drawn: Snakemake lists the figures every time it starts.
"""

from __future__ import annotations

import ast
import importlib
import io
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
    source = Path(__file__).with_name(f"{choose('figure', name, names())}.py").read_text(encoding="utf-8")
    return " ".join((ast.get_docstring(ast.parse(source)) or name).split("\n\n")[0].split())


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
