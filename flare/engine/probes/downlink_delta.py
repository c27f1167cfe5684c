"""What the downlink costs if a client is sent only what changed since it last answered.

The server remembers of every weight the last round that changed it. A client that answers is sent the weights that
changed since it was last sent them, 32 bits and an index each, but no tensor in more bits than it has whole; a client
that answers for the first time is sent all of them, dense, which `downlink_first_bits` counts alone: where the clients
can draw the initial weights from a seed, it is to be subtracted for those of the first round. Vectors that go with the
weights (`Method.broadcast`) are counted dense. Both columns are sums over the rounds so far.

What changed is seen by comparing the weights, so it holds for every method: one that moves all of them in every round
has the dense downlink here. After Rothchild et al., arXiv 2007.07682, section 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from flare.engine.base import Probe
from flare.engine.layout import Layout, index_bits
from flare.engine.task import Task
from flare.engine.update import Update


@final
class DownlinkDelta(Probe):
    """`_changed`: the last round that changed each weight; `_seen`: the round in which each client last answered."""

    columns = ("downlink_delta_bits", "downlink_first_bits")

    def __init__(self, clients: int, layout: Layout) -> None:
        self._layout = layout
        self._changed = torch.full((layout.numel,), -1, dtype=torch.int32)
        self._weights = torch.empty(0)
        self._seen = torch.full((clients,), -1, dtype=torch.int32)
        self._bits = torch.zeros(2, dtype=torch.int64)
        self._task: Task | None = None

    def begin(self, task: Task) -> None:
        """A round begins."""
        self._task = task

    def aggregated(self, server: Tensor, update: Update) -> None:
        """The server's weights are those with which the round began: what the last one changed can be seen now."""
        task = self._task
        assert task is not None
        self._changed = self._changed.to(server.device)
        if len(self._weights):
            self._changed[server != self._weights.to(server.device)] = task.number - 1
        self._weights = server.detach().clone()
        dense = 32 * self._layout.numel
        costs: dict[int, int] = {}
        for client in task.clients:
            seen = int(self._seen[client])
            if seen not in costs:
                costs[seen] = dense if seen < 0 else self._since(seen)
            self._bits[0] += costs[seen] + dense * len(task.broadcast)
            self._bits[1] += dense if seen < 0 else 0
            self._seen[client] = task.number

    def _since(self, seen: int) -> int:
        """Bits of what rounds from that one on changed."""
        bits = 0
        for part, size in zip(self._layout.slices(), self._layout.sizes, strict=True):
            count = int((self._changed[part] >= seen).count_nonzero())
            bits += min(count * (32 + index_bits(size)), 32 * size)
        return bits

    def measure(self, task: Task) -> dict[str, float]:
        """The sums so far."""
        return dict(zip(self.columns, self._bits.tolist(), strict=True))

    def state(self) -> dict[str, Tensor]:
        """All that is remembered."""
        return {
            "delta_changed": self._changed,
            "delta_weights": self._weights,
            "delta_seen": self._seen,
            "delta_bits": self._bits,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take it over."""
        self._changed, self._weights = state["delta_changed"], state["delta_weights"]
        self._seen, self._bits = state["delta_seen"], state["delta_bits"]


PROBE = DownlinkDelta
