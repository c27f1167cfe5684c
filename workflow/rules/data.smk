# fetch: get a data set, verify every file of it, prepare it for the runs.
import functools
import subprocess


@functools.cache
def at_hand():
    """The runs whose data can be had: where one of several data sets cannot, the others' experiments are carried out.

    Called when the jobs are planned, and fetches what is not here yet, so that what is missing is said before any job.
    """
    wanted = {run.dataset for run in RUNS.values()}
    missing = sorted(name for name in wanted if not os.path.exists(f"{DATA}/{name}/manifest.json"))
    if len(wanted) == 1 or workflow.executor_plugin is None or workflow.dryrun:
        return RUNS
    command = [sys.executable, "-m", "flare", "fetch", "--data", DATA, "--dataset"]
    fetching = [subprocess.Popen([*command, name], stderr=subprocess.PIPE, text=True) for name in missing]
    reasons = {name: job.communicate()[1] for name, job in zip(missing, fetching) if job.wait()}
    if reasons.keys() == wanted:
        return RUNS
    for name, reason in reasons.items():
        out = ", ".join(dict.fromkeys(run.experiment for run in RUNS.values() if run.dataset == name))
        why = "; ".join(line.strip() for line in reason.removeprefix("flare: ").splitlines())
        print(f"flare: left out: {out}; {why}", file=sys.stderr)
    return {folder: run for folder, run in RUNS.items() if run.dataset not in reasons}


def experiments_at_hand():
    """Those runs' experiments."""
    return list(dict.fromkeys(run.experiment for run in at_hand().values()))


def figures_at_hand(wildcards):
    """The figures of those runs' experiments."""
    return [file for file in FIGURES if file.split("/")[-2] in experiments_at_hand()]


def manifests(wildcards):
    """What vouches for every data set: one that cannot be had fails the sweep in the end."""
    return [f"{DATA}/{name}/manifest.json" for name in dict.fromkeys(run.dataset for run in RUNS.values())]


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
