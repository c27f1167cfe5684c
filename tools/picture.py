"""docs/pipeline.svg: the rules of the workflow, row by row, drawn from the list below.

`make docs` writes it. A test compares the names in it with the rules of the workflow. The picture is narrow, so that it
can be read on a phone.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

_WIDTH, _HEIGHT, _GAP, _ARROW = 640, 62, 10, 26


class Box(NamedTuple):
    """A box: the rules in it, or a file, and what it says."""

    name: str
    text: str
    is_file: bool = False


# From top to bottom: a row needs what the rows above it make.
ROWS: Sequence[Sequence[Box]] = (
    [Box("config/*.yaml", "one file: what is compared", is_file=True)],
    [Box("merge, plan", "what the sweep will cost"), Box("fetch", "get and verify a data set")],
    [Box("tune_propose, tune_train, tune", "a study per cell, if a setting has a range; reads held-out data only")],
    [
        Box("train", "one run per cell and seed"),
        Box("gather_trials, tabulate_studies, export_studies", "what tuning tried and found"),
    ],
    [Box("tabulate", "rounds, runs, costs, summary, settings")],
    [
        Box("judge", "claims, overall"),
        Box("reach", "cost to get there"),
        Box("compare", "authors' numbers"),
        Box("count_labels", "who holds what"),
    ],
    [
        Box("plot, plot_whole", "figures"),
        Box("reproduction", "report, checklist"),
        Box("execute, render", "notebooks, pages"),
    ],
    [Box("evidence, report", "all of it in one page: report.html")],
    [Box("sync_wandb, wandb_report", "only if you ask for them: results in Weights & Biases")],
)


def names() -> set[str]:
    """The rules in the picture."""
    return {name for row in ROWS for box in row if not box.is_file for name in box.name.split(", ")}


def svg() -> str:
    """The picture."""
    step = _HEIGHT + 2 * _GAP + _ARROW
    height = step * len(ROWS) - _ARROW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" font-family="sans-serif">',
        "<title>The rules of the workflow, from the configuration to the report</title>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#455a64"/></marker></defs>',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for number, row in enumerate(ROWS):
        top = number * step
        parts.append(f'<rect y="{top}" width="{_WIDTH}" height="{_HEIGHT + 2 * _GAP}" rx="8" fill="#f3f4f8"/>')
        if number:
            parts.append(
                f'<line x1="{_WIDTH // 2}" y1="{top - _ARROW + 3}" x2="{_WIDTH // 2}" y2="{top - 3}" stroke="#455a64"'
                ' stroke-width="1.6" marker-end="url(#head)"/>'
            )
        width = (_WIDTH - _GAP * (len(row) + 1)) / len(row)
        for place, box in enumerate(row):
            parts += _drawn(box, _GAP + place * (width + _GAP), top + _GAP, width)
    return "\n".join([*parts, "</svg>", ""])


def _drawn(box: Box, left: float, top: float, width: float) -> list[str]:
    """A box with two centred lines; a long name is smaller."""
    middle, size = left + width / 2, min(15, 1.75 * width / len(box.name))
    fill = "#fff8e1" if box.is_file else "#e8eaf6"
    return [
        f'<rect x="{left:g}" y="{top}" width="{width:g}" height="{_HEIGHT}" rx="6" fill="{fill}" stroke="#3f51b5"/>',
        f'<text x="{middle:g}" y="{top + 26}" text-anchor="middle" font-size="{size:.3g}" font-weight="bold"'
        f' fill="#1a237e">{escape(box.name)}</text>',
        f'<text x="{middle:g}" y="{top + 47}" text-anchor="middle" font-size="13" fill="#263238">'
        f"{escape(box.text)}</text>",
    ]
