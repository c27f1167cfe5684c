"""The commands that run something: fetch, train, propose, tune, count_labels."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flare.cli.readers as readers
from flare import config as configuration
from flare.config import Run, levels
from flare.config.key import kind as kind_of
from flare.config.ranges import check_ranges, leave_open
from flare.errors import ConfigError, choose
from flare.runs import ambient, checkpoint, identity, provenance
from flare.tracking import MODES
from flare.tuning import origin, repeated, single
from flare.tuning import propose as proposing
from flare.tuning.study import Study, fill
from flare.tuning.trials import read_values

if TYPE_CHECKING:
    from flare.cli.readers import Commands

# The fields of a run that are KEY=VALUE arguments.
_MAPPINGS = tuple(field.name for field in dataclasses.fields(Run) if str(field.type).startswith("Mapping"))


def add_fetch(commands: Commands) -> None:
    """fetch --dataset NAME [--data FOLDER]"""
    parser = commands.add_parser("fetch", help="get and verify a data set")
    parser.add_argument("--dataset", required=True)
    _add_data(parser)
    parser.set_defaults(command=fetch)


def fetch(chosen: argparse.Namespace) -> None:
    """Get and verify a data set."""
    from flare import datasets

    choose("dataset", chosen.dataset, datasets.names())
    datasets.fetch(chosen.dataset, chosen.data)


def add_train(commands: Commands) -> None:
    """train, with a flag for each field of a run, --values FILE... and --output FOLDER..."""
    parser = commands.add_parser("train", help="carry out one run; keys as in config/README.md")
    _add_run(parser)
    parser.add_argument(
        "--values", type=Path, nargs="*", default=[], help="a study's best.yaml, or proposals.json with --trial"
    )
    parser.add_argument(
        *("--output", "-o"),
        type=Path,
        nargs="+",
        required=True,
        help="the run's folder; several, each called seed-N: that many runs, instead of --seed",
    )
    parser.add_argument("--code", metavar="DIGEST", help="of the code that the run was planned with: refuse other code")
    parser.set_defaults(command=train)


def train(chosen: argparse.Namespace) -> bool:
    """Run one run, or one for each output folder; True, which is exit code 1, if one failed."""
    given = _given(chosen)
    runs = []
    for seed in _seeds(chosen, given):
        run = Run(**given | {"seed": seed})
        for file in chosen.values:
            run = fill(run, read_values(file, run.cell, run.trial))
        if None in run.tuned.values():
            raise ConfigError(
                f"train: --tuned: {', '.join(run.tuned)} have no values; --values best.yaml of {run.cell}"
            )
        configuration.check_run(run)
        runs.append(configuration.with_defaults(run))
    from flare.runs.train import train_all

    carry_out = functools.partial(
        train_all,
        list(zip(runs, chosen.output, strict=True)),
        device=chosen.device,
        jobs_per_gpu=chosen.jobs_per_gpu,
        code=chosen.code,
        **_options(chosen),
    )
    if len(runs) > 1 or runs[0].trial is None:
        return not carry_out()
    provenance.check_code(runs[0], chosen.code)
    return not repeated.once(runs[0], chosen.output[0], chosen.data, chosen.device, chosen.threads, carry_out)


def _seeds(chosen: argparse.Namespace, given: dict[str, Any]) -> list[int]:
    """The seed of each output folder: --seed, or that in the folder's name."""
    folders = chosen.output
    if len(folders) == 1 and "seed" in given:
        return [given["seed"]]
    named = [re.fullmatch(r"seed-(0|[1-9][0-9]{0,9})", folder.name) for folder in folders]
    if "seed" in given or not all(named) or len({folder.absolute() for folder in folders}) < len(folders):
        raise ConfigError(
            "--output: several folders, or one without --seed, must be called seed-N, each once, and no --seed"
        )
    return [int(name[1]) for name in named if name]


def add_propose(commands: Commands) -> None:
    """propose, with the flags of a study and --batch NUMBER"""
    _add_study(commands, "propose", "propose the values of a study's next batch of trials", propose)


def propose(chosen: argparse.Namespace) -> None:
    """Propose the values of a study's next batch of trials."""
    proposing.write_proposals(_study(chosen), chosen.output, chosen.batch)


def add_tune(commands: Commands) -> None:
    """tune, with the flags of a study"""
    _add_study(commands, "tune", "conclude a study from its trials or, --mode single, carry it out", tune)
    commands.choices["tune"].add_argument("--code", metavar="DIGEST", help="as for train")


def tune(chosen: argparse.Namespace) -> None:
    """Conclude a study from its trials; in mode single run them, too."""
    study = _study(chosen)
    provenance.check_code(study.run, chosen.code)
    made_from = functools.partial(
        origin.of_study, study, chosen.output, data=chosen.data, device=chosen.device, threads=chosen.threads
    )
    if study.mode == "batches":  # its runs are there
        single.tune(study, chosen.output, made_from=made_from)
        return
    from flare.runs import lease
    from flare.runs.train import train as train_run

    with checkpoint.Stop() as stop, lease.gpu(chosen.device, chosen.jobs_per_gpu, waiting=stop.check) as device:
        carry_out = functools.partial(train_run, device=device, stop=stop, **_options(chosen))
        key = functools.partial(identity.key_of, data=chosen.data, device=device, threads=chosen.threads)
        single.tune(study, chosen.output, carry_out, key, made_from)


def add_count_labels(commands: Commands) -> None:
    """count_labels --experiment NAME --dataset NAME --clients N --seed N [--partition KEY=VALUE...] --output FILE"""
    parser = commands.add_parser("count_labels", help="count the samples of each class that each client holds")
    kinds: dict[str, Callable[[str], Any]]
    kinds = {"experiment": readers.name, "dataset": str, "clients": readers.whole(1, 10**6), "seed": readers.seed}
    for flag, kind in kinds.items():
        parser.add_argument(f"--{flag}", type=kind, required=True)
    parser.add_argument("--partition", nargs="*", metavar="KEY=VALUE", type=readers.pair, default=[])
    _add_data(parser)
    parser.add_argument("--output", type=Path, required=True, help="the CSV file")
    parser.set_defaults(command=count_labels)


def count_labels(chosen: argparse.Namespace) -> None:
    """Count the samples of each class that each client holds."""
    from flare import datasets
    from flare.datasets import partitions
    from flare.files import write_whole

    split = datasets.load(chosen.dataset, chosen.data, "train")
    parts = partitions.split(
        split.targets, chosen.clients, readers.settings("--partition", chosen.partition), chosen.seed, split.clients
    )
    counts = partitions.count(split.targets, parts, datasets.module(chosen.dataset).CLASSES)
    lines = ["experiment,client,label,samples"]
    for client, row in enumerate(counts):
        lines += [f"{chosen.experiment},{client},{label},{samples}" for label, samples in enumerate(row)]
    write_whole(chosen.output, "\n".join([*lines, ""]).encode())


# ---- what the commands share ----------------------------------------------------------------------------------------


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data sets (default: data)")


def _add_run(parser: argparse.ArgumentParser, without: Sequence[str] = ()) -> None:
    """A flag for each field of a run, except for those `without`; and how it is carried out."""
    for field in dataclasses.fields(Run):
        if field.name in without:
            continue
        flag = "--" + field.name.replace("_", "-")
        if field.name in _MAPPINGS:
            parser.add_argument(flag, nargs="*", metavar="KEY=VALUE", type=readers.pair)
        elif str(field.type).startswith("list"):
            parser.add_argument(flag, nargs="*", metavar="NAME")
        elif field.type == "bool":
            parser.add_argument(flag, action="store_true", default=None)
        else:
            of = readers.of_run(field) if kind_of(field) in (int, float) else str
            needed = field.default is field.default_factory and field.name not in ("seed", "learning_rate")
            parser.add_argument(flag, type=of, required=needed)
    _add_options(parser)


def _add_options(parser: argparse.ArgumentParser) -> None:
    """What decides how a run is carried out, and none of its results; `_options` reads it."""
    _add_data(parser)
    parser.add_argument(
        "--device",
        type=readers.device,
        default=os.environ.get("FLARE_DEVICE") or "cpu",
        help="cpu (default), cuda, cuda:1; or FLARE_DEVICE",
    )
    parser.add_argument("--threads", type=readers.whole(1, 1024), default=1, help="torch threads (default: 1)")
    parser.add_argument("--wandb", choices=MODES, help="offline (default), online, disabled; or WANDB_MODE")
    parser.add_argument(
        "--jobs-per-gpu",
        type=readers.whole(1, 1024),
        default=os.environ.get("FLARE_JOBS_PER_GPU") or "1",
        help="processes that share a GPU (default: 1); or FLARE_JOBS_PER_GPU",
    )
    numbers: tuple[tuple[str, Callable[[str], Any]], ...] = (("seconds", readers.seconds), ("rounds", readers.whole()))
    for unit, number in numbers:
        variable = f"FLARE_CHECKPOINT_{unit.upper()}"
        parser.add_argument(
            f"--checkpoint-{unit}",
            type=number,
            default=os.environ.get(variable) or None,
            help=f"from one checkpoint to the next; or {variable}",
        )


def _options(chosen: argparse.Namespace) -> dict[str, Any]:
    """The options of `flare.runs.train.train` that the arguments give, except for the device."""
    return {
        "data": chosen.data,
        "checkpoint_seconds": checkpoint.SECONDS if chosen.checkpoint_seconds is None else chosen.checkpoint_seconds,
        "checkpoint_rounds": chosen.checkpoint_rounds,
        "threads": chosen.threads,
        "wandb": chosen.wandb or ambient.mode_of_wandb("offline"),
    }


def _given(chosen: argparse.Namespace) -> dict[str, Any]:
    """The fields of a run that the arguments give. A learning rate that is tuned has no value yet."""
    names = [field.name for field in dataclasses.fields(Run)]
    given = {name: getattr(chosen, name) for name in names if getattr(chosen, name, None) is not None}
    for name in _MAPPINGS:
        if name in given:
            given[name] = readers.settings(f"--{name.replace('_', '-')}", given[name])
    if "learning_rate" in {**given.get("tuned", {}), **dict(getattr(chosen, "space", ()))}:
        given.setdefault("learning_rate", 1.0)
    elif "learning_rate" not in given:
        raise ConfigError("train: --learning-rate: missing; a number above 0")
    return given


def _add_study(commands: Commands, name: str, words: str, command: Callable[[argparse.Namespace], None]) -> None:
    """The flags of a study: those of its runs, and its own."""
    parser = commands.add_parser(name, help=words)
    _add_run(parser, without=("seed", "tuned", "trial", "validation"))
    parser.add_argument("--output", type=Path, required=True, help="the study's folder")
    parser.add_argument(
        "--space", nargs="+", type=readers.pair, required=True, metavar="KEY=RANGE", help="what is tuned"
    )
    parser.add_argument("--seeds", nargs="+", type=readers.seed, required=True, help="of the runs of every trial")
    kinds: dict[str, Callable[[str], Any]] = {
        "batches": readers.whole(1, 10**5),
        "trials": readers.whole(1, 10**5),
        "seed": readers.seed,
        "validation": readers.share,
    }
    for field in dataclasses.fields(Study):
        if field.name in ("batches", "trials", "validation", "objective", "mode", "seed"):
            flag = "--study-seed" if field.name == "seed" else f"--{field.name}"
            parser.add_argument(flag, type=kinds.get(field.name, str), default=field.default)
    parser.add_argument("--batch", type=readers.whole(0), default=0, help="which batch is proposed, from 0")
    parser.set_defaults(command=command)


def _study(chosen: argparse.Namespace) -> Study:
    """The study that the arguments give, checked."""
    from flare import algorithms

    given = _given(chosen)
    given.pop("validation", None)
    run = configuration.with_defaults(Run(**given | {"seed": 0}))
    configuration.check_run(run)
    method = algorithms.load(run.method)
    space = check_ranges("--space", readers.settings("--space", chosen.space), method.settings, run.server)
    choose("--objective", chosen.objective, levels.OBJECTIVES)
    choose("--mode", chosen.mode, levels.MODES)
    names = ("seeds", "batches", "trials", "validation", "objective", "mode")
    own = {name: getattr(chosen, name) for name in names}
    return Study(run=leave_open(run, space), space=space, seed=chosen.study_seed, **own)
