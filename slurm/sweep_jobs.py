"""What runs in a job of a sweep. Nothing heavy is imported before the job runs, so that submitting is quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from submitit.helpers import Checkpointable

from slurm.processes import export_environment
from slurm.requeueing import requeued_when_interrupted


@dataclass
class RunTasks(Checkpointable):
    """Tasks of a sweep, one after the other; returns the status of each by key, None for one that it left to others.

    Preempted or out of time, the job is queued again as it was: what is done is on disk, and a training writes its state first.
    All tasks (in SLURM's sense) of the
    job train one network together.
    """

    results: Path
    sweep: str
    keys: tuple[str, ...]
    retry_failed: bool = False
    submit_sha: str | None = None

    def __call__(self) -> dict[str, Any]:
        from benchmark.store import ResultStore
        from benchmark.sweeps.folder import SweepFolder
        from benchmark.sweeps.work import Place, work

        environment = submitit.JobEnvironment()
        export_environment()
        place = Place(
            job=environment.job_id,
            log=str(environment.paths.stderr),
            submit_sha=self.submit_sha,
            leads=environment.global_rank == 0,
            alone=environment.num_tasks == 1,
        )
        folder = SweepFolder(ResultStore(self.results), self.sweep)
        with requeued_when_interrupted():
            outcomes = work(folder, self.keys, place, self.retry_failed)
        return {key: outcome.status if outcome else None for key, outcome in outcomes.items()}
