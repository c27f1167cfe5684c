"""EF21-SGDM: Fatkhullin, Tyurin & Richtarik, "Momentum Provably Improves Error Feedback!", arXiv 2305.15155.

EF21 on an exponential mean of the client's differences: V_k <- (1 - eta) V_k + eta d_k, q = C_R(V_k - G_k),
G_k <- G_k + q; q is sent and G_k is what the client contributes. eta = 0.1 forgets as a momentum of 0.9 does, without
its gain of 10. eta = 1 is EF21, bit for bit; keep = 1 contributes V_k, and with eta = 1 it is FedAvg. V_k and G_k start
at 0 (the paper's at the first gradient), so the first rounds move w by little.
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
    """EF21-SGDM's own settings."""

    eta: float = setting(
        0.3, above=0, high=1, symbol="eta", doc="weight of the newest difference in their mean; 1 is `ef21`"
    )


def message(difference: Tensor, state: State, task: Task, compress: Compress) -> Any:
    """V_k <- (1 - eta) V_k + eta d_k, q = C_R(V_k - G_k), G_k <- G_k + q. Overwrites `difference`."""
    mean, estimate, eta = state["mean"], state["estimate"], task.settings.eta
    mean.mul_(1 - eta).add_(difference, alpha=eta)
    increment = compress(difference.copy_(mean).sub_(estimate))
    increment.add_to(estimate)
    return increment


def receive(total: Tensor, message: Message, state: State, task: Task) -> None:
    """The server's own copy of G_k, already updated, is what client k contributes."""
    total += state["estimate"]


METHOD = Method(message=message, settings=Settings, state=("mean", "estimate"), receive=receive)

# How figures show it.
LABEL = "EF21-SGDM"
COLOUR = "#9C2A8E"
MARKER = "1"
DASHES = (0, (2, 1, 5, 1))
