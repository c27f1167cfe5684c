"""Convolutional network of Greidi & Cohen, arXiv 2312.13795 (that of McMahan et al., arXiv 1602.05629, without
padding).

conv 5x5 x 32, ReLU, max-pool 2, conv 5x5 x 64, ReLU, max-pool 2, 512 ReLU, classes: 582,026 weights on 1x28x28 inputs
and 10 classes. Glorot normal weights, zero biases.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flare.errors import ConfigError
from flare.settings import setting

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Settings:
    """Sizes of the network."""

    filters: int = setting(32, low=1, doc="channels of the first convolution; the second has twice as many")
    hidden: int = setting(512, low=1, doc="units of the hidden layer")


def check(shape: tuple[int, ...]) -> None:
    """Inputs are (channels, height, width), height and width at least 16."""
    if len(shape) != 3 or min(shape[1:]) < 16:
        raise ConfigError(f"model: cnn needs inputs (channels, height, width) of at least 16 x 16, not {tuple(shape)}")


def build(shape: tuple[int, ...], classes: int, settings: Settings, fidelity: str = "paper") -> nn.Module:
    """Inputs (N, C, H, W); output (N, classes) logits."""
    from torch import nn

    check(shape)
    channels, height, width = shape
    rows, columns = ((size - 4) // 2 - 4 for size in (height, width))
    model = nn.Sequential(
        nn.Conv2d(channels, settings.filters, 5),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(settings.filters, 2 * settings.filters, 5),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * settings.filters * (rows // 2) * (columns // 2), settings.hidden),
        nn.ReLU(inplace=True),
        nn.Linear(settings.hidden, classes),
    )
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_normal_(parameter)
        else:
            nn.init.zeros_(parameter)
    return model
