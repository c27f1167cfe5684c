"""FedAvg: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data",
arXiv 1602.05629.

m_k = d_k: every client sends its whole difference, and the server adds their unweighted mean. Dense, so `keep` does not
apply. It is the limit of every compressing method at keep = 1.
value_bits = 16 rounds what is sent to bfloat16, 16 bits a weight, without a memory of what that loses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flare.algorithms import Method
from flare.settings import setting

if TYPE_CHECKING:
    from torch import Tensor

    from flare.algorithms import State
    from flare.engine.compressor import Compressor
    from flare.engine.task import Task


@dataclass(frozen=True)
class Settings:
    """FedAvg's own settings."""

    value_bits: int = setting(32, choices=(32, 16), doc="bits of a weight on the wire; 16 rounds it to bfloat16")


def message(difference: Tensor, state: State, task: Task, compress: Compressor) -> Any:
    """m_k = d_k, rounded if 16 bits are sent."""
    return compress.rounded(difference) if task.settings.value_bits == 16 else compress(difference)


def bits(task: Task) -> int:
    """All weights."""
    bits: int = task.settings.value_bits * task.layout.numel
    return bits


METHOD = Method(message=message, settings=Settings, dense=True, bits=bits)

# How figures show it.
LABEL = "FedAvg"
COLOUR = "#404040"
MARKER = "s"
DASHES = (0, (5, 1.5))
