"""How stale what the clients keep is, for a run with `staleness: true`.

The staleness of a coordinate of client k after round r is r - s, if s is the last round in which the client sent it,
and r + 1 if it never did. Percentiles are over all coordinates of all clients. Norms and the cosine are means over the
clients that answered in the evaluated round: of the memory A_k after it, of the message, and of the angle between the
memory before it and that round's local update (left out if either is 0; a negative cosine is a memory that points away
from today's update). A method without an error memory has no memory norm and no cosine.

Greidi & Cohen (arXiv 2312.13795) argue about staleness and do not plot it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from flare.columns import STALENESS
from flare.engine.base import Probe
from flare.engine.layout import Layout, Message
from flare.engine.task import Task


@final
class Staleness(Probe):
    """`last`: the round in which each client last sent each coordinate, int32 (clients, weights), -1 for never.

    The rest of it is of the current round only.
    """

    columns = tuple(STALENESS)

    def __init__(self, clients: int, layout: Layout) -> None:
        self.last = np.full((clients, layout.numel), -1, dtype=np.int32)
        self._number = 0
        self._norms: dict[str, list[float]] = {}

    def begin(self, task: Task) -> None:
        """A round begins."""
        self._number = task.number
        self._norms = {"memory_norm": [], "message_norm": [], "memory_cosine": []}

    def before(self, client: int, difference: Tensor, memory: Tensor | None) -> None:
        """Look at the local update and A_k before the message is made of them."""
        if memory is not None:
            length = float(torch.linalg.vector_norm(memory) * torch.linalg.vector_norm(difference))
            if length > 0:
                self._norms["memory_cosine"].append(float(torch.dot(memory, difference)) / length)

    def after(self, client: int, message: Message, memory: Tensor | None) -> None:
        """Look at the message and at what is left in the memory."""
        sent = slice(None) if message.indices is None else message.indices.cpu().numpy()
        self.last[client, sent] = self._number
        self._norms["message_norm"].append(float(torch.linalg.vector_norm(message.values)))
        if memory is not None:
            self._norms["memory_norm"].append(float(torch.linalg.vector_norm(memory)))

    def measure(self, task: Task) -> dict[str, float]:
        """The values of the columns after the round; NaN for what does not exist."""
        ages = np.zeros(task.number + 2, dtype=np.int64)
        for row in self.last:
            ages += np.bincount(task.number - row, minlength=task.number + 2)
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

    def state(self) -> dict[str, Tensor]:
        """The rounds in which coordinates were last sent."""
        return {"last_sent": torch.from_numpy(self.last)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take them over."""
        self.last[:] = state["last_sent"].numpy()


PROBE = Staleness
