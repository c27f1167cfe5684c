"""Selection if a sample misleads, and what a GPU would select, which plain torch does on a CPU, too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from oracle import top_k
from torch import Tensor, nn

import flare
from flare.engine import api
from flare.engine.layout import Layout
from flare.engine.select import cpu, cuda, percentile, percentile_of_rows, select, select_of_rows
from flare.engine.state import RunState

SIZE = 100_000
# Every place that a sample of so many looks at: SIZE / 32 of them, an odd step apart.
SAMPLED = slice(None, None, 33)


def misleading(kind: str) -> np.ndarray:
    """Entries of which those that are sampled are all large, all small, or all 0, and the others are not."""
    x = np.random.default_rng(0).normal(size=SIZE).astype(np.float32)
    x[SAMPLED] *= {"large": 1e6, "small": 1e-6, "zero": 0}[kind]
    return x


@pytest.mark.parametrize("kind", ["large", "small", "zero"])
def test_a_sample_that_misleads_decides_nothing(kind: str) -> None:
    x = misleading(kind)
    assert (np.abs(x[SAMPLED]) > 100).all() == (kind == "large") and len(x[SAMPLED]) == 3031
    order = np.argsort(-np.abs(x), kind="stable")
    for count in (3000, 3031, 5000, 50_000, 99_000):
        wanted = np.sort(order[:count][np.abs(x[order[:count]]) > 0])
        assert select(torch.from_numpy(x), count).tolist() == wanted.tolist()
    ranked = np.sort(np.abs(x))
    for t in (1, 3, 50, 97, 99, 100):
        assert percentile(torch.from_numpy(x), t) == ranked[round((SIZE - 1) * t / 100)]


def test_the_sample_is_where_this_file_says() -> None:
    """Else the vectors above mislead nobody."""
    seen = cpu._bracket(np.arange(SIZE, dtype=np.float32), 0, SIZE)
    assert seen == (0.0, np.inf) and SIZE // min(cpu.SAMPLE, SIZE // 32) | 1 == SAMPLED.step
    low, high = cpu._bracket(misleading("large"), SIZE - 5000, SIZE - 5000)
    assert low > np.sort(np.abs(misleading("large")))[-3100] and high > low  # far above the right answer


# ---- what a GPU does, on a CPU ---------------------------------------------------------------------------------------

KINDS = {
    "normal": lambda rng, n: rng.normal(size=n),
    "many ties": lambda rng, n: rng.integers(-3, 4, n),
    "all equal": lambda rng, n: np.where(rng.random(n) < 0.5, -0.5, 0.5),
    "all zero": lambda rng, n: np.zeros(n),
    "mostly zero": lambda rng, n: rng.normal(size=n) * (rng.random(n) < 0.05),
}


def vector(kind: str, size: int) -> Tensor:
    return torch.from_numpy(np.asarray(KINDS[kind](np.random.default_rng(size), size)).astype(np.float32))


@pytest.mark.parametrize("size", [1, 2, 60, 9000])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gpus_selection_is_the_cpus(kind: str, size: int) -> None:
    x = vector(kind, size)

    def mirrored(stored: np.ndarray) -> np.ndarray:
        return size - 1 - stored  # ties go to the highest index

    for count in sorted({1, min(2, size), size // 10, size // 2, size - 1, size} - {0}):
        plain = cuda.select(x, count, None)
        assert plain.dtype == torch.int64 and torch.equal(plain, cpu.select(x, count))
        assert plain.tolist() == np.flatnonzero(stable(x.numpy(), count)).tolist()
        assert torch.equal(cuda.select(x, count, mirrored), cpu.select(x, count, mirrored))
        last = np.flatnonzero(stable(x.numpy()[::-1], count)[::-1])
        assert cuda.select(x, count, mirrored).tolist() == last.tolist()
        assert torch.equal(cuda.select_above_rank(x, count), cpu.select_above_rank(x, count))


def stable(x: np.ndarray, count: int) -> np.ndarray:
    """Which entries a stable sort of the magnitudes takes, without zeros."""
    chosen = np.zeros(len(x), dtype=bool)
    chosen[np.argsort(-np.abs(x), kind="stable")[:count]] = True
    return chosen & (x != 0)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_ranked_as_vectors_are(kind: str) -> None:
    rows = torch.stack([vector(kind, 9000), vector("normal", 9000)])
    for t in (0, 10, 50, 99, 100):
        found = percentile_of_rows(rows, t)
        assert found.shape == (2, 1) and found.flatten().tolist() == [percentile(row, t) for row in rows]
    for count in (1, 2, 400):
        at = select_of_rows(rows, count)
        for row, places in zip(rows, at, strict=True):
            chosen = places[row[places] != 0].sort().values
            assert torch.equal(chosen, cpu.select(row, count)) and len(set(places.tolist())) == count


class OnGpu(torch.Tensor):
    """A tensor on the CPU that says it is on a GPU, so that what decides by that takes the GPU's way."""

    is_cuda = True  # type: ignore[assignment]


def test_what_decides_by_the_device_takes_the_gpus_way() -> None:
    layout = Layout.of([("a", (300, 1000)), ("none", (0,)), ("b", (7,))])
    flat = torch.arange(300_007, dtype=torch.float32)
    pretended = flat.as_subclass(OnGpu)
    assert [part for _, part in layout.blocks(pretended)] == [slice(0, 300_000), slice(300_000, 300_007)]
    blocks = [(tensor, part) for tensor, part in layout.blocks(flat)]
    assert [tensor for tensor, _ in blocks] == [0, 0, 0, 2] and blocks[0][1] == slice(0, cpu.BLOCK)
    found = layout.percentiles(pretended, 50)
    assert all(isinstance(threshold, Tensor) for threshold in found)
    assert [float(threshold) for threshold in found] == layout.percentiles(flat, 50) == [150_000.0, 0.0, 300_003.0]


def small(method: str, **changes: Any) -> tuple[list[Any], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    clients = [
        (torch.randn(9, 6, generator=generator), torch.randint(0, 3, (9,), generator=generator)) for _ in range(4)
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    common: dict[str, Any] = {"keep": 0.2, "rounds": 5, "local_epochs": 2, "batch_size": 4, "learning_rate": 0.1}
    common |= {"momentum": 0.5, "available": 3, "evaluate_every": 1, "seed": 3, "test": clients[0]}
    history, weights = flare.simulate(model, clients, method=method, **common | changes)
    return history.values.tolist(), weights


@pytest.mark.parametrize("fidelity", ["paper", "authors"])
@pytest.mark.parametrize("method", flare.algorithms.names())
def test_a_run_that_takes_the_gpus_way_has_the_same_bits(
    method: str, fidelity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"flare": {"tau": 0.3, "pull_steps": 3}, "fedprox": {"mu": 0.3}}.get(method, {})
    momentum = {"momentum": 0.0} if method in ("dgc", "scafcom") else {}
    plain = small(method, settings=own, fidelity=fidelity, **momentum)
    first, used = api._first, []

    def pretend(*arguments: Any) -> RunState:
        state = first(*arguments)
        state.memory = {name: rows.as_subclass(OnGpu) for name, rows in state.memory.items()}
        return state

    for name in ("select", "select_above_rank"):
        genuine = getattr(cuda, name)
        monkeypatch.setattr(
            cuda, name, lambda x, *more, way=genuine: used.append(x) or way(x.as_subclass(Tensor), *more)
        )
    monkeypatch.setattr(api, "_first", pretend)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: x)
    again = small(method, settings=own, fidelity=fidelity, **momentum)
    assert again[0] == plain[0] and all(torch.equal(again[1][name], plain[1][name]) for name in plain[1])
    assert bool(used) == (method not in ("fedavg", "randomk"))


def test_the_oracles_selection_is_this_one() -> None:
    x = vector("many ties", 60).numpy()
    assert np.flatnonzero(top_k(x, 0.2, "paper")).tolist() == np.flatnonzero(stable(x, 12)).tolist()
