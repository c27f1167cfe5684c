"""What the server adds in a round: the mean of what the clients contribute, kept sparse if the messages are few."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flare.engine.layout import Keep, Layout, Message

# If all messages of a round have at most this share of the weights together, their sum needs no vector of its own.
_SPARSE = 1 / 32


@dataclass
class Update:
    """The mean over `clients` of what they contribute: their sum as a vector, or their sparse messages.

    Exactly one of `total` and `messages` is in use: `total` is None if the messages are few. sums: what `receive` added
    beside it, by the names of `Method.sums`.
    """

    clients: int
    total: Tensor | None = None
    messages: list[Message] = field(default_factory=list)
    sums: Mapping[str, Tensor] = field(default_factory=dict)

    def add_to(self, flat: Tensor) -> None:
        """Add the mean to a flat vector, in place. Once: a total is divided where it lies."""
        if self.total is None:
            add_mean(flat, self.messages)
        else:
            flat += self.total.div_(self.clients)

    def mean(self, like: Tensor) -> Tensor:
        """The mean as a vector of its own, like `like`; in place of `add_to`."""
        mean = torch.zeros_like(like)
        self.add_to(mean)
        return mean

    def places(self) -> Tensor | int:
        """How many entries the mean has that may be other than 0: what a sparse downlink would carry.

        A tensor if only the device knows it.
        """
        if self.total is not None:
            return self.total.count_nonzero()
        named = [message.indices for message in self.messages if message.indices is not None]
        return len(torch.cat(named).unique()) if named else 0


def is_few(layout: Layout, keep: Keep, clients: int) -> bool:
    """Whether the messages of so many clients are summed at the places that they name alone."""
    return keep is not None and layout.share(keep) * clients <= _SPARSE


def add_mean(flat: Tensor, messages: Sequence[Message]) -> None:
    """Add the mean of some sparse messages to a flat vector, in place, at no more places than they name.

    As their sum in a whole vector, in this order, divided by their number: no entry differs.
    """
    named = [message.indices for message in messages if message.indices is not None]
    places, where = torch.cat(named).unique(return_inverse=True)
    total = flat.new_zeros(len(places))
    for message, at in zip(messages, where.split([len(indices) for indices in named]), strict=True):
        total.index_add_(0, at, message.values)
    flat[places] += total.div_(len(messages))
