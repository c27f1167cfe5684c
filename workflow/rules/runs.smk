# train: one job per run, or, with runs_per_job, per so many runs of one cell.
for name, seeds, experiments in jobs():

    rule:
        name:
            name
        input:
            unpack(data_of),
            best=best_of if STUDIES else [],
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
            # Only what decides the result: a changed setting plans the runs it touches and no others.
            run=arguments,
            # Code is a setting, too: compared by what it does, so that a comment or a new checkout re-runs nothing.
            code=code_of,
            # Derived from the outputs, so not compared: how many runs a job takes decides no result.
            folders=folders_of,
        # exec: a signal reaches the run itself, and Snakemake waits until it is saved.
        shell:
            "exec python -m flare train {params.run} --values {input.best:q} --output {params.folders:q}"
            ' --data "$(dirname "$(dirname {input.manifest:q})")" --threads {threads} > {log:q} 2>&1'
