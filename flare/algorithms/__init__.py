"""The federated methods: one file each, found by listing this folder.

A method is a `Method`: pure functions over explicit state. The one round loop, in `flare.engine`, calls them; a
method never loops over batches, clients or rounds. The functions work on flat vectors, all weights of a model in one,
and say what they change in place. Nothing here imports torch, so that a configuration is checked without the seconds
that takes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from flare.engine.sparsify import Layout, Message

    State = dict[str, Tensor]
    Compress = Callable[[Tensor], Message]
    Pull = tuple[int | None, Callable[[Tensor, Tensor, int], None]]


@dataclass(frozen=True)
class NoSettings:
    """A method without settings of its own."""


def error_feedback(difference: Tensor, state: State, settings: Any, compress: Compress) -> Message:
    """u = d_k + A_k, m_k = C_R(u), A_k <- u - m_k: Stich et al., arXiv 1809.07599, algorithm 1.

    m_k + A_k = u exactly: every entry of u is in one of the two, and the other is 0 there.
    """
    memory = state["accumulator"]
    memory += difference  # u is formed where what is left of it stays
    return compress(memory).take_from(memory)


def add_message(total: Tensor, message: Message, state: State) -> None:
    """The message itself is what the client contributes."""
    message.add_to(total)


@dataclass(frozen=True)
class Method:
    """What one federated method does, in the symbols of McMahan et al., arXiv 1602.05629.

    message(difference, state, settings, compress): d_k = w_k - w and the client's state become the message m_k.
        `difference` and the vectors of `state` may be overwritten. `compress` is C_R at this round's budget (all,
        for a dense run).
    settings: frozen dataclass of the method's own settings, each a `flare.config.setting` with its range.
    state: names of the vectors that a client keeps between rounds; they start at 0.
    dense: the method does not compress, so `keep` does not apply to it.
    pull(round, start, state, settings, layout): extra gradient of the local steps, or None where there is none.
        Returns (steps, add): `add(gradient, weights, step)` adds it in place, on the first `steps` steps (None: on
        all). step counts from 0, where the weights are those of `start`.
    receive(total, message, state): the server adds what client k contributes to `total`; w <- w + total / clients.
    budget(keep, local_epochs, loss, first_loss, settings): this round's (keep, local_epochs), from the mean training
        loss of the server's weights now and in round 0.
    restarts_momentum: under `fidelity: authors` momentum starts again from 0 after the pulled steps.
    """

    message: Callable[[Tensor, State, Any, Compress], Message]
    settings: type = NoSettings
    state: tuple[str, ...] = ()
    dense: bool = False
    pull: Callable[[int, Tensor, State, Any, Layout], Pull | None] | None = None
    receive: Callable[[Tensor, Message, State], None] = add_message
    budget: Callable[[float, int, float, float, Any], tuple[float, int]] | None = None
    restarts_momentum: bool = False


def names() -> list[str]:
    """All methods, sorted: the files of this folder."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))


def load(name: str) -> Method:
    """The method of that name; ConfigError, with the nearest spelling, where there is none."""
    from flare.errors import choose

    method: Method = importlib.import_module(f"flare.algorithms.{choose('method', name, names())}").METHOD
    return method
