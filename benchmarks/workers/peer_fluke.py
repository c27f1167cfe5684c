"""fluke's federated averaging: its clients, its loop, its server, which asks for our clients. peer_fluke.py WORKLOAD"""

from __future__ import annotations

import sys

import torch
from fluke.algorithms.fedavg import FedAVG
from fluke.client import Client
from fluke.config import OptimizerConfigurator
from fluke.data import FastDataLoader
from fluke.server import Server
from measure import serve_loop
from workloads import LEARNING_RATE, MOMENTUM, Workload


class Held(Server):
    """Asks for the round's clients, and waits when it has the mean of their models."""

    number, pause = 0, None

    def get_eligible_clients(self, eligible_perc):
        """Those of the workload."""
        return [self.clients[client] for client in workload.ids(self.number)]

    def aggregate(self, eligible, client_models) -> None:
        """fluke's own."""
        super().aggregate(eligible, client_models)
        self.number += 1
        self.pause(lambda: self.model.parameters())


def run(pause) -> None:
    """Rounds without end. Clients that forget their optimizer: fluke's other clients keep its momentum."""
    optimizer = OptimizerConfigurator({"name": "SGD", "lr": LEARNING_RATE, "momentum": MOMENTUM})
    clients = [
        Client(
            index=number,
            train_set=FastDataLoader(*pair, num_labels=10, batch_size=workload.batch),
            test_set=None,
            optimizer_cfg=optimizer,
            loss_fn=torch.nn.CrossEntropyLoss(),
            local_epochs=1,
            persistency=False,
        )
        for number, pair in enumerate(workload.data())
    ]
    server = Held(workload.network(), None, clients)
    server.pause = pause
    share = workload.answering / workload.clients
    FedAVG(workload.clients, None, None, clients=clients, server=server).run(10_000, share)


torch.set_num_threads(1)
workload = Workload.of(sys.argv[1])
serve_loop(run)
