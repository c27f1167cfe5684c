"""The engine against the NumPy oracle; the oracle against finite differences and numbers worked out by hand.

Agreement is demanded on float64 models: there both sides stay within 1e-12 or so of each other, so no
near-tie at a Top-K cut falls differently ("flip") and 1e-6 can be demanded of every weight in every round.
One float32 case follows, on data where the oracle itself certifies that every cut has a clear margin.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from oracle import Mlp, Round, Setting, Slope, Weights, index_bits, percentile, run, top_k
from problem import OWN_SETTINGS, SHAPES, SIZES, network, problem
from torch import nn

import flare
import flare.algorithms
from flare.engine import network as simulation
from flare.engine.layout import Layout, Message

torch.set_num_threads(1)

RELU = Mlp()
ALL = [[0, 1, 2, 3]] * 3
PARTIAL = [[0, 2], [3, 1, 0], [2], [1, 3]]


def convolutional(start: Weights) -> nn.Module:
    """The same network with its first layer as a convolution over the whole of a 3 x 2 x 1 image."""
    first, *rest = network(start, relu=True)
    conv = nn.Conv2d(3, 8, (2, 1)).double()
    conv.weight = nn.Parameter(first.weight.detach().reshape(8, 3, 2, 1))
    conv.bias = first.bias
    return nn.Sequential(nn.Unflatten(1, (3, 2, 1)), conv, nn.Flatten(), *rest)


def engine(start, clients, participants, s: Setting, model=RELU, module=None, **more):
    """The same run through flare.simulate: the weights after every round, and the history.

    history.attrs["counts"]: of every message, in the order in which they were made, its non-zero entries per tensor; of
    a dense one, which sends zeros too, the tensors' sizes.
    """
    tensors = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in clients]
    seen: list[Weights] = []
    counts: list[list[int]] = []
    compress = Layout.compress

    def counted(layout: Layout, flat: torch.Tensor, *budget) -> Message:
        message = compress(layout, flat, *budget)
        sent = torch.zeros_like(flat)
        message.add_to(sent)
        dense = message.indices is None
        counts.append([v.numel() if dense else int(v.count_nonzero()) for v in layout.views(sent).values()])
        return message

    def on_round(r: int, weights) -> None:
        assert r == len(seen)
        pairs = zip(weights.values(), SHAPES, strict=True)
        seen.append([w.detach().clone().reshape(shape).numpy() for w, shape in pairs])

    if model.double_softmax:
        more["loss"] = simulation.double_softmax
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Layout, "compress", counted)
        history, final = flare.simulate(
            module or network(start, model.relu),
            tensors,
            test=tensors[0],
            method=s.method,
            settings={name: getattr(s, name) for name in OWN_SETTINGS.get(s.method, ())},
            keep="dense" if s.keep is None or s.method == "fedavg" else s.keep,
            rounds=len(participants),
            local_epochs=s.local_epochs,
            batch_size=min(s.batch_size, max(SIZES)),
            learning_rate=s.learning_rate,
            momentum=s.momentum,
            participants=participants,
            fidelity=s.fidelity,
            evaluate_every=1,
            on_round=on_round,
            **more,
        )
    history.attrs["counts"] = counts
    for last, returned in zip(seen[-1], final.values(), strict=True):
        np.testing.assert_array_equal(last, returned.reshape(last.shape).numpy())
    return seen, history


def compare(seen, history, rounds: list[Round], clients, model=RELU, atol: float = 1e-6) -> None:
    for r, (got, want) in enumerate(zip(seen, rounds, strict=True)):
        for tensor, (g, w) in enumerate(zip(got, want.weights, strict=True)):
            np.testing.assert_allclose(g, w, rtol=0, atol=atol, err_msg=f"round {r}, tensor {tensor}")
    assert history["round"].tolist() == list(range(len(rounds)))
    sizes = [w.size for w in rounds[0].weights]
    counts = [sizes if r.keep is None else r.counts[k] for r in rounds for k in sorted(r.counts)]
    assert history.attrs["counts"] == counts
    assert history["uplink_bits"].tolist() == [r.uplink_bits for r in rounds]
    assert history["downlink_bits"].tolist() == [r.downlink_bits for r in rounds]
    want = {  # client 0's data serve as the test set
        "train_loss": [r.train_loss for r in rounds],
        "test_loss": [model.loss(r.weights, *clients[0]) for r in rounds],
        "test_accuracy": [model.accuracy(r.weights, *clients[0]) for r in rounds],
    }
    for column, values in want.items():
        np.testing.assert_allclose(history[column], values, rtol=0, atol=atol, err_msg=column)


BASE = Setting(
    method="topk",
    keep=0.1,
    learning_rate=0.2,
    momentum=0.9,
    tau=0.4,
    tau_decay=1.3,
    percentile=40,
    mu=0.3,
    mu_decay=1.2,
)
GRID = list(itertools.product((1, 3), (12, 5), (ALL, PARTIAL), ("paper", "authors")))
CASES = [
    pytest.param(
        replace(BASE, method=m, local_epochs=e, batch_size=b, fidelity=f, pull_steps=p),
        who,
        id=f"{m}-E{e}-batch{b}-{'all' if who is ALL else 'partial'}-{f}" + (f"-p{p}" if m == "flare" else ""),
    )
    for m in OWN_SETTINGS
    for p in ((1, 2, "all") if m == "flare" else (1,))
    for e, b, who, f in GRID
]


def test_every_method_of_the_oracle_is_found() -> None:
    """A new method need not be here: tests/test_limits.py and tests/test_properties.py meet it unasked."""
    assert set(OWN_SETTINGS) <= set(flare.algorithms.names())


@pytest.mark.parametrize(("s", "participants"), CASES)
def test_engine_agrees_with_oracle(s: Setting, participants) -> None:
    start, clients = problem(seed=1)
    seen, history = engine(start, clients, participants, s)
    compare(seen, history, run(Mlp(), start, clients, participants, s), clients)


@pytest.mark.parametrize("model", [Mlp(relu=False), Mlp(double_softmax=True)], ids=["linear", "double_softmax"])
@pytest.mark.parametrize("method", sorted(OWN_SETTINGS))
@pytest.mark.parametrize("least", [1, simulation._FUSED], ids=["fused", "plain"])
def test_engine_agrees_on_other_networks(method: str, model: Mlp, least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "_FUSED", least)  # of so many weights, a layer's gradient is added in its product
    start, clients = problem(seed=2)
    s = replace(BASE, method=method, local_epochs=2, batch_size=5, pull_steps=3)
    seen, history = engine(start, clients, PARTIAL, s, model)
    compare(seen, history, run(model, start, clients, PARTIAL, s), clients, model)


@pytest.mark.parametrize("bias", [True, False])
def test_fused_linear_layer_has_the_gradients_of_the_plain_one(bias: bool) -> None:
    torch.manual_seed(0)
    plain, inputs = nn.Linear(3, 4, bias=bias).double(), torch.randn(2, 5, 3).double().requires_grad_()
    fused = copy.deepcopy(plain)
    fused.weight.grad = torch.ones(4, 3).double()
    weights = torch.randn(2, 5, 4).double()
    (plain(inputs) * weights).sum().backward()
    wanted, inputs.grad = inputs.grad, None
    (simulation._linear(fused, inputs) * weights).sum().backward()
    torch.testing.assert_close(inputs.grad, wanted)
    torch.testing.assert_close(fused.weight.grad, 1 + plain.weight.grad)
    if bias:
        torch.testing.assert_close(fused.bias.grad, plain.bias.grad)


@pytest.mark.parametrize("fidelity", ["paper", "authors"])
@pytest.mark.parametrize("method", sorted(OWN_SETTINGS))
def test_engine_agrees_on_a_convolution(method: str, fidelity: str) -> None:
    """A kernel is a tensor like any other: how the engine stores it changes neither order nor count."""
    start, clients = problem(seed=9)
    s = replace(BASE, method=method, local_epochs=2, batch_size=5, pull_steps=3, fidelity=fidelity)
    seen, history = engine(start, clients, PARTIAL, s, module=convolutional(start))
    compare(seen, history, run(Mlp(), start, clients, PARTIAL, s), clients)


@pytest.mark.parametrize("keep", [None, 1e-5, 0.02, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("method", ["topk", "flare", "fedprox", "ef21", "ffl"])
def test_engine_agrees_at_other_keeps(method: str, keep: float | None) -> None:
    """Down to one entry a tensor, up to all of them, and (None) without compression."""
    start, clients = problem(seed=3)
    s = replace(BASE, method=method, keep=keep, local_epochs=2, batch_size=7)
    seen, history = engine(start, clients, ALL, s)
    compare(seen, history, run(Mlp(), start, clients, ALL, s), clients)


@pytest.mark.parametrize("t", [0, 12.5, 50, 90, 100])
def test_flare_agrees_at_other_percentiles(t: float) -> None:
    start, clients = problem(seed=4)
    s = replace(BASE, method="flare", percentile=t, local_epochs=2, batch_size=5, pull_steps=4)
    seen, history = engine(start, clients, ALL, s)
    compare(seen, history, run(Mlp(), start, clients, ALL, s), clients)


@pytest.mark.parametrize("fidelity", ["paper", "authors"])
def test_ffl_budget_follows_the_loss(fidelity: str) -> None:
    """Long enough that both the epochs and the number of entries really change."""
    start, clients = problem(seed=5)
    s = replace(
        BASE,
        method="ffl",
        keep=0.2,
        local_epochs=6,
        batch_size=5,
        learning_rate=0.1,
        momentum=0,
        fidelity=fidelity,
    )
    rounds = run(Mlp(), start, clients, ALL * 5, s)
    assert rounds[0].local_epochs == 6 and rounds[0].keep == 0.2
    assert len({r.local_epochs for r in rounds}) > 1
    assert max(r.counts[0][0] for r in rounds) > rounds[0].counts[0][0]
    seen, history = engine(start, clients, ALL * 5, s)
    compare(seen, history, rounds, clients)


def test_ffl_budget_is_capped_and_never_below_one_epoch() -> None:
    start, clients = problem(seed=6)
    s = replace(BASE, method="ffl", keep=0.9, batch_size=5, momentum=0.5)
    rounds = run(Mlp(), start, clients, ALL * 5, s)
    assert rounds[-1].keep == 1.0 and rounds[-1].local_epochs == 1
    seen, history = engine(start, clients, ALL * 5, s)
    compare(seen, history, rounds, clients)


@pytest.mark.parametrize("method", sorted(OWN_SETTINGS))
def test_engine_agrees_in_float32(method: str) -> None:
    """The default dtype. The oracle's margins say that rounding noise flips no choice in these rounds."""
    start, clients = problem(seed=7, dtype=np.float32)
    s = replace(BASE, method=method, local_epochs=1, batch_size=12, pull_steps=1, momentum=0.5)
    rounds = run(Mlp(), start, clients, ALL, s)
    assert min(r.margin for r in rounds) > 1e-4
    seen, history = engine(start, clients, ALL, s)
    assert seen[0][0].dtype == np.float32
    compare(seen, history, rounds, clients, atol=1e-6)


# --- the authors' counts ------------------------------------------------------------------------------------

WIDTH_64 = ((64, 784), (64,), (64, 64), (64,), (64, 64), (64,), (10, 64), (10,))


def test_authors_counts_of_the_width_64_network() -> None:
    """Known from the authors' program: weight and bias of four layers at keep 0.01, first message.

    By hand: round(501.76) + 1 = 503; round(0.64) + 1 = 2; round(40.96) + 1 = 42; round(6.4) + 1 = 7;
    round(0.1) + 1 = 1.
    """
    rng = np.random.default_rng(0)
    updates = [rng.normal(size=shape) for shape in WIDTH_64]
    assert [np.count_nonzero(top_k(u, 0.01, "authors")) for u in updates] == [503, 2, 42, 2, 42, 2, 7, 1]
    assert [np.count_nonzero(top_k(u, 0.01)) for u in updates] == [502, 1, 41, 1, 41, 1, 6, 1]


@pytest.mark.parametrize(
    ("width", "keep", "fidelity", "counts"),
    [
        (64, "0.01", "authors", [503, 2, 42, 2, 42, 2, 7, 1]),
        (64, "0.01", "paper", [502, 1, 41, 1, 41, 1, 6, 1]),
        # The paper's network: round(31.90) + 1 = 33, round(165.57) + 1 = 167, round(0.41) + 1 = 1.
        (4069, "1e-5", "authors", [33, 1, 167, 1, 167, 1, 1, 1]),
        (4069, "1e-5", "paper", [32, 1, 166, 1, 166, 1, 1, 1]),
    ],
)
def test_engine_sends_those_counts(width: int, keep: str, fidelity: str, counts: list[int]) -> None:
    """One client, one round: the weights that moved are the entries of its message."""
    rng = np.random.default_rng(0)
    shapes = tuple(tuple(width if n == 64 else n for n in shape) for shape in WIDTH_64)
    start = [np.float32(1 / np.sqrt(width)) * rng.standard_normal(shape, dtype=np.float32) for shape in shapes]
    x, y = torch.from_numpy(rng.standard_normal((30, 784), dtype=np.float32)), torch.from_numpy(rng.integers(0, 10, 30))
    history, final = flare.simulate(
        network(start, relu=False),
        [(x, y)],
        test=(x, y),
        method="topk",
        settings={},
        keep=keep,
        rounds=1,
        local_epochs=1,
        batch_size=30,
        learning_rate=1,  # in single precision too small a step would leave a weight where it was
        momentum=0.99,
        fidelity=fidelity,
    )
    moved = [np.count_nonzero(w.numpy() != w0) for w, w0 in zip(final.values(), start, strict=True)]
    assert moved == counts
    bits = sum(c * (32 + index_bits(int(np.prod(shape)))) for c, shape in zip(counts, shapes, strict=True))
    assert history["uplink_bits"].tolist() == [bits]


# --- the oracle itself --------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [Mlp(), Mlp(relu=False), Mlp(double_softmax=True)])
def test_gradient_matches_finite_differences(model: Mlp) -> None:
    start, clients = problem(seed=8)
    x, y = clients[0]
    gradient = model.gradient(start, x, y)
    h = 1e-6
    for tensor, g in enumerate(gradient):
        for index in np.ndindex(g.shape):
            ends = []
            for sign in (1, -1):
                moved = [w.copy() for w in start]
                moved[tensor][index] += sign * h
                ends.append(model.loss(moved, x, y))
            assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(g[index], abs=1e-8)


def test_cross_entropy_step_by_hand() -> None:
    """One input, two classes, one sample x = 2 of class 0, start at 0, lr 0.1.

    Logits (0, 0): loss ln 2, probabilities (1/2, 1/2). Gradient of the logits (-1/2, 1/2), of W that times 2
    = (-1, 1). After the step W = (0.1, -0.1), b = (0.05, -0.05): logits 0.2 + 0.05 = 0.25 and -0.25, loss
    ln(1 + exp(-0.5)).
    """
    model, x, y = Mlp(), np.array([[2.0]]), np.array([0])
    w = [np.zeros((2, 1)), np.zeros(2)]
    first, second = run(model, w, [(x, y)], [[0], [0]], Setting("fedavg", learning_rate=0.1))
    assert first.train_loss == pytest.approx(0.6931471805599453)
    np.testing.assert_allclose(first.weights[0], [[0.1], [-0.1]])
    np.testing.assert_allclose(first.weights[1], [0.05, -0.05])
    assert second.train_loss == pytest.approx(0.4740769841801067)


HAND_CLIENTS = [(np.array([[4.0, -2.0]]), np.array([0])), (np.array([[2.0, 3.0]]), np.array([0]))]


@pytest.mark.parametrize(
    ("s", "weights", "bits"),
    [
        # Two clients with constant gradients (4, -2) and (2, 3), two weights starting at 0, lr 1/2, keep 1/2:
        #   one entry each.
        # d_1 = (-2, 1), d_2 = (-1, -1.5) in every round of one step. An entry costs 32 + 1 bits, a dense
        #   message 64.
        #
        # FedAvg: mean d = (-1.5, -0.25) a round.
        (Setting("fedavg"), [(-1.5, -0.25), (-3, -0.5), (-4.5, -0.75)], [128, 256, 384]),
        # Top-K. r0: m_1 = (-2, 0), A_1 = (0, 1); m_2 = (0, -1.5), A_2 = (-1, 0); w = (-1, -0.75).
        # r1: u_1 = (-2, 2), a tie, so the first: m_1 = (-2, 0), A_1 = (0, 2); u_2 = (-2, -1.5), m_2 = (-2,
        #   0), A_2 = (0, -1.5); w += (-2, 0) -> (-3, -0.75).
        # r2: u_1 = (-2, 3), m_1 = (0, 3); u_2 = (-1, -3), m_2 = (0, -3); w += (0, 0).
        (Setting("topk", keep=0.5), [(-1, -0.75), (-3, -0.75), (-3, -0.75)], [66, 132, 198]),
        # FLARE, tau 1, c 2, t 50, p 1. Rank of q: round((2 - 1) / 2) = round(0.5) = 0: q is the smaller
        #   magnitude.
        # r0: A = 0, as Top-K. r1: tau_1 = 1/4. A_1 = (0, 1), q 0, M = (0, 1): gradient (4, -2 - 1/4), d_1 =
        #   (-2, 1.125), u_1 = (-2, 2.125), m_1 = (0, 2.125), A_1 = (-2, 0). A_2 = (-1, 0): gradient (2 + 1/4,
        #   3), d_2 = (-1.125, -1.5), u_2 = (-2.125, -1.5), m_2 = (-2.125, 0), A_2 = (0, -1.5). w += (-1.0625,
        #   1.0625) -> (-2.0625, 0.3125).
        # r2: tau_2 = 1/8. A_1 = (-2, 0): gradient (4.125, -2), d_1 = (-2.0625, 1), u_1 = (-4.0625, 1), m_1 =
        #   (-4.0625, 0). A_2 = (0, -1.5): gradient (2, 3.125), d_2 = (-1, -1.5625), u_2 = (-1, -3.0625), m_2
        #   = (0, -3.0625). w += (-2.03125, -1.53125) -> (-4.09375, -1.21875).
        (
            Setting("flare", keep=0.5, tau=1.0, tau_decay=2.0),
            [(-1, -0.75), (-2.0625, 0.3125), (-4.09375, -1.21875)],
            [66, 132, 198],
        ),
        # EF21. r0: q = m of Top-K: G_1 = (-2, 0), G_2 = (0, -1.5), w = (-1, -0.75).
        # r1: d_1 - G_1 = (0, 1): G_1 = (-2, 1). d_2 - G_2 = (-1, 0): G_2 = (-1, -1.5). Mean (-1.5, -0.25): w
        #   = (-2.5, -1).
        # r2: d - G = 0 for both: nothing is sent, G stays: w = (-4, -1.25), no bits.
        (Setting("ef21", keep=0.5), [(-1, -0.75), (-2.5, -1), (-4, -1.25)], [66, 132, 132]),
        # FFL with a constant loss: Top-K.
        (Setting("ffl", keep=0.5), [(-1, -0.75), (-3, -0.75), (-3, -0.75)], [66, 132, 198]),
        # FedProx, two steps (E = 2), momentum 1/2, mu 1/2, c 1, dense. Client 1: v_1 = (4, -2), x = (-2, 1);
        # gradient (4, -2) + 2 * 1/2 * (-2, 1) = (2, -1); v_2 = (2, -1) + (2, -1) = (4, -2); d_1 = (-4, 2).
        # Client 2: x = (-1, -1.5), gradient (2, 3) - (1, 1.5) = (1, 1.5), v_2 = (2, 3), d_2 = (-2, -3). Mean
        #   (-3, -0.5).
        (
            Setting("fedprox", mu=0.5, local_epochs=2, momentum=0.5),
            [(-3, -0.5), (-6, -1), (-9, -1.5)],
            [128, 256, 384],
        ),
    ],
    ids=lambda value: value.method if isinstance(value, Setting) else "",
)
def test_two_weights_by_hand(s: Setting, weights, bits) -> None:
    rounds = run(Slope(((2,),)), [np.zeros(2)], HAND_CLIENTS, [[0, 1]] * 3, replace(s, learning_rate=0.5))
    assert [tuple(r.weights[0].tolist()) for r in rounds] == weights
    assert [r.uplink_bits for r in rounds] == bits
    assert [r.downlink_bits for r in rounds] == [128, 256, 384]


def test_authors_momentum_restart_by_hand() -> None:
    """Gradient 1, lr 1, momentum 1/2, E = 2, p = 1: velocities 1, 1.5 (paper) or 1, 1 (authors)."""
    clients = [(np.array([[1.0]]), np.array([0]))]
    ends = []
    for fidelity in ("paper", "authors"):
        s = Setting("flare", keep=1.0, tau=1.0, local_epochs=2, learning_rate=1.0, momentum=0.5, fidelity=fidelity)
        ends.append(float(run(Slope(((1,),)), [np.zeros(1)], clients, [[0]], s)[0].weights[0][0]))
    assert ends == [-2.5, -2.0]


def test_selection_by_hand() -> None:
    x = np.array([1.0, -3.0, 2.0, 3.0, 0.0, -2.0])
    assert top_k(x, 0.5).tolist() == [0, -3, 2, 3, 0, 0]  # 3 entries; 2 and -2 tie, the lower index wins
    # Authors: magnitudes descending are 3 3 2 2 1 0. Rank round(3) + 2 = 5 is the 1: four lie above it.
    # With R = 1/4 the rank is round(1.5) + 2 = 4, a 2 that ties with another: only the two 3s lie above.
    assert top_k(x, 0.5, "authors").tolist() == [0, -3, 2, 3, 0, -2]
    assert top_k(x, 0.25, "authors").tolist() == [0, -3, 0, 3, 0, 0]
    assert not top_k(np.zeros(5), 0.5, "authors").any() and not top_k(np.zeros(5), 0.5).any()
    assert percentile(x, 0) == 0 and percentile(x, 100) == 3 and percentile(x, 50) == 2  # rank round(2.5) = 2
    assert [index_bits(n) for n in (1, 2, 3, 4, 5, 8, 9, 4096, 4097)] == [0, 1, 2, 2, 3, 3, 4, 12, 13]
