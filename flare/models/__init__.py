"""The models: one file a family, found by listing this folder.

A family has a frozen dataclass `Settings` and `build(shape, classes, settings) -> nn.Module`: shape is that of one
input, the output is (N, classes) logits, or (N, classes, T) for sequences, so that class is always dimension 1.
Weights are drawn from torch's global generator, which `create` seeds. torch is imported when a model is built, not
before, so that a configuration can be checked without the seconds that takes.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def names() -> list[str]:
    """All model families, sorted: the files of this folder."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))


def load(name: str) -> ModuleType:
    """The family's module; ConfigError, with the nearest spelling, where there is none."""
    from flare.config import choose

    return importlib.import_module(f"flare.models.{choose('model', name, names())}")


def create(name: str, shape: tuple[int, ...], classes: int, settings: Any, seed: int) -> nn.Module:
    """The model with the initial weights of `seed`; the caller's generator is left as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = load(name).build(shape, classes, settings)
    return model
