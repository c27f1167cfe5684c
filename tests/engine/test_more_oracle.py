"""The methods of the field, both engines, against an oracle written from their text: weights, bits up and down."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from more_oracle import Case, bfloat16, golomb, run, ternary
from oracle import Mlp
from problem import SHAPES, network, problem
from torch import nn

import flare
from flare.engine.compressor import Compressor, rice
from flare.engine.layout import Layout

torch.set_num_threads(1)

ALL = [[0, 1, 2, 3]] * 6
HALF = [[0, 2], [1, 3], [0, 1], [2, 3], [0, 3], [1, 2]]
both_engines = pytest.mark.parametrize("together", [False, True], ids=["one-at-a-time", "together"])

SGD = {"optimizer": "sgd", "learning_rate": 0.7, "momentum": 0.6}
ADAM = {"optimizer": "adam", "learning_rate": 0.05, "beta1": 0.8, "beta2": 0.95, "epsilon": 0.01}
TAU = {"tau": 0.4, "tau_decay": 1.1, "percentile": 40, "pull_steps": 2}
CASES = {
    "sapef": Case("sapef", {"alpha": 0.85}, momentum=0.9),
    "saef": Case("sapef", {"alpha": 1}),
    "dgc": Case("dgc", {"momentum": 0.8}),
    "dgc-warm-up": Case("dgc", {"momentum": 0.7, "warmup_rounds": 3, "masking": False}),
    "decay": Case("topk", {"memory_decay": 0.9}, momentum=0.5),
    "model": Case("topk", {"scope": "model"}, momentum=0.9),
    "model-decay-authors": Case("topk", {"scope": "model", "memory_decay": 0.5}, fidelity="authors"),
    "stc": Case("stc", momentum=0.5),
    "stc-more": Case("stc", keep=0.4),
    "stc-everything": Case("stc", keep=1.0),
    "econtrol": Case("econtrol", {"eta": 0.1}, momentum=0.9),
    "econtrol-eta": Case("econtrol", {"eta": 0.7}),
    "ef21_sgdm": Case("ef21_sgdm", {"eta": 0.3}, momentum=0.9),
    "scafcom": Case("scafcom", {"beta": 0.2}),
    "scaffold": Case("scafcom", {"beta": 1}, keep=1.0),
    "fedavg-16": Case("fedavg", {"value_bits": 16}, keep=None, momentum=0.9),
    "randomk": Case("randomk", momentum=0.5),
    "uncounted": Case("flare", TAU | {"count_pull": False}, momentum=0.9),
    "uncounted-all": Case("flare", TAU | {"count_pull": False, "pull_steps": "all"}, momentum=0.6),
    "uncounted-authors": Case("flare", TAU | {"count_pull": False}, momentum=0.9, fidelity="authors"),
    "inflated": Case("flare", TAU | {"pull": "memory"}, momentum=0.9),
    "topk-sgd": Case("topk", server=SGD, momentum=0.5),
    "topk-adam": Case("topk", server=ADAM),
    "fedavg-adam": Case("fedavg", server=ADAM, keep=None, momentum=0.9),
    "ef21-sgd": Case("ef21", server=SGD),
    "econtrol-adam": Case("econtrol", server=ADAM),
    "scafcom-sgd": Case("scafcom", server=SGD),
    "sapef-sgd": Case("sapef", server=SGD, momentum=0.9),
    "dgc-adam": Case("dgc", server=ADAM),
}


def simulate(case: Case, participants: Any, together: bool, start: Any, clients: Any, **more: Any) -> Any:
    """Weights after every round, flat, and the table, of the engine."""
    tensors = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in clients]
    seen: list[np.ndarray] = []
    module = more.pop("module", None)
    history, _ = flare.simulate(
        network(start, relu=True) if module is None else module,
        tensors,
        test=tensors[0],
        method=case.method,
        settings=dict(case.settings),
        server=case.server,
        keep="dense" if case.keep is None else case.keep,
        rounds=len(participants),
        local_epochs=case.local_epochs,
        batch_size=case.batch_size,
        learning_rate=case.learning_rate,
        momentum=case.momentum,
        participants=participants,
        fidelity=case.fidelity,
        evaluate_every=1,
        on_round=lambda _, weights: seen.append(torch.cat([w.flatten() for w in weights.values()]).numpy()),
        together=together,
        **more,
    )
    return seen, history


def places_of(monkeypatch: pytest.MonkeyPatch) -> dict[int, np.ndarray]:
    """What the engine draws, by seed: the draw is its own, what becomes of it is the method's."""
    drawn: dict[int, np.ndarray] = {}
    original = Compressor._places

    def recorded(self: Compressor, seed: int) -> np.ndarray:
        drawn[seed] = original(self, seed)
        return drawn[seed]

    monkeypatch.setattr(Compressor, "_places", recorded)
    return drawn


def agree(case: Case, participants: Any, together: bool, monkeypatch: Any, module: nn.Module | None = None) -> None:
    start, clients = problem(seed=21)
    drawn = places_of(monkeypatch)
    # Of scafcom an entry without a gradient cancels, to 0 or to rounding, counted or not; linear layers have none.
    model = Mlp(relu=not (case.method == "scafcom" and case.keep == 1))
    more = {"module": network(start, model.relu) if module is None else module}
    seen, history = simulate(case, participants, together, start, clients, **more)
    drawn.pop(0, None)  # of the trial that all together begin with
    in_order = iter(list(drawn.values()))
    ids = [sorted(ids, key=lambda k: (-len(clients[k][0]), k)) if together else sorted(ids) for ids in participants]
    if case.method == "randomk":
        places = {(r, k): next(in_order) for r, who in enumerate(ids) for k in who}
        assert len({tuple(found) for found in places.values()}) > len(places) // 2  # rounds and clients differ
    want = run(model, start, clients, participants, case, (lambda r, k: places[r, k]) if drawn else None)
    for got, after in zip(seen, want, strict=True):
        np.testing.assert_allclose(got, after.weights, rtol=0, atol=1e-9)
    assert history["uplink_bits"].tolist() == [after.uplink for after in want]
    assert history["downlink_bits"].tolist() == [after.downlink for after in want]
    assert np.abs(seen[-1] - seen[0]).max() > 1e-3


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("participants", [ALL, HALF], ids=["all", "half"])
@both_engines
@pytest.mark.parametrize("name", CASES)
def test_the_engine_agrees(
    name: str, together: bool, participants: Any, epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = copy.copy(CASES[name])
    object.__setattr__(case, "local_epochs", epochs)
    agree(case, participants, together, monkeypatch)


@pytest.mark.parametrize("name", ["model", "model-decay-authors", "stc", "sapef", "inflated", "uncounted", "scafcom"])
def test_channels_last_is_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that is stored in another order: neither entries, ties nor the gaps between them are others."""
    first, *rest = network(problem(seed=21)[0], relu=True)
    conv = nn.Conv2d(3, 8, (2, 1)).double()
    conv.weight = nn.Parameter(first.weight.detach().reshape(8, 3, 2, 1))
    conv.bias = first.bias
    module = nn.Sequential(nn.Unflatten(1, (3, 2, 1)), conv, nn.Flatten(), *rest)
    agree(CASES[name], HALF, False, monkeypatch, module)


# --- selection and the wire -----------------------------------------------------------------------------------------


def test_ties_of_the_whole_model_go_to_the_lowest_index_in_any_order() -> None:
    """Of 24 equal entries of a kernel and 4 of a bias the first five in the ordinary order, however it is stored."""
    shapes = [("kernel", (2, 3, 2, 2)), ("bias", (4,))]
    for last in (False, True):
        layout = Layout.of(shapes, channels_last=last)
        flat = torch.full((28,), 2.0)
        message = Compressor(layout, 5 / 28, "paper", (0,)).of_model(flat)
        sent = torch.zeros(28)
        message.add_to(sent)
        kernel = torch.cat([view.flatten() for view in layout.views(sent).values()])
        assert kernel.nonzero().flatten().tolist() == [0, 1, 2, 3, 4]
        assert message.bits == 5 * (32 + 5)
        flat[26] = 3.0  # and of the kernel there may be none
        message = Compressor(layout, 1 / 28, "paper", (0,)).of_model(flat)
        assert message.indices.tolist() == [26] and message.counts == (1,)


def test_golomb_by_hand() -> None:
    """b = 2: 1 is 0 and 00, 4 is 0 and 11, 5 is 10 and 00; the length is b + ceil(g / 4). b = 0 is unary."""
    assert [golomb(g, 2) for g in (1, 4, 5, 9)] == ["000", "011", "1000", "11000"]
    assert [golomb(g, 0) for g in (1, 2, 4)] == ["0", "10", "1110"]
    # q = 1/10: log(0.618) / log(0.9) = 4.567, log2 = 2.19: b = 3. q = 1/2: 0.694, -0.53: 0. q = 0.4: 0.942, -0.09: 0
    assert [rice(k, n) for k, n in ((1, 10), (1, 2), (4, 10), (3, 3))] == [3, 0, 0, None]


def test_ternary_by_hand() -> None:
    """Of (4, 0, -2, 1, 0, 3) three entries: mu 3; with b = 0 the gaps 1, 2, 3 cost as many bits, and 3 signs."""
    x = np.array([4.0, 0, -2, 1, 0, 3])
    m, written = ternary(x, 0.5)
    assert m.tolist() == [3, 0, -3, 0, 0, 3] and len(written) == 9
    layout = Layout.of([("a", (6,))])
    compressor = Compressor(layout, 0.5, "paper", (0,))
    message, rows = compressor.ternary(torch.tensor(x)), compressor.ternary(torch.tensor(x)[None].repeat(2, 1))
    assert message.bits == 32 + 9 and int(rows.bits) == 2 * (32 + 9)
    for found in (message, rows.row(1)):
        out = torch.zeros(6, dtype=torch.float64)
        found.add_to(out)
        assert out.tolist() == m.tolist()


@pytest.mark.parametrize("fidelity", ["paper", "authors"])
@pytest.mark.parametrize("keep", [1e-9, 0.05, 0.3, 1.0, (0.1, None, 0.5), None], ids=str)
@pytest.mark.parametrize("kind", ["normal", "ties", "zeros", "nothing"])
def test_ternary_rows_are_ternary_vectors(keep: Any, fidelity: str, kind: str) -> None:
    layout = Layout.of([("a", (300,)), ("b", (3, 5)), ("c", (1,))])
    rng = np.random.default_rng(4)
    x = {
        "normal": rng.normal(size=(3, layout.numel)),
        "ties": rng.integers(-2, 3, size=(3, layout.numel)).astype(float),
        "zeros": np.where(rng.random((3, layout.numel)) < 0.98, 0.0, 1.5),
        "nothing": np.zeros((3, layout.numel)),
    }[kind]
    compressor = Compressor(layout, keep, fidelity, (0, 0, 0))
    rows = compressor.ternary(torch.tensor(x))
    bits = 0
    for row, vector in enumerate(x):
        alone = compressor.ternary(torch.tensor(vector))
        one, other = torch.zeros(2, layout.numel, dtype=torch.float64)
        alone.add_to(one)
        rows.row(row).add_to(other)
        np.testing.assert_allclose(one, other, rtol=1e-15)
        bits += alone.bits
        if fidelity == "paper" and not isinstance(keep, tuple):
            parts = [ternary(vector[part], keep) for part in layout.slices()]
            np.testing.assert_allclose(one, np.concatenate([m for m, _ in parts]), rtol=1e-15)
            assert alone.bits == sum(32 + len(written) for _, written in parts)
    assert int(rows.bits) == bits


def test_what_a_ternary_message_is_planned_to_cost() -> None:
    """Within 1 % of the mean over random messages."""
    layout = Layout.of([("a", (2000,)), ("b", (40,))])
    rng = np.random.default_rng(5)
    for keep in (0.002, 0.05, 0.4):
        compressor = Compressor(layout, keep, "paper", (0,))
        measured = np.mean([compressor.ternary(torch.tensor(rng.normal(size=2040))).bits for _ in range(300)])
        assert compressor.ternary_bits == pytest.approx(measured, rel=0.01)


def test_drawn_places_are_even_and_of_the_seed() -> None:
    layout = Layout.of([("kernel", (4, 3, 2, 2)), ("bias", (5,))])
    counts = np.zeros(layout.numel)
    for seed in range(2000):
        message = Compressor(layout, 0.25, "paper", (seed,)).drawn(torch.ones(layout.numel))
        counts[message.indices.numpy()] += 1
        assert message.bits == 32 * (12 + 1) and len(message.indices) == 13
    assert (np.abs(counts[:48] - 500) < 5 * np.sqrt(2000 * 0.25 * 0.75)).all()
    assert (np.abs(counts[48:] - 400) < 5 * np.sqrt(2000 * 0.2 * 0.8)).all()
    # stored in another order, they are the same places of the ordinary order
    x = torch.arange(1.0, layout.numel + 1)
    found = []
    for last in (False, True):
        layout = Layout.of([("kernel", (4, 3, 2, 2)), ("bias", (5,))], channels_last=last)
        flat, out = torch.zeros_like(x), torch.zeros_like(x)
        for view, (begin, size) in zip(
            layout.views(flat).values(), zip(layout.offsets, layout.sizes, strict=True), strict=True
        ):
            view.copy_(x[begin : begin + size].view(view.shape))
        Compressor(layout, 0.25, "paper", (7,)).drawn(flat).add_to(out)
        found.append(torch.cat([view.flatten() for view in layout.views(out).values()]).tolist())
    assert found[0] == found[1]
    # a zero is sent, too: nobody could tell where it is missing
    rows = Compressor(Layout.of([("a", (53,))]), 0.25, "paper", (7, 8)).drawn(torch.zeros(2, 53))
    assert int(rows.bits) == 2 * 32 * 13


def test_bfloat16_is_rounded_to_the_even() -> None:
    """8 bits: 1 + 2^-8 lies between 1 and 1 + 2^-7, and 1 + 3 * 2^-8 between that and 1 + 2^-6."""
    x = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8 - 2**-12, 0.0, 3e-5])
    wanted = [1, 1 + 2**-6, -1 - 2**-7, 0]
    assert bfloat16(x)[:4].tolist() == wanted
    message = Compressor(Layout.of([("a", (5,))]), None, "paper", (0,)).rounded(torch.tensor(x))
    assert message.values.tolist() == bfloat16(x).tolist() and message.bits == 80


def test_the_sizes_of_the_problem_are_uneven() -> None:
    """So that clients take different numbers of steps, which scafcom's scale depends on."""
    assert len({-(-len(x) // 5) for x, _ in problem(seed=21)[1]}) > 1
    assert len(list(itertools.chain(SHAPES))) == 6
