"""Flower's federated averaging: its simulation on ray, one actor. peer_flower.py WORKLOAD

Ten nodes; in each round they are the clients of that round. What the actor runs is imported, not pickled, so that it
prepares the data once.
"""

from __future__ import annotations

import functools
import os
import sys

import ray
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from measure import serve_loop
from workloads import LEARNING_RATE, MOMENTUM, Workload


@functools.cache
def prepared(name):
    """The workload, its data and a network to train, once a process."""
    torch.set_num_threads(1)
    workload = Workload.of(name)
    return workload, workload.data(), workload.network()


def train(message, context, name):
    """A client's part of a round."""
    workload, pairs, network = prepared(name)
    round_ = message.content["config"]["server-round"] - 1
    inputs, targets = pairs[workload.ids(round_)[context.node_config["partition-id"]]]
    network.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(network.parameters(), LEARNING_RATE, MOMENTUM)
    loss = None
    for x, y in zip(inputs.split(workload.batch), targets.split(workload.batch), strict=True):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(x), y)
        loss.backward()
        optimizer.step()
    answer = {
        "arrays": ArrayRecord(network.state_dict()),
        "metrics": MetricRecord({"loss": float(loss.detach()), "num-examples": len(targets)}),
    }
    return Message(content=RecordDict(answer), reply_to=message)


def run(pause, name) -> None:
    """Rounds without end."""
    workload = Workload.of(name)

    class Held(FedAvg):
        """Flower's, which waits when it has the mean."""

        def aggregate_train(self, server_round, replies):
            """The mean and the metrics."""
            arrays, metrics = super().aggregate_train(server_round, replies)
            pause(lambda: arrays.to_torch_state_dict().values())
            return arrays, metrics

    server, client = ServerApp(), ClientApp()
    client.train()(functools.partial(train, name=name))

    @server.main()
    def main(grid, context) -> None:
        nodes = workload.answering
        strategy = Held(fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes)
        strategy.start(grid, ArrayRecord(workload.network().state_dict()), num_rounds=10_000)

    resources = {"init_args": {"num_cpus": 1}, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server, client, workload.answering, backend_config=resources)


if __name__ == "__main__":
    import peer_flower

    serve_loop(functools.partial(peer_flower.run, name=sys.argv[1]))
    ray.shutdown()
    os._exit(0)  # Flower's server, held between two rounds, would be waited for
