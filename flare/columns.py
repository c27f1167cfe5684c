"""Every table's columns: their names, in order, and the type of their values. The one place to add, rename or look up.

A table here is a mapping of name to type, so `list(RUNS)` are its names and `RUNS["seed"]` is a type. A run's own
rounds.csv has IDENTITY, HISTORY and, if staleness was measured, STALENESS; the others lie in results/tables. Nothing
is imported from the package, so that everything in it may import this.
"""

from __future__ import annotations

from collections.abc import Mapping

Columns = Mapping[str, type]

# Which run a row is of: the run's folder says the same.
IDENTITY: Columns = {
    "experiment": str,
    "dataset": str,
    "model": str,
    "method": str,
    "keep": str,
    "local_epochs": int,
    "seed": int,
}
# Which cell: a run without its seed.
CELL: Columns = {name: kind for name, kind in IDENTITY.items() if name != "seed"}

# What every evaluation of a run says; the bits are sums over the rounds so far.
HISTORY: Columns = {
    "round": int,
    "uplink_bits": int,
    "downlink_bits": int,
    "train_loss": float,
    "test_loss": float,
    "test_accuracy": float,
}
# What it says besides with `staleness: true`. Percentiles are over all coordinates of all clients. Norms and the cosine
# are means over the clients that answered in the evaluated round: of the memory A_k after it, of the message, and of
# the angle between the memory before it and that round's difference d_k.
STALENESS: Columns = {
    "staleness_mean": float,
    "staleness_p50": float,
    "staleness_p90": float,
    "staleness_p99": float,
    "never_sent": float,
    "memory_norm": float,
    "message_norm": float,
    "memory_cosine": float,
}

# The tables of `python -m flare tabulate`: flare.analysis.tables says what is in them.
ROUNDS: Columns = {**IDENTITY, **HISTORY}
RUNS: Columns = {
    **IDENTITY,
    "status": str,
    "diverged_round": int,
    "rounds": int,
    "final_accuracy": float,
    "best_accuracy": float,
    "final_loss": float,
    "uplink_bits": int,
    "downlink_bits": int,
    "compression": float,
    "parameters": int,
    "result_hash": str,
    "available": int,
    "family": str,
    "tuned": bool,
    "late_accuracy": float,
    "effective_keep": float,
    "uplink_bits_golomb": int,
    "uplink_bits_entropy": int,
    "downlink_bits_delta": int,
    "total_bits": int,
    "compression_total": float,
    "compression_total_delta": float,
    "steps_per_round": int,
}
COSTS: Columns = {**IDENTITY, "wall_seconds": float, "device": str, "threads": int}
SUMMARY: Columns = {
    **CELL,
    "n": int,
    "diverged": int,
    "final_accuracy": float,
    "final_accuracy_low": float,
    "final_accuracy_high": float,
    "best_accuracy": float,
    "best_accuracy_low": float,
    "best_accuracy_high": float,
    "final_loss": float,
    "uplink_bits": int,
    "compression": float,
    "late_accuracy": float,
    "late_accuracy_low": float,
    "late_accuracy_high": float,
    "effective_keep": float,
    "total_bits": int,
    "compression_total": float,
    "validation_accuracy": float,
}
SETTINGS: Columns = {**CELL, "setting": str, "value": str, "tuned": bool}

# The tables of one experiment each: labels/EXPERIMENT.csv and trials/EXPERIMENT.csv.
LABELS: Columns = {"experiment": str, "client": int, "label": int, "samples": int}
TRIALS: Columns = {
    "experiment": str,
    "method": str,
    "keep": str,
    "local_epochs": int,
    "trial": int,
    "setting": str,
    "value": str,
    "state": str,
    "objective": str,
    "result": float,
    "best": bool,
    "lowest": float,
    "highest": float,
    "importance": float,
}

# studies.csv, claims.csv, reference.csv and plan.csv.
STUDIES: Columns = {
    "study": str,
    "experiment": str,
    "method": str,
    "keep": str,
    "local_epochs": int,
    "batches": int,
    "trials": int,
    "seeds": int,
    "runs": int,
    "diverged": int,
    "pruned": int,
    "objective": str,
    "value": float,
    "best": str,
    "importance": str,
    "warning": str,
}
CLAIMS: Columns = {
    "claim": str,
    "experiment": str,
    "reference": str,
    "local_epochs": int,
    "method": str,
    "keep": str,
    "baseline": str,
    "baseline_keep": str,
    "difference": float,
    "low": float,
    "high": float,
    "unit": str,
    "n": int,
    "verdict": str,
    "reason": str,
    "rule": str,
    "p": float,
    "p_signflip": float,
    "p_holm": float,
    "won": float,
    "won_low": float,
    "won_high": float,
    "detectable": float,
    "effective_keep": float,
    "baseline_effective_keep": float,
    "diverged": int,
    "verdict_if_chance": str,
    "seeds_to_decide": float,
}
OVERALL: Columns = {
    "method": str,
    "keep": str,
    "experiments": int,
    "n": int,
    "share": float,
    "share_low": float,
    "share_high": float,
    "improves": float,
    "at_least_80": float,
    "at_least_90": float,
    "at_least_95": float,
    "at_least_99": float,
}
REACHED: Columns = {
    **CELL,
    "target": str,
    "accuracy": float,
    "n": int,
    "reached": int,
    "rounds": float,
    "uplink_bits": float,
    "total_bits": float,
    "client_steps": float,
    "seconds": float,
}
REFERENCE: Columns = {
    **CELL,
    "n": int,
    "final_accuracy": float,
    "final_accuracy_low": float,
    "final_accuracy_high": float,
    "reference_dataset": str,
    "reference_accuracy": float,
    "comparable": str,
    "differs": str,
    "curve": str,
}
PLAN: Columns = {
    "experiment": str,
    "runs": int,
    "client_steps": int,
    "operations": int,
    "memory_bytes": int,
    "uplink_bits": int,
    "hours": float,
    "extrapolated": float,
}

# The whole numbers that a row of a table may leave empty: which round diverged, the clients' number in a record that
# does not say it, bits that cannot be known of a run, and those of a cell in which no run finished. (Floats are empty
# if there is no such number.)
OPTIONAL: Mapping[str, tuple[str, ...]] = {
    "runs": (
        *("diverged_round", "available", "uplink_bits_golomb", "uplink_bits_entropy", "downlink_bits_delta"),
        "steps_per_round",
    ),
    "summary": ("uplink_bits", "total_bits"),
}
