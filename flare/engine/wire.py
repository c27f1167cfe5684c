"""What the server's side of a round costs on the wire; a message's own size is `Layout.bits`.

The one place to change how the downlink is counted: `update.places()` says how many weights a round moves.
"""

from __future__ import annotations

from torch import Tensor

from flare.engine.task import Task
from flare.engine.update import Update


def dense_bits(task: Task) -> int:
    """Bits of a round's uplink had every message been dense: 32 a weight and client."""
    return 32 * task.layout.numel * len(task.clients)


def downlink_bits(task: Task, update: Update) -> Tensor | int:
    """Bits that the server sends in a round: w and the vectors that go with it, dense, to every client that answers.

    update: what the round adds to w, before it is added. A tensor if only the device knows the number.
    """
    return dense_bits(task) * (1 + len(task.broadcast))
