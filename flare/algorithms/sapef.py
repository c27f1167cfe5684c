"""SA-PEF: step-ahead partial error feedback, arXiv 2601.20738, after SAEF, arXiv 2008.05823.

Local training starts where a part of the memory would lead, and the rest of the memory is fed back:
v <- w + alpha A_k, local steps from v to v_end, u = (v_end - w) + (1 - alpha) A_k, m_k = C_R(u), A_k <- u - m_k.
alpha = 0 is Top-K, bit for bit; alpha = 1 is SAEF; while A_k = 0 it is Top-K; keep = 1 is FedAvg to rounding.
The authors' program divides each coordinate by the weight of the clients that sent it, the server here by the number of
those that answer: rates tuned there do not carry over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flare.algorithms import Method, error_feedback
from flare.settings import setting

if TYPE_CHECKING:
    from torch import Tensor

    from flare.algorithms import Compress, State
    from flare.engine.task import Task


@dataclass(frozen=True)
class Settings:
    """SA-PEF's own settings."""

    alpha: float = setting(
        0.85, low=0, high=1, symbol="alpha", doc="share of the memory that local training starts ahead by; 0 is `topk`"
    )


def start(server: Tensor, state: State, task: Task) -> Tensor:
    """v = w + alpha A_k."""
    alpha = task.settings.alpha
    return server if alpha == 0 else server + alpha * state["accumulator"]


def message(difference: Tensor, state: State, task: Task, compress: Compress) -> Any:
    """u = (v_end - w) + (1 - alpha) A_k, m_k = C_R(u), A_k <- u - m_k."""
    if task.settings.alpha != 0:
        state["accumulator"] *= 1 - task.settings.alpha
    return error_feedback(difference, state, task, compress)


METHOD = Method(message=message, settings=Settings, state=("accumulator",), start=start)

# How figures show it.
LABEL = "SA-PEF"
COLOUR = "#56B4E9"
MARKER = "<"
DASHES = (0, (3, 1, 1, 1, 1, 1))
