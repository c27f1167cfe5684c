"""The small problem of the oracle's tests: four unequal clients, and the oracle's network in PyTorch."""

from __future__ import annotations

import numpy as np
import torch
from oracle import Weights
from torch import nn

SHAPES = ((8, 6), (8,), (5, 8), (5,), (3, 5), (3,))
SIZES = (12, 9, 12, 7)  # samples per client: with batches of 5 the last batch has 2, 4, 2, 2
OWN_SETTINGS = {
    "fedavg": (),
    "topk": (),
    "flare": ("tau", "tau_decay", "percentile", "pull_steps"),
    "fedprox": ("mu", "mu_decay"),
    "ef21": (),
    "ffl": (),
}


def problem(seed: int, dtype: type = np.float64) -> tuple[Weights, list[tuple[np.ndarray, np.ndarray]]]:
    """Random start weights, and data for each client with classes of its own, so that updates disagree."""
    rng = np.random.default_rng(seed)
    start = [rng.normal(0, 0.6, shape).astype(dtype) for shape in SHAPES]
    clients = []
    for k, size in enumerate(SIZES):
        x = rng.normal(0.3 * k, 1, (size, 6)).astype(dtype)
        clients.append((x, (rng.integers(0, 2, size) + k) % 3))
    return start, clients


def network(start: Weights, relu: bool) -> nn.Module:
    """The oracle's network in PyTorch."""
    layers: list[nn.Module] = []
    for weight, bias in zip(start[::2], start[1::2], strict=True):
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.weight = nn.Parameter(torch.from_numpy(weight.copy()))
        linear.bias = nn.Parameter(torch.from_numpy(bias.copy()))
        layers += [linear, nn.ReLU()] if relu else [linear]
    return nn.Sequential(*(layers[:-1] if relu else layers))
