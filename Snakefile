# FLARE Sweeps: fetch -> train -> tabulate -> plot. Run with: snakemake --cores all
from snakemake.utils import min_version

min_version("9.0")

# A config file given on the command line replaces the default one instead of being merged into it.
if "experiments" not in config:

    configfile: f"{workflow.basedir}/config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/runs.smk"
include: "workflow/rules/assemble.smk"


rule all:
    default_target: True
    input:
        rules.tabulate.output,
        FIGURES,


rule tables:
    input:
        rules.tabulate.output,


rule figures:
    input:
        FIGURES,
