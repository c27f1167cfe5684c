"""The field's other methods once more, in plain NumPy: literal loops over clients, batches, tensors and bits.

Written from the text of the methods alone, with nothing shared with the engine; `oracle` has the network, the selection
in one tensor and the index bits. Sources: SA-PEF (arXiv 2601.20738), DGC (1712.01887), SparseLoCo's decay (2508.15706),
Top-K of the whole model (2108.00951), STC (1903.02891), EControl (2311.05645), EF21-SGDM (2305.15155), SCAFCOM
(2308.08165), FedAvgM (1909.06335), FedAdam (2003.00295).

Readings where the text leaves room: a tensor of which nothing is sent by STC still costs its 32 bits for mu; of STC the
downlink of a round is this round's server message to each client that answers; local steps are those of all epochs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from oracle import Mlp, Pair, Weights, index_bits, largest, percentile, top_k

# places(round, client): flat indices that Random-K draws; the draw itself is nobody's rule
Places = Callable[[int, int], np.ndarray]
DEFAULTS: dict[str, dict[str, Any]] = {
    "fedavg": {"value_bits": 32},
    "topk": {"memory_decay": 1.0, "scope": "tensor"},
    "flare": {"tau_decay": 1.0, "percentile": 50, "pull_steps": 1, "count_pull": True, "pull": "gradient"},
    "dgc": {"momentum": 0.9, "warmup_rounds": 0, "masking": True},
}


@dataclass(frozen=True)
class Case:
    """One run."""

    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    server: Mapping[str, Any] | None = None
    keep: float | None = 0.1
    local_epochs: int = 1
    batch_size: int = 5
    learning_rate: float = 0.2
    momentum: float = 0.0
    fidelity: str = "paper"


@dataclass
class After:
    """What a round left; bits are sums over the rounds so far. states: of each client, by name."""

    weights: np.ndarray
    uplink: int
    downlink: int
    states: list[dict[str, np.ndarray]]


class Flat:
    """Cuts a flat vector into tensors."""

    def __init__(self, start: Weights) -> None:
        self.shapes = [w.shape for w in start]
        self.sizes = [w.size for w in start]
        self.ends = np.cumsum(self.sizes).tolist()

    def parts(self, x: np.ndarray) -> Weights:
        return [
            x[end - n : end].reshape(shape) for end, n, shape in zip(self.ends, self.sizes, self.shapes, strict=True)
        ]

    @staticmethod
    def join(parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([part.ravel() for part in parts])


def entry_bits(m: np.ndarray, n: int) -> int:
    return int(np.count_nonzero(m)) * (32 + index_bits(n))


def bfloat16(x: np.ndarray) -> np.ndarray:
    """To the nearest number of 8 significant bits, ties to the even one."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.rint(mantissa * 256) / 256, exponent)


def golomb(gap: int, b: int) -> str:
    """The code of a gap of 1 or more: the quotient as so many ones and a zero, then b bits of the rest."""
    quotient, rest = divmod(gap - 1, 2**b)
    return "1" * quotient + "0" + (f"{rest:0{b}b}" if b else "")


def ternary(x: np.ndarray, keep: float | None) -> tuple[np.ndarray, str]:
    """T_R of one tensor, and its message after the 32 bits of mu, bit by bit."""
    flat, n = x.reshape(-1), x.size
    k = n if keep is None else max(1, round(keep * n))
    chosen = largest(flat, k)
    out, written = np.zeros_like(flat), ""
    if len(chosen):
        out[chosen] = np.abs(flat[chosen]).mean() * np.sign(flat[chosen])
    q, before = k / n, -1
    if q < 1:
        phi = (1 + math.sqrt(5)) / 2
        b = max(0, 1 + math.floor(math.log2(math.log(phi - 1) / math.log(1 - q))))
    for place in chosen:
        written += "0" if flat[place] < 0 else "1"
        if q < 1:
            written += golomb(int(place) - before, b)
        before = int(place)
    return out.reshape(x.shape), written


@dataclass
class Local:
    """What local training gave: where it ended, in how many steps, and the pull's own push."""

    end: np.ndarray
    steps: int
    push: np.ndarray


def local(
    model: Mlp, flat: Flat, start: np.ndarray, data: Pair, case: Case, extra: Callable[..., Any], pulled: float
) -> Local:
    """SGD from `start` with a fresh velocity; extra(v, step) is added to the gradient, q and P follow it."""
    (x, y), v, velocity = data, start.copy(), np.zeros_like(start)
    q, push, step = np.zeros_like(start), np.zeros_like(start), 0
    for _ in range(case.local_epochs):
        for at in range(0, len(x), case.batch_size):
            if case.fidelity == "authors" and step == pulled:
                velocity, q = np.zeros_like(v), np.zeros_like(v)
            g = Flat.join(model.gradient(flat.parts(v), x[at : at + case.batch_size], y[at : at + case.batch_size]))
            p = extra(v, step)
            velocity = case.momentum * velocity + g + p
            q = case.momentum * q + p
            v = v - case.learning_rate * velocity
            push = push - case.learning_rate * q
            step += 1
    return Local(v, step, push)


class Run:
    """A run, round by round."""

    def __init__(self, model: Mlp, start: Weights, clients: Sequence[Pair], case: Case, places: Places | None) -> None:
        self.model, self.clients, self.case, self.places = model, clients, case, places
        self.flat = Flat(start)
        self.w = Flat.join(start)
        self.own = DEFAULTS.get(case.method, {}) | dict(case.settings)
        names = ("A", "U", "V", "h", "G", "c")
        self.states = [{name: np.zeros_like(self.w) for name in names} for _ in clients]
        self.at_server = {name: np.zeros_like(self.w) for name in ("A", "c", "V", "M", "Q")}
        self.uplink = self.downlink = 0

    def c(self, x: np.ndarray, keep: float | None) -> np.ndarray:
        """C_R of every tensor."""
        if keep is None:
            return x.copy()
        return Flat.join([top_k(part, keep, self.case.fidelity) for part in self.flat.parts(x)])

    def bits(self, m: np.ndarray, keep: float | None) -> int:
        """The rule of today."""
        if keep is None:
            return 32 * m.size
        return sum(entry_bits(part, part.size) for part in self.flat.parts(m))

    def round(self, r: int, answering: Sequence[int]) -> After:
        case, n = self.case, self.w.size
        contributions, increments = [], []
        for k in answering:
            contribution, increment, bits = getattr(self, case.method)(k, r)
            contributions.append(contribution)
            increments.append(increment)
            self.uplink += bits
        mean = sum(contributions) / len(answering)
        if case.method == "stc":
            us = mean + self.at_server["A"]
            ms, bits = self.ternary(us)
            self.at_server["A"] = us - ms
            self.w = self.w + ms
            self.downlink += bits * len(answering)
        else:
            self.step(mean)
            self.downlink += (64 if case.method == "scafcom" else 32) * n * len(answering)
        if case.method == "scafcom":
            self.at_server["c"] = self.at_server["c"] + sum(increments) / len(self.clients)
        states = [{name: x.copy() for name, x in state.items()} for state in self.states]
        return After(self.w, self.uplink, self.downlink, states)

    def step(self, g: np.ndarray) -> None:
        """The server's step."""
        s, kept = dict(self.case.server or {}), self.at_server
        if not s:
            self.w = self.w + g
        elif s["optimizer"] == "sgd":
            kept["V"] = s.get("momentum", 0) * kept["V"] + g
            self.w = self.w + s["learning_rate"] * kept["V"]
        else:
            if not kept["Q"].any():
                kept["Q"] = np.full_like(self.w, s["epsilon"] ** 2)
            kept["M"] = s["beta1"] * kept["M"] + (1 - s["beta1"]) * g
            kept["Q"] = s["beta2"] * kept["Q"] + (1 - s["beta2"]) * g**2
            self.w = self.w + s["learning_rate"] * kept["M"] / (np.sqrt(kept["Q"]) + s["epsilon"])

    def train(self, k: int, start: np.ndarray | None = None, extra: Any = None, pulled: float = -1) -> Local:
        nothing = lambda v, step: np.zeros_like(v)  # noqa: E731
        start = self.w if start is None else start
        return local(self.model, self.flat, start, self.clients[k], self.case, extra or nothing, pulled)

    def feedback(self, k: int, u: np.ndarray, m: np.ndarray) -> np.ndarray:
        self.states[k]["A"] = u - m
        return m

    # --- the methods: what client k contributes, what it adds to c, and the bits of its message ---------------------

    def fedavg(self, k: int, r: int) -> tuple[np.ndarray, Any, int]:
        d = self.train(k).end - self.w
        bits = self.own["value_bits"]
        return (bfloat16(d) if bits == 16 else d), None, bits * d.size

    def topk(self, k: int, r: int) -> tuple[np.ndarray, Any, int]:
        u = self.train(k).end - self.w + self.own["memory_decay"] * self.states[k]["A"]
        if self.own["scope"] == "model":
            m = top_k(u, self.case.keep, self.case.fidelity)
            return self.feedback(k, u, m), None, entry_bits(m, m.size)
        m = self.feedback(k, u, self.c(u, self.case.keep))
        return m, None, self.bits(m, self.case.keep)

    def randomk(self, k: int, r: int) -> tuple[np.ndarray, Any, int]:
        u = self.train(k).end - self.w + self.states[k]["A"]
        m, places = np.zeros_like(u), self.places(r, k)
        counts = [max(1, round(self.case.keep * n)) for n in self.flat.sizes]
        begins = [end - n for end, n in zip(self.flat.ends, self.flat.sizes, strict=True)]
        found = [((places >= a) & (places < b)).sum() for a, b in zip(begins, self.flat.ends, strict=True)]
        assert found == counts and len(set(places.tolist())) == len(places)
        m[places] = u[places]
        return self.feedback(k, u, m), None, 32 * len(places)

    def flare(self, k: int, r: int) -> tuple[np.ndarray, Any, int]:
        a, own, w = self.states[k]["A"], self.own, self.w
        tau = own["tau"] / own["tau_decay"] ** (r + 1)
        mask = Flat.join([(np.abs(x) > percentile(x, own["percentile"])) * 1.0 for x in self.flat.parts(a)])
        if own["pull"] == "memory":
            u = self.train(k).end - w + a + self.case.learning_rate * tau * mask * np.sign(a)
        else:
            steps = math.inf if own["pull_steps"] == "all" else own["pull_steps"]

            def pull(v: np.ndarray, step: int) -> np.ndarray:
                return tau * mask * np.sign((v - w) - a) * (step < steps)

            trained = self.train(k, extra=pull, pulled=steps)
            u = trained.end - w - (0 if own["count_pull"] else trained.push) + a
        m = self.feedback(k, u, self.c(u, self.case.keep))
        return m, None, self.bits(m, self.case.keep)

    def ef21(self, k: int, r: int) -> tuple[np.ndarray, Any, int]:
        q = self.c(self.train(k).end - self.w - self.states[k]["G"], self.case.keep)
        self.states[k]["G"] = self.states[k]["G"] + q
        return self.states[k]["G"], None, self.bits(q, self.case.keep)

    def sapef(self, k: int, r: int) -> tuple[np.ndarray, Any, int]:
        a, alpha = self.states[k]["A"], self.own.get("alpha", 0.85)
        u = (self.train(k, self.w + alpha * a).end - self.w) + (1 - alpha) * a
        m = self.feedback(k, u, self.c(u, self.case.keep))
        return m, None, self.bits(m, self.case.keep)

    def dgc(self, k: int, r: int) -> tuple[np.ndarray, Any, int]:
        own, state, keep = self.own, self.states[k], self.case.keep
        if r < own["warmup_rounds"]:
            keep = max(keep, keep ** ((r + 1) / (own["warmup_rounds"] + 1)))
        state["U"] = own["momentum"] * state["U"] + self.train(k).end - self.w
        state["V"] = state["V"] + state["U"]
        m = self.c(state["V"], keep)
        state["V"] = np.where(m != 0, 0, state["V"])
        if own["masking"]:
            state["U"] = np.where(m != 0, 0, state["U"])
        return m, None, self.bits(m, keep)

    def ternary(self, u: np.ndarray) -> tuple[np.ndarray, int]:
        parts = [ternary(part, self.case.keep) for part in self.flat.parts(u)]
        return Flat.join([m for m, _ in parts]), sum(32 + len(written) for _, written in parts)

    def stc(self, k: int, r: int) -> tuple[np.ndarray, Any, int]:
        u = self.train(k).end - self.w + self.states[k]["A"]
        m, bits = self.ternary(u)
        return self.feedback(k, u, m), None, bits

    def econtrol(self, k: int, r: int) -> tuple[np.ndarray, Any, int]:
        e, h, d = self.states[k]["A"], self.states[k]["h"], self.train(k).end - self.w
        increment = self.c(self.own.get("eta", 0.1) * e + d - h, self.case.keep)
        self.states[k]["A"] = e + d - h - increment
        self.states[k]["h"] = h + increment
        return self.states[k]["h"], None, self.bits(increment, self.case.keep)

    def ef21_sgdm(self, k: int, r: int) -> tuple[np.ndarray, Any, int]:
        state, eta = self.states[k], self.own.get("eta", 0.3)
        state["V"] = (1 - eta) * state["V"] + eta * (self.train(k).end - self.w)
        q = self.c(state["V"] - state["G"], self.case.keep)
        state["G"] = state["G"] + q
        return state["G"], None, self.bits(q, self.case.keep)

    def scafcom(self, k: int, r: int) -> tuple[np.ndarray, Any, int]:
        state, beta, lr = self.states[k], self.own.get("beta", 0.2), self.case.learning_rate
        c, mine = self.at_server["c"], state["c"].copy()
        trained = self.train(k, extra=lambda v, step: c - mine)
        s = trained.steps
        state["V"] = (1 - beta) * state["V"] + beta * ((self.w - trained.end) / (lr * s) + mine - c)
        increment = self.c(state["V"] - mine, self.case.keep)
        state["c"] = mine + increment
        return -lr * s * (increment + c), increment, self.bits(increment, self.case.keep)


def run(
    model: Mlp,
    start: Weights,
    clients: Sequence[Pair],
    participants: Sequence[Sequence[int]],
    case: Case,
    places: Places | None = None,
) -> list[After]:
    """One round per list of answering clients."""
    whole = Run(model, start, clients, case, places)
    return [whole.round(r, sorted(answering)) for r, answering in enumerate(participants)]
