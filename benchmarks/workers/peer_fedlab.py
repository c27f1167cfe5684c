"""FedLab's federated averaging: its standalone pipeline, one process, torch's data loaders. peer_fedlab.py WORKLOAD"""

from __future__ import annotations

import sys

import torch
from fedlab.contrib.algorithm.basic_client import SGDSerialClientTrainer
from fedlab.contrib.algorithm.basic_server import SyncServerHandler
from fedlab.core.standalone import StandalonePipeline
from measure import serve_loop
from torch.utils.data import DataLoader, TensorDataset
from workloads import LEARNING_RATE, MOMENTUM, Workload


class Clients:
    """A loader a client, as FedLab's data sets give them."""

    def __init__(self) -> None:
        self.parts = [TensorDataset(*pair) for pair in workload.data()]

    def get_dataloader(self, number, batch_size):
        """The client's samples in their order."""
        return DataLoader(self.parts[number], batch_size)


class Trainer(SGDSerialClientTrainer):
    """FedLab's, with momentum that starts afresh with every client."""

    def set_model(self, parameters=None, id=None) -> None:
        """The server's weights, and a new optimizer."""
        super().set_model(parameters, id)
        self.optimizer = torch.optim.SGD(self._model.parameters(), LEARNING_RATE, MOMENTUM)


class Handler(SyncServerHandler):
    """FedLab's, with the workload's clients."""

    def sample_clients(self):
        """Those of the round."""
        return workload.ids(self.round)


class Held(StandalonePipeline):
    """Waits where others evaluate."""

    pause = None

    def evaluate(self) -> None:
        """Nothing."""
        self.pause(lambda: self.handler.model.parameters())


def run(pause) -> None:
    """Rounds without end."""
    network = workload.network()
    trainer = Trainer(network, workload.clients)
    trainer.setup_dataset(Clients())
    trainer.setup_optim(1, workload.batch, LEARNING_RATE)
    pipeline = Held(Handler(network, 10_000, workload.answering / workload.clients), trainer)
    pipeline.pause = pause
    pipeline.main()


torch.set_num_threads(1)
workload = Workload.of(sys.argv[1])
serve_loop(run)
