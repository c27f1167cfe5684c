"""Limits in which one method must become another, and what a seed promises.

Equalities are bit for bit unless a test says otherwise. Each "is X" test is paired with one that shows the
two differ away from the limit, so that none can pass by doing nothing.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import itertools

import numpy as np
import pytest
import torch
from problem import network, problem
from torch import nn
from torch.nn import functional

import flare
import flare.algorithms
from flare.engine import server
from flare.engine.compressor import Compressor
from flare.engine.layout import Layout
from flare.engine.task import Task
from flare.engine.update import Update
from flare.errors import ConfigError

torch.set_num_threads(1)

METHODS = flare.algorithms.names()
LIVELY = {  # settings under which a method's own term acts; the others have none
    "flare": {"tau": 0.3, "tau_decay": 1.1, "percentile": 50, "pull_steps": 2},
    "fedprox": {"mu": 0.2, "mu_decay": 1.1},
}
NO_MOMENTUM = {"dgc", "scafcom"}  # which take no local one
# Settings under which keep 1 is FedAvg, of methods that are something else with their own; scafcom if all clients
# answer. `stc` sends one magnitude a tensor, so its limit is one entry a tensor (below).
FEDAVG_AT_1 = {"ef21_sgdm": {"eta": 1}, "scafcom": {"beta": 1}}
NEVER_FEDAVG = {"stc"}
# Methods whose first round is not Top-K's: dense, with another loss, other places, other values.
OTHER_FIRST_ROUND = {"fedavg", "fedprox", "randomk", "stc"}
# Its places follow from the run's seed, the round and the client's number.
DRAWN = {"randomk"}
# Methods of which a weight may move that no client that answers has moved: c, or what the server kept.
MOVED_BY_THE_SERVER = {"scafcom", "stc"}
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
        "momentum": 0 if method in NO_MOMENTUM else 0.9,
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
        ("flare", LIVELY["flare"] | {"tau": 0, "count_pull": False}),
        ("flare", LIVELY["flare"] | {"tau": 0, "pull": "memory"}),
        ("flare", LIVELY["flare"] | {"percentile": 100, "pull": "memory"}),
        ("sapef", {"alpha": 0}),
        ("dgc", {"momentum": 0}),
        ("dgc", {"momentum": 0, "masking": False}),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(f"{k}={v}" for k, v in value.items()),
)
def test_is_topk(method: str, settings: dict, fidelity: str, together: bool) -> None:
    momentum = {"momentum": 0} if method in NO_MOMENTUM else {}
    topk = simulate("topk", fidelity=fidelity, together=together, **momentum)
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


@pytest.mark.parametrize("method", sorted(set(METHODS) - OTHER_FIRST_ROUND))
def test_first_round_is_topk(method: str) -> None:
    """Memories start at 0 and FFL's loss ratio at 1; only what FedProx adds to the loss acts in round 0."""
    first = {"participants": WHO[:1], "rounds": 1} | ({"momentum": 0} if method in NO_MOMENTUM else {})
    run, topk = simulate(method, FEDAVG_AT_1.get(method), **first), simulate("topk", **first)
    np.testing.assert_allclose(run[0], topk[0], rtol=0, atol=1e-7)
    assert run[1] == topk[1]


@both_engines
@pytest.mark.parametrize("method", sorted(set(METHODS) - NEVER_FEDAVG))
def test_keep_1_is_fedavg(method: str, together: bool) -> None:
    """To rounding (EF21 adds differences of differences). One step a round, where FedProx's own term is 0."""
    changes = {"keep": 1, "local_epochs": 1, "batch_size": 12, "together": together}
    changes |= {"participants": [[0, 1, 2, 3]] * 5} if method == "scafcom" else {}
    whole, dense = simulate(method, FEDAVG_AT_1.get(method), **changes), simulate("fedavg", **changes)
    np.testing.assert_allclose(whole[0], dense[0], rtol=0, atol=2e-6)
    assert np.abs(whole[0][-1] - simulate("topk", local_epochs=1, batch_size=12)[0][-1]).max() > 1e-3


@both_engines
@pytest.mark.parametrize("method", ["topk", "flare", "ef21", "sapef", "dgc", "econtrol", "ef21_sgdm", "randomk"])
def test_keep_1_is_fedavg_over_many_steps(method: str, together: bool) -> None:
    changes = {"momentum": 0 if method in NO_MOMENTUM else 0.9, "together": together}
    whole = simulate(method, FEDAVG_AT_1.get(method), keep=1, **changes)
    np.testing.assert_allclose(whole[0], simulate("fedavg", **changes)[0], rtol=0, atol=1e-6)


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


@pytest.mark.parametrize("method", sorted(set(METHODS) - DRAWN))
def test_two_equal_clients_are_one(method: str) -> None:
    """The mean of two equal messages is that message, exactly; the wire carries it twice."""
    start, clients = problem(seed=13, dtype=np.float32)
    one = simulate(method, problem=(start, clients[:1]), participants=[[0]] * 4, rounds=4, loss=steady)
    two = simulate(method, problem=(start, clients[:1] * 2), participants=[[0, 1]] * 4, rounds=4, loss=steady)
    assert one[0].tobytes() == two[0].tobytes()
    assert [2 * bits for bits in one[1]] == two[1]


@pytest.mark.parametrize("method", sorted(set(METHODS) - DRAWN))
def test_the_clients_numbering_does_not_matter(method: str) -> None:
    """Clients renumbered, and named in another order each round: only the order of sums changes (float64)."""
    start, clients = problem(seed=14)
    order = [2, 0, 3, 1]
    renumbered = [[order.index(k) for k in reversed(who)] for who in WHO]
    plain = simulate(method, problem=(start, clients))
    mixed = simulate(method, problem=(start, [clients[k] for k in order]), participants=renumbered)
    np.testing.assert_allclose(plain[0], mixed[0], rtol=0, atol=1e-12)
    assert plain[1] == mixed[1]


# --- the limits of the field's methods: test_more_oracle.py has what they are away from them -----------------------


@both_engines
@pytest.mark.parametrize(("method", "settings"), [("econtrol", {"eta": 0}), ("ef21_sgdm", {"eta": 1})])
def test_is_ef21(method: str, settings: dict, together: bool) -> None:
    ef21 = simulate("ef21", together=together)
    assert same_bits(simulate(method, settings, together=together), ef21)
    assert not same_bits(simulate(method, together=together), ef21)


def test_sapef_is_topk_until_a_client_answers_again() -> None:
    """Bit for bit one at a time; a start of its own, all together, is another order of sums."""
    first = {"participants": [[0, 2], [3], [1]], "rounds": 3}
    assert same_bits(simulate("sapef", **first), simulate("topk", **first))
    both = [simulate(method, together=True, **first)[0] for method in ("sapef", "topk")]
    np.testing.assert_allclose(*both, rtol=0, atol=1e-6)
    assert not same_bits(simulate("sapef"), simulate("topk"))


def own_task(settings: object, number: int = 1, **more) -> Task:
    layout = Layout.of([("a", (40,)), ("b", (3, 5)), ("c", (1,))])
    values = dict(number=number, clients=(0,), seeds=(5,), sizes=(4,), keep=0.2, local_epochs=1, batch_size=4)
    values |= dict(learning_rate=0.5, momentum=0.0, shuffle=False, fidelity="paper", layout=layout, settings=settings)
    return Task(**values | more)


def sent(message, like: torch.Tensor) -> torch.Tensor:
    out = torch.zeros_like(like)
    message.add_to(out)
    return out


@pytest.mark.parametrize(
    ("method", "settings", "fed_back"),
    [("sapef", {"alpha": 0.3}, 1 - 0.3), ("topk", {"memory_decay": 0.6}, 0.6), ("topk", {"scope": "model"}, 1),
     ("randomk", {}, 1)],
)  # fmt: skip
@pytest.mark.parametrize("rows", [False, True])
def test_nothing_is_lost(method: str, settings: dict, fed_back: float, rows: bool) -> None:
    """m + A' = u, exactly: of a vector, and of each row of a matrix."""
    chosen = flare.algorithms.load(method)
    own_settings = chosen.settings(**settings)
    shape = (2, 56) if rows else (56,)
    generator = torch.Generator().manual_seed(4)
    difference, memory = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    u = memory * fed_back + difference
    task = own_task(own_settings, clients=(0, 1)[: 1 + rows], seeds=(5, 6)[: 1 + rows], sizes=(4, 4)[: 1 + rows])
    state = {"accumulator": memory}
    message = sent(chosen.message(difference, state, task, task.compressor), u)
    assert torch.equal(message + state["accumulator"], u)
    assert 0 < int((message != 0).sum()) < u.numel() // 3


@both_engines
def test_dgc_that_sends_everything_unmasked_is_a_heavy_ball(together: bool) -> None:
    """On the mean of d, kept across rounds, if all answer: that is FedAvgM."""
    everyone = {"participants": [[0, 1, 2, 3]] * 5, "momentum": 0, "together": together}
    dgc = simulate("dgc", {"momentum": 0.6, "masking": False}, keep=1, **everyone)
    ball = simulate("fedavg", server={"optimizer": "sgd", "learning_rate": 1, "momentum": 0.6}, **everyone)
    np.testing.assert_allclose(dgc[0], ball[0], rtol=0, atol=2e-6)
    assert np.abs(dgc[0] - simulate("dgc", {"momentum": 0.6}, keep=1, **everyone)[0]).max() > 1e-3


@pytest.mark.parametrize("masking", [False, True])
def test_dgc_sends_all_that_it_has_added(masking: bool) -> None:
    """The sum of all m, plus V, is the sum of all U that were added to it."""
    chosen = flare.algorithms.load("dgc")
    task = own_task(chosen.settings(momentum=0.7, masking=masking))
    state = {name: torch.zeros(56, dtype=torch.float64) for name in ("momentum", "accumulator")}
    all_sent = all_added = torch.zeros(56, dtype=torch.float64)
    generator = torch.Generator().manual_seed(4)
    for _ in range(12):
        d = torch.randn(56, generator=generator).double()
        all_added = all_added + 0.7 * state["momentum"] + d
        all_sent = all_sent + sent(chosen.message(d, state, task, task.compressor), d)
    torch.testing.assert_close(all_sent + state["accumulator"], all_added, rtol=0, atol=1e-12)


def test_dgc_warms_up_from_more_to_r() -> None:
    """By hand, R = 1/16 and W = 3: 16^(-1/4) = 1/2, 1/4, 1/8, then 1/16. It never rises, and is R from round W on."""
    chosen = flare.algorithms.load("dgc")
    own = chosen.settings(warmup_rounds=3)
    keeps = [chosen.budget(own_task(own, number=r, keep=1 / 16), None).keep for r in range(6)]
    assert keeps == pytest.approx([1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 16, 1 / 16]) and keeps[3:] == [1 / 16] * 3
    assert chosen.budget(own_task(own, number=0, keep=(0.0625, None)), None).keep == pytest.approx((0.5, None))
    _, bits = simulate("dgc", {"warmup_rounds": 2}, participants=[[0, 1]] * 5, keep=0.02)
    costs = np.diff(bits, prepend=0)
    assert costs[0] > costs[1] > costs[2] == costs[3] == costs[4]


@both_engines
def test_a_memory_that_is_forgotten_never_matters(together: bool) -> None:
    states: list[dict] = []
    run = simulate("topk", {"memory_decay": 0}, together=together, on_state=lambda s: states.append(copy.deepcopy(s)))
    states[1]["memory"]["accumulator"] *= -7
    rest = simulate("topk", {"memory_decay": 0}, together=together, resume=states[1])
    assert rest[0].tobytes() == run[0][2:].tobytes()
    assert not same_bits(run, simulate("topk", together=together))


@both_engines
def test_scopes_of_one_tensor_and_of_everything(together: bool) -> None:
    one = lambda: nn.Sequential(nn.Linear(6, 3, bias=False))  # noqa: E731
    torch.manual_seed(3)
    model = one()
    runs = [simulate("topk", {"scope": scope}, model=model, together=together) for scope in ("tensor", "model")]
    assert same_bits(*runs)
    whole = [simulate("topk", {"scope": scope}, keep=1, together=together) for scope in ("tensor", "model")]
    assert whole[0][0].tobytes() == whole[1][0].tobytes() and whole[0][1] != whole[1][1]
    some = simulate("topk", {"scope": "model"}, together=together)
    parameters = 8 * 6 + 8 + 5 * 8 + 5 + 3 * 5 + 3
    sums = np.cumsum([len(who) for who in WHO])
    assert some[1] == (sums * round(0.1 * parameters) * (32 + 7)).tolist()
    assert not same_bits(some, simulate("topk", together=together))


@pytest.mark.parametrize("rows", [False, True])
def test_one_entry_a_tensor_is_ternary_already(rows: bool) -> None:
    task = own_task(None, keep=1e-9)
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 56) if rows else 56))
    exact = sent(task.compressor(x), x)
    assert torch.equal(sent(task.compressor.ternary(x), x), exact) and int((exact != 0).sum()) == 3 * (3 if rows else 1)


@both_engines
def test_stc_without_signs_and_with_an_exact_downlink_is_topk(together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stc = importlib.import_module("flare.algorithms.stc")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Compressor, "ternary", Compressor.__call__)
        patch.setattr(stc, "METHOD", dataclasses.replace(stc.METHOD, apply=flare.algorithms.add_update))
        changed = simulate("stc", together=together)
    topk = simulate("topk", together=together)
    assert same_bits(changed, topk) and not same_bits(simulate("stc", together=together), topk)


def test_stc_server_sends_all_means_in_the_end() -> None:
    """The sum of all changes of w, plus the server's A, is the sum of all means; so is m + A' = u at a client."""
    chosen = flare.algorithms.load("stc")
    task, generator = own_task(None), torch.Generator().manual_seed(4)
    w, means = torch.zeros(2, 56, dtype=torch.float64)
    kept = {"accumulator": torch.zeros(56, dtype=torch.float64)}
    for _ in range(9):
        mean = torch.randn(56, generator=generator).double()
        means += mean
        bits = chosen.apply(w, Update(1, mean.clone()), kept, task)
        assert 3 * 32 < bits < 3 * 32 + 12 * 10
        torch.testing.assert_close(w + kept["accumulator"], means, rtol=0, atol=1e-12)
    state, d = {"accumulator": means.clone()}, torch.randn(56, generator=generator).double()
    message = sent(chosen.message(d.clone(), state, task, task.compressor), d)
    torch.testing.assert_close(message + state["accumulator"], means + d, rtol=0, atol=1e-12)


def test_econtrol_accounts_for_every_difference() -> None:
    """The error memory and the sum of all h contributed are the sum of all d; at keep 1 the memory stays exactly 0."""
    chosen = flare.algorithms.load("econtrol")
    for keep in (0.2, 1.0):
        task, generator = own_task(chosen.settings(eta=0.4), keep=keep), torch.Generator().manual_seed(4)
        state = {name: torch.zeros(56, dtype=torch.float64) for name in ("accumulator", "estimate")}
        contributed, given = torch.zeros(2, 56, dtype=torch.float64)
        for _ in range(9):
            d = torch.randn(56, generator=generator).double()
            given += d
            message = chosen.message(d, state, task, task.compressor)
            chosen.receive(contributed, message, state, task)
            torch.testing.assert_close(state["accumulator"] + contributed, given, rtol=0, atol=1e-12)
        assert bool(state["accumulator"].any()) == (keep < 1)


def test_ef21_sgdm_that_sends_everything_contributes_an_exponential_mean() -> None:
    chosen = flare.algorithms.load("ef21_sgdm")
    task, generator = own_task(chosen.settings(eta=0.25), keep=1.0), torch.Generator().manual_seed(4)
    state = {name: torch.zeros(56, dtype=torch.float64) for name in ("mean", "estimate")}
    mean = torch.zeros(56, dtype=torch.float64)
    for _ in range(9):
        d = torch.randn(56, generator=generator).double()
        mean = 0.75 * mean + 0.25 * d
        chosen.message(d, state, task, task.compressor)
        torch.testing.assert_close(state["estimate"], mean, rtol=0, atol=1e-12)


@both_engines
def test_scafcom_that_sends_everything_is_scaffold(together: bool) -> None:
    """SCAFFOLD's option II with a global rate of 0.8, written out; four clients of which some answer, float64."""
    start, clients = problem(seed=11)
    server = {"optimizer": "sgd", "learning_rate": 0.8, "momentum": 0}
    run = simulate("scafcom", {"beta": 1}, problem=(start, clients), keep=1, server=server, together=together)
    model = network(start, relu=True)
    w = nn.utils.parameters_to_vector(model.parameters()).detach()
    c, each = torch.zeros_like(w), torch.zeros(4, len(w), dtype=w.dtype)
    for number, who in enumerate(WHO):
        moves, controls = [], []
        for k in who:
            x, y = (torch.from_numpy(part) for part in clients[k])
            v, steps = w.clone(), 0
            for _ in range(2):
                for batch, targets in zip(x.split(5), y.split(5), strict=True):
                    nn.utils.vector_to_parameters(v, model.parameters())
                    loss = functional.cross_entropy(model(batch), targets)
                    gradient = torch.autograd.grad(loss, list(model.parameters()))
                    v = v - 0.1 * (nn.utils.parameters_to_vector(gradient) - each[k] + c)
                    steps += 1
            fresh = each[k] - c + (w - v) / (0.1 * steps)
            moves.append(v - w)
            controls.append(fresh - each[k])
            each[k] = fresh
        w = w + 0.8 * sum(moves) / len(who)
        c = c + sum(controls) / 4
        np.testing.assert_allclose(run[0][number], w.numpy(), rtol=0, atol=1e-9)


@both_engines
def test_scafcom_servers_control_is_the_mean_of_all_clients(together: bool) -> None:
    def look(state: dict) -> None:
        mean = state["memory"]["control"].mean(0)
        torch.testing.assert_close(state["server_memory"]["control"], mean, rtol=0, atol=1e-6)
        assert bool(mean.any())

    simulate("scafcom", together=together, on_state=look)
    chosen = flare.algorithms.load("scafcom")
    assert chosen.pull(None, {}, own_task(chosen.settings(), number=0)) is None


SERVER_STEP = sorted(set(METHODS) - {"stc"})


@both_engines
@pytest.mark.parametrize("method", METHODS)
def test_a_server_that_adds_the_mean_is_today(method: str, together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, also if its arithmetic is carried out."""
    plain = simulate(method, together=together)
    added = {"optimizer": "sgd", "learning_rate": 1, "momentum": 0}
    assert same_bits(simulate(method, together=together, server=added), plain)
    if method in SERVER_STEP:
        monkeypatch.setattr(server, "is_today", lambda step: False)
        assert same_bits(simulate(method, together=together, server=added), plain)
        assert not same_bits(simulate(method, together=together, server=added | {"momentum": 0.5}), plain)


@both_engines
def test_server_steps_by_the_mean_alone(together: bool) -> None:
    """Without memory: sgd moves w by s g, adam by s g / (|g| + eps)."""
    changes = {"problem": problem(seed=11), "participants": WHO[:1], "rounds": 1, "together": together}
    w = np.concatenate([part.ravel() for part in problem(seed=11)[0]])
    g = simulate("topk", **changes)[0][0] - w
    half = simulate("topk", server={"optimizer": "sgd", "learning_rate": 0.5, "momentum": 0.9}, **changes)[0][0]
    np.testing.assert_allclose(half, w + 0.5 * g, rtol=0, atol=1e-14)
    adam = {"optimizer": "adam", "learning_rate": 0.3, "beta1": 0, "beta2": 0, "epsilon": 0.01}
    moved = simulate("topk", server=adam, **changes)[0][0]
    np.testing.assert_allclose(moved, w + 0.3 * g / (np.abs(g) + 0.01), rtol=0, atol=1e-14)


@both_engines
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("method", ["topk", "scafcom", "dgc", "sapef"])
def test_what_the_servers_step_keeps_is_resumed(method: str, optimizer: str, together: bool) -> None:
    step = {"optimizer": optimizer} | ({"momentum": 0.5} if optimizer == "sgd" else {"learning_rate": 0.02})
    states: list[dict] = []
    run = simulate(method, together=together, server=step, on_state=lambda s: states.append(copy.deepcopy(s)))
    for done, state in enumerate(states[:-1], 1):
        rest = simulate(method, together=together, server=step, resume=state)
        assert rest[0].tobytes() == run[0][done:].tobytes() and rest[1] == run[1]


@both_engines
@pytest.mark.parametrize("tau", [0.3, 20.0])
def test_flares_controls_with_one_step_a_round(tau: float, together: bool) -> None:
    """The push taken out again is Top-K, a memory inflated by it is FLARE: there is no gradient at a pulled point."""
    one = {"local_epochs": 1, "batch_size": 12, "together": together, "problem": problem(seed=11)}
    pulled = LIVELY["flare"] | {"tau": tau}
    uncounted = simulate("flare", pulled | {"count_pull": False}, **one)
    np.testing.assert_allclose(uncounted[0], simulate("topk", **one)[0], rtol=0, atol=1e-12)
    flares = simulate("flare", pulled, **one)
    np.testing.assert_allclose(simulate("flare", pulled | {"pull": "memory"}, **one)[0], flares[0], rtol=0, atol=1e-12)
    assert np.abs(uncounted[0] - flares[0]).max() > 1e-3


@both_engines
@pytest.mark.parametrize("method", [name for name in flare.algorithms.names() if name not in NO_MOMENTUM])
def test_momentum_does_nothing_with_one_step_a_round(method: str, together: bool) -> None:
    """Every round starts it anew, so before a client's only step the velocity is 0: whatever the method."""
    one = {"local_epochs": 1, "batch_size": 12, "together": together, "problem": problem(seed=11)}
    still = simulate(method, LIVELY.get(method, {}), momentum=0, **one)
    assert same_bits(simulate(method, LIVELY.get(method, {}), momentum=0.99, **one), still)
    # With two steps it does.
    two = one | {"local_epochs": 2}
    moved = [simulate(method, LIVELY.get(method, {}), momentum=momentum, **two) for momentum in (0, 0.99)]
    assert not same_bits(*moved)


@both_engines
@pytest.mark.parametrize("control", [{"count_pull": False}, {"pull": "memory"}])
def test_flares_controls_with_more_steps(control: dict, together: bool) -> None:
    """All differ, except that keep 1 is FedAvg."""
    settings = LIVELY["flare"] | control
    run = simulate("flare", settings, together=together)
    assert not same_bits(run, simulate("topk", together=together))
    assert not same_bits(run, simulate("flare", together=together))
    whole, dense = simulate("flare", settings, keep=1, together=together), simulate("fedavg", together=together)
    np.testing.assert_allclose(whole[0], dense[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "settings", "changes", "said"),
    [
        ("dgc", {}, {"momentum": 0.9}, "method dgc: momentum: 0.9 in the local steps is not allowed; 0"),
        ("scafcom", {}, {"momentum": 0.1}, "method scafcom: momentum: 0.1 in the local steps is not allowed; 0"),
        ("stc", {}, {"server": {"optimizer": "sgd", "learning_rate": 0.5}}, "method stc: server: not allowed with stc"),
        ("stc", {}, {"server": {"optimizer": "adam"}}, "method stc: server: not allowed with stc"),
        ("flare", {"count_pull": False, "pull": "memory"}, {}, "count_pull: False is not allowed with pull: memory"),
        ("sapef", {"alpha": 1.1}, {}, "method sapef: alpha: 1.1 is not allowed; a number, at least 0, at most 1"),
        ("topk", {"memory_decay": -0.1}, {}, "memory_decay: -0.1 is not allowed"),
        ("topk", {"scope": "layer"}, {}, "scope: 'layer' is not allowed; tensor or model"),
        ("flare", {"pull": "both"}, {}, "pull: 'both' is not allowed; gradient or memory"),
        ("fedavg", {"value_bits": 8}, {}, "value_bits: 8 is not allowed; 32 or 16"),
        ("ef21_sgdm", {"eta": 0}, {}, "eta: 0 is not allowed; a number, above 0, at most 1"),
        ("econtrol", {"eta": -1}, {}, "eta: -1 is not allowed"),
        ("scafcom", {"beta": 2}, {}, "beta: 2 is not allowed"),
        ("dgc", {"momentum": 1}, {}, "momentum: 1 is not allowed; a number, at least 0, below 1"),
        ("dgc", {"warmup_rounds": -1}, {}, "warmup_rounds: -1 is not allowed"),
        ("topk", {}, {"server": {"optimizer": "adm"}}, "server: optimizer: 'adm' is unknown (did you mean 'adam'?)"),
        ("topk", {}, {"server": {"learning_rate": 1}}, "server: 'optimizer' is missing; one of sgd, adam"),
        ("topk", {}, {"server": {"optimizer": "adam", "momentum": 0.9}}, "server: adam: 'momentum' is unknown"),
        ("topk", {}, {"server": {"optimizer": "sgd", "momentum": 1}}, "server: sgd: momentum: 1 is not allowed"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_one_line_before_the_first_round(method, settings, changes, said) -> None:
    with pytest.raises(ConfigError) as refused:
        simulate(method, settings, **changes)
    assert said in str(refused.value) and "\n" not in str(refused.value)


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


@pytest.mark.parametrize("method", sorted(set(METHODS) - DRAWN))
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
    """Who answered in each round, read off the weights (client k only moves column k), and the whole run.

    Where the server moves weights, too, or client k moves none, it is read off what the clients keep.
    """
    kept: list[torch.Tensor] = []
    x, y = np.eye(6, dtype=np.float32)[:, None, :], np.zeros((6, 1), dtype=np.int64)
    start = [np.zeros((3, 6), dtype=np.float32), np.zeros(3, dtype=np.float32)]
    changes = {"problem": (start, list(zip(x, y, strict=True))), "participants": None, "rounds": 7} | changes
    on_state = lambda state: kept.append(torch.cat([*state["memory"].values(), torch.zeros(6, 1)], 1))  # noqa: E731
    seen = simulate(method, available=available, seed=seed, on_state=on_state, **changes)
    columns = seen[0][:, :18].reshape(-1, 3, 6)
    steps = np.abs(np.diff(columns, axis=0, prepend=0)).sum(axis=1)
    if method in MOVED_BY_THE_SERVER:
        steps = np.zeros_like(steps)
    if method in MOVED_BY_THE_SERVER | DRAWN:
        steps += np.abs(np.diff(torch.stack(kept).numpy(), axis=0, prepend=0)).sum(axis=2)
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
    assert replayed == reference and (method in DRAWN or same_bits(again, seen))


def test_draw_covers_the_clients_evenly() -> None:
    """200 rounds of 2 out of 6: each client answers about 66 times (5 standard deviations are 33)."""
    drawn, _ = draw("fedavg", seed=0, available=2, rounds=200)
    counts = np.bincount(list(itertools.chain(*drawn)), minlength=6)
    assert counts.sum() == 400 and (np.abs(counts - 400 / 6) < 33).all()


def test_all_available_is_everyone() -> None:
    assert draw("fedavg", seed=0, available=6)[0] == [list(range(6))] * 7
    assert draw("fedavg", seed=0, available=None)[0] == [list(range(6))] * 7
