"""The six federated methods once more, in plain NumPy, to check the engine against.

Written from the text of the methods alone (not from the engine), with nothing shared: literal loops over
clients, batches and tensors, a multi-layer perceptron with hand-written backpropagation, selection by one
full stable sort. Slow, and meant to be read.

Sources: FLARE (arXiv 2312.13795), FedAvg (1602.05629), Top-K with memory (1809.07599), FedProx (1812.06127),
EF21 (2106.05203), FFL (2105.11028).

Readings where the text leaves room:

- `round(R * numel)` is Python's round, half to even, in both fidelities.
- Authors' Top-K whose rank `round(R * numel) + 2` exceeds the tensor: there is no such entry, so nothing is
cut
  (zeros excepted).
- Authors' FLARE with tau = 0: there are no pulled steps, so no momentum is lost after them ("tau = 0 IS
Top-K").
- FFL's "mean training loss over the clients' own data" is the mean over all samples of ALL clients, answering
or
  not. A dense FFL stays dense; only its epochs follow the loss.
- FedProx: mu_r = mu / mu_decay^(r+1) in both fidelities.
- The training loss of a round is the bare batch loss (without pull or proximal term), averaged over a
client's
  batches, then over the answering clients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Weights = list[np.ndarray]  # one array per tensor, in the order weight, bias, weight, bias, ...
Pair = tuple[np.ndarray, np.ndarray]  # inputs (samples, features) and targets (samples,)


# --- models: loss(weights, x, y) and gradient(weights, x, y) ------------------------------------------------


def softmax(z: np.ndarray) -> np.ndarray:
    """Row-wise softmax of z (samples, classes)."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def cross_entropy(z: np.ndarray, y: np.ndarray) -> float:
    """Mean over the samples of -z_y + log sum exp z."""
    top = z.max(axis=1, keepdims=True)
    log_sum = top[:, 0] + np.log(np.exp(z - top).sum(axis=1))
    return float(np.mean(log_sum - z[np.arange(len(y)), y]))


@dataclass(frozen=True)
class Mlp:
    """Linear layers, optionally ReLU between them; mean cross-entropy of the outputs.

    double_softmax takes the cross-entropy of the outputs' softmax instead: -p_y + log sum exp p.
    """

    relu: bool = True
    double_softmax: bool = False

    def forward(self, weights: Weights, x: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The input of every layer, and every layer's output before the ReLU (the last one: the logits)."""
        inputs, outputs = [x], []
        layers = len(weights) // 2
        for layer in range(layers):
            z = inputs[-1] @ weights[2 * layer].T + weights[2 * layer + 1]
            outputs.append(z)
            if layer < layers - 1:
                inputs.append(np.maximum(z, 0) if self.relu else z)
        return inputs, outputs

    def loss(self, weights: Weights, x: np.ndarray, y: np.ndarray) -> float:
        z = self.forward(weights, x)[1][-1]
        return cross_entropy(softmax(z) if self.double_softmax else z, y)

    def accuracy(self, weights: Weights, x: np.ndarray, y: np.ndarray) -> float:
        return float(np.mean(self.forward(weights, x)[1][-1].argmax(axis=1) == y))

    def gradient(self, weights: Weights, x: np.ndarray, y: np.ndarray) -> Weights:
        inputs, outputs = self.forward(weights, x)
        z = outputs[-1]
        p = softmax(z)
        target = np.zeros_like(z)
        target[np.arange(len(y)), y] = 1
        if self.double_softmax:  # chain: loss is cross-entropy of p, and dp_i/dz_j = p_i (delta_ij - p_j)
            dp = (softmax(p) - target) / z.dtype.type(len(y))
            dz = p * (dp - (p * dp).sum(axis=1, keepdims=True))
        else:
            dz = (p - target) / z.dtype.type(len(y))
        gradient: Weights = [np.zeros(0)] * len(weights)
        for layer in reversed(range(len(weights) // 2)):
            gradient[2 * layer] = dz.T @ inputs[layer]
            gradient[2 * layer + 1] = dz.sum(axis=0)
            if layer > 0:
                dz = dz @ weights[2 * layer]
                if self.relu:
                    dz = dz * (outputs[layer - 1] > 0)
        return gradient


@dataclass(frozen=True)
class Slope:
    """A loss that is linear in the weights: its gradient is the mean input row, cut into the tensors' shapes.

    With small dyadic numbers everything after it is exact in floating point, and results can be demanded to
    the bit. The loss counts as 1 for ever (FFL's limit).
    """

    shapes: tuple[tuple[int, ...], ...]

    def loss(self, weights: Weights, x: np.ndarray, y: np.ndarray) -> float:
        return 1.0

    def gradient(self, weights: Weights, x: np.ndarray, y: np.ndarray) -> Weights:
        row, out, start = x.mean(axis=0), [], 0
        for shape in self.shapes:
            size = int(np.prod(shape))
            out.append(row[start : start + size].reshape(shape))
            start += size
        return out


# --- selection ----------------------------------------------------------------------------------------------


def largest(x: np.ndarray, count: int) -> np.ndarray:
    """Ascending flat indices of the `count` largest magnitudes; ties to the lowest index; zeros left out."""
    flat = x.reshape(-1)
    order = np.argsort(-np.abs(flat), kind="stable")[:count]
    return np.sort(order[flat[order] != 0])


def top_k(x: np.ndarray, keep: float, fidelity: str = "paper") -> np.ndarray:
    """C_R(x): the largest magnitudes of one tensor, zeros elsewhere."""
    flat = x.reshape(-1)
    out = np.zeros_like(flat)
    if fidelity == "paper":
        chosen = largest(flat, max(1, round(keep * flat.size)))
    else:
        rank = round(keep * flat.size) + 2
        descending = np.sort(np.abs(flat))[::-1]
        threshold = descending[rank - 1] if rank <= flat.size else 0
        chosen = np.flatnonzero(np.abs(flat) > threshold)
    out[chosen] = flat[chosen]
    return out.reshape(x.shape)


def percentile(x: np.ndarray, t: float) -> float:
    """Entry of rank round_half_even((n-1) * t / 100) of the ascending magnitudes."""
    return float(np.sort(np.abs(x.reshape(-1)))[round((x.size - 1) * t / 100)])


def margin(x: np.ndarray, keep: float) -> float:
    """Relative gap between the last entry sent and the first not sent: the noise that the choice survives."""
    descending = np.sort(np.abs(x.reshape(-1)))[::-1]
    count = max(1, round(keep * x.size))
    if count >= x.size or descending[count - 1] == 0:
        return np.inf
    return float((descending[count - 1] - descending[count]) / descending[count - 1])


# --- the wire -----------------------------------------------------------------------------------------------


def index_bits(numel: int) -> int:
    """ceil(log2(numel)): bits that tell numel positions apart."""
    bits = 0
    while 2**bits < numel:
        bits += 1
    return bits


def message_bits(message: Weights, dense: bool) -> int:
    """Bits of one message: 32 per value, plus the index of each value where the message is sparse."""
    if dense:
        return sum(32 * m.size for m in message)
    return sum(int(np.count_nonzero(m)) * (32 + index_bits(m.size)) for m in message)


# --- the methods --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """One run. keep None is dense. pull_steps is a number of optimizer steps or "all"."""

    method: str
    keep: float | None = None
    local_epochs: int = 1
    batch_size: int = 10**9
    learning_rate: float = 0.1
    momentum: float = 0.0
    tau: float = 0.0
    tau_decay: float = 1.0
    percentile: float = 50.0
    pull_steps: int | str = 1
    mu: float = 0.0
    mu_decay: float = 1.0
    fidelity: str = "paper"


@dataclass
class Round:
    """What one round left behind. Bits are cumulative; everything else is this round's."""

    weights: Weights
    messages: dict[int, Weights]
    counts: dict[int, list[int]]
    states: list[Weights]
    uplink_bits: int
    downlink_bits: int
    train_loss: float
    keep: float | None
    local_epochs: int
    margin: float  # smallest relative gap at a Top-K cut this round (the paper's cut)


def local_training(
    model: Mlp | Slope, w: Weights, memory: Weights, data: Pair, s: Setting, round_: int, epochs: int
) -> tuple[Weights, float]:
    """One client's SGD from w: its difference d_k and the mean of its batch losses."""
    x, y = data
    number = w[0].dtype.type
    lr, momentum = number(s.learning_rate), number(s.momentum)
    tau = number(s.tau / s.tau_decay ** (round_ + 1))
    mu = number(s.mu / s.mu_decay ** (round_ + 1))
    mask = [(np.abs(a) > percentile(a, s.percentile)).astype(a.dtype) for a in memory]
    target = [wi + a for wi, a in zip(w, memory, strict=True)]
    v = [wi.copy() for wi in w]
    velocity = [np.zeros_like(wi) for wi in w]
    losses: list[float] = []
    step = 0
    for _ in range(epochs):
        for start in range(0, len(x), s.batch_size):
            batch = slice(start, start + s.batch_size)
            losses.append(model.loss(v, x[batch], y[batch]))
            g = model.gradient(v, x[batch], y[batch])
            if s.method == "flare" and (s.pull_steps == "all" or step < int(s.pull_steps)):
                pull = [tau * m * np.sign(vi - ti) for m, vi, ti in zip(mask, v, target, strict=True)]
                g = [gi + pi for gi, pi in zip(g, pull, strict=True)]
            if s.method == "flare" and s.fidelity == "authors" and s.tau != 0 and step == s.pull_steps:
                velocity = [np.zeros_like(wi) for wi in w]  # the momentum of the pulled steps is lost
            if s.method == "fedprox":
                g = [gi + number(2) * mu * (vi - wi) for gi, vi, wi in zip(g, v, w, strict=True)]
            velocity = [momentum * ui + gi for ui, gi in zip(velocity, g, strict=True)]
            v = [vi - lr * ui for vi, ui in zip(v, velocity, strict=True)]
            step += 1
    return [vi - wi for vi, wi in zip(v, w, strict=True)], float(np.mean(losses))


def run(
    model: Mlp | Slope,
    start: Weights,
    clients: Sequence[Pair],
    participants: Sequence[Sequence[int]],
    s: Setting,
) -> list[Round]:
    """One round per list of answering clients in `participants`, in the dtype of `start`."""
    w = [wi.copy() for wi in start]
    states = [[np.zeros_like(wi) for wi in w] for _ in clients]  # A_k, or EF21's G_k
    parameters = sum(wi.size for wi in w)
    uplink = downlink = 0
    first_loss = np.nan
    rounds: list[Round] = []
    for r, answering in enumerate(participants):
        keep, epochs = s.keep, s.local_epochs
        if s.method == "fedavg":
            keep = None
        if s.method == "ffl":
            samples = sum(len(x) for x, _ in clients)
            loss = sum(model.loss(w, x, y) * len(x) for x, y in clients) / samples
            first_loss = loss if r == 0 else first_loss
            if keep is not None:
                keep = min(1.0, keep * (first_loss / loss) ** (1 / 3))
            epochs = max(1, round(s.local_epochs * (loss / first_loss) ** (1 / 3)))
        messages: dict[int, Weights] = {}
        losses, gap = [], np.inf
        total = [np.zeros_like(wi) for wi in w]
        for k in answering:
            d, train_loss = local_training(model, w, states[k], clients[k], s, r, epochs)
            losses.append(train_loss)
            if keep is None:
                messages[k] = add = d
            else:
                sign = -1 if s.method == "ef21" else 1
                u = [di + sign * ai for di, ai in zip(d, states[k], strict=True)]
                gap = min([gap, *(margin(ui, keep) for ui in u)])
                messages[k] = m = [top_k(ui, keep, s.fidelity) for ui in u]
                if s.method == "ef21":
                    states[k] = add = [gi + mi for gi, mi in zip(states[k], m, strict=True)]
                else:
                    states[k], add = [ui - mi for ui, mi in zip(u, m, strict=True)], m
            total = [ti + mi for ti, mi in zip(total, add, strict=True)]
            uplink += message_bits(messages[k], dense=keep is None)
            downlink += 32 * parameters
        w = [wi + ti / wi.dtype.type(len(answering)) for wi, ti in zip(w, total, strict=True)]
        counts = {k: [int(np.count_nonzero(mi)) for mi in m] for k, m in messages.items()}
        memories = [[a.copy() for a in state] for state in states]
        loss = float(np.mean(losses))
        rounds.append(Round(w, messages, counts, memories, uplink, downlink, loss, keep, epochs, gap))
    return rounds
