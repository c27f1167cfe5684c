# fetch: get a data set, verify every file of it, prepare it for the runs.
rule fetch:
    input:
        lambda w: code(f"datasets/{w.dataset}"),
    output:
        f"{DATA}/{{dataset}}/manifest.json",
        f"{DATA}/{{dataset}}/train.npz",
        f"{DATA}/{{dataset}}/test.npz",
    log:
        f"{RESULTS}/logs/fetch/{{dataset}}.log",
    conda:
        ENV
    shell:
        "python -m flare fetch --dataset {wildcards.dataset} --data {config[data]:q} > {log:q} 2>&1"
