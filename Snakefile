# FLARE Sweeps: fetch -> train -> tabulate -> plot. Run with: snakemake --cores all
from snakemake.utils import min_version

min_version("9.0")


include: "workflow/rules/slurm.smk"
include: "workflow/rules/check.smk"


# A config file given on the command line replaces the default one instead of being merged into it.
if not workflow.overwrite_configfiles and "experiments" not in config:
    refuse(read, Path(ROOT, "config", "config.yaml"))

    configfile: f"{ROOT}/config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/tune.smk"
include: "workflow/rules/runs.smk"
include: "workflow/rules/assemble.smk"
include: "workflow/rules/plan.smk"
include: "workflow/rules/tracking.smk"
include: "workflow/rules/origin.smk"


report: "workflow/report/workflow.rst"


# Before the first job: what was planned is written down, once. And overall progress, throughput and time left, now and
# then on a terminal.
onstart:
    registered.write_once(Path(RESULTS), config)  # counts what is set aside next
    set_stale_aside()
    status.follow(config)


# What takes seconds, and what needs the internet, runs where Snakemake does, also on a cluster.
localrules:
    all,
    record,
    tables,
    figures,
    fetch,
    merge,
    tabulate,
    count_labels,
    plot,
    plot_whole,
    reproduction,
    render,
    tabulate_studies,
    export_studies,
    sync_wandb,
    wandb_report,


rule all:
    default_target: True
    input:
        manifests,
        rules.tabulate.output,
        rules.compare.output,
        rules.judge.output,
        rules.reach.output,
        rules.reproduction.output,
        figures_at_hand,
        NOTEBOOKS,
        rules.report.output,
        [rules.tabulate_studies.output, rules.export_studies.output] if STUDIES else [],


rule tables:
    input:
        rules.tabulate.output,
        rules.compare.output,
        rules.judge.output,
        rules.reach.output,
        rules.reproduction.output,
        TABLE_PAGES,


# What is made from a record: all except the data, which it does not need.
rule record:
    input:
        rules.tables.input,
        rules.evidence.input,
        rules.report.output,


rule figures:
    input:
        rules.tabulate.output,
        figures_at_hand,
