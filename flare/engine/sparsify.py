"""Flat storage of a model's weights, and what is done to it per tensor: exact top-k, exact percentile, bit count.

All weights of a model lie in one contiguous vector, tensor after tensor, so that an elementwise step is one pass over
memory. `Layout` knows where each tensor lies. The two selections that compression needs, the largest magnitudes and a
percentile of the magnitudes, are exact: C_R(x) keeps the K largest magnitudes of each
tensor, ties broken by the lowest flat index, a zero is never sent (Stich et al., arXiv 1809.07599, with the per-tensor
budget of Greidi & Cohen, arXiv 2312.13795).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

# Elementwise work with temporaries goes block by block, so that the temporaries stay in the processor's cache.
_BLOCK = 1 << 17
# Tensors of this many entries or more are sampled before they are searched, with at most so many samples.
_SAMPLED, _SAMPLE = 1 << 13, 1 << 16
# Where few entries are wanted, only rows of this many whose largest magnitude is large are searched.
_ROW = 512


@dataclass(frozen=True)
class Layout:
    """Where each tensor of a model lies in the flat vector.

    `channels_last[i]` says that tensor i, of shape (O, I, H, W), is stored in the order O, H, W, I: the order in
    which CPU convolutions are fastest. Flat indices that matter to the method (ties) are always those of the ordinary
    order.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    channels_last: tuple[bool, ...]

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

    def slices(self) -> Iterator[slice]:
        """The part of the flat vector that each tensor has, in order."""
        return (slice(offset, offset + size) for offset, size in zip(self.offsets, self.sizes, strict=True))

    def blocks(self, flat: Tensor) -> Iterator[tuple[int, slice]]:
        """Pairs (number of the tensor, slice of the flat vector): cache-sized pieces, none across two tensors.

        On a GPU, whose cache is not what limits, every tensor is one piece.
        """
        for tensor, (offset, size) in enumerate(zip(self.offsets, self.sizes, strict=True)):
            step = max(size, 1) if flat.is_cuda else _BLOCK
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

    def compress(self, flat: Tensor, keep: float | None, fidelity: str = "paper") -> Message:
        """C_R of every tensor of `flat`: keep in (0, 1] is the fraction sent of each, None sends everything, dense."""
        if keep is None:
            return Message(self, flat, None, self.sizes)
        chosen, counts = [], []
        for tensor, part in enumerate(self.slices()):
            size = self.sizes[tensor]
            if fidelity == "authors":
                found = select_above_rank(flat[part], round(keep * size) + 2)
            else:
                order = self._ordinary_index(tensor) if self.channels_last[tensor] else None
                found = select(flat[part], max(1, round(keep * size)), order)
            chosen.append(found + part.start)
            counts.append(found.numel())
        indices = torch.cat(chosen)
        return Message(self, flat[indices], indices, tuple(counts))

    def compress_rows(self, rows: Tensor, keep: float | None, fidelity: str = "paper") -> Messages:
        """C_R of every tensor of every row of the matrix `rows`; nothing waits for the device."""
        if keep is None:
            return Messages(self, rows, None, None)
        if any(self.channels_last):
            raise ValueError("rows in channels-last order: their ties would be broken in another order")
        values, indices, bits = [], [], []
        for size, part in zip(self.sizes, self.slices(), strict=True):
            within = rows[:, part]
            if fidelity == "authors":
                rank = round(keep * size) + 2
                at = select_of_rows(within, min(rank, size))
                found = within.gather(1, at)
                if rank <= size:  # those not above the threshold are sent as 0, which is not to send them
                    found = found * (found.abs() > found.abs().amin(1, keepdim=True))
            else:
                at = select_of_rows(within, min(max(1, round(keep * size)), size))
                found = within.gather(1, at)
            values.append(found)
            indices.append(at + part.start)
            bits.append((found != 0).sum(1) * (32 + index_bits(size)))
        return Messages(self, torch.cat(values, 1), torch.cat(indices, 1), torch.stack(bits).sum(0))

    def _ordinary_index(self, tensor: int) -> Callable[[np.ndarray], np.ndarray]:
        o, i, h, w = self.shapes[tensor]

        def ordinary(stored: np.ndarray) -> np.ndarray:
            at_o, at_h, at_w, at_i = np.unravel_index(stored, (o, h, w, i))
            return np.ravel_multi_index((at_o, at_i, at_h, at_w), (o, i, h, w))

        return ordinary


@dataclass(frozen=True)
class Message:
    """What a client sends: values at flat indices, or, with indices None, a whole dense vector.

    `counts` is the number of entries sent of each tensor of `layout`.
    """

    layout: Layout
    values: Tensor
    indices: Tensor | None
    counts: tuple[int, ...]

    def add_to(self, flat: Tensor) -> None:
        """Add the message to a flat vector, in place."""
        if self.indices is None:
            flat += self.values
        else:
            flat.index_add_(0, self.indices, self.values)

    def take_from(self, flat: Tensor) -> Message:
        """Set what was sent to exactly 0 in the vector it was chosen from, in place: the residual u - m.

        Returns the message apart from that vector, of which a dense one is a view.
        """
        if self.indices is None:
            apart = replace(self, values=self.values.clone())
            flat.zero_()
            return apart
        flat[self.indices] = 0
        return self

    def without_zeros(self) -> Message:
        """The message without places whose value is 0, which are not sent; its counts are left out."""
        if self.indices is None:
            return self
        sent = self.values != 0
        return Message(self.layout, self.values[sent], self.indices[sent], ())

    @property
    def bits(self) -> int:
        """Size on the wire: per tensor (entries sent) * (32 + ceil(log2(numel))); a dense tensor 32 * numel."""
        if self.indices is None:
            return 32 * self.layout.numel
        return sum(count * (32 + index_bits(size)) for count, size in zip(self.counts, self.layout.sizes, strict=True))


@dataclass(frozen=True)
class Messages:
    """The messages of several clients, one a row: values at flat indices, or, with indices None, whole dense vectors.

    Every row has as many places as the largest message there can be, and a place with the value 0 is not sent, so that
    no size depends on the data. `sizes` is the bits of each message, a tensor; None where they are dense.
    """

    layout: Layout
    values: Tensor
    indices: Tensor | None
    sizes: Tensor | None

    def add_to(self, rows: Tensor) -> None:
        """Add each message to its row of a matrix, in place."""
        if self.indices is None:
            rows += self.values
        else:
            rows.scatter_add_(1, self.indices, self.values)

    def take_from(self, rows: Tensor) -> Messages:
        """`Message.take_from` for each row: exactly, as x - x is 0."""
        if self.indices is None:
            apart = replace(self, values=self.values.clone())
            rows.zero_()
            return apart
        rows.scatter_add_(1, self.indices, -self.values)
        return self

    def row(self, number: int) -> Message:
        """One client's message; places that are not sent are still in it, with the value 0."""
        indices = None if self.indices is None else self.indices[number]
        return Message(self.layout, self.values[number], indices, ())

    @property
    def bits(self) -> Tensor | int:
        """Sum of the messages' sizes on the wire; a tensor, where only the device knows it."""
        return 32 * self.layout.numel * len(self.values) if self.sizes is None else self.sizes.sum()


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


def index_bits(numel: int) -> int:
    """ceil(log2(numel)), exactly: the bits that name one of `numel` entries (0 for a single one)."""
    return max(numel - 1, 0).bit_length()


def select(x: Tensor, count: int, ordinary: Callable[[np.ndarray], np.ndarray] | None = None) -> Tensor:
    """Indices, ascending, of the `count` largest magnitudes of the vector x, ties broken by the lowest index.

    An entry that is exactly 0 is never chosen, so the answer may be shorter than `count`. `ordinary` maps indices of x
    to those that break ties where x is stored in another order. Equal to a full stable sort, in about one pass over x:
    the pass leaves a few candidates that surely hold the answer, and only those are looked at again.
    """
    if x.is_cuda:
        return _select_cuda(x, count, ordinary)
    values = x.numpy()
    indices, magnitudes = _in_largest_rows(x, count) if 0 < count * _ROW * 8 <= values.size else _sampled(values, count)
    if count >= magnitudes.size:
        chosen = np.flatnonzero(magnitudes)
    else:
        rank = magnitudes.size - count
        threshold = np.partition(magnitudes, rank)[rank]
        chosen = np.flatnonzero((magnitudes >= threshold) & (magnitudes > 0))
        if chosen.size > count:
            tied = magnitudes[chosen] == threshold
            certain, ties = chosen[~tied], chosen[tied]
            if ordinary is not None:
                stored = ties if indices is None else indices[ties]
                ties = ties[np.argsort(ordinary(stored), kind="stable")]
            chosen = np.sort(np.concatenate((certain, ties[: count - certain.size])))
    return torch.from_numpy(chosen if indices is None else indices[chosen])


def _in_largest_rows(x: Tensor, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices, ascending, and magnitudes of candidates for the `count` largest; for few among many.

    The largest magnitude of each short row of x is one entry, so the `count`-th largest of those bounds the answer from
    below, and only the rows that reach it can hold a part of it.
    """
    values = x.numpy()
    rows = x[: x.numel() // _ROW * _ROW].view(-1, _ROW)
    largest = np.empty(len(rows), dtype=values.dtype)
    step = _BLOCK // _ROW
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        np.maximum(block.amax(1).numpy(), -block.amin(1).numpy(), out=largest[start : start + step])
    bound = np.partition(largest, largest.size - count)[largest.size - count]
    reaching = np.flatnonzero((largest >= bound) & (largest > 0))
    indices = (reaching[:, None] * _ROW + np.arange(_ROW)).ravel()
    indices = np.concatenate((indices, np.arange(largest.size * _ROW, values.size)))
    magnitudes = np.abs(values[indices])
    kept = np.flatnonzero(magnitudes >= bound)
    return indices[kept], magnitudes[kept]


def _sampled(values: np.ndarray, count: int) -> tuple[np.ndarray | None, np.ndarray]:
    """Indices, ascending (None: all), and magnitudes of candidates for the `count` largest.

    A sample tells a magnitude that surely more than `count` entries reach, but not many more; should it mislead, all
    entries are candidates.
    """
    bound = _bracket(values, values.size - count, values.size)[0]
    if bound > 0:
        indices, found = [], []
        scratch = np.empty(min(_BLOCK, values.size), dtype=values.dtype)
        for start in range(0, values.size, _BLOCK):
            block = values[start : start + _BLOCK]
            magnitudes = np.abs(block, out=scratch[: block.size])
            at = np.flatnonzero(magnitudes >= bound)
            indices.append(at + start)
            found.append(magnitudes.take(at))
        if sum(map(len, found)) >= count:
            return np.concatenate(indices), np.concatenate(found)
    return None, np.abs(values)


def percentile(x: Tensor, t: float) -> float:
    """The entry of rank round_half_even((n-1) * t/100) of the ascending magnitudes of the vector x; t in [0, 100]."""
    rank = round((x.numel() - 1) * t / 100)
    if x.is_cuda:
        return float(x.abs().kthvalue(rank + 1).values)
    values = x.numpy()
    low, high = _bracket(values, rank, rank)
    if low == 0 and rank < values.size - int(x.count_nonzero()):
        return 0.0
    if 0 < low <= high < math.inf:
        # The bits of magnitudes, as whole numbers, are in the same order, and less those of low they tell "between low
        # and high" in one comparison: what is below low wraps round to the greatest numbers.
        kind = np.dtype(f"u{values.itemsize}").type
        first, last = (np.array(end, dtype=values.dtype).view(kind) << 1 for end in (low, high))
        wrapped = np.negative(first)
        bits = values.view(kind)
        scratch = np.empty(min(_BLOCK, bits.size), dtype=kind)
        below, between = 0, []
        for start in range(0, bits.size, _BLOCK):
            block = bits[start : start + _BLOCK]
            above_low = np.left_shift(block, 1, out=scratch[: block.size])  # shifts the sign away
            above_low -= first
            between.append(above_low.take(np.flatnonzero(above_low <= last - first)))
            below += int(np.count_nonzero(above_low >= wrapped))
        within = np.concatenate(between)
        if 0 <= rank - below < within.size:
            found = np.partition(within, rank - below)[rank - below]
            return float(((found + first) >> 1).view(values.dtype))
    return float(np.partition(np.abs(values), rank)[rank])


def _bracket(values: np.ndarray, first: int, last: int) -> tuple[float, float]:
    """Two magnitudes between which, by a sample, those of the ranks `first` to `last` surely lie; (0, inf) if unknown.

    A guess: whoever uses it checks it. Ranks are those of the ascending magnitudes.
    """
    if values.size < _SAMPLED:
        return 0.0, math.inf
    sample = np.abs(values[:: values.size // min(_SAMPLE, values.size // 32) | 1])
    size = sample.size
    ends = []
    for rank, side in ((first, -1), (last, 1)):
        share = rank / values.size
        place = size * share + side * (4 * math.sqrt(size * share * (1 - min(share, 1))) + 8)
        ends.append(math.floor(place) if side < 0 else math.ceil(place))
    low = float(np.partition(sample, ends[0])[ends[0]]) if ends[0] >= 0 else 0.0
    high = float(np.partition(sample, ends[1])[ends[1]]) if ends[1] < size else math.inf
    return low, high


def select_of_rows(rows: Tensor, count: int) -> Tensor:
    """Indices of the `count` largest magnitudes of each row of a matrix, (rows, count), ties to the lowest index.

    In no order, and zeros are chosen where a row has fewer other entries. Nothing waits for the device: all sizes
    follow from those of the arguments. Of float32 one topk of whole numbers tells all: the bits of a magnitude, and
    under them the index, counted down.
    """
    size = rows.shape[1]
    if count >= size:
        return torch.arange(size, device=rows.device).expand(rows.shape)
    if rows.dtype != torch.float32:
        return rows.abs().sort(dim=1, descending=True, stable=True).indices[:, :count]
    if count * _ROW * 8 > size:
        return _largest_keys(rows, torch.arange(size, device=rows.device), count)
    # The largest magnitude of each short piece tells which pieces can hold a part of the answer: where `count` pieces
    # come before one, by magnitude and place, so does an entry of each.
    whole = size // _ROW
    pieces = torch.linalg.vector_norm(rows[:, : whole * _ROW].unflatten(1, (whole, _ROW)), torch.inf, dim=2)
    best = _largest_keys(pieces, torch.arange(whole, device=rows.device), count)
    places = (best[:, :, None] * _ROW + torch.arange(_ROW, device=rows.device)).flatten(1)
    rest = torch.arange(whole * _ROW, size, device=rows.device).expand(len(rows), -1)
    places = torch.cat((places, rest), 1)
    return _largest_keys(rows.gather(1, places), places, count)


def _largest_keys(values: Tensor, indices: Tensor, count: int) -> Tensor:
    """Those `indices` whose values are the `count` largest magnitudes of each row, ties to the lowest index."""
    mask = (1 << 32) - 1
    keys = (values.contiguous().view(torch.int32) & 0x7FFFFFFF).long() << 32 | (mask - indices)
    return mask - (keys.topk(count, dim=-1, sorted=False).values & mask)


def percentile_of_rows(rows: Tensor, t: float) -> Tensor:
    """`percentile` of every row of the last dimension, which stays with length 1; nothing waits for the device.

    torch's kthvalue gives a row to one part of a GPU, so a long row is searched by halving the range of the magnitudes'
    bits, which as whole numbers have their order.
    """
    rank = round((rows.shape[-1] - 1) * t / 100)
    if rows.dtype != torch.float32 or rows.shape[-1] < _SAMPLED:
        return rows.abs().kthvalue(rank + 1, dim=-1, keepdim=True).values
    bits = rows.contiguous().view(torch.int32) & 0x7FFFFFFF
    found = torch.zeros_like(bits[..., :1])
    for place in reversed(range(31)):
        # the answer is at least the candidate where no more than `rank` entries are below it
        candidate = found | (1 << place)
        below = (bits < candidate).sum(-1, keepdim=True)
        found = torch.where(below <= rank, candidate, found)
    return found.view(torch.float32)


def _select_cuda(x: Tensor, count: int, ordinary: Callable[[np.ndarray], np.ndarray] | None) -> Tensor:
    magnitudes = x.abs()
    if count >= x.numel():
        return magnitudes.nonzero().flatten()
    threshold = magnitudes.topk(count, sorted=True).values[-1]
    chosen = (magnitudes > threshold).nonzero().flatten()
    if threshold == 0 or chosen.numel() == count:
        return chosen
    ties = (magnitudes == threshold).nonzero().flatten()
    missing = count - chosen.numel()
    if ordinary is not None and ties.numel() > missing:
        ties = ties[torch.from_numpy(np.argsort(ordinary(ties.cpu().numpy()), kind="stable")).to(x.device)]
    return torch.cat((chosen, ties[:missing])).sort().values


def select_above_rank(x: Tensor, rank: int) -> Tensor:
    """Indices, ascending, of the magnitudes strictly larger than the `rank`-th largest (fidelity "authors").

    Where there are fewer than `rank` entries every one that is not 0 is chosen.
    """
    magnitudes = x.abs()
    if rank > x.numel():
        return magnitudes.nonzero().flatten()
    if x.is_cuda:
        threshold = magnitudes.topk(rank, sorted=True).values[-1]
        return (magnitudes > threshold).nonzero().flatten()
    at = x.numel() - rank
    array = magnitudes.numpy()
    return torch.from_numpy(np.flatnonzero(array > np.partition(array, at)[at]))
