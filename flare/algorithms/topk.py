"""Top-K with error correction (EC): Stich et al., "Sparsified SGD with Memory", arXiv 1809.07599, algorithm 1.

u = d_k + A_k, m_k = C_R(u), A_k <- u - m_k: the largest entries are sent and the rest is remembered, so that
m_k + A_k = u exactly. keep = 1 sends everything, A_k stays 0, and it is FedAvg to rounding.
memory_decay below 1 fades what is remembered before it is added, u = d_k + memory_decay A_k (SparseLoCo, arXiv
2508.15706); 0 forgets it. scope `model` chooses K = max(1, round(R N)) entries of all N weights at once, so that of a
tensor there may be none, and an index costs ceil(log2 N) bits (Sahu et al., arXiv 2108.00951).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flare.algorithms import Method, error_feedback
from flare.settings import setting

if TYPE_CHECKING:
    from torch import Tensor

    from flare.algorithms import State
    from flare.engine.compressor import Compressor
    from flare.engine.task import Task


@dataclass(frozen=True)
class Settings:
    """Top-K's own settings."""

    memory_decay: float = setting(
        1.0, low=0, high=1, doc="the memory is multiplied by it before it is added; 0 is no error correction"
    )
    scope: str = setting(
        "tensor",
        choices=("tensor", "model"),
        doc="the largest entries of every tensor, or of all weights as one vector, whose indices cost more bits",
    )


def message(difference: Tensor, state: State, task: Task, compress: Compressor) -> Any:
    """u = d_k + memory_decay A_k, m_k = C(u), A_k <- u - m_k."""
    settings: Settings = task.settings
    if settings.memory_decay != 1:
        state["accumulator"] *= settings.memory_decay
    return error_feedback(difference, state, task, compress.of_model if settings.scope == "model" else compress)


def bits(task: Task) -> int:
    """Entries with their indices, of every tensor or of the whole model."""
    layout = task.layout
    keep = task.keep
    if task.settings.scope == "model":
        layout, keep = layout.merged, layout.overall(keep)
    return layout.message_bits(keep, task.fidelity)


METHOD = Method(message=message, settings=Settings, state=("accumulator",), bits=bits)

# How figures show it.
LABEL = "Top-K"
COLOUR = "#0173B2"
MARKER = "^"
DASHES = (0, (4, 1, 1, 1))
