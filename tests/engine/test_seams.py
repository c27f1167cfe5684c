"""What a method, a schedule, a probe and the wire can say, each shown by one that is written here, on both engines."""

from __future__ import annotations

import copy
import dataclasses
import math
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import flare
from flare import algorithms
from flare.algorithms import Method, error_feedback
from flare.engine import schedules, wire
from flare.engine.layout import Layout, index_bits
from flare.engine.probes.staleness import Staleness
from flare.engine.schedules import cosine
from flare.engine.task import Task
from flare.errors import ConfigError
from flare.settings import setting

torch.set_num_threads(1)

SIZES = (12, 7, 12, 9)
WHO = [[0, 1, 2, 3], [0, 2], [3, 1], [0, 1, 2, 3], [2]]
both_engines = pytest.mark.parametrize("together", [False, True], ids=["one-at-a-time", "together"])


def clients() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [
        (torch.randn(n, 6, generator=generator).double(), torch.randint(3, (n,), generator=generator)) for n in SIZES
    ]


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


@dataclass
class Seen:
    """What a run gave: the weights after every round, the table, and the states."""

    weights: list[np.ndarray]
    history: Any
    states: list[dict[str, Any]]


def simulate(method: str, together: bool, **changes: Any) -> Seen:
    seen = Seen([], None, [])
    arguments = {
        "keep": 0.2,
        "rounds": len(WHO),
        "local_epochs": 2,
        "batch_size": 5,
        "learning_rate": 0.2,
        "momentum": 0.0,
        "participants": WHO,
        "evaluate_every": 1,
    } | changes
    seen.history, _ = flare.simulate(
        network(),
        clients(),
        test=clients()[0],
        method=method,
        on_round=lambda _, w: seen.weights.append(torch.cat([v.flatten() for v in w.values()]).numpy()),
        on_state=lambda state: seen.states.append(copy.deepcopy(state)),
        together=together,
        **arguments,
    )
    assert seen.history.attrs["engine"] == ("together" if together else "one-at-a-time")
    return seen


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Adds a method as a file of flare/algorithms would."""

    def add(name: str, method: Method) -> None:
        module = types.ModuleType(f"flare.algorithms.{name}")
        module.METHOD = method  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        names = [*algorithms.names(), name]
        monkeypatch.setattr(algorithms, "names", lambda: sorted(names))

    return add


# --- masks ---------------------------------------------------------------------------------------------------------

LAYOUT = Layout.of([("a", (40,)), ("b", (3, 5)), ("c", (1,))])
KEEPS = [1e-9, 0.1, 0.5, 1.0, (0.1, None, 0.5), (None, None, None), None]


@pytest.mark.parametrize("kind", ["normal", "ties", "zeros"])
@pytest.mark.parametrize("fidelity", ["paper", "authors"])
@pytest.mark.parametrize("keep", KEEPS, ids=str)
def test_a_message_masks_a_vector_it_was_not_chosen_from(keep: Any, fidelity: str, kind: str) -> None:
    """0 exactly at the places that were sent, untouched at all others, the same by a message and by a row of them."""
    rng = np.random.default_rng(7)
    drawn = {
        "normal": lambda: rng.normal(size=(3, LAYOUT.numel)),
        "ties": lambda: rng.integers(-2, 3, size=(3, LAYOUT.numel)).astype(float),
        "zeros": lambda: np.where(rng.random((3, LAYOUT.numel)) < 0.9, 0.0, rng.normal(size=(3, LAYOUT.numel))),
    }[kind]()
    rows = torch.from_numpy(drawn)
    other = torch.from_numpy(rng.normal(size=rows.shape))
    masked = other.clone()
    LAYOUT.compress_rows(rows.clone(), keep, fidelity).mask(masked)
    for row, vector in enumerate(rows):
        message = LAYOUT.compress(vector.clone(), keep, fidelity)
        sent = np.zeros(LAYOUT.numel, dtype=bool)
        sent[slice(None) if message.indices is None else message.indices.numpy()] = True
        alone = other[row].clone()
        message.mask(alone)
        expected = np.where(sent, 0.0, other[row].numpy())
        assert alone.numpy().tobytes() == expected.tobytes()
        assert masked[row].numpy().tobytes() == expected.tobytes()
        of_row = other[row].clone()
        LAYOUT.compress_rows(rows.clone(), keep, fidelity).row(row).mask(of_row)
        assert of_row.numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize("fidelity", ["paper", "authors"])
def test_a_keep_for_each_tensor(fidelity: str) -> None:
    """By hand: 0.1 of 40 entries is 4 (5 of the authors), of 15 all, whole, of 1 the one; bits of each."""
    rows = torch.from_numpy(np.random.default_rng(2).normal(size=(2, LAYOUT.numel)))
    rows[:, 41] = 0.0  # what is sent whole is sent with its zeros
    extra = fidelity == "authors"
    counts = (4 + extra, 15, 1)
    assert LAYOUT.counts((0.1, None, 1.0), fidelity) == counts
    bits = counts[0] * (32 + 6) + 32 * 15 + (32 + 0)
    messages = LAYOUT.compress_rows(rows.clone(), (0.1, None, 1.0), fidelity)
    for row, vector in enumerate(rows):
        message = LAYOUT.compress(vector.clone(), (0.1, None, 1.0), fidelity)
        assert message.counts == counts and message.bits == bits
        sent = torch.zeros_like(vector)
        message.add_to(sent)
        assert torch.equal(sent[40:], vector[40:]) and int(sent[:40].count_nonzero()) == counts[0]
        again = torch.zeros_like(vector)
        messages.row(row).add_to(again)
        assert torch.equal(sent, again)
    assert int(messages.bits) == 2 * bits


# --- a method: momentum correction, with masking and warm-up ----------------------------------------------------------


@dataclass(frozen=True)
class DgcSettings:
    """Lin et al., arXiv 1712.01887."""

    momentum: float = setting(0.9, low=0, high=1, doc="of the corrected difference")
    warmup_rounds: int = setting(0, low=0, doc="rounds in which more is sent")
    masking: bool = setting(True, doc="momentum is forgotten where it was sent")


def dgc_message(difference: Any, state: Any, task: Task, compress: Any) -> Any:
    """U <- momentum U + d, V <- V + U, m = C(V); V and U are 0 at the sent places."""
    velocity, memory = state["velocity"], state["accumulator"]
    velocity.mul_(task.settings.momentum).add_(difference)
    memory += velocity
    message = compress(memory).take_from(memory)
    if task.settings.masking:
        message.mask(velocity)
    return message


def dgc_budget(task: Task, training_loss: Any) -> Task:
    """R_r = R^((r+1)/(W+1)) in the warm-up."""
    share = (task.number + 1) / (task.settings.warmup_rounds + 1)
    return dataclasses.replace(task, keep=task.keep ** min(1.0, share))


DGC = Method(message=dgc_message, settings=DgcSettings, state=("velocity", "accumulator"), budget=dgc_budget)


def test_momentum_masking_and_warm_up_are_one_file(added: Callable[..., None], monkeypatch: Any) -> None:
    """Both engines agree with the rule written out in NumPy, on the differences that the clients really made."""
    added("dgc", DGC)
    own = {"momentum": 0.8, "warmup_rounds": 3}
    runs = [simulate("dgc", together, settings=own) for together in (False, True)]
    for one, both in zip(*(run.weights for run in runs), strict=True):
        np.testing.assert_allclose(one, both, rtol=0, atol=1e-12)
    assert runs[0].history["uplink_bits"].tolist() == runs[1].history["uplink_bits"].tolist()
    # the literal rule: differences are those that FedAvg's clients make from the same weights
    sizes = [30, 5, 15, 3]
    start = np.concatenate([p.detach().numpy().ravel() for p in network().parameters()])
    w, u, v, sent_bits = start, np.zeros((4, 53)), np.zeros((4, 53)), 0
    for number, ids in enumerate(WHO):
        keep = 0.2 ** min(1.0, (number + 1) / 4)
        mean = 0.0
        for client in ids:
            u[client] = 0.8 * u[client] + difference(w, client)
            v[client] += u[client]
            sent = np.zeros(53, dtype=bool)
            for offset, size in zip(np.cumsum([0, *sizes[:-1]]), sizes, strict=True):
                count = max(1, round(keep * size))
                largest = np.argsort(-np.abs(v[client, offset : offset + size]), kind="stable")[:count]
                sent[offset + largest] = True
                sent_bits += count * (32 + index_bits(size))
            mean = mean + np.where(sent, v[client], 0) / len(ids)
            u[client, sent] = v[client, sent] = 0
        w = w + mean
        np.testing.assert_allclose(runs[0].weights[number], w, rtol=0, atol=1e-12)
    assert runs[0].history["uplink_bits"].iloc[-1] == sent_bits


def difference(weights: np.ndarray, client: int) -> np.ndarray:
    """w_k - w of one client after its local steps, by torch's own optimizer."""
    model = network()
    nn.utils.vector_to_parameters(torch.from_numpy(weights.copy()), model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    inputs, targets = clients()[client]
    for _ in range(2):
        for x, y in zip(inputs.split(5), targets.split(5), strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return nn.utils.parameters_to_vector(model.parameters()).detach().numpy() - weights


@both_engines
def test_without_momentum_and_warm_up_it_is_topk(added: Callable[..., None], together: bool) -> None:
    added("dgc", DGC)
    topk, dgc = simulate("topk", together), simulate("dgc", together, settings={"momentum": 0})
    assert [w.tobytes() for w in topk.weights] == [w.tobytes() for w in dgc.weights]
    assert simulate("dgc", together).weights[-1].tobytes() != topk.weights[-1].tobytes()


# --- a method: where training starts, control variates from the server, a server's step -------------------------------


def control_start(server: Any, state: Any, task: Task) -> Any:
    return server + 0.5 * state["accumulator"]


def control_pull(start: Any, state: Any, task: Task) -> Any:
    """The correction c - c_k on every local step."""
    correction = task.broadcast["control"] - state["control"]

    def add(gradient: Any, weights: Any, step: int) -> None:
        gradient += correction

    return None, add


def control_message(difference: Any, state: Any, task: Task, compress: Any) -> Any:
    state["control"] += 0.01 * difference
    return error_feedback(difference, state, task, compress)


def control_apply(server: Any, update: Any, state: Any, task: Task) -> None:
    mean = update.mean(server)
    server += 0.7 * mean
    state["control"].mul_(0.9).add_(mean, alpha=0.1)


CONTROL = Method(
    message=control_message,
    state=("accumulator", "control"),
    server_state=("control",),
    broadcast=("control",),
    start=control_start,
    pull=control_pull,
    apply=control_apply,
)


def test_start_correction_and_server_state_agree_on_both_engines(added: Callable[..., None]) -> None:
    added("control", CONTROL)
    one, both = (simulate("control", together, probes=["staleness"], keep=0.3) for together in (False, True))
    for mine, theirs in zip(one.weights, both.weights, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-12)
    numbers = [run.history.to_numpy(float) for run in (one, both)]
    np.testing.assert_allclose(*numbers, rtol=1e-9, atol=1e-9)
    # w and one vector more go down
    assert one.history["downlink_bits"].tolist() == [64 * 53 * n for n in np.cumsum([len(ids) for ids in WHO])]
    # what is measured is the update from where training began, not from the server's weights
    plain = dataclasses.replace(CONTROL, start=None)
    added("plain", plain)
    assert simulate("plain", False, probes=["staleness"], keep=0.3).history["memory_cosine"].iloc[-1] != pytest.approx(
        one.history["memory_cosine"].iloc[-1]
    )


@both_engines
def test_what_the_server_keeps_is_resumed_with_the_same_bits(added: Callable[..., None], together: bool) -> None:
    added("control", CONTROL)
    whole = simulate("control", together, probes=["staleness"])
    assert set(whole.states[0]["server_memory"]) == {"control"}
    for state in whole.states[:-1]:
        rest = simulate("control", together, probes=["staleness"], resume=state)
        assert [w.tobytes() for w in whole.weights[state["completed"] :]] == [w.tobytes() for w in rest.weights]
        assert rest.history.equals(whole.history)
    forgotten = whole.states[1] | {"server_memory": {}}
    with pytest.raises(ConfigError, match="another model, method"):
        simulate("control", together, probes=["staleness"], resume=forgotten)


@both_engines
def test_a_server_may_say_what_it_sends(added: Callable[..., None], together: bool) -> None:
    def apply(server: Any, update: Any, state: Any, task: Task) -> Any:
        update.add_to(server)
        return torch.tensor(1000 * len(task.clients) + task.number)

    added("telling", Method(message=error_feedback, state=("accumulator",), apply=apply))
    sums = np.cumsum([1000 * len(ids) + number for number, ids in enumerate(WHO)])
    assert simulate("telling", together).history["downlink_bits"].tolist() == sums.tolist()


@pytest.mark.parametrize("keep", [0.02, 0.3, "dense"])
@both_engines
def test_a_sparse_downlink_is_counted_in_one_place(keep: Any, together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the round moves, 38 bits an entry, to everybody who answers: against the weights that really moved."""

    def sparse(task: Task, update: Any) -> Any:
        return update.places() * 38 * len(task.clients)

    monkeypatch.setattr(wire, "downlink_bits", sparse)
    monkeypatch.setattr("flare.engine.update._SPARSE", 0.1)
    run = simulate("topk", together, keep=keep)
    start = np.concatenate([p.detach().numpy().ravel() for p in network().parameters()])
    moved = [np.count_nonzero(a != b) for a, b in zip([start, *run.weights[:-1]], run.weights, strict=True)]
    assert (
        run.history["downlink_bits"].tolist()
        == np.cumsum([38 * n * len(w) for n, w in zip(moved, WHO, strict=True)]).tolist()
    )


# --- schedules -----------------------------------------------------------------------------------------------------


def task(number: int, **more: Any) -> Task:
    values = dict(number=number, clients=(0,), seeds=(1,), sizes=(4,), keep=0.5, local_epochs=1, batch_size=4)
    values |= dict(learning_rate=0.8, momentum=0.0, shuffle=False, fidelity="paper", layout=LAYOUT, settings=None)
    return Task(**values | more)  # type: ignore[arg-type]


def test_cosine_by_hand() -> None:
    """Five rounds, no warm-up: (1 + cos(0, 45, 90, 135, 180 degrees)) / 2 of the rate, plus what is left in the end."""
    half = math.sqrt(0.5)
    rates = [cosine.adjust(task(r), 5, cosine.Settings()).learning_rate for r in range(5)]
    assert rates == pytest.approx([0.8, 0.4 * (1 + half), 0.4, 0.4 * (1 - half), 0.0], abs=1e-15)
    rates = [cosine.adjust(task(r), 5, cosine.Settings(final=0.5)).learning_rate for r in range(5)]
    assert rates == pytest.approx([0.8, 0.4 + 0.2 * (1 + half), 0.6, 0.4 + 0.2 * (1 - half), 0.4], abs=1e-15)
    rates = [cosine.adjust(task(r), 6, cosine.Settings(warmup_rounds=3)).learning_rate for r in range(6)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.4, 0.0], abs=1e-15)
    assert cosine.adjust(task(0), 1, cosine.Settings()).learning_rate == 0.8  # a single round


@both_engines
def test_a_schedule_that_changes_nothing_and_one_that_does(together: bool) -> None:
    plain = simulate("flare", together)
    same = simulate("flare", together, schedule={"name": "cosine", "final": 1})
    other = simulate("flare", together, schedule={"name": "cosine"})
    assert [w.tobytes() for w in plain.weights] == [w.tobytes() for w in same.weights]
    assert plain.weights[0].tobytes() == other.weights[0].tobytes()
    assert plain.weights[1].tobytes() != other.weights[1].tobytes()
    # At rate 0 nothing new is learned in the last round: Top-K still sends what it remembers.
    assert simulate("fedavg", together, schedule={"name": "cosine"}).weights[-2].tobytes() == (
        simulate("fedavg", together, schedule={"name": "cosine"}).weights[-1].tobytes()
    )


def test_a_keep_for_each_layer_is_a_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Biases whole and matrices at a tenth, as in deep gradient compression: one file, both engines, bits by hand."""
    module = types.ModuleType("flare.engine.schedules.layers")

    def adjust(task: Task, rounds: int, settings: Any) -> Task:
        keep = tuple(None if len(shape) == 1 else task.keep for shape in task.layout.shapes)
        return dataclasses.replace(task, keep=keep)

    module.adjust, module.Settings = adjust, algorithms.NoSettings  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(schedules, "names", lambda: ["cosine", "layers"])
    for method in ("topk", "flare", "ffl", "ef21"):
        one, both = (
            simulate(method, together, keep=0.1, schedule={"name": "layers"}, staleness=True)
            for together in (False, True)
        )
        for mine, theirs in zip(one.weights, both.weights, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-12)
        assert one.history["uplink_bits"].tolist() == both.history["uplink_bits"].tolist()
        if method == "topk":
            of_one = (
                3 * (32 + 5) + 32 * 5 + 2 * (32 + 4) + 32 * 3
            )  # 3 of 30, 5 whole, round_half_even(1.5) of 15, 3 whole
            assert one.history["uplink_bits"].tolist() == [of_one * n for n in np.cumsum([len(w) for w in WHO])]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "cosin"}, "schedule: name: 'cosin' is unknown (did you mean 'cosine'?); one of cosine"),
        ({"final": 0.5}, "schedule: 'name' is missing; one of cosine"),
        ({"name": "cosine", "final": 2}, "schedule: cosine: final: 2 is not allowed; a number, at least 0, at most 1"),
    ],
)
def test_a_schedule_that_is_none_is_one_line(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        simulate("topk", False, schedule=given)
    assert str(error.value) == said


# --- probes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [["stalenes"], ["staleness", "staleness"]])
def test_a_probe_that_is_none_or_twice_is_one_line(given: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"^probes: "):
        simulate("topk", False, probes=given)


def test_the_key_of_its_own_is_the_probe() -> None:
    one, other = simulate("topk", False, staleness=True), simulate("topk", False, probes=["staleness"])
    assert one.history.equals(other.history) and tuple(one.history.columns[-8:]) == Staleness.columns
    with pytest.raises(ConfigError, match=r"^probes: 'staleness' is there twice"):
        simulate("topk", False, staleness=True, probes=["staleness"])
