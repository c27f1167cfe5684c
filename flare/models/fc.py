"""Fully connected network of Greidi & Cohen, arXiv 2312.13795: three hidden LINEAR layers, no activations.

784-4069-4069-4069-10 on MNIST (36,356,525 weights), Glorot normal weights, zero biases. The log-softmax at its end is
in the loss.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flare.settings import setting

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Settings:
    """Sizes of the network."""

    width: int = setting(4069, low=1, doc="units of each hidden layer")
    hidden_layers: int = setting(
        3, low=0, high=1000, doc="number of hidden layers; 0 is multinomial logistic regression"
    )


def check(shape: tuple[int, ...]) -> None:
    """Inputs of any shape."""


def build(shape: tuple[int, ...], classes: int, settings: Settings, fidelity: str = "paper") -> nn.Module:
    """Inputs (N, *shape) are flattened; output (N, classes) logits."""
    from torch import nn

    sizes = [math.prod(shape), *[settings.width] * settings.hidden_layers, classes]
    layers = [nn.Linear(before, after) for before, after in itertools.pairwise(sizes)]
    for layer in layers:
        nn.init.xavier_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(nn.Flatten(), *layers)
