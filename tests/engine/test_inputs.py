"""What `flare.simulate` is given is right or refused in one line, before any round, and looking changes nothing."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss
from torch.nn.utils import parametrizations, parametrize
from torch.utils.data import DataLoader, TensorDataset

import flare
from flare.errors import ConfigError


def samples(count: int = 8, classes: int = 3, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 6, generator=generator), torch.arange(count) % classes


def linear(outputs: int = 3) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(6, outputs)


def run(model: nn.Module | None = None, clients: Any = None, **changes: Any) -> tuple[Any, dict[str, Tensor]]:
    given: dict[str, Any] = {
        "test": samples(5, seed=9),
        "method": "topk",
        "keep": 0.3,
        "rounds": 2,
        "local_epochs": 1,
        "batch_size": 4,
        "learning_rate": 0.1,
        "momentum": 0.5,
        "evaluate_every": 1,
    }
    clients = [samples(seed=1), samples(seed=2)] if clients is None else clients
    return flare.simulate(linear() if model is None else model, clients, **(given | changes))


def bits(outcome: tuple[Any, dict[str, Tensor]]) -> list[bytes]:
    return [weight.numpy().tobytes() for weight in outcome[1].values()]


def refused(words: str, make: Callable[[], Any]) -> None:
    rounds: list[int] = []
    with pytest.raises(ConfigError) as caught:
        make()
    said = str(caught.value)
    assert words in said and "\n" not in said and len(said) < 700 and not rounds, said


# --- targets --------------------------------------------------------------------------------------------------------

TARGETS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "a column": (lambda y: y[:, None], "has targets (N, 1) for outputs (N, 3); class indices (N,)"),
    "a column of floats": (lambda y: y[:, None].float(), "class indices, whole numbers"),
    "one-hot floats": (lambda y: nn.functional.one_hot(y, 3).float(), "one-hot targets become it by argmax(1)"),
    "one-hot whole numbers": (lambda y: nn.functional.one_hot(y, 3), "has targets (N, 3) for outputs (N, 3)"),
    "floats": (lambda y: y.float(), "torch.float32; class indices, whole numbers"),
    "truth values": (lambda y: y > 0, "torch.bool; class indices"),
    "complex": (lambda y: y.to(torch.complex64), "a plain tensor of real numbers"),
    "a class that is not there": (lambda y: y + 1, "has the class index 3; 0 to 2, as the model has 3 outputs"),
    "a class below 0": (lambda y: y - 1, "has the class index -1; 0 to 2"),
    "what the loss would leave out": (lambda y: y.index_fill(0, torch.tensor([7]), -100), "has the class index -100"),
    "one number": (lambda y: y[0], "one number; the first dimension is samples"),
}


@pytest.mark.parametrize("case", TARGETS)
def test_targets_that_do_not_fit(case: str) -> None:
    change, words = TARGETS[case]
    inputs, targets = samples()
    refused(words, lambda: run(clients=[(inputs, change(targets)), samples()]))
    refused("", lambda: run(clients=[samples(), (inputs, change(targets))]))
    refused("test", lambda: run(test=(inputs, change(targets))))


def test_losses_that_broadcast_are_no_way_around() -> None:
    pair = samples(8, 2)[0], samples(8, 2)[1][:, None].float()
    refused("whole numbers", lambda: run(linear(1), [pair], test=pair, loss=binary_cross_entropy_with_logits))
    whole = pair[0], pair[1].long()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return mse_loss(outputs, targets.float())

    refused("(N, 1) for outputs (N, 1)", lambda: run(linear(1), [whole], test=whole, loss=loss))
    flat = whole[0], whole[1][:, 0]
    refused("the class index 1; 0 to 0", lambda: run(linear(1), [flat], test=flat, loss=lambda o, t: o.sum()))


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_whole_numbers_of_any_type_are_class_indices(kind: torch.dtype) -> None:
    clients = [(x, y.to(kind)) for x, y in (samples(seed=1), samples(seed=2))]
    test = samples(5, seed=9)
    assert bits(run(clients=clients, test=(test[0], test[1].to(kind)))) == bits(run())


def test_sequences_and_maps_of_classes() -> None:
    class Each(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(4, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.table(inputs).movedim(-1, 1)

    for shape in ((5,), (2, 5)):
        inputs = torch.arange(40).reshape(-1, *shape) % 4
        pair = inputs, inputs % 3
        assert run(Each(), [pair], test=pair)[0].attrs["status"] == "finished"
        refused(f"class indices (N, {', '.join(map(str, shape))})", lambda: run(Each(), [(inputs, inputs[:, 0])]))  # noqa: B023
        # A place that the table does not have, in one sample of one client, is found.
        wrong = inputs.clone()
        wrong[-1] = 4
        refused("index out of range", lambda: run(Each(), [pair, (wrong, inputs % 3)]))  # noqa: B023
        refused("index out of range", lambda: run(Each(), [pair], test=(wrong, inputs % 3)))  # noqa: B023


# --- clients --------------------------------------------------------------------------------------------------------


def test_arrays_and_tensor_datasets_are_read_exactly() -> None:
    pairs = [samples(seed=1), samples(seed=2)]
    expected = bits(run())
    arrays = [(x.numpy().copy(), y.numpy().copy()) for x, y in pairs]
    assert bits(run(clients=arrays)) == expected
    assert bits(run(clients=[(x.astype(np.float64), y.astype(np.int16)) for x, y in arrays])) == expected
    for array in itertools.chain(*arrays):
        array.flags.writeable = False
    assert bits(run(clients=arrays)) == expected
    assert (
        bits(run(clients=[(x[::-1], y[::-1]) for x, y in [(x[::-1].copy(), y[::-1].copy()) for x, y in arrays]]))
        == expected
    )
    assert (
        bits(run(clients=[TensorDataset(*pair) for pair in pairs], test=TensorDataset(*samples(5, seed=9)))) == expected
    )
    assert bits(run(clients=(pair for pair in pairs))) == expected  # a generator
    assert bits(run(clients=[list(pair) for pair in pairs])) == expected


CLIENTS: dict[str, tuple[Callable[[], Any], str]] = {
    "loaders": (
        lambda: [DataLoader(TensorDataset(*samples()), 4)],
        "client 0: a DataLoader; its data set's two tensors",
    ),
    "lists of numbers": (lambda: [([[1.0] * 6], [0])], "client 0: inputs: a list of 1; a tensor or a numpy array"),
    "lists of samples": (lambda: [list(zip(*samples(), strict=True))], "client 0: a list of 8; (inputs, targets)"),
    "one pair": (samples, "client 0: a Tensor; (inputs, targets)"),
    "by name": (lambda: {"a": samples()}, "clients: a dict; a list with one pair a client"),
    "text alone": (lambda: "data", "clients: a str; a list with one pair a client"),
    "a number": (lambda: 3, "clients: an int; a list"),
    "triples": (lambda: [(*samples(), None)], "client 0: a tuple of 3"),
    "text": (lambda: [(np.array(["a"] * 8), np.arange(8))], "client 0: inputs: an array of <U1"),
    "objects": (lambda: [(np.array([None] * 8), np.arange(8))], "client 0: inputs: an array of object"),
    "masked": (lambda: [(np.ma.masked_equal(np.ones((8, 6)), 1), np.arange(8))], "client 0: inputs: a MaskedArray"),
    "sparse": (lambda: [(samples()[0].to_sparse(), samples()[1])], "a plain tensor of real numbers"),
    "without numbers": (lambda: [(samples()[0].to("meta"), samples()[1])], "a plain tensor of real numbers"),
    "complex": (lambda: [(samples()[0].to(torch.complex64), samples()[1])], "a plain tensor of real numbers"),
    "no sample": (lambda: [samples(0)], "client 0 has 0 inputs and 0 targets; as many, at least 1"),
    "bytes": (lambda: [(samples()[0].to(torch.uint8), samples()[1])], "whole numbers are read as they are: floats, or"),
    "too wide": (
        lambda: [(torch.ones(8, 7), samples()[1])],
        "the model cannot read its inputs (N, 7) of torch.float32",
    ),
    "too wide, the last alone": (lambda: [samples(), samples(), (torch.ones(8, 7), samples()[1])], "client 2"),
}


@pytest.mark.parametrize("case", CLIENTS)
def test_clients_that_are_none(case: str) -> None:
    make, words = CLIENTS[case]
    refused(words, lambda: run(clients=make()))


def test_the_test_set_is_looked_at_as_the_clients_are() -> None:
    refused("test: 0 inputs", lambda: run(test=samples(0)))
    refused("test: a DataLoader", lambda: run(test=DataLoader(TensorDataset(*samples()))))
    refused("test: a NoneType", lambda: run(test=None))
    refused("test: the model cannot read its inputs (N, 5)", lambda: run(test=(torch.ones(4, 5), samples(4)[1])))


def test_nobody_elses_tensor_gets_a_gradient() -> None:
    inputs, targets = samples()
    inputs.requires_grad_()
    run(clients=[(inputs, targets)])
    assert inputs.grad is None


# --- models ---------------------------------------------------------------------------------------------------------


class Odd(nn.Module):
    """A linear model and something that it does in `forward`."""

    def __init__(self, does: Callable[[Any, Tensor], Any], **buffers: Tensor) -> None:
        super().__init__()
        self.linear = linear()
        self.does = does
        self.count, self.centre = 0, torch.zeros(6)
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(self, inputs: Tensor) -> Any:
        return self.does(self, inputs)


def centring(model: Any, inputs: Tensor) -> Tensor:
    if model.training:
        model.running = 0.9 * model.running + 0.1 * inputs.detach().mean(0)
    return model.linear(inputs - model.running)


def in_place(model: Any, inputs: Tensor) -> Tensor:
    if model.training:
        model.running.mul_(0.9).add_(inputs.detach().mean(0), alpha=0.1)
    return model.linear(inputs - model.running)


def hidden(model: Any, inputs: Tensor) -> Tensor:
    model.centre = 0.9 * model.centre + 0.1 * inputs.detach().mean(0)
    return model.linear(inputs - model.centre)


def counting(model: Any, inputs: Tensor) -> Tensor:
    model.count += 1
    return model.linear(inputs) / model.count


def drawing(model: Any, inputs: Tensor) -> Tensor:
    return model.linear(inputs) * (1 + np.random.rand() + random.random())


def late(model: Any, inputs: Tensor) -> Tensor:
    if not model.training:
        model.seen.add_(1)
    return model.linear(inputs)


def clipping(model: Any, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        model.linear.weight.clamp_(-0.01, 0.01)
    return model.linear(inputs)


class Doubling(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def old_spectral(model: nn.Module) -> nn.Module:
    return nn.utils.spectral_norm(model)


def scripted() -> nn.Module:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.linear(inputs)

    return torch.jit.script(Plain())


def listed() -> nn.Module:
    model = Odd(lambda model, inputs: model.linear(inputs) + sum(part(inputs) for part in model.parts))
    model.parts = [linear()]  # type: ignore[assignment]
    return model


def leaf() -> nn.Module:
    model = Odd(lambda model, inputs: model.linear(inputs) + model.extra)
    model.extra = torch.zeros(3, requires_grad=True)  # type: ignore[assignment]
    return model


def overlapping() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6), linear())
    model[0].bias = nn.Parameter(model[0].weight.detach()[0])
    return model


STATES: dict[str, tuple[Callable[[], Any], str]] = {
    "a running centre": (lambda: Odd(centring, running=torch.zeros(6)), "running is changed by forward"),
    "a running centre, in place": (lambda: Odd(in_place, running=torch.zeros(6)), "running is changed by forward"),
    "a centre that is no buffer": (lambda: Odd(hidden), "depend on what it has read before"),
    "a count": (lambda: Odd(counting), "depend on what it has read before"),
    "other generators": (lambda: Odd(drawing), "on more than torch's generator"),
    "a buffer of evaluations": (lambda: Odd(late, seen=torch.zeros(1)), "in an evaluation seen is changed by forward"),
    "weights that forward clips": (lambda: Odd(clipping), "forward changes its own weights"),
    "spectral norm": (lambda: parametrizations.spectral_norm(linear()), "is changed by forward"),
    "spectral norm of old": (lambda: old_spectral(linear()), "is changed by forward"),
    "batch norm": (lambda: nn.Sequential(linear(), nn.BatchNorm1d(3)), "1.running_mean is a batch-norm statistic"),
    "batch norm that only counts": (lambda: nn.Sequential(linear(), nn.BatchNorm1d(3, momentum=0.0)), "batch-norm"),
    "instance norm with statistics": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (2, 3)), nn.InstanceNorm1d(2, track_running_stats=True), nn.Flatten(), linear()
        ),
        "1.running_mean is a batch-norm statistic",
    ),
    "a tuple": (lambda: Odd(lambda model, inputs: (model.linear(inputs), None)), "its forward returns a tuple of 2"),
    "a mapping": (lambda: Odd(lambda model, inputs: {"logits": model.linear(inputs)}), "its forward returns a dict"),
    "nothing": (lambda: Odd(lambda model, inputs: None), "its forward returns a NoneType"),
    "one number a sample": (lambda: Odd(lambda model, inputs: model.linear(inputs)[:, 0]), "its outputs are (2,)"),
    "a mean": (lambda: Odd(lambda model, inputs: model.linear(inputs).mean(0, keepdim=True)), "its outputs are (1, 3)"),
    "whole numbers": (lambda: Odd(lambda model, inputs: model.linear(inputs).long()), "real numbers"),
    "no gradient": (lambda: Odd(lambda model, inputs: model.linear(inputs).detach()), "no gradient: "),
    "an error": (lambda: Odd(lambda model, inputs: inputs.reshape(7, 7)), "invalid for input of size"),
    "a script": (scripted, "model: "),
    "no model": (lambda: 3, "model: an int; a torch.nn.Module"),
    "a class": (lambda: nn.Linear, "model: a type; a torch.nn.Module"),
    "lazy": (lambda: nn.LazyLinear(3), "a lazy layer has no weights yet"),
    "weights in a list": (listed, "parts holds weights that are no parameters of the model"),
    "a tensor that wants a gradient": (leaf, "extra holds weights that are no parameters"),
    "weights in one memory": (overlapping, "0.bias and 0.weight lie in the same memory"),
    "complex": (lambda: nn.Linear(6, 3, dtype=torch.complex64), "parameters of type ['torch.complex64']"),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:.*torch.jit")
@pytest.mark.parametrize("case", STATES)
def test_models_that_cannot_be_federated(case: str) -> None:
    make, words = STATES[case]
    refused(words, lambda: run(make()))


def parametrized() -> nn.Module:
    model = linear()
    parametrize.register_parametrization(model, "weight", Doubling())
    return model


def twice() -> nn.Module:
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.ReLU(), layer, linear())


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), linear())
    model[1].weight = model[0].weight
    return model


def caching(model: Any, inputs: Tensor) -> Tensor:
    model.last = inputs  # what nobody reads
    return model.linear(inputs)


def frozen_norm() -> nn.Module:
    class Frozen(nn.BatchNorm1d):
        def train(self, mode: bool = True) -> Any:
            return super().train(False)

    return nn.Sequential(linear(), Frozen(3))


RIGHT: dict[str, Callable[[], nn.Module]] = {
    "a parametrization without state": parametrized,
    "weight norm": lambda: parametrizations.weight_norm(linear()),
    "one layer in two places": twice,
    "one weight in two layers": tied,
    "a constant buffer": lambda: Odd(lambda model, inputs: model.linear(inputs - model.mean), mean=torch.ones(6)),
    "what nobody reads": lambda: Odd(caching),
    "dropout": lambda: nn.Sequential(nn.Dropout(0.5), linear()),
    "group norm": lambda: nn.Sequential(linear(), nn.GroupNorm(1, 3)),
    "batch norm that is frozen": frozen_norm,
    "layers that are never used": lambda: Odd(lambda model, inputs: model.linear(inputs), unused=torch.ones(1)),
}


@pytest.mark.parametrize("case", RIGHT)
def test_models_that_can(case: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = RIGHT[case]()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    one = run(model, together=False)
    assert one[0].attrs["status"] == "finished" and bits(run(model, together=False)) == bits(one)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    if case == "one layer in two places":
        with pytest.warns(UserWarning, match="one at a time, not together: a layer is in two places"):
            assert bits(run(model, together=True)) == bits(one)
    elif case != "dropout":
        both = run(model, together=True)
        assert all(torch.allclose(both[1][name], weight, atol=1e-5) for name, weight in one[1].items())


def test_a_batch_of_one_is_tried() -> None:
    model = nn.Sequential(linear(), nn.BatchNorm1d(3, track_running_stats=False))
    assert run(model)[0].attrs["status"] == "finished"
    refused("client 1, of whose 9 samples batch_size 4 leaves one alone", lambda: run(model, [samples(), samples(9)]))
    refused("Expected more than 1 value per channel", lambda: run(model, batch_size=1))
    refused("client 1, of whose 1 samples", lambda: run(model, [samples(), samples(1)]))
    refused("of 1001 samples the last is evaluated alone", lambda: run(model, test=samples(1001)))
    assert run(model, test=samples(1002))[0].attrs["status"] == "finished"


def test_a_loss_is_one_number() -> None:
    refused(
        "loss: returns a tensor of shape (2,)", lambda: run(loss=lambda o, t: cross_entropy(o, t, reduction="none"))
    )
    refused("loss: returns a float", lambda: run(loss=lambda o, t: 0.5))
    refused("loss: 3 is not allowed; a function", lambda: run(loss=3))
    refused("loss: oh", lambda: run(loss=lambda o, t: (_ for _ in ()).throw(ValueError("oh\nno"))))


# --- other arguments ------------------------------------------------------------------------------------------------

WRONG = [1.5, 2.0, "2", True, math.nan, math.inf, None, [2], 2j, torch.tensor(2), np.array([2]), -1, 10**30]


@pytest.mark.parametrize("name", ["rounds", "local_epochs", "batch_size", "evaluate_every", "seed"])
@pytest.mark.parametrize("value", [*WRONG, 0], ids=repr)
def test_whole_numbers(name: str, value: Any) -> None:
    if name == "seed" and value == 0:
        return
    refused(f"{name}: ", lambda: run(**{name: value}))


@pytest.mark.parametrize("name", ["rounds", "local_epochs", "batch_size", "evaluate_every", "seed"])
def test_numpys_numbers_are_numbers(name: str) -> None:
    assert bits(run(**{name: np.int64(2)})) == bits(run(**{name: 2}))


def test_rates() -> None:
    for value in ("0.1", True, math.nan, None, [0.1], 2j, torch.tensor(0.1), 0, -0.1):
        refused("learning_rate, momentum: ", lambda: run(learning_rate=value))  # noqa: B023
    for value in ("0.1", True, math.nan, math.inf, None, [0.1], 2j, 1, -0.1):
        refused("learning_rate, momentum: ", lambda: run(momentum=value))  # noqa: B023
    assert bits(run(learning_rate=np.float32(0.5), momentum=np.float64(0.5))) == bits(run(learning_rate=0.5))


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "keep in a list": ({"keep": [0.1]}, "keep: [0.1] is out of range"),
    "keep as bytes": ({"keep": b"0.1"}, "keep: b'0.1' is out of range"),
    "keep as a truth value": ({"keep": True}, "keep: True is out of range"),
    "keep as a tensor": ({"keep": torch.ones(2)}, "keep: tensor"),
    "keep as an array": ({"keep": np.ones(2)}, "keep: array"),
    "keep that is no number": ({"keep": math.nan}, "keep: nan is out of range"),
    "keep of 0": ({"keep": 0}, "keep: 0 is out of range"),
    "available": ({"available": 1.0}, "available: 1.0 is out of range; 1 to 2, the number of clients"),
    "available as a truth value": ({"available": True}, "available: True is out of range"),
    "available of more": ({"available": 3}, "available: 3 is out of range; 1 to 2"),
    "both": ({"available": 1, "participants": [[0], [1]]}, "participants, available: both given"),
    "participants as numbers": ({"participants": [0, 1]}, "participants: 0 in round 0; distinct clients"),
    "participants as a number": ({"participants": 3}, "participants: 3 is not allowed; one list"),
    "participants as text": ({"participants": ["01", "01"]}, "participants: '01' in round 0; distinct clients"),
    "participants as floats": ({"participants": [[0.0], [1.7]]}, "participants: [0.0] in round 0"),
    "participants as truth values": ({"participants": [[True], [False]]}, "participants: [True] in round 0"),
    "participants that repeat": ({"participants": [[0], [1, 1]]}, "participants: [1, 1] in round 1"),
    "participants without end": ({"participants": [itertools.count(), [0]]}, "in round 0; distinct clients"),
    "nobody": ({"participants": [[0], []]}, "participants: [] in round 1"),
    "settings": ({"settings": 5}, "settings: 5 is not allowed; a mapping"),
    "settings in a list": ({"settings": [1]}, "settings: [1] is not allowed; a mapping"),
    "schedule": ({"schedule": "cosine"}, "schedule: 'cosine' is not allowed; a mapping"),
    "a probe as text": ({"probes": "staleness"}, "probes: 'staleness' is not allowed; a list"),
    "probes that are numbers": ({"probes": [1]}, "probes: [1] is not allowed; a list"),
    "shuffle": ({"shuffle": "no"}, "shuffle: 'no' is not allowed; True or False"),
    "together": ({"together": "yes"}, "together: 'yes' is not allowed; True or False, or None"),
    "tf32": ({"tf32": None}, "tf32: None is not allowed"),
    "staleness": ({"staleness": 2}, "staleness: 2 is not allowed"),
    "a callback": ({"on_round": 1}, "on_round: 1 is not allowed; a function or None"),
    "another callback": ({"on_state": "x"}, "on_state: 'x' is not allowed"),
    "a device that is none": ({"device": "gpu"}, "device: 'gpu' is not here"),
    "a device that is not there": ({"device": "cuda:99"}, "device: 'cuda:99' is not here"),
    "a device that computes nothing": ({"device": "meta"}, "device: 'meta' computes nothing"),
    "no device": ({"device": None}, "device: None is not here"),
    "an empty device": ({"device": ""}, "device: '' is not here"),
    "fidelity": ({"fidelity": ["paper"]}, "fidelity: ['paper'] is unknown"),
    "method": ({"method": None}, "method: None is unknown"),
    "resume": ({"resume": 5}, "resume: 5 is no state"),
    "an empty state": ({"resume": {}}, "resume: {} is no state"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_arguments(case: str) -> None:
    changes, words = OTHERS[case]
    refused(words, lambda: run(**changes))


def test_participants_may_come_one_by_one() -> None:
    expected = bits(run(participants=[[0, 1], [1]]))
    assert bits(run(participants=iter([iter([0, 1]), np.array([1])]))) == expected
    assert bits(run(participants=({0, 1}, {1}))) == expected
    assert bits(run(participants=itertools.repeat([0, 1]))) == bits(run())


# --- a state to go on from ------------------------------------------------------------------------------------------

STATE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another engine": (lambda s: s | {"engine": "both"}, "resume: engine: 'both' is unknown"),
    "more rounds": (lambda s: s | {"completed": 99}, "resume: completed: 99 is out of range; at most 3, the rounds"),
    "fewer than none": (lambda s: s | {"completed": -5}, "resume: completed: -5 is out of range"),
    "half a round": (lambda s: s | {"completed": 1.5}, "resume: completed: 1.5 is not allowed"),
    "text": (lambda s: s | {"uplink": "7"}, "resume: uplink: '7' is not allowed"),
    "no weights": (lambda s: {k: v for k, v in s.items() if k != "server"}, "resume: 'server' is missing"),
    "weights as a list": (lambda s: s | {"server": [1.0]}, "resume: server: a list of 1"),
    "weights of another type": (
        lambda s: s | {"server": s["server"].double()},
        "resume: server: a Tensor, torch.float64",
    ),
    "fewer weights": (lambda s: s | {"server": s["server"][1:]}, "resume: a state of another model"),
    "weights that are none": (lambda s: s | {"server": s["server"] * math.nan}, "resume: server: weights that are not"),
    "no memory": (lambda s: s | {"memory": {}}, "resume: a state of another model, method"),
    "memory as a number": (lambda s: s | {"memory": 3}, "resume: memory: 3 is not allowed; tensors by name"),
    "memory of whole numbers": (
        lambda s: s | {"memory": {name: rows.long() for name, rows in s["memory"].items()}},
        "resume: memory: accumulator: a Tensor, torch.int64",
    ),
    "no history": (lambda s: s | {"history": None}, "resume: history: not rows"),
    "a history of other columns": (lambda s: s | {"history": [{"round": 0}]}, "resume: history: not rows"),
    "a history of later rounds": (lambda s: s | {"history": [row | {"round": 7} for row in s["history"]]}, "below 2"),
    "a history twice": (lambda s: s | {"history": s["history"] * 2}, "resume: history: rows of rounds"),
    "a first loss of text": (lambda s: s | {"first_loss": "x"}, "resume: first_loss: 'x' is not allowed"),
    "no probe": (lambda s: {k: v for k, v in s.items() if "stale" not in k and k in PLAIN}, "resume: the state of the"),
}
PLAIN = (
    "engine",
    "completed",
    "server",
    "memory",
    "server_memory",
    "uplink",
    "downlink",
    "dense",
    "first_loss",
    "history",
)


@pytest.mark.parametrize("case", STATE)
def test_states_of_another_run(case: str) -> None:
    change, words = STATE[case]
    states: list[dict[str, Any]] = []

    def keep(state: dict[str, Any]) -> None:
        states.append(
            {
                name: value.clone()
                if isinstance(value, Tensor)
                else {key: rows.clone() for key, rows in value.items()}
                if isinstance(value, dict)
                else list(value)
                if isinstance(value, list)
                else value
                for name, value in state.items()
            }
        )

    whole = run(rounds=3, staleness=True, on_state=keep)
    rest = run(rounds=3, staleness=True, resume=states[1])
    assert bits(rest) == bits(whole) and rest[0].equals(whole[0])
    refused(words, lambda: run(rounds=3, staleness=True, resume=change(states[1])))


# --- looking changes nothing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [False, True])
def test_looking_leaves_generators_modes_and_buffers_alone(together: bool) -> None:
    model = nn.Sequential(nn.Dropout(0.3), Odd(lambda model, inputs: model.linear(inputs), kept=torch.ones(2))).eval()
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tobytes(), random.getstate()
    run(model, together=together)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tobytes() == before[1] and random.getstate() == before[2]
    assert not model.training and all(p.grad is None for p in model.parameters())


def test_looking_takes_a_handful_of_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []

    def forward(model: Any, inputs: Tensor) -> Tensor:
        passes.append(inputs.shape[-2] if inputs.dim() > 1 else 1)
        return model.linear(inputs)

    monkeypatch.setattr("flare.engine.api.run_rounds", lambda *_: None)
    run(Odd(forward), [samples(100, seed=seed) for seed in range(50)], test=samples(100))
    assert 0 < len(passes) <= 6 and max(passes) <= 2
