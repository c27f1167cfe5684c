"""VGG: K. Simonyan & A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", arXiv
1409.1556, configurations A, D and E: vgg11, vgg16 and vgg19, as in Greidi & Cohen, arXiv 2312.13795.

3x3 convolutions with padding, each with a ReLU, in five blocks that each end in a max-pool; no batch normalisation. The
channels are torchvision's. The head has two layers of 4096 with ReLU and dropout 0.5; on 3x32x32 inputs it reads 512
numbers, and with 10 classes there are 28,144,010 (vgg11), 33,638,218 (vgg16) or 38,947,914 (vgg19) weights. Glorot
uniform weights, zero biases. `fidelity: authors` leaves out the ReLU after the first convolution of each
two-convolution block of vgg11, as the authors' program does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from flare.errors import ConfigError
from flare.settings import setting

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class VggSettings:
    """Sizes of the network, for those who have less time."""

    filters: int = setting(64, low=1, doc="channels of the first block; the others have 2, 4, 8 and 8 times as many")
    hidden: int = setting(4096, low=1, doc="units of each of the two hidden layers of the head")
    dropout: float = setting(0.5, low=0, high=0.99, doc="share of the hidden units that a training step leaves out")


@dataclass(frozen=True)
class Vgg:
    """One of the family: the number of convolutions in each of its five blocks."""

    convolutions: tuple[int, int, int, int, int]
    Settings: ClassVar[type] = VggSettings

    def check(self, shape: tuple[int, ...]) -> None:
        """Inputs are (channels, height, width), height and width at least 32."""
        if len(shape) != 3 or min(shape[1:]) < 32:
            raise ConfigError(f"model: vgg needs images of at least 32 x 32, not {tuple(shape)}; pad_to makes them so")

    def build(self, shape: tuple[int, ...], classes: int, settings: VggSettings, fidelity: str = "paper") -> nn.Module:
        """Inputs (N, C, H, W); output (N, classes) logits."""
        from torch import nn

        self.check(shape)
        layers: list[nn.Module] = []
        channels = shape[0]
        for count, factor in zip(self.convolutions, (1, 2, 4, 8, 8), strict=True):
            for number in range(count):
                layers.append(nn.Conv2d(channels, factor * settings.filters, 3, padding=1))
                channels = factor * settings.filters
                if not (fidelity == "authors" and sum(self.convolutions) == 8 and number < count - 1):
                    layers.append(nn.ReLU(inplace=True))
            layers.append(nn.MaxPool2d(2))
        layers.append(nn.Flatten())
        size = channels * (shape[1] // 32) * (shape[2] // 32)
        for _ in range(2):
            layers += [nn.Linear(size, settings.hidden), nn.ReLU(inplace=True), nn.Dropout(settings.dropout)]
            size = settings.hidden
        layers.append(nn.Linear(size, classes))
        model = nn.Sequential(*layers)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)
        return model


MODELS = {"vgg11": Vgg((1, 1, 2, 2, 2)), "vgg16": Vgg((2, 2, 3, 3, 3)), "vgg19": Vgg((2, 2, 4, 4, 4))}
