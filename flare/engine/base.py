"""What the round loop asks of an engine, and what a probe is told.

An engine trains the clients of a round; there are two, one client at a time and all together. A probe measures
something of every round; each is a file of `flare.engine.probes`. The loop never asks which engine runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from flare.algorithms import Method
from flare.engine.layout import Layout
from flare.engine.network import Network, Pair, put
from flare.engine.state import RunState
from flare.engine.task import Task
from flare.engine.update import Update


class Result(NamedTuple):
    """What a round gave: what the server adds, the mean of the clients' mean batch losses, and the uplink's bits."""

    update: Update
    loss: Tensor
    uplink: Tensor | int


def zeroed(task: Task, kept: dict[str, Tensor], names: Sequence[str], like: Tensor) -> Task:
    """The task with vectors of 0 by these names, for the sums of the round; `kept` holds them from round to round."""
    if not names:
        return task
    for name in names:
        kept[name] = kept[name].zero_() if name in kept else torch.zeros_like(like)
    return dataclasses.replace(task, sums=kept)


class Probe:
    """Measures something of every round. Every method may be left out except `measure`; vectors are not changed.

    A probe's file in `flare.engine.probes` has a class of this kind called `PROBE`, made once a run from the number of
    clients and the layout. What the rounds to come depend on is in `state`, so that a resumed run measures the same.
    """

    columns: Sequence[str] = ()

    def __init__(self, clients: int, layout: Layout) -> None:
        """A run begins."""

    def begin(self, task: Task) -> None:
        """A round begins."""

    def before(self, client: int, difference: Tensor, memory: Tensor | None) -> None:
        """A client has trained: its local update, and its error memory (`Method.memory`) before its message is made."""

    def after(self, client: int, message: Any, memory: Tensor | None) -> None:
        """Its message is made: the message, without places that are not sent, and what is left in its memory."""

    def aggregated(self, server: Tensor, update: Update) -> None:
        """All messages are in: the server's weights, and what will be added to them."""

    def measure(self, task: Task) -> dict[str, float]:
        """The values of `columns` after an evaluated round; NaN for what does not exist."""
        raise NotImplementedError

    def state(self) -> dict[str, Tensor]:
        """Tensors by name, unique among probes, that a resumed run goes on with."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave; the mapping also holds the state of others."""


class Engine(Protocol):
    """Trains the clients of a round. Its implementations are final: `OneAtATime` and `Together`."""

    name: str
    network: Network

    def round(self, task: Task, state: RunState, method: Method, probes: Sequence[Probe]) -> Result:
        """Train the clients of the task from the server's weights, and update their rows of `state.memory`.

        Calls the method's client hooks and the probes' `before` and `after`; the server's weights stay as they are.
        """
        ...

    def evaluate(self, weights: Tensor, data: Pair) -> tuple[float, float]:
        """Mean loss and accuracy of the weights on (inputs, targets)."""
        return self.network.evaluate(weights, data)

    def fetch(self, *numbers: Tensor | int) -> list[float | int]:
        """The numbers as Python's: the one time in a round that the device is waited for. Whole numbers stay whole."""
        waiting = [torch.as_tensor(number, dtype=torch.float64) for number in numbers if isinstance(number, Tensor)]
        device = self.network.device
        known = iter(torch.stack([put(number, device) for number in waiting]).tolist() if waiting else ())
        return [
            (next(known) if number.is_floating_point() else int(next(known))) if isinstance(number, Tensor) else number
            for number in numbers
        ]
