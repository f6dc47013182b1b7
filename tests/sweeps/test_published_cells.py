"""The sweep file of the published page asks for exactly the cells that stand on it."""

from __future__ import annotations

import pytest
from conftest import ROOT

from benchmark.evaluation import normalised
from benchmark.options import build
from benchmark.records import load_record
from benchmark.registry import load
from benchmark.sweeps.sweep_file import load_sweep

RECORDS = sorted((ROOT / "leaderboard/results").glob("*/*/*/*.json"))


@pytest.fixture
def asked(monkeypatch, tmp_path):
    monkeypatch.setenv("DATA", str(tmp_path))
    return [task.cell for task in load_sweep(ROOT / "sweeps/published.toml").tasks]


def key_of_cell(cell):
    options = build(load("methods", cell.method), cell.method_options, f"method {cell.method}").options()
    return (
        cell.dataset,
        cell.model,
        cell.method,
        {name: value for name, value in options.items() if name != "levels"},  # the weights say how many
        (cell.checkpoint or "").rsplit("/", 1)[-1],
        cell.timesteps,
        cell.limit,
        cell.calibration_size,
        tuple(map(normalised, cell.policies)),
    )


def key_of_record(record):
    spec = record.spec
    return (
        spec.dataset,
        spec.model,
        spec.method,
        {name: value for name, value in spec.method_options.items() if name != "levels"},
        spec.weights.source,
        spec.timesteps,
        spec.limit,
        spec.calibration_size,
        tuple(map(normalised, spec.policies)),
    )


def test_every_record_of_the_page_is_asked_for_and_nothing_else(asked):
    wanted = [key_of_cell(cell) for cell in asked]
    there = [key_of_record(load_record(path)) for path in RECORDS]
    assert [key for key in there if key not in wanted] == []
    assert [key for key in wanted if key not in there] == []
    assert len(wanted) == len(there)
