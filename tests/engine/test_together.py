"""Clients that advance together give what clients that advance one at a time give, and selection of rows is exact."""

from __future__ import annotations

import dataclasses
import functools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import flare
import flare.algorithms
from flare.algorithms import ffl
from flare.engine.layout import Layout
from flare.engine.network import double_softmax
from flare.engine.select import percentile_of_rows, select_above_rank, select_of_rows
from flare.engine.together import Together
from flare.errors import ConfigError
from flare.models import cnn, fc, gru

torch.set_num_threads(1)

LIVELY = {
    "flare": {"tau": 0.3, "tau_decay": 1.1, "percentile": 50, "pull_steps": 2},
    "fedprox": {"mu": 0.2, "mu_decay": 1.1},
}
SIZES = (12, 7, 12, 10, 12)
WHO = [[0, 1, 2, 3, 4], [0, 2], [3, 1, 4], [1], [0, 2, 3], [0, 1, 2, 3, 4]]


def clients(sizes=SIZES, shape=(6,), dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    return [
        (torch.rand(n, *shape, generator=generator, dtype=dtype), torch.randint(10, (n,), generator=generator))
        for n in sizes
    ]


@functools.cache
def network(shape=(6,), dtype=torch.float64) -> nn.Module:
    torch.manual_seed(1)
    if len(shape) == 3:
        return cnn.build(shape, 10, cnn.Settings(filters=2, hidden=6)).to(dtype)
    return nn.Sequential(*fc.build(shape, 10, fc.Settings(width=9, hidden_layers=1)), nn.Tanh()).to(dtype)


def simulate(*, together, method="flare", own=None, data=None, model=None, **changes):
    """The weights after every round, the history's rows and what the run says of itself."""
    seen: list[np.ndarray] = []
    arguments = {
        "keep": "dense" if method == "fedavg" else 0.1,
        "rounds": len(WHO),
        "local_epochs": 2,
        "batch_size": 5,
        "learning_rate": 0.1,
        "momentum": 0 if method in ("dgc", "scafcom") else 0.9,
        "participants": WHO,
        "evaluate_every": 1,
    } | changes
    data = data or clients()
    history, _ = flare.simulate(
        model or network(),
        data,
        test=data[0],
        method=method,
        settings=LIVELY.get(method, {}) if own is None else own,
        on_round=lambda _, weights: seen.append(torch.cat([w.flatten() for w in weights.values()]).numpy()),
        together=together,
        **arguments,
    )
    return np.stack(seen), history


def check(tolerance=1e-10, **arguments):
    alone, history = simulate(together=False, **arguments)
    beside, stacked = simulate(together=True, **arguments)
    assert (history.attrs["engine"], stacked.attrs["engine"]) == ("one-at-a-time", "together")
    assert np.abs(alone - beside).max() < tolerance and np.abs(alone[-1] - alone[0]).max() > 1e-3
    assert history["uplink_bits"].tolist() == stacked["uplink_bits"].tolist()
    assert history["downlink_bits"].tolist() == stacked["downlink_bits"].tolist()
    assert history.attrs["dense_bits"] == stacked.attrs["dense_bits"]
    np.testing.assert_allclose(
        history.to_numpy(float), stacked.to_numpy(float), rtol=tolerance * 100, atol=tolerance * 100
    )


@pytest.mark.parametrize("fidelity", ["paper", "authors"])
@pytest.mark.parametrize("method", flare.algorithms.names())
def test_every_method_agrees_on_unequal_clients(method, fidelity):
    check(method=method, fidelity=fidelity)


@pytest.mark.parametrize("method", flare.algorithms.names())
def test_every_method_agrees_on_equal_clients_that_all_answer(method):
    check(method=method, data=clients((10,) * 4), participants=None, staleness=True, local_epochs=1, rounds=4)


@pytest.mark.parametrize(
    "changes",
    [
        {"own": {"tau": 0.3, "pull_steps": 1}},
        {"own": {"tau": 0.3, "pull_steps": "all"}},
        {"own": {"tau": 0.3, "pull_steps": "all", "percentile": 100}, "fidelity": "authors"},
        {"shuffle": True},
        {"participants": None, "available": 3, "staleness": True},
        {"keep": 1},
        {"keep": "dense", "method": "ef21"},
        {"keep": 1e-9, "method": "topk"},
        {"batch_size": 100, "momentum": 0.0},
        {"batch_size": 1, "local_epochs": 1},
        {"loss": double_softmax},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_every_setting_agrees(changes):
    check(**changes)


@pytest.mark.parametrize("method", ["fedavg", "flare"])
def test_convolutions_agree(method):
    shape = (1, 16, 16)
    check(method=method, data=clients((6, 6, 4), shape), model=network(shape), participants=None, rounds=3)


def test_single_precision_agrees_to_its_rounding():
    data = clients(dtype=torch.float32)
    check(1e-6, data=data, model=network(dtype=torch.float32), method="topk", keep=1)


def test_goes_on_from_a_state_with_the_same_bits():
    states = []

    def keep(state):
        states.append({k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in state.items()})
        states[-1] |= {"memory": {n: rows.clone() for n, rows in state["memory"].items()}}
        states[-1] |= {"history": list(state["history"])}

    whole, history = simulate(together=True, staleness=True, on_state=keep)
    rest, resumed = simulate(together=True, staleness=True, resume=states[2])
    assert whole[3:].tobytes() == rest.tobytes()
    assert history.equals(resumed)


def test_same_seed_same_bits():
    first, second = (simulate(together=True, shuffle=True)[0] for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_dropout_draws_a_mask_for_every_client():
    model = nn.Sequential(network(), nn.Dropout(0.5)).double()
    (first, history), (second, _) = (simulate(together=True, model=model) for _ in range(2))
    assert history.attrs["engine"] == "together" and first.tobytes() == second.tobytes()
    # Two clients with the same data differ in nothing but their masks.
    same = [clients()[0]] * 2
    both, one = (simulate(together=True, model=model, data=same[:n], participants=None)[0][0] for n in (2, 1))
    assert np.abs(both - one).max() > 1e-6


def test_divergence_is_recorded_as_one_at_a_time():
    with np.errstate(all="ignore"):
        ends = []
        for together in (False, True):
            history = flare.simulate(
                nn.Linear(6, 10).double(),
                [(x * 1e200, y) for x, y in clients()],
                test=clients()[0],
                method="topk",
                keep=0.5,
                rounds=9,
                local_epochs=1,
                batch_size=5,
                learning_rate=1e200,
                momentum=0.0,
                together=together,
            )[0]
            ends.append([history.attrs[key] for key in ("status", "diverged_round", "rounds")])
    assert ends[0] == ends[1] and ends[0][0] == "diverged"


@pytest.mark.parametrize("together", [False, True])
def test_epochs_that_the_loss_drives_end_where_it_is_no_longer_finite(together, monkeypatch):
    endless = dataclasses.replace(ffl.METHOD, budget=lambda task, _: dataclasses.replace(task, local_epochs=10**12))
    monkeypatch.setattr(ffl, "METHOD", endless)
    history = flare.simulate(
        nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 10)).double(),
        clients(),
        test=clients()[0],
        method="ffl",
        keep=0.5,
        rounds=9,
        local_epochs=1,
        batch_size=5,
        learning_rate=1e9,
        momentum=0.0,
        shuffle=True,
        together=together,
    )[0]
    assert history.attrs["diverged_round"] == 0


def test_recurrent_layers_go_one_at_a_time_and_it_is_said():
    data = [(torch.randint(8, (4, 5)), torch.randint(8, (4, 5))) for _ in range(2)]
    model = gru.build((5,), 8, gru.Settings(embedding=3, hidden=4))
    with pytest.warns(UserWarning, match="one at a time, not together: a recurrent layer"):
        _, history = simulate(together=True, data=data, model=model, participants=None, rounds=2)
    assert history.attrs["engine"] == "one-at-a-time"


def test_too_little_memory_goes_one_at_a_time_with_the_same_bits(monkeypatch):
    def full(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    alone, _ = simulate(together=False)
    monkeypatch.setattr(Together, "train", full)
    with pytest.warns(UserWarning, match="out of memory"):
        beside, history = simulate(together=True)
    assert history.attrs["engine"] == "one-at-a-time" and alone.tobytes() == beside.tobytes()


def test_one_at_a_time_is_what_a_cpu_does_unasked():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert simulate(together=None, rounds=1)[1].attrs["engine"] == "one-at-a-time"


# --- selection of rows -----------------------------------------------------------------------------------------

KINDS = {
    "normal": lambda g, shape: g.normal(size=shape),
    "ties": lambda g, shape: g.integers(-2, 3, size=shape).astype(float),
    "zeros": lambda g, shape: np.where(g.random(shape) < 0.999, 0.0, g.normal(size=shape)),
    "tiny": lambda g, shape: g.normal(size=shape) * 1e-42,
}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    size=st.sampled_from([1, 2, 511, 513, 5000, 20_011, 70_001]),
    rows=st.integers(1, 3),
    share=st.sampled_from([1e-9, 1e-4, 1e-2, 0.5, 1.0]),
    kind=st.sampled_from(sorted(KINDS)),
    seed=st.integers(0, 9),
    double=st.booleans(),
)
def test_rows_are_selected_and_ranked_as_a_stable_sort_does(size, rows, share, kind, seed, double):
    x = torch.from_numpy(KINDS[kind](np.random.default_rng(seed), (rows, size)))
    x = x if double else x.float()
    magnitudes = np.abs(x.numpy())
    count = max(1, round(share * size))
    expected = np.sort(np.argsort(-magnitudes, axis=1, kind="stable")[:, :count], axis=1)
    wide = torch.cat((x, x), 1)[:, :size]  # rows apart in memory
    assert np.array_equal(select_of_rows(wide, count).sort(1).values.numpy(), expected)
    for t in (0.0, 37.5, 50.0, 100.0):
        rank = round((size - 1) * t / 100)
        assert np.array_equal(percentile_of_rows(wide, t).numpy()[:, 0], np.sort(magnitudes, axis=1)[:, rank])


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("keep", [1e-9, 0.01, 0.3, 1.0])
@pytest.mark.parametrize("fidelity", ["paper", "authors"])
def test_messages_of_rows_are_those_of_vectors(kind, keep, fidelity):
    layout = Layout.of([("a", (90, 100)), ("b", (1,)), ("c", (3, 5))])
    rows = torch.from_numpy(KINDS[kind](np.random.default_rng(5), (3, layout.numel))).float()
    messages = layout.compress_rows(rows, keep, fidelity)
    left, sent = rows.clone(), torch.zeros_like(rows)
    messages.take_from(left)
    messages.add_to(sent)
    bits = 0
    for row, vector in enumerate(rows):
        message = layout.compress(vector, keep, fidelity)
        bits += message.bits
        expected = torch.zeros_like(vector)
        message.add_to(expected)
        assert torch.equal(sent[row], expected) and torch.equal(left[row] + sent[row], vector)
        assert torch.equal(messages.row(row).without_zeros().indices.sort().values, message.indices)
    assert int(messages.bits) == bits


def test_authors_threshold_is_that_of_one_vector():
    x = torch.tensor([[3.0, -3.0, 2.0, 1.0, 0.0]])
    messages = Layout.of([("a", (5,))]).compress_rows(x, 0.2, "authors")  # above the third largest
    assert (
        messages.row(0).without_zeros().indices.sort().values.tolist() == select_above_rank(x[0], 3).tolist() == [0, 1]
    )


def test_rows_in_another_order_are_refused():
    layout = Layout.of([("a", (2, 2, 3, 3))], channels_last=True)
    with pytest.raises(ValueError, match="channels-last"):
        layout.compress_rows(torch.zeros(2, 36), 0.5)


def test_bad_settings_are_refused_before_anything_is_tried():
    with pytest.raises(ConfigError, match="available"):
        simulate(together=True, participants=None, available=9)


def test_tf32_holds_for_the_run_alone() -> None:
    seen = []
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for tf32 in (True, False):
        told = lambda *_: seen.append([backend.allow_tf32 for backend in backends])  # noqa: E731
        simulate(together=False, tf32=tf32, rounds=1, on_evaluate=told)
    assert seen == [[True, True], [False, False]]
    assert [backend.allow_tf32 for backend in backends] == before
