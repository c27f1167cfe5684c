"""docs/pipeline.svg: the rules of the workflow and what goes from one to the next, drawn from the lists below.

`make docs` writes it. A test compares the names in it with the rules of workflow/rules. The picture is narrow and tall,
so that it can be read on a phone.
"""

from __future__ import annotations

from html import escape
from typing import NamedTuple

WIDTH = 640
_HEIGHT, _ROW = 62, 92


class Box(NamedTuple):
    """A box: its heading, what it says, its column (from 0, of how many), its row, and its kind."""

    name: str
    text: str
    row: int
    column: int = 0
    of: int = 1
    kind: str = "rule"


# A name is that of a rule, or of several.
BOXES = (
    Box("config/*.yaml", "one file: what is compared", 0, 0, 2, "file"),
    Box("fetch", "get and verify a data set", 0, 1, 2),
    Box("merge, plan", "cost of the sweep, before it runs", 1, 0, 2),
    Box("tune_propose, tune_train, tune", "a study per cell; held-out data only", 1, 1, 2),
    Box("train", "one run per cell and seed: rounds.csv, run.json, checkpoints", 2),
    Box("tabulate", "rounds, runs, costs, summary, settings", 3),
    Box("judge", "claims, overall", 4, 0, 4),
    Box("reach", "cost to get there", 4, 1, 4),
    Box("compare", "authors' numbers", 4, 2, 4),
    Box("count_labels", "who holds what", 4, 3, 4),
    Box("gather_trials, tabulate_studies, export_studies", "what tuning tried and found", 5),
    Box("plot, plot_whole", "figures", 6, 0, 3),
    Box("reproduction", "report, checklist", 6, 1, 3),
    Box("execute, render", "notebooks, pages", 6, 2, 3),
    Box("evidence, report", "all of it in one page: report.html", 7),
    Box("sync_wandb, wandb_report", "only if you ask for them: results in Weights & Biases", 8),
)
# From a box to another, by their places in BOXES.
ARROWS = ((0, 2), (0, 3), (1, 3), (3, 4), (4, 5), (5, 6), (5, 7), (5, 8), (5, 9), (9, 10), (10, 11), (10, 12), (10, 13))
ARROWS += ((11, 14), (12, 14), (13, 14))
_FILL = {"rule": "#e8eaf6", "file": "#fff8e1"}


def names() -> set[str]:
    """The rules in the picture."""
    return {name for box in BOXES if box.kind == "rule" for name in box.name.split(", ")}


def svg() -> str:
    """The picture."""
    height = (max(box.row for box in BOXES) + 1) * _ROW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" font-family="sans-serif">',
        "<title>The rules of the workflow, from the configuration to the report</title>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#455a64"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for start, end in ARROWS:
        (x1, y1, w1), (x2, y2, w2) = _place(BOXES[start]), _place(BOXES[end])
        parts.append(
            f'<line x1="{x1 + w1 / 2:g}" y1="{y1 + _HEIGHT:g}" x2="{x2 + w2 / 2:g}" y2="{y2 - 1:g}" stroke="#455a64"'
            ' stroke-width="1.4" marker-end="url(#head)"/>'
        )
    for box in BOXES:
        x, y, width = _place(box)
        middle = x + width / 2
        parts += [
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{_HEIGHT}" rx="6" fill="{_FILL[box.kind]}"'
            ' stroke="#3f51b5"/>',
            f'<text x="{middle:g}" y="{y + 26:g}" text-anchor="middle" font-size="15" font-weight="bold"'
            f' fill="#1a237e">{escape(box.name)}</text>',
            f'<text x="{middle:g}" y="{y + 47:g}" text-anchor="middle" font-size="13" fill="#263238">'
            f"{escape(box.text)}</text>",
        ]
    return "\n".join([*parts, "</svg>", ""])


def _place(box: Box) -> tuple[float, float, float]:
    """Left, top and width."""
    gap = 12
    width = (WIDTH - gap * (box.of + 1)) / box.of
    return gap + box.column * (width + gap), 12 + box.row * _ROW, width
