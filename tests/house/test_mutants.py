"""The mutation tester: what it changes, that it tells the killed from the living, and that its list by hand applies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import mutants

SOURCE = '''"""A docstring with 1 number."""
from __future__ import annotations


def f(x: int | None, y: float = 2.0) -> float:
    """Another one."""
    if x is None or not y > 0:
        raise ValueError(f"{x} is below {0 + 1}")
    total = max(x, 3) * -y
    total += divmod(x, 2)[1]
    return total if total < 5 else 5
'''


def test_what_is_changed_and_what_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f.py").write_text(SOURCE)
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    found = mutants.mutants("f.py")
    assert {one.what for one in found} == {
        *("2.0 -> 3.0", "x is None or not y > 0 -> (x is None and (not y > 0))", "x is None -> (x is not None)"),
        *("not y > 0 -> (y > 0)", "y > 0 -> (y >= 0)", "0 -> 1"),
        *("max(x, 3) * -y -> (max(x, 3) / -y)", "max(x, 3) -> (max(3, x))", "max(x, 3) -> (min(x, 3))", "3 -> 4"),
        *("-y -> (y)", "total += divmod(x, 2)[1] -> total -= divmod(x, 2)[1]", "divmod(x, 2) -> (divmod(2, x))"),
        *("2 -> 3", "1 -> 2", "return total if total < 5 else 5 -> return None", "total < 5 -> (total <= 5)"),
        *("total if total < 5 else 5 -> (total)", "total if total < 5 else 5 -> 5", "5 -> 6"),
    }
    for one in found:  # each is one change of one place
        changed = one.apply(SOURCE.encode()).decode()
        assert changed != SOURCE and changed.count("\n") == SOURCE.count("\n")


def test_a_seed_draws_the_same_mutants_and_every_file_has_its_tests() -> None:
    one, two, other = (mutants.drawn(seed, ["algorithms/"]) for seed in (1, 1, 2))
    assert one == two != other and sorted(one) == sorted(other) and len(one) > 50
    for tests in mutants.TESTS.values():
        assert all((ROOT / "tests" / name).is_file() for name in tests)
    files = {one.file for one in mutants.drawn(0, [])}
    assert {"flare/engine/loop.py", "flare/runs/record.py", "flare/analysis/comparing.py"} <= files
    assert not [file for file in files if file.startswith(mutants.LEFT_OUT)]


def test_the_list_by_hand_changes_each_place_once() -> None:
    found = mutants.hand()
    assert len(found) == sum(map(len, mutants.HAND.values())) and {one.file for one in found} == set(mutants.HAND)
    assert all(one.apply((ROOT / one.file).read_bytes()) != (ROOT / one.file).read_bytes() for one in found)


def test_the_killed_are_told_from_the_living_and_the_failing(tmp_path: Path) -> None:
    files = {
        "flare/__init__.py": "",
        "flare/datasets/__init__.py": "",
        "flare/datasets/partitions/__init__.py": "def f(x):\n    return x * 2\n\n\n"
        "def untested(x):\n    return x - 1\n",
        "tests/datasets/test_partition.py": "from flare.datasets.partitions import f\n\n\n"
        "def test_f():\n    assert f(3) == 6\n",
        ".gitignore": "build\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "tools").mkdir()
    tool = (ROOT / "tools/mutants.py").read_text().replace(f"HEAVY = {mutants.HEAVY!r}".replace("'", '"'), "HEAVY = ()")
    assert "HEAVY = ()" in tool
    (tmp_path / "tools/mutants.py").write_text(tool)
    for command in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)

    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "tools/mutants.py", "--minutes", "5"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)

    done = run()
    assert done.returncode == 1, done.stderr
    lines = sorted(done.stdout.splitlines())
    place = "flare/datasets/partitions/__init__.py"
    assert [line for line in lines if line.startswith("killed")] == [
        f"killed   {place}:2: 2 -> 3",
        f"killed   {place}:2: return x * 2 -> return None",
        f"killed   {place}:2: x * 2 -> (x / 2)",
    ]
    assert "3 of 6 killed; 0 not carried out" in lines and f"survived: {place}:6: x - 1 -> (x + 1)" in lines
    # What is kept is not carried out again; what fails unchanged is an error, and no kill.
    again = run().stdout
    assert "3 of 6 killed" in again and "SURVIVED" not in again
    (tmp_path / "tests/datasets/test_partition.py").write_text("def test_f():\n    assert False\n")
    failing = run()
    assert failing.returncode == 1 and "fails without any mutant" in failing.stderr and "killed" not in failing.stdout
    assert (tmp_path / place).read_text() == files[place]
