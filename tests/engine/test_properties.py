"""What must hold for any input: selection against a full sort, the wire against a real encoder, the protocol.

The protocol runs on a model whose loss is linear in its weights, with small dyadic gradients, rates and
coefficients. All arithmetic is then exact in floating point, so engine and oracle must agree to the bit
whatever the ties, zeros and signs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from oracle import Setting, Slope, Weights, index_bits, largest, run, top_k
from problem import OWN_SETTINGS, network, problem
from torch import nn

import flare
import flare.algorithms
from flare.engine import update as simulation
from flare.engine.layout import Layout, Message
from flare.engine.select import percentile, select, select_above_rank
from flare.engine.update import add_mean

torch.set_num_threads(1)
# The same examples in every run, and none remembered on disk.
EXAMPLES = settings(deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])

METHODS = flare.algorithms.names()
# Methods of which the server has more than indexed values, or moves more: places that follow from the round, signs, c.
# tests/engine/test_more_oracle.py has their wire.
OTHER_WIRE = {"randomk", "scafcom", "stc"}

# --- selection ---------------------------------------------------------------------------------------------

SIZES = (1, 2, 3, 64, 4095, 4096, 4097, 8192, 12289, 100_000)
SUBNORMAL = np.float32(1e-45)
KINDS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "heavy tail": lambda rng, n: rng.standard_cauchy(n),
    "many ties": lambda rng, n: rng.integers(-3, 4, n),
    "all equal": lambda rng, n: np.where(rng.random(n) < 0.5, -0.5, 0.5),
    "all zero": lambda rng, n: np.where(rng.random(n) < 0.5, -0.0, 0.0),
    "mostly zero": lambda rng, n: rng.normal(size=n) * (rng.random(n) < 0.001),
    "subnormal": lambda rng, n: rng.integers(-4, 5, n) * SUBNORMAL,
    "mixed scales": lambda rng, n: np.ldexp(rng.integers(-2, 3, n).astype(float), rng.integers(-149, 100, n)),
    "ascending": lambda rng, n: np.arange(n),
    "descending": lambda rng, n: np.arange(n)[::-1] - n // 2,
    "block edges": lambda rng, n: np.isin(np.arange(n) % 4096, (0, 4095)) * rng.choice((-1, 1), n),
}


def values(kind: str, size: int, seed: int, dtype: type = np.float32) -> np.ndarray:
    return np.asarray(KINDS[kind](np.random.default_rng([seed, size]), size)).astype(dtype)


def check_selection(x: np.ndarray, count: int) -> None:
    tensor = torch.from_numpy(x.copy())
    chosen = select(tensor, count)
    assert chosen.dtype == torch.int64
    np.testing.assert_array_equal(chosen.numpy(), largest(x, count))
    assert tensor.numpy().tobytes() == x.tobytes()  # the input is left alone


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_select_is_a_stable_sort(size: int, kind: str) -> None:
    x = values(kind, size, seed=0)
    for keep in (1e-5, 2e-5, 1e-3, 0.01, 0.1, 0.5, 0.99, 1):
        check_selection(x, max(1, round(keep * size)))


@given(
    kind=st.sampled_from(sorted(KINDS)),
    size=st.one_of(st.integers(1, 200), st.integers(4090, 4102), st.integers(8190, 8195)),
    seed=st.integers(0, 10**6),
    keep=st.floats(0, 1),
    dtype=st.sampled_from((np.float32, np.float64)),
)
@settings(EXAMPLES, max_examples=200)
def test_select_anywhere(kind: str, size: int, seed: int, keep: float, dtype: type) -> None:
    check_selection(values(kind, size, seed, dtype), max(1, round(keep * size)))


SMALL = st.lists(
    st.one_of(
        st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -2.0, float(SUBNORMAL), -float(SUBNORMAL), 3.0e38, -3.0e38]),
        st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
    min_size=1,
    max_size=30,
).map(lambda entries: np.array(entries, dtype=np.float32))


@given(x=SMALL, count=st.integers(1, 35))
@settings(EXAMPLES, max_examples=200)
def test_select_of_any_small_vector(x: np.ndarray, count: int) -> None:
    check_selection(x, count)


@given(x=SMALL, rank=st.integers(1, 35))
@settings(EXAMPLES, max_examples=200)
def test_select_above_rank_by_counting(x: np.ndarray, rank: int) -> None:
    """Strictly above the rank-th largest: fewer than `rank` entries (itself included) are as large or larger."""
    magnitude = np.abs(x)
    expected = [i for i, m in enumerate(magnitude) if m != 0 and np.count_nonzero(magnitude >= m) < rank]
    assert select_above_rank(torch.from_numpy(x), rank).tolist() == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_select_above_rank_at_block_edges(size: int, kind: str) -> None:
    x = values(kind, size, seed=1)
    for keep in (1e-5, 0.01, 0.5, 1):
        expected = np.flatnonzero(top_k(x, keep, "authors"))
        np.testing.assert_array_equal(select_above_rank(torch.from_numpy(x), round(keep * size) + 2), expected)


def check_percentile(x: np.ndarray, t: float) -> None:
    tensor = torch.from_numpy(x.copy())
    rank = round(Fraction(x.size - 1) * Fraction(t) / 100)  # exact, then half to even
    assert float(percentile(tensor, t)) == float(np.sort(np.abs(x))[rank])
    assert tensor.numpy().tobytes() == x.tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_percentile_is_a_rank_of_the_sort(size: int, kind: str) -> None:
    x = values(kind, size, seed=2)
    for t in (0, 0.1, 25, 50, 90, 99.9, 100):
        check_percentile(x, t)


@given(x=SMALL, t=st.one_of(st.sampled_from([0, 50, 100]), st.integers(0, 100), st.floats(0, 100)))
@settings(EXAMPLES, max_examples=200)
def test_percentile_of_any_small_vector(x: np.ndarray, t: float) -> None:
    check_percentile(x, t)


@pytest.mark.parametrize(("size", "rank"), [(2, 0), (4, 2), (6, 2), (8, 4), (3, 1)])
def test_percentile_50_rounds_half_to_even(size: int, rank: int) -> None:
    """(n - 1) / 2 = 0.5, 1.5, 2.5, 3.5 and 1."""
    assert percentile(-torch.arange(size, dtype=torch.float32), 50) == rank


# --- one message -------------------------------------------------------------------------------------------

SHAPES = ((3, 2, 2, 3), (5,), (4, 2, 3, 1), (2, 7), (1,))  # two of them kernels (O, I, H, W)
LAYOUT = [(f"tensor{i}", shape) for i, shape in enumerate(SHAPES)]


@given(
    kinds=st.lists(st.sampled_from(sorted(KINDS)), min_size=len(SHAPES), max_size=len(SHAPES)),
    seed=st.integers(0, 10**6),
    keep=st.one_of(st.sampled_from([1e-5, 0.1, 0.5, 1.0]), st.floats(1e-6, 1)),
    channels_last=st.booleans(),
    fidelity=st.sampled_from(["paper", "authors"]),
)
@settings(EXAMPLES, max_examples=200)
def test_compress_splits_an_update_exactly(kinds, seed: int, keep: float, channels_last: bool, fidelity: str) -> None:
    """Per tensor: C_R by the ordinary flat index however it is stored, exactly K entries unless zeros forbid it.

    Message + residual = update, exactly; the bits are those of the formula.
    """
    layout = Layout.of(LAYOUT, channels_last=channels_last)
    assert layout.shapes == SHAPES and layout.numel == sum(int(np.prod(shape)) for shape in SHAPES)
    update = [values(kind, int(np.prod(shape)), seed).reshape(shape) for kind, shape in zip(kinds, SHAPES, strict=True)]
    flat = torch.zeros(layout.numel)
    for view, u in zip(layout.views(flat).values(), update, strict=True):
        view.copy_(torch.from_numpy(u))

    message = layout.compress(flat, keep, fidelity)
    sent, residual = torch.zeros(layout.numel), flat.clone()
    message.add_to(sent)
    message.take_from(residual)

    assert torch.equal(sent + residual, flat)
    assert not torch.any((sent != 0) & (residual != 0))
    bits = 0
    for view, u, count in zip(layout.views(sent).values(), update, message.counts, strict=True):
        np.testing.assert_array_equal(view.numpy(), top_k(u, keep, fidelity))
        if fidelity == "paper":
            assert count == min(max(1, round(keep * u.size)), np.count_nonzero(u))
        bits += count * (32 + index_bits(u.size))
    assert message.bits == bits


@pytest.mark.parametrize("fidelity", ["paper", "authors"])
@pytest.mark.parametrize("kind", ["many ties", "all equal", "mostly zero", "block edges", "normal"])
def test_compress_of_a_large_kernel_stored_channels_last(kind: str, fidelity: str) -> None:
    """Larger than the blocks that a fast selection may work in, and ties everywhere."""
    shape = (48, 32, 3, 3)
    layout = Layout.of([("kernel", shape), ("bias", (48,))], channels_last=True)
    update = [values(kind, 48 * 32 * 9, 5).reshape(shape), values(kind, 48, 6)]
    flat = torch.zeros(layout.numel)
    for view, u in zip(layout.views(flat).values(), update, strict=True):
        view.copy_(torch.from_numpy(u))
    for keep in (1e-5, 1e-3, 0.05, 0.5):
        sent = torch.zeros(layout.numel)
        layout.compress(flat, keep, fidelity).add_to(sent)
        for view, u in zip(layout.views(sent).values(), update, strict=True):
            np.testing.assert_array_equal(view.numpy(), top_k(u, keep, fidelity))


# --- the protocol, exactly ---------------------------------------------------------------------------------


class Sloped(nn.Module):
    """The oracle's Slope: output x . w, w being all weights in one row; `steady` makes the loss 1 for ever."""

    def __init__(self, start: Weights) -> None:
        super().__init__()
        self.tensors = nn.ParameterList(torch.from_numpy(w.copy()) for w in start)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = x @ torch.cat([w.reshape(-1) for w in self.tensors])
        return torch.stack([out, torch.zeros_like(out)], 1)


def steady(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    mean = z[:, 0].mean()
    return mean - mean.detach() + 1


def engine(start: Weights, clients, participants, s: Setting, **more) -> tuple[list[Weights], list[int]]:
    tensors = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in clients]
    seen: list[Weights] = []
    history, _ = flare.simulate(
        Sloped(start),
        tensors,
        test=tensors[0],
        method=s.method,
        settings={name: getattr(s, name) for name in OWN_SETTINGS.get(s.method, ())},
        keep="dense" if s.method == "fedavg" else s.keep,
        rounds=len(participants),
        local_epochs=s.local_epochs,
        batch_size=s.batch_size,
        learning_rate=s.learning_rate,
        momentum=s.momentum,
        participants=participants,
        fidelity=s.fidelity,
        evaluate_every=1,
        loss=steady,
        on_round=lambda _, weights: seen.append([w.clone().numpy() for w in weights.values()]),
        **more,
    )
    return seen, history["uplink_bits"].tolist()


def states_of(start: Weights, clients, participants, s: Setting) -> tuple[list, list[dict[str, np.ndarray]]]:
    """What `engine` returns; and after every round a row for each client: its states, and when it last sent what."""
    kept: list[dict[str, np.ndarray]] = []

    def on_state(state) -> None:
        rows = {**state["memory"], "last_sent": state["last_sent"]}
        kept.append({name: value.clone().numpy() for name, value in rows.items()})

    return list(engine(start, clients, participants, s, staleness=True, on_state=on_state)), kept


def check_silent(kept: list[dict[str, np.ndarray]], participants) -> None:
    """A client that does not answer is untouched, and before its first answer as it began."""
    before = {name: np.full_like(rows, -1 if name == "last_sent" else 0) for name, rows in kept[0].items()}
    for who, after in zip(participants, kept, strict=True):
        silent = [k for k in range(len(after["last_sent"])) if k not in who]
        for name, rows in after.items():
            np.testing.assert_array_equal(rows[silent], before[name][silent])
        before = after


@st.composite
def protocols(draw, methods=tuple(OWN_SETTINGS), dtype: type = np.float64, steps: int = 2):
    """A run whose every number is a small multiple of a small power of two."""
    shapes = tuple(draw(st.lists(st.sampled_from([(1,), (3,), (2, 2), (5,), (2, 3, 2, 2)]), min_size=1, max_size=3)))
    size = sum(int(np.prod(shape)) for shape in shapes)
    number = draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    spread = draw(st.sampled_from([1, 2, 8]))  # 1: little but ties and zeros
    clients = [
        (rng.integers(-spread, spread + 1, (rows, size)).astype(dtype), np.zeros(rows, dtype=np.int64))
        for rows in rng.integers(1, steps + 1, number)
    ]
    some = st.permutations(range(number)).flatmap(
        lambda p: st.sampled_from([n for n in (1, 2, 4) if n <= number]).map(lambda n: p[:n])
    )
    participants = draw(st.lists(some, min_size=1, max_size=5))
    start = [rng.integers(-3, 4, shape).astype(dtype) for shape in shapes]
    setting = Setting(
        method=draw(st.sampled_from(methods)),
        keep=draw(st.sampled_from([1e-5, 0.25, 0.5, 0.75, 1.0])),
        local_epochs=draw(st.integers(1, steps)),
        batch_size=1,
        learning_rate=draw(st.sampled_from([1.0, 0.5])),
        momentum=draw(st.sampled_from([0.0, 0.5])) if steps > 1 else 0.0,
        tau=draw(st.sampled_from([0.0, 0.5, 1.0])),
        tau_decay=draw(st.sampled_from([1.0, 2.0])) if steps > 1 else 1.0,
        percentile=draw(st.sampled_from([0, 30, 50, 100])),
        pull_steps=draw(st.sampled_from([0, 1, 2, "all"])),
        mu=draw(st.sampled_from([0.0, 0.25, 0.5])),
        mu_decay=draw(st.sampled_from([1.0, 2.0])),
        fidelity=draw(st.sampled_from(["paper", "authors"])),
    )
    return shapes, start, clients, participants, setting


@given(case=protocols())
@settings(EXAMPLES, max_examples=200)
def test_protocol_agrees_to_the_bit(case) -> None:
    shapes, start, clients, participants, s = case
    rounds = run(Slope(shapes), start, clients, participants, s)
    seen, bits = engine(start, clients, participants, s)
    assert bits == [r.uplink_bits for r in rounds]
    for got, want in zip(seen, rounds, strict=True):
        for g, w in zip(got, want.weights, strict=True):
            np.testing.assert_array_equal(g, w)


@given(case=protocols(), random=st.randoms(use_true_random=False))
@settings(EXAMPLES, max_examples=60)
def test_permuting_clients_permutes_states_only(case, random) -> None:
    """To the bit: every sum is exact here. Those that do not answer are untouched."""
    _, start, clients, participants, s = case
    order = random.sample(range(len(clients)), len(clients))  # client order[i] becomes client i
    outcome, kept = states_of(start, clients, participants, s)
    renumbered = [[order.index(k) for k in who] for who in participants]
    permuted, moved = states_of(start, [clients[k] for k in order], renumbered, s)
    assert permuted[1] == outcome[1]
    for one, other in zip(outcome[0], permuted[0], strict=True):
        for tensor, same in zip(one, other, strict=True):
            np.testing.assert_array_equal(tensor, same)
    for one, other in zip(kept, moved, strict=True):
        assert one.keys() == other.keys()
        for name, rows in one.items():
            np.testing.assert_array_equal(rows[order], other[name])
    check_silent(kept, participants)


# --- the wire ----------------------------------------------------------------------------------------------


def encode(message: Weights, dense: bool) -> tuple[bytes, int]:
    """The message as bytes, and the number of bits used before the last byte is filled up.

    float32 values, each preceded by its index in ceil(log2(numel)) bits where the message is sparse.
    """
    bits = ""
    for tensor in message:
        flat = tensor.astype(np.float32).reshape(-1)
        for i in range(flat.size) if dense else np.flatnonzero(flat):
            if not dense and index_bits(flat.size):
                bits += format(int(i), f"0{index_bits(flat.size)}b")
            bits += format(int(flat[i].view(np.uint32)), "032b")
    used = len(bits)
    bits += "0" * (-used % 8)
    return bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)), used


def decode(data: bytes, counts: list[int], shapes, dense: bool) -> Weights:
    """What the server reads, told how many entries of each tensor to expect."""
    bits = "".join(format(byte, "08b") for byte in data)
    out, at = [], 0
    for shape, count in zip(shapes, counts, strict=True):
        flat = np.zeros(int(np.prod(shape)), dtype=np.float32)
        width = 0 if dense else index_bits(flat.size)
        for n in range(flat.size if dense else count):
            i = n if dense else int(bits[at : at + width] or "0", 2)
            flat[i] = np.uint32(int(bits[at + width : at + width + 32], 2)).view(np.float32)
            at += width + 32
        out.append(flat.reshape(shape))
    assert len(bits) - at < 8 and "1" not in bits[at:]
    return out


@given(case=protocols(methods=tuple(m for m in OWN_SETTINGS if m != "ef21"), dtype=np.float32, steps=1))
@settings(EXAMPLES, max_examples=100)
def test_uplink_bits_are_those_of_a_real_encoder(case) -> None:
    """A server that sees only the bytes reaches the engine's weights, and the bytes are as many as counted."""
    shapes, start, clients, participants, s = case
    dense = s.method == "fedavg"
    rounds = run(Slope(shapes), start, clients, participants, s)
    seen, uplink_bits = engine(start, clients, participants, s)
    w, total = start, 0
    for r, result in enumerate(rounds):
        received = [np.zeros_like(wi) for wi in w]
        for k, message in result.messages.items():
            data, used = encode(message, dense)
            assert used <= 8 * len(data) < used + 8
            total += used
            decoded = decode(data, result.counts[k], shapes, dense)
            received = [a + b for a, b in zip(received, decoded, strict=True)]
        w = [wi + a / np.float32(len(result.messages)) for wi, a in zip(w, received, strict=True)]
        assert uplink_bits[r] == total
        for g, wi in zip(seen[r], w, strict=True):
            np.testing.assert_array_equal(g, wi)


@contextlib.contextmanager
def tapped() -> Iterator[list[tuple[Weights, Weights]]]:
    """Of every message made within, in order: what it was chosen from, and what it carries."""
    compress = Layout.compress
    made: list[tuple[Weights, Weights]] = []

    def tap(layout: Layout, flat: torch.Tensor, *budget) -> Message:
        message = compress(layout, flat, *budget)
        sent = torch.zeros_like(flat)
        message.add_to(sent)
        whole, carried = ([v.clone().numpy() for v in layout.views(vector).values()] for vector in (flat, sent))
        made.append((whole, carried))
        return message

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Layout, "compress", tap)
        yield made


def flattened(tensors: Weights) -> np.ndarray:
    return np.concatenate([tensor.reshape(-1) for tensor in tensors])


def check_wire(method: str, seed: int, keep: float | None, fidelity: str, participants) -> list[int]:
    """A run of a real network, of which the server sees only bytes; returns the bits that each round sent.

    The server's weights are the engine's, to the bit, and the bytes are as many as counted. Message + residual = update
    exactly, no entry in both. Where the message alone moves the server, no other coordinate changes.
    """
    start, clients = problem(seed, dtype=np.float32)
    tensors = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in clients]
    own = {"flare": {"tau": 0.3, "pull_steps": 2}, "fedprox": {"mu": 0.2}}.get(method, {})
    dense = keep is None or flare.algorithms.load(method).dense
    seen: list[Weights] = []
    kept: list[dict[str, np.ndarray]] = []
    with tapped() as made:
        history, _ = flare.simulate(
            network(start, relu=True),
            tensors,
            test=tensors[0],
            method=method,
            settings=own,
            keep="dense" if keep is None else keep,
            rounds=len(participants),
            local_epochs=2,
            batch_size=5,
            learning_rate=0.1,
            momentum=0 if method == "dgc" else 0.5,
            participants=participants,
            fidelity=fidelity,
            evaluate_every=1,
            on_round=lambda _, weights: seen.append([w.clone().numpy() for w in weights.values()]),
            on_state=lambda state: kept.append({n: rows.clone().numpy() for n, rows in state["memory"].items()}),
        )
    assert len(made) == sum(map(len, participants)) and len(seen) == len(participants)
    messages = iter(made)
    w, total, bits = start, 0, []
    estimates = [[np.zeros_like(wi) for wi in w] for _ in clients]  # EF21's server keeps its own G_k
    for r, who in enumerate(participants):
        received = [np.zeros_like(wi) for wi in w]
        carried = np.zeros(sum(wi.size for wi in w), dtype=bool)
        for k in sorted(who):
            update, message = next(messages)
            data, used = encode(message, dense)
            assert used <= 8 * len(data) < used + 8
            total += used
            got = decode(data, [int(np.count_nonzero(m)) for m in message], [m.shape for m in message], dense)
            if method in ("ef21", "econtrol", "ef21_sgdm"):
                got = estimates[k] = [g + q for g, q in zip(estimates[k], got, strict=True)]
                np.testing.assert_array_equal(kept[r]["estimate"][k], flattened(got))
            received = [a + b for a, b in zip(received, got, strict=True)]
            carried |= flattened(message) != 0
            if method in ("topk", "flare", "fedprox", "ffl"):
                residual = kept[r]["accumulator"][k]
                np.testing.assert_array_equal(flattened(message) + residual, flattened(update))
                assert not np.any((flattened(message) != 0) & (residual != 0))
        before, w = w, [wi + a / np.float32(len(who)) for wi, a in zip(w, received, strict=True)]
        bits.append(total - sum(bits))
        assert history["uplink_bits"][r] == total
        np.testing.assert_array_equal(flattened(seen[r]), flattened(w))
        if method in ("topk", "flare", "fedprox"):
            assert not np.any((flattened(seen[r]) != flattened(before)) & ~carried)
    return bits


@pytest.mark.parametrize("method", sorted(set(METHODS) - OTHER_WIRE))
@given(
    seed=st.integers(0, 10**6),
    keep=st.one_of(st.sampled_from([None, 1e-5, 0.1, 1.0]), st.floats(1e-3, 1)),
    fidelity=st.sampled_from(["paper", "authors"]),
    participants=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True), min_size=3, max_size=5),
)
@settings(EXAMPLES, max_examples=15, phases=[Phase.generate])  # a run is too slow to be made smaller
def test_a_server_that_sees_only_bytes_has_the_engines_weights(
    method: str, seed: int, keep: float | None, fidelity: str, participants
) -> None:
    check_wire(method, seed, keep, fidelity, participants)


def test_uplink_of_ffl_follows_its_budget() -> None:
    """The same four clients every round, and more entries as the loss falls."""
    bits = check_wire("ffl", 5, 0.2, "paper", [[0, 1, 2, 3]] * 8)
    assert max(bits) > bits[0]
    fixed = check_wire("topk", 5, 0.2, "paper", [[0, 1, 2, 3]] * 8)
    assert bits[0] == fixed[0] and len(set(fixed)) == 1


# --- who changes what --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", sorted(set(METHODS) - OTHER_WIRE))
@given(
    gradient=st.lists(st.integers(-3, 3), min_size=6, max_size=6),
    gaps=st.lists(st.integers(0, 2), min_size=2, max_size=4),
    keep=st.sampled_from([1e-5, 0.1, 0.25]),
)
@settings(EXAMPLES, max_examples=12)
def test_silence_leaves_a_client_as_it_was(method: str, gradient, gaps, keep: float) -> None:
    """Client 0 moves the first half of the weights, client 1 the other.

    Rounds in which only client 1 answers leave client 0's half, and what client 0 does at its next answer, exactly as
    if those rounds had not been (tau and mu do not decay here).
    """
    zeros = [0] * 6
    y = np.zeros(1, dtype=np.int64)
    clients = [(np.array([row], dtype=np.float64), y) for row in ([*gradient, *zeros], [*zeros, 3, -1, 2, 2, -3, 1])]
    s = Setting(method, keep, learning_rate=0.5, batch_size=1, local_epochs=2, tau=0.5, pull_steps="all", mu=0.25)
    with_gaps = [who for gap in gaps for who in [[1]] * gap + [[0]]]
    start = [np.zeros(12)]
    alone = engine(start, clients, [[0]] * len(gaps), s)[0]
    (mixed, _), kept = states_of(start, clients, with_gaps, s)
    check_silent(kept, with_gaps)
    answers = [r for r, who in enumerate(with_gaps) if who == [0]]
    for r, expected in zip(answers, alone, strict=True):
        np.testing.assert_array_equal(mixed[r][0][:6], expected[0][:6])
    for r, who in enumerate(with_gaps):
        before = mixed[r - 1][0] if r else start[0]
        silent = slice(6, 12) if who == [0] else slice(0, 6)
        np.testing.assert_array_equal(mixed[r][0][silent], before[silent])


@pytest.mark.parametrize("method", METHODS)
def test_few_entries_are_added_as_a_whole_vector_is(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum of a round's messages at the places that they name, or over all weights: the same bits.

    Two clients with four fifths of the entries each overlap.
    """
    start, clients = problem(seed=5, dtype=np.float32)
    tensors = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in clients]
    added = []
    monkeypatch.setattr(
        simulation, "add_mean", lambda flat, messages: added.append(len(messages)) or add_mean(flat, messages)
    )

    def final(share: float) -> list[np.ndarray]:
        monkeypatch.setattr(simulation, "_SPARSE", share)
        _, weights = flare.simulate(
            network(start, relu=True),
            tensors,
            test=tensors[0],
            method=method,
            keep=0.8,
            rounds=4,
            local_epochs=2,
            batch_size=5,
            learning_rate=0.1,
            momentum=0 if method in ("dgc", "scafcom") else 0.9,
            participants=[[0, 2], [3, 1], [2], [1, 3, 0]],
        )
        return [weight.numpy() for weight in weights.values()]

    whole = final(0)
    assert added == []
    for mine, theirs in zip(final(4), whole, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    chosen = flare.algorithms.load(method)
    summed = chosen.dense or chosen.receive is not flare.algorithms.add_message
    assert added == ([] if summed else [2, 2, 1, 3])


@pytest.mark.parametrize("fidelity", ["paper", "authors"])
@pytest.mark.parametrize("keep", [1e-5, 0.1, 0.5])
@pytest.mark.parametrize("method", ["topk", "flare", "fedprox"])
def test_server_moves_only_what_messages_carry(method: str, keep: float, fidelity: str) -> None:
    """On a real network: in a round at most K weights of a tensor change for each answering client.

    The round's uplink bits are bounded by the same K.
    """
    start, clients = problem(seed=21, dtype=np.float32)
    tensors = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in clients]
    participants = [[0, 2], [3, 1, 0], [2], [1, 3]]
    seen = [start]
    history, _ = flare.simulate(
        network(start, relu=True),
        tensors,
        test=tensors[0],
        method=method,
        settings={"flare": {"tau": 0.3, "pull_steps": 2}, "fedprox": {"mu": 0.2}}.get(method, {}),
        keep=keep,
        rounds=4,
        local_epochs=2,
        batch_size=5,
        learning_rate=0.1,
        momentum=0.9,
        participants=participants,
        fidelity=fidelity,
        evaluate_every=1,
        on_round=lambda _, weights: seen.append([w.clone().numpy() for w in weights.values()]),
    )
    extra = 1 if fidelity == "authors" else 0
    most = [max(1, round(keep * w.size) + extra) for w in start]
    bits = np.diff(history["uplink_bits"], prepend=0)
    for r, who in enumerate(participants):
        for before, after, k in zip(seen[r], seen[r + 1], most, strict=True):
            assert 0 < np.count_nonzero(before != after) <= k * len(who)
        assert bits[r] <= len(who) * sum(k * (32 + index_bits(w.size)) for k, w in zip(most, start, strict=True))
