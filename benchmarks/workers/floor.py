"""The floor: the best loop over clients that bare PyTorch gives, without compression, records or generality.

Channels-last weights and inputs, SGD over all tensors at once; the allocator settings come from the environment.
"""

from __future__ import annotations

import sys

import torch
from measure import serve
from workloads import LEARNING_RATE, MOMENTUM, Workload

workload = Workload.of(sys.argv[1])
torch.set_num_threads(1)
model = workload.network().to(memory_format=torch.channels_last)
parameters = list(model.parameters())
server = [parameter.detach().clone() for parameter in parameters]
clients = [(inputs.contiguous(memory_format=torch.channels_last), targets) for inputs, targets in workload.data()]
loss = torch.nn.CrossEntropyLoss()
number = 0


def round_() -> None:
    """One round of federated averaging."""
    global number
    total = [torch.zeros_like(tensor) for tensor in server]
    ids = workload.ids(number)
    for client in ids:
        with torch.no_grad():
            torch._foreach_copy_(parameters, server)
        optimizer = torch.optim.SGD(parameters, LEARNING_RATE, MOMENTUM, foreach=True)
        for inputs, targets in zip(*(tensor.split(workload.batch) for tensor in clients[client]), strict=True):
            optimizer.zero_grad()
            loss(model(inputs), targets).backward()
            optimizer.step()
        with torch.no_grad():
            torch._foreach_add_(total, parameters)
    with torch.no_grad():
        torch._foreach_div_(total, len(ids))
        torch._foreach_copy_(server, total)
    number += 1


serve(round_, lambda: server)
