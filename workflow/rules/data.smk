# fetch: get a data set, verify every file of it, prepare it for the runs. It has no input: what is there is vouched for
# by its checksums, which every run compares, so no file's time nor a changed file of ours has it fetched again.
rule fetch:
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
