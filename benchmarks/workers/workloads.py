"""The workloads: Fashion-MNIST dealt as in the paper, 600 images a client, and the paper's networks.

W1: the CNN, 10 clients, each one step on its 600 images. W2: the CNN, 10 of 100 clients a round, each twelve steps on
50 images. fc-WIDTH-CLIENTS: as W1 with the paper's fully connected network so wide and so many clients; its own width
is 4069. Needs numpy and torch only, so that peers' environments can use it too.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

DATA = Path(os.environ.get("FLARE_DATA", Path(__file__).parents[2] / "data")) / "fashion_mnist"
LEARNING_RATE, MOMENTUM, IMAGES = 0.001, 0.9, 600


@dataclass(frozen=True)
class Workload:
    """Clients in all and in a round, images a step, and the width of the fully connected network (0: the CNN)."""

    clients: int = 10
    answering: int = 10
    batch: int = 600
    width: int = 0

    @classmethod
    def of(cls, name: str) -> Workload:
        """The workload of that name."""
        if name.startswith("fc-"):
            width, clients = map(int, name.split("-")[1:])
            return cls(clients=clients, answering=clients, width=width)
        return {"W1": cls(), "W2": cls(clients=100, batch=50)}[name]

    def data(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Each client's images, float32 in [0, 1] of shape (600, 1, 28, 28), and labels, int64."""
        with np.load(DATA / "train.npz", allow_pickle=False) as split:
            inputs, targets = split["inputs"], split["targets"].astype(np.int64)
        # More clients than there are parts of the data start again at the first.
        starts = [IMAGES * client % (len(inputs) - IMAGES + 1) for client in range(self.clients)]
        return [
            (
                torch.from_numpy(inputs[at : at + IMAGES].astype(np.float32) / 255),
                torch.from_numpy(targets[at : at + IMAGES]),
            )
            for at in starts
        ]

    def ids(self, round_: int) -> list[int]:
        """The clients of a round, the same for every contender."""
        return sorted(np.random.default_rng([0, round_]).choice(self.clients, self.answering, replace=False).tolist())

    def network(self) -> nn.Module:
        """The paper's CNN, 582,026 weights, or its fully connected network, linear as theirs."""
        torch.manual_seed(0)
        if self.width:
            sizes = [28 * 28, self.width, self.width, self.width, 10]
            return nn.Sequential(nn.Flatten(), *(nn.Linear(a, b) for a, b in itertools.pairwise(sizes)))
        return nn.Sequential(
            nn.Conv2d(1, 32, 5),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(1024, 512),
            nn.ReLU(inplace=True),
            nn.Linear(512, 10),
        )


def sequence(workload: Workload) -> Iterator[int]:
    """The clients of all rounds, one after the other."""
    return (client for round_ in itertools.count() for client in workload.ids(round_))
