# tabulate, plot: from the runs' files to tables, from the tables to figures.
rule tabulate:
    input:
        expand(f"{RESULTS}/runs/{{run}}/{{file}}", run=RUNS, file=("run.json", "rounds.csv")),
        code=code("tables"),
    output:
        expand(
            f"{TABLES}/{{table}}",
            table=("rounds.csv", "runs.csv", "costs.csv", "summary.csv", "summary.md", "summary.tex"),
        ),
    log:
        f"{RESULTS}/logs/tabulate.log",
    conda:
        ENV
    params:
        runs=lambda wildcards: list(patterns()),
    shell:
        'python -m flare tabulate {params.runs:q} --output "$(dirname {output[0]:q})" > {log:q} 2>&1'


rule plot:
    input:
        tables=expand(f"{TABLES}/{{table}}.csv", table=("rounds", "runs", "summary")),
        code=lambda w: code(f"figures/{w.figure}", "figures/_style", "tables"),
    output:
        multiext(f"{RESULTS}/figures/{{experiment}}/{{figure}}", ".pdf", ".png"),
    log:
        f"{RESULTS}/logs/plot/{{experiment}}/{{figure}}.log",
    conda:
        ENV
    shell:
        'python -m flare plot {wildcards.figure} --experiment {wildcards.experiment} --tables "$(dirname {input.tables[0]:q})"'
        ' --output "$(dirname {output[0]:q})/{wildcards.figure}" > {log:q} 2>&1'
