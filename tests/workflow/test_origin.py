"""Snakemake itself, with its memory lost or lying: only the content of what is there decides what is made again."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT, environment, snakemake
from planner import TREE
from sweeps import write

from flare.config import runs
from flare.runs.train import train

pytestmark = pytest.mark.workflow

CONFIG: dict[str, Any] = {
    "wandb": {"mode": "offline"},
    "threads": 2,
    "experiments": {
        "tiny": {
            **{"dataset": "digits", "model": "fc", "model_settings": {"width": 16, "hidden_layers": 1}, "clients": 4},
            **{"partition": {"scheme": "contiguous", "samples_per_client": 60}, "rounds": 3, "evaluate_every": 1},
            **{"batch_size": 20, "learning_rate": 0.1, "momentum": 0.5, "keep": ["5e-2"], "seeds": [1]},
            "methods": {"topk": {}, "flare": {"tau": 0.05}},
        }
    },
}
# A working folder full of names that Python, the shell, matplotlib and Snakemake's rules look up.
FOREIGN = ("flare.py", "queue.py", "wandb.py", "torch.py", "sitecustomize.py")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished tables of a sweep with one core, in such a folder, by a Snakemake whose folder is not in PATH."""
    folder = tmp_path_factory.mktemp("sweep")
    for name in FOREIGN:
        (folder / name).write_text("open('/dev/stderr', 'w').write('foreign code')\nraise SystemExit(0)\n")
    (folder / "evil.sh").write_text("echo foreign code >&2; exit 0\n")
    more = {
        **{"PATH": "/usr/bin:/bin", "BASH_ENV": str(folder / "evil.sh"), "OMP_THREAD_LIMIT": "1", "MPLBACKEND": "none"},
        **{"PYTHONWARNINGS": "error", "WANDB_MODE": "disabled", "LC_ALL": "C", "GIT_DIR": "/nowhere"},
    }
    done = snakemake(folder, "tables", "--cores", "1", "--configfile", write(folder, CONFIG), timeout=900, **more)
    assert done.returncode == 0 and "foreign" not in done.stdout + done.stderr, done.stdout + done.stderr
    for name in FOREIGN:
        (folder / name).unlink()
    return folder


def planned(folder: Path, content: dict[str, Any], *arguments: str) -> dict[str, int]:
    """The jobs of a dry run by rule, which changes nothing."""
    before = {path: path.stat().st_mtime_ns for path in folder.glob("results/**/*")}
    file = write(folder, content, "changed.yaml")
    done = snakemake(folder, "tables", "--dry-run", *arguments, "--configfile", file, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.glob("results/**/*")} == before
    said = done.stdout + done.stderr
    assert ("Nothing to be done" in said) == ("Job stats" not in said)
    table = said.partition("Job stats:")[2].partition("total")[0]
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}


def test_what_lies_around_changes_no_bit_and_threads_are_as_configured(sweep: Path, tmp_path: Path) -> None:
    for run in runs(CONFIG):
        folder = sweep / "results/runs" / run.folder
        again = train(run, data=sweep / "data", output=tmp_path / run.method, threads=2, wandb="disabled")
        found = json.loads((folder / "run.json").read_text())
        assert found["result_hash"] == again["result_hash"] and found["made_from"]["threads"] == 2
        assert found["git_commit"] == again["git_commit"]
        assert not (folder / "wandb").exists()  # WANDB_MODE=disabled wins over the configuration


def test_without_memory_times_and_in_another_place_nothing_is_made_again(sweep: Path, tmp_path: Path) -> None:
    shutil.copytree(sweep, tmp_path / "moved", copy_function=shutil.copy)
    shutil.rmtree(tmp_path / "moved/.snakemake")
    (tmp_path / "moved/data").rename(tmp_path / "moved/elsewhere")
    os.utime(ROOT / "flare/datasets/digits.py")
    assert planned(tmp_path / "moved", CONFIG | {"data": "elsewhere"}) == {}
    shutil.rmtree(tmp_path / "moved/elsewhere")  # the results alone
    assert planned(tmp_path / "moved", CONFIG) == {}


def test_a_mark_of_a_killed_snakemake_does_not_repeat_a_finished_run(sweep: Path, tmp_path: Path) -> None:
    shutil.copytree(sweep, tmp_path / "killed")
    marks = tmp_path / "killed/.snakemake/incomplete"
    marks.mkdir(exist_ok=True)
    for run in runs(CONFIG):
        for name in ("rounds.csv", "run.json"):
            (marks / urlsafe_b64encode(f"results/runs/{run.folder}/{name}".encode()).decode()).touch()
    assert planned(tmp_path / "killed", CONFIG) == {}


def test_data_that_are_whole_are_not_deleted_before_they_are_fetched(sweep: Path, tmp_path: Path) -> None:
    """Though the job is forced, others may be reading them; of a file that was deleted the first link alone is left."""
    shutil.copytree(sweep / "data", tmp_path / "data")
    whole = tmp_path / "data/digits/train.npz"
    os.link(whole, tmp_path / "link")
    arguments = ("data/digits/manifest.json", "--forcerun", "fetch", "--cores", "1")
    done = snakemake(tmp_path, *arguments, "--configfile", write(tmp_path, CONFIG), timeout=900)
    assert done.returncode == 0 and "rule fetch" in done.stdout + done.stderr, done.stdout + done.stderr
    assert whole.stat().st_nlink == 2


def test_a_fetch_that_fails_deletes_and_puts_back_nothing(sweep: Path, tmp_path: Path) -> None:
    """What was damaged before may have been made whole by others in the meantime."""
    shutil.copytree(sweep / "data", tmp_path / "data")
    damaged, whole = tmp_path / "data/digits/test.npz", (sweep / "data/digits/test.npz").read_bytes()
    damaged.write_bytes(b"damaged")
    tree = copy_of_the_tree(tmp_path)
    script = tree / "flare/datasets/digits.py"
    text, call = script.read_text(), "    import sklearn\n"
    assert text.count(call) == 1
    others = f"    (folder / 'test.npz').write_bytes(Path({str(sweep)!r}, 'data/digits/test.npz').read_bytes())\n"
    script.write_text(text.replace(call, f"{others}    raise OSError('no source answers')\n"))
    done = carried_out(tree, tmp_path, "data/digits/manifest.json", "--forcerun", "fetch")
    assert done.returncode == 1 and "rule fetch" in done.stdout + done.stderr, done.stdout + done.stderr
    assert damaged.read_bytes() == whole and (tmp_path / "data/digits/train.npz").exists()


def copy_of_the_tree(folder: Path) -> Path:
    """Which can be edited."""
    tree = folder / "tree"
    tree.mkdir()
    for name in TREE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, tree / name)
    return tree


def carried_out(tree: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """By the workflow of a tree, on one core."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(tree / "Snakefile"), "--directory", str(folder)]
    command += [*arguments, "--cores", "1", "--configfile", write(folder, CONFIG)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=900)


@pytest.mark.parametrize(
    ("rule", "note", "module", "call"),
    [
        ("judge", "made_from/tables/claims.csv.json", "claims", "    claims.write(chosen.tables"),
        ("tabulate", "tables/made_from.json", "tables", "    tables.tabulate(folders"),
    ],
)
def test_what_was_made_while_the_code_was_edited_is_made_again(
    rule: str, note: str, module: str, call: str, sweep: Path, tmp_path: Path
) -> None:
    """In the end the code is what it was at the start."""
    tree, folder = copy_of_the_tree(tmp_path), tmp_path / "sweep"
    shutil.copytree(sweep, folder)
    (folder / "results" / note).unlink()
    # The edit: who writes the file anew while the output is made.
    script = tree / "flare/cli/results.py"
    text = script.read_text()
    assert text.count(call) == 1
    edit = (
        f"    from pathlib import Path\n\n    file = Path({module}.__file__)\n    file.write_bytes(file.read_bytes())\n"
    )
    target = "claims" if rule == "judge" else "runs"
    said = []
    for content in (text.replace(call, f"{edit}{call}"), text, text):
        script.write_text(content)
        done = carried_out(tree, folder, f"results/tables/{target}.csv")
        assert done.returncode == 0, done.stdout + done.stderr
        said.append(done.stdout + done.stderr)
    assert [f"rule {rule}" in one for one in said] == [True, True, False]


def test_other_results_are_set_aside_and_come_back(sweep: Path, tmp_path: Path) -> None:
    shutil.copytree(sweep, tmp_path / "changed")
    folder = tmp_path / "changed"
    shutil.rmtree(folder / ".snakemake")
    content = copy.deepcopy(CONFIG)
    content["experiments"]["tiny"]["methods"]["flare"]["tau"] = 0.5
    downstream = {"tabulate": 1, "compare": 1, "judge": 1, "reach": 1, "reproduction": 1, "render": 8, "tables": 1}
    assert planned(folder, content) == {"train": 1, **downstream}
    before = {path.name: path.read_bytes() for path in (sweep / "results/tables").glob("*.*")}
    for tables_alike, now in ((False, content), (True, CONFIG)):
        file = write(folder, now, "now.yaml")
        done = snakemake(folder, "tables", "--cores", "1", "--configfile", file, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
        after = {path.name: path.read_bytes() for path in (folder / "results/tables").glob("*.*")}
        assert (after == before) == tables_alike
    (flare,) = (run for run in runs(CONFIG) if run.method == "flare")
    log = folder / f"results/logs/train/{flare.cell}/seed-1.log"
    assert "taken back" in log.read_text() and "round 1" not in log.read_text()
    assert len(list((folder / "results/runs" / flare.folder).glob("old-*"))) == 1
