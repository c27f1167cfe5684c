"""The levels of the configuration: one dataclass each, whose fields are its keys in the order of the schema.

An experiment's keys are those fields of `Run` that are not hidden, and the ones here. What stands here decides no
result. A level's defaults are its attributes: `Sweep.threads`, `Tuning.batches`. Nobody makes an instance to hold
values, so the classes do without the methods of a dataclass, which take time to define.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flare.config.key import SEED, Field, key, name
from flare.config.run import Run
from flare.settings import DEVICE_PATTERN, FOLDER_PATTERN, LARGEST, WANDB_MODES, WANDB_PROJECT

OBJECTIVES = ("accuracy", "loss")
MODES = ("batches", "single")
_FOLDER = "letters, digits, spaces and any of . / + , = @ % _ -"
_NAME = "[A-Za-z0-9_.-]{1,128}"


@dataclass(init=False, repr=False, eq=False)
class Checkpoint:
    """When a run is saved."""

    seconds: float = field(
        default=300,
        metadata=key(
            "from one checkpoint of a run to the next, at least, s",
            low=0,
            high=LARGEST,
            allowed="a number of seconds, {low} or more and at most {high}",
        ),
    )
    rounds: int | None = field(
        default=None,
        metadata=key("after how many rounds there is a checkpoint, too", low=1, high=LARGEST, unit="rounds"),
    )


@dataclass(init=False, repr=False, eq=False)
class Wandb:
    """What becomes of a run's record in W&B."""

    mode: str = field(
        default="offline",
        metadata=key(
            "`offline` keeps the W&B record in the run's folder and needs no account, `online` sends it, `disabled`"
            " makes none",
            words=WANDB_MODES,
        ),
    )
    project: str = field(
        default=WANDB_PROJECT,
        metadata=key(
            "W&B project it goes to", pattern=_NAME, allowed="a W&B project, letters, digits, '_', '.' and '-'"
        ),
    )
    entity: str | None = field(
        default=None,
        metadata=key(
            "W&B user or team it goes to",
            pattern=_NAME,
            null=True,
            allowed="a W&B user or team, letters, digits, '_', '.' and '-', or null",
            default="your default entity",
        ),
    )
    system_metrics: bool = field(
        default=False, metadata=key("record the machine's load (processor, memory, GPU) every 15 s, too")
    )


@dataclass(init=False, repr=False, eq=False)
class Link:
    """A client's connection, for the modelled seconds of reached.csv."""

    uplink_mbps: float = field(default=10, metadata=key("what a client sends, Mbit/s", above=0, high=LARGEST))
    downlink_mbps: float = field(default=50, metadata=key("what a client is sent, Mbit/s", above=0, high=LARGEST))
    latency_ms: float = field(default=50, metadata=key("until it begins, each way, ms", low=0, high=LARGEST))


@dataclass(init=False, repr=False, eq=False)
class Sweep:
    """The top level."""

    data: str = field(
        default="data",
        metadata=key(
            "folder where data sets are kept",
            pattern=FOLDER_PATTERN,
            allowed=f"a folder, where data sets are kept; {_FOLDER}",
        ),
    )
    results: str = field(
        default="results",
        metadata=key(
            "folder where everything that is made appears",
            pattern=FOLDER_PATTERN,
            allowed=f"a folder, where everything that is made appears; {_FOLDER}",
        ),
    )
    device: str = field(
        default="cpu",
        metadata=key(
            "where a run trains",
            pattern=DEVICE_PATTERN,
            allowed="cpu, cuda or cuda:0, cuda:1, ...",
            range="`cuda`, `cuda:N`",
        ),
    )
    threads: int = field(
        default=1,
        metadata=key(
            "torch threads per run, whatever `--cores` is; on a CPU they decide the last bits of results",
            low=1,
            high=1024,
            allowed="a whole number of torch threads per run, {low} to {high}",
        ),
    )
    jobs_per_gpu: int = field(
        default=1,
        metadata=key(
            "with `device: cuda`: runs that share a GPU. Each takes a free place on one, or waits for it",
            low=1,
            high=1024,
            allowed="a whole number of runs that share a GPU, {low} to {high}",
        ),
    )
    runs_per_job: int = field(
        default=1,
        metadata=key(
            "runs of one cell (its seeds) that one job carries out one after the other: cheaper if runs are short",
            low=1,
            high=1_000_000,
            unit="runs of one cell that a job carries out",
        ),
    )
    record: str | None = field(
        default=None,
        metadata=key(
            "name of the record that `results` was restored from: its runs are taken as they are, whatever code made"
            " them, and nothing is trained; `python -m flare restore` sets it",
            pattern=_NAME,
            null=True,
            allowed="the name of a record, letters, digits, '_', '.' and '-', or null",
            default="none",
        ),
    )
    late_evaluations: int = field(
        default=5,
        metadata=key(
            "last evaluations of a run whose mean is its `late_accuracy`, by which the claims are judged",
            low=1,
            high=1_000_000,
            unit="last evaluations of a run",
        ),
    )
    targets: list[float] = field(
        default_factory=list,
        metadata=key(
            "list: accuracies in 0..1 of which `reached.csv` says what they cost, beside shares of dense FedAvg's",
            above=0,
            high=1,
            allowed_list="a list of different accuracies above {above}, at most {high}",
            default="none",
        ),
    )
    link: Link = field(default=Link(), metadata=key("", level=Link))
    checkpoint: Checkpoint = field(default=Checkpoint(), metadata=key("", level=Checkpoint))
    wandb: Wandb = field(default=Wandb(), metadata=key("", level=Wandb))
    storage: str | None = field(
        default=None,
        metadata=key(
            "URL of a database for Optuna's studies, such as `sqlite:///studies.db`",
            pattern=r"[A-Za-z][A-Za-z0-9+.-]*://[\w./:@%?&=+,~-]*",
            null=True,
            allowed="the URL of a database for Optuna, such as sqlite:///studies.db, without spaces and quotes, or"
            " null",
        ),
    )
    experiments: Mapping[str, Any] = field(
        kw_only=True,
        metadata=key(
            "the sweep, by name of experiment (letters, digits, `_ . -`; it names a folder, so two differ in more than"
            " capitals)",
            allowed="a mapping from the names of experiments to their settings, at least one",
        ),
    )


@dataclass(init=False, repr=False, eq=False)
class Tuning:
    """What a study may cost; batches and trials may be given for each method, too."""

    seeds: list[int] = field(
        metadata=key(
            "list: every trial is one run per seed, and its objective their mean; none of the experiment's `seeds`",
            **SEED,
        )
    )
    batches: int = field(
        default=4,
        metadata=key(
            "batches of trials; a batch is proposed from the results of all before it",
            per_method=True,
            low=1,
            high=100_000,
        ),
    )
    trials: int = field(
        default=6,
        metadata=key("trials per batch, which run side by side", per_method=True, low=1, high=100_000),
    )
    validation: float = field(
        default=0.2,
        metadata=key(
            "share of every client's samples that is held out of its training and evaluated on instead of the test"
            " set, which a trial does not read",
            above=0,
            below=1,
            allowed="a share of every client's samples, above {above} and below {below}",
        ),
    )
    objective: str = field(
        default="accuracy", metadata=key("`accuracy` or `loss` on them after the last round", words=OBJECTIVES)
    )
    mode: str = field(
        default="batches",
        metadata=key(
            "`batches`: jobs; `single`: one process per study, trial after trial, in which Optuna's median pruner ends"
            " the hopeless",
            words=MODES,
        ),
    )
    seed: int = field(default=0, metadata=key("of the proposals", **SEED))
    methods: Mapping[str, Any] = field(
        default_factory=dict,
        metadata=key(
            "a budget of its own for a method, `{flare: {batches: 8}}`; `results/tables/studies.md` shows every"
            " study's",
            allowed="a mapping from tuned methods to a budget of their own, batches or trials",
            default="the same for all",
        ),
    )


@dataclass(init=False, repr=False, eq=False)
class Experiment:
    """The keys of an experiment that are not a run's."""

    methods: Mapping[str, Any] = field(
        metadata=key(
            "from names of files of `flare/algorithms` to their settings (below); `{}` is the defaults."
            " `learning_rate` and `momentum` may be given per method, too; a range instead of a value is tuned (below)",
            allowed="a mapping from names of files of flare/algorithms to their settings, at least one",
        )
    )
    tuning: Tuning | None = field(
        default=None,
        metadata=key(
            "budget of the tuning (below): `seeds`, `batches`, `trials`, ...",
            level=Tuning,
            default="needed if a range is given",
        ),
    )


def keys(level: type) -> dict[str, Field]:
    """The keys of a level, in the order of the schema and of config/README.md."""
    return (arranged(Run) if level is Experiment else {}) | arranged(level)


def arranged(cls: type) -> dict[str, Field]:
    """The fields that are keys, by key: in the order of the class, except that some say what they come after."""
    shown = [own for own in dataclasses.fields(cls) if not own.metadata.get("hidden")]
    followers: dict[str, list[Field]] = {}
    for own in shown:
        followers.setdefault(own.metadata.get("after", ""), []).append(own)
    out: dict[str, Field] = {}

    def place(after: str) -> None:
        for own in followers.get(after, ()):
            out[name(own)] = own
            place(own.name)

    place("")
    return out
