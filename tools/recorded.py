"""What README and docs say of our records: tables and pictures, made from the record's runs."""

from __future__ import annotations

import contextlib
import functools
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

from flare import config, figures, records
from flare.analysis import claims, tables

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / records.FOLDER
# The pictures of docs/: file, record, experiment, figure.
PICTURES = (
    ("shared_rate.png", "default", "shared-rate", "accuracy_by_round"),
    ("own_rate.png", "default", "own-rate-1e-3", "accuracy_by_round"),
)


@contextlib.contextmanager
def restored(name: str) -> Iterator[Path]:
    """The tables of a record, made anew."""
    with tempfile.TemporaryDirectory(prefix="flare-record-") as scratch:
        results = Path(scratch, name)
        records.restore(RECORDS / name, results)
        content = config.load(results / "config.yaml")
        folders = [results / "runs" / run.folder for run in config.runs(content)]
        late, tuning = content.get("late_evaluations", 5), results / "tuning"
        with contextlib.redirect_stderr(io.StringIO()):  # told of a record, not of this
            tables.tabulate(
                [folder for folder in folders if folder.exists()], results / "tables", late=late, tuning=tuning
            )
        yield results / "tables"


@functools.cache
def summary(name: str) -> str:
    """The record's summary as a terminal shows it, in a block."""
    with restored(name) as folder:
        return f"```\n{tables.show(folder)}\n```\n"


@functools.cache
def verdicts(name: str) -> str:
    """FLARE minus Top-K at the same keep in every experiment of a record, with interval and verdict."""
    with restored(name) as folder:
        claims.write(folder)
        found = tables.read_table(folder, "claims")
    found = found[(found["claim"] == "better") & (found["baseline"] == "topk")]
    rows = [
        f"| `{row.experiment}` | {row.keep} | {row.local_epochs} | {row.difference:+.1f}"
        f" ({row.low:+.1f} to {row.high:+.1f}) | {row.verdict} |"
        for row in found.itertuples()
    ]
    head = "| experiment | keep | E | FLARE minus Top-K, points (95 % interval) | FLARE is better: |"
    return "\n".join([head, "| --- | --- | --: | --- | --- |", *rows, ""])


def draw(folder: Path = ROOT / "docs") -> None:
    """Draw the pictures of docs/ into a folder."""
    for file, name, experiment, figure in PICTURES:
        with restored(name) as made, tempfile.TemporaryDirectory() as scratch:
            figures.save(figure, made, experiment, Path(scratch, "figure"))
            (folder / file).write_bytes(Path(scratch, "figure.png").read_bytes())
