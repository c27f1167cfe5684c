"""Limits in which one method must become another, and what a seed promises.

Equalities are bit for bit unless a test says otherwise. Each "is X" test is paired with one that shows the
two differ away from the limit, so that none can pass by doing nothing.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from problem import network, problem
from torch import nn
from torch.nn import functional

import flare
import flare.algorithms

torch.set_num_threads(1)

METHODS = flare.algorithms.names()
LIVELY = {  # settings under which a method's own term acts; the others have none
    "flare": {"tau": 0.3, "tau_decay": 1.1, "percentile": 50, "pull_steps": 2},
    "fedprox": {"mu": 0.2, "mu_decay": 1.1},
}
WHO = [[0, 1, 2, 3], [0, 2], [3, 1, 0], [2], [1, 3]]


def simulate(method: str, settings: dict | None = None, **changes):
    """Five rounds of a small network on four unequal clients, float32: weights and uplink bits by round."""
    start, clients = changes.pop("problem", None) or problem(seed=11, dtype=np.float32)
    model = changes.pop("model", None) or network(start, relu=True)
    tensors = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in clients]
    seen: list[np.ndarray] = []
    arguments = {
        "test": tensors[0],
        "keep": 0.1,
        "rounds": len(WHO),
        "local_epochs": 2,
        "batch_size": 5,
        "learning_rate": 0.1,
        "momentum": 0.9,
        "participants": WHO,
        "evaluate_every": 1,
    } | changes
    if settings is None:
        settings = LIVELY.get(method, {})
    if method == "fedavg":
        arguments["keep"] = "dense"
    history, final = flare.simulate(
        model,
        tensors,
        method=method,
        settings=settings,
        on_round=lambda _, weights: seen.append(torch.cat([w.flatten() for w in weights.values()]).numpy()),
        **arguments,
    )
    assert np.isfinite(seen[-1]).all() and list(final) == [name for name, _ in model.named_parameters()]
    return np.stack(seen), history["uplink_bits"].tolist()


def same_bits(a, b) -> bool:
    return a[0].tobytes() == b[0].tobytes() and a[1] == b[1]


def steady(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """A loss whose value is 1 for ever and whose gradient is that of cross-entropy."""
    loss = functional.cross_entropy(z, y)
    return loss - loss.detach() + 1


# --- one method becomes another ----------------------------------------------------------------------------

both_engines = pytest.mark.parametrize("together", [False, True], ids=["one-at-a-time", "together"])


@both_engines
@pytest.mark.parametrize("fidelity", ["paper", "authors"])
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        # No pull, so under `authors` no momentum is lost after it either.
        ("flare", LIVELY["flare"] | {"tau": 0}),
        ("flare", LIVELY["flare"] | {"tau": 0, "pull_steps": "all"}),
        ("flare", LIVELY["flare"] | {"pull_steps": 0}),
        # Nothing lies above the largest magnitude.
        ("flare", LIVELY["flare"] | {"percentile": 100, "pull_steps": "all"}),
        ("fedprox", LIVELY["fedprox"] | {"mu": 0}),
    ],
    ids=["tau=0", "tau=0,p=all", "p=0", "t=100", "mu=0"],
)
def test_is_topk(method: str, settings: dict, fidelity: str, together: bool) -> None:
    topk = simulate("topk", fidelity=fidelity, together=together)
    assert same_bits(simulate(method, settings, fidelity=fidelity, together=together), topk)
    assert not same_bits(simulate(method, fidelity=fidelity, together=together), topk)


def test_dense_fedprox_without_mu_is_fedavg() -> None:
    fedavg = simulate("fedavg")
    assert same_bits(simulate("fedprox", {"mu": 0}, keep="dense"), fedavg)
    assert not same_bits(simulate("fedprox", keep="dense"), fedavg)


@both_engines
@pytest.mark.parametrize("mu", [0.2, 10.0])
def test_fedprox_with_one_step_a_round_is_topk(mu: float, together: bool) -> None:
    one_step = {"local_epochs": 1, "batch_size": 12, "together": together}
    assert same_bits(simulate("fedprox", {"mu": mu}, **one_step), simulate("topk", **one_step))


@both_engines
def test_ffl_with_a_constant_loss_is_topk(together: bool) -> None:
    topk = simulate("topk", loss=steady, together=together)
    assert same_bits(simulate("ffl", loss=steady, together=together), topk)
    assert same_bits(topk, simulate("topk", together=together))  # the steady loss trains like cross-entropy
    assert not same_bits(simulate("ffl", together=together), topk)


def test_flare_is_topk_until_a_client_answers_again() -> None:
    """A memory of zeros pulls nothing, in round 0 or in a client's first answer, however late."""
    first = {"participants": [[0, 2], [3], [1]], "rounds": 3}
    assert same_bits(simulate("flare", **first), simulate("topk", **first))
    again = {"participants": [[0, 2], [3], [1], [2]], "rounds": 4}
    flare_run, topk_run = simulate("flare", **again), simulate("topk", **again)
    assert flare_run[0][:3].tobytes() == topk_run[0][:3].tobytes()
    assert flare_run[0][3].tobytes() != topk_run[0][3].tobytes()


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"fedavg", "fedprox"}))
def test_first_round_is_topk(method: str) -> None:
    """Memories start at 0 and FFL's loss ratio at 1; only what FedProx adds to the loss acts in round 0."""
    first = {"participants": WHO[:1], "rounds": 1}
    np.testing.assert_allclose(simulate(method, **first)[0], simulate("topk", **first)[0], rtol=0, atol=1e-7)
    assert simulate(method, **first)[1] == simulate("topk", **first)[1]


@pytest.mark.parametrize("method", METHODS)
def test_keep_1_is_fedavg(method: str) -> None:
    """To rounding (EF21 adds differences of differences). One step a round, where FedProx's own term is 0."""
    changes = {"keep": 1, "local_epochs": 1, "batch_size": 12}
    whole, dense = simulate(method, **changes), simulate("fedavg", **changes)
    np.testing.assert_allclose(whole[0], dense[0], rtol=0, atol=1e-6)
    assert np.abs(whole[0][-1] - simulate("topk", local_epochs=1, batch_size=12)[0][-1]).max() > 1e-3


@pytest.mark.parametrize("method", ["topk", "flare", "ef21"])
def test_keep_1_is_fedavg_over_many_steps(method: str) -> None:
    np.testing.assert_allclose(simulate(method, keep=1)[0], simulate("fedavg")[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_epochs_are_passes_in_fixed_order(method: str) -> None:
    """Three epochs over one batch are one epoch over the batch repeated three times.

    To rounding in float64: a batch that lies elsewhere in memory may be summed in another order.
    """
    start, clients = problem(seed=12)
    clients = [(x[:7], y[:7]) for x, y in clients]
    thrice = [(np.concatenate([x] * 3), np.concatenate([y] * 3)) for x, y in clients]
    epochs = simulate(method, problem=(start, clients), local_epochs=3, batch_size=7, loss=steady)
    repeated = simulate(method, problem=(start, thrice), local_epochs=1, batch_size=7, loss=steady)
    np.testing.assert_allclose(epochs[0], repeated[0], rtol=0, atol=1e-12)
    assert epochs[1] == repeated[1]


@pytest.mark.parametrize("method", METHODS)
def test_two_equal_clients_are_one(method: str) -> None:
    """The mean of two equal messages is that message, exactly; the wire carries it twice."""
    start, clients = problem(seed=13, dtype=np.float32)
    one = simulate(method, problem=(start, clients[:1]), participants=[[0]] * 4, rounds=4, loss=steady)
    two = simulate(method, problem=(start, clients[:1] * 2), participants=[[0, 1]] * 4, rounds=4, loss=steady)
    assert one[0].tobytes() == two[0].tobytes()
    assert [2 * bits for bits in one[1]] == two[1]


@pytest.mark.parametrize("method", METHODS)
def test_the_clients_numbering_does_not_matter(method: str) -> None:
    """Clients renumbered, and named in another order each round: only the order of sums changes (float64)."""
    start, clients = problem(seed=14)
    order = [2, 0, 3, 1]
    renumbered = [[order.index(k) for k in reversed(who)] for who in WHO]
    plain = simulate(method, problem=(start, clients))
    mixed = simulate(method, problem=(start, [clients[k] for k in order]), participants=renumbered)
    np.testing.assert_allclose(plain[0], mixed[0], rtol=0, atol=1e-12)
    assert plain[1] == mixed[1]


# --- what a seed promises ----------------------------------------------------------------------------------


class Dropping(nn.Module):
    """A network with its own random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3))
        for i, p in enumerate(self.parameters()):
            p.data = torch.from_numpy(np.random.default_rng(i).normal(0, 0.5, p.shape).astype(np.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_bits(method: str) -> None:
    """Draws, shuffling and dropout follow the run's seed, whatever state the global generators are in."""
    changes = {"participants": None, "available": 2, "rounds": 4, "shuffle": True}
    runs = []
    for noise, seed in ((1, 5), (2, 5), (1, 6)):
        torch.manual_seed(noise)
        np.random.seed(noise)
        runs.append(simulate(method, model=Dropping(), seed=seed, **changes))
    assert same_bits(runs[0], runs[1])
    assert not same_bits(runs[0], runs[2])


@pytest.mark.parametrize("method", METHODS)
def test_fixed_order_and_no_dropout_leave_the_seed_nothing_to_do(method: str) -> None:
    assert same_bits(simulate(method, seed=1), simulate(method, seed=2))
    assert not same_bits(simulate(method, seed=1, shuffle=True), simulate(method, seed=2, shuffle=True))


@pytest.mark.parametrize("method", METHODS)
def test_the_callers_model_is_left_alone(method: str) -> None:
    start, _ = problem(seed=11, dtype=np.float32)
    model = network(start, relu=True)
    first = simulate(method, model=model)
    for p, w in zip(model.parameters(), start, strict=True):
        np.testing.assert_array_equal(p.detach().numpy(), w)
        assert p.grad is None
    assert same_bits(simulate(method, model=model), first)


def draw(method: str, seed: int, available: int | None, **changes):
    """Who answered in each round, read off the weights (client k only moves column k), and the whole run."""
    x, y = np.eye(6, dtype=np.float32)[:, None, :], np.zeros((6, 1), dtype=np.int64)
    start = [np.zeros((3, 6), dtype=np.float32), np.zeros(3, dtype=np.float32)]
    changes = {"problem": (start, list(zip(x, y, strict=True))), "participants": None, "rounds": 7} | changes
    seen = simulate(method, available=available, seed=seed, **changes)
    columns = seen[0][:, :18].reshape(-1, 3, 6)
    steps = np.abs(np.diff(columns, axis=0, prepend=0)).sum(axis=1)
    return [np.flatnonzero(step).tolist() for step in steps], seen


@pytest.mark.parametrize("method", METHODS)
def test_draw_depends_on_the_seed_and_the_round_alone(method: str) -> None:
    """The same clients in the same round for every method, keep, number of epochs, length of run."""
    reference, _ = draw("topk", seed=3, available=2)
    assert all(len(who) == 2 for who in reference)
    assert len({tuple(who) for who in reference}) > 1  # rounds differ
    drawn, seen = draw(method, seed=3, available=2)
    assert drawn == reference
    assert draw(method, seed=3, available=2, rounds=4)[0] == reference[:4]
    assert draw(method, seed=3, available=2, keep=1, local_epochs=1, shuffle=True)[0] == reference
    assert draw(method, seed=4, available=2)[0] != reference
    replayed, again = draw(method, seed=9, available=None, participants=reference)
    assert replayed == reference and same_bits(again, seen)


def test_draw_covers_the_clients_evenly() -> None:
    """200 rounds of 2 out of 6: each client answers about 66 times (5 standard deviations are 33)."""
    drawn, _ = draw("fedavg", seed=0, available=2, rounds=200)
    counts = np.bincount(list(itertools.chain(*drawn)), minlength=6)
    assert counts.sum() == 400 and (np.abs(counts - 400 / 6) < 33).all()


def test_all_available_is_everyone() -> None:
    assert draw("fedavg", seed=0, available=6)[0] == [list(range(6))] * 7
    assert draw("fedavg", seed=0, available=None)[0] == [list(range(6))] * 7
