"""Tables for people: the summary in words and rounded numbers, for Markdown, LaTeX and a terminal."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence

import pandas as pd
from scipy.special import stdtrit

from flare.algorithms._looks import label
from flare.analysis.level import LEVEL, percent
from flare.runs.record import size

TIMES, NONE = "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"
_WIDTH = 110


def csv(table: pd.DataFrame) -> bytes:
    """The table as CSV: floats are the shortest decimals that read back as the same number."""
    return table.to_csv(index=False, lineterminator="\n").encode()


def markdown(people: pd.DataFrame, left: Sequence[str]) -> str:
    """A table of text in Markdown; the columns `left` are aligned to the left, others to the right."""
    rule = [" :-- " if name in left else " --: " for name in people]
    rows = [[f" {text} " for text in row] for row in (people.columns, *people.to_numpy())]
    return "\n".join(f"|{'|'.join(row)}|" for row in (rows[0], rule, *rows[1:])) + "\n"


def latex(people: pd.DataFrame, columns: str, notes: Sequence[str] = ()) -> str:
    """A table of text in LaTeX for the package booktabs, columns aligned as LaTeX spells it, with notes below it."""
    styler = people.style.format(escape="latex").format_index(escape="latex", axis=1).hide(axis="index")
    table = styler.to_latex(hrules=True, column_format=columns)
    span = f"\\multicolumn{{{len(people.columns)}}}{{p{{\\linewidth}}}}"
    escaped = [re.sub(r"([%_&#$])", r"\\\1", note) for note in notes]
    below = "".join(f"{span}{{\\footnotesize {note}}} \\\\\n" for note in escaped)
    table = table.replace("\\end{tabular}", below + "\\end{tabular}")
    for sign, command in (("±", r"$\pm$"), (TIMES, r"$\times$"), (NONE, "--"), ("<", "$<$"), (">", "$>$")):
        table = table.replace(sign, command)
    return "% Needs \\usepackage{booktabs}.\n" + table


def accuracy_in_words(n: int, mean: float, low: float, high: float) -> str:
    """A mean over n seeds, in percent, with the half-width of its t-interval if it lies within 0 to 100 %, else with
    the limits that do. Of two seeds these themselves: their interval is 12.7 times as wide as they are apart.
    """
    if not n:
        return "diverged"
    said = f"{100 * mean:.2f}"
    if n == 2:
        apart = (high - mean) / stdtrit(1.0, (1 + LEVEL) / 2)
        return f"{said} ({100 * (mean - apart):.2f}, {100 * (mean + apart):.2f})"
    if n > 2 and low >= 0 and high <= 1:
        return f"{said} ± {100 * (high - mean):.2f}"
    return f"{said} ({100 * max(low, 0):.2f} to {100 * min(high, 1):.2f})" if n > 2 else said


def summary_as_text(summary: pd.DataFrame) -> pd.DataFrame:
    """The summary as text: accuracies in percent, sizes in bytes; "diverged" if no run finished."""

    def accuracy(name: str) -> list[str]:
        columns = (summary[column] for column in ("n", name, f"{name}_low", f"{name}_high"))
        return [accuracy_in_words(*row) for row in zip(*columns, strict=True)]

    def times(value: float) -> str:
        return NONE if pd.isna(value) else f"{value:,.0f}{TIMES}" if value >= 99.95 else f"{value:.3g}{TIMES}"

    # Of what was tuned by its accuracy, that of the study's best trial.
    validation: dict[str, list[str]] = {}
    if summary["validation_accuracy"].notna().any():
        shown = [NONE if pd.isna(value) else f"{100 * value:.2f}" for value in summary["validation_accuracy"]]
        validation = {"validation (%)": shown}
    return pd.DataFrame(
        {
            "experiment": summary["experiment"],
            "method": summary["method"].map(label),
            "keep": summary["keep"],
            "E": summary["local_epochs"].astype("str"),
            **validation,
            "accuracy (%)": accuracy("final_accuracy"),
            "late (%)": accuracy("late_accuracy"),
            "best, optimistic (%)": accuracy("best_accuracy"),
            "uplink": [NONE if pd.isna(bits) else size(bits) for bits in summary["uplink_bits"]],
            "compression": [times(value) for value in summary["compression"]],
            "n": [
                f"{n} ({lost} diverged)" if lost else str(n)
                for n, lost in zip(summary["n"], summary["diverged"], strict=True)
            ],
        },
        dtype="str",
    )


def summary_in_markdown(summary: pd.DataFrame) -> str:
    """The summary as summary.md has it."""
    return markdown(summary_as_text(summary), left=("experiment", "method", "keep", "n"))


def summary_in_latex(summary: pd.DataFrame) -> str:
    """The summary as summary.tex has it."""
    people = summary_as_text(summary)
    return latex(people, "lll" + "r" * (len(people.columns) - 4) + "l")


def show(summary: pd.DataFrame) -> str:
    """The summary for a terminal: aligned, at most 110 columns wide, a heading line per experiment."""
    people = summary_as_text(summary)
    cells = people.drop(columns=["experiment", "best, optimistic (%)", "validation (%)"], errors="ignore")
    widths = {name: max(map(len, (name, *cells[name]))) for name in cells}
    most = max(len("method"), _WIDTH - sum(2 + width for name, width in widths.items() if name != "method") - 2)
    cells["method"] = [_shorten(method, most) for method in cells["method"]]
    widths["method"] = min(widths["method"], most)
    align = [str.ljust if name in ("method", "keep", "n") else str.rjust for name in cells]

    def line(texts: Iterable[str]) -> str:
        padded = (put(text, width) for put, text, width in zip(align, texts, widths.values(), strict=True))
        return ("  " + "  ".join(padded)).rstrip()

    lines = [line(cells.columns)]
    for experiment, group in cells.groupby(people["experiment"], sort=False):
        first = summary.loc[group.index[0]]
        lines.append(_shorten(f"{experiment} ({first['dataset']}, {first['model']})", _WIDTH))
        lines.extend(line(row) for row in group.itertuples(index=False))
    note = (
        f"accuracy: final and of the last evaluations, mean ± half-width of the {percent(LEVEL)} t-interval over the n"
        " finished runs; (a to b): its limits, if one is beyond 0 to 100 %; (a, b): two runs"
    )
    lines += textwrap.wrap(note, _WIDTH)
    return "\n".join(lines)


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
