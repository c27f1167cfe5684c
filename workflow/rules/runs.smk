# train: one job per run, or, with runs_per_job, per so many runs of one cell.
for name, seeds, experiments in jobs():

    rule:
        name:
            name
        input:
            data=unless_finished(seeds, data_of),
            best=unless_finished(seeds, best_of) if STUDIES else [],
        output:
            rounds=expand(f"{RESULTS}/runs/{CELL}/seed-{{seed}}/rounds.csv", seed=seeds, allow_missing=True),
            run=expand(f"{RESULTS}/runs/{CELL}/seed-{{seed}}/run.json", seed=seeds, allow_missing=True),
        log:
            f"{RESULTS}/logs/train/{CELL}/seed-{'-'.join(map(str, seeds))}.log",
        wildcard_constraints:
            experiment=experiments,
        conda:
            ENV
        threads: THREADS
        resources:
            mem_mb=lambda w, attempt: needs(w.experiment, "mem_mb") * attempt,
            runtime=lambda w, attempt: needs(w.experiment, "runtime") * attempt,
            gpu=int(config.get("device", "cpu") != "cpu"),
        params:
            # What is compared, and by content, says origin.smk: whether a run is made anew does not hang on these.
            run=arguments,
            # The job refuses code other than that with which it was planned.
            code=code_of,
            folders=folders_of,
            data=DATA,
            # As many as configured, also where Snakemake has fewer cores to give: the bits depend on them.
            threads=THREADS,
        # exec: a signal reaches the run itself, and Snakemake waits until it is saved.
        shell:
            "exec python -m flare train {params.run} --values {input.best:q} --output {params.folders:q}"
            " --code {params.code} --data {params.data:q} --threads {params.threads} > {log:q} 2>&1"
