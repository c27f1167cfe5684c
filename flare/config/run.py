"""A run: everything that decides its result, and what it is called."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from flare.config.key import SEED, key
from flare.engine.probes import check as check_probes
from flare.engine.schedules import check as check_schedule
from flare.engine.server import check as check_server
from flare.settings import ENGINES, EXPERIMENT_PATTERN, FIDELITIES, KEEP_PATTERN, LARGEST


@dataclass(frozen=True)
class Run:
    """Everything that decides the result of one run; what does not (paths, device, threads, W&B) is not here.

    A field is a key of the configuration, an argument of the command line and a row of config/README.md; their order
    is that of run.json. `keep` is the string that names the run's folder.
    """

    experiment: str = field(metadata=key("name of the experiment", pattern=EXPERIMENT_PATTERN, hidden=True))
    dataset: str = field(metadata=key("a file of `flare/datasets`", allowed="the name of a file of flare/datasets"))
    model: str = field(
        metadata=key("a model of a file of `flare/models` (below)", allowed="the name of a file of flare/models")
    )
    method: str = field(metadata=key("a file of `flare/algorithms`", hidden=True, engine=True))
    keep: str = field(
        metadata=key(
            "list of quoted strings: FRACTION of each tensor's entries that is sent (the paper's \"0.001 %\" is"
            ' `"1e-5"`). One spelling each: `"1e-3"`, `"0.5"`, `"1"`, `"dense"`',
            symbol="R",
            axis="keep",
            after="evaluate_every",
            engine=True,
            pattern=KEEP_PATTERN,
            allowed="a quoted string: '1e-3', '0.5', '1' or 'dense'",
            allowed_list='a list of different quoted strings such as "1e-3"',
            default="needed by methods that compress",
            range="above 0, at most 1",
        )
    )
    local_epochs: int = field(
        metadata=key(
            "list: passes over a client's data per round",
            symbol="E",
            axis="local_epochs",
            axis_default=[1],
            after="rounds",
            engine=True,
            low=1,
            high=1_000_000,
            allowed_list="a list of different whole numbers, each at least {low}",
        )
    )
    seed: int = field(
        metadata=key(
            "list: of the initial weights, the partition, the draw of clients, shuffling, dropout",
            axis="seeds",
            after="keep",
            engine=True,
            **SEED,
        )
    )
    clients: int = field(metadata=key("number of clients", symbol="n", low=1, high=1_000_000))
    rounds: int = field(metadata=key("communication rounds", engine=True, low=1, high=LARGEST))
    batch_size: int = field(
        metadata=key("samples a local step; the last, smaller batch is used", engine=True, low=1, high=LARGEST)
    )
    learning_rate: float = field(
        metadata=key(
            "of the local SGD",
            symbol="lr",
            engine=True,
            per_method=True,
            above=0,
            allowed="a number above {above}, written with a point (0.001 or 1.0e-3)",
        )
    )
    momentum: float = field(
        default=0.0,
        metadata=key(
            "heavy-ball momentum, started afresh every round",
            engine=True,
            per_method=True,
            low=0,
            below=1,
            allowed="a number, {low} or more and below {below}",
        ),
    )
    evaluate_every: int = field(
        default=10,
        metadata=key("rounds between two evaluations on the test set", engine=True, low=1, high=LARGEST, unit="rounds"),
    )
    available: int | None = field(
        default=None,
        metadata=key(
            "clients that answer a round, drawn without replacement",
            symbol="m",
            after="clients",
            engine=True,
            low=1,
            allowed="a whole number, {low} to clients",
            default="all",
            range="1 to `clients`",
        ),
    )
    fidelity: str = field(
        default="paper",
        metadata=key(
            "`authors` reproduces habits of the FLARE authors' program: how Top-K counts, FLARE's momentum, the"
            " activations of vgg11. Their FedProx's mu decays as tau does: that is `mu_decay`, to be given",
            engine=True,
            words=FIDELITIES,
        ),
    )
    double_softmax: bool = field(default=False, metadata=key("loss of the authors' CNN, a softmax of a softmax"))
    shuffle: bool = field(
        default=False, metadata=key("draw the order of a client's samples anew every epoch", engine=True)
    )
    pad_to: int | None = field(
        default=None,
        metadata=key(
            "images are padded with zeros, centred, to this height and width, pixels",
            after="engine",
            low=1,
            high=4096,
            allowed="a whole number of pixels, at least the data set's and at most {high}",
            default="as they are",
            range="at least the data set's, at most 4096",
        ),
    )
    channels: int | None = field(
        default=None,
        metadata=key(
            "images of one channel are repeated to this many",
            after="pad_to",
            low=1,
            high=4096,
            allowed="a whole number, a multiple of the images' channels and at most {high}",
            default="as they are",
            range="a multiple of the images'",
        ),
    )
    sample_text: int | None = field(
        default=None,
        metadata=key(
            "characters that a model of text writes at the end into the run's `sample.txt`, seeded",
            after="channels",
            low=1,
            high=10_000_000,
            allowed="a whole number of characters, at least {low} and at most {high}; for a data set of text",
        ),
    )
    staleness: bool = field(
        default=False,
        metadata=key(
            "measure at every evaluation how long ago each client sent each coordinate: adds columns to `rounds.csv`"
            " (below)",
            engine=True,
        ),
    )
    tf32: bool = field(
        default=False,
        metadata=key(
            "products and convolutions on a GPU in TF32: several times faster, with ten bits of mantissa instead of"
            " 23; a CPU ignores it",
            engine=True,
        ),
    )
    engine: str | None = field(
        default=None,
        metadata=key(
            "how the clients of a round train: `one-at-a-time`, or `together` as one stacked batch if memory and the"
            " model allow it. The two agree to rounding, so it decides results; `run.json` says which one it was",
            words=ENGINES,
            default="by the device: `together` on a GPU",
        ),
    )
    schedule: Mapping[str, Any] = field(
        default_factory=dict,
        metadata=key(
            "what changes from round to round, the same for every method: a mapping with the key `name`, a file of"
            " `flare/engine/schedules`, and the schedule's own settings (below)",
            after="momentum",
            engine=True,
            required=("name",),
            allowed="a mapping with the key name and the schedule's own settings",
            check=check_schedule,
            default="nothing changes",
        ),
    )
    probes: list[str] = field(
        default_factory=list,
        metadata=key(
            "list: what else is measured, files of `flare/engine/probes`, each with columns of its own in `rounds.csv`",
            after="staleness",
            engine=True,
            allowed_list="a list of different names of files of flare/engine/probes",
            check=check_probes,
            default="none",
        ),
    )
    server: Mapping[str, Any] = field(
        default_factory=dict,
        metadata=key(
            "the server's step in the place of adding the clients' mean: a mapping with the key `optimizer`, `sgd` or"
            " `adam`, and the step's own settings (below). A method may have its own; those whose server has a step of"
            " its own, such as `stc`, take none",
            after="momentum",
            engine=True,
            per_method=True,
            required=("optimizer",),
            allowed="a mapping with the key optimizer, sgd or adam, and the step's own settings",
            check=check_server,
            default="the mean is added",
        ),
    )
    partition: Mapping[str, Any] = field(
        default_factory=lambda: {"scheme": "contiguous"},
        metadata=key(
            "how the training set is dealt: a mapping with the key `scheme` and the scheme's own settings (below)",
            after="model_settings",
            required=("scheme",),
            allowed="a mapping with the key scheme and the scheme's own settings",
            default="`{scheme: contiguous}`, the paper's",
        ),
    )
    model_settings: Mapping[str, Any] = field(
        default_factory=dict,
        metadata=key(
            "the model's own settings (below), e.g. `width`",
            after="model",
            allowed="a mapping with settings of the model",
            default="the model's",
        ),
    )
    method_settings: Mapping[str, Any] = field(
        default_factory=dict, metadata=key("the method's own settings", hidden=True, engine="settings")
    )
    tuned: Mapping[str, Any] = field(
        default_factory=dict,
        metadata=key(
            "the settings that a study chose, by key; null while it has yet to: such a setting is in no other field",
            hidden=True,
        ),
    )
    trial: int | None = field(default=None, metadata=key("number of a trial of the cell's study", hidden=True, low=0))
    validation: float | None = field(
        default=None,
        metadata=key(
            "of a trial: share of every client's samples that is kept to evaluate on", hidden=True, above=0, below=1
        ),
    )

    @property
    def cell(self) -> str:
        """The run without its seed; also the name of the study that tunes it."""
        return f"{self.experiment}/{self.method}/keep-{self.keep}/epochs-{self.local_epochs}"

    @property
    def folder(self) -> str:
        """Where the run lies below results/runs; a trial's name."""
        return f"{self.cell}/{'' if self.trial is None else f'trial-{self.trial}/'}seed-{self.seed}"

    @property
    def probe_names(self) -> list[str]:
        """All that is measured beside loss and accuracy, in the order of its columns."""
        return [*(["staleness"] if self.staleness else []), *self.probes]

    def identity(self) -> dict[str, Any]:
        """The run as plain values, of which its name in W&B is made: keys of LATER only if they are given."""
        settings = dataclasses.asdict(self)
        return {name: value for name, value in settings.items() if value or name not in LATER}

    def flags(self, *names: str) -> str:
        """The run, or those fields of it, as arguments of `python -m flare train`, quoted for a shell."""
        words = []
        for own in dataclasses.fields(self):
            value = getattr(self, own.name)
            if value is None or value is False or value in ({}, []) or (names and own.name not in names):
                continue
            if self.tuned.get(own.name, ...) is None:
                continue
            words.append("--" + own.name.replace("_", "-"))
            if isinstance(value, Mapping):
                words += [f"{name}={yaml_scalar(item)}" for name, item in value.items()]
            elif isinstance(value, list):
                words += map(str, value)
            elif value is not True:
                words.append(str(value))
        return shlex.join(words)

    def arguments(self) -> dict[str, Any]:
        """The fields that go to the simulation as they are, by the names of its arguments."""
        return {
            own.name if own.metadata["engine"] is True else own.metadata["engine"]: getattr(self, own.name)
            for own in dataclasses.fields(self)
            if "engine" in own.metadata
        }


# Keys that runs had not had when the first were named.
LATER = ("schedule", "probes", "server")
# Of these the configuration gives lists, and the runs are their product.
AXES = tuple(own for own in dataclasses.fields(Run) if "axis" in own.metadata)
# What a method may have its own value of, beside its own settings.
OVERRIDES = tuple(own.name for own in dataclasses.fields(Run) if own.metadata.get("per_method"))
# Of these, the mapping: what is tuned in it is called by both names, `server.learning_rate`.
NESTED = "server"


def yaml_scalar(value: Any) -> str:
    """The value as YAML reads it back: numbers with all their digits, and a word that it would take for more quoted."""
    if isinstance(value, float):
        digits = repr(value)  # 1e-05 without a point would be text
        return digits.replace("e", ".0e") if "e" in digits and "." not in digits else digits
    if isinstance(value, str):
        try:
            return value if yaml.safe_load(value) == value else json.dumps(value)
        except ValueError:  # a date that is none
            return json.dumps(value)
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
