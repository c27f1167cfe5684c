"""Flat storage of a model's weights, and the messages chosen from it.

All weights of a model lie in one contiguous vector, tensor after tensor, so that an elementwise step is one pass over
memory. `Layout` knows where each tensor lies and how many entries of it are sent. A `Message` is what one client sends,
chosen from a vector; `Messages` are those of several clients, one a row of a matrix. Both can mask any vector: set it
to 0 at the places that were sent.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from flare.engine.select import percentile, percentile_of_rows, select, select_above_rank, select_of_rows
from flare.engine.select.cpu import BLOCK

# The fraction of a tensor's entries that is sent, in (0, 1]; None sends the tensor whole, without indices. One for all
# tensors, or one for each.
Keep = float | None | tuple[float | None, ...]


@dataclass(frozen=True)
class Layout:
    """Where each tensor of a model lies in the flat vector.

    `channels_last[i]` says that tensor i, of shape (O, I, H, W), is stored in the order O, H, W, I: the order in
    which CPU convolutions are fastest. Flat indices that matter to the method (ties) are always those of the ordinary
    order. `inner`: of a layout that takes all weights for one tensor, where its parts lie (`merged`).
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    channels_last: tuple[bool, ...]
    inner: Layout | None = None

    @classmethod
    def of(cls, named_shapes: Sequence[tuple[str, Sequence[int]]], *, channels_last: bool = False) -> Layout:
        """Lay tensors one after the other; `channels_last` stores those of four dimensions as O, H, W, I."""
        names = tuple(name for name, _ in named_shapes)
        shapes = tuple(tuple(int(n) for n in shape) for _, shape in named_shapes)
        sizes = tuple(math.prod(shape) for shape in shapes)
        offsets = tuple(int(o) for o in np.concatenate(([0], np.cumsum(sizes)[:-1]))) if sizes else ()
        return cls(names, shapes, offsets, sizes, tuple(channels_last and len(shape) == 4 for shape in shapes))

    @property
    def numel(self) -> int:
        """Number of weights of the model."""
        return sum(self.sizes)

    @functools.cached_property
    def merged(self) -> Layout:
        """The same vector as one tensor of all weights: C_R of it is one selection over the whole model."""
        return Layout(("all",), ((self.numel,),), (0,), (self.numel,), (any(self.channels_last),), self)

    def slices(self) -> Iterator[slice]:
        """The part of the flat vector that each tensor has, in order."""
        return (slice(offset, offset + size) for offset, size in zip(self.offsets, self.sizes, strict=True))

    def blocks(self, flat: Tensor) -> Iterator[tuple[int, slice]]:
        """Pairs (number of the tensor, slice of the flat vector): cache-sized pieces, none across two tensors.

        On a GPU, whose cache is not what limits, every tensor is one piece.
        """
        for tensor, (offset, size) in enumerate(zip(self.offsets, self.sizes, strict=True)):
            step = max(size, 1) if flat.is_cuda else BLOCK
            for start in range(offset, offset + size, step):
                yield tensor, slice(start, min(start + step, offset + size))

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Each tensor of the flat vector under its name, in its own shape; views, not copies."""
        out = {}
        for name, shape, part, last in zip(self.names, self.shapes, self.slices(), self.channels_last, strict=True):
            if last:
                o, i, h, w = shape
                out[name] = flat[part].view(o, h, w, i).permute(0, 3, 1, 2)
            else:
                out[name] = flat[part].view(shape)
        return out

    def percentiles(self, flat: Tensor, t: float) -> list[float] | list[Tensor]:
        """Per tensor, the entry of rank round_half_even((n-1) * t/100) of its ascending magnitudes; 0 if empty.

        Of a matrix, that of each row, (rows, 1); on a GPU it stays there.
        """
        if flat.dim() > 1 or flat.is_cuda:
            return [
                percentile_of_rows(flat[..., part], t) if part.stop > part.start else flat.new_zeros(())
                for part in self.slices()
            ]
        return [percentile(flat[part], t) if part.stop > part.start else 0.0 for part in self.slices()]

    def keeps(self, keep: Keep) -> tuple[float | None, ...]:
        """The fraction of each tensor."""
        return keep if isinstance(keep, tuple) else (keep,) * len(self.sizes)

    def counts(self, keep: Keep, fidelity: str = "paper") -> tuple[int, ...]:
        """The most entries of each tensor that a message holds: the one home of the rule.

        max(1, round_half_even(keep * n)) of n; the authors' program sends one more (`fidelity: authors`).
        """
        extra = 1 if fidelity == "authors" else 0
        return tuple(
            size if part is None else min(size, round(part * size) + 1 if extra else max(1, round(part * size)))
            for size, part in zip(self.sizes, self.keeps(keep), strict=True)
        )

    def share(self, keep: Keep) -> float:
        """The fraction of all weights that a message holds, about; 1 if it is dense."""
        if keep is None:
            return 1.0
        return sum(self.counts(keep)) / max(1, self.numel) if isinstance(keep, tuple) else keep

    def overall(self, keep: Keep) -> float | None:
        """The fraction of all weights that a budget of every tensor comes to; None if all are sent whole."""
        if not isinstance(keep, tuple):
            return keep
        return None if all(part is None for part in keep) else self.share(keep)

    def message_bits(self, keep: Keep, fidelity: str = "paper") -> int:
        """Size of a message of C_R, if none of its values is 0."""
        return self.bits(self.counts(keep, fidelity), [part is None for part in self.keeps(keep)])

    def bits(self, counts: Sequence[int], whole: Sequence[bool]) -> int:
        """Size on the wire: per tensor 32 * n if it is sent whole, else (entries sent) * (32 + ceil(log2(n)))."""
        return sum(
            32 * size if all_of_it else count * (32 + index_bits(size))
            for count, size, all_of_it in zip(counts, self.sizes, whole, strict=True)
        )

    def compress(self, flat: Tensor, keep: Keep, fidelity: str = "paper") -> Message:
        """C_R of every tensor of `flat`: keep in (0, 1] is the fraction sent of each, None sends everything, dense."""
        if keep is None:
            return Message(self, flat, None, self.sizes)
        chosen, counts = [], []
        keeps = self.keeps(keep)
        for tensor, (part, most) in enumerate(zip(self.slices(), self.counts(keep, fidelity), strict=True)):
            if keeps[tensor] is None:
                found = torch.arange(most, device=flat.device)
            elif fidelity == "authors":
                found = select_above_rank(flat[part], most + 1)
            else:
                order = self.ordinary_index(tensor) if self.channels_last[tensor] else None
                found = select(flat[part], most, order)
            chosen.append(found + part.start)
            counts.append(found.numel())
        indices = torch.cat(chosen)
        return Message(self, flat[indices], indices, tuple(counts), tuple(part is None for part in keeps))

    def compress_rows(self, rows: Tensor, keep: Keep, fidelity: str = "paper") -> Messages:
        """C_R of every tensor of every row of the matrix `rows`; nothing waits for the device."""
        if keep is None:
            return Messages(self, rows, None, None)
        if any(self.channels_last):
            raise ValueError("rows in channels-last order: their ties would be broken in another order")
        values, indices, bits = [], [], []
        parts = zip(self.sizes, self.slices(), self.keeps(keep), self.counts(keep, fidelity), strict=True)
        for size, part, kept, most in parts:
            within = rows[:, part]
            rank = most + 1 if fidelity == "authors" and kept is not None else most
            at = select_of_rows(within, min(rank, size))
            found = within.gather(1, at)
            if most < rank <= size:  # those not above the threshold are sent as 0, which is not to send them
                found = found * (found.abs() > found.abs().amin(1, keepdim=True))
            values.append(found)
            indices.append(at + part.start)
            if kept is None:
                bits.append(torch.full((len(rows),), 32 * size, device=rows.device))
            else:
                bits.append((found != 0).sum(1) * (32 + index_bits(size)))
        if None not in self.keeps(keep):
            return Messages(self, torch.cat(values, 1), torch.cat(indices, 1), torch.stack(bits).sum(0))
        whole = [
            kept is None for kept, found in zip(self.keeps(keep), values, strict=True) for _ in range(found.shape[1])
        ]
        always = torch.tensor(whole, device=rows.device)
        return Messages(self, torch.cat(values, 1), torch.cat(indices, 1), torch.stack(bits).sum(0), always)

    def ordinary_index(self, tensor: int) -> Callable[[np.ndarray], np.ndarray]:
        """What tells where entries of a tensor, given as it is stored, lie in its ordinary order."""
        if self.inner:
            return self.inner._ordinary_index_of_all
        o, i, h, w = self.shapes[tensor]

        def ordinary(stored: np.ndarray) -> np.ndarray:
            at_o, at_h, at_w, at_i = np.unravel_index(stored, (o, h, w, i))
            return np.ravel_multi_index((at_o, at_i, at_h, at_w), (o, i, h, w))

        return ordinary

    def stored_index(self, tensor: int, ordinary: np.ndarray) -> np.ndarray:
        """Where entries of a tensor, given in its ordinary order, are stored."""
        if not self.channels_last[tensor]:
            return ordinary
        o, i, h, w = self.shapes[tensor]
        at_o, at_i, at_h, at_w = np.unravel_index(ordinary, (o, i, h, w))
        return np.ravel_multi_index((at_o, at_h, at_w, at_i), (o, h, w, i))

    def _ordinary_index_of_all(self, stored: np.ndarray) -> np.ndarray:
        out = np.array(stored)
        for tensor, part in enumerate(self.slices()):
            if self.channels_last[tensor]:
                here = (stored >= part.start) & (stored < part.stop)
                out[here] = self.ordinary_index(tensor)(stored[here] - part.start) + part.start
        return out


@dataclass(frozen=True)
class Message:
    """What a client sends: values at flat indices, or, with indices None, a whole dense vector.

    `counts` is the number of entries sent of each tensor of `layout`; `whole[i]` says that tensor i is sent without
    indices (empty: none is). `sent[i]` says that place i is sent, the others only fill a row (None: all are sent).
    `size` is the bits on the wire of a message with a format of its own (None: see `Layout.bits`).
    """

    layout: Layout
    values: Tensor
    indices: Tensor | None
    counts: tuple[int, ...]
    whole: tuple[bool, ...] = ()
    sent: Tensor | None = None
    size: int | None = None

    def add_to(self, flat: Tensor, scale: float = 1) -> None:
        """Add the message, scaled, to a flat vector, in place."""
        if self.indices is None:
            flat.add_(self.values, alpha=scale)
        else:
            flat.index_add_(0, self.indices, self.values, alpha=scale)

    def mask(self, flat: Tensor) -> None:
        """Set any flat vector to 0 at the places that were sent, in place."""
        if self.indices is None:
            flat.zero_()
        elif self.sent is None:
            flat[self.indices] = 0
        else:
            flat[self.indices] = flat[self.indices].masked_fill_(self.sent, 0)

    def take_from(self, flat: Tensor) -> Message:
        """Mask the vector the message was chosen from, in place, which leaves the residual u - m.

        Returns the message apart from that vector, of which a dense one is a view.
        """
        apart = replace(self, values=self.values.clone()) if self.indices is None else self
        self.mask(flat)
        return apart

    def without_zeros(self) -> Message:
        """The message without the places that only fill a row, whose value is 0; its counts are left out."""
        if self.indices is None or self.sent is None:
            return self
        return Message(self.layout, self.values[self.sent], self.indices[self.sent], ())

    @property
    def bits(self) -> int:
        """Size on the wire, in bits: its own, or that of `Layout.bits`."""
        if self.size is not None:
            return self.size
        if self.indices is None:
            return 32 * self.layout.numel
        return self.layout.bits(self.counts, self.whole or (False,) * len(self.counts))


@dataclass(frozen=True)
class Messages:
    """The messages of several clients, one a row: values at flat indices, or, with indices None, whole dense vectors.

    Every row has as many places as the largest message there can be, so that no size depends on the data: a place with
    the value 0 is not sent, except if `always` says so of its column (None: of no column). `sizes` is the bits of each
    message, a tensor; None if they are dense, and 32 bits a weight.
    """

    layout: Layout
    values: Tensor
    indices: Tensor | None
    sizes: Tensor | None
    always: Tensor | None = None

    def add_to(self, rows: Tensor, scale: float = 1) -> None:
        """Add each message, scaled, to its row of a matrix, in place."""
        if self.indices is None:
            rows.add_(self.values, alpha=scale)
        else:
            rows.scatter_add_(1, self.indices, self.values if scale == 1 else self.values * scale)

    def mask(self, rows: Tensor) -> None:
        """`Message.mask` of each row by its own message, on any matrix, in place."""
        if self.indices is None:
            rows.zero_()
        else:
            rows.scatter_(1, self.indices, rows.gather(1, self.indices).masked_fill_(self._sent(self.values), 0))

    def take_from(self, rows: Tensor) -> Messages:
        """`Message.take_from` of each row."""
        apart = replace(self, values=self.values.clone()) if self.indices is None else self
        self.mask(rows)
        return apart

    def row(self, number: int) -> Message:
        """One client's message; places that are not sent are still in it, with the value 0."""
        values = self.values[number]
        if self.indices is None:
            return Message(self.layout, values, None, ())
        return Message(self.layout, values, self.indices[number], (), sent=self._sent(values))

    def _sent(self, values: Tensor) -> Tensor:
        return values != 0 if self.always is None else (values != 0) | self.always

    @property
    def bits(self) -> Tensor | int:
        """Sum of the messages' sizes on the wire; a tensor if only the device knows it."""
        return 32 * self.layout.numel * len(self.values) if self.sizes is None else self.sizes.sum()


def index_bits(numel: int) -> int:
    """ceil(log2(numel)), exactly: the bits that name one of `numel` entries (0 for a single one)."""
    return max(numel - 1, 0).bit_length()
