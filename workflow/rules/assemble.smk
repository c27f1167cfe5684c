# From the runs' files to tables, from the tables to the verdict, figures, notebooks and the report.
import json

from flare.analysis.level import LEVEL, percent


rule tabulate:
    input:
        lambda w: expand(f"{RESULTS}/runs/{{run}}/{{file}}", run=at_hand(), file=("run.json", "rounds.csv")),
        studies=lambda w: expand(f"{RESULTS}/tuning/{{study}}/best.yaml", study=studies_at_hand()),
        code=code("analysis/tables"),
    output:
        rounds=f"{TABLES}/rounds.csv",
        runs=report(f"{TABLES}/runs.csv", **about("runs (csv)", "runs")),
        costs=report(f"{TABLES}/costs.csv", **about("costs (csv)", "costs")),
        summary=f"{TABLES}/summary.csv",
        texts=multiext(f"{TABLES}/summary", ".md", ".tex"),
        used=multiext(f"{TABLES}/settings", ".csv", ".md", ".tex"),
        made_from=f"{TABLES}/made_from.json",
    log:
        f"{RESULTS}/logs/tabulate.log",
    conda:
        ENV
    params:
        runs=lambda wildcards: list(patterns()),
        # So that no run of another configuration or of other code gets into a table.
        settings=lambda wildcards: digests(of_settings),
        code=lambda wildcards: digests(of_code),
        late=config.get("late_evaluations", 5),
        tuning=f"{RESULTS}/tuning",
    shell:
        "python -m flare tabulate {params.runs:q} --settings {params.settings:q} --code {params.code:q}"
        " --late {params.late} --tuning {params.tuning:q}"
        ' --output "$(dirname {output.runs:q})" > {log:q} 2>&1 || exit $?'
        "; grep WARNING: {log:q} >&2 || true"


# What the runs say of the paper's claims.
rule judge:
    input:
        runs=rules.tabulate.output.runs,
        code=code("analysis/claims", "analysis/overall"),
    output:
        csv=f"{TABLES}/claims.csv",
        texts=multiext(f"{TABLES}/claims", ".md", ".tex"),
        overall=multiext(f"{TABLES}/overall", ".csv", ".md", ".tex"),
    log:
        f"{RESULTS}/logs/judge.log",
    conda:
        ENV
    params:
        # What was planned before the first run: written once, so it is no input.
        registered=f"{RESULTS}/preregistration.json",
        configuration=registered.digest(config),
        # What the seeds that would decide cost, if it was estimated: as an input it would be estimated anew.
        plan=lambda wildcards: sum_of(f"{TABLES}/plan.csv"),
        labels=labels(),
    shell:
        'python -m flare judge --tables "$(dirname {output.csv:q})" --registered {params.registered:q}'
        " --configuration {params.configuration} > {log:q} 2>&1"


# What it costs to get to an accuracy.
rule reach:
    input:
        runs=rules.tabulate.output.runs,
        code=code("analysis/reached"),
    output:
        csv=f"{TABLES}/reached.csv",
        texts=multiext(f"{TABLES}/reached", ".md", ".tex"),
    log:
        f"{RESULTS}/logs/reach.log",
    conda:
        ENV
    params:
        targets=config.get("targets", []),
        labels=labels(),
        link=[
            config.get("link", {}).get(name, default)
            for name, default in (("uplink_mbps", 10), ("downlink_mbps", 50), ("latency_ms", 50))
        ],
    shell:
        'python -m flare reach --tables "$(dirname {output.csv:q})" --link {params.link}'
        " --targets {params.targets} > {log:q} 2>&1"


# Our cells beside the authors' published numbers.
rule compare:
    input:
        made_from=rules.tabulate.output.made_from,  # which tells every run and its content
        reference=tracked("config/reference.csv"),
        code=code("analysis/reference"),
    output:
        csv=f"{TABLES}/reference.csv",
        md=f"{TABLES}/reference.md",
    log:
        f"{RESULTS}/logs/compare.log",
    conda:
        ENV
    params:
        runs=lambda wildcards: list(patterns()),
        settings=lambda wildcards: digests(of_settings),
        code=lambda wildcards: digests(of_code),
        labels=labels(),
    shell:
        "python -m flare compare {params.runs:q} --settings {params.settings:q} --code {params.code:q} --reference {input.reference:q}"
        ' --output "$(dirname {output.csv:q})/reference" > {log:q} 2>&1'


# A report of the reproduction, and a checklist, from the tables and the runs' records.
rule reproduction:
    input:
        lambda w: expand(f"{RESULTS}/runs/{{run}}/run.json", run=at_hand()),
        tables=[rules.tabulate.output, rules.judge.output, rules.reach.output, rules.compare.output],
        studies=f"{TABLES}/studies.csv" if STUDIES else [],
        code=code("analysis/reproduction"),
    output:
        report=f"{RESULTS}/reproduction.md",
        checklist=f"{RESULTS}/checklist.md",
    log:
        f"{RESULTS}/logs/reproduction.log",
    conda:
        ENV
    params:
        runs=lambda wildcards: list(patterns()),
        tables=lambda w, input: os.path.dirname(input.tables[0]),
        registered=f"{RESULTS}/preregistration.json",
        configuration=registered.digest(config),
        labels=labels(),
    shell:
        "python -m flare reproduction {params.runs:q} --tables {params.tables:q} --registered {params.registered:q}"
        ' --configuration {params.configuration} --output "$(dirname {output.report:q})" > {log:q} 2>&1'


# A table as a page of the report.
rule render:
    input:
        table=lambda w: f"{RESULTS if w.table in ('reproduction', 'checklist') else TABLES}/{w.table}.md",
        code=code("analysis/pages"),
    output:
        report(
            f"{TABLES}/pages/{{table}}.html",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
    log:
        f"{RESULTS}/logs/render/{{table}}.log",
    conda:
        ENV
    params:
        level=percent(LEVEL),  # the caption says it
    shell:
        "python -m flare render {input.table:q} --output {output:q} > {log:q} 2>&1"


# How many samples of each class each client holds.
rule count_labels:
    input:
        data=lambda w: data_set(config["experiments"][w.experiment]["dataset"], "train"),
        code=lambda w: code("datasets/partitions/__init__", scheme_of(w.experiment)),
    output:
        f"{TABLES}/labels/{{experiment}}.csv",
    log:
        f"{RESULTS}/logs/count_labels/{{experiment}}.log",
    conda:
        ENV
    params:
        dealt=lambda w: dealt(w.experiment),
        data=DATA,
    shell:
        "python -m flare count_labels {params.dealt} --output {output:q} --data {params.data:q} > {log:q} 2>&1"


# Every trial of an experiment's studies.
rule gather_trials:
    input:
        lambda w: expand(
            f"{RESULTS}/tuning/{{study}}/{{file}}",
            study=[study.name for study in STUDIES.values() if study.run.experiment == w.experiment],
            file=("trials.csv", "study.json"),
        ),
        code=code("analysis/trials"),
    output:
        f"{TABLES}/trials/{{experiment}}.csv",
    log:
        f"{RESULTS}/logs/gather_trials/{{experiment}}.log",
    conda:
        ENV
    params:
        studies=lambda w, input: [os.path.dirname(file) for file in input if os.path.basename(file) == "trials.csv"],
    shell:
        "python -m flare gather_trials {params.studies:q} --output {output:q} > {log:q} 2>&1"


rule plot:
    input:
        # All tables come from one job. Of each file Snakemake looks through that job's inputs: the runs, maybe thousands.
        runs=rules.tabulate.output.runs,
        labels=lambda w: rules.count_labels.output if "labels" in figures.reads(w.figure) else [],
        trials=lambda w: rules.gather_trials.output if "trials" in figures.reads(w.figure) else [],
        reached=lambda w: rules.reach.output.csv if "reached" in figures.reads(w.figure) else [],
        code=lambda w: code(f"figures/{w.figure}"),
    output:
        pdf=f"{RESULTS}/figures/{{experiment}}/{{figure}}.pdf",
        png=report(
            f"{RESULTS}/figures/{{experiment}}/{{figure}}.png",
            caption="../report/figure.rst",
            category="{experiment}",
            labels={"figure": "{figure}"},
        ),
    log:
        f"{RESULTS}/logs/plot/{{experiment}}/{{figure}}.log",
    conda:
        ENV
    params:
        caption=lambda w: figures.caption(w.figure, whole=True),
        looks=lambda w: looks(w.experiment),
    shell:
        "python -m flare plot {wildcards.figure} --experiment {wildcards.experiment}"
        ' --tables "$(dirname {input.runs:q})" --output "$(dirname {output.pdf:q})/{wildcards.figure}" > {log:q} 2>&1'


# A figure of all experiments together.
rule plot_whole:
    input:
        runs=rules.tabulate.output.runs,
        code=lambda w: code(f"figures/{w.figure}"),
    output:
        pdf=f"{RESULTS}/figures/{{figure}}.pdf",
        png=report(
            f"{RESULTS}/figures/{{figure}}.png",
            caption="../report/whole.rst",
            category="All experiments",
            labels={"figure": "{figure}"},
        ),
    log:
        f"{RESULTS}/logs/plot/{{figure}}.log",
    conda:
        ENV
    params:
        caption=lambda w: figures.caption(w.figure, whole=True),
        looks=looks(*config["experiments"]),
    shell:
        'python -m flare plot {wildcards.figure} --tables "$(dirname {input.runs:q})"'
        ' --output "$(dirname {output.pdf:q})/{wildcards.figure}" > {log:q} 2>&1'


# A notebook as a page: executed on the tables, which it says where to find.
rule execute:
    input:
        notebook=lambda w: tracked(f"notebooks/{w.notebook}.ipynb"),
        tables=[rules.tabulate.output, rules.judge.output, rules.reach.output.csv],
        labels=lambda w: expand(rules.count_labels.output, experiment=experiments_at_hand()),
        # What a figure may be of: a notebook draws all that are possible.
        trials=lambda w: expand(
            rules.gather_trials.output,
            experiment=dict.fromkeys(STUDIES[name].run.experiment for name in studies_at_hand()),
        ),
        code=code("figures/__init__", "figures/style/looks"),
    output:
        report(
            f"{RESULTS}/notebooks/{{notebook}}.html",
            caption="../report/notebook.rst",
            category="Notebooks",
            labels={"notebook": "{notebook}"},
        ),
    log:
        f"{RESULTS}/logs/execute/{{notebook}}.log",
    conda:
        ENV
    params:
        results=lambda w, input: os.path.abspath(os.path.dirname(os.path.dirname(input.tables[0]))),
        folder=lambda w, output: os.path.abspath(os.path.dirname(output[0])),
        looks=looks(*config["experiments"]),
    # From an empty folder: nbconvert imports from where it is called, IPython runs what it finds in its own folder.
    shell:
        'IPYTHONDIR=$(mktemp -d) && export IPYTHONDIR && trap \'rm -rf "$IPYTHONDIR"\' EXIT && (cd "$IPYTHONDIR" && '
        "FLARE_RESULTS={params.results:q} jupyter nbconvert --execute --to html --log-level ERROR {input.notebook:q}"
        " --output-dir {params.folder:q}) > {log:q} 2>&1"


# All that the report shows.
rule evidence:
    input:
        rules.tabulate.output,
        TABLE_PAGES,
        figures_at_hand,
        NOTEBOOKS,


# All of it as one page, by Snakemake's own --report, of the experiments whose data could be had.
rule report:
    input:
        rules.evidence.input,
        captions=tracked(*(f"workflow/report/{name}.rst" for name in ("figure", "table", "whole", "workflow"))),
    output:
        f"{RESULTS}/report.html",
    log:
        f"{RESULTS}/logs/report.log",
    conda:
        ENV
    params:
        snakefile=workflow.main_snakefile,
        # Only what decides what the report shows.
        config=lambda w: json.dumps(
            {
                "results": RESULTS,
                "data": DATA,
                "experiments": {name: config["experiments"][name] for name in experiments_at_hand()},
            }
        ),
    shell:
        'config=$(mktemp) && trap "rm -f $config" EXIT && printf %s {params.config:q} > "$config" && '
        'snakemake --snakefile {params.snakefile:q} --configfile "$config" --nolock --report {output:q} evidence'
        " > {log:q} 2>&1"
