"""How many small mistakes the tests would see: change one thing in a copy of the tree, run the tests of that code.

Usage: python tools/mutants.py [--count N] [--seed N] [--minutes N] [--only PART...] [--hand] [--again]
Draws N mutants (200) by the seed (0) from the code that decides numbers, and carries them out until the minutes (60)
are over. --hand: the mutants written by hand below instead, of the workflow's rules and of figures, which no tool
changes well. --only: those of files whose name has one of these parts. Results are kept in
build/mutants.jsonl, so that the same command goes on; --again: whatever is kept. Prints the score and every survivor.
Exit code 1 if one survived.

A mutant is killed if its tests fail, or take several times as long as without it. The tests of a file (TESTS) run
unchanged first, and must pass. Each run is a fork of one process that has imported what is heavy and nothing of flare.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "build/mutants.jsonl"
# What decides numbers, and the tests that concern it: of several entries the first whose name a file starts with.
TESTS: dict[str, tuple[str, ...]] = {
    "flare/engine/select/": ("engine/test_selection.py", "engine/test_properties.py", "engine/test_together.py"),
    "flare/engine/layout.py": (
        *("engine/test_selection.py", "engine/test_seams.py", "engine/test_properties.py", "engine/test_oracle.py"),
        "engine/test_together.py",
    ),
    "flare/engine/probes/": ("engine/test_staleness.py", "engine/test_together.py", "runs/test_checkpoint.py"),
    "flare/engine/schedules/": ("engine/test_seams.py",),
    "flare/engine/": (
        *("engine/test_draws.py", "engine/test_network.py", "engine/test_seams.py", "engine/test_limits.py"),
        *("engine/test_together.py", "engine/test_oracle.py", "engine/test_properties.py"),
        *("engine/test_staleness.py", "engine/test_selection.py", "runs/test_checkpoint.py"),
    ),
    "flare/algorithms/": ("engine/test_oracle.py", "engine/test_limits.py", "engine/test_together.py"),
    "flare/datasets/partitions/": ("datasets/test_partition.py",),
    "flare/runs/record.py": ("runs/test_train.py", "analysis/test_tables.py"),
    "flare/runs/checkpoint.py": ("runs/test_checkpoint.py",),
    "flare/runs/identity.py": ("runs/test_identity.py", "runs/test_checkpoint.py"),
    "flare/runs/data.py": ("runs/test_train.py", "tuning/test_tuning.py"),
    "flare/analysis/reference.py": ("analysis/test_paper.py",),
    "flare/analysis/tables.py": ("analysis/test_tables.py",),
    "flare/analysis/reading.py": ("analysis/test_tables.py",),
    "flare/analysis/statistics.py": ("analysis/test_tables.py", "analysis/test_claims.py"),
    "flare/analysis/comparing.py": ("analysis/test_claims.py",),
    "flare/analysis/claims.py": ("analysis/test_claims.py",),
    "flare/analysis/rules.py": ("analysis/test_claims.py",),
    "flare/tuning/": ("tuning/test_tuning.py",),
    "flare/planning/count.py": ("planning/test_plan.py",),
    "flare/figures/": ("figures/test_drawn.py", "figures/test_figures.py"),
    "workflow/": ("workflow/test_planning.py",),
}
# Only what is checked, shown or saved: `make mutants` draws none of it.
LEFT_OUT = ("flare/figures/", "workflow/", "flare/engine/api.py", "flare/engine/memory.py")
# What takes seconds to import, once for all forks.
HEAVY = ("hypothesis", "numpy", "optuna.samplers", "pandas", "pytest", "scipy.stats", "torch")
# Of these files only the quick tests: no command, no Snakemake, no killed process.
QUICK = "not workflow and not kills and not processes and not thousand and not command"


class Mutant(NamedTuple):
    """A change of a file: what stands at [start, end) becomes `new`. tests: pytest's -k, if not all tests are meant."""

    file: str
    line: int
    what: str
    start: int
    end: int
    new: str
    tests: str = ""

    @property
    def name(self) -> str:
        """Where it is and what it does."""
        return f"{self.file}:{self.line}: {self.what}"

    def apply(self, source: bytes) -> bytes:
        """The file with the change."""
        return source[: self.start] + self.new.encode() + source[self.end :]


def hand() -> list[Mutant]:
    """The mutants by hand, each of which must be found exactly once in its file."""
    out = []
    for file, changes in HAND.items():
        source = (ROOT / file).read_bytes()
        for old, new, tests in changes:
            assert source.count(old.encode()) == 1, f"{file}: {old!r} is there {source.count(old.encode())} times; once"
            start = source.index(old.encode())
            line = source[:start].count(b"\n") + 1
            out.append(Mutant(file, line, f"{old} -> {new}", start, start + len(old.encode()), new, tests))
    return out


# By file: what changes to what, and which of the file's tests (pytest's -k) are to see it.
HAND: dict[str, tuple[tuple[str, str, str], ...]] = {
    "workflow/rules/inputs.smk": (
        ("flags(*WITHOUT_SEED)", "flags(*sorted({*WITHOUT_SEED} - {'shuffle', 'fidelity'}))", "whole_run"),
        ("code_of_run(CELLS[cell])", "code_of_run(next(iter(CELLS.values())))", "changed_code"),
        ("for name in reached(names, WHETHER)", "for name in names or reached(names, WHETHER)", "changed_code"),
        ("return [own, [] if whole else algorithms.names()]", "return []", "name_or_colour"),
    ),
    "workflow/rules/assemble.smk": (
        ('code=lambda w: code("datasets/partitions/__init__", scheme_of(w.experiment)),', "", "changed_code"),
        ("looks=lambda w: looks(w.experiment),", "", "name_or_colour"),
        ('code=code("analysis/claims", "analysis/overall"),', "", "changed_code"),
        ('code=code("analysis/reached"),', "", "changed_code"),
        ('code=code("analysis/tables"),', "", "changed_code"),
        ('code=code("analysis/reference"),', "", "changed_code"),
        ('code=code("analysis/pages"),', "", "changed_code"),
        ('code=code("analysis/trials"),', "", "changed_code"),
    ),
    "workflow/rules/origin.smk": (
        (
            "inside, said = os.path.basename(file), sum_of(file)",
            'inside, said = os.path.basename(file), ""',
            "reference",
        ),
        ('if os.path.basename(file) == "manifest.json":', "if False:", "other_data"),
        ("return math.inf if ours(self) else await mintime(self)", "return await mintime(self)", "other_data"),
        ('said = code_digest((inside.removesuffix(".py"),))', 'said = ""', "changed_code"),
        ("return {job.output.best: SWEEP.best(study_of(w))}", 'return {job.output.best: ""}', "best_value"),
        ("return {os.path.dirname(job.output.run): trial_problem(w)}", "return {}", "changed_code"),
    ),
    "workflow/rules/runs.smk": (
        ("run=arguments", 'run=lambda w: "train"', "whole_run"),
        ("best=unless_finished(seeds, best_of) if STUDIES", "best=[] if STUDIES", "best_value"),
    ),
    "workflow/rules/tune.smk": (
        ('code=code("tuning/tables"),', "", "changed_code"),
        ('code=code("tuning/export"),', "", "changed_code"),
    ),
    "flare/engine/select/cpu.py": (("if sum(map(len, found)) >= count:", "if found:", "misleads"),),
    "flare/engine/state.py": ((', "first_loss"):', "):", "budget_that"),),
    "flare/engine/network.py": (("* len(batch)", "* _EVALUATION_BATCH", "in_batches"),),
    "flare/runs/record.py": (("max(accuracies, default=None)", "(accuracies or [None])[-1]", "best_evaluation"),),
    "flare/runs/identity.py": (('json.dumps(manifest["files"], sort_keys=True)', '""', "key_of_a_run"),),
    "flare/analysis/comparing.py": (
        ('compared |= {f"{METHOD} in {reference}": own_full, f"{method} in {reference}": full}', "pass", "any_side"),
    ),
    "flare/analysis/reading.py": (
        ('("experiment", "seed", "available", "tuned",', '("experiment", "seed", "rounds", "available", "tuned",', ""),
    ),
    "flare/analysis/reference.py": (
        ('"keep", "local_epochs")', '"keep")', "own_local_epochs"),
        ("min(found, key=lambda pair: len(pair[1]),", "min(found, key=lambda pair: 0,", "fewest_differences"),
    ),
    "flare/tuning/single.py": (("so_far = [*finished, ", "so_far = [", "pruner_is_told"),),
    "flare/datasets/partitions/dirichlet.py": (
        ("default_rng([seed, STREAM])", "default_rng([seed])", ""),
        ("np.rint(", "np.floor(", ""),
    ),
    "flare/datasets/partitions/shards.py": (
        ("default_rng([seed, STREAM])", "default_rng([seed, 1])", ""),
        ("enumerate(rng.permutation(len(pools)))", "enumerate(range(len(pools)))", "extra_shard"),
    ),
    "flare/figures/style/points.py": (
        ("[mean - low, high - mean]", "[2 * (mean - low), 2 * (high - mean)]", ""),
        ('ax.axhspan(found["low"], found["high"]', 'ax.axhspan(found["low"], 1.01 * found["high"]', ""),
        ("place - (len(methods) - 1) / 2", "place - len(methods) / 2", ""),
        ("finished[value], ", "finished[value] + 0.1, ", ""),
    ),
    "flare/figures/style/curves.py": (
        ('100 * found["low"], 100 * found["high"]', '100 * found["mean"], 100 * found["high"]', ""),
        ('own[own["seed"].isin(cell.loc[done, "seed"])]', "own", ""),
        ("(end, points[-1][1])", "points[-1]", ""),
    ),
    "flare/figures/staleness.py": (
        ('norm["low"], norm["high"]', 'norm["mean"], norm["high"]', ""),
        ('[f"staleness_{kind}"].mean()', '[f"staleness_{kind}"].max()', ""),
    ),
    "flare/figures/accuracy_by_round.py": (('x="communication round"', 'x="epoch"', ""),),
    "flare/figures/style/traffic.py": (
        ("best > best.shift(fill_value=-1.0)", "best > best.shift(fill_value=100.0)", ""),
        ("_BITS_PER_MEGABYTE = 8e6", "_BITS_PER_MEGABYTE = 1e6", ""),
        (".cummax()\n    look_of", "\n    look_of", ""),
    ),
    "flare/figures/compute_cost.py": (('/ runs["rounds"]', '/ 2 / runs["rounds"]', ""),),
    "flare/figures/tuning.py": (('factor * complete["lowest"]', 'factor * complete["result"]', ""),),
    "flare/figures/importance.py": (("ax.plot(share, rows.index", "ax.plot(1 - share, rows.index", ""),),
    "flare/figures/labels.py": (('index="client", columns="label"', 'index="label", columns="client"', ""),),
}

# ---- mutants of Python -----------------------------------------------------------------------------------------------

_OPERATORS: dict[type, type] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mod},
    **{ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift},
    **{ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd},
}
_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any", "ceil": "floor", "floor": "ceil", "sum": "max"}
# Statements and calls that say something to people, and settings' ranges.
_SILENT = ("setting", "warn", "print", "field", "key")


def mutants(file: str) -> list[Mutant]:
    """All mutants of a Python file, in the order of its text."""
    source = (ROOT / file).read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    out = []
    for node, new in _changes(ast.parse(source)):
        start, end = (
            starts[line - 1] + column
            for line, column in ((node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0))
        )
        old, text = source[start:end].decode(), ast.unparse(new)
        text = text if isinstance(new, ast.stmt | ast.Constant) else f"({text})"
        if "\n" in text:
            continue
        what = f"{' '.join(old.split())} -> {text}"
        what = what if len(what) <= 120 else f"{what[:117]}..."
        out.append(Mutant(file, node.lineno, what, start, end, text))
    return sorted(set(out), key=lambda one: (one.start, one.end, one.new))


def _changes(tree: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, ast.AST]]:
    """Pairs of a node and what takes its place."""
    for node in _computing(tree):
        if isinstance(node, ast.expr | ast.stmt):
            for new in _instead(node):
                yield node, new


def _computing(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes except annotations, docstrings, errors and what is said to people."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _says(child):
                yield from _computing(child)


def _says(node: ast.AST) -> bool:
    if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom):
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return True
    called = node.func if isinstance(node, ast.Call) else None
    return isinstance(called, ast.Name | ast.Attribute) and ast.unparse(called).rpartition(".")[2] in _SILENT


def _instead(node: ast.expr | ast.stmt) -> Iterator[ast.AST]:
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            new = copy.deepcopy(node)
            new.ops[place] = _OPERATORS[type(operator)]()
            yield new
    elif isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp) and type(node.op) in _OPERATORS:
        new = copy.deepcopy(node)
        new.op = _OPERATORS[type(node.op)]()
        yield new
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        yield node.operand
    elif isinstance(node, ast.IfExp):
        yield from (node.body, node.orelse)
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield ast.Constant(not node.value)
        elif isinstance(node.value, int):
            yield ast.Constant(node.value + 1)
        elif isinstance(node.value, float):
            yield ast.Constant(node.value * 1.5 if node.value else 1.0)
    elif isinstance(node, ast.Call):
        yield from _other_calls(node)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield ast.Pass()
    elif isinstance(node, ast.Return) and node.value and not isinstance(node.value, ast.Constant):
        yield ast.Return(ast.Constant(None))


def _other_calls(node: ast.Call) -> Iterator[ast.AST]:
    """Two arguments in the other order; another function of the same arguments."""
    if len(node.args) > 1 and not any(isinstance(argument, ast.Starred) for argument in node.args):
        yield ast.Call(node.func, [node.args[1], node.args[0], *node.args[2:]], node.keywords)
    if isinstance(node.func, ast.Name) and node.func.id in _CALLS:
        yield ast.Call(ast.Name(_CALLS[node.func.id]), node.args, node.keywords)
    elif isinstance(node.func, ast.Attribute) and node.func.attr in _CALLS:
        yield ast.Call(ast.Attribute(node.func.value, _CALLS[node.func.attr]), node.args, node.keywords)


def drawn(seed: int, only: Sequence[str]) -> list[Mutant]:
    """All mutants of the code that decides numbers, in an order that depends on the seed."""
    files = subprocess.run(["git", "ls-files", "flare/*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    chosen = [
        file
        for file in files.stdout.split()
        if any(map(file.startswith, TESTS)) and (any(part in file for part in only) or not file.startswith(LEFT_OUT))
    ]
    found = [one for file in chosen if not only or any(part in file for part in only) for one in mutants(file)]
    random.Random(seed).shuffle(found)
    return found


# ---- carrying them out -----------------------------------------------------------------------------------------------


def tests_of(file: str) -> tuple[str, ...]:
    """The tests that concern a file, the quickest first."""
    return next(tests for start, tests in TESTS.items() if file.startswith(start))


class Runner:
    """A copy of the tree, in which tests run as forks of this process."""

    def __init__(self, folder: Path) -> None:
        self.tree = folder / "tree"
        files = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        for name in files.stdout.splitlines():
            if (ROOT / name).is_file():
                (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.tree / name)
        self._said = folder / "said"
        self._seconds: dict[str, float] = {}
        for name in HEAVY:
            importlib.import_module(name)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)

    def killed(self, mutant: Mutant) -> bool:
        """Whether a test fails because of it: file after file of its tests, until one does."""
        before = (ROOT / mutant.file).read_bytes()
        changed = mutant.apply(before)
        if mutant.file.endswith(".py"):
            ast.parse(changed)
        asked = 0
        for test in tests_of(mutant.file):
            if test not in self._seconds:
                begun = time.monotonic()
                if self._run(test, 3600) != 0:
                    raise SystemExit(f"{test}: fails without any mutant:\n{self._said.read_text()[-3000:]}")
                self._seconds[test] = time.monotonic() - begun
            (self.tree / mutant.file).write_bytes(changed)
            try:
                code = self._run(test, 60 + 5 * self._seconds[test], mutant.tests)
            finally:
                (self.tree / mutant.file).write_bytes(before)
            if code == 5 and mutant.tests:  # none of that name in this file
                continue
            asked += 1
            if code not in (0, 1, 2, -signal.SIGKILL, -signal.SIGSEGV):
                raise SystemExit(f"{mutant.name}: pytest ended with {code}:\n{self._said.read_text()[-3000:]}")
            if code:
                return True
        if not asked:
            raise SystemExit(f"{mutant.name}: no test is called {mutant.tests}")
        return False

    def _run(self, test: str, seconds: float, which: str = "") -> int:
        """The exit code of pytest, or minus the signal that ended it."""
        child = os.fork()
        if not child:
            code = 3
            try:
                os.setsid()
                with open(self._said, "w") as said:
                    os.dup2(said.fileno(), 1)
                    os.dup2(said.fileno(), 2)
                code = self._pytest(test, which)
            finally:
                os._exit(code)
        deadline = time.monotonic() + seconds
        while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
            if time.monotonic() > deadline:
                os.killpg(child, signal.SIGKILL)
            time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):  # what its tests started
            os.killpg(child, signal.SIGKILL)
        return os.waitstatus_to_exitcode(ended[1])

    def _pytest(self, test: str, which: str) -> int:
        import pytest

        os.chdir(self.tree)
        os.environ |= {"PYTHONPATH": str(self.tree), "PYTHONDONTWRITEBYTECODE": "1"}
        os.environ.setdefault("FLARE_DATA", str(ROOT / "data"))
        sys.path.insert(0, str(self.tree))
        sys.dont_write_bytecode = True
        which = which or ("" if test in TESTS["workflow/"] else QUICK)
        words = ["-x", "-q", "--tb=line", "-n", "0", "-p", "no:cacheprovider", "-k", which]
        code = int(pytest.main([*words, f"tests/{test}"]))
        flare = sys.modules.get("flare")
        if code == 0 and not str(getattr(flare, "__file__", "")).startswith(str(self.tree)):
            print("flare was not that of the copy")
            return 4
        return code


def kept() -> dict[str, bool]:
    """What is known of mutants that were carried out: whether they were killed."""
    with contextlib.suppress(FileNotFoundError):
        return {one["id"]: one["killed"] for one in map(json.loads, KEPT.read_text().splitlines())}
    return {}


def identity(mutant: Mutant) -> str:
    """Of the mutant, its file and the tests: all the same, it ends the same."""
    digest = hashlib.sha256(repr(mutant).encode())
    for name in (mutant.file, *(f"tests/{name}" for name in tests_of(mutant.file))):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()[:16]


def main() -> int:
    """Carry out mutants until enough are, or the time is over."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--hand", action="store_true")
    parser.add_argument("--again", action="store_true")
    chosen = parser.parse_args()
    everything = hand() if chosen.hand else drawn(chosen.seed, chosen.only)
    if chosen.hand and chosen.only:
        everything = [one for one in everything if any(part in one.file for part in chosen.only)]
    todo = everything[: chosen.count]
    known = {} if chosen.again else kept()
    deadline = time.monotonic() + 60 * chosen.minutes
    KEPT.parent.mkdir(exist_ok=True)
    done: dict[Mutant, bool] = {}
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(Path(folder))
        for mutant in todo:
            own = identity(mutant)
            if own not in known:
                if time.monotonic() > deadline:
                    break
                known[own] = runner.killed(mutant)
                with open(KEPT, "a") as file:
                    file.write(json.dumps({"id": own, "killed": known[own], "name": mutant.name}) + "\n")
                print(f"{'killed  ' if known[own] else 'SURVIVED'} {mutant.name}", flush=True)
            done[mutant] = known[own]
    survivors = [mutant for mutant, killed in done.items() if not killed]
    print(f"{len(done) - len(survivors)} of {len(done)} killed; {len(todo) - len(done)} not carried out")
    print(*(f"survived: {mutant.name}" for mutant in survivors), sep="\n")
    return int(bool(survivors) or not done)


if __name__ == "__main__":
    sys.exit(main())
