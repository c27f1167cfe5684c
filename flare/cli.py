"""The one command line: python -m flare fetch | train | count_labels | tabulate | plot | show | check.

The rules of the workflow are thin calls of it. A wrong argument or setting is one line and exit code 2, before any
work.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from flare import config as configuration
from flare.config import ConfigError, Run
from flare.tracking import MODES


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, or 2 for wrong input."""
    chosen = _parser().parse_args(arguments)
    try:
        chosen.command(chosen)
    except ConfigError as error:
        print(f"flare: {error}", file=sys.stderr)
        return 2
    except ValueError as error:
        from flare.datasets import DataError

        if not isinstance(error, DataError):
            raise
        print(f"flare: {error}", file=sys.stderr)
        return 2
    return 0


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line instead of printing the usage."""

    def error(self, message: str) -> Any:
        self.exit(2, f"flare: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m flare", description="FLARE Sweeps: sparse federated learning, one step at a time.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    fetch = commands.add_parser("fetch", help="get and verify a data set")
    fetch.add_argument("--dataset", required=True)
    fetch.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets (default: data)")
    fetch.set_defaults(command=_fetch)

    train = commands.add_parser("train", help="carry out one run; keys as in config/README.md")
    for field in dataclasses.fields(Run):
        flag = "--" + field.name.replace("_", "-")
        if field.name in ("partition", "model_settings", "method_settings"):
            train.add_argument(flag, nargs="*", metavar="KEY=VALUE", type=_pair)
        elif field.type == "bool":
            train.add_argument(flag, action="store_true", default=None)
        else:
            kind = {"int": int, "float": float}.get(str(field.type).split(" ")[0], str)
            train.add_argument(flag, type=kind, required=field.default is field.default_factory)
    train.add_argument("--output", type=Path, required=True, help="the run's folder")
    train.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets (default: data)")
    train.add_argument("--device", help="cpu (default), cuda, cuda:1; or FLARE_DEVICE")
    train.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    train.add_argument("--wandb", choices=MODES, help="offline (default), online, disabled; or WANDB_MODE")
    train.set_defaults(command=_train)

    count = commands.add_parser("count_labels", help="count the samples of each class that each client holds")
    for name, kind in (("experiment", str), ("dataset", str), ("clients", int), ("seed", int)):
        count.add_argument(f"--{name}", type=kind, required=True)
    count.add_argument("--partition", nargs="*", metavar="KEY=VALUE", type=_pair, default=[])
    count.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets (default: data)")
    count.add_argument("--output", type=Path, required=True, help="the CSV file")
    count.set_defaults(command=_count_labels)

    tabulate = commands.add_parser("tabulate", help="make the tables of some runs")
    tabulate.add_argument("runs", nargs="+", help="run folders; braces like seed-{1,2,3} are expanded")
    tabulate.add_argument("--output", type=Path, required=True, help="folder of the tables")
    tabulate.set_defaults(command=_tabulate)

    plot = commands.add_parser("plot", help="draw one figure of one experiment")
    plot.add_argument("figure", help="the name of a file of flare/figures")
    plot.add_argument("--experiment", required=True)
    plot.add_argument("--tables", type=Path, required=True, help="folder of the tables")
    plot.add_argument("--output", type=Path, required=True, help="file name without .pdf and .png")
    plot.set_defaults(command=_plot)

    show = commands.add_parser("show", help="print the summary table")
    show.add_argument("results", nargs="?", type=Path, default=Path("results"))
    show.set_defaults(command=_show)

    check = commands.add_parser("check", help="check a configuration and say how many runs it asks for")
    check.add_argument("config", nargs="?", type=Path, default=Path("config/config.yaml"))
    check.set_defaults(command=_check)
    return parser


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, yaml.safe_load(value)


def _fetch(chosen: argparse.Namespace) -> None:
    from flare import datasets

    configuration.choose("dataset", chosen.dataset, datasets.names())
    datasets.fetch(chosen.dataset, chosen.data)


def _train(chosen: argparse.Namespace) -> None:
    given = {f.name: getattr(chosen, f.name) for f in dataclasses.fields(Run) if getattr(chosen, f.name) is not None}
    for name in ("partition", "model_settings", "method_settings"):
        if name in given:
            given[name] = dict(given[name])
    run = Run(**given)
    configuration.check_run(run)
    from flare.train import train

    train(
        configuration.with_defaults(run),
        data=chosen.data,
        output=chosen.output,
        device=chosen.device or os.environ.get("FLARE_DEVICE", "cpu"),
        threads=chosen.threads,
        wandb=configuration.choose("WANDB_MODE", chosen.wandb or os.environ.get("WANDB_MODE", "offline"), MODES),
    )


def _count_labels(chosen: argparse.Namespace) -> None:
    from flare import datasets
    from flare.datasets import partition
    from flare.record import write_whole

    split = datasets.load(chosen.dataset, chosen.data, "train")
    parts = partition.split(split.targets, chosen.clients, dict(chosen.partition), chosen.seed, split.clients)
    counts = partition.count(split.targets, parts, datasets.module(chosen.dataset).CLASSES)
    lines = ["experiment,client,label,samples"]
    for client, row in enumerate(counts):
        lines += [f"{chosen.experiment},{client},{label},{samples}" for label, samples in enumerate(row)]
    write_whole(chosen.output, "\n".join([*lines, ""]).encode())


def _tabulate(chosen: argparse.Namespace) -> None:
    from flare import tables

    tables.tabulate([Path(folder) for pattern in chosen.runs for folder in tables.expand(pattern)], chosen.output)


def _plot(chosen: argparse.Namespace) -> None:
    from flare import figures

    configuration.choose("figure", chosen.figure, figures.names())
    figures.save(chosen.figure, chosen.tables, chosen.experiment, chosen.output)


def _show(chosen: argparse.Namespace) -> None:
    from flare import tables

    print(tables.show(chosen.results / "tables"))
    print(f"\nTables:  {chosen.results / 'tables'}\nFigures: {chosen.results / 'figures'}")


def _check(chosen: argparse.Namespace) -> None:
    print(f"{chosen.config}: {len(configuration.runs(configuration.load(chosen.config)))} runs")
