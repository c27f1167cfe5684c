"""Tuning: a study looks for the best values of some settings of one cell (a run without its seed), with Optuna's TPE.

A setting is tuned where the configuration gives a range instead of a value, `tau: {log: [1e-4, 1]}`. A trial is a
proposal of values and one run per tuning seed, evaluated on samples held out from the clients' own training data. The
runs are the only state: before every proposal the study is built anew, in memory, from the results of the trials
before, in their order, and the sampler is seeded by the study's seed and the number of the trial. So the proposals, and
with them the best value, do not depend on how many runs there are at once, on their order or on interruptions.

    results/tuning/{study}/batch-{b}/proposals.json          the values of the batch's trials
    results/tuning/{study}/batch-{b}/trial-{t}/seed-{s}/     rounds.csv and run.json, as of any run
    results/tuning/{study}/best.yaml                         the values that the reported runs take
    results/tuning/{study}/trials.csv, study.json            every trial; the study's own settings

The first trials, at least four, are a Latin hypercube (McKay, Beckman & Conover, Technometrics 1979), which leaves no
part of a range unseen as random ones can; all others are TPE's (Bergstra et al., NeurIPS 2011; `optuna.samplers`). A
trial of which a run diverged has no objective: it counts, and for the sampler it is worse than every other.

    study.py      `Study` and `Trial`; the studies of a configuration
    space.py      the space for Optuna, and the first trials' values
    trials.py     the files of the trials
    propose.py    the next trials' values
    conclude.py   the best trial, and the files of a study that is over
    single.py     `tune`: all of a study, or its end
    tables.py, export.py   what becomes of finished studies: a table, a file for optuna-dashboard

Nothing here imports Optuna before it proposes: Snakemake lists the studies every time it starts.
"""
