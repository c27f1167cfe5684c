"""Random-K with error correction: Stich et al., "Sparsified SGD with Memory", arXiv 1809.07599, with random places.

As Top-K, u = d_k + A_k, m_k is a part of u, A_k <- u - m_k, but the K entries of every tensor are drawn, from a seed
that follows from the run's seed, the round and the client. The server knows it, too, so only values are sent, 32 bits
an entry. A floor: what choosing the largest is worth. keep = 1 is FedAvg to rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flare.algorithms import Method, error_feedback

if TYPE_CHECKING:
    from torch import Tensor

    from flare.algorithms import State
    from flare.engine.compressor import Compressor
    from flare.engine.task import Task


def message(difference: Tensor, state: State, task: Task, compress: Compressor) -> Any:
    """u = d_k + A_k, m_k = u at the drawn places, A_k <- u - m_k."""
    return error_feedback(difference, state, task, compress.drawn)


def bits(task: Task) -> int:
    """Values only."""
    return 32 * sum(task.layout.counts(task.keep))


METHOD = Method(message=message, state=("accumulator",), bits=bits)

# How figures show it.
LABEL = "Random-K"
COLOUR = "#ECB01F"
MARKER = "*"
DASHES = (0, (1, 3))
