"""The federated methods: one file each, found by listing this folder; and what a method can say.

A method is a `Method`: pure functions over explicit state, called by the one round loop, `flare.engine.loop`. A method
never loops over batches, clients or rounds. The functions work on flat vectors, all weights of a model in one, and say
what they change in place. Every function is told the round's `Task` (`flare.engine.task`): its number, its budget, its
learning rate, the layout of the weights, the method's own settings.

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

from flare.errors import choose

if TYPE_CHECKING:
    from torch import Tensor

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

    def __call__(self, difference: Tensor, state: State, task: Task, compress: Compress) -> Any:
        """The message m_k of d_k = w_k - w and the client's state; a `Message`, or `Messages` of all together.

        `difference` and the vectors of `state` may be overwritten. `compress` is C_R at the round's budget: the largest
        magnitudes of every tensor, or everything in a dense run. A message can `add_to` a vector, `take_from` the
        vector it was chosen from, and `mask` any vector: set it to 0 at the places that were sent.
        """
        ...


class StartHook(Protocol):
    """Where a client's local training starts; without this hook, at the server's weights."""

    def __call__(self, server: Tensor, state: State, task: Task) -> Tensor:
        """A vector of its own, or a matrix of a row per client; `server` stays as it is.

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
        """Add what the one client of the task contributes to `total`, in place; w <- w + total / clients."""
        ...


class BudgetHook(Protocol):
    """What a round may cost, decided when it begins."""

    def __call__(self, task: Task, training_loss: Callable[[], tuple[float, float]]) -> Task:
        """The round's task, with another keep, number of local epochs or learning rate, say (`dataclasses.replace`).

        `training_loss()` is the mean training loss over all clients' data, at the server's weights now and at the
        initial ones. Only asking for it costs the pass over the data.
        """
        ...


class ApplyHook(Protocol):
    """The server's step."""

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
        downlink. All start at 0 and are part of a checkpoint.
    dense: the method does not compress, so `keep` does not apply to it.
    start, pull, receive, budget, apply: see `StartHook`, `PullHook`, `ReceiveHook`, `BudgetHook`, `ApplyHook`.
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
    dense: bool = False
    start: StartHook | None = None
    pull: PullHook | None = None
    receive: ReceiveHook = add_message
    budget: BudgetHook | None = None
    apply: ApplyHook = add_update
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
