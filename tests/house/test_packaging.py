"""The files that install and describe the project agree with each other and with the code."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import ROOT
from distributions import PROJECT, requirements
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

# The extras that a room of flare/ may import from, beside the dependencies; the others need none.
ROOMS = {"analysis": ["report"], "figures": ["report"], "tracking": ["track"], "tuning": ["sweep"]}


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


PYPROJECT = tomllib.loads(read("pyproject.toml"))


def read_lock() -> list[tuple[str, str, str]]:
    """(name, version, SHA-256) of every requirement; fails on a line of any other form."""
    text = re.sub(r"^#.*\n", "", read("requirements.lock"), flags=re.MULTILINE)
    entry = re.compile(r"([a-z0-9-]+)==([^\s;,*]+) \\\n    --hash=sha256:([0-9a-f]{64})\n")
    assert entry.sub("", text) == ""
    return entry.findall(text)


def repository_files() -> list[Path]:
    """Every file that is in git or would be added to it."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git repository")
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_lock_pins_each_package_once() -> None:
    names = [name for name, _, _ in read_lock()]
    assert names == sorted(set(names))
    assert all(str(Version(version)) for _, version, _ in read_lock())


@pytest.mark.parametrize("requirement", [*requirements("dev"), *PYPROJECT["build-system"]["requires"]])
def test_lock_is_within_the_ranges(requirement: str) -> None:
    wanted = Requirement(requirement)
    locked = {name: version for name, version, _ in read_lock()}
    assert wanted.specifier.contains(locked[canonicalize_name(wanted.name)])


def test_dev_has_all_extras_and_the_lock_reads_them() -> None:
    every = requirements(*PROJECT["optional-dependencies"])
    assert sorted(requirements("dev")) == sorted(every)
    names = [canonicalize_name(Requirement(line).name) for line in every]
    assert len(names) == len(set(names))
    spec = importlib.util.spec_from_file_location("lock", ROOT / "tools/lock.py")
    assert spec and spec.loader
    spec.loader.exec_module(lock := importlib.util.module_from_spec(spec))
    assert sorted(PROJECT["dependencies"] + lock.requirements(PROJECT, "dev")) == sorted(every)


def python_files(folder: Path) -> list[Path]:
    return [folder] if folder.suffix == ".py" else sorted(folder.rglob("*.py"))


@pytest.mark.parametrize(
    "place",
    [*sorted(f"flare/{path.name}" for path in (ROOT / "flare").glob("*") if python_files(path)), "tools", "tests"],
)
def test_every_import_is_declared(place: str) -> None:
    extras = ROOMS.get(place.removeprefix("flare/"), []) if place.startswith("flare/") else ["dev"]
    files = python_files(ROOT / place)
    imported: dict[str, str] = {}
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0]: path.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported[node.module.split(".")[0]] = path.name
    own = {"flare", "tests", *(path.stem for path in (*files, *python_files(ROOT / "tools")))}
    homes = importlib.metadata.packages_distributions()
    declared = {canonicalize_name(Requirement(line).name) for line in requirements(*extras)}
    undeclared = {
        f"{module} ({path})"
        for module, path in imported.items()
        if module not in own | sys.stdlib_module_names
        and not declared & {canonicalize_name(home) for home in homes.get(module, [])}
    }
    assert not undeclared


@pytest.mark.parametrize(
    "path, lock", [("environment.yml", "requirements.lock"), ("workflow/envs/flare.yaml", "${FLARE_LOCK}")]
)
def test_conda_reads_the_same_lock(path: str, lock: str) -> None:
    dependencies: list[Any] = yaml.safe_load(read(path))["dependencies"]
    # The lock has hashes, so pip refuses any line beside it.
    (line,) = next(entry["pip"] for entry in dependencies if isinstance(entry, dict))
    assert line == f"-r {lock}"
    assert 'os.getenv("FLARE_LOCK") or f"{ROOT}/requirements.lock"' in read("workflow/rules/common.smk")
    (python,) = [entry for entry in dependencies if str(entry).startswith("python=")]
    assert python == "python=3.11"
    assert "Linux on x86_64 with Python 3.11" in read("requirements.lock")
    assert "LOCKED := Linux x86_64 3.11\n" in read("Makefile")


def test_make_help_lists_every_target() -> None:
    rules = re.findall(r"^([a-z][a-z-]*):(?!=)", read("Makefile"), re.MULTILINE)
    said = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert sorted(rules) == sorted(re.findall(r"^  ([a-z-]+) +\S", said.stdout, re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.*)$", read("Makefile"), re.MULTILINE)
    assert phony and sorted(phony[1].split()) == sorted(rules)


def test_ci_runs_every_step_in_order() -> None:
    text = read(".ci/run")
    steps = re.findall(r"^step (.*)$", text, re.MULTILINE)
    assert steps == ["system_packages", "make setup", "make lint", "make docs", "make test", "make run", "idle_run"]
    assert "set -euo pipefail" in text
    assert (ROOT / ".ci/run").stat().st_mode & 0o111 == 0o111


def test_quick_names_test_files_that_are_there() -> None:
    [listed] = re.findall(r"^QUICK := \$\(addprefix tests/, (.*?)\)$", read("Makefile"), re.MULTILINE | re.DOTALL)
    files = listed.replace("\\\n", " ").split()
    assert len(files) == len(set(files)) > 10
    assert [file for file in files if not (ROOT / "tests" / file).is_file()] == []


def test_the_forge_runs_a_fast_job_and_then_ci() -> None:
    jobs = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"]
    commands = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    assert commands["fast"] == ["make lint", "make quick"]
    assert commands["full"][-1] == ".ci/run" and jobs["full"]["needs"] == "fast"


def test_hooks_are_programs_of_the_lock() -> None:
    locked = {name for name, _, _ in read_lock()}
    [repository] = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    programs = {hook["entry"].split()[0] for hook in repository["hooks"]}
    assert repository["repo"] == "local" and "pre-commit" in locked
    assert programs == {f".venv/bin/{name}" for name in ("ruff", "snakefmt", "mypy", "nbstripout")}
    assert {program.removeprefix(".venv/bin/") for program in programs} <= locked


def test_the_container_has_the_lock_and_its_python() -> None:
    text = read("Dockerfile")
    assert re.search(r"^FROM python:3\.11-", text, re.MULTILINE)
    assert "--require-hashes -r requirements.lock" in text
    built = json.loads(read(".devcontainer/devcontainer.json"))["build"]
    assert (ROOT / ".devcontainer" / built["dockerfile"]).resolve() == ROOT / "Dockerfile"


@pytest.mark.parametrize("name", ["bug", "method"])
def test_a_form_asks_for_what_is_needed(name: str) -> None:
    form = yaml.safe_load(read(f".github/ISSUE_TEMPLATE/{name}.yml"))
    needed = {part["id"] for part in form["body"] if part.get("validations", {}).get("required")}
    assert needed >= {"bug": {"versions", "config", "log"}, "method": {"paper", "rule", "limits"}}[name]
    assert all(part["attributes"]["label"] for part in form["body"])


@pytest.mark.parametrize("name", ["default", "slurm"])
def test_profile_keys_are_snakemake_options(name: str) -> None:
    from snakemake.cli import get_argument_parser

    options = {flag.lstrip("-") for action in get_argument_parser()._actions for flag in action.option_strings}
    text = read(f"profiles/{name}/config.yaml")
    # A key that is offered in a comment must be right too.
    profile = yaml.safe_load(re.sub(r"^# ([a-z-]+: \S+)$", r"\1", text, flags=re.MULTILINE))
    assert set(profile) <= options
    assert not {"cores", "c"} & set(profile)


def test_the_version_is_in_one_place_and_the_changelog_is_of_it() -> None:
    import flare

    assert PROJECT["dynamic"] == ["version"] and "version" not in PROJECT
    assert PYPROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "flare.__version__"}
    assert re.search(r'^__version__ = "\d+\.\d+\.\d+"$', read("flare/__init__.py"), re.MULTILINE)
    citation = yaml.safe_load(read("CITATION.cff"))
    assert PROJECT["license"] == citation["license"] and "version" not in citation
    [newest, *older] = re.split(r"^## ", read("CHANGELOG.md"), flags=re.MULTILINE)[1:]
    assert newest.startswith(f"{flare.__version__} (")
    assert all("\n### Changes results\n" in version for version in (newest, *older))


def test_entry_point_can_be_called() -> None:
    (command,) = PROJECT["scripts"].values()
    assert callable(importlib.metadata.EntryPoint("flare", command, "console_scripts").load())


def test_every_folder_of_code_is_a_package() -> None:
    """setuptools leaves out a folder without __init__.py."""
    folders = {path.parent for path in (ROOT / "flare").rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


@pytest.mark.parametrize("how", ["own", "a link", "a link to nothing", "of another folder"])
def test_make_neither_uses_nor_changes_another_clones_environment(how: str, tmp_path: Path) -> None:
    here, other = tmp_path / "my clone", tmp_path / "other"
    for folder in (here, other / ".venv"):
        folder.mkdir(parents=True)
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        (here / name).write_text((ROOT / name).read_text())
    made = here if how == "own" else other
    place = here / ".venv"
    if how == "a link to nothing":
        place.symlink_to(tmp_path / "gone")
    elif how == "a link":
        place.symlink_to(other / ".venv")
    else:
        place.mkdir()
    if place.exists():
        (place / "pyvenv.cfg").write_text(f"home = /x\ncommand = /x/python -m venv --clear {made}/.venv\n")
        (place / ".stamp").touch()
    before = {str(path): path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
    # As a person calls it: this may itself be what `make test` runs.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    for target in ("setup", "paper-dry") if how != "own" else ("setup",):
        done = subprocess.run(
            ["make", target], cwd=here, capture_output=True, text=True, env={**environment, "PYTHON": "no"}
        )
        assert (done.returncode == 0) == (how == "own"), done.stderr
        assert how == "own" or done.stderr.startswith((".venv is a link, ", f".venv was made for {other}/.venv "))
        assert done.stdout == ""
    assert {str(path): path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_git_ignores_a_link_to_an_environment(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text((ROOT / ".gitignore").read_text())
    (tmp_path / ".venv").symlink_to(tmp_path)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    assert subprocess.run(["git", "check-ignore", "-q", ".venv"], cwd=tmp_path).returncode == 0


def test_git_ignores_what_is_made() -> None:
    made = [
        "data/mnist/train.npz",
        "results/runs/a/run.json",
        "results/tables/runs.csv",
        ".venv/bin/python",
        "wandb/x",
    ]
    kept = ["results/README.md", "flare/datasets/__init__.py", "requirements.lock"]
    done = subprocess.run(["git", "check-ignore", *made, *kept], cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 128:
        pytest.skip("not a git repository")
    assert done.stdout.split() == made


def test_no_machine_path_or_registry_in_any_file() -> None:
    machine = r"(?<![\w.$}-])/(?:root|work|opt|farm|home/\w+)/|/tmp/(?:bash|team)"
    host = r"pypi[.]org|python[h]osted|deb[.]debian|npm[j]s[.]"
    found = []
    for path in repository_files():
        data = path.read_bytes()
        if b"\0" not in data:
            found += [f"{path.name}: {hit[0]}" for hit in re.finditer(f"{machine}|{host}", data.decode("utf-8"))]
    assert found == []
