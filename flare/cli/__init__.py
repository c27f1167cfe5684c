"""The one command line: python -m flare COMMAND; `python -m flare --help` lists the commands.

The rules of the workflow are thin calls of it. A wrong argument or setting is one line and exit code 2, before any
work.
"""

from __future__ import annotations

import argparse
import dataclasses
import errno
import functools
import itertools
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from flare import config as configuration
from flare import tuning
from flare.config import Run
from flare.errors import ConfigError, choose
from flare.runs import checkpoint
from flare.tracking import MODES

# What is wrong where the disk is full or broken, or who reads what is printed has gone.
_NOT_THE_ARGUMENTS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EPIPE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 where some runs or the disk failed, 2 for wrong input, 75 for
    interrupted and saved, 130 for interrupted.
    """
    chosen = _parser().parse_args(arguments)
    os.environ.pop("WANDB_SERVICE", None)  # the SDK's process of a notebook, say, that called this: it ends with that
    try:
        return int(chosen.command(chosen) or 0)
    except checkpoint.Interrupted as signal:
        print(f"flare: {signal}: saved; the same command goes on from there", file=sys.stderr)
        return checkpoint.RESUMABLE
    except KeyboardInterrupt:  # of what has no checkpoint
        print("flare: interrupted", file=sys.stderr)
        return 130
    except ConfigError as error:
        print(f"flare: {_in_one_line(error)}", file=sys.stderr)
        return 2
    except OSError as error:  # a file or a folder of the arguments, or a disk
        named = error.filename2 or error.filename  # the second is the name that a finished file was to get
        where = f"{named}: " if named else ""
        print(f"flare: {_in_one_line(f'{where}{error.strerror or error}')}", file=sys.stderr)
        return 1 if error.errno in _NOT_THE_ARGUMENTS else 2
    except (MemoryError, RuntimeError) as error:
        said = " ".join(str(error).split())
        if not isinstance(error, MemoryError) and "allocate" not in said:  # torch's, of a CPU and of a GPU
            raise
        print(f"flare: not enough memory: {said[-200:]}", file=sys.stderr)
        return 1
    except ValueError as error:
        from flare.errors import DataError

        if not isinstance(error, DataError):
            raise
        print(f"flare: {error}", file=sys.stderr)
        return 2


def _in_one_line(message: object) -> str:
    """The message, where a file's name has line breaks, too."""
    return " ".join(str(message).splitlines())


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line instead of printing the usage."""

    def error(self, message: str) -> Any:
        self.exit(2, f"flare: {' '.join(message.split())}\n")


def _whole(low: int = 1, high: int = 10**9) -> Callable[[str], int]:
    """Reads a whole number in that range."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not allowed; a whole number, {low} to {high}")
        return number

    return read


def _seconds(text: str) -> float:
    """Reads a number of seconds."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 10**9:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; a number of seconds, 0 or more")
    return number


_seed = _whole(0, 2**32 - 1)


def _share(text: str) -> float:
    """Reads the share of the samples that is held out."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; a number above 0 and below 1")
    return number


def _name(text: str) -> str:
    """Reads the name of an experiment."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; letters, digits, '_', '.' and '-', at most 64")
    return text


def _device(text: str) -> str:
    """Reads the name of a device."""
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; cpu, cuda or cuda:0, cuda:1, ...")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m flare", description="FLARE Sweeps: sparse federated learning, one step at a time.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    fetch = commands.add_parser("fetch", help="get and verify a data set")
    fetch.add_argument("--dataset", required=True)
    fetch.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets (default: data)")
    fetch.set_defaults(command=_fetch)

    train = commands.add_parser("train", help="carry out one run; keys as in config/README.md")
    _add_run(train)
    train.add_argument(
        "--values", type=Path, nargs="*", default=[], help="a study's best.yaml, or proposals.json with --trial"
    )
    train.add_argument(
        *("--output", "-o"),
        type=Path,
        nargs="+",
        required=True,
        help="the run's folder; several, each called seed-N: that many runs, instead of --seed",
    )
    train.set_defaults(command=_train)

    for name, words in (
        ("propose", "propose the values of a study's next batch of trials"),
        ("tune", "conclude a study from its trials or, --mode single, carry it out"),
    ):
        study = commands.add_parser(name, help=words)
        _add_run(study, without=("seed", "tuned", "trial", "validation"))
        study.add_argument("--output", type=Path, required=True, help="the study's folder")
        study.add_argument("--space", nargs="+", type=_pair, required=True, metavar="KEY=RANGE", help="what is tuned")
        study.add_argument("--seeds", nargs="+", type=_seed, required=True, help="of the runs of every trial")
        for field in dataclasses.fields(tuning.Study):
            if field.name in ("batches", "trials", "validation", "objective", "mode", "seed"):
                flag = "--study-seed" if field.name == "seed" else f"--{field.name}"
                of = {"batches": _whole(1, 10**5), "trials": _whole(1, 10**5), "seed": _seed, "validation": _share}
                study.add_argument(flag, type=of.get(field.name, str), default=field.default)
        study.add_argument("--batch", type=_whole(0), default=0, help="which batch is proposed, from 0")
        study.set_defaults(command=_propose if name == "propose" else _tune)

    count = commands.add_parser("count_labels", help="count the samples of each class that each client holds")
    kinds: dict[str, Callable[[str], Any]]
    kinds = {"experiment": _name, "dataset": str, "clients": _whole(1, 10**6), "seed": _seed}
    for name, kind in kinds.items():
        count.add_argument(f"--{name}", type=kind, required=True)
    count.add_argument("--partition", nargs="*", metavar="KEY=VALUE", type=_pair, default=[])
    count.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets (default: data)")
    count.add_argument("--output", type=Path, required=True, help="the CSV file")
    count.set_defaults(command=_count_labels)

    tabulate = commands.add_parser("tabulate", help="make the tables of some runs")
    tabulate.add_argument("runs", nargs="+", help="run folders; braces like seed-{1,2,3} are expanded")
    tabulate.add_argument(
        "--settings", nargs="+", default=[], metavar="DIGEST", help="of the runs' settings, one per RUNS: refuse others"
    )
    tabulate.add_argument("--output", type=Path, required=True, help="folder of the tables")
    tabulate.set_defaults(command=_tabulate)

    plot = commands.add_parser("plot", help="draw one figure of one experiment")
    plot.add_argument("figure", help="the name of a file of flare/figures")
    plot.add_argument("--experiment", required=True)
    plot.add_argument("--tables", type=Path, required=True, help="folder of the tables")
    plot.add_argument("--output", type=Path, required=True, help="file name without .pdf and .png")
    plot.set_defaults(command=_plot)

    studies = commands.add_parser("tabulate_studies", help="make the table of some studies")
    studies.add_argument("studies", nargs="+", type=Path, help="the studies' folders")
    studies.add_argument(
        "--settings", nargs="+", default=[], metavar="DIGEST", help="of the studies, one per folder: refuse others"
    )
    studies.add_argument("--output", type=Path, required=True, help="file name without .csv and .md")
    studies.set_defaults(command=_tabulate_studies)

    export = commands.add_parser("export_studies", help="hand finished studies to Optuna, for optuna-dashboard")
    export.add_argument("studies", nargs="+", type=Path, help="the studies' folders")
    export.add_argument("--output", type=Path, required=True, help="the file of Optuna's JournalFileBackend")
    export.add_argument("--storage", help="and the URL of a database; or FLARE_STORAGE")
    export.set_defaults(command=_export_studies)

    show = commands.add_parser("show", help="print the summary table, and what tuning found")
    show.add_argument(
        "results", nargs="?", type=Path, default=Path("results"), help="their folder, or the sweep's configuration"
    )
    show.set_defaults(command=_show)

    render = commands.add_parser("render", help="show a table in Markdown as a page")
    render.add_argument("source", type=Path)
    render.add_argument("--output", "-o", type=Path, required=True)
    render.set_defaults(command=_render)

    judge = commands.add_parser("judge", help="say what the runs say of the paper's claims")
    judge.add_argument("--tables", type=Path, default=Path("results/tables"), help="folder of the tables")
    judge.set_defaults(command=_judge)

    gather = commands.add_parser("gather_trials", help="make the table of the trials of an experiment's studies")
    gather.add_argument("studies", nargs="+", type=Path, help="the studies' folders")
    gather.add_argument("--output", type=Path, required=True, help="the CSV file")
    gather.set_defaults(command=_gather_trials)

    status = commands.add_parser("status", help="count the finished, running, diverged and failed runs of a sweep")
    status.add_argument("config", nargs="?", type=Path, default=Path("config/config.yaml"))
    status.set_defaults(command=_status)

    compare = commands.add_parser("compare", help="set the runs beside the numbers that the FLARE authors published")
    compare.add_argument("runs", nargs="+", help="run folders; braces like seed-{1,2,3} are expanded")
    compare.add_argument(
        "--settings", nargs="+", default=[], metavar="DIGEST", help="of the runs' settings, one per RUNS: refuse others"
    )
    compare.add_argument("--reference", type=Path, default=Path("config/reference.csv"))
    compare.add_argument("--output", type=Path, required=True, help="file name without .csv and .md")
    compare.set_defaults(command=_compare)

    plan = commands.add_parser("plan", help="estimate what a configuration costs: runs, operations, memory, hours")
    plan.add_argument("--config", type=Path, default=Path("config/config.yaml"))
    plan.add_argument("--data", type=Path, help="folder of the data sets (default: the configuration's)")
    plan.add_argument("--output", type=Path, help="a CSV file, beside what is printed")
    plan.set_defaults(command=_plan)

    verify = commands.add_parser(
        "verify", help="repeat a random sample of the finished runs and compare what they give"
    )
    verify.add_argument("--config", type=Path, help="the sweep's configuration, which says where both folders are")
    verify.add_argument("--results", type=Path, help="folder of the results (default: results)")
    verify.add_argument("--data", type=Path, help="folder of the data sets (default: data)")
    verify.add_argument("--sample", type=_whole(), default=3, help="how many (default: 3)")
    verify.add_argument("--seed", type=_seed, default=0, help="of the sample (default: 0)")
    verify.set_defaults(command=_verify)

    for name, words in (
        ("sync_wandb", "send finished offline runs, tables and figures to W&B, each once"),
        ("wandb_report", "make a W&B Report of the sweep"),
    ):
        send = commands.add_parser(name, help=words)
        send.add_argument("--results", type=Path, default=Path("results"), help="folder of the results")
        send.set_defaults(command=_sync_wandb if name == "sync_wandb" else _wandb_report)

    check = commands.add_parser("check", help="check a configuration and say how many runs it asks for")
    check.add_argument("config", nargs="?", type=Path, default=Path("config/config.yaml"))
    check.set_defaults(command=_check)
    return parser


def _add_run(parser: argparse.ArgumentParser, without: Sequence[str] = ()) -> None:
    """The fields of a run, and what carries one out."""
    for field in dataclasses.fields(Run):
        if field.name in without:
            continue
        flag = "--" + field.name.replace("_", "-")
        if field.name in ("partition", "model_settings", "method_settings", "tuned"):
            parser.add_argument(flag, nargs="*", metavar="KEY=VALUE", type=_pair)
        elif field.type == "bool":
            parser.add_argument(flag, action="store_true", default=None)
        else:
            of: Any = {"int": int, "float": float}.get(str(field.type).split(" ")[0], str)
            of = {"trial": _whole(0), "validation": _share}.get(field.name, of)
            needed = field.default is field.default_factory and field.name not in ("seed", "learning_rate")
            parser.add_argument(flag, type=of, required=needed)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets (default: data)")
    parser.add_argument(
        "--device",
        type=_device,
        default=os.environ.get("FLARE_DEVICE") or "cpu",
        help="cpu (default), cuda, cuda:1; or FLARE_DEVICE",
    )
    parser.add_argument("--threads", type=_whole(1, 1024), default=1, help="torch threads (default: 1)")
    parser.add_argument("--wandb", choices=MODES, help="offline (default), online, disabled; or WANDB_MODE")
    parser.add_argument(
        "--jobs-per-gpu",
        type=_whole(1, 1024),
        default=os.environ.get("FLARE_JOBS_PER_GPU") or "1",
        help="processes that share a GPU (default: 1); or FLARE_JOBS_PER_GPU",
    )
    readers: tuple[tuple[str, Callable[[str], Any]], ...] = (("seconds", _seconds), ("rounds", _whole()))
    for unit, number in readers:
        variable = f"FLARE_CHECKPOINT_{unit.upper()}"
        parser.add_argument(
            f"--checkpoint-{unit}",
            type=number,
            default=os.environ.get(variable) or None,
            help=f"from one checkpoint to the next; or {variable}",
        )


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        found = configuration.parse(value)
        configuration.check_values({key: found})
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE with a value in YAML") from None
    return key, found


def _settings(flag: str, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """KEY=VALUE arguments as a mapping; a key may be there once."""
    out = dict(pairs)
    if len(out) < len(pairs):
        twice = next(key for place, (key, _) in enumerate(pairs) if key in dict(pairs[:place]))
        raise ConfigError(f"{flag}: {twice} is there twice; once")
    return out


def _fetch(chosen: argparse.Namespace) -> None:
    from flare import datasets

    choose("dataset", chosen.dataset, datasets.names())
    datasets.fetch(chosen.dataset, chosen.data)


def _given(chosen: argparse.Namespace) -> dict[str, Any]:
    """The fields of a run that the arguments give. A learning rate that is tuned has no value yet."""
    names = [field.name for field in dataclasses.fields(Run)]
    given = {name: getattr(chosen, name) for name in names if getattr(chosen, name, None) is not None}
    for name in ("partition", "model_settings", "method_settings", "tuned"):
        if name in given:
            given[name] = _settings(f"--{name.replace('_', '-')}", given[name])
    if "learning_rate" in {**given.get("tuned", {}), **dict(getattr(chosen, "space", ()))}:
        given.setdefault("learning_rate", 1.0)
    elif "learning_rate" not in given:
        raise ConfigError("train: --learning-rate: missing; a number above 0")
    return given


def _train(chosen: argparse.Namespace) -> bool:
    given = _given(chosen)
    folders = chosen.output
    if len(folders) == 1 and "seed" in given:
        seeds = [given["seed"]]
    else:
        named = [re.fullmatch(r"seed-(0|[1-9][0-9]{0,9})", folder.name) for folder in folders]
        if "seed" in given or not all(named) or len({folder.absolute() for folder in folders}) < len(folders):
            raise ConfigError(
                "--output: several folders, or one without --seed, must be called seed-N, each once, and no --seed"
            )
        seeds = [int(name[1]) for name in named if name]
    runs = []
    for seed in seeds:
        run = Run(**given | {"seed": seed})
        for file in chosen.values:
            run = tuning.fill(run, tuning.read_values(file, run.cell, run.trial))
        if None in run.tuned.values():
            raise ConfigError(
                f"train: --tuned: {', '.join(run.tuned)} have no values; --values best.yaml of {run.cell}"
            )
        configuration.check_run(run)
        runs.append(configuration.with_defaults(run))
    from flare.runs.train import train_all

    return not train_all(
        list(zip(runs, folders, strict=True)),
        device=chosen.device,
        jobs_per_gpu=chosen.jobs_per_gpu,
        **_carried_out(chosen),
    )


def _carried_out(chosen: argparse.Namespace) -> dict[str, Any]:
    """What `flare.runs.train.train` is told about how to carry out a run."""
    return {
        "data": chosen.data,
        "checkpoint_seconds": checkpoint.SECONDS if chosen.checkpoint_seconds is None else chosen.checkpoint_seconds,
        "checkpoint_rounds": chosen.checkpoint_rounds,
        "threads": chosen.threads,
        "wandb": choose("WANDB_MODE", chosen.wandb or os.environ.get("WANDB_MODE", "offline"), MODES),
    }


def _study(chosen: argparse.Namespace) -> tuning.Study:
    from flare import algorithms

    given = _given(chosen)
    given.pop("validation", None)
    run = configuration.with_defaults(Run(**given | {"seed": 0}))
    configuration.check_run(run)
    space = tuning.check_ranges("--space", _settings("--space", chosen.space), algorithms.load(run.method).settings)
    choose("--objective", chosen.objective, tuning.OBJECTIVES)
    choose("--mode", chosen.mode, tuning.MODES)
    names = ("seeds", "batches", "trials", "validation", "objective", "mode")
    own = {name: getattr(chosen, name) for name in names}
    return tuning.Study(run=tuning.leave_open(run, space), space=space, seed=chosen.study_seed, **own)


def _propose(chosen: argparse.Namespace) -> None:
    tuning.write_proposals(_study(chosen), chosen.output, chosen.batch)


def _tune(chosen: argparse.Namespace) -> None:
    study = _study(chosen)
    if study.mode == "batches":  # its runs are there
        tuning.tune(study, chosen.output)
        return
    from flare.runs import lease
    from flare.runs.train import train

    with checkpoint.Stop() as stop, lease.gpu(chosen.device, chosen.jobs_per_gpu, waiting=stop.check) as device:
        carry_out = functools.partial(train, device=device, stop=stop, **_carried_out(chosen))
        key = functools.partial(checkpoint.key_of, data=chosen.data, device=device)
        tuning.tune(study, chosen.output, carry_out, key)


def _count_labels(chosen: argparse.Namespace) -> None:
    from flare import datasets
    from flare.datasets import partition
    from flare.runs.record import write_whole

    split = datasets.load(chosen.dataset, chosen.data, "train")
    parts = partition.split(
        split.targets, chosen.clients, _settings("--partition", chosen.partition), chosen.seed, split.clients
    )
    counts = partition.count(split.targets, parts, datasets.module(chosen.dataset).CLASSES)
    lines = ["experiment,client,label,samples"]
    for client, row in enumerate(counts):
        lines += [f"{chosen.experiment},{client},{label},{samples}" for label, samples in enumerate(row)]
    write_whole(chosen.output, "\n".join([*lines, ""]).encode())


def _tabulate(chosen: argparse.Namespace) -> None:
    from flare.analysis import tables

    folders, digests = _runs(chosen)
    tables.tabulate(folders, chosen.output, digests)


def _runs(chosen: argparse.Namespace) -> tuple[list[Path], list[str | None]]:
    """The folders of the runs that are given, and the digest of each one's settings where that is given, too."""
    from flare.analysis import tables

    if chosen.settings and len(chosen.settings) != len(chosen.runs):
        raise ConfigError(f"--settings: {len(chosen.settings)} are not allowed; one per RUNS, {len(chosen.runs)}")
    found = [
        (Path(folder), digest)
        for pattern, digest in itertools.zip_longest(chosen.runs, chosen.settings)
        for folder in tables.expand(pattern)
    ]
    return [folder for folder, _ in found], [digest for _, digest in found]


def _plot(chosen: argparse.Namespace) -> None:
    from flare import figures

    choose("figure", chosen.figure, figures.names())
    figures.save(chosen.figure, chosen.tables, chosen.experiment, chosen.output)


def _judge(chosen: argparse.Namespace) -> None:
    from flare.analysis import claims

    claims.write(chosen.tables)


def _gather_trials(chosen: argparse.Namespace) -> None:
    from flare.analysis import tables

    tables.gather_trials(chosen.studies, chosen.output)


def _tabulate_studies(chosen: argparse.Namespace) -> None:
    from flare.tuning import tables as studies

    if chosen.settings and len(chosen.settings) != len(chosen.studies):
        raise ConfigError(f"--settings: {len(chosen.settings)} are not allowed; one per folder, {len(chosen.studies)}")
    studies.tabulate(chosen.studies, chosen.output, chosen.settings)


def _export_studies(chosen: argparse.Namespace) -> None:
    from flare.tuning import tables as studies

    studies.export(chosen.studies, chosen.output, chosen.storage or os.environ.get("FLARE_STORAGE"))


def _status(chosen: argparse.Namespace) -> None:
    from flare import status

    print(status.show(configuration.load(chosen.config)))


def _show(chosen: argparse.Namespace) -> None:
    from flare.analysis import tables
    from flare.tuning import tables as studies

    results = chosen.results
    if results.is_file():
        results = Path(configuration.load(results).get("results", "results"))
    print(tables.show(results / "tables"))
    if (tuned := results / "tables/studies.csv").exists():
        print(f"\nTuned, on samples held out from the clients' own:\n{studies.show(tuned)}")
    print(f"\nTables:  {results / 'tables'}\nFigures: {results / 'figures'}")


def _render(chosen: argparse.Namespace) -> None:
    from flare.analysis import pages

    pages.render(chosen.source, chosen.output)


def _compare(chosen: argparse.Namespace) -> None:
    from flare.analysis import reference

    folders, digests = _runs(chosen)
    reference.compare(folders, chosen.reference, chosen.output, digests)


def _plan(chosen: argparse.Namespace) -> None:
    config = configuration.load(chosen.config)
    device = config.get("device", "cpu")
    from flare.planning import plan
    from flare.runs.record import write_whole

    os.environ.setdefault("WANDB_MODE", config.get("wandb", {}).get("mode", "offline"))
    data = chosen.data or Path(config.get("data", "data"))
    table = plan.plan(config, data, device=device, threads=config.get("threads", 1))
    print(plan.show(table))
    print(f"memory of the largest job; hours of all runs one after the other, measured on this device ({device});")
    print("what follows the runs, tables, figures and report, is not in them")
    if table["extrapolated"].iloc[-1]:
        print("extrapolated: share of the hours that was not measured, but scaled from another model or keep")
    if chosen.output:
        write_whole(chosen.output, table.to_csv(index=False, lineterminator="\n").encode())


def _verify(chosen: argparse.Namespace) -> bool:
    from flare.analysis import verify

    config = configuration.load(chosen.config) if chosen.config else {}
    results = chosen.results or Path(config.get("results", "results"))
    data = chosen.data or Path(config.get("data", "data"))
    return not verify.verify(results, data, chosen.sample, chosen.seed)


def _sync_wandb(chosen: argparse.Namespace) -> bool:
    from flare.tracking import sync as wandb_sync

    return not wandb_sync.sync(chosen.results)


def _wandb_report(chosen: argparse.Namespace) -> bool:
    from flare.tracking import report as wandb_report

    return not wandb_report.write(chosen.results)


def _check(chosen: argparse.Namespace) -> None:
    config = configuration.load(chosen.config)
    configuration.check_folders(config, str(chosen.config))
    print(f"{chosen.config}: {len(configuration.runs(config))} runs")
