"""The benchmarks' own logic, without measuring: who is compared, what is refused, and the GPU's program on a CPU."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
WORKER = """
import sys
import numpy as np
from measure import serve_loop

class Tensor(np.ndarray):
    def detach(self):
        return self

def run(pause):
    weights = np.zeros((2, 3)).view(Tensor)
    for round_ in range(100):
        weights += np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]) * float(sys.argv[1])
        pause(lambda: [weights.T, np.ones(1).view(Tensor)])

if sys.argv[1] == "dies":
    sys.exit("no such peer")
serve_loop(run)
"""


@pytest.fixture
def peers(monkeypatch):
    """benchmarks/peers.py as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("peers")


def test_a_peer_that_trains_something_else_or_dies_is_named_and_the_others_race(peers, tmp_path):
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    candidates = [
        peers.Contender(name, [sys.executable, str(worker), scale], {"PYTHONPATH": str(BENCHMARKS)})
        for name, scale in (("floor", "1"), ("same", "1.000001"), ("other", "1.1"), ("gone", "dies"))
    ]
    running, trouble = peers.start(candidates, np.zeros(7, dtype=np.float32), tmp_path)
    assert [contender.name for contender in running] == ["floor", "same"]
    assert set(trouble) == {"other", "gone"}
    assert "trains something else" in trouble["other"]
    # weights in the order of the tensors' own dimensions, whatever their order in memory
    assert np.load(tmp_path / "weights.npy")[:6] == pytest.approx(1.1 * np.array([1, 4, 2, 5, 3, 6]), rel=1e-6)
    peers.race(running, 2, warmup=0, started=True)
    assert [len(contender.cpu) for contender in running] == [2, 2]
    assert all(contender._process.returncode is not None for contender in candidates)


def test_an_environment_that_cannot_be_made_says_why_and_one_that_is_there_is_kept(peers, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(RuntimeError, match=r"^pip install no-such-peer==1: ERROR: [^\n]*no-such-peer==1[^\n]*$"):
        peers.environment(tmp_path / "peer", peers.Peer("", "no-such-peer==1"), 600)
    assert not (tmp_path / "peer" / "complete.txt").exists()
    present = peers.Peer("", "torch", ("numpy",))  # there already, through ours
    python = peers.environment(tmp_path / "peer", present, 600)
    before = python.stat().st_ctime_ns
    assert peers.environment(tmp_path / "peer", present, 600) == python
    assert python.stat().st_ctime_ns == before


def test_the_program_for_a_gpu_on_a_cpu(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--output", str(tmp_path / "gpu.json")]
    small = ["--device", "cpu", "--width", "8", "--workloads", "FC", "--rounds", "2", "--size", "64"]
    subprocess.run([*command, *small], check=True, capture_output=True, timeout=300)
    figures = json.loads((tmp_path / "gpu.json").read_text())["figures"]
    assert {(row["method"], row["engine"]) for row in figures["rounds"]} == {
        (method, engine) for method in ("fedavg", "topk", "flare") for engine in ("one-at-a-time", "together")
    }
    # 784*8 + 8*8 + 8*8 + 8*10 weights, twice forward, twice backward, and once more for the inputs of all but the first
    assert {row["operations"] for row in figures["rounds"]} == {6000 * 2 * (3 * (6272 + 64 + 64 + 80) - 6272)}
    assert {row["by"] for row in figures["selection"]} == {"copy", "ours", "torch.topk", "torch.kthvalue"}
    assert all(row["seconds"]["min"] > 0 for row in figures["rounds"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_one_line(tmp_path):
    done = subprocess.run([sys.executable, str(BENCHMARKS / "gpu.py")], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "torch sees no GPU" in done.stderr
