"""A reproduction report and a reproducibility checklist, from nothing but the tables and the runs' records.

reproduction.md has the sections that the ML Reproducibility Challenge asks for: scope, claims, differences, what was
easy and what was difficult, cost. checklist.md answers what the checklists of the large conferences ask (ACL and
NeurIPS reproducibility checklists), with the file that bears it out; what no file says is left to the authors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from flare.algorithms._looks import label
from flare.analysis import registered
from flare.analysis.level import LEVEL, percent
from flare.analysis.rules import CLAIMS, SEEDS
from flare.analysis.tables import read_table
from flare.analysis.text import NONE, markdown
from flare.columns import CELL
from flare.errors import DataError
from flare.files import read_json, write_whole
from flare.runs.record import size

_CELL = list(CELL)
_VERDICTS = ("supported", "refuted", "equal", "undecided")
# How the cells that a claim compares got their settings.
_AUTHORS, _GIVEN, _TUNED, _ONE = "the authors' settings", "given settings", "equal tuning", "tuned on one side"


@dataclass(frozen=True)
class Found:
    """All that the report reads: the tables, and of the runs' records the versions and commits."""

    runs: pd.DataFrame
    summary: pd.DataFrame
    costs: pd.DataFrame
    claims: pd.DataFrame
    reached: pd.DataFrame
    reference: pd.DataFrame
    settings: pd.DataFrame
    studies: pd.DataFrame
    versions: dict[str, list[str]]
    commits: list[str]
    registration: str


def write(
    folders: Sequence[Path], tables: Path, output: Path, register: Path | None = None, configuration: str | None = None
) -> None:
    """Write reproduction.md and checklist.md into `output`; the same bytes for the same files.

    folders: the runs', of whose run.json versions and commits are taken. tables: their tables. register,
    configuration: as `registered.said` has them. DataError if a file is missing or is none.
    """
    found = _read(folders, tables, registered.said(register, configuration))
    write_whole(output / "reproduction.md", _reproduction(found).encode())
    write_whole(output / "checklist.md", _checklist(found).encode())


def _read(folders: Sequence[Path], tables: Path, registration: str) -> Found:
    versions: dict[str, set[str]] = {}
    commits = set()
    for folder in folders:
        try:
            record = read_json(folder / "run.json")
            for name, version in dict(record["versions"]).items():
                versions.setdefault(str(name), set()).add(str(version))
            commits.add(str(record["git_commit"] or "none"))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{folder}/run.json: not the record of a run: {' '.join(str(error).split())[:200]}"
            ) from None
    kinds = ("runs", "summary", "costs", "claims", "reached", "reference", "settings")
    return Found(
        **{name: read_table(tables, name) for name in kinds},
        studies=read_table(tables, "studies") if (tables / "studies.csv").exists() else pd.DataFrame(),
        versions={name: sorted(found) for name, found in sorted(versions.items())},
        commits=sorted(commits),
        registration=registration,
    )


# ---- reproduction.md ------------------------------------------------------------------------------------------------


def _reproduction(found: Found) -> str:
    sections = {
        "Scope": _scope(found),
        "Claims": _claims(found),
        "What differs from the paper": _differences(found),
        "What was easy": _easy(found),
        "What was difficult": _difficult(found),
        "Cost": _cost(found),
    }
    if repeated := _repeated(found):
        sections["How much a study varies"] = repeated
    parts = [f"## {title}\n\n{text}" for title, text in sections.items()]
    return "\n".join(["# Reproduction report\n", *parts])


def _scope(found: Found) -> str:
    rows = []
    for experiment, own in found.runs.groupby("experiment", sort=False):
        first = own.iloc[0]
        listed = [", ".join(map(str, dict.fromkeys(own[name]))) for name in ("keep", "local_epochs")]
        listed.insert(0, ", ".join(map(label, dict.fromkeys(own["method"]))))
        counts = [str(own["seed"].nunique()), str(len(own))]
        rows.append([str(experiment), first["dataset"], first["model"], *listed, *counts])
    heads = ["experiment", "data", "model", "methods", "keep", "E", "seeds", "runs"]
    said = (
        "The paper: T. Greidi and K. Cohen, Sparse Training for Federated Learning with Regularized Error Correction,"
        " arXiv 2312.13795. What is tested here:"
    )
    return f"{said}\n\n{_table(heads, rows, left=6)}\n{found.registration}\n"


def _claims(found: Found) -> str:
    """A row per claim, baseline and way in which the compared got their settings, with the count of each verdict."""
    if found.claims.empty:
        return "The runs allow no comparison that a claim is about.\n"
    ways = _ways(found)
    claims = found.claims.assign(settings=[_way(row, ways) for row in found.claims.to_dict("records")])
    rows = []
    for (claim, baseline, way), own in claims.groupby(["claim", "baseline", "settings"], sort=False):
        counts = [str(int((own["verdict"] == verdict).sum())) for verdict in _VERDICTS]
        points = own.loc[own["unit"] == "points", "difference"].dropna()
        spread = f"{points.min():+.2f} to {points.max():+.2f}" if len(points) else NONE
        rows.append([str(claim), label(str(baseline)), str(way), *counts, spread])
    table = _table(["claim", "baseline", "settings", *_VERDICTS, "differences (points)"], rows, left=3)
    lines = [f"- {name}: {CLAIMS[name].statement}." for name in CLAIMS if name in set(claims["claim"])]
    return "\n".join([table, *lines, "- Every comparison, with its interval: tables/claims.md.", ""])


def _ways(found: Found) -> dict[Any, str]:
    """By experiment, local_epochs, method and keep: whether a study chose its settings, or the authors."""
    fidelity = found.settings[found.settings["setting"] == "fidelity"]
    authors = {
        (row["experiment"], row["local_epochs"], row["method"], row["keep"])
        for row in fidelity.to_dict("records")
        if row["value"] == "authors"
    }
    tuned = found.runs.groupby(["experiment", "local_epochs", "method", "keep"], sort=False)["tuned"].any()
    return {cell: _TUNED if chosen else _AUTHORS if cell in authors else _GIVEN for cell, chosen in dict(tuned).items()}


def _way(row: dict[Any, Any], ways: dict[Any, str]) -> str:
    """That of both sides of a claim's row; of a sparsity gain, whose keeps are what was found, that of its methods."""
    sides = []
    for method, keep in ((row["method"], row["keep"]), (row["baseline"], row["baseline_keep"])):
        place = (row["experiment"], row["local_epochs"], method)
        sides.append(ways.get((*place, keep)) or next(way for cell, way in ways.items() if cell[:3] == place))
    if _TUNED in sides:
        return _TUNED if sides[0] == sides[1] else _ONE
    return sides[0] if sides[0] == sides[1] else _GIVEN


def _differences(found: Found) -> str:
    known = found.reference[found.reference["reference_accuracy"].notna()]
    agree = int((known["comparable"] == "yes").sum())
    said = [f"The authors published a number of {len(known)} of the {len(found.reference)} cells."]
    said[0] += f" In {agree} of these, data and all settings agree." if len(known) else ""
    reasons = known["differs"].dropna()
    counts = reasons[reasons != ""].value_counts(sort=False)
    said += [f"- {reason} ({count} cell{'s' * (count > 1)})" for reason, count in sorted(counts.items())]
    ratio = (found.summary["effective_keep"] / pd.to_numeric(found.summary["keep"], errors="coerce")).dropna()
    if len(ratio):
        times = f"{ratio.min():.3g} to {ratio.max():.3g} times the nominal keep"
        said.append(f"- What is sent is {times}: of every tensor at least one entry.")
    said.append("- Every cell beside the authors' number, with what differs: tables/reference.md.")
    return "\n".join([*said[:1], "", *said[1:], ""])


def _easy(found: Found) -> str:
    runs, lines = found.runs, []
    finished = int((runs["status"] == "finished").sum())
    lines.append(f"{finished} of {len(runs)} runs finished.")
    whole = runs.groupby(_CELL, sort=False)["status"].agg(lambda status: bool((status == "finished").all()))
    lines.append(f"{int(whole.sum())} of {len(whole)} cells have no diverged run.")
    known = found.reference[found.reference["comparable"] == "yes"]
    inside = known["reference_accuracy"].between(known["final_accuracy_low"], known["final_accuracy_high"])
    if len(known):
        lines.append(f"{int(inside.sum())} of {len(known)} comparable published numbers lie in our interval.")
    lines += [f"{int((found.claims['verdict'] != 'undecided').sum())} of {len(found.claims)} comparisons are decided."]
    return "\n".join([*(f"- {line}" for line in lines), ""])


def _difficult(found: Found) -> str:
    lines = []
    lost = found.summary[found.summary["diverged"] > 0]
    for row in lost.to_dict("records"):
        lines.append(f"{_named(row)}: {row['diverged']} of {row['diverged'] + row['n']} runs diverged.")
    open_ = found.claims[found.claims["verdict"] == "undecided"]
    if len(open_):
        lines.append(f"{len(open_)} comparisons are undecided; what would decide them: tables/claims.md.")
    few = found.claims[found.claims["n"] < SEEDS]
    if len(few):
        lines.append(f"{len(few)} comparisons have fewer than {SEEDS} seeds, so that nothing is decided.")
    never = found.reached[found.reached["rounds"].isna()]
    if len(never):
        lines.append(f"{len(never)} of {len(found.reached)} targets are not reached by half of a cell's runs.")
    for row in found.studies.to_dict("records"):
        if isinstance(row["warning"], str) and row["warning"]:
            lines.append(f"{row['study']}: {row['warning']}.")
        if row["diverged"] > 0:
            lines.append(f"{row['study']}: {row['diverged']} of {row['trials']} trials diverged.")
    return "\n".join([*(f"- {line}" for line in lines or ["Nothing that the files say."]), ""])


def _named(row: dict[Any, Any]) -> str:
    return f"{row['experiment']}, {label(row['method'])} {row['keep']}, E = {row['local_epochs']}"


def _cost(found: Found) -> str:
    rows = []
    sent = {name: dict(found.runs.groupby("experiment")[f"{name}_bits"].sum()) for name in ("uplink", "downlink")}
    trials = dict(found.studies.groupby("experiment")["runs"].sum()) if len(found.studies) else {}
    for experiment, own in found.costs.groupby("experiment", sort=False):
        seconds = own["wall_seconds"]
        times = [f"{seconds.sum() / 3600:.3g}", f"{seconds.median():.3g}"]
        bits = [size(float(sent[name][experiment])) for name in sent]
        rows.append([str(experiment), str(len(own)), str(trials.get(experiment, 0)), *times, *bits])
    heads = ["experiment", "runs", "runs of trials", "hours, reported runs", "s a run, median", "uplink", "downlink"]
    hardware: dict[Any, int] = dict(found.costs.groupby(["device", "threads"]).size())
    on = ", ".join(
        f"{device} with {threads} thread{'s' * (threads > 1)}: {count}" for (device, threads), count in hardware.items()
    )
    total = found.costs["wall_seconds"].sum() / 3600
    return f"{_table(heads, rows)}\nReported runs took {total:.3g} hours. Runs on {on}.\n"


def _repeated(found: Found) -> str:
    """Cells whose study was carried out more than once, in experiments that differ in nothing else; "" if none was.

    The spread of the studies is that of their cells' mean late accuracies; of the seeds it is pooled over the studies.
    """
    runs = found.runs[found.runs["tuned"] & (found.runs["status"] == "finished")]
    rows = []
    for cell, own in runs.groupby(["family", "available", "method", "keep", "local_epochs"], sort=False):
        if own["experiment"].nunique() < 2:
            continue
        studies = 100 * own.groupby("experiment", sort=False)["late_accuracy"].mean()
        within = 100 * own.groupby("experiment", sort=False)["late_accuracy"].std()
        seeds = math.sqrt((within**2).mean()) if within.notna().all() else math.nan
        family, _, method, *names = map(str, cell)
        numbers = [f"{studies.mean():.2f}", f"{studies.min():.2f} to {studies.max():.2f}", f"{studies.std():.2f}"]
        numbers.append(NONE if math.isnan(seeds) else f"{seeds:.2f}")
        rows.append([family, label(method), *names, str(len(studies)), *numbers])
    if not rows:
        return ""
    heads = ["experiment", "method", "keep", "E", "studies", "late (%)", "by study", "spread of studies", "of seeds"]
    said = (
        "The same study with other seeds of its own, each followed by its own runs. Spreads are standard deviations, in"
        " points: of the studies' mean late accuracies, and of a study's seeds."
    )
    return f"{said}\n\n{_table(heads, rows, left=3)}"


# ---- checklist.md ---------------------------------------------------------------------------------------------------


def _checklist(found: Found) -> str:
    rows = [[item, answer, where] for item, answer, where in _items(found)]
    return f"# Reproducibility checklist\n\n{_table(['asked', 'answer', 'where'], rows, left=3)}"


def _items(found: Found) -> Iterator[tuple[str, str, str]]:
    """What is asked, the answer, the file that bears it out."""
    runs, summary, settings = found.runs, found.summary, found.settings
    verdicts = found.claims["verdict"].value_counts()
    counted = ", ".join(f"{verdicts[verdict]} {verdict}" for verdict in _VERDICTS if verdict in verdicts)
    yield "Claims are stated, and judged by rules", f"yes; {counted or 'no comparison'}", "tables/claims.md"
    yield "Rules and configuration were fixed before the runs", found.registration, "preregistration.json"
    yield "Code", f"commit {', '.join(found.commits)}", "run.json of every run"
    versions = "; ".join(f"{name} {', '.join(those)}" for name, those in found.versions.items())
    yield "Versions", versions, "run.json, requirements.lock"
    yield "Data sets", ", ".join(dict.fromkeys(runs["dataset"])), "manifest.json of each, with checksums"
    schemes = settings.loc[settings["setting"] == "partition.scheme", "value"]
    yield (
        "How data is dealt to clients",
        ", ".join(dict.fromkeys(schemes)) or NONE,
        "tables/labels, tables/settings.csv",
    )
    sizes = runs.drop_duplicates(["experiment", "parameters"])
    several = [f"{row['experiment']}: {row['parameters']:,}" for row in sizes.to_dict("records")]
    yield "Parameters of each model", "; ".join(several), "tables/runs.csv"
    yield "All settings of every cell", f"yes; {len(summary)} cells", "tables/settings.csv"
    yield from _of_tuning(found)
    seeds = runs.groupby(_CELL)["seed"].nunique()
    least, most = int(seeds.min()), int(seeds.max())
    yield "Runs of every cell", f"{least}" if least == most else f"{least} to {most}", "tables/runs.csv"
    shuffled = settings[(settings["setting"] == "partition.shuffle") & (settings["value"] == "true")]
    dealt = shuffled["experiment"].nunique()
    vary = f"initial weights and batches; who holds what in {dealt} of {runs['experiment'].nunique()} experiments"
    yield "What seeds vary", vary, "tables/settings.csv"
    yield "Central tendency and variation", f"mean with {percent(LEVEL)} t-interval", "tables/summary.csv"
    tests = "paired t-test, exact sign-flip test, Holm's correction, smallest detectable difference"
    yield "Statistical tests", tests, "tables/claims.csv"
    lost = int((runs["status"] == "diverged").sum())
    yield "Diverged runs are reported", f"yes; {lost} of {len(runs)}", "tables/runs.csv, tables/claims.csv"
    devices = ", ".join(dict.fromkeys(found.costs["device"]))
    seconds = found.costs["wall_seconds"]
    cost = f"{devices}; median {seconds.median():.3g} s a run, {seconds.sum() / 3600:.3g} hours in all"
    yield "Hardware and time", cost, "tables/costs.csv"
    yield "Results can be repeated bit for bit", "on the same versions and kind of device: to be tried", "make verify"
    for item in ("Contact with the authors of the paper", "Licences of data, limits, ethics", "Use of the results"):
        yield item, "not said by any file: for the authors of the report", NONE


def _of_tuning(found: Found) -> Iterator[tuple[str, str, str]]:
    if found.studies.empty:
        yield "Search of settings", "none: no cell was tuned", NONE
        return
    studies = found.studies
    trials = dict.fromkeys(f"{row['trials']} of {row['seeds']} seeds" for row in studies.to_dict("records"))
    yield "Search of settings", f"{len(studies)} studies; trials: {', '.join(trials)}", "tables/studies.csv"
    ranges = "study.json of each study; values at an end of their range are named"
    yield "Bounds of every range", f"yes; {int(studies['warning'].notna().sum())} studies end at one", ranges
    chosen = f"best mean {', '.join(dict.fromkeys(studies['objective']))} on samples held out from the clients' own"
    yield "How settings were chosen", f"{chosen}; never by the test set", "tables/studies.csv"
    known = int(found.summary["validation_accuracy"].notna().sum())
    yield "Validation accuracy beside the test's", f"of {known} of {len(found.summary)} cells", "tables/summary.csv"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """In Markdown; the first columns, `left` of them, are aligned to the left."""
    return markdown(pd.DataFrame(rows, columns=list(heads), dtype="str"), left=list(heads[:left]))
