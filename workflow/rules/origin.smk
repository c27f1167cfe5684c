# Whether what lies in results/ is what is planned: by content, whatever Snakemake remembers and whenever it was written.
#
# Snakemake asks its records (`.snakemake`) whether a job's output is whole, and whether the job was another one when it
# was made. For the rules named here it is answered from the files themselves, so that results without records, with
# other times, or moved, copied and cloned ones are taken for what they are.
import hashlib
import json
import math

import snakemake.jobs
import snakemake.persistence

from flare.analysis.origin import tables_problem
from flare.files import write_whole
from flare.runs.provenance import ABSENT

# What of Snakemake's own records would have a job carried out again: file names, parameters and texts of rules.
SILENT = {
    "has_metadata": True,
    "has_outdated_metadata": False,
    "params_changed": False,
    "input_changed": [],
    "code_changed": [],
    "software_stack_changed": [],
}
# Of the other rules' results, which say nothing themselves, it is noted beside them what they are of, when all is done;
# except of these, which are wanted anew or are only handed on.
UNNOTED = {"merge", "sync_wandb", "wandb_report"}
# Parameters that say where things lie, or repeat what an input says; every other one decides the output.
PLACES = {"runs", "code", "studies", "data", "results", "folder", "snakefile", "config", "threads"}
PLACES |= {"tables", "tuning", "registered"}


def problems(job):
    """By output folder or file, why what a job of ours left is not what is planned: "" if it is."""
    name, w = job.rule.name, job.wildcards
    if name == "train" or re.fullmatch(r"train_\d+", name):
        folders = [os.path.dirname(file) for file in job.output.run]
        return {folder: SWEEP.run(RUNS[os.path.relpath(folder, f"{RESULTS}/runs")]) for folder in folders}
    if name == "tune_train":
        return {os.path.dirname(job.output.run): trial_problem(w)}
    if name == "tune_propose":
        return {job.output[0]: SWEEP.proposals(study_of(w), int(w.batch))}
    if name == "tune":
        return {job.output.best: SWEEP.best(study_of(w))}
    if name == "tabulate":
        return {TABLES: tables_problem(Path(TABLES), SWEEP, at_hand().values(), late=job.params.late)}
    if name == "fetch":
        return {}
    if name == "count_labels" and RECORD:  # the record's own, for which no data are needed
        return {job.output[0]: "" if os.path.exists(job.output[0]) else ABSENT}
    return {job.output[0]: "" if noted(job) else "made from something else"}


def is_noted(job):
    """Whether what the output of a job of ours is of is noted beside the results: of all that say nothing themselves."""
    return not re.fullmatch(r"train(_\d+)?|tune(_train|_propose)?|tabulate|fetch", job.rule.name)


def stale(job):
    """Those of a job's outputs that are there and must be made again."""
    found = problems(job)
    if not any(found.values()):
        return []
    return [file for file in job.output if os.path.exists(file)]


def set_stale_aside():
    """Set aside the results that are made again, just before: kept, not deleted. A run that agrees after all, perhaps
    with another study's values, is taken back.
    """
    for job in workflow.dag.needrun_jobs():
        if ours(job) and re.fullmatch(r"train(_\d+)?|tune_train", job.rule.name):
            for folder, problem in problems(job).items():
                if problem:
                    provenance.set_aside(Path(folder))


def content_of(job):
    """SHA-256 of all that a job's output follows from: its inputs' content, code by what it does, parameters."""
    digest = hashlib.sha256(job.rule.name.encode())
    for file in sorted(map(str, job.input)):
        inside = os.path.relpath(file, f"{ROOT}/flare")
        if inside.endswith(".py") and not inside.startswith(".."):
            said = code_digest((inside.removesuffix(".py"),))
        elif file.startswith(f"{DATA}{os.sep}"):
            inside = said = ""  # its manifest vouches for it
            if os.path.basename(file) == "manifest.json":
                said = provenance.dataset_digest(os.path.basename(os.path.dirname(file)), Path(DATA)) or ""
        else:
            inside, said = os.path.basename(file), sum_of(file)
        digest.update(f"{inside}\n{said}\n".encode())
    deciding = {name: value for name, value in job.params.items() if name not in PLACES}
    digest.update(json.dumps(deciding, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def sum_of(file):
    """SHA-256 of a file, read once while it does not change; "" if there is none."""
    try:
        found = os.stat(file)
        return _sum(str(file), found.st_mtime_ns, found.st_size, found.st_ino)
    except OSError:
        return ""


@functools.cache
def _sum(file, *_):
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def note_of(job):
    """Where it is noted what a job's output is of."""
    return Path(RESULTS, "made_from", f"{os.path.relpath(job.output[0], RESULTS)}.json")


def noted(job):
    """Whether a job's output is the one that was noted, and of what there is now."""
    try:
        note = json.loads(note_of(job).read_bytes())
        own = {os.path.relpath(file, RESULTS): sum_of(file) for file in job.output}
        return note == {"of": content_of(job), "files": own}
    except (OSError, ValueError):
        return False


def edited(job):
    """Whether a file of this checkout that a job's output follows from was written since, perhaps to be put back."""
    return any(stamp(file) != STAMPS[file] for file in map(str, job.input) if file in STAMPS)


def note_all(log=None):
    """Note what the outputs that were made are of. After a kill or an edit it is not, and they are made again."""
    for job in workflow.dag.jobs:
        if not ours(job) or not workflow.dag.needrun(job) or not workflow.dag.finished(job):
            continue
        if job.rule.name == "tabulate" and edited(job):
            os.unlink(job.output.made_from)
        elif is_noted(job) and not edited(job):
            own = {os.path.relpath(file, RESULTS): sum_of(file) for file in job.output}
            write_whole(note_of(job), json.dumps({"of": content_of(job), "files": own}).encode())


def ours(job):
    """Whether a job is of a rule that is answered for here."""
    if not job.output or job.rule.name in UNNOTED:
        return False
    return str(job.rule.snakefile).startswith(f"{ROOT}{os.sep}")


def answer_for_records(kind):
    """Have Snakemake's records of our jobs answered from the files, and no file's time heeded."""
    incomplete = kind.incomplete

    async def is_incomplete(self, job):
        if not ours(job):
            return await incomplete(self, job)
        job.dag.forcefiles.update(stale(job))  # as Snakemake does itself with what is not whole
        return []

    kind.incomplete = is_incomplete
    for name, answer in SILENT.items():
        asked = getattr(kind, name)

        def silent(self, job, *given, asked=asked, answer=answer, **more):
            return answer if ours(job) else asked(self, job, *given, **more)

        setattr(kind, name, silent)

    keep_data(kind)
    mintime = snakemake.jobs.Job.output_mintime.fget

    async def output_mintime(self):
        # What it is made from is compared above: no input is newer than what is there.
        return math.inf if ours(self) else await mintime(self)

    snakemake.jobs.Job.output_mintime = property(output_mintime)


def keep_data(kind):
    """Have no copy made of data before they are fetched, nor put back, nor anything deleted, if that fails: every file
    of them appears whole under its name, and others may have made it in the meantime.
    """
    backup, restore = kind.backup_output, kind.restore_output

    def backup_output(self, path):
        return None if str(path).startswith(f"{DATA}{os.sep}") else backup(self, path)

    def restore_output(self, path):
        return path.exists() if str(path).startswith(f"{DATA}{os.sep}") else restore(self, path)

    kind.backup_output, kind.restore_output = backup_output, restore_output


answer_for_records(snakemake.persistence.PersistenceBase)


onsuccess:
    note_all()


onerror:
    note_all()
