"""DGC: Lin et al., "Deep Gradient Compression", arXiv 1712.01887: momentum correction, factor masking, warm-up.

U_k <- momentum U_k + d_k, V_k <- V_k + U_k, m_k = C(V_k) with R_r = max(R, R^((r+1)/(W+1))) in the first W rounds and R
after them; at the sent places V_k <- 0 and, with masking, U_k <- 0. r counts server rounds.
The momentum is the method's own, so the local one must be 0. Gradients are not clipped, and d_k is added once a round.
momentum = 0 without warm-up is Top-K, bit for bit; keep = 1 is FedAvg and, without masking and if all clients answer,
one heavy ball that is kept across rounds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flare.algorithms import Method
from flare.settings import setting

if TYPE_CHECKING:
    from torch import Tensor

    from flare.algorithms import Compress, State, Training
    from flare.engine.task import Task


@dataclass(frozen=True)
class Settings:
    """DGC's own settings."""

    momentum: float = setting(
        0.9, low=0, below=1, doc="of the differences, kept by each client across rounds (the local one must be 0)"
    )
    warmup_rounds: int = setting(
        0, low=0, symbol="W", doc="first rounds, in which more is sent: R^(1/(W+1)) of all in the first, R after them"
    )
    masking: bool = setting(True, doc="a sent place loses its momentum, too")


def check(settings: Settings, training: Training) -> str | None:
    """The local momentum must be 0: there would be two."""
    if training.momentum != 0:
        return f"momentum: {training.momentum} in the local steps is not allowed; 0, as dgc has a momentum of its own"
    return None


def budget(task: Task, training_loss: Callable[[], tuple[float, float]]) -> Task:
    """R_r of the warm-up."""
    warmup = task.settings.warmup_rounds
    if task.number >= warmup:
        return task

    def wider(keep: float | None) -> float | None:
        return None if keep is None else max(keep, keep ** ((task.number + 1) / (warmup + 1)))

    keep = tuple(map(wider, task.keep)) if isinstance(task.keep, tuple) else wider(task.keep)
    return dataclasses.replace(task, keep=keep)


def message(difference: Tensor, state: State, task: Task, compress: Compress) -> Any:
    """U_k <- momentum U_k + d_k, V_k <- V_k + U_k, m_k = C(V_k); both forget what was sent."""
    momentum, memory = state["momentum"], state["accumulator"]
    momentum.mul_(task.settings.momentum).add_(difference)
    memory += momentum
    sent = compress(memory).take_from(memory)
    if task.settings.masking:
        sent.mask(momentum)
    return sent


METHOD = Method(message=message, settings=Settings, state=("momentum", "accumulator"), budget=budget)

# How figures show it.
LABEL = "DGC"
COLOUR = "#CA9161"
MARKER = ">"
DASHES = (0, (8, 2))
