"""Cells and trainings handed to a real Slurm from Python: arrays, several nodes, preemption."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import submitit
import torch
from slurm_lab import SLOW_PLUGIN, Cluster

from benchmark.checkpoints import read_weights
from benchmark.runner import run_in_folder
from benchmark.spec import Cell, ExecSpec, PolicySpec
from benchmark.store import ResultStore
from benchmark.training.command import train_in_folder
from benchmark.training.recipe import Recipe
from benchmark.training.spec import TrainCell, TrainExec
from slurm.jobs import submit, submit_trainings

pytestmark = pytest.mark.cluster

# submitit takes every warning in a job of at most ten minutes for the end of its time.
PARAMETERS: dict[str, Any] = {"timeout_min": 30, "mem_gb": 2}


@dataclass(frozen=True)
class Jobs:
    """What `slurm.jobs` submits from this process goes to the lab; `results` and `logs` are its folders."""

    cluster: Cluster
    results: Path
    logs: Path

    def ended(self, submitted: list[submitit.Job[Any]], seconds: float = 120.0) -> list[submitit.Job[Any]]:
        """The jobs once Slurm has done with them: without accounting submitit waits for ever for one that left nothing."""
        self.cluster.wait_empty(seconds)
        for job in submitted:
            assert job.done(), job.stderr()
        return submitted

    def shards(self) -> dict[Path, int]:
        """Every finished shard of a test recording, and when it was written."""
        return {path: path.stat().st_mtime_ns for path in self.results.glob("recordings/*/test/shard-*.safetensors")}


@pytest.fixture
def jobs(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    """No job is left afterwards, and no node closed."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    yield Jobs(cluster, tmp_path / "results", tmp_path / "logs")
    cluster.clear()


def cell(**changes: object) -> Cell:
    return Cell(**{"dataset": "synthetic", "timesteps": 2, "limit": 8, "calibration_size": 8, **changes})  # type: ignore[arg-type]


def test_cells_are_one_array_and_give_their_records(jobs: Jobs):
    cells = [cell(), cell(seed=1), cell(policies=(PolicySpec(name="fixed"),))]
    submitted = submit(cells, jobs.results, jobs.logs, parameters=PARAMETERS)
    (array,) = {job.job_id.partition("_")[0] for job in submitted}
    assert [job.job_id for job in submitted] == [f"{array}_{number}" for number in range(3)]
    records = [job.result() for job in jobs.ended(submitted)]
    assert [record.status for record in records] == ["ok"] * 3
    assert [record.spec.seed for record in records] == [0, 1, 0]
    assert [record.policies[0].name for record in records] == ["dynamic-confidence", "dynamic-confidence", "fixed"]
    stored, bad = ResultStore(jobs.results).load_all()
    assert not bad
    assert {record.id: record for record in stored} == {record.id: record for record in records} and len(stored) == 3
    assert {record.provenance.slurm["SLURM_ARRAY_JOB_ID"] for record in records} == {array}


def test_two_nodes_train_one_network(jobs: Jobs, monkeypatch: pytest.MonkeyPatch):
    """One task on each gives the weights that one process gives, in float64 to the float32 that is stored."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # no network knows the names of the lab's nodes
    recipe = Recipe(epochs=2, batch_size=64, precision="fp64", augment=("crop-flip",))
    training = TrainCell(dataset="synthetic", recipe=recipe)
    execution = TrainExec(device="cpu")
    two = {**PARAMETERS, "nodes": 2, "tasks_per_node": 1}
    submitted = submit_trainings([training], jobs.results, jobs.logs, parameters=two, execution=execution)
    (job,) = jobs.ended(submitted)
    first, second = job.results()
    assert first == second and first.status == "ok" and first.provenance.processes == 2
    assert "NumNodes=2" in jobs.cluster.asked("scontrol", "show", "job", job.job_id)
    alone = train_in_folder(training, jobs.results.parent / "alone", execution)
    assert alone.id == first.id and alone.provenance.processes == 1
    assert first.checkpoint is not None and alone.checkpoint is not None
    expected = read_weights(jobs.results.parent / "alone" / "checkpoints" / alone.checkpoint)
    found = read_weights(jobs.results / "checkpoints" / first.checkpoint)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert torch.allclose(value.double(), expected[name].double(), rtol=1e-6, atol=1e-6), name


def test_a_preempted_element_goes_on_in_its_recording(jobs: Jobs, fresh_registry: Any, monkeypatch: pytest.MonkeyPatch):
    """Warned with USR2 between shards it is queued again, ends as if nothing had been; its neighbour is left alone."""
    plugin = jobs.results.parent / "slow.py"
    plugin.write_text(SLOW_PLUGIN.format(pause='float(os.environ.get("PAUSE", "0"))'))
    execution = ExecSpec(plugins=(str(plugin),))
    cells = [cell(method="slow", limit=None, seed=seed) for seed in (0, 1)]
    with monkeypatch.context() as in_jobs:
        in_jobs.setenv("PAUSE", "0.5")
        submitted = submit(cells, jobs.results, jobs.logs, parameters=PARAMETERS, execution=execution)
    end = time.monotonic() + 60
    while len({path.parent for path in jobs.shards()}) < 2:
        assert time.monotonic() < end, [job.stderr() for job in submitted]
        time.sleep(0.05)
    before = jobs.shards()
    assert not list(jobs.results.glob("recordings/*/test/recording.json"))
    jobs.cluster.asked("scancel", "-s", "USR2", submitted[0].job_id)
    preempted, neighbour = [job.result() for job in jobs.ended(submitted)]
    assert preempted.provenance.slurm["SLURM_RESTART_COUNT"] == "1"
    assert "SLURM_RESTART_COUNT" not in neighbour.provenance.slurm
    after = jobs.shards()
    assert len(after) > len(before) and {path: after[path] for path in before} == before
    for done, asked in zip((preempted, neighbour), cells, strict=True):
        alone = run_in_folder(asked, jobs.results.parent / "alone", execution)
        assert done.model_copy(update={"provenance": alone.provenance}) == alone and done.status == "ok"
