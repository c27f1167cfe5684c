"""The commands about a whole sweep: check, plan, status, sync_wandb, wandb_report."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import flare.cli.readers as readers
from flare import config as configuration
from flare.tuning.study import studies

if TYPE_CHECKING:
    from flare.cli.readers import Commands

_CONFIG = Path("config/config.yaml")


def add_check(commands: Commands) -> None:
    """check [CONFIG | --config CONFIG]"""
    parser = commands.add_parser("check", help="check a configuration and say how many runs it asks for")
    readers.add_config(parser)
    parser.set_defaults(command=check)


def check(chosen: argparse.Namespace) -> None:
    """Check a configuration and print how many runs it asks for, and how many of trials before them."""
    file = readers.config_of(chosen) or _CONFIG
    config = configuration.load(file)
    configuration.check_folders(config, str(file))
    trials = sum(study.batches * study.trials * len(study.seeds) for study in studies(config))
    print(f"{file}: {len(configuration.runs(config))} runs{f', {trials} trials' if trials else ''}")


def add_plan(commands: Commands) -> None:
    """plan [CONFIG | --config CONFIG] [--data FOLDER] [--output FILE]"""
    parser = commands.add_parser("plan", help="estimate what a configuration costs: runs, operations, memory, hours")
    readers.add_config(parser)
    parser.add_argument("--data", type=Path, help="folder of the data sets (default: the configuration's)")
    parser.add_argument("--output", type=Path, help="a CSV file, beside what is printed")
    parser.set_defaults(command=plan)


def plan(chosen: argparse.Namespace) -> None:
    """Estimate what a configuration costs."""
    config = configuration.load(readers.config_of(chosen) or _CONFIG)
    device = config.get("device", "cpu")
    from flare.files import write_whole
    from flare.planning import plan as planning

    os.environ.setdefault("WANDB_MODE", config.get("wandb", {}).get("mode", "offline"))
    data = chosen.data or Path(config.get("data", "data"))
    table = planning.plan(config, data, device=device, threads=config.get("threads", 1))
    print(planning.show(table))
    print(f"memory of the largest job; hours of all runs one after the other, measured on this device ({device});")
    print("what follows the runs, tables, figures and report, is not in them")
    if table["extrapolated"].iloc[-1]:
        print("extrapolated: share of the hours that was not measured, but scaled from another model or keep")
    if chosen.output:
        write_whole(chosen.output, table.to_csv(index=False, lineterminator="\n").encode())


def add_status(commands: Commands) -> None:
    """status [CONFIG | --config CONFIG]"""
    parser = commands.add_parser("status", help="count the finished, running, diverged and failed runs of a sweep")
    readers.add_config(parser)
    parser.set_defaults(command=status)


def status(chosen: argparse.Namespace) -> None:
    """Count the finished, running, diverged and failed runs of a sweep."""
    from flare import status as progress

    print(progress.show(configuration.load(readers.config_of(chosen) or _CONFIG)))


def add_sweep(commands: Commands) -> None:
    """sweep [CONFIG | --config CONFIG] --deadline MINUTES [--pack FOLDER] [-- ARGUMENTS...]"""
    parser = commands.add_parser("sweep", help="carry out a sweep for so many minutes, saved and packed at their end")
    readers.add_config(parser)
    parser.add_argument(
        "--deadline", type=readers.minutes, required=True, metavar="MINUTES", help="when all is to be over"
    )
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="the record to write or to add to at the end")
    parser.add_argument("--snakemake", default="--cores all", metavar="ARGUMENTS", help="Snakemake's (--cores all)")
    parser.set_defaults(command=sweep)


def sweep(chosen: argparse.Namespace) -> int:
    """Carry out a sweep within a limit of time; exit code 75 if something is left to do."""
    from flare import deadline, records
    from flare.runs import checkpoint

    file = readers.config_of(chosen) or _CONFIG
    config = configuration.load(file)
    configuration.check_folders(config, str(file))
    done = deadline.sweep(config, file, chosen.deadline, shlex.split(chosen.snakemake))
    if chosen.pack and (done or deadline.longest(Path(config.get("results", "results")), {})):
        print(records.pack(config, chosen.pack))
    return 0 if done else checkpoint.RESUMABLE


def add_sync_wandb(commands: Commands) -> None:
    """sync_wandb [--results FOLDER]"""
    parser = commands.add_parser("sync_wandb", help="send finished offline runs, tables and figures to W&B, each once")
    _add_results(parser)
    parser.set_defaults(command=sync_wandb)


def sync_wandb(chosen: argparse.Namespace) -> bool:
    """Send what is finished to W&B; True, which is exit code 1, if it did not take everything."""
    from flare.tracking import sync

    return not sync.sync(chosen.results)


def add_wandb_report(commands: Commands) -> None:
    """wandb_report [--results FOLDER]"""
    parser = commands.add_parser("wandb_report", help="make a W&B Report of the sweep")
    _add_results(parser)
    parser.set_defaults(command=wandb_report)


def wandb_report(chosen: argparse.Namespace) -> bool:
    """Make a W&B Report of the sweep; True, which is exit code 1, if W&B failed."""
    from flare.tracking import report

    return not report.write(chosen.results)


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the results")
