"""Recurrent network that predicts the next character: that of TensorFlow Federated's text generation tutorial, as in
Greidi & Cohen, arXiv 2312.13795.

Embedding of 256, one GRU layer of 1024 (Cho et al., arXiv 1406.1078, the variant of cuDNN with two biases), dense layer
to the vocabulary: 4,048,470 weights for 86 characters. Initial weights as Keras draws them: Glorot uniform, orthogonal
recurrent ones, an embedding uniform in -0.05..0.05, zero biases.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flare.errors import ConfigError
from flare.settings import setting

if TYPE_CHECKING:
    from torch import Tensor, nn

# It reads whole numbers, the characters' places in the vocabulary, where the others read measured values.
READS_TEXT = True


@dataclass(frozen=True)
class Settings:
    """Sizes of the network."""

    embedding: int = setting(256, low=1, doc="numbers that stand for a character")
    hidden: int = setting(1024, low=1, doc="units of the recurrent layer")


def check(shape: tuple[int, ...]) -> None:
    """Inputs are sequences: shape is (length,)."""
    if len(shape) != 1:
        raise ConfigError(f"model: gru needs text, inputs of shape (length,), not {tuple(shape)}")


def build(shape: tuple[int, ...], classes: int, settings: Settings, fidelity: str = "paper") -> nn.Module:
    """Inputs (N, T), whole numbers in 0..classes-1; output (N, classes, T), logits of the character after each."""
    from torch import nn

    check(shape)

    class Gru(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(classes, settings.embedding)
            self.recurrent = nn.GRU(settings.embedding, settings.hidden, batch_first=True)
            self.dense = nn.Linear(settings.hidden, classes)

        def forward(self, inputs: Tensor) -> Tensor:
            logits: Tensor = self.dense(self.recurrent(self.embedding(inputs))[0])
            return logits.transpose(1, 2)

    # A run keeps all weights of a model in one vector, in their own order; cuDNN copies them into its own at every
    # step, which is little beside the step, and says so.
    warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous chunk")
    model = Gru()
    for name, parameter in model.named_parameters():
        if name == "embedding.weight":
            nn.init.uniform_(parameter, -0.05, 0.05)
        elif name == "recurrent.weight_hh_l0":
            nn.init.orthogonal_(parameter)
        elif parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
        else:
            nn.init.zeros_(parameter)
    return model


def write(model: nn.Module, start: list[int], length: int, seed: int) -> list[int]:
    """`length` characters that the model writes after the numbers `start`, each drawn from its own probabilities.

    model: any that maps (1, T) whole numbers to (1, classes, T) logits; it is shown the last 100 characters each time,
    as many as it was trained on. Same weights, start and seed, same text, on one kind of machine. Where they give no
    finite probability, as those of a run that diverged, it ends.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    text = list(start)
    model.eval()
    with torch.no_grad():
        for _ in range(length):
            logits = model(torch.tensor([text[-100:]], device=device))[0, :, -1]
            chances = logits.double().softmax(0).cpu()
            if not chances.isfinite().all():
                break
            text.append(int(torch.multinomial(chances, 1, generator=generator)))
    return text[len(start) :]
