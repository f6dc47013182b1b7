"""Tasks of a sweep as jobs: grouped by what they ask for, each group an array, handed over through submitit."""

from __future__ import annotations

import shutil
import socket
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import submitit

from benchmark.errors import BenchmarkError
from benchmark.provenance import git_state, now
from benchmark.sweeps.folder import Submission, SweepFolder
from benchmark.sweeps.tasks import Resources, Task
from slurm.cluster_profile import Profile
from slurm.sweep_jobs import RunTasks

TIMEOUTS = 50  # of one job: each time it goes on where it stopped
ARRAY = 1000  # elements; SLURM's default for MaxArraySize is 1001
HOUR, WEEK = 60, 7 * 24 * 60  # minutes

Cluster = Literal["slurm", "local"]


class NotSubmitted(BenchmarkError):
    """The scheduler refused the jobs, or there is none."""


@dataclass(frozen=True)
class Array:
    """Jobs that ask for the same; job i does the tasks of `groups[i]`. `waits` says that a training has to be done first."""

    resources: Resources
    groups: tuple[tuple[str, ...], ...]
    waits: bool = False


def arrays(tasks: Sequence[Task], profile: Profile, flags: Resources) -> list[Array]:
    """The tasks in jobs, trainings first, in the order of the sweep.

    Args:
        tasks: to submit.
        profile: of the cluster.
        flags: what the user asks for now, over sweep and profile.
    """
    trainings = {task.key for task in tasks if task.kind == "training"}
    found: dict[tuple[bool, bool, Resources], list[str]] = {}
    for task in tasks:
        resources = flags.over(task.resources.over(profile.resources))
        found.setdefault((task.kind != "training", task.needs in trainings, resources), []).append(task.key)
    made = []
    for (is_cell, waits, resources), keys in sorted(found.items(), key=lambda item: item[0][:2]):
        groups = _cut(keys, profile.cells_per_job if is_cell else 1)
        made += [Array(resources, tuple(part), waits) for part in _cut(groups, ARRAY)]
    return made


def _cut(items: Sequence[Any], size: int) -> list[tuple[Any, ...]]:
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]


def parameters(resources: Resources, profile: Profile, name: str) -> dict[str, Any]:
    """As `submitit.SlurmExecutor.update_parameters` wants them."""
    minutes = resources.time or HOUR
    asked = {
        "job_name": name,
        "time": minutes,
        "nodes": resources.nodes or 1,
        "ntasks_per_node": resources.tasks or 1,
        "cpus_per_task": resources.cpus or 1,
        "gpus_per_node": resources.gpus or None,
        "mem": resources.mem,
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "array_parallelism": profile.parallel,
        # a warning that comes before the job begins would end it at once
        "signal_delay_s": min(profile.signal_delay, minutes * 30),
        "setup": list(profile.setup) or None,
        "additional_parameters": dict(profile.extra) or None,
    }
    return {key: value for key, value in asked.items() if value is not None}


def submit_tasks(
    folder: SweepFolder, tasks: Sequence[Task], profile: Profile, flags: Resources, retry_failed: bool = False
) -> list[Submission]:
    """Hand tasks over to SLURM. Raises NotSubmitted; what was handed over before stays so, and the folder knows of it."""
    made: list[Submission] = []
    trainings: list[str] = []
    for array in arrays(tasks, profile, flags):
        extra = dict(profile.extra)
        if array.waits and trainings:
            extra["dependency"] = f"afterany:{':'.join(trainings)}"
        asked = profile.model_copy(update={"extra": extra})
        submission = _submission(folder, "slurm", array.groups)
        executor = _executor(folder, submission, array.resources, asked)
        made.append(_handed_over(folder, executor, submission, retry_failed, array.groups))
        if _are_trainings(array, tasks):
            trainings.append(made[-1].jobs[0].partition("_")[0])
    return made


def sbatch_texts(folder: SweepFolder, tasks: Sequence[Task], profile: Profile, flags: Resources) -> list[str]:
    """What sbatch would be given, for people. Raises NotSubmitted where there is no SLURM."""
    texts = []
    for array in arrays(tasks, profile, flags):
        submission = _submission(folder, "slurm", array.groups).model_copy(
            update={"token": "TOKEN", "logs": "logs/TOKEN"}
        )
        executor = _executor(folder, submission, array.resources, profile)
        if len(array.groups) > 1:
            executor.parameters["map_count"] = len(array.groups)
        texts.append(executor._make_submission_file_text(executor._submitit_command_str, "submission"))
    return texts


def start_processes(
    folder: SweepFolder, tasks: Sequence[Task], profile: Profile, flags: Resources, retry_failed: bool = False
) -> list[Submission]:
    """Start processes on this machine, as many as the profile lets run at once, that do the tasks and outlive this one.

    Nobody makes the others wait until a training has begun, so each looks after the trainings that its tasks need; the first
    to come does them.
    """
    if not tasks:
        return []
    count = min(profile.parallel or 1, len(tasks))
    keys = [task.key for task in tasks]
    submission = _submission(folder, "local", tuple(tuple(keys[number::count]) for number in range(count)))
    executor = submitit.LocalExecutor(folder.root / submission.logs)
    most = max(flags.over(task.resources.over(profile.resources)).gpus or 0 for task in tasks)
    executor.update_parameters(timeout_min=WEEK, gpus_per_node=most, setup=list(profile.setup))
    work = [_with_trainings(keys, tasks) for keys in submission.groups]
    return [_handed_over(folder, executor, submission, retry_failed, work)]


def _with_trainings(keys: Sequence[str], tasks: Sequence[Task]) -> tuple[str, ...]:
    """These tasks and before them the trainings among `tasks` that they need, in the order of the sweep."""
    wanted = set(keys)
    for task in reversed(tasks):  # what a task needs comes before it
        if task.key in wanted and task.needs is not None:
            wanted.add(task.needs)
    return tuple(task.key for task in tasks if task.key in wanted)


def _are_trainings(array: Array, tasks: Sequence[Task]) -> bool:
    kinds = {task.key: task.kind for task in tasks}
    return kinds[array.groups[0][0]] == "training"


def _submission(folder: SweepFolder, cluster: Cluster, groups: tuple[tuple[str, ...], ...]) -> Submission:
    token = uuid.uuid4().hex[:8]
    return Submission(
        token=token,
        cluster=cluster,
        groups=groups,
        logs=f"logs/{token}",
        submitted=now(),
        host=socket.gethostname(),
        git_sha=git_state()["git_sha"],
    )


def _executor(
    folder: SweepFolder, submission: Submission, resources: Resources, profile: Profile
) -> submitit.SlurmExecutor:
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise NotSubmitted("there is no SLURM here: no sbatch and srun on the PATH.", "Run it here: --cluster inline")
    executor = submitit.SlurmExecutor(folder.root / submission.logs, max_num_timeout=TIMEOUTS)
    executor.update_parameters(**parameters(resources, profile, f"{folder.name}-{submission.token}"))
    return executor


def _handed_over(
    folder: SweepFolder,
    executor: submitit.SlurmExecutor | submitit.LocalExecutor,
    submission: Submission,
    retry_failed: bool,
    work: Sequence[tuple[str, ...]],
) -> Submission:
    jobs = [RunTasks(folder.store.root, folder.name, keys, retry_failed, submission.git_sha) for keys in work]
    folder.write_submission(submission)
    try:
        with executor.batch():
            handed = [executor.submit(job) for job in jobs]
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        raise NotSubmitted(f"the jobs were not accepted: {error}.") from error
    submission = submission.model_copy(update={"jobs": tuple(job.job_id for job in handed)})
    folder.write_submission(submission)
    return submission
