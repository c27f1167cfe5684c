# train: one job per run.
rule train:
    input:
        manifest=lambda w: f"{DATA}/{run_of(w).dataset}/manifest.json",
        # The manifest vouches for these by checksum, so it alone says whether the data changed.
        data=lambda w: ancient(expand(f"{DATA}/{run_of(w).dataset}/{{split}}.npz", split=("train", "test"))),
        method=lambda w: code(f"algorithms/{w.method}", "algorithms/__init__"),
        model=lambda w: code(f"models/{run_of(w).model}"),
        engine=code("simulation", "sparsify", "train", "datasets/partition"),
    output:
        rounds=f"{RESULTS}/runs/{RUN}/rounds.csv",
        run=f"{RESULTS}/runs/{RUN}/run.json",
    log:
        f"{RESULTS}/logs/train/{RUN}.log",
    conda:
        ENV
    threads: THREADS
    params:
        # Only what decides the result: a changed setting plans the runs it touches and no others.
        run=lambda w: run_of(w).flags(),
    shell:
        'python -m flare train {params.run} --output "$(dirname {output.run:q})"'
        ' --data "$(dirname "$(dirname {input.manifest:q})")" --threads {threads} > {log:q} 2>&1'
