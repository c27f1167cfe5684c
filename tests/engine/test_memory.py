"""What glibc is told while runs go on, and that it is told the usual again when the last one ends."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

import flare
from flare.engine import memory


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls of glibc, which does nothing."""
    calls: list[Any] = []
    monkeypatch.setattr(memory, "_function", lambda name: lambda *arguments: calls.append((name, *arguments)))
    for name in memory._VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return calls


KEEP = [("mallopt", -4, 0), ("mallopt", -1, 2**31 - 1), ("mallopt", -2, 64 << 20)]


def test_the_first_block_tells_and_the_last_one_takes_it_back(told: list[Any]) -> None:
    with memory.kept():
        assert told == KEEP
        with memory.kept():
            pass
        assert told == KEEP
    assert ("mallopt", -4, 65536) in told[3:] and told[-1] == ("malloc_trim", 0)
    before = len(told)
    with pytest.raises(KeyError), memory.kept():
        raise KeyError
    assert told[before : before + 3] == KEEP and told[-1] == ("malloc_trim", 0)


def test_what_the_user_says_of_memory_holds(told: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    with memory.kept():
        pass
    assert told == [("malloc_trim", 0)]


def test_simulate_keeps_freed_memory_while_it_runs(told: list[Any]) -> None:
    data = (torch.rand(8, 4), torch.randint(3, (8,)))
    seen = []
    arguments = {"method": "fedavg", "keep": None, "rounds": 1, "local_epochs": 1, "batch_size": 4}
    flare.simulate(
        nn.Linear(4, 3),
        [data],
        test=data,
        learning_rate=0.1,
        momentum=0,
        on_evaluate=lambda _: seen.append(list(told)),
        **arguments,
    )
    assert seen[0][:3] == KEEP and ("mallopt", -4, 65536) not in seen[0]
    assert ("mallopt", -4, 65536) in told


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_a_large_array_is_returned_after_the_last_run() -> None:
    """Resident memory, in a process of its own: kept while a block is entered, given back when it ends."""
    script = """
from flare.engine import memory
import numpy as np
def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) / 1024
before = resident()
with memory.kept():
    x = np.ones(25_000_000)
    del x
    inside = resident() - before
print(inside, resident() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    inside, after = map(float, done.stdout.split())
    assert inside > 150 and after < 50
