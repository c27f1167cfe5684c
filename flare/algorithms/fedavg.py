"""FedAvg: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
arXiv 1602.05629.

m_k = d_k: every client sends its whole difference, and the server adds their unweighted mean. Dense, so `keep` does not
apply. It is the limit of every compressing method at keep = 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flare.algorithms import Method

if TYPE_CHECKING:
    from torch import Tensor

    from flare.algorithms import Compress, State
    from flare.engine.task import Task


def message(difference: Tensor, state: State, task: Task, compress: Compress) -> Any:
    """m_k = d_k."""
    return compress(difference)


METHOD = Method(message=message, dense=True)

# How figures show it.
LABEL = "FedAvg"
COLOUR = "#404040"
MARKER = "s"
DASHES = (0, (5, 1.5))
