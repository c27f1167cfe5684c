"""Selection in every row of a matrix at once, in plain torch on any device; nothing waits for the device."""

from __future__ import annotations

import torch
from torch import Tensor

from flare.engine.select.cpu import ROW, SAMPLED


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
    if count * ROW * 8 > size:
        return _largest_keys(rows, torch.arange(size, device=rows.device), count)
    # The largest magnitude of each short piece tells which pieces can hold a part of the answer: where `count` pieces
    # come before one, by magnitude and place, so does an entry of each.
    whole = size // ROW
    pieces = torch.linalg.vector_norm(rows[:, : whole * ROW].unflatten(1, (whole, ROW)), torch.inf, dim=2)
    best = _largest_keys(pieces, torch.arange(whole, device=rows.device), count)
    places = (best[:, :, None] * ROW + torch.arange(ROW, device=rows.device)).flatten(1)
    rest = torch.arange(whole * ROW, size, device=rows.device).expand(len(rows), -1)
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
    if rows.dtype != torch.float32 or rows.shape[-1] < SAMPLED:
        return rows.abs().kthvalue(rank + 1, dim=-1, keepdim=True).values
    bits = rows.contiguous().view(torch.int32) & 0x7FFFFFFF
    found = torch.zeros_like(bits[..., :1])
    for place in reversed(range(31)):
        # the answer is at least the candidate where no more than `rank` entries are below it
        candidate = found | (1 << place)
        below = (bits < candidate).sum(-1, keepdim=True)
        found = torch.where(below <= rank, candidate, found)
    return found.view(torch.float32)
