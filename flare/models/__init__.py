"""The models: one file a family, found by listing this folder.

A family has a frozen dataclass `Settings`, `check(shape)`, which raises ConfigError where it cannot read inputs of that
shape, and `build(shape, classes, settings, fidelity) -> nn.Module`: the output is (N, classes) logits, or (N, classes,
T) for sequences, so that class is always dimension 1. A constant READS_TEXT = True says that inputs are whole numbers,
the places of characters in a vocabulary. A family of several models has a dict MODELS, from their names to objects with
`Settings`, `check` and `build`, in place of its own.

Weights are drawn from torch's global generator, which `create` seeds. torch is imported when a model is built, not
before, so that a configuration can be checked without the seconds that takes.
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@functools.cache
def _found() -> dict[str, tuple[str, Any]]:
    """The file that serves each name, and what is in it for that name."""
    out: dict[str, tuple[str, Any]] = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        module = importlib.import_module(f"flare.models.{path.stem}")
        for name, model in getattr(module, "MODELS", {path.stem: module}).items():
            out[name] = path.stem, model
    return out


def names() -> list[str]:
    """All models, sorted."""
    return sorted(_found())


def load(name: str) -> Any:
    """The model's `Settings`, `check` and `build`; ConfigError, with the nearest spelling, where there is none."""
    from flare.errors import choose

    return _found()[choose("model", name, names())][1]


def file(name: str) -> str:
    """The file of this folder that serves a known name, without its ending."""
    return _found()[name][0]


def check(name: str, source: Any, shape: tuple[int, ...]) -> None:
    """Raise ConfigError where the model cannot read the inputs of the data set `source`, fitted to `shape`."""
    from flare.errors import ConfigError

    model = load(name)
    # SCALE = 1 leaves whole numbers as they are: those of a text.
    text, kinds = source.SCALE == 1, ("numbers", "text")
    if getattr(model, "READS_TEXT", False) != text:
        raise ConfigError(f"model: {name} reads {kinds[not text]}, and the data set is {kinds[text]}")
    model.check(shape)


def create(
    name: str, shape: tuple[int, ...], classes: int, settings: Any, seed: int, fidelity: str = "paper"
) -> nn.Module:
    """The model with the initial weights of `seed`; the caller's generator is left as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = load(name).build(shape, classes, settings, fidelity)
    return model
