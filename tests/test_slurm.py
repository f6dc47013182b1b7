"""Cells as jobs, through submitit's local executor: real processes, pickles and logs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import submitit
import torch

from benchmark.checkpoints import read_weights
from benchmark.spec import Cell, ExecSpec, PolicySpec
from benchmark.store import ResultStore
from benchmark.training.command import train_in_folder
from benchmark.training.recipe import Recipe
from benchmark.training.spec import TrainCell, TrainExec
from slurm.jobs import RunCell, RunTraining, submit, submit_trainings


def cell(**changes: object) -> Cell:
    return Cell(**{"dataset": "synthetic", "timesteps": 2, "limit": 8, "calibration_size": 8, **changes})  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_jobs_leave_their_records_and_a_failing_one_harms_no_other(
    tmp_path: Path, trained_networks: Callable[..., None]
):
    trained_networks(tmp_path / "results")
    cells = [cell(), cell(policies=(PolicySpec(name="fixed"),)), cell(method="no-such-method")]
    jobs = submit(cells, tmp_path / "results", tmp_path / "logs", cluster="local", parameters={"timeout_min": 10})
    records = [job.result() for job in jobs[:2]]
    assert [record.status for record in records] == ["ok", "ok"]
    with pytest.raises(submitit.core.utils.FailedJobError, match="unknown method 'no-such-method'"):
        jobs[2].result()
    stored, bad = ResultStore(tmp_path / "results").load_all()
    assert not bad
    assert {record.id for record in stored} == {record.id for record in records}


def training(**changes: object) -> TrainCell:
    recipe = Recipe(epochs=2, batch_size=64, precision="fp64", augment=("crop-flip",))
    return TrainCell(**{"dataset": "synthetic", "recipe": recipe, **changes})  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_tasks_of_a_job_train_one_network(tmp_path: Path):
    """Two tasks of one job give the weights that one process gives, in float64 to the float32 that is stored."""
    both = {"timeout_min": 10, "tasks_per_node": 2}
    (job,) = submit_trainings(
        [training()],
        tmp_path / "results",
        tmp_path / "logs",
        cluster="local",
        parameters=both,
        execution=TrainExec(device="cpu"),
    )
    first, second = job.results()
    assert first == second and first.status == "ok" and first.provenance.processes == 2
    alone = train_in_folder(training(), tmp_path / "alone", TrainExec(device="cpu"))
    assert alone.id == first.id and alone.provenance.processes == 1
    assert first.checkpoint is not None
    expected = read_weights(tmp_path / "alone" / "checkpoints" / first.checkpoint)
    for name, value in read_weights(tmp_path / "results" / "checkpoints" / first.checkpoint).items():
        assert torch.allclose(value.double(), expected[name].double(), rtol=1e-6, atol=1e-6), name


def test_a_preempted_job_is_submitted_again_as_it_was(tmp_path: Path):
    job = RunCell(cell(), tmp_path, ExecSpec(batch_size=4))
    again = job.checkpoint()
    assert again.function is job and not again.args and not again.kwargs
    one = RunTraining(training(), tmp_path, TrainExec())
    assert one.checkpoint().function is one
