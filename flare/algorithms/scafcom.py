"""SCAFCOM: Huang, Li & Li, "Stochastic Controlled Averaging for Federated Learning with Communication Compression",
arXiv 2308.08165.

Control variates, the client's c_k and the server's c, correct every local step, and their increments are compressed:
v <- v - lr (g - c_k + c), S of them; V_k <- (1 - beta) V_k + beta ((w - v_end)/(lr S) + c_k - c); D = C_R(V_k - c_k) is
sent, c_k <- c_k + D, and the client contributes -lr S (D + c), with the c it was sent. Then c <- c + (1/N) sum of D, N
all clients: c stays the mean of all c_k. beta = 1 and keep = 1 is SCAFFOLD with option II (arXiv 1910.06378), whose
global rate is the server's learning rate; with one step a round and all clients answering that is FedAvg.
The server sends w and c, 64 bits a weight. The local momentum must be 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flare.algorithms import Method
from flare.settings import setting

if TYPE_CHECKING:
    from torch import Tensor

    from flare.algorithms import Compress, State, Training
    from flare.engine.layout import Message
    from flare.engine.step import Pull
    from flare.engine.task import Task
    from flare.engine.update import Update


@dataclass(frozen=True)
class Settings:
    """SCAFCOM's own settings."""

    beta: float = setting(0.2, above=0, high=1, symbol="beta", doc="weight of the newest gradient in their mean")


def check(settings: Settings, training: Training) -> str | None:
    """The local momentum must be 0: nobody has said what the method would be with another."""
    if training.momentum != 0:
        return f"momentum: {training.momentum} in the local steps is not allowed; 0, as scafcom is defined without"
    return None


def pull(start: Tensor, state: State, task: Task) -> Pull | None:
    """The correction c - c_k on every local step; in round 0 both are 0."""
    if task.number == 0:
        return None
    correction = task.broadcast["control"] - state["control"]

    def add(gradient: Tensor, weights: Tensor, step: int) -> None:
        gradient += correction

    return None, add


def message(difference: Tensor, state: State, task: Task, compress: Compress) -> Any:
    """V_k <- (1 - beta) V_k + beta ((w - v_end)/(lr S) + c_k - c), D = C_R(V_k - c_k), c_k <- c_k + D.

    Overwrites `difference`.
    """
    control, mean, beta = state["control"], state["mean"], task.settings.beta
    steps = task.each([-1 / (task.learning_rate * taken) for taken in task.taken], difference)
    difference.mul_(steps).add_(control).sub_(task.broadcast["control"])
    mean.mul_(1 - beta).add_(difference, alpha=beta)
    increment = compress(difference.copy_(mean).sub_(control))
    increment.add_to(control)
    return increment


def receive(total: Tensor, message: Message, state: State, task: Task) -> None:
    """-lr S (D + c) goes into the sum for w, D into that for c."""
    scale = -task.learning_rate * task.taken[0]
    total.add_(task.broadcast["control"], alpha=scale)
    message.add_to(total, scale)
    message.add_to(task.sums["increments"])


def remember(update: Update, state: State, task: Task) -> None:
    """c <- c + (1/N) sum of D, N all clients."""
    state["control"].add_(update.sums["increments"], alpha=1 / task.population)


METHOD = Method(
    message=message,
    settings=Settings,
    state=("control", "mean"),
    server_state=("control",),
    broadcast=("control",),
    sums=("increments",),
    pull=pull,
    receive=receive,
    remember=remember,
)

# How figures show it.
LABEL = "SCAFCOM"
COLOUR = "#7A9A01"
MARKER = "h"
DASHES = (0, (7, 1, 2, 1, 2, 1))
