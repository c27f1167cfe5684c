"""A W&B Report of the sweep: curves by method and keep, what tuning found important, the summary and the verdict.

Made from the runs that the project in W&B has (`sync_wandb`, or mode online) and from results/tables.
"""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flare.errors import ConfigError, hide
from flare.files import SMALL, read_bytes, write_whole
from flare.tracking import sdk

# For all calls of the server together.
SECONDS = 60.0
# The form in which a report's specification is sent.
_AS_SENT: dict[str, Any] = {"by_alias": True, "exclude_none": True}


def write(results: Path) -> bool:
    """Save the report in W&B and print its link; without a key write its specification to wandb_report.json.

    A second call replaces the same report: results/wandb_report.id holds its id. False if W&B failed, which one line
    reports.
    """
    tables = results / "tables"
    if not (tables / "runs.csv").exists():
        raise ConfigError(f"{tables / 'runs.csv'}: no such file; the tables of a finished sweep (snakemake tables)")
    specification, known = results / "wandb_report.json", results / "wandb_report.id"
    if not sdk.check_key():
        write_whole(specification, build(tables, "", "")._to_model().spec.model_dump_json(**_AS_SENT).encode())
        print(f"W&B: no API key; what the report would be is in {specification}")
        return True
    try:
        with sdk.bounded(SECONDS):
            entity = os.environ.get("WANDB_ENTITY") or sdk.load().Api().default_entity
            report = build(tables, entity, sdk.project())
            if known.exists():
                report.id = read_bytes(known).decode().strip()
            report.save()
    except ModuleNotFoundError:  # wandb-workspaces
        raise
    except Exception as error:
        said = " ".join((str(error) or type(error).__name__).split())[:300]
        print(hide(f"W&B: no report: {said}"), file=sys.stderr)
        sdk.abandon()
        return False
    write_whole(known, report.id.encode())
    print(hide(f"W&B: {report.url}"))
    return True


def build(tables: Path, entity: str, project: str) -> Any:
    """The report (wandb_workspaces.reports.v2.Report) of these tables; with an entity the project is looked up."""
    sdk.load()
    import wandb_workspaces.reports.v2 as wr

    content = read_bytes(tables / "runs.csv", 64 * SMALL).decode("utf-8")
    rows = list(csv.DictReader(io.StringIO(content, newline="")))
    experiments = {row["experiment"]: f"{row['model']} on {row['dataset']}" for row in rows}
    blocks: list[Any] = [wr.TableOfContents()]
    for experiment, what in experiments.items():
        own = [row for row in rows if row["experiment"] == experiment]
        blocks += _about(wr, experiment, what, own, {"entity": entity, "project": project})
    for title, name in (("Summary", "summary"), ("Claims of the paper", "claims"), ("Tuning", "studies")):
        if (table := tables / f"{name}.md").exists():
            blocks += [wr.H2(title), wr.MarkdownBlock(read_bytes(table, 16 * SMALL).decode("utf-8"))]
    return wr.Report(
        entity=entity,
        project=project,
        title=f"FLARE Sweeps: {', '.join(experiments)}"[:128],
        description=f"{len(rows)} runs; mean and standard deviation over the seeds.",
        blocks=blocks,
        width="fluid",
    )


def _about(wr: Any, experiment: str, what: str, rows: list[dict[str, str]], place: Mapping[str, str]) -> list[Any]:
    """The blocks of one experiment: its curves and, if it was tuned, which settings mattered. place: in W&B."""

    def runs(job: str, by: list[str]) -> Any:
        chosen = f"Config('experiment') == '{experiment}' and JobType == '{job}'"
        return wr.Runset(**place, name=f"{experiment}, {job}", filters=chosen, groupby=by)

    def curve(title: str, x: str, y: str, column: int, log_x: bool = False) -> Any:
        return wr.LinePlot(
            title=title,
            x=x,
            y=[y],
            log_x=log_x,
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
            layout=wr.Layout(x=8 * column, y=0, w=8, h=9),
        )

    curves = [
        curve("Test accuracy by round", "round", "test_accuracy", 0),
        curve("Test accuracy by bits sent by the clients", "uplink_bits", "test_accuracy", 1, log_x=True),
        curve("Training loss by round", "round", "train_loss", 2),
    ]
    cell = ["config.method", "config.keep"]
    if len({row["local_epochs"] for row in rows}) > 1:
        cell.append("config.local_epochs")
    blocks = [wr.H2(f"{experiment}: {what}"), wr.PanelGrid(runsets=[runs("train", cell)], panels=curves)]
    if any(row["tuned"] == "True" for row in rows):
        importance = wr.ParameterImportancePlot("test_accuracy", layout=wr.Layout(x=0, y=0, w=24, h=9))
        text = "What the settings mean for the accuracy on the samples held out from the clients' own:"
        blocks += [wr.P(text), wr.PanelGrid(runsets=[runs("tune", [])], panels=[importance])]
    return blocks
