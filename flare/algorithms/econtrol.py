"""EControl: Gao, Islamov & Stich, "EControl: Fast Distributed Optimization with Compression and Error Control",
arXiv 2311.05645.

EF21's estimate h_k of the client's difference with a controlled share of an error memory A_k: D = C_R(eta A_k + d_k -
h_k), A_k <- A_k + d_k - h_k - D, h_k <- h_k + D; D is sent and h_k is what the client contributes.
eta = 0 is EF21, bit for bit; keep = 1 is FedAvg to rounding, with A_k = 0. h_k starts at 0 (the paper's starts at the
first gradient, sent dense). A_k and all h_k contributed sum to all d_k, to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flare.algorithms import Method
from flare.settings import setting

if TYPE_CHECKING:
    from torch import Tensor

    from flare.algorithms import Compress, State
    from flare.engine.layout import Message
    from flare.engine.task import Task


@dataclass(frozen=True)
class Settings:
    """EControl's own settings."""

    eta: float = setting(
        0.1, low=0, high=1, symbol="eta", doc="share of the error memory that is fed back; 0 is `ef21`"
    )


def message(difference: Tensor, state: State, task: Task, compress: Compress) -> Any:
    """D = C_R(eta A_k + d_k - h_k), A_k <- A_k + d_k - h_k - D, h_k <- h_k + D. Overwrites `difference`."""
    memory, estimate = state["accumulator"], state["estimate"]
    difference -= estimate
    increment = compress(difference.add(memory, alpha=task.settings.eta))
    memory += difference
    increment.add_to(memory, -1)
    increment.add_to(estimate)
    return increment


def receive(total: Tensor, message: Message, state: State, task: Task) -> None:
    """The server's own copy of h_k, already updated, is what client k contributes."""
    total += state["estimate"]


METHOD = Method(message=message, settings=Settings, state=("accumulator", "estimate"), receive=receive)

# How figures show it.
LABEL = "EControl"
COLOUR = "#FBAFE4"
MARKER = "p"
DASHES = (0, (5, 1, 1, 1, 1, 1, 1, 1))
