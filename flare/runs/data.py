"""A run's data as tensors: what of the code between the prepared files and the simulation decides a result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flare.datasets._fitting import fit
from flare.datasets.partitions._parts import hold_out

if TYPE_CHECKING:
    import numpy as np

    from flare.config.run import Run

Pair = tuple[Tensor, Tensor]


def prepared(
    run: Run,
    train: Any,
    parts: Sequence[np.ndarray],
    test: Callable[[], Any],
    scale: float,
    text: bool,
) -> tuple[list[Pair], Pair]:
    """The clients' and the test tensors: inputs as floats (stored value / scale), targets as class indices.

    train: the training `Split`, and parts: the indices of its samples that each client holds. test: gives the test
    `Split`; with `validation` it is not called, as the clients' held-out samples take its place. text: inputs are the
    places of characters, which stay whole numbers.
    """

    def tensors(inputs: Any, targets: Any) -> Pair:
        fitted = torch.from_numpy(fit(inputs, run.pad_to, run.channels))
        fitted = fitted.long() if text else fitted.to(torch.float32)
        return fitted if text or scale == 1 else fitted.div_(scale), torch.from_numpy(targets).long()

    if run.validation is not None:  # the test set is not even read
        kept, held = hold_out(list(parts), run.validation, run.seed)
        held_out = tensors(train.inputs[held], train.targets[held])
        return [tensors(train.inputs[part], train.targets[part]) for part in kept], held_out
    unseen = test()
    return [tensors(train.inputs[part], train.targets[part]) for part in parts], tensors(unseen.inputs, unseen.targets)
