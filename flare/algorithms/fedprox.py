"""FedProx: Li et al., "Federated Optimization in Heterogeneous Networks", arXiv 1812.06127, here with Top-K error
correction.

Every local step minimises f_k(v) + mu_r * sum_i (v_i - w_i)^2, without the factor 1/2, mu_r = mu / mu_decay^(r+1); the
message is that of Top-K, as Greidi & Cohen (arXiv 2312.13795) ran it. `keep: dense` is plain FedProx.
Limits: mu = 0 is Top-K (FedAvg when dense), bit for bit; with one local step a round the proximal gradient is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flare.algorithms import Method, error_feedback
from flare.settings import setting

if TYPE_CHECKING:
    from torch import Tensor

    from flare.algorithms import State
    from flare.engine.step import Pull
    from flare.engine.task import Task


@dataclass(frozen=True)
class Settings:
    """FedProx's own settings."""

    mu: float = setting(0.01, low=0, symbol="mu", doc="strength of the proximal term; 0 is `topk`")
    mu_decay: float = setting(
        1.0, low=1, symbol="c", doc="mu is divided by it every round; the authors' is FLARE's `tau_decay`"
    )


def pull(start: Tensor, state: State, task: Task) -> Pull | None:
    """The proximal gradient 2 * mu_r * (v - w), on every step."""
    settings: Settings = task.settings
    if settings.mu == 0:
        return None
    strength = 2 * settings.mu / settings.mu_decay ** (task.number + 1)

    def add(gradient: Tensor, weights: Tensor, step: int) -> None:
        if step == 0:  # v = w
            return
        for _, part in task.layout.blocks(weights):
            gradient[..., part].add_(weights[..., part] - start[..., part], alpha=strength)

    return None, add


METHOD = Method(message=error_feedback, settings=Settings, state=("accumulator",), pull=pull, strength="mu")

# How figures show it.
LABEL = "FedProx"
COLOUR = "#029E73"
MARKER = "D"
DASHES = (0, (2, 1))
