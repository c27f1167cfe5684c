"""What the rounds to come depend on: all that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class RunState:
    """A run between two rounds.

    server: w, a vector. memory: what each client keeps, by name, (clients, weights). server_memory: what the server
    keeps beside w, vectors by name. completed: rounds. uplink, downlink: bits so far; dense: the uplink had every
    message been dense. first_loss: the mean training loss of the initial weights, if it was asked for. history: the
    rows so far. diverged: the round in which the loss or the weights were no longer finite.
    """

    server: Tensor
    memory: dict[str, Tensor]
    server_memory: dict[str, Tensor]
    completed: int = 0
    uplink: int = 0
    downlink: int = 0
    dense: int = 0
    first_loss: float | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    diverged: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The state in plain values and the tensors themselves, which the next round overwrites."""
        return {
            "completed": self.completed,
            "server": self.server,
            "memory": self.memory,
            "server_memory": self.server_memory,
            "uplink": self.uplink,
            "downlink": self.downlink,
            "dense": self.dense,
            "first_loss": self.first_loss,
            "history": self.history,
        }

    def fits(self, saved: Mapping[str, Any]) -> bool:
        """Whether a saved state has vectors of the same names and shapes."""
        mine, theirs = self.to_dict(), saved
        return mine["server"].shape == theirs["server"].shape and all(
            {name: tensor.shape for name, tensor in mine[of].items()}
            == {name: tensor.shape for name, tensor in theirs.get(of, {}).items()}
            for of in ("memory", "server_memory")
        )

    def load(self, saved: Mapping[str, Any]) -> None:
        """Take over a state that `to_dict` gave, which fits; tensors are copied."""
        self.server.copy_(saved["server"])
        for of in ("memory", "server_memory"):
            for name, tensor in getattr(self, of).items():
                tensor.copy_(saved[of][name])
        for name in ("completed", "uplink", "downlink", "dense", "first_loss"):
            setattr(self, name, saved[name])
        self.history += saved["history"]
