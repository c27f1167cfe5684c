# fetch: get a data set, verify every file of it, prepare it for the runs. It has no input: what is there is vouched for
# by its checksums, which every run compares, so no file's time nor a changed file of ours has it fetched again. And it
# is updated: what is whole is not deleted before the job, since others may be reading it, and no source may answer.
rule fetch:
    output:
        manifest=update(f"{DATA}/{{dataset}}/manifest.json"),
        splits=update(expand(f"{DATA}/{{{{dataset}}}}/{{split}}.npz", split=("train", "test"))),
    log:
        f"{RESULTS}/logs/fetch/{{dataset}}.log",
    conda:
        ENV
    shell:
        "python -m flare fetch --dataset {wildcards.dataset}"
        ' --data "$(dirname "$(dirname {output.manifest:q})")" > {log:q} 2>&1 || {{ code=$?;'
        " echo \"flare: {wildcards.dataset} cannot be had; $(sed -n '$s/^ *//p' {log:q}); why: {log}\" >&2; exit $code; }}"
