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
        f"{RESULTS}/runs/{RUN}/rounds.csv",
        f"{RESULTS}/runs/{RUN}/run.json",
    log:
        f"{RESULTS}/logs/train/{RUN}.log",
    conda:
        ENV
    threads: config["threads"]
    params:
        # Only what decides the result: a changed setting plans the runs it touches and no others.
        run=lambda w: run_of(w).flags(),
    shell:
        'python -m flare train {params.run} --output "$(dirname {output[0]:q})" --data {config[data]:q}'
        " --device {config[device]} --threads {threads} --wandb {config[wandb][mode]}"
        " --wandb-project {config[wandb][project]} --wandb-entity={config[wandb][entity]} > {log:q} 2>&1"
