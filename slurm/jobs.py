"""Cells, slices of them, and trainings as submitit jobs that survive preemption: what is done stays on disk, and the requeued
job, submitted again as it was, goes on there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from submitit.helpers import Checkpointable

from benchmark.records import ResultRecord
from benchmark.runner import SliceResult, run_in_folder, run_slice_in_folder
from benchmark.spec import Cell, ExecSpec, Slice
from benchmark.training.command import train_in_folder
from benchmark.training.record import TrainingRecord
from benchmark.training.spec import TrainCell, TrainExec
from slurm.processes import export_environment
from slurm.requeueing import requeued_when_interrupted


@dataclass
class RunCell(Checkpointable):
    """One cell as a callable job; returns its record, which also lies in the results folder."""

    cell: Cell
    results: Path
    execution: ExecSpec

    def __call__(self) -> ResultRecord:
        return run_in_folder(self.cell, self.results, self.execution)


@dataclass
class RunSlice(Checkpointable):
    """A slice of one cell as a callable job; `execution` says which. `benchmark.collecting` makes the record of all slices."""

    cell: Cell
    results: Path
    execution: ExecSpec

    def __call__(self) -> SliceResult:
        return run_slice_in_folder(self.cell, self.results, self.execution)


@dataclass
class RunTraining(Checkpointable):
    """One training as a callable job of one task per device; all tasks train one network together."""

    cell: TrainCell
    results: Path
    execution: TrainExec

    def __call__(self) -> TrainingRecord:
        export_environment()
        with requeued_when_interrupted():
            return train_in_folder(self.cell, self.results, self.execution)


def submit(
    cells: Sequence[Cell],
    results: Path,
    logs: Path,
    *,
    cluster: str = "slurm",
    execution: ExecSpec | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> list[submitit.Job[ResultRecord]]:
    """Submit one job per cell, as one array.

    Args:
        cells: what to run.
        results: results folder, on a file system that the jobs share.
        logs: folder for submitit's pickles and the jobs' logs; one sub-folder per array.
        cluster: `slurm`, or `local` for processes on this machine.
        execution: batch size, device and the like.
        parameters: of `submitit.AutoExecutor.update_parameters`, for example timeout_min, slurm_partition, gpus_per_node.
    """
    jobs = [RunCell(cell, results, execution or ExecSpec()) for cell in cells]
    return _submit(jobs, logs, cluster, parameters)


def submit_slices(
    cells: Sequence[Cell],
    slices: int,
    results: Path,
    logs: Path,
    *,
    cluster: str = "slurm",
    execution: ExecSpec | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> list[submitit.Job[SliceResult]]:
    """Submit so many jobs per cell, each of which records a slice of it, as one array.

    When they are done `benchmark.collecting` makes the records. Arguments as those of `submit`.
    """
    jobs = [
        RunSlice(cell, results, (execution or ExecSpec()).model_copy(update={"slice": Slice(number=number, of=slices)}))
        for cell in cells
        for number in range(1, slices + 1)
    ]
    return _submit(jobs, logs, cluster, parameters)


def submit_trainings(
    cells: Sequence[TrainCell],
    results: Path,
    logs: Path,
    *,
    cluster: str = "slurm",
    execution: TrainExec | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> list[submitit.Job[TrainingRecord]]:
    """Submit one job per training, as one array.

    `parameters` also say how many processes train one network: nodes, tasks_per_node and, on GPUs, as many gpus_per_node. Each
    task returns the same record. Other arguments as those of `submit`.
    """
    jobs = [RunTraining(cell, results, execution or TrainExec()) for cell in cells]
    return _submit(jobs, logs, cluster, parameters)


def _submit(
    jobs: Sequence[RunCell] | Sequence[RunSlice] | Sequence[RunTraining],
    logs: Path,
    cluster: str,
    parameters: Mapping[str, Any] | None,
) -> list[submitit.Job[Any]]:
    executor = submitit.AutoExecutor(folder=logs / "%A" if cluster == "slurm" else logs, cluster=cluster)
    executor.update_parameters(**{"name": "dynconf-bench", **(parameters or {})})
    with executor.batch():
        return [executor.submit(job) for job in jobs]
