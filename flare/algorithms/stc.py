"""STC: Sattler et al., "Robust and Communication-Efficient Federated Learning from Non-IID Data", arXiv 1903.02891.

Sparse ternary compression both ways. T_R(x), per tensor: mu sign(x) on the places S that C_R(x) keeps, mu the mean of
|x| over S. Client: u = d_k + A_k, m_k = T_R(u), A_k <- u - m_k. Server: u = mean m_k + A, m = T_R(u), A <- u - m,
w <- w + m. One entry a tensor is exact, T_R = C_R.
A message costs, a tensor, 32 bits for mu and, an entry, a sign and a Golomb-Rice code of the gap to the entry before.
As downlink is counted what the server sends of this round to every client that answers in it; a client that was absent
needs all that it missed, or w, which is not counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flare.algorithms import Method

if TYPE_CHECKING:
    from torch import Tensor

    from flare.algorithms import State
    from flare.engine.compressor import Compressor
    from flare.engine.task import Task
    from flare.engine.update import Update


def message(difference: Tensor, state: State, task: Task, compress: Compressor) -> Any:
    """u = d_k + A_k, m_k = T_R(u), A_k <- u - m_k."""
    memory = state["accumulator"]
    memory += difference
    sent = compress.ternary(memory)
    sent.add_to(memory, -1)
    return sent


def apply(server: Tensor, update: Update, state: State, task: Task) -> Tensor | int:
    """The mean first, then A: entries of equal magnitude stay equal, and the lowest index is sent."""
    memory = state["accumulator"]
    memory += update.mean(server)
    sent = task.compressor.ternary(memory)
    sent.add_to(memory, -1)
    sent.add_to(server)
    return int(sent.bits) * len(task.clients)


def bits(task: Task) -> int:
    """About what a message costs if the gaps between its entries are random."""
    return task.compressor.ternary_bits


METHOD = Method(message=message, state=("accumulator",), server_state=("accumulator",), apply=apply, bits=bits)

# How figures show it.
LABEL = "STC"
COLOUR = "#949494"
MARKER = "X"
DASHES = (0, (1, 2))
