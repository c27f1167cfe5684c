# sync_wandb, wandb_report: what is in the results' folder, and no job before it, to W&B.


# Finished offline runs, tables and figures, each once.
rule sync_wandb:
    input:
        lambda wildcards: key_of_wandb(),
    log:
        f"{RESULTS}/logs/sync_wandb.log",
    conda:
        ENV
    params:
        results=RESULTS,
    shell:
        "python -m flare sync_wandb --results {params.results:q} 2>&1 | tee {log:q}"


# A W&B Report of the tables and of the runs in W&B; without a key what it would be.
rule wandb_report:
    log:
        f"{RESULTS}/logs/wandb_report.log",
    conda:
        ENV
    params:
        results=RESULTS,
    shell:
        "python -m flare wandb_report --results {params.results:q} 2>&1 | tee {log:q}"
