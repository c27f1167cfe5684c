"""The commands about records: pack, restore."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import flare.cli.readers as readers
from flare import config as configuration

if TYPE_CHECKING:
    from flare.cli.readers import Commands


def add_pack(commands: Commands) -> None:
    """pack [RESULTS] [--config CONFIG] --output FOLDER"""
    parser = commands.add_parser("pack", help="write a finished sweep as a record, or add it to one")
    parser.add_argument("results", nargs="?", type=Path, help="folder of the results (default: the configuration's)")
    parser.add_argument(
        "--config", type=Path, default=Path("config/config.yaml"), help="the sweep's (default: config/config.yaml)"
    )
    parser.add_argument("--output", type=Path, required=True, help="the record's folder, results/records/NAME")
    parser.set_defaults(command=pack)


def pack(chosen: argparse.Namespace) -> None:
    """Write a finished sweep as a record, or add it to one."""
    from flare import records

    print(records.pack(configuration.load(chosen.config), chosen.output, chosen.results))


def add_restore(commands: Commands) -> None:
    """restore RECORD... [--records FOLDER] [--results FOLDER]"""
    parser = commands.add_parser("restore", help="write the runs of a record back, for tables and figures of them")
    parser.add_argument("records", nargs="*", metavar="RECORD", help="names of records; all, if none is named")
    parser.add_argument("--folder", type=Path, help="where the records lie (default: results/records)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="below it, a folder per record (results)")
    parser.set_defaults(command=restore)


def restore(chosen: argparse.Namespace) -> None:
    """Write the runs of records back, each below a folder of its name."""
    from flare import records

    for name, folder in readers.records_of(chosen.records, chosen.folder):
        count = records.restore(folder, chosen.results / name)
        print(f"{chosen.results / name}: {count} runs, of the record {name}")
