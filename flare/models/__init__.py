"""The models: one file a family, found by listing this folder.

A family's module is a `Model`. A constant READS_TEXT = True says that inputs are whole numbers, the places of
characters in a vocabulary. A family of several models has a dict MODELS instead, from their names to objects that are a
`Model`.

Weights are drawn from torch's global generator, which `create` seeds. torch is imported when a model is built, not
before, so that a configuration can be checked without the seconds that takes.
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from flare.errors import ConfigError, choose

if TYPE_CHECKING:
    from torch import nn


class Model(Protocol):
    """What a family, or one of its models, is.

    Settings: a frozen dataclass of `flare.settings.setting` fields: the sizes.
    """

    Settings: type

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ConfigError if it cannot read inputs of that shape, batch left out."""

    def build(self, shape: tuple[int, ...], classes: int, settings: Any, fidelity: str = "paper") -> nn.Module:
        """The model with initial weights from torch's global generator.

        It maps inputs (N, *shape) to logits (N, classes), or (N, classes, T) of a sequence: class is dimension 1.
        """


@functools.cache
def _found() -> dict[str, tuple[str, Model]]:
    """The file that serves each name, and what is in it for that name."""
    out: dict[str, tuple[str, Model]] = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        module = importlib.import_module(f"flare.models.{path.stem}")
        for name, model in getattr(module, "MODELS", {path.stem: module}).items():
            out[name] = path.stem, model
    return out


def names() -> list[str]:
    """All models, sorted."""
    return sorted(_found())


def load(name: str) -> Model:
    """The model of that name; ConfigError, with the nearest spelling, if there is none."""
    return _found()[choose("model", name, names())][1]


def file(name: str) -> str:
    """The file of this folder that serves a known name, without its ending."""
    return _found()[name][0]


def check(name: str, source: ModuleType, shape: tuple[int, ...]) -> None:
    """Raise ConfigError if the model cannot read the inputs of the data set `source`, fitted to `shape`."""
    model = load(name)
    text, kinds = source.KIND == "text", ("numbers", "text")
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
