# What the rules ask about a job: its run, its study, what it needs and what it is made from.
import contextlib
import csv
import functools
import inspect
import re
import subprocess


def known(function):
    """The same function; its signature, for which Snakemake asks several times a job, is looked up once."""
    function.__signature__ = inspect.signature(function)
    return function


def run_of(wildcards):
    """The first run of the cell that a job is for; the cell's runs differ in the seed only."""
    return CELLS[CELL.format(**wildcards)]


def data_set(name, *splits):
    """Files of a data set, which must be there: checksums vouch for them, so one that is fetched is no other one."""
    return ancient([f"{DATA}/{name}/{file}" for file in ("manifest.json", *(f"{split}.npz" for split in splits))])


@known
def data_of(wildcards):
    """A run's data set: what a run needs that is not finished."""
    return data_set(run_of(wildcards).dataset, "train", "test")


def unless_finished(seeds, needed):
    """What a job that trains runs of these seeds needs, as an input function: nothing if all of them are finished."""

    def function(wildcards):
        own = [RUN.format(**{**wildcards, "seed": str(seed).format(**wildcards)}) for seed in seeds]
        return [] if all(SWEEP.run(RUNS[folder]) == "" for folder in own) else needed(wildcards)

    return known(function)


@functools.cache
def flags_of(cell):
    """What decides the results of the cell's runs, but for the seed."""
    return CELLS[cell].flags(*WITHOUT_SEED)


@functools.cache
def digest_of(cell):
    """What the code that decides the cell's results does."""
    return code_of_run(CELLS[cell])


@known
def arguments(wildcards):
    """The flags of a job that trains."""
    return flags_of(CELL.format(**wildcards))


@known
def code_of(wildcards):
    """The code of a job that trains."""
    return digest_of(CELL.format(**wildcards))


@known
def folders_of(wildcards, output):
    """The folders of the runs of a job that trains."""
    return [os.path.dirname(file) for file in output.run]


def jobs():
    """The rules that train: name, seeds of a job's runs, pattern of the experiments that have them."""
    size = config.get("runs_per_job", 1)
    if size == 1:
        return [("train", ["{seed}"], ".+")]
    names = {}
    for name, experiment in config["experiments"].items():
        seeds = experiment["seeds"]
        for start in range(0, len(seeds), size):
            names.setdefault(tuple(seeds[start : start + size]), []).append(re.escape(name))
    return [(f"train_{number}", seeds, "|".join(found)) for number, (seeds, found) in enumerate(names.items(), 1)]


@functools.cache
def planned():
    """By experiment, the memory (MB) and time (minutes) that a scheduler is asked for: the plan's (`snakemake plan`)."""
    out = {}
    with contextlib.suppress(OSError, KeyError, ValueError, ZeroDivisionError):
        with open(f"{TABLES}/plan.csv", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                hours = float(row["hours"]) / int(row["runs"]) * config.get("runs_per_job", 1)
                # Twice the time and half as much memory again: the plan was made on another machine, perhaps.
                memory = 1000 + int(1.5e-6 * float(row["memory_bytes"]))
                out[row["experiment"]] = {"mem_mb": memory, "runtime": 10 + int(120 * hours)}
    return out


def needs(experiment, resource):
    """How much of a resource a job that trains is asked for with, where there is no plan a guess."""
    found = [planned().get(experiment, {"mem_mb": 4000, "runtime": 60})]
    if in_arrays():  # an array is asked for by the first of its jobs
        found += planned().values()
    return max(one[resource] for one in found)


def dealt(experiment):
    """What decides the split of an experiment's data, as arguments of `python -m flare count_labels`."""
    run = next(run for run in RUNS.values() if run.experiment == experiment)
    return run.flags("experiment", "dataset", "clients", "seed", "partition")


# The files of this checkout that outputs follow from, as they were when the jobs were planned.
STAMPS = {}


def stamp(file):
    """What a file that is written, or put back, does not keep; None if there is none."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def tracked(*places):
    """Files of this checkout whose change makes a job's results stale: compared by content, never by their times."""
    files = [f"{ROOT}/{place}" for place in places]
    for file in files:
        if file not in STAMPS:
            STAMPS[file] = stamp(file)
    return files


def code(*names):
    """These files of the package, and all that they import, which are compared by what they do (origin.smk)."""
    return tracked(*(f"flare/{name}.py" for name in reached(names, WHETHER)))


def scheme_of(experiment):
    """The file that deals an experiment's data to its clients."""
    scheme = config["experiments"][experiment].get("partition", {}).get("scheme", "contiguous")
    return f"datasets/partitions/{scheme}"


def labels():
    """What the methods are called in tables."""
    return {name: label(name) for experiment in config["experiments"].values() for name in experiment["methods"]}


def looks(*experiments):
    """How figures show the methods of these experiments; one that does not say it all is shown by its place."""
    own = {name: look(name) for experiment in experiments for name in config["experiments"][experiment]["methods"]}
    whole = all(len(found) == len(CONSTANTS) for found in own.values())
    return [own, [] if whole else algorithms.names()]


def sharing():
    """The runs, by what one pattern of folders can say: those of a method, or of a cell if some may be lacking."""
    out = {}
    for run in at_hand().values():
        out.setdefault(run.cell if RECORD else (run.experiment, run.method), []).append(run)
    return out.values()


def patterns():
    """All runs as a few patterns with braces, since thousands of paths do not fit on a command line."""
    for own in sharing():
        axes = [dict.fromkeys(getattr(run, axis) for run in own) for axis in ("keep", "local_epochs", "seed")]
        keep, epochs, seed = ("{" + ",".join(map(str, axis)) + "}" for axis in axes)
        yield f"{RESULTS}/runs/{own[0].experiment}/{own[0].method}/keep-{keep}/epochs-{epochs}/seed-{seed}"


def digests(of):
    """For each of the patterns, a digest of what decides the results of its runs."""
    return [of(own[0]) for own in sharing()]


def of_settings(run):
    """The digest of the settings that a pattern's runs share."""
    return settings_digest(dataclasses.asdict(run))


def of_code(run):
    """The digest of the code that made a pattern's runs: this checkout's or, of a record's runs, the one it says."""
    return SWEEP.code(run) if RECORD else code_of_run(run)


@functools.cache
def at_hand():
    """The runs whose data can be had: where one of several data sets cannot, the others' experiments are carried out.
    Of a record, the runs that it has.

    Called when the jobs are planned, and fetches what is not here yet, so that what is missing is said before any job.
    """
    refuse(check_arrays)
    if RECORD:
        there = {folder: run for folder, run in RUNS.items() if SWEEP.run(run) == ""}
        return there or refuse(nothing_restored)
    wanted = {run.dataset for run in RUNS.values()}
    missing = sorted(name for name in wanted if not os.path.exists(f"{DATA}/{name}/manifest.json"))
    if len(wanted) == 1 or workflow.executor_plugin is None or workflow.dryrun:
        return RUNS
    command = [sys.executable, "-m", "flare", "fetch", "--data", DATA, "--dataset"]
    fetching = [subprocess.Popen([*command, name], stderr=subprocess.PIPE, text=True) for name in missing]
    reasons = {name: job.communicate()[1] for name, job in zip(missing, fetching) if job.wait()}
    for name, reason in reasons.items():
        out = ", ".join(dict.fromkeys(run.experiment for run in RUNS.values() if run.dataset == name))
        why = "; ".join(line.strip() for line in reason.removeprefix("flare: ").splitlines())
        print(f"flare: left out: {out}; {why}", file=sys.stderr)
    if reasons.keys() == wanted:  # nothing is left to do: fetching fails as a job, and ends the sweep
        return RUNS
    return {folder: run for folder, run in RUNS.items() if run.dataset not in reasons}


def nothing_restored():
    """No value: a configuration that names a record is for what was restored from it."""
    raise ConfigError(f"{SOURCE}: record: {RECORD!r}: nothing of it is in {RESULTS}; python -m flare restore {RECORD}")


def experiments_at_hand():
    """Those runs' experiments."""
    return list(dict.fromkeys(run.experiment for run in at_hand().values()))


def studies_at_hand():
    """The names of those experiments' studies."""
    return [name for name, study in STUDIES.items() if study.run.experiment in experiments_at_hand()]


def figures_at_hand(wildcards):
    """The figures of those runs' experiments, and of all together."""
    return WHOLE_FIGURES + [file for file in FIGURES if file.split("/")[-2] in experiments_at_hand()]


def to_count():
    """What vouches for the data sets that say how many samples a client has, where the configuration does not."""
    names = dict.fromkeys(run.dataset for run in RUNS.values() if not run.partition.get("samples_per_client"))
    return [f"{DATA}/{name}/manifest.json" for name in names]


def manifests(wildcards):
    """What vouches for every data set: one that cannot be had fails the sweep in the end."""
    return [f"{DATA}/{name}/manifest.json" for name in dict.fromkeys(run.dataset for run in RUNS.values())]


def study_of(wildcards):
    """The study that a job is for."""
    return STUDIES[CELL.format(**wildcards)]


def trial_of(wildcards):
    """The run of a trial, but for its values."""
    study = study_of(wildcards)
    return next(run for run in study.runs(int(wildcards.trial)) if run.seed == int(wildcards.seed))


def trial_problem(wildcards):
    """Why a run of a trial is not finished."""
    return SWEEP.trial(study_of(wildcards), trial_of(wildcards))


def tried(study, batches):
    """The records of the trials of some batches, and their proposals."""
    folder = f"{RESULTS}/tuning/{study.name}"
    for batch in batches:
        yield f"{folder}/batch-{batch}/proposals.json"
        for trial in study.batch(batch):
            for run in study.runs(trial):
                yield f"{folder}/{study.place(run)}/run.json"


def runs_within(study):
    """How many runs the job that ends a study carries out itself."""
    return study.batches * study.trials * len(study.seeds) if study.mode == "single" else 0


@known
def best_of(wildcards):
    """The file of the values that a study chose, for runs that have one."""
    return f"{STUDY}/best.yaml".format(**wildcards) if CELL.format(**wildcards) in STUDIES else []


def about(name, caption):
    """How the report shows a table: its caption, and where it stands."""
    return {"caption": f"../report/{caption}.rst", "category": "Tables", "labels": {"table": name}}


def key_of_wandb():
    """No file; where W&B has no API key, one line says so and Snakemake ends with exit code 2."""
    from flare.tracking import sync as wandb_sync

    refuse(wandb_sync.need_key)
    return []
