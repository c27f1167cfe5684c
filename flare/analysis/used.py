"""The settings that every cell's runs used, tuned ones marked, ready for an appendix: settings.csv, .md and .tex.

A row of settings.csv (SETTINGS) is one setting of one cell, with the value that its runs used. Not in it: what the cell
is called by, the seed, and settings that are not set. For people, what all cells of an experiment share is one row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from flare.algorithms._looks import label
from flare.analysis.text import NONE, csv, latex, markdown
from flare.columns import CELL, IDENTITY, SETTINGS
from flare.config.run import NESTED, yaml_scalar
from flare.files import write_whole

# No settings of a run: what it is called by, and what a study adds to it.
_NONE_OF_THEM = (*IDENTITY, "tuned", "trial", "validation", "family")
_MARK = " (tuned)"
_NOTE = (
    "Tuned: found by a study of the cell, on samples held out from the clients' own training data. What is not named is"
    " off."
)


def used(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row (SETTINGS) per setting and cell, from the runs' columns of CELL and their "config", of run.json.

    Cells in the order in which they appear; the runs of one differ in the seed alone, so its first one is read.
    """
    first: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for record in records:
        first.setdefault(tuple(record[name] for name in CELL), record["config"])
    rows = [[*cell, name, value, tuned] for cell, config in first.items() for name, value, tuned in _settings(config)]
    return pd.DataFrame(rows, columns=list(SETTINGS))


def _settings(config: Mapping[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """Name, value as the configuration spells it, whether it was tuned; a method's own settings by their bare name."""
    tuned = set(config.get("tuned") or ())
    for key, value in config.items():
        if key in _NONE_OF_THEM:
            continue
        inside = value if isinstance(value, Mapping) else {key: value}
        for name, own in inside.items():
            full = f"{key}.{name}" if isinstance(value, Mapping) else key
            asked = full if key == NESTED else name
            if own is not None and own is not False and own != [] and own != {}:
                yield full.removeprefix("method_settings."), _spelt(own), asked in tuned


def _spelt(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(yaml_scalar(value))


def write(folder: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write settings.csv, settings.md and settings.tex into the folder of tables."""
    found = used(records)
    people = _as_text(found)
    write_whole(folder / "settings.csv", csv(found))
    table = markdown(people, left=list(people.columns))
    write_whole(folder / "settings.md", f"{table}- {_NOTE}\n".encode())
    write_whole(folder / "settings.tex", latex(people, r"llllp{0.6\linewidth}", notes=[_NOTE]).encode())


def _as_text(found: pd.DataFrame) -> pd.DataFrame:
    """Of every experiment a row with what all its cells have in common, then a row per cell with the rest."""
    rows = []
    for experiment, own in found.groupby("experiment", sort=False):
        marked: dict[tuple[str, str, int], list[str]] = {}
        named: list[Any] = list(own.itertuples(index=False))
        for row in named:
            marked.setdefault((row.method, row.keep, row.local_epochs), []).append(_word(row))
        common = [word for word in next(iter(marked.values())) if all(word in words for words in marked.values())]
        data = ", ".join(f"{name} = {own.iloc[0][name]}" for name in ("dataset", "model"))
        rows.append([str(experiment), "all", NONE, NONE, ", ".join([data, *common])])
        for (method, keep, epochs), words in marked.items():
            rest = [word for word in words if word not in common]
            rows.append([str(experiment), label(method), keep, str(epochs), ", ".join(rest) or NONE])
    return pd.DataFrame(rows, columns=["experiment", "method", "keep", "E", "settings"], dtype="str")


def _word(row: Any) -> str:
    return f"{row.setting} = {row.value}{_MARK if row.tuned else ''}"
