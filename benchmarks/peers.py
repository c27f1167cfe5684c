"""(c) Ours against its peers: CPU seconds a round of federated averaging, one thread. `python benchmarks/peers.py`

pfl, fluke, FedLab and Flower, each in a virtual environment of its own that is made first: the peer and what it needs
in the versions it asks for, and everything else, torch above all, from the environment that runs this. All train the
same network on the same batches of the same clients, in turn; the server's weights after the first round are compared
with the floor's. A peer that cannot be installed, does not run or computes something else is named, the others go on,
and the exit code is 1.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from engine import PATHS, WORKERS, floor
from measure import ROOT, Contender, race, report, rows, words


@dataclass(frozen=True)
class Peer:
    """Its worker's file, what to install, and, where pip cannot have all that it asks for, what it needs of that."""

    worker: str
    requirement: str
    needs: tuple[str, ...] = ()


PEERS = {
    "pfl": Peer("peer_pfl.py", "pfl==0.6.0"),
    "fluke": Peer("peer_fluke.py", "fluke-fl==0.8.1"),
    "FedLab": Peer("peer_fedlab.py", "fedlab==1.3.0"),
    # Asks for the certifi of one day, which not every index has, and for an installer and servers it does not use here.
    "Flower": Peer(
        "peer_flower.py",
        "flwr==1.42.0",
        (
            *("alembic>=1.18.1,<2", "click>=8,<9", "cryptography>=50,<51", "fastapi>=0.138,<0.139", "grpcio>=1.70,<2"),
            *("grpcio-health-checking>=1.70,<2", "iterators==0.0.2", "pathspec>=1.0.4,<2", "protobuf>=5.28,<7"),
            *("pycryptodome>=3.18,<4", "ray==2.55.1", "rich>=14,<15", "starlette>=1.3.1,<1.4", "tomli>=2.0.1,<3"),
            *("tomli-w>=1,<2", "typer>=0.13,<0.21", "uvicorn>=0.49,<0.50"),
        ),
    ),
}
# Nobody is told about our rounds, and no experiment tracker is started.
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "WANDB_MODE": "disabled", "TQDM_DISABLE": "1"}
# Largest difference of a weight after one round, in units of the largest change that the floor's round made: the order
# of sums differs, which at so small a step is some thousandths; other samples or another momentum are some tenths.
TOLERANCE = 1e-2


def environment(folder: Path, peer: Peer, seconds: float) -> Path:
    """The Python of the peer's environment in `folder`, made if it is not there; RuntimeError with pip's reason."""
    python, complete = folder / "bin" / "python", folder / "complete.txt"
    if complete.is_file() and complete.read_text(encoding="utf-8") == str(peer):
        return python
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    inside = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    # Ours come after the environment's own: pip takes what fits and installs the rest over it.
    (inside / "ours.pth").write_text("".join(f"{path}\n" for path in ours()), encoding="utf-8")
    for asked in ([*(["--no-deps"] if peer.needs else []), peer.requirement], list(peer.needs)):
        if asked:
            install(python, asked, seconds)
    complete.write_text(str(peer), encoding="utf-8")
    return python


def install(python: Path, asked: list[str], seconds: float) -> None:
    """`pip install` in that environment; RuntimeError, one line, with pip's reason."""
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *asked]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"pip install {' '.join(asked)}: not done after {seconds:.0f} s") from None
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if line.strip()]
        wrong = next((line for line in lines if line.startswith("ERROR")), lines[-1] if lines else "no reason given")
        raise RuntimeError(f"pip install {' '.join(asked)}: {wrong[:300]}") from None


def ours() -> list[str]:
    """Where the packages of the environment that runs this lie."""
    return sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})


def first_round(contender: Contender, scratch: Path) -> np.ndarray:
    """Start it and have it do one round; the server's weights after it. RuntimeError where it does not."""
    contender.start()
    contender.round(counted=False)
    return contender.weights(scratch / "weights.npy")


def start(candidates: list[Contender], initial: np.ndarray, scratch: Path) -> tuple[list[Contender], dict[str, str]]:
    """Those that train what the floor trains, started and after one round; and of each other one, why not."""
    running, trouble = [], {}
    reference: np.ndarray | None = None
    for contender in candidates:
        try:
            found = first_round(contender, scratch)
            reference = found if reference is None else reference
            if found.shape != reference.shape:
                raise RuntimeError(f"{found.size} weights instead of {reference.size}")
            apart = float(np.abs(found - reference).max() / np.abs(reference - initial).max())
            print(f"{contender.name}: after one round at most {apart:.1e} of the round's largest change off the floor")
            if not apart <= TOLERANCE:
                raise RuntimeError(f"trains something else: {apart:.1e} off the floor, above {TOLERANCE:.0e}")
        except (RuntimeError, OSError) as error:
            trouble[contender.name] = str(error)
            contender.stop()
        else:
            running.append(contender)
    return running, trouble


def main() -> int:
    """Make environments, race, print, write; 1 if a peer is missing from the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--workloads", nargs="+", choices=("W1", "W2"), default=["W1", "W2"])
    parser.add_argument(
        "--install-seconds", type=float, default=1800, help="the most that installing one peer may take"
    )
    output = ROOT / "results" / "benchmarks"
    parser.add_argument("--environments", type=Path, default=output / "environments", help="kept for the next time")
    parser.add_argument("--output", type=Path, default=output / "peers.json")
    chosen = parser.parse_args()
    pythons, missing = {}, {}
    for name in chosen.peers:
        try:
            pythons[name] = environment(chosen.environments.absolute() / name, PEERS[name], chosen.install_seconds)
        except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
            missing[name] = str(error)
    sys.path.insert(0, str(WORKERS))
    from workloads import Workload

    cells, data = [], {}
    for workload in chosen.workloads:
        mine = [sys.executable, str(WORKERS / "ours.py"), workload, "fedavg", "dense", "copies"]
        candidates = [floor(workload), Contender("ours", mine, PATHS)]
        for name, python in pythons.items():
            candidates.append(
                Contender(name, [str(python), str(WORKERS / PEERS[name].worker), workload], PATHS | QUIET)
            )
        parameters = Workload.of(workload).network().parameters()
        initial = np.concatenate([parameter.detach().numpy().ravel() for parameter in parameters])
        with tempfile.TemporaryDirectory() as scratch:
            running, trouble = start(candidates, initial, Path(scratch))
        missing |= {f"{name}, {workload}": reason for name, reason in trouble.items()}
        if not running or running[0].name != "floor":
            for contender in running:
                contender.stop()
            continue
        race(running, chosen.rounds, warmup=0, started=True)
        data[workload] = table = rows(running, "floor")
        for row in table:
            asked = PEERS[row["name"]].requirement if row["name"] in PEERS else row["name"]
            cells.append(
                [workload, asked, words(row["cpu_s"]), words(row["ratio"]), words(row["wall_s"]), str(row["peak_mb"])]
            )
    if cells:
        heads = ["workload", "contender", "CPU s a round", "x floor", "wall s", "peak MB"]
        report("Ours against its peers", heads, cells, {"workloads": data, "missing": missing}, chosen.output)
    for name, reason in missing.items():
        print(f"missing: {name}: {reason}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
