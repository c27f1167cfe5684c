"""What every column of every file of results means: the words beside `flare.columns`, for docs/results.md.

They are not in `flare/columns.py` because tables are made again if the code that makes them changes, and words are
none. A test compares both: every column has a meaning, and no meaning is without a column.
"""

from __future__ import annotations

from collections.abc import Mapping

from flare import columns
from flare.columns import Columns
from flare.engine import probes

# By table: the columns, and where they are. A run's own rounds.csv has the columns of its probes, too.
TABLES: Mapping[str, Columns] = {
    "rounds": columns.ROUNDS,
    "staleness": columns.STALENESS,
    "runs": columns.RUNS,
    "costs": columns.COSTS,
    "summary": columns.SUMMARY,
    "settings": columns.SETTINGS,
    "claims": columns.CLAIMS,
    "overall": columns.OVERALL,
    "reached": columns.REACHED,
    "reference": columns.REFERENCE,
    "labels": columns.LABELS,
    "studies": columns.STUDIES,
    "trials": columns.TRIALS,
    "plan": columns.PLAN,
}

# The same in every table, except for what OF_TABLE says.
MEANINGS = {
    "experiment": "name of the experiment in the configuration",
    "dataset": "data set it trains on",
    "model": "model it trains",
    "method": "federated method",
    "keep": "fraction of each tensor's entries that is sent, spelt as in the configuration; `dense` if nothing is left"
    " out. Read it as text",
    "local_epochs": "passes over a client's data in a round",
    "seed": "of the initial weights, the partition, the draw of clients, shuffling and dropout",
    "round": "counted from 0; the row was measured after this round's server step",
    "uplink_bits": "bits that all clients sent: 32 a value, and ceil(log2 n) its place in a tensor of n",
    "downlink_bits": "bits that all clients were sent: dense, or what the method counts if its server compresses",
    "train_loss": "mean over the round's clients of their mean batch loss",
    "test_loss": "loss of the server's weights on the whole test set",
    "test_accuracy": "accuracy of the server's weights on the whole test set, 0 to 1",
    "n": "finished runs (seeds) behind the row",
    "final_accuracy": "test accuracy at the last evaluation, 0 to 1",
    "best_accuracy": "highest test accuracy of all evaluations, 0 to 1. A maximum over the test set is optimistic",
    "late_accuracy": "mean test accuracy of the last `late_evaluations` evaluations, 0 to 1; the claims use it",
    "final_loss": "test loss at the last evaluation",
    "compression": "uplink of dense messages over the uplink that was sent",
    "total_bits": "uplink and downlink together",
    "compression_total": "dense messages both ways over `total_bits`",
    "effective_keep": "entries sent over all entries. At least one entry of every tensor is sent, so it can be more"
    " than `keep`: on the paper's CNN keep 1e-5 sends 2.06e-5",
    "diverged": "runs whose loss or weights were no longer finite",
    "tuned": "true if a study chose the value",
    "setting": "name of the setting",
    "value": "its value",
    "objective": "`accuracy` or `loss` on the held-out samples",
    "runs": "number of runs",
}
# Intervals, which have two columns.
for _name in ("final_accuracy", "best_accuracy", "late_accuracy"):
    MEANINGS[f"{_name}_low"] = f"lower end of the 95 % t-interval of `{_name}` over the seeds; empty for one seed"
    MEANINGS[f"{_name}_high"] = "its upper end"

OF_TABLE: Mapping[str, Mapping[str, str]] = {
    "rounds": {
        "uplink_bits": "bits that all clients sent so far, the sum over rounds",
        "downlink_bits": "bits that all clients were sent so far",
    },
    "staleness": {
        "staleness_mean": "mean staleness of all coordinates of all clients, rounds",
        "staleness_p50": "its median, rounds",
        "staleness_p90": "its 90th percentile, rounds",
        "staleness_p99": "its 99th percentile, rounds",
        "never_sent": "share of all coordinates of all clients that were never sent, 0 to 1",
        "memory_norm": "Euclidean norm of the memory after the round, mean over the clients that answered",
        "message_norm": "Euclidean norm of the message, likewise",
        "memory_cosine": "cosine between the memory before the round and the round's difference, likewise. Negative:"
        " the memory points away from today's update",
    },
    "runs": {
        "status": "`finished` or `diverged`",
        "diverged_round": "round in which it diverged; empty if it did not",
        "rounds": "completed rounds",
        "parameters": "trainable weights of the model",
        "result_hash": "SHA-256 of the run's rows and final weights: equal means equal bits",
        "available": "clients that answer a round",
        "family": "first experiment that differs from this one in nothing but `available`; its own name if none does",
        "tuned": "true if a study chose some of its settings",
        "uplink_bits_golomb": "the same messages with distances of places in Golomb's code. Computed from counts",
        "uplink_bits_entropy": "the same messages with the fewest bits that any code of the places needs on average",
        "downlink_bits_delta": "downlink if a client is sent only what changed since it last answered; needs `probes:"
        " [downlink_delta]`",
        "compression_total_delta": "dense messages both ways over uplink and `downlink_bits_delta`",
        "steps_per_round": "local steps of all clients in a round",
    },
    "costs": {
        "wall_seconds": "time spent on the run across interruptions, s",
        "device": "where it trained",
        "threads": "torch threads",
    },
    "summary": {
        "uplink_bits": "mean over the runs of the bits that all clients sent",
        "validation_accuracy": "what the cell's study found on held-out samples, 0 to 1; empty if it was not tuned by"
        " accuracy",
    },
    "settings": {},
    "claims": {
        "claim": "`better`, `sparser`, `dense`, `gain` or `unavailable`",
        "reference": "of `unavailable`: the experiment in which the most clients answer",
        "baseline": "method it is compared with",
        "baseline_keep": "keep of the baseline",
        "difference": "mean over seeds of the compared number: points of late accuracy, or a ratio",
        "low": "lower end of its paired 95 % t-interval",
        "high": "upper end",
        "unit": "`points` or `ratio`",
        "n": "seeds that all compared runs finished",
        "verdict": "`supported`, `refuted`, `equal` or `undecided`",
        "reason": "why, and how many seeds would decide",
        "rule": "the rule by which it was judged",
        "p": "two-sided p of Student's t",
        "p_signflip": "exact p by flipping signs",
        "p_holm": "p after Holm's correction over the rows of the claim that can be decided",
        "won": "share of the seeds in which the claim holds, 0 to 1",
        "won_low": "lower end of its 95 % interval by Wilson",
        "won_high": "upper end",
        "detectable": "difference that this many seeds of this spread find 80 % of the time",
        "effective_keep": "entries that the method really sent, as a share of all entries",
        "baseline_effective_keep": "entries that the baseline really sent, likewise",
        "diverged": "diverged runs among the compared",
        "verdict_if_chance": "verdict if diverged runs count as guessing a class",
        "seeds_to_decide": "seeds that would decide, by the observed mean and spread; empty if that is not known",
    },
    "overall": {
        "experiments": "experiments that have both this cell and dense FedAvg",
        "n": "runs behind the row",
        "share": "interquartile mean of late accuracy over that of dense FedAvg",
        "share_low": "lower end of its 95 % bootstrap interval, stratified by experiment",
        "share_high": "upper end",
        "improves": "probability that FLARE at the same keep is better in a random run of a random experiment",
        **{
            f"at_least_{least}": f"share of the runs with at least {least} % of dense FedAvg"
            for least in (80, 90, 95, 99)
        },
    },
    "reached": {
        "target": "what is to be reached, in words",
        "accuracy": "the same as a test accuracy, 0 to 1",
        "n": "runs of the cell",
        "reached": "runs that reach it. One that does not counts as longer than all others",
        "rounds": "median of the rounds until then; empty if half of the runs or more never get there",
        "uplink_bits": "median uplink until then, bits",
        "total_bits": "median traffic both ways until then, bits",
        "client_steps": "median of the local steps of all clients until then",
        "seconds": "median seconds on the wire, by the configuration's `link`",
    },
    "reference": {
        "reference_dataset": "data set of the authors' curve",
        "reference_accuracy": "the authors' test accuracy, 0 to 1",
        "comparable": "`yes`, `no`, or empty if the authors have no such cell",
        "differs": "why not, setting by setting, ours before theirs",
        "curve": "which curve of the authors it is",
    },
    "labels": {
        "client": "number of the client, from 0",
        "label": "number of the class, from 0",
        "samples": "samples of the class that the client holds under the experiment's first seed; of text, characters",
    },
    "studies": {
        "study": "the study's folder below `results/tuning`",
        "batches": "batches of trials",
        "trials": "trials in all",
        "seeds": "runs of a trial",
        "diverged": "trials of which a run diverged",
        "pruned": "trials that were given up early",
        "value": "best objective",
        "best": "the values that reached it, which the reported runs take",
        "importance": "share of each setting in how the objective varies, by fANOVA; empty if it cannot be known",
        "warning": "what to be wary of, such as a best value at the end of its range",
    },
    "trials": {
        "trial": "number of the trial, from 0",
        "state": "`complete`, `diverged` or `pruned`",
        "result": "mean of the objective over the study's seeds; empty if not complete",
        "best": "true if the reported runs take its values",
        "lowest": "lowest objective of its seeds",
        "highest": "highest objective of its seeds",
        "importance": "share of the setting in how the study's objective varies, by fANOVA",
    },
    "plan": {
        "runs": "runs, trials of the tuning included",
        "client_steps": "local steps of all clients of all runs",
        "operations": "floating-point operations",
        "memory_bytes": "memory of the largest job",
        "uplink_bits": "uplink of all runs",
        "hours": "time of all runs one after the other, from a short measurement on this device",
        "extrapolated": "share of the hours that was scaled from another model's measurement, 0 to 1",
    },
}
# Columns that a probe adds to a run's own rounds.csv: staleness has its own table.
OF_PROBE = {
    "downlink_delta_bits": "downlink so far if a client is sent only what changed since it last answered",
    "downlink_first_bits": "share of it that was sent at first contacts, dense, bits",
}
_KINDS = {str: "text", int: "whole number", float: "number", bool: "true or false"}


def rows(table: str) -> list[tuple[str, str, str]]:
    """Name, type and meaning of a table's columns."""
    own = OF_TABLE.get(table, {})
    return [(name, _KINDS[kind], own.get(name) or MEANINGS[name]) for name, kind in TABLES[table].items()]


def probe_rows() -> list[tuple[str, str, str]]:
    """Column, probe and meaning of what probes add, except for staleness."""
    return [
        (column, probe, OF_PROBE[column])
        for probe in probes.names()
        for column in probes.load(probe).columns
        if column not in columns.STALENESS
    ]
