# fetch: get a data set, verify every file of it, prepare it for the runs.
rule fetch:
    input:
        lambda w: code(f"datasets/{w.dataset}"),
    output:
        manifest=f"{DATA}/{{dataset}}/manifest.json",
        splits=expand(f"{DATA}/{{{{dataset}}}}/{{split}}.npz", split=("train", "test")),
    log:
        f"{RESULTS}/logs/fetch/{{dataset}}.log",
    conda:
        ENV
    shell:
        "python -m flare fetch --dataset {wildcards.dataset}"
        ' --data "$(dirname "$(dirname {output.manifest:q})")" > {log:q} 2>&1'
