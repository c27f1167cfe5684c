"""The model on flat storage and the prepared data: what both engines train and evaluate.

All weights lie in one flat vector and the model's tensors are views of it. The velocity is where autograd accumulates:
v is scaled by the momentum before the backward pass, which then adds the gradient to it, so no gradient is stored.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from flare.engine.layout import Layout

_EVALUATION_BATCH = 1000
# Linear layers of so many weights, or more, are worth a product of their own: their gradient does not fit in a cache.
_FUSED = 1 << 18

Loss = Callable[[Tensor, Tensor], Tensor]
Pair = tuple[Tensor, Tensor]


def double_softmax(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of a softmax of a softmax p, as in the FLARE authors' CNN: mean of -p_y + log sum exp p."""
    return cross_entropy(logits.softmax(1), targets)


class Network:
    """A copy of a model whose weights are views of one vector, `weights`, and the data on its device.

    model: its trainable parameters are federated, frozen ones are constants; all of one type, float32 or float64.
    clients, test: (inputs, targets). alone: clients are to be trained one at a time; then, on a CPU, convolutions are
    stored channels-last, which is a quarter faster, and large linear layers add to their gradient in the product.
    """

    def __init__(
        self, model: nn.Module, clients: Sequence[Pair], test: Pair, loss: Loss, device: torch.device, *, alone: bool
    ) -> None:
        given = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.dtype = next(iter(given.values())).dtype
        self.device = device
        self.loss = loss
        # A copy of the model except for its weights, which are put on flat storage at once: never in memory twice.
        parameters = {name: nn.Parameter(torch.empty(0, dtype=p.dtype)) for name, p in given.items()}
        self.model = copy.deepcopy(model, {id(p): parameters[name] for name, p in given.items()}).to(device)
        for buffer in self.model.buffers():
            buffer.requires_grad_(False)
        alone = alone and device.type == "cpu"
        self.channels_last = alone and any(p.dim() == 4 for p in given.values())
        self.layout = Layout.of([(n, p.shape) for n, p in given.items()], channels_last=self.channels_last)
        self.weights = torch.empty(self.layout.numel, dtype=self.dtype, device=device)
        self.velocity = torch.zeros_like(self.weights)
        views, velocities = self.layout.views(self.weights), self.layout.views(self.velocity)
        for name, parameter in parameters.items():
            views[name].copy_(given[name].data)
            parameter.data, parameter.grad = views[name], velocities[name]
        for module in self.model.modules() if alone else ():
            if type(module) is nn.Linear and module.weight.requires_grad and module.weight.numel() >= _FUSED:
                module.forward = functools.partial(_linear, module)  # type: ignore[method-assign]
        self.clients = [self._prepare(pair) for pair in clients]
        self.test = self._prepare(test)

    def _prepare(self, pair: Pair) -> Pair:
        inputs, targets = (tensor.to(self.device) for tensor in pair)
        if inputs.is_floating_point():
            inputs = inputs.to(self.dtype)
        if self.channels_last and inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return inputs, targets

    @functools.cached_property
    def training_data(self) -> Pair:
        """All clients' data, client after client."""
        inputs, targets = zip(*self.clients, strict=True)
        return torch.cat(inputs), torch.cat(targets)

    @torch.no_grad()
    def evaluate(self, server: Tensor, data: Pair) -> tuple[float, float]:
        """Mean loss and accuracy of the server's weights over all targets. Overwrites `self.weights`."""
        inputs, targets = data
        self.weights.copy_(server)
        self.model.eval()
        loss, right = 0.0, 0
        for start in range(0, len(inputs), _EVALUATION_BATCH):
            batch = targets[start : start + _EVALUATION_BATCH]
            outputs = self.model(inputs[start : start + _EVALUATION_BATCH])
            loss += float(self.loss(outputs, batch)) * len(batch)
            right += int((outputs.argmax(1) == batch).sum())
        return loss / len(targets), right / targets.numel()


def batches(pair: Pair, batch_size: int, shuffle: bool) -> Iterator[Pair]:
    """The batches of one epoch, the last of which may be smaller; shuffled by torch's own generator."""
    inputs, targets = pair
    if shuffle:
        order = torch.randperm(len(inputs)).to(inputs.device)
        inputs, targets = inputs[order], targets[order]
    return zip(inputs.split(batch_size), targets.split(batch_size), strict=True)


def put(tensor: Tensor, device: torch.device) -> Tensor:
    """A small tensor on the device, without waiting for what the device is doing."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" and not tensor.is_cuda else tensor


def _linear(module: nn.Linear, inputs: Tensor) -> Tensor:
    outputs: Tensor = _Linear.apply(inputs, module.weight, module.bias)
    return outputs


class _Linear(torch.autograd.Function):
    """A linear layer whose backward pass adds to the weight's gradient in the product itself.

    autograd forms the product and then adds it: a tensor of the weight's size that is written and read once more.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        return linear(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        inputs, weight = ctx.saved_tensors
        (gradient,) = gradients
        rows = gradient.reshape(-1, gradient.shape[-1])
        weight.grad.addmm_(rows.T, inputs.reshape(-1, inputs.shape[-1]))
        needs_inputs, _, needs_bias = ctx.needs_input_grad
        return gradient @ weight if needs_inputs else None, None, rows.sum(0) if needs_bias else None
