"""The floor: the best loop over clients that bare PyTorch gives, without compression, records or generality.

Channels-last weights and inputs, SGD over all tensors at once; the allocator settings come from the environment.
"""

from __future__ import annotations

import sys

import torch
from measure import serve
from workloads import BATCH, LEARNING_RATE, MOMENTUM, answering, arrays, network

workload = sys.argv[1]
torch.set_num_threads(1)
model = network(workload).to(memory_format=torch.channels_last)
parameters = list(model.parameters())
server = [parameter.detach().clone() for parameter in parameters]
clients = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in arrays(workload)]
clients = [(inputs.contiguous(memory_format=torch.channels_last), targets) for inputs, targets in clients]
loss = torch.nn.CrossEntropyLoss()
number = 0


def round_() -> None:
    """One round of federated averaging."""
    global number
    total = [torch.zeros_like(tensor) for tensor in server]
    ids = answering(workload, number)
    for client in ids:
        with torch.no_grad():
            torch._foreach_copy_(parameters, server)
        optimizer = torch.optim.SGD(parameters, LEARNING_RATE, MOMENTUM, foreach=True)
        for inputs, targets in zip(*(tensor.split(BATCH[workload]) for tensor in clients[client]), strict=True):
            optimizer.zero_grad()
            loss(model(inputs), targets).backward()
            optimizer.step()
        with torch.no_grad():
            torch._foreach_add_(total, parameters)
    with torch.no_grad():
        torch._foreach_div_(total, len(ids))
        torch._foreach_copy_(server, total)
    number += 1


serve(round_)
