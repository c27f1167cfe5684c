# tune_propose, tune_train, tune: studies whose best values the reported runs take. Optuna proposes, these jobs execute.
import hashlib


localrules:
    tune_propose,


rule tune_propose:
    input:
        tried=lambda w: list(tried(study_of(w), range(int(w.batch)))),
    output:
        f"{STUDY}/batch-{{batch}}/proposals.json",
    log:
        f"{RESULTS}/logs/tune_propose/{CELL}/batch-{{batch}}.log",
    conda:
        ENV
    params:
        study=lambda w: study_of(w).flags(whole=False),
    shell:
        "python -m flare propose {params.study} --batch {wildcards.batch}"
        ' --output "$(dirname "$(dirname {output:q})")" > {log:q} 2>&1'


# One run of a trial; of the data it is given the training part alone.
rule tune_train:
    input:
        data=lambda w: [] if trial_problem(w) == "" else data_set(trial_of(w).dataset, "train"),
        proposals=f"{STUDY}/batch-{{batch}}/proposals.json",
    output:
        rounds=f"{TRIAL}/rounds.csv",
        run=f"{TRIAL}/run.json",
    log:
        f"{RESULTS}/logs/tune_train/{CELL}/batch-{{batch}}/trial-{{trial}}/seed-{{seed}}.log",
    retries: 2
    conda:
        ENV
    threads: THREADS
    resources:
        mem_mb=lambda w, attempt: needs(w.experiment, "mem_mb") * attempt,
        runtime=lambda w, attempt: needs(w.experiment, "runtime") * attempt,
        gpu=int(config.get("device", "cpu") != "cpu"),
    params:
        run=lambda w: trial_of(w).flags(),
        code=lambda w: code_of_run(trial_of(w)),
        data=DATA,
        threads=THREADS,
    shell:
        "set -- train {params.run} --values {input.proposals:q}"
        ' --output "$(dirname {output.run:q})" --data {params.data:q}; '
        'python -m flare "$@" --code {params.code} --threads {params.threads} > {log:q} 2>&1 || {{ code=$?; {{'
        " echo 'flare: trial {wildcards.trial} of this study failed; to see why, in this folder:';"
        ' printf "  python -m flare"; printf " %q" "$@"; echo; }} | tee -a {log:q} >&2; exit $code; }}'


# The end of a study; in mode single all of it.
rule tune:
    input:
        tried=lambda w: (list(tried(study_of(w), range(study_of(w).batches))) if study_of(w).mode == "batches" else []),
        data=lambda w: [] if SWEEP.best(study_of(w)) == "" else data_set(study_of(w).run.dataset, "train"),
    output:
        best=f"{STUDY}/best.yaml",
        trials=f"{STUDY}/trials.csv",
        study=f"{STUDY}/study.json",
    log:
        f"{RESULTS}/logs/tune/{CELL}.log",
    # In mode single it trains: a second try goes on after the trials that the first one finished.
    retries: 2
    conda:
        ENV
    threads: THREADS
    resources:
        mem_mb=lambda w, attempt: needs(w.experiment, "mem_mb") * attempt,
        runtime=lambda w, attempt: needs(w.experiment, "runtime") * attempt * max(1, runs_within(study_of(w))),
        gpu=lambda w: int(config.get("device", "cpu") != "cpu" and runs_within(study_of(w)) > 0),
    params:
        study=lambda w: study_of(w).flags(),
        code=lambda w: code_of_run(study_of(w).run),
        data=DATA,
        threads=THREADS,
    shell:
        'set -- tune {params.study} --output "$(dirname {output.best:q})" --data {params.data:q}; '
        'python -m flare "$@" --code {params.code} --threads {params.threads} > {log:q} 2>&1 || {{ code=$?; {{'
        " echo 'flare: this study failed; to see why, in this folder:';"
        ' printf "  python -m flare"; printf " %q" "$@"; echo; }} | tee -a {log:q} >&2; exit $code; }};'
        " grep WARNING: {log:q} >&2 || true"


# The budget each study had and what it found.
rule tabulate_studies:
    input:
        studies=expand(f"{RESULTS}/tuning/{{study}}/{{file}}", study=STUDIES, file=("study.json", "trials.csv")),
        code=code("tuning/tables"),
    output:
        csv=f"{TABLES}/studies.csv",
        md=f"{TABLES}/studies.md",
    log:
        f"{RESULTS}/logs/tabulate_studies.log",
    conda:
        ENV
    params:
        studies=expand(f"{RESULTS}/tuning/{{study}}", study=STUDIES),
        # So that no study of another configuration, which Snakemake may have forgotten, is taken for one of this.
        settings=[study.digest for study in STUDIES.values()],
        labels=labels(),
    shell:
        "python -m flare tabulate_studies {params.studies:q} --settings {params.settings:q}"
        ' --output "$(dirname {output.csv:q})/studies" > {log:q} 2>&1; grep WARNING: {log:q} >&2 || true'


# All studies in one file: optuna-dashboard results/tuning/journal.log; and in the database that `storage` names.
rule export_studies:
    input:
        studies=expand(f"{RESULTS}/tuning/{{study}}/{{file}}", study=STUDIES, file=("study.json", "trials.csv")),
        code=code("tuning/export"),
    output:
        f"{RESULTS}/tuning/journal.log",
    log:
        f"{RESULTS}/logs/export_studies.log",
    conda:
        ENV
    params:
        studies=expand(f"{RESULTS}/tuning/{{study}}", study=STUDIES),
        # Another database is filled, too; a URL may hold a password, so only a digest of it is kept.
        storage=hashlib.sha256(STORAGE.encode()).hexdigest(),
    shell:
        "python -m flare export_studies {params.studies:q} --output {output:q} > {log:q} 2>&1"
