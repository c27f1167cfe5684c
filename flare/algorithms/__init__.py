"""The federated methods: one file each, found by listing this folder; and what a method can say.

A method is a `Method`: pure functions over explicit state, called by the one round loop, `flare.engine.loop`. A method
never loops over batches, clients or rounds. The functions work on flat vectors, all weights of a model in one, and say
what they change in place. Every function is told the round's `Task` (`flare.engine.task`): its number, its budget, its
learning rate, the layout of the weights, the method's own settings.

A file may also have `check(settings, training)`, which says in one line why a pair of values has no meaning, or None.
It decides whether a run begins, so it is no part of what identifies a result.

The same function serves both engines. One client at a time, a vector is that client's; all together, it is a matrix
with a row for every client of the task, and a message is `Messages`. Write elementwise operations, index parts of a
vector as `vector[..., part]`, and the two cannot differ.

Nothing here imports torch, so that a configuration is checked without the seconds that takes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flare.errors import ConfigError, choose

if TYPE_CHECKING:
    from torch import Tensor

    from flare.engine.compressor import Compressor
    from flare.engine.layout import Message
    from flare.engine.step import Pull
    from flare.engine.task import Task
    from flare.engine.update import Update

    # What a client, or the server, keeps: vectors by name. They start at 0.
    State = dict[str, Tensor]
    Compress = Callable[[Tensor], Any]


@dataclass(frozen=True)
class NoSettings:
    """A method without settings of its own."""


class MessageHook(Protocol):
    """How a client's difference becomes what it sends."""

    def __call__(self, difference: Tensor, state: State, task: Task, compress: Compressor) -> Any:
        """The message m_k of d_k = w_k - w and the client's state; a `Message`, or `Messages` of all together.

        `difference` and the vectors of `state` may be overwritten. `compress` is C_R at the round's budget: the largest
        magnitudes of every tensor, or everything in a dense run. It has other ways to choose, each with a wire format
        of its own: `compress.of_model`, `.drawn`, `.ternary`, `.rounded` (`flare.engine.compressor`). A message can
        `add_to` a vector, scaled, `take_from` the vector it was chosen from, and `mask` any vector: set it to 0 at the
        places that were sent.

        `state` also holds what an earlier hook of the round put into it for this one; only what `Method.state` names is
        kept after the round.
        """
        ...


class StartHook(Protocol):
    """Where a client's local training starts; without this hook, at the server's weights."""

    def __call__(self, server: Tensor, state: State, task: Task) -> Tensor:
        """A vector of its own, or a matrix of a row per client; or `server` itself, which stays as it is.

        The difference that `message` is given remains the one to the server's weights.
        """
        ...


class PullHook(Protocol):
    """An extra gradient of the local steps."""

    def __call__(self, start: Tensor, state: State, task: Task) -> Pull | None:
        """(steps, add), or None if there is none in this round.

        `add(gradient, weights, step)` adds the extra gradient in place, on the first `steps` local steps (None: on
        all). step counts from 0, when the weights are `start`.
        """
        ...


class ReceiveHook(Protocol):
    """What a client contributes to the server's sum."""

    def __call__(self, total: Tensor, message: Message, state: State, task: Task) -> None:
        """Add what the one client of the task contributes to `total`, in place; w <- w + total / clients.

        And to the vectors `task.sums`, if the method names any in `Method.sums`.
        """
        ...


class BudgetHook(Protocol):
    """What a round may cost, decided when it begins."""

    def __call__(self, task: Task, training_loss: Callable[[], tuple[float, float]]) -> Task:
        """The round's task, with another keep, number of local epochs or learning rate, say (`dataclasses.replace`).

        `training_loss()` is the mean training loss over all clients' data, at the server's weights now and at the
        initial ones. Only asking for it costs the pass over the data.
        """
        ...


class RememberHook(Protocol):
    """What the server notes of a round beside its step, before it."""

    def __call__(self, update: Update, state: State, task: Task) -> None:
        """Change what the server keeps in `state`, in place: by `update.sums`, say. The update stays as it is."""
        ...


class BitsHook(Protocol):
    """What a message costs, before there is one: for the plan of a sweep."""

    def __call__(self, task: Task) -> int:
        """Bits of one client's message in this round, if none of the values that are sent is 0."""
        ...


class ApplyHook(Protocol):
    """The server's step. A method that has one of its own takes no `server` (`flare.engine.server`)."""

    def __call__(self, server: Tensor, update: Update, state: State, task: Task) -> Tensor | int | None:
        """Change the server's weights, and what it keeps in `state`, in place.

        `update.add_to(server)` adds the mean of what the clients contributed; `update.mean(server)` is that mean as a
        vector. Returns the bits that the server sends to all clients of the round together, if that is not what
        `flare.engine.wire` counts, else None.
        """
        ...


def error_feedback(difference: Tensor, state: State, task: Task, compress: Compress) -> Any:
    """u = d_k + A_k, m_k = C_R(u), A_k <- u - m_k: Stich et al., arXiv 1809.07599, algorithm 1.

    m_k + A_k = u exactly: every entry of u is in one of the two, and the other is 0 there.
    """
    memory = state["accumulator"]
    memory += difference  # u is formed where what is left of it stays
    return compress(memory).take_from(memory)


def add_message(total: Tensor, message: Message, state: State, task: Task) -> None:
    """The message itself is what the client contributes."""
    message.add_to(total)


def add_update(server: Tensor, update: Update, state: State, task: Task) -> None:
    """w <- w + the mean of what the clients contribute: McMahan et al., arXiv 1602.05629."""
    update.add_to(server)


@dataclass(frozen=True)
class Method:
    """What one federated method does, in the symbols of McMahan et al., arXiv 1602.05629.

    message: see `MessageHook`; the others have defaults that make federated averaging of compressed differences.
    settings: frozen dataclass of the method's own settings, each a `flare.settings.setting` with its range.
    state: names of the vectors that a client keeps between rounds. server_state: of those that the server keeps beside
        w. broadcast: of those of the server's that every client is sent with w, as `task.broadcast`; they count as
        downlink. All start at 0 and are part of a checkpoint. sums: of vectors that start at 0 in every round, to which
        `receive` adds beside the server's sum.
    dense: the method does not compress, so `keep` does not apply to it.
    start, pull, receive, budget, remember, apply: see `StartHook`, `PullHook`, `ReceiveHook`, `BudgetHook`,
        `RememberHook`, `ApplyHook`.
    bits: see `BitsHook`; None: as many entries of every tensor as C_R has, with their indices.
    pulls: whether a local step is pulled, with these settings; None: if `strength` is not 0.
    restarts_momentum: under `fidelity: authors` momentum starts again from 0 after the pulled steps.
    memory: which vector of `state` is the error memory, whose staleness can be measured.
    strength: the setting that scales the pull, 0 being no pull, if there is a pull.
    pull_steps: the setting that says on how many local steps it acts; None: on all.
    """

    message: MessageHook
    settings: type = NoSettings
    state: tuple[str, ...] = ()
    server_state: tuple[str, ...] = ()
    broadcast: tuple[str, ...] = ()
    sums: tuple[str, ...] = ()
    dense: bool = False
    start: StartHook | None = None
    pull: PullHook | None = None
    receive: ReceiveHook = add_message
    budget: BudgetHook | None = None
    remember: RememberHook | None = None
    apply: ApplyHook = add_update
    bits: BitsHook | None = None
    pulls: Callable[[Any], bool] | None = None
    restarts_momentum: bool = False
    memory: str = "accumulator"
    strength: str | None = None
    pull_steps: str | None = None


def names() -> list[str]:
    """All methods, sorted: the files of this folder."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))


def load(name: str) -> Method:
    """The method of that name; ConfigError, with the nearest spelling, if there is none."""
    method: Method = importlib.import_module(f"flare.algorithms.{choose('method', name, names())}").METHOD
    return method


@dataclass(frozen=True)
class Training:
    """What a method's `check` is told of a run beside the method's own settings."""

    momentum: float
    has_server_step: bool = False


def check(name: str, settings: Any, training: Training, where: str = "") -> None:
    """ConfigError, one line, if these settings have no meaning together or with the training of the run.

    where: what the line begins with, such as "methods.stc: ".
    """
    method = load(name)
    module = importlib.import_module(f"flare.algorithms.{name}")
    refused = module.check(settings, training) if hasattr(module, "check") else None
    if refused is None and training.has_server_step and method.apply is not add_update:
        refused = f"server: not allowed with {name}, whose server has a step of its own"
    if refused is not None:
        raise ConfigError(f"{where}{refused}")
