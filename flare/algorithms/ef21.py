"""EF21: Richtarik, Sokolov & Fatkhullin, "EF21: A New, Simpler, Theoretically Better, and Practically Faster
Error Feedback", arXiv 2106.05203, algorithm 1.

Client and server keep the same estimate G_k of the client's difference: q = C_R(d_k - G_k) is sent, G_k <- G_k + q,
and the server applies the mean of the answering clients' updated G_k. keep = 1 is FedAvg to rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flare.algorithms import Method

if TYPE_CHECKING:
    from torch import Tensor

    from flare.algorithms import Compress, State
    from flare.engine.layout import Message
    from flare.engine.task import Task


def message(difference: Tensor, state: State, task: Task, compress: Compress) -> Any:
    """q = C_R(d_k - G_k), the increment on the wire; G_k <- G_k + q. Overwrites `difference`."""
    estimate = state["estimate"]
    difference -= estimate
    increment = compress(difference)
    increment.add_to(estimate)
    return increment


def receive(total: Tensor, message: Message, state: State, task: Task) -> None:
    """The server's own copy of G_k, already updated by the increment, is what client k contributes."""
    total += state["estimate"]


METHOD = Method(message=message, state=("estimate",), receive=receive)

# How figures show it.
LABEL = "EF21"
COLOUR = "#CC78BC"
MARKER = "v"
DASHES = (0, (6, 1, 1, 1, 1, 1))
