"""The workloads: Fashion-MNIST dealt as in the paper, 600 images a client, and the paper's networks.

W1: the CNN, 10 clients, each one step on its 600 images. W2: the CNN, 10 of 100 clients a round, each twelve steps on
50 images. FC: as W1 with the paper's fully connected network at full width.
Needs numpy and torch only, so that peers' environments can use it too.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import torch
from torch import nn

DATA = Path(os.environ.get("FLARE_DATA", Path(__file__).parents[2] / "data")) / "fashion_mnist"
CLIENTS, ANSWERING, BATCH = {"W1": 10, "W2": 100, "FC": 10}, 10, {"W1": 600, "W2": 50, "FC": 600}
LEARNING_RATE, MOMENTUM, IMAGES, WIDTH = 0.001, 0.9, 600, 4069


def arrays(workload: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each client's images, float32 in [0, 1] of shape (600, 1, 28, 28), and labels, int64."""
    with np.load(DATA / "train.npz", allow_pickle=False) as split:
        inputs, targets = split["inputs"], split["targets"].astype(np.int64)
    parts = [slice(IMAGES * client, IMAGES * (client + 1)) for client in range(CLIENTS[workload])]
    return [(inputs[part].astype(np.float32) / 255, targets[part]) for part in parts]


def answering(workload: str, round_: int) -> list[int]:
    """The clients of a round, the same for every contender."""
    return sorted(np.random.default_rng([0, round_]).choice(CLIENTS[workload], ANSWERING, replace=False).tolist())


def network(workload: str) -> nn.Module:
    """The paper's CNN, 582,026 weights, or its fully connected network, 36,356,525, linear as theirs."""
    torch.manual_seed(0)
    if workload == "FC":
        sizes = [28 * 28, WIDTH, WIDTH, WIDTH, 10]
        layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
        return nn.Sequential(nn.Flatten(), *layers)
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
