"""What is planned again when code, data or another input changes: Snakemake's own dry runs, in a copy of the tree."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from planner import Job, Planner

from flare import cli, config
from flare.cli import run as reading
from flare.config import Run
from flare.engine import probes
from flare.tuning.study import studies

# Those that are no key of their own.
PROBES = [name for name in probes.names() if name != "staleness"]

pytestmark = pytest.mark.workflow

ONE: dict[str, Any] = {
    "dataset": "digits",
    "model": "fc",
    "model_settings": {"width": 4, "hidden_layers": 1},
    "clients": 2,
    "partition": {"scheme": "contiguous", "samples_per_client": 40},
    "rounds": 1,
    "batch_size": 20,
    "learning_rate": 0.1,
    "keep": ["5e-2"],
    "seeds": [1],
    "methods": {"fedavg": {}, "flare": {}, "topk": {"learning_rate": {"log": [0.01, 1.0]}}},
    "tuning": {"seeds": [7], "batches": 1, "trials": 1},
}
# Two studies, one of jobs and one of a single process.
SWEEP: dict[str, Any] = {
    "wandb": {"mode": "disabled"},
    "experiments": {
        "small": ONE,
        "alone": ONE
        | {
            "methods": {"ef21": {"learning_rate": {"log": [0.01, 1.0]}}},
            "tuning": {"seeds": [7], "batches": 1, "trials": 1, "mode": "single"},
        },
    },
}
BEST = "results/tuning/small/topk/keep-5e-2/epochs-1/best.yaml"

TRIED = {"tune_train:topk", "tune:ef21"}
TRAINED = {f"train:{method}" for method in ("fedavg", "flare", "topk", "ef21")}
REPORTS = {"reproduction", "render:reproduction", "render:checklist"}
PAGES = {
    f"render:{table}"
    for table in (
        "reproduction",
        "checklist",
        "claims",
        "summary",
        "overall",
        "reached",
        "reference",
        "settings",
        "studies",
    )
}
# What is made from the runs' files: nothing else can change then.
FROM_RUNS = {
    "reproduction",
    "tabulate",
    "compare",
    "judge",
    "reach",
    "plot_whole:overall",
    "execute",
    "report",
    *(PAGES - {"render:studies"}),
}
FROM_RUNS |= {f"plot:accuracy_by_{name}" for name in ("keep", "round", "total", "uplink")}
FROM_RUNS |= {f"plot:{name}" for name in ("budget", "compute_cost", "labels", "reached", "sensitivity", "tuning")}
FROM_STUDIES = {"gather_trials", "tabulate_studies", "export_studies", "render:studies", "report", *REPORTS}
FROM_STUDIES |= {"plot:budget", "plot:sensitivity", "plot:tuning", "execute"}
FROM_TRIALS = {"tune:topk", "train:topk", "train:ef21"} | FROM_STUDIES | FROM_RUNS
LABELS = {"count_labels", "plot:labels", "execute", "report"}
EVERYTHING = TRAINED | TRIED | FROM_TRIALS


@pytest.fixture(scope="module")
def planner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planner]:
    """A copy of the tree, and a sweep of it of which every file is there."""
    made = Planner(tmp_path_factory.mktemp("planned"), yaml.safe_dump(SWEEP))
    try:
        made.carry_out()
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def changed(file: Path, old: str, new: str) -> Iterator[None]:
    """A file with a change, which is undone in the end."""
    before, times = file.read_text(), file.stat()
    assert before.count(old) >= 1, (file, old)
    file.write_text(before.replace(old, new, 1))
    try:
        yield
    finally:
        file.write_text(before)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def names(planner: Planner, *arguments: str) -> set[str]:
    return {job.name for job in planner.jobs(*arguments)}


# Files of flare/ with what changes to what, and the jobs that are then planned.
CODE: dict[str, tuple[list[tuple[str, str, str]], set[str]]] = {
    "a method's number": (
        [("algorithms/flare.py", "(task.number + 1)", "(task.number + 2)")],
        {"train:flare"} | FROM_RUNS,
    ),
    "another method's": (
        [("algorithms/ef21.py", "difference -= estimate", "difference += estimate")],
        {"tune:ef21", "train:ef21"} | FROM_STUDIES | FROM_RUNS,
    ),
    "the engine": ([("engine/plan.py", "number == self.rounds - 1", "number == self.rounds")], EVERYTHING),
    "how data is dealt": (
        [("datasets/partitions/contiguous.py", "(i + 1) * m", "(i + 1) * m - 1")],
        EVERYTHING | LABELS,
    ),
    # Prepared data vouches for itself: neither it nor what was made of it follows the code that fetches.
    "how data is fetched": ([("datasets/digits.py", "TRAIN = 1500", "TRAIN = 1501")], set()),
    "a comment of the engine": ([("engine/plan.py", "# If the loss", "# Whenever the loss")], set()),
    "tables": (
        [("analysis/tables.py", "-fraction(keep)", "fraction(keep)")],
        FROM_RUNS,
    ),
    "statistics": (
        [("analysis/statistics.py", "(1 + LEVEL) / 2) * groups", "LEVEL) * groups")],
        FROM_RUNS,
    ),
    "which trial is best": (
        [("tuning/conclude.py", "sign = -1 if", "sign = 1 if")],
        {"tune_propose:topk", "tune_train:topk", "tune:ef21"} | FROM_TRIALS,
    ),
    "which values are proposed": (
        [("tuning/propose.py", "FIRST = 4", "FIRST = 5")],
        {"tune_propose:topk", "tune_train:topk", "tune:ef21"} | FROM_TRIALS,
    ),
    "the record of a run": (
        [("runs/record.py", "accuracies[-1] if", "accuracies[0] if")],
        {f"train:{method}" for method in ("fedavg", "flare", "topk", "ef21")} | TRIED | FROM_TRIALS,
    ),
    "claims": (
        [("analysis/claims.py", "round(value, 2)", "round(value, 3)")],
        {"judge", "render:claims", "render:overall", "execute", "report", *REPORTS},
    ),
    "reference": (
        [("analysis/reference.py", "len(pair[1])", "-len(pair[1])")],
        {"compare", "render:reference", "report", *REPORTS},
    ),
    "pages": ([("analysis/pages.py", "escape=True", "escape=False")], {*PAGES, "report"}),
    "points": (
        [("figures/style/points.py", "capsize=2", "capsize=3")],
        {"plot:accuracy_by_keep", "plot:compute_cost", "plot_whole:overall", "report"},
    ),
    "curves": (
        [("figures/style/curves.py", "alpha=0.18", "alpha=0.2")],
        {"plot:accuracy_by_round", "plot:accuracy_by_total", "plot:accuracy_by_uplink", "report"},
    ),
    "what counts labels": (
        [("datasets/partitions/__init__.py", "return [samples // clients]", "return [samples // clients + 1]")],
        LABELS,
    ),
    "what tells of studies, and one figure": (
        [
            ("analysis/trials.py", "min(axis=1)", "max(axis=1)"),
            ("tuning/tables.py", "def ", "_MORE = 1\n\n\ndef "),
            ("tuning/export.py", "def ", "_MORE = 1\n\n\ndef "),
            ("figures/accuracy_by_round.py", "height=1.7", "height=1.8"),
        ],
        FROM_STUDIES | {"plot:accuracy_by_round"},
    ),
}


def test_nothing_is_planned_if_nothing_changed(planner: Planner) -> None:
    assert planner.jobs() == []


def test_another_name_or_colour_of_a_method_makes_what_shows_it_anew_and_trains_nothing(planner: Planner) -> None:
    with changed(planner.tree / "flare/algorithms/flare.py", 'LABEL = "FLARE"', 'LABEL = "Flare"'):
        assert names(planner) == FROM_RUNS | {"tabulate_studies", "render:studies"}
    with changed(planner.tree / "flare/algorithms/flare.py", 'COLOUR = "', 'COLOUR = "#000000"  # "'):
        drawn = {name for name in names(planner) if not name.startswith("plot")}
        assert drawn == {"execute", "report"}


@pytest.mark.parametrize("what", CODE)
def test_changed_code_plans_what_it_makes_and_no_more(planner: Planner, what: str) -> None:
    edits, planned = CODE[what]
    with contextlib.ExitStack() as undone:
        for file, old, new in edits:
            undone.enter_context(changed(planner.tree / "flare" / file, old, new))
        assert names(planner) == planned


def test_a_comment_in_a_method_trains_nothing(planner: Planner) -> None:
    with changed(planner.tree / "flare/algorithms/flare.py", "# How figures show it.", "# Its look."):
        assert not names(planner) & (TRAINED | TRIED)


def test_another_reference_plans_the_comparison_and_what_shows_it(planner: Planner) -> None:
    with changed(planner.tree / "config/reference.csv", "0.8439", "0.8440"):
        assert names(planner) == {"compare", "render:reference", "report", *REPORTS}


def test_another_notebook_or_caption_plans_the_pages_that_show_it(planner: Planner) -> None:
    with (
        changed(planner.tree / "notebooks/explore.ipynb", '"cells"', ' "cells"'),
        changed(planner.tree / "workflow/report/figure.rst", "\n", "\n\n"),
    ):
        assert names(planner) == {"execute", "report"}


def test_another_database_is_filled(planner: Planner) -> None:
    (planner.sweep / "stored.yaml").write_text(yaml.safe_dump(SWEEP | {"storage": "sqlite:///studies.db"}))
    assert [job.name for job in planner.jobs(config="stored.yaml")] == ["export_studies"]


def test_another_best_value_plans_the_runs_that_report_it(planner: Planner) -> None:
    with changed(planner.sweep / BEST, "learning_rate: 0", "learning_rate: 1"):  # not as its study wrote it
        assert names(planner) == {"tune:topk", "train:topk"} | FROM_STUDIES | FROM_RUNS


def test_other_data_plans_all_that_reads_it_and_a_new_time_alone_nothing(planner: Planner) -> None:
    manifest = planner.sweep / "data/digits/manifest.json"
    digest = json.loads(manifest.read_text())["files"]["train.npz"]["sha256"]
    with changed(manifest, digest, digest[::-1]):
        assert names(planner) == EVERYTHING | LABELS
    there = [file for folder in ("data", "results") for file in (planner.sweep / folder).rglob("*.*") if file.is_file()]
    times = [file.stat() for file in there]
    for place, file in enumerate(there):
        os.utime(file, (4e9 + place, 4e9 + place))
    try:  # as Snakemake sees files that are too large for it to compare
        assert planner.jobs("--max-checksum-file-size", "0") == []
    finally:
        for file, time in zip(there, times, strict=True):
            os.utime(file, ns=(time.st_atime_ns, time.st_mtime_ns))


def test_another_checkout_makes_nothing_again(planner: Planner) -> None:
    """In one working folder, with files that are all newer."""
    own, planner.tree = planner.tree, planner.tree.with_name("another checkout")
    try:
        shutil.copytree(own, planner.tree)
        for file in planner.tree.rglob("*.py"):
            os.utime(file, (4e9, 4e9))
        assert planner.jobs() == []
    finally:
        planner.tree = own


def test_a_table_that_is_edited_or_of_other_late_evaluations_is_made_again(planner: Planner) -> None:
    with changed(planner.sweep / "results/tables/runs.csv", ",finished,", ",diverged,"):
        assert names(planner) == FROM_RUNS
    with changed(planner.sweep / "results/tables/claims.csv", "claim", "edited"):
        assert names(planner) == {"judge", "render:claims", "render:overall", "execute", "report", *REPORTS}
    (planner.sweep / "late.yaml").write_text(yaml.safe_dump(SWEEP | {"late_evaluations": 2, "targets": [0.5]}))
    assert {job.name for job in planner.jobs(config="late.yaml")} == FROM_RUNS


def test_an_estimate_of_the_costs_makes_the_verdicts_that_say_them_anew(planner: Planner) -> None:
    plan = planner.sweep / "results/tables/plan.csv"
    plan.write_text("experiment,hours\nsmall,1.0\n")
    try:
        assert names(planner) == {"judge", "render:claims", "render:overall", "execute", "report", *REPORTS}
    finally:
        plan.unlink()
    assert planner.jobs() == []


def test_jobs_have_the_threads_of_the_configuration_whatever_cores_there_are(planner: Planner) -> None:
    (planner.sweep / "threads.yaml").write_text(yaml.safe_dump(SWEEP | {"threads": 2}))
    jobs = planner.jobs("--cores", "1", config="threads.yaml")
    training = [job for job in jobs if job.name in TRAINED | TRIED | {"tune:topk"}]
    assert {job.name for job in training} == TRAINED | TRIED | {"tune:topk"}
    assert all("--threads 2 " in job.command for job in training)
    assert all(re.search("--code [0-9a-f]{64} ", job.command) for job in training)


# Every key of a run that a configuration can have, none with its default.
WHOLE: dict[str, Any] = {
    **{"dataset": "digits", "model": "cnn", "model_settings": {"filters": 4, "hidden": 8}, "clients": 5},
    **{"available": 3, "partition": {"scheme": "dirichlet", "alpha": 0.7}, "rounds": 7, "local_epochs": [2, 3]},
    **{"batch_size": 21, "learning_rate": 0.07, "momentum": 0.4, "evaluate_every": 3, "fidelity": "authors"},
    **{"double_softmax": True, "shuffle": True, "pad_to": 28, "channels": 1, "staleness": True, "tf32": True},
    **{"engine": "together", "schedule": {"name": "cosine", "final": 0.1}},
    **{"server": {"optimizer": "sgd", "learning_rate": 0.5}},
    **({"probes": PROBES} if PROBES else {}),
    **{"keep": ["5e-2", "0.5"], "seeds": [3, 4], "tuning": {"seeds": [7], "batches": 1, "trials": 1}},
    "methods": {
        "flare": {"tau": 0.3, "tau_decay": 1.2, "percentile": 40.0, "pull_steps": 2},
        "fedprox": {"mu": {"log": [0.01, 1.0]}, "momentum": 0.2},
    },
}
# A text's alone, and what a trial or a study adds.
NOT_ASKED = {"sample_text", "tuned", "trial", "validation", *([] if PROBES else ["probes"])}


def asked(job: Job) -> list[Run]:
    """The runs that a job's command asks for, as `python -m flare` itself reads it."""
    words = shlex.split(job.command)
    arguments = words[words.index("train") : words.index("--data")]
    chosen = cli._parser().parse_args(arguments)
    given = reading._given(chosen)
    return [config.with_defaults(Run(**given | {"seed": seed})) for seed in reading._seeds(chosen, given)]


def test_a_job_is_asked_for_the_whole_run(planner: Planner) -> None:
    content = {"wandb": {"mode": "disabled"}, "experiments": {"whole": WHOLE}}
    (planner.sweep / "whole.yaml").write_text(yaml.safe_dump(content))
    runs = config.runs(config.load(planner.sweep / "whole.yaml"))
    for own in dataclasses.fields(Run):
        plain = (
            own.default_factory()
            if own.default is dataclasses.MISSING and callable(own.default_factory)
            else own.default
        )
        assert own.name in NOT_ASKED or any(getattr(run, own.name) != plain for run in runs), own.name
    jobs = planner.jobs(config="whole.yaml")
    found = [run for job in jobs if job.name.startswith("train:") for run in asked(job)]
    # What a study is to choose has its default in both.
    assert sorted(found, key=repr) == sorted(map(config.with_defaults, runs), key=repr)
    # A trial's run is that of its cell with another seed, a number and held-out samples.
    (study, *_) = studies(content)
    tried = [run for job in jobs if job.name.startswith("tune_train:") for run in asked(job)]
    assert config.with_defaults(study.runs(0)[0]) in tried and len(tried) == 4
