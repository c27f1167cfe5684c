"""Evaluation in several batches, numbers fetched from a device, and which engine a run gets on a device."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import flare
from flare.engine import api
from flare.engine import choose as choosing
from flare.engine.network import Network, batches, put
from flare.engine.one_at_a_time import OneAtATime
from flare.engine.together import Together


def data(samples: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, 6, generator=generator), torch.randint(0, 3, (samples,), generator=generator)


def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, 3), nn.Dropout(0.5)).double()


@pytest.mark.parametrize("samples", [1, 999, 1000, 1001, 2500])
def test_an_evaluation_in_batches_is_that_of_one_pass(samples: int) -> None:
    test, network = data(samples), model()
    inputs = test[0].double()
    inputs[-1] *= 1000  # the last batch is the smallest and has the largest loss
    made = Network(network, [data(4)], (inputs, test[1]), cross_entropy, torch.device("cpu"), alone=True)
    loss, accuracy = made.evaluate(made.weights.clone(), made.test)
    outputs = network.eval()(inputs).detach()
    assert loss == pytest.approx(float(cross_entropy(outputs, test[1])), rel=1e-12)
    assert accuracy == (outputs.argmax(1) == test[1]).sum().item() / samples


def test_an_evaluation_of_texts_is_a_mean_over_characters() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.table(x).movedim(-1, 1)

    generator = torch.Generator().manual_seed(0)
    test = torch.randint(0, 5, (1200, 4), generator=generator), torch.randint(0, 3, (1200, 4), generator=generator)
    network = Tagger().double()
    made = Network(network, [test], test, cross_entropy, torch.device("cpu"), alone=True)
    loss, accuracy = made.evaluate(made.weights.clone(), made.test)
    outputs = network(test[0]).detach()
    assert loss == pytest.approx(float(cross_entropy(outputs, test[1])), rel=1e-12)
    assert accuracy == (outputs.argmax(1) == test[1]).sum().item() / 4800


def test_an_epoch_has_every_sample_once_and_its_last_batch_the_rest() -> None:
    pair = torch.arange(11), torch.arange(11) + 100
    assert [part.tolist() for part, _ in batches(pair, 4, False)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    torch.manual_seed(1)
    drawn = list(batches(pair, 4, True))
    assert [len(part) for part, _ in drawn] == [4, 4, 3]
    assert all(torch.equal(inputs + 100, targets) for inputs, targets in drawn)
    order = torch.cat([part for part, _ in drawn]).tolist()
    assert sorted(order) == list(range(11)) and order != list(range(11))


class Pinned:
    """A tensor on the CPU, of which it is noted how it is put on a device."""

    def __init__(self, is_cuda: bool = False) -> None:
        self.is_cuda = is_cuda
        self.said: list[Any] = []

    def pin_memory(self) -> Pinned:
        self.said.append("pinned")
        return self

    def to(self, device: torch.device, non_blocking: bool = False) -> Pinned:
        self.said.append((str(device), non_blocking))
        return self


@pytest.mark.parametrize(
    ("device", "there", "said"),
    [("cuda:1", False, ["pinned", ("cuda:1", True)]), ("cuda:1", True, []), ("cpu", False, [])],
)
def test_a_tensor_is_put_on_a_gpu_without_waiting_and_only_once(device: str, there: bool, said: list[Any]) -> None:
    tensor = Pinned(there)
    assert put(tensor, torch.device(device)) is tensor  # type: ignore[arg-type, comparison-overlap]
    assert tensor.said == said


@pytest.mark.parametrize("kind", [OneAtATime, Together])
def test_numbers_are_fetched_in_their_order_and_whole_ones_stay_whole(kind: type) -> None:
    made = Network(model(), [data(4)], data(4), cross_entropy, torch.device("cpu"), alone=True)
    engine = OneAtATime(made) if kind is OneAtATime else Together(made, 1)
    large = 2**53 - 1
    found = engine.fetch(torch.tensor(0.5), 7, torch.tensor(large), 2**70, torch.tensor(-1.25, dtype=torch.float64))
    assert found == [0.5, 7, large, 2**70, -1.25]
    assert [type(number) for number in found] == [float, int, int, int, float]
    assert engine.fetch(3, 4) == [3, 4]


@pytest.mark.parametrize(("device", "emptied"), [("cuda", 1), ("cpu", 0)])
def test_a_gpu_that_is_full_is_emptied_and_clients_go_one_at_a_time(
    device: str, emptied: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = [data(8, seed) for seed in range(3)]
    arguments: dict[str, Any] = {"method": "topk", "keep": 0.5, "rounds": 3, "local_epochs": 1, "batch_size": 4}
    arguments |= {"learning_rate": 0.1, "momentum": 0.0, "test": clients[0]}
    plain, weights = flare.simulate(model(), clients, **arguments, together=False)
    calls: list[None] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append(None))
    genuine, made = choosing.choose, Together.round

    def out_of_memory(self: Together, *given: Any) -> Any:
        made(self, *given)  # so that what a trial leaves behind must be undone
        raise RuntimeError("CUDA out of memory. Tried to allocate 1 GiB.\nand a long report")

    def pretend(network: Network, *given: Any) -> Any:
        network.device = torch.device(device)
        try:
            return genuine(network, *given)
        finally:
            network.device = torch.device("cpu")

    monkeypatch.setattr(Together, "round", out_of_memory)
    monkeypatch.setattr(api, "choose_engine", pretend)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        again, reached = flare.simulate(model(), clients, **arguments, together=True)
    assert len(calls) == emptied and again.attrs["engine"] == "one-at-a-time"
    assert again.equals(plain) and all(torch.equal(reached[name], weights[name]) for name in weights)
    assert [str(w.message) for w in said if "one at a time" in str(w.message)] == [
        "clients are trained one at a time, not together: CUDA out of memory. Tried to allocate 1 GiB."
    ]


def test_together_is_what_a_gpu_does_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def noted(network: Network, plan: Any, state: Any, together: bool) -> Any:
        asked.append(together)
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "choose_engine", noted)
    monkeypatch.setattr(api.inputs, "device_of", torch.device)  # as if the GPU were there
    monkeypatch.setattr(api, "Network", lambda *given, **more: Network(*given[:4], torch.device("cpu"), **more))
    for device, wanted in (("cuda", None), ("cuda", False), ("cpu", None), ("cpu", True)):
        with pytest.raises(KeyboardInterrupt):
            flare.simulate(
                *(model(), [data(4)]),
                **{"test": data(4), "method": "fedavg", "keep": None, "rounds": 1, "local_epochs": 1, "batch_size": 4},
                **{"learning_rate": 0.1, "momentum": 0.0, "device": device, "together": wanted},
            )
    assert asked == [True, False, False, True]
