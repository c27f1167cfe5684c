"""pfl's federated averaging: its simulated backend, a user a client, the model's own loss. peer_pfl.py WORKLOAD"""

from __future__ import annotations

import asyncio
import sys

import torch
from measure import serve_loop
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from workloads import LEARNING_RATE, MOMENTUM, Workload, sequence


class Network(torch.nn.Module):
    """The network with its loss, as pfl wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = workload.network()

    def loss(self, inputs, targets):
        """Cross-entropy."""
        return torch.nn.functional.cross_entropy(self.network(inputs), targets)

    @torch.no_grad()
    def metrics(self, inputs, targets):
        """The same, as a figure: pfl evaluates in the first round."""
        return {"loss": Weighted(float(self.loss(inputs, targets)) * len(targets), len(targets))}


class Held(TrainingProcessCallback):
    """Waits after every round."""

    def __init__(self, pause) -> None:
        self.pause = pause

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        """Not the end yet, and nothing measured."""
        self.pause(lambda: model.pytorch_model.parameters())
        return False, Metrics()


def run(pause) -> None:
    """Rounds without end."""
    asyncio.set_event_loop(asyncio.new_event_loop())  # which pfl takes for granted, and only a main thread has
    clients = sequence(workload)
    model = PyTorchModel(
        Network(),
        lambda parameters, lr: torch.optim.SGD(parameters, lr, MOMENTUM),
        central_optimizer=None,
    )
    model._central_optimizer = torch.optim.SGD(model.pytorch_model.parameters(), 1.0)
    data = FederatedDataset(lambda client: Dataset(pairs[client], user_id=str(client)), lambda: next(clients))
    settings = NNTrainHyperParams(
        local_num_epochs=1, local_learning_rate=LEARNING_RATE, local_batch_size=workload.batch
    )
    rounds = NNAlgorithmParams(
        central_num_iterations=10_000,
        evaluation_frequency=10_000,
        train_cohort_size=workload.answering,
        val_cohort_size=None,
    )
    FederatedAveraging().run(
        rounds, SimulatedBackend(data, None), model, settings, settings, [Held(pause)], send_metrics_to_platform=False
    )


torch.set_num_threads(1)
workload = Workload.of(sys.argv[1])
pairs = workload.data()
serve_loop(run)
