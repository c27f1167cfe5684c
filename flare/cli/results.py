"""The commands that read finished runs: tables, figures, the verdict, and their repetition."""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import flare.cli.readers as readers
from flare import config as configuration
from flare.errors import ConfigError, choose

if TYPE_CHECKING:
    from flare.cli.readers import Commands


def add_tabulate(commands: Commands) -> None:
    """tabulate RUNS... [--settings DIGEST...] [--code DIGEST...] [--late N] [--tuning FOLDER] --output FOLDER"""
    parser = commands.add_parser("tabulate", help="make the tables of some runs")
    _add_runs(parser)
    parser.add_argument("--output", type=Path, required=True, help="folder of the tables")
    parser.add_argument(
        "--late", type=readers.whole(), default=5, help="last evaluations whose mean is a run's late accuracy (5)"
    )
    parser.add_argument(
        "--tuning", type=Path, help="folder of the studies, which say a tuned cell's validation accuracy"
    )
    parser.set_defaults(command=tabulate)


def tabulate(chosen: argparse.Namespace) -> None:
    """Make the tables of some runs."""
    from flare.analysis import tables

    folders, settings, code = _runs(chosen)
    tables.tabulate(folders, chosen.output, settings, code, chosen.late, chosen.tuning)


def add_plot(commands: Commands) -> None:
    """plot FIGURE [--experiment NAME] --tables FOLDER --output FILE"""
    parser = commands.add_parser("plot", help="draw one figure of one experiment, or of all")
    parser.add_argument("figure", help="the name of a file of flare/figures")
    parser.add_argument("--experiment", help="needed, except for a figure of all experiments")
    parser.add_argument("--tables", type=Path, required=True, help="folder of the tables")
    parser.add_argument("--output", type=Path, required=True, help="file name without .pdf and .png")
    parser.set_defaults(command=plot)


def plot(chosen: argparse.Namespace) -> None:
    """Draw one figure of one experiment, or of all."""
    from flare import figures

    choose("figure", chosen.figure, figures.names())
    if (chosen.experiment is None) != (chosen.figure in figures.whole()):
        wanted = (
            "is drawn of all experiments together" if chosen.experiment else "is of one experiment, which is missing"
        )
        raise ConfigError(f"--experiment: {chosen.figure} {wanted}")
    figures.save(chosen.figure, chosen.tables, chosen.experiment, chosen.output)


def add_tabulate_studies(commands: Commands) -> None:
    """tabulate_studies FOLDER... [--settings DIGEST...] --output FILE"""
    parser = commands.add_parser("tabulate_studies", help="make the table of some studies")
    _add_studies(parser)
    parser.add_argument(
        "--settings", nargs="+", default=[], metavar="DIGEST", help="of the studies, one per folder: refuse others"
    )
    parser.add_argument("--output", type=Path, required=True, help="file name without .csv and .md")
    parser.set_defaults(command=tabulate_studies)


def tabulate_studies(chosen: argparse.Namespace) -> None:
    """Make the table of some studies."""
    from flare.tuning import tables as studies

    if chosen.settings and len(chosen.settings) != len(chosen.studies):
        raise ConfigError(f"--settings: {len(chosen.settings)} are not allowed; one per folder, {len(chosen.studies)}")
    studies.tabulate(chosen.studies, chosen.output, chosen.settings)


def add_export_studies(commands: Commands) -> None:
    """export_studies FOLDER... --output FILE [--storage URL]"""
    parser = commands.add_parser("export_studies", help="hand finished studies to Optuna, for optuna-dashboard")
    _add_studies(parser)
    parser.add_argument("--output", type=Path, required=True, help="the file of Optuna's JournalFileBackend")
    parser.add_argument("--storage", help="and the URL of a database; or FLARE_STORAGE")
    parser.set_defaults(command=export_studies)


def export_studies(chosen: argparse.Namespace) -> None:
    """Write finished studies in Optuna's own form."""
    from flare.tuning import export

    export.export(chosen.studies, chosen.output, chosen.storage or os.environ.get("FLARE_STORAGE"))


def add_show(commands: Commands) -> None:
    """show [RESULTS | CONFIG | --config CONFIG]"""
    parser = commands.add_parser("show", help="print the summary table, and what tuning found")
    readers.add_config(parser, "results", "their folder (default: results), or the sweep's configuration")
    parser.set_defaults(command=show)


def show(chosen: argparse.Namespace) -> None:
    """Print the summary table, and what tuning found."""
    from flare.analysis import origin, tables
    from flare.tuning import tables as studies

    results, notes = readers.config_of(chosen, "results") or Path("results"), []
    if results.is_file() or chosen.named:
        config = configuration.load(results)
        results, notes = Path(config.get("results", "results")), origin.of_configuration(config)
    print(tables.show(results / "tables"))
    for note in notes:
        print(f"Note: {note}")
    if (tuned := results / "tables/studies.csv").exists():
        print(f"\nTuned, on samples held out from the clients' own:\n{studies.show(tuned)}")
    print(f"\nTables:  {results / 'tables'}\nFigures: {results / 'figures'}")


def add_render(commands: Commands) -> None:
    """render SOURCE --output FILE"""
    parser = commands.add_parser("render", help="show a table in Markdown as a page")
    parser.add_argument("source", type=Path)
    parser.add_argument("--output", "-o", type=Path, required=True)
    parser.set_defaults(command=render)


def render(chosen: argparse.Namespace) -> None:
    """Make a page of a table in Markdown."""
    from flare.analysis import pages

    pages.render(chosen.source, chosen.output)


def add_judge(commands: Commands) -> None:
    """judge [--tables FOLDER] [--registered FILE] [--configuration DIGEST]"""
    parser = commands.add_parser("judge", help="say what the runs say of the paper's claims")
    parser.add_argument("--tables", type=Path, default=Path("results/tables"), help="folder of the tables")
    _add_registered(parser)
    parser.set_defaults(command=judge)


def judge(chosen: argparse.Namespace) -> None:
    """Judge the paper's claims by the runs."""
    from flare.analysis import claims

    claims.write(chosen.tables, chosen.registered, chosen.configuration)


def add_reproduction(commands: Commands) -> None:
    """reproduction RUNS... [--tables FOLDER] [--registered FILE] [--configuration DIGEST] --output FOLDER"""
    parser = commands.add_parser("reproduction", help="write a reproduction report and a checklist of some runs")
    parser.add_argument("runs", nargs="+", help="run folders; braces like seed-{1,2,3} are expanded")
    parser.add_argument("--tables", type=Path, default=Path("results/tables"), help="folder of the tables")
    _add_registered(parser)
    parser.add_argument("--output", type=Path, required=True, help="folder of reproduction.md and checklist.md")
    parser.set_defaults(command=reproduction)


def reproduction(chosen: argparse.Namespace) -> None:
    """Write a reproduction report and a checklist."""
    from flare.analysis import reproduction as report
    from flare.analysis.reading import expand

    folders = [Path(folder) for pattern in chosen.runs for folder in expand(pattern)]
    report.write(folders, chosen.tables, chosen.output, chosen.registered, chosen.configuration)


def _add_registered(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--registered", type=Path, help="the pre-registration, which says what was planned")
    parser.add_argument("--configuration", metavar="DIGEST", help="of the configuration as it is now")


def add_reach(commands: Commands) -> None:
    """reach [--tables FOLDER] [--targets A...] [--link UP DOWN LATENCY]"""
    parser = commands.add_parser("reach", help="say what it costs to get to an accuracy")
    parser.add_argument("--tables", type=Path, default=Path("results/tables"), help="folder of the tables")
    parser.add_argument("--targets", type=float, nargs="*", default=[], help="accuracies, beside shares of fedavg's")
    parser.add_argument(
        "--link",
        type=float,
        nargs=3,
        default=None,
        metavar=("UP", "DOWN", "LATENCY"),
        help="a client's, in Mbit/s and ms (10 50 50)",
    )
    parser.set_defaults(command=reach)


def reach(chosen: argparse.Namespace) -> None:
    """Say what it costs to get to an accuracy."""
    from flare.analysis import reached

    for target in chosen.targets:
        if not 0 < target <= 1:
            raise ConfigError(f"--targets: {target:g} is not allowed; an accuracy above 0, at most 1")
    if chosen.link and not (min(chosen.link[:2]) > 0 and chosen.link[2] >= 0):
        given = " ".join(f"{number:g}" for number in chosen.link)
        raise ConfigError(f"--link: {given} is not allowed; two rates above 0 and a latency of at least 0")
    reached.write(chosen.tables, chosen.targets, reached.Link(*chosen.link) if chosen.link else None)


def add_gather_trials(commands: Commands) -> None:
    """gather_trials FOLDER... --output FILE"""
    parser = commands.add_parser("gather_trials", help="make the table of the trials of an experiment's studies")
    _add_studies(parser)
    parser.add_argument("--output", type=Path, required=True, help="the CSV file")
    parser.set_defaults(command=gather_trials)


def gather_trials(chosen: argparse.Namespace) -> None:
    """Make the table of the trials of an experiment's studies."""
    from flare.analysis import trials

    trials.gather_trials(chosen.studies, chosen.output)


def add_compare(commands: Commands) -> None:
    """compare RUNS... [--settings DIGEST...] [--code DIGEST...] [--reference FILE] --output FILE"""
    parser = commands.add_parser("compare", help="set the runs beside the numbers that the FLARE authors published")
    _add_runs(parser)
    parser.add_argument("--reference", type=Path, default=Path("config/reference.csv"))
    parser.add_argument("--output", type=Path, required=True, help="file name without .csv and .md")
    parser.set_defaults(command=compare)


def compare(chosen: argparse.Namespace) -> None:
    """Set the runs beside the numbers that the FLARE authors published."""
    from flare.analysis import reference

    folders, settings, code = _runs(chosen)
    reference.compare(folders, chosen.reference, chosen.output, settings, code)


def add_verify(commands: Commands) -> None:
    """verify [CONFIG | --config CONFIG | --record NAME] [--results FOLDER] [--data FOLDER] [--sample N] [--seed N]"""
    parser = commands.add_parser(
        "verify", help="repeat a random sample of the finished runs and compare what they give"
    )
    readers.add_config(parser, words="the sweep's configuration: of its runs, and it says where both folders are")
    parser.add_argument("--record", metavar="NAME", help="draw from this record of results/records instead")
    parser.add_argument("--results", type=Path, help="folder of the results (default: results)")
    parser.add_argument("--data", type=Path, help="folder of the data sets (default: data)")
    parser.add_argument("--sample", type=readers.whole(), default=3, help="how many (default: 3)")
    parser.add_argument("--seed", type=readers.seed, default=0, help="of the sample (default: 0)")
    parser.set_defaults(command=verify)


def verify(chosen: argparse.Namespace) -> bool:
    """Repeat a random sample of the finished runs; True, which is exit code 1, if one gives something else."""
    from flare.analysis import verify as verification

    file = readers.config_of(chosen)
    if chosen.record:
        return _verify_record(chosen)
    config = configuration.load(file) if file else {}
    among = [run.folder for run in configuration.runs(config)] if file else None
    results = chosen.results or Path(config.get("results", "results"))
    data = chosen.data or Path(config.get("data", "data"))
    return not verification.verify(results, data, chosen.sample, chosen.seed, among)


def _verify_record(chosen: argparse.Namespace) -> bool:
    """Repeat some of the runs of a record, which is restored to a folder of its own for that."""
    from flare import records
    from flare.analysis import verify as verification

    if chosen.results or readers.config_of(chosen):
        raise ConfigError("--record: not beside a configuration or --results; a record has its own")
    [(name, folder)] = readers.records_of([chosen.record], None)
    with tempfile.TemporaryDirectory(prefix="flare-record-") as scratch:
        records.restore(folder, Path(scratch, name))
        data = chosen.data or Path(configuration.load(folder / "config.yaml").get("data", "data"))
        return not verification.verify(Path(scratch, name), data, chosen.sample, chosen.seed)


# ---- what the commands share ----------------------------------------------------------------------------------------


def _add_runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", help="run folders; braces like seed-{1,2,3} are expanded")
    parser.add_argument(
        "--settings", nargs="+", default=[], metavar="DIGEST", help="of the runs' settings, one per RUNS: refuse others"
    )
    parser.add_argument(
        "--code",
        nargs="+",
        default=[],
        metavar="DIGEST",
        help="of the code that made them, one per RUNS: refuse others",
    )


def _runs(chosen: argparse.Namespace) -> tuple[list[Path], list[str | None], list[str | None]]:
    """The folders of the given runs, and the digests of each one's settings and code if they are given, too."""
    from flare.analysis.reading import expand

    for flag, given in (("--settings", chosen.settings), ("--code", chosen.code)):
        if given and len(given) != len(chosen.runs):
            raise ConfigError(f"{flag}: {len(given)} are not allowed; one per RUNS, {len(chosen.runs)}")
    found = [
        (Path(folder), settings, code)
        for pattern, settings, code in itertools.zip_longest(chosen.runs, chosen.settings, chosen.code)
        for folder in expand(pattern)
    ]
    return [each[0] for each in found], [each[1] for each in found], [each[2] for each in found]


def _add_studies(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("studies", nargs="+", type=Path, help="the studies' folders")
