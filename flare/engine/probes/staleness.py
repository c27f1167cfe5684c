"""How stale what a client keeps is: measured for a run with `staleness: true`, absent otherwise.

The staleness of a coordinate of client k after round r is r - s, where s is the last round in which the client sent
it, and r + 1 where it never did. Greidi & Cohen (arXiv 2312.13795) argue about it and do not plot it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from flare.engine.sparsify import Layout, Message

# Percentiles of staleness are over all coordinates of all clients. Norms and the cosine are means over the clients that
# answered in the evaluated round: of the memory A_k after it, of the message, and of the angle between the memory
# before it and that round's difference d_k (left out where either is 0; a negative cosine is a memory that points
# away from today's update). A method without an accumulator has no memory norm and no cosine.
COLUMNS = (
    "staleness_mean",
    "staleness_p50",
    "staleness_p90",
    "staleness_p99",
    "never_sent",
    "memory_norm",
    "message_norm",
    "memory_cosine",
)


class Staleness:
    """`last`: the round in which each client last sent each coordinate, int32 (clients, weights), -1 for never.

    The rest of it is of the current round only.
    """

    def __init__(self, clients: int, layout: Layout) -> None:
        self.last = np.full((clients, layout.numel), -1, dtype=np.int32)
        self._norms: dict[str, list[float]] = {}

    def begin(self) -> None:
        """A round begins."""
        self._norms = {"memory_norm": [], "message_norm": [], "memory_cosine": []}

    def before(self, difference: Tensor, memory: Tensor | None) -> None:
        """Look at d_k and A_k before the message is made of them."""
        if memory is not None:
            length = float(torch.linalg.vector_norm(memory) * torch.linalg.vector_norm(difference))
            if length > 0:
                self._norms["memory_cosine"].append(float(torch.dot(memory, difference)) / length)

    def after(self, client: int, round_: int, message: Message, memory: Tensor | None) -> None:
        """Look at the message and at what is left in the memory."""
        sent = slice(None) if message.indices is None else message.indices.cpu().numpy()
        self.last[client, sent] = round_
        self._norms["message_norm"].append(float(torch.linalg.vector_norm(message.values)))
        if memory is not None:
            self._norms["memory_norm"].append(float(torch.linalg.vector_norm(memory)))

    def measure(self, round_: int) -> dict[str, float]:
        """The values of COLUMNS after the round; NaN for what does not exist."""
        ages = np.zeros(round_ + 2, dtype=np.int64)
        for row in self.last:
            ages += np.bincount(round_ - row, minlength=round_ + 2)
        total = int(ages.sum())
        below = np.cumsum(ages)
        measured = {"staleness_mean": float(ages @ np.arange(len(ages))) / total}
        for percent in (50, 90, 99):
            rank = round((total - 1) * percent / 100)
            measured[f"staleness_p{percent}"] = float(np.searchsorted(below, rank, side="right"))
        measured["never_sent"] = int(ages[-1]) / total
        for name, values in self._norms.items():
            measured[name] = math.fsum(values) / len(values) if values else math.nan
        return measured
