"""Clients that advance together: one row of a matrix each, so that a GPU is filled by all of them at once.

The same arithmetic as the loop of `simulation` over one client at a time, stacked over a first dimension by
`torch.func.vmap`; sums are formed in another order, so the two agree to rounding until an entry near the threshold of a
selection falls on its other side. Dropout draws other masks. Nothing here waits for the device.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from flare.algorithms import Method
from flare.engine.sparsify import Layout
from flare.engine.staleness import Staleness

Loss = Callable[[Tensor, Tensor], Tensor]
Pair = tuple[Tensor, Tensor]


class Together:
    """Trains clients side by side: `weights` and `velocity` are matrices (clients that answer, weights of the model).

    model, loss, layout: as in `simulation`; the model's own weights are not used. clients: prepared data. most:
    the most clients that answer a round.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, layout: Layout, clients: Sequence[Pair], weights: Tensor, most: int
    ):
        # Rows of a matrix that also holds the other tensors are not one piece of memory; it is no harm here.
        warnings.filterwarnings("ignore", message="grad and param do not obey the gradient layout contract")
        self.model, self.loss, self.layout = model, loss, layout
        self.weights = weights.new_empty(most, layout.numel)
        self.velocity = torch.zeros_like(self.weights)
        # Clients of one size lie in one block, so that a batch of all of them is a view of it.
        self._place: dict[int, tuple[int, int]] = {}
        self._blocks: dict[int, Pair] = {}
        for size in {len(targets) for _, targets in clients}:
            numbers = [number for number, (_, targets) in enumerate(clients) if len(targets) == size]
            inputs, targets = zip(*(clients[number] for number in numbers), strict=True)
            self._blocks[size] = torch.stack(inputs), torch.stack(targets)
            self._place |= {number: (size, row) for row, number in enumerate(numbers)}
        self.clients = [
            (self._blocks[size][0][row], self._blocks[size][1][row])
            for size, row in (self._place[number] for number in range(len(clients)))
        ]
        self._leaves: dict[tuple[int, int], dict[str, Tensor]] = {}

    def round(
        self,
        round_: int,
        seeds: Mapping[int, int],
        server: Tensor,
        memory: dict[str, Tensor],
        total: Tensor,
        method: Method,
        settings: Any,
        keep: float | None,
        fidelity: str,
        stale: Staleness | None,
        training: Mapping[str, Any],
    ) -> tuple[Tensor, Tensor | int]:
        """One round of the clients of `seeds`: adds to `total` what each contributes and updates its rows of `memory`.

        training: arguments of `train`. Returns the mean of the clients' mean batch losses and the bits that were sent.
        """
        ids = self.order(list(seeds))
        everyone = ids == list(range(len(self.clients)))
        at = put(torch.tensor(ids), server.device)
        state = {name: rows if everyone else rows.index_select(0, at) for name, rows in memory.items()}
        steps, add = (method.pull and method.pull(round_, server, state, settings, self.layout)) or (0, None)
        losses = self.train(
            ids, server, pull_steps=steps, pull=add, seeds=[seeds[client] for client in ids], **training
        )
        difference = self.weights[: len(ids)].sub_(server)
        # What a client alone has of the state: rows, which are views.
        alone = [{name: rows[row] for name, rows in state.items()} for row in range(len(ids))]
        if stale:
            for row, mine in enumerate(alone):
                stale.before(difference[row], mine.get("accumulator"))

        def compress(rows: Tensor) -> Any:
            return self.layout.compress_rows(rows, keep, fidelity)

        messages: Any = method.message(difference, state, settings, compress)
        for row, (client, mine) in enumerate(zip(ids, alone, strict=True)):
            message = messages.row(row)
            if stale:
                stale.after(client, round_, message.without_zeros(), mine.get("accumulator"))
            method.receive(total, message, mine)
        if not everyone:
            for name, rows in state.items():
                memory[name].index_copy_(0, at, rows)
        return losses.mean(), messages.bits

    def order(self, ids: Sequence[int]) -> list[int]:
        """The clients as `train` wants them: those with the most samples, and so the most steps, first."""
        return sorted(ids, key=lambda client: (-self._place[client][0], client))

    def train(
        self,
        ids: Sequence[int],
        server: Tensor,
        *,
        epochs: int,
        batch_size: int,
        learning_rate: float,
        momentum: float,
        pull_steps: int | None,
        pull: Callable[[Tensor, Tensor, int], None] | None,
        restart: bool,
        shuffle: bool,
        watch: bool,
        seeds: Sequence[int],
        most_steps: int | None = None,
    ) -> Tensor:
        """Train the clients `ids`, as `order` gives them, from the server's weights; returns their mean batch losses.

        Leaves w_k in the rows of `weights`, in that order. seeds: one a client. most_steps: stop after so many. watch:
        stop after an epoch in which a loss is not finite.
        """
        count = len(ids)
        weights, velocity = self.weights[:count], self.velocity[:count]
        weights.copy_(server)
        velocity.zero_()
        torch.manual_seed(seeds[0])
        self.model.train()
        sizes = [self._place[client][0] for client in ids]
        # Of one epoch; there may be very many.
        batches = [[(at, min(at + batch_size, size)) for at in range(0, size, batch_size)] for size in sizes]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        orders: list[Tensor | None] = [None] * count
        losses = server.new_zeros(count)
        steps = epochs * len(batches[0])
        for step in range(steps if most_steps is None else min(most_steps, steps)):
            active = sum(epochs * len(own) > step for own in batches)
            if step:
                velocity[:active].mul_(momentum)
            spans = [own[step % len(own)] for own in batches[:active]]
            for row in range(active) if shuffle else ():
                if step % len(batches[row]) == 0:  # the order that training the client alone would draw
                    orders[row] = put(torch.randperm(sizes[row], generator=generators[row]), server.device)
            lengths = [stop - start for start, stop in spans]
            for _, run in itertools.groupby(range(active), key=lengths.__getitem__):
                rows = list(run)
                first, last = rows[0], rows[-1] + 1
                inputs, targets = self._batch(
                    [ids[row] for row in rows],
                    [spans[row] for row in rows],
                    [orders[row] for row in rows],
                )
                if step:
                    leaves = self._stacked(first, last)
                    found = vmap(self._loss_of, randomness="different")(leaves, inputs, targets)
                    found.sum().backward()
                    losses[first:last] += found.detach()
                else:  # all start from the server's weights: one forward pass of all their samples serves
                    views = self.layout.views(server)
                    gradients, found = vmap(
                        grad_and_value(self._loss_of), in_dims=(None, 0, 0), randomness="different"
                    )(views, inputs, targets)
                    for name, leaf in self._stacked(first, last).items():
                        leaf.grad.copy_(gradients.pop(name))  # type: ignore[union-attr]
                    losses[first:last] += found
            if pull and (pull_steps is None or step < pull_steps):
                pull(velocity, weights, step)  # also on those that are done, whose velocity is not used any more
            weights[:active].add_(velocity[:active], alpha=-learning_rate)
            if restart and step + 1 == pull_steps:
                velocity.zero_()
            if watch and (step + 1) % len(batches[0]) == 0 and not bool(losses.isfinite().all()):
                break
        each = torch.tensor([float(epochs * len(own)) for own in batches], dtype=losses.dtype)
        return losses / put(each, server.device)

    def _loss_of(self, parameters: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        return self.loss(functional_call(self.model, parameters, (inputs,)), targets)

    def _stacked(self, first: int, last: int) -> dict[str, Tensor]:
        """Rows of the weights as leaves by name, (rows, *shape), whose gradients accumulate in the velocity."""
        if (first, last) not in self._leaves:
            leaves = {}
            for name, shape, part in zip(self.layout.names, self.layout.shapes, self.layout.slices(), strict=True):
                leaf = self.weights[first:last, part].view(-1, *shape).requires_grad_()
                leaf.grad = self.velocity[first:last, part].view(-1, *shape)
                leaves[name] = leaf
            self._leaves[first, last] = leaves
        return self._leaves[first, last]

    def _batch(self, ids: list[int], spans: list[tuple[int, int]], orders: list[Tensor | None]) -> Pair:
        """Inputs and targets, (clients, samples, ...): a view where the clients are neighbours in a block."""
        (size, row), (start, stop) = self._place[ids[0]], spans[0]
        neighbours = [self._place[client] for client in ids] == [(size, row + n) for n in range(len(ids))]
        if orders[0] is None and neighbours:
            inputs, targets = (tensor[row : row + len(ids), start:stop] for tensor in self._blocks[size])
            return inputs, targets
        pairs = []
        for client, (begin, end), order in zip(ids, spans, orders, strict=True):
            at = slice(begin, end) if order is None else order[begin:end]
            pairs.append([tensor[at] for tensor in self.clients[client]])
        inputs, targets = (torch.stack(tensors) for tensors in zip(*pairs, strict=True))
        return inputs, targets


def put(tensor: Tensor, device: torch.device) -> Tensor:
    """A small tensor on the device, without waiting for what the device is doing."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" and not tensor.is_cuda else tensor
