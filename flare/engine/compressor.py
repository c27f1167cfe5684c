"""The ways to choose a message from a vector, or one from each row of a matrix: what a method's hooks compress with.

C_R per tensor is a call. The others: one selection over all weights, places that both sides draw from a shared seed,
a sign and one magnitude a tensor, all weights in 16 bits. Each knows what its message costs on the wire.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flare.engine.layout import Keep, Layout, Message, Messages

# Sets the draw of places apart from all others that start at a client's seed.
_PLACES = 0x706C6163


@dataclass(frozen=True)
class Compressor:
    """Chooses at the budget of a round: of `layout` the fraction `keep`.

    seeds: of each client in this round. A vector gives a `Message`; a matrix, a row a client, gives `Messages`, and
    nothing waits for the device.
    """

    layout: Layout
    keep: Keep
    fidelity: str
    seeds: Sequence[int]

    def __call__(self, vector: Tensor) -> Any:
        """C_R: the largest magnitudes of every tensor, or everything in a dense run."""
        return self._largest(self.layout, vector, self.keep)

    def _largest(self, layout: Layout, vector: Tensor, keep: Keep) -> Any:
        if vector.dim() > 1:
            return layout.compress_rows(vector, keep, self.fidelity)
        return layout.compress(vector, keep, self.fidelity)

    def of_model(self, vector: Tensor) -> Any:
        """The largest magnitudes of all weights as one vector, one K of them; an index costs ceil(log2 N) bits."""
        return self._largest(self.layout.merged, vector, self.layout.overall(self.keep))

    def drawn(self, vector: Tensor) -> Any:
        """So many entries of every tensor as C_R has, at places drawn from the client's seed of the round.

        Who knows the seed knows the places, so that only values are sent, 32 bits each, those that are 0, too.
        """
        rows = vector if vector.dim() > 1 else vector[None]
        places = np.stack([self._places(seed) for seed in self.seeds])
        indices = torch.from_numpy(places)
        if vector.is_cuda:
            indices = indices.pin_memory().to(vector.device, non_blocking=True)
        values, bits = rows.gather(1, indices), 32 * places.shape[1]
        if vector.dim() > 1:
            sizes = torch.full((len(rows),), bits, device=rows.device)
            return Messages(self.layout, values, indices, sizes, torch.ones_like(values[0], dtype=torch.bool))
        return Message(self.layout, values[0], indices[0], self.layout.counts(self.keep), size=bits)

    def _places(self, seed: int) -> np.ndarray:
        draw = np.random.default_rng([seed, _PLACES])
        found = []
        layout = self.layout
        for tensor, (size, offset, most) in enumerate(
            zip(layout.sizes, layout.offsets, layout.counts(self.keep), strict=True)
        ):
            chosen = np.sort(draw.choice(size, most, replace=False, shuffle=False))
            found.append(layout.stored_index(tensor, chosen) + offset)
        return np.concatenate(found)

    def rounded(self, vector: Tensor) -> Any:
        """All weights, rounded to bfloat16: 16 bits a weight."""
        values, bits = vector.bfloat16().to(vector.dtype), 16 * self.layout.numel
        if vector.dim() > 1:
            return Messages(self.layout, values, None, torch.full((len(vector),), bits, device=vector.device))
        return Message(self.layout, values, None, self.layout.sizes, size=bits)

    def ternary(self, vector: Tensor) -> Any:
        """Of every tensor C_R's places S with their signs and one magnitude, the mean of theirs: mu sign(x) on S.

        On the wire, a tensor: 32 bits for mu and, an entry, a sign and a Golomb-Rice code of the gap to the entry
        before (Sattler et al., arXiv 1903.02891). What was chosen from is not masked by it: what is left of a sent
        entry is x - mu sign(x).
        """
        most = self.layout.counts(self.keep, self.fidelity)
        chosen = self._largest(self.layout, vector, 1.0 if self.keep is None else whole(self.keep))
        if vector.dim() == 1:
            return _ternary(chosen, most)
        return _ternary_rows(chosen, most, spare=1 if self.fidelity == "authors" else 0)

    @property
    def ternary_bits(self) -> int:
        """About what a message of `ternary` costs: what it costs on average if its places are random."""
        bits = 0.0
        for count, size in zip(self.layout.counts(self.keep, self.fidelity), self.layout.sizes, strict=True):
            b = rice(count, size)
            bits += 32 + count * (1 if b is None else 1 + b + _pieces(count, size, 2**b))
        return round(bits)


def whole(keep: Keep) -> Keep:
    """The budget with every tensor that is sent whole as one of which all entries are."""
    return tuple(1.0 if part is None else part for part in keep) if isinstance(keep, tuple) else keep


def rice(count: int, size: int) -> int | None:
    """The b of the Golomb-Rice code of the gaps between `count` of `size` places; None if there is nothing to say.

    b = max(0, 1 + floor(log2(log(phi - 1) / log(1 - q)))), q = count / size, phi the golden ratio.
    """
    if count >= size:
        return None
    golden = (1 + math.sqrt(5)) / 2
    return max(0, 1 + math.floor(math.log2(math.log(golden - 1) / math.log1p(-count / size))))


def _pieces(count: int, size: int, step: int) -> float:
    """The mean of ceil(g / step) over the gaps g before each of `count` random places of `size`.

    The sum of the shares of gaps above 0, step, 2 step, ...: what of the places lies beyond is all of them.
    """
    total, gap = 0.0, 0
    all_ways = _log_ways(size, count)
    while gap <= size - count:
        share = math.exp(_log_ways(size - gap, count) - all_ways)
        if share < 1e-9:
            break
        total, gap = total + share, gap + step
    return total


def _log_ways(size: int, count: int) -> float:
    return math.lgamma(size + 1) - math.lgamma(size - count + 1) - math.lgamma(count + 1)


def _ternary(chosen: Message, most: Sequence[int]) -> Message:
    """Of one vector's message the signs and the mean magnitudes."""
    assert chosen.indices is not None
    layout, values, bits, start = chosen.layout, torch.empty_like(chosen.values), 0, 0
    places = chosen.indices.cpu().numpy()
    for tensor, (count, kept) in enumerate(zip(chosen.counts, most, strict=True)):
        part = slice(start, start + count)
        found = chosen.values[part]
        values[part] = found.sign() * (found.abs().sum() / max(1, count))
        within = places[part] - layout.offsets[tensor]
        if layout.channels_last[tensor]:
            within = np.sort(layout.ordinary_index(tensor)(within))
        bits += 32 + count
        if (b := rice(kept, layout.sizes[tensor])) is not None:
            gaps = np.diff(within, prepend=-1)
            bits += count * b + int((-(-gaps >> b)).sum())
        start += count
    return replace(chosen, values=values, whole=(), size=bits)


def _ternary_rows(chosen: Messages, most: Sequence[int], spare: int) -> Messages:
    """Of every row's message the signs and the mean magnitudes; nothing waits for the device.

    spare: columns that each tensor has beside those that can be sent, if it has as many entries.
    """
    assert chosen.indices is not None
    layout, bits = chosen.layout, torch.zeros(len(chosen.values), dtype=torch.int64, device=chosen.values.device)
    values, start = torch.empty_like(chosen.values), 0
    for tensor, kept in enumerate(most):
        size, offset = layout.sizes[tensor], layout.offsets[tensor]
        width = min(size, kept + spare)
        part = slice(start, start + width)
        found = chosen.values[:, part]
        sent = found != 0
        count = sent.sum(1)
        mean = found.abs().sum(1) / count.clamp(min=1)
        values[:, part] = found.sign() * mean[:, None]
        bits += 32 + count
        if (b := rice(kept, size)) is not None:
            # Places that only fill the row come after all others, with no gap before them.
            within = (chosen.indices[:, part] - offset).masked_fill(~sent, size).sort(1).values
            gaps = torch.diff(within, dim=1, prepend=torch.full_like(within[:, :1], -1))
            bits += count * b + (-(-gaps >> b)).masked_fill(within == size, 0).sum(1)
        start += width
    return replace(chosen, values=values, sizes=bits, always=None)
