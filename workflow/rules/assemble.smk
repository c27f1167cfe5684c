# tabulate, count_labels, plot: from the runs' files to tables, from the tables to figures.
rule tabulate:
    input:
        expand(f"{RESULTS}/runs/{{run}}/{{file}}", run=RUNS, file=("run.json", "rounds.csv")),
        code=code("tables"),
    output:
        rounds=f"{TABLES}/rounds.csv",
        runs=f"{TABLES}/runs.csv",
        costs=f"{TABLES}/costs.csv",
        summary=multiext(f"{TABLES}/summary", ".csv", ".md", ".tex"),
    log:
        f"{RESULTS}/logs/tabulate.log",
    conda:
        ENV
    params:
        runs=lambda wildcards: list(patterns()),
    shell:
        'python -m flare tabulate {params.runs:q} --output "$(dirname {output.runs:q})" > {log:q} 2>&1'


# How many samples of each class each client holds.
rule count_labels:
    input:
        manifest=lambda w: f"{DATA}/{config['experiments'][w.experiment]['dataset']}/manifest.json",
        data=lambda w: ancient(f"{DATA}/{config['experiments'][w.experiment]['dataset']}/train.npz"),
        code=code("datasets/partition"),
    output:
        f"{TABLES}/labels/{{experiment}}.csv",
    log:
        f"{RESULTS}/logs/count_labels/{{experiment}}.log",
    conda:
        ENV
    params:
        dealt=lambda w: dealt(w.experiment),
    shell:
        "python -m flare count_labels {params.dealt} --output {output:q}"
        ' --data "$(dirname "$(dirname {input.manifest:q})")" > {log:q} 2>&1'


rule plot:
    input:
        rounds=rules.tabulate.output.rounds,
        runs=rules.tabulate.output.runs,
        summary=rules.tabulate.output.summary,
        labels=rules.count_labels.output,
        code=lambda w: code(f"figures/{w.figure}", "figures/_style", "tables"),
    output:
        pdf=f"{RESULTS}/figures/{{experiment}}/{{figure}}.pdf",
        png=f"{RESULTS}/figures/{{experiment}}/{{figure}}.png",
    log:
        f"{RESULTS}/logs/plot/{{experiment}}/{{figure}}.log",
    conda:
        ENV
    shell:
        "python -m flare plot {wildcards.figure} --experiment {wildcards.experiment}"
        ' --tables "$(dirname {input.runs:q})" --output "$(dirname {output.pdf:q})/{wildcards.figure}" > {log:q} 2>&1'
