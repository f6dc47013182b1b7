"""Slices as jobs, through submitit's local executor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.collecting import collect, find
from benchmark.spec import Cell, ExecSpec, Slice
from benchmark.store import ResultStore
from slurm.jobs import RunSlice, submit_slices


def cell(**changes: object) -> Cell:
    return Cell(**{"dataset": "synthetic", "timesteps": 2, "limit": 520, "calibration_size": 8, **changes})  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_jobs_do_their_slices_and_collect_makes_the_record(tmp_path: Path, trained_networks: Callable[..., None]):
    store = ResultStore(tmp_path / "results")
    trained_networks(store.root)
    jobs = submit_slices([cell()], 2, store.root, tmp_path / "logs", cluster="local", parameters={"timeout_min": 10})
    results = [job.result() for job in jobs]
    assert [str(result.slice) for result in results] == ["1/2", "2/2"]
    assert [(result.simulated, result.record) for result in results] == [(1, None), (2, None)]
    (sliced,), damaged = find(store)
    assert not damaged and sliced.plan.images == {"calibration": 8, "test": 520}
    record = collect(sliced, store).record
    assert record is not None and record.status == "ok"
    assert store.get(record.spec) == record
    again = collect(sliced, store)
    assert again.stored and again.record == record


def test_a_preempted_slice_is_submitted_again_as_it_was(tmp_path: Path):
    job = RunSlice(cell(), tmp_path, ExecSpec(slice=Slice(number=1, of=2)))
    again = job.checkpoint()
    assert again.function is job and not again.args and not again.kwargs
