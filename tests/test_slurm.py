"""Cells as jobs, through submitit's local executor: real processes, pickles and logs."""

from __future__ import annotations

from pathlib import Path

import pytest
import submitit

from benchmark.spec import Cell, ExecSpec, PolicySpec
from benchmark.store import ResultStore
from slurm.jobs import RunCell, submit


def cell(**changes: object) -> Cell:
    return Cell(**{"dataset": "synthetic", "timesteps": 2, "limit": 8, "calibration_size": 8, **changes})  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_jobs_leave_their_records_and_a_failing_one_harms_no_other(tmp_path: Path):
    cells = [cell(), cell(policies=(PolicySpec(name="fixed"),)), cell(method="no-such-method")]
    jobs = submit(cells, tmp_path / "results", tmp_path / "logs", cluster="local", parameters={"timeout_min": 10})
    records = [job.result() for job in jobs[:2]]
    assert [record.status for record in records] == ["ok", "ok"]
    with pytest.raises(submitit.core.utils.FailedJobError, match="unknown method 'no-such-method'"):
        jobs[2].result()
    stored, bad = ResultStore(tmp_path / "results").load_all()
    assert not bad
    assert {record.id for record in stored} == {record.id for record in records}


def test_a_preempted_job_is_submitted_again_as_it_was(tmp_path: Path):
    job = RunCell(cell(), tmp_path, ExecSpec(batch_size=4))
    again = job.checkpoint()
    assert again.function is job and not again.args and not again.kwargs
