"""What the tests share: the command line as users call it, one finished run, a full record, small checkpoints."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
pytest_plugins = ["slurm_lab"]

# The networks here are tiny, and some tests run several processes at once: more threads only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("DYNCONF_BENCH_ZOO", None)
# Folders like tests/methods must not be taken for the packages of the same name.
sys.path.insert(0, str(ROOT))


@dataclass(frozen=True)
class Answer:
    """What a command left behind."""

    code: int | str | None
    out: str
    err: str


@dataclass(frozen=True)
class Finished:
    """The session's one run: `python -m benchmark run --json` in an empty folder."""

    answer: Answer
    folder: Path
    results: Path
    record_file: Path
    checkpoint: Path

    @property
    def id(self) -> str:
        return self.record_file.stem

    @property
    def recording(self) -> Path:
        return next(self.results.glob("recordings/*"))


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Path of something under ../shared; skips the test where it is missing."""

    def find(name: str) -> Path:
        if not (SHARED / name).exists():
            pytest.skip(f"needs {SHARED / name}, which is not on this machine")
        return SHARED / name

    return find


def environment(**changes: str) -> dict[str, str]:
    """The environment of a subprocess: this source tree, one thread, no terminal width of the machine."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "100", **changes}


@pytest.fixture(scope="session")
def cli() -> Callable[..., Answer]:
    """`python -m benchmark ARGUMENTS` in a process of its own."""

    def run(*arguments: object, cwd: Path, env: dict[str, str] | None = None) -> Answer:
        command = [sys.executable, "-m", "benchmark", *map(str, arguments)]
        done = subprocess.run(
            command, cwd=cwd, env=environment(**(env or {})), capture_output=True, text=True, timeout=300, check=False
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def common_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all processes of a session keep what is made once for all of them."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def trained_networks(common_folder: Path) -> Callable[..., None]:
    """Puts what `run` trains for methods on the synthetic dataset into a results folder, where runs find it.

    Each network is trained once for all tests, whichever process they are in.
    """
    kept = common_folder / "trained networks"

    def put(results: Path, *methods: str, seeds: tuple[int, ...] = (0,)) -> None:
        from benchmark.preparation import prepare
        from benchmark.spec import Cell
        from benchmark.store import ResultStore

        store = ResultStore(kept)
        for method, seed in itertools.product(methods or ("qcfs",), seeds):
            made = prepare(Cell(method=method, dataset="synthetic", seed=seed), store)
            for path in (made.source.path, store.training / f"{made.training}.json"):
                copy = results / path.relative_to(kept)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)

    return put


@pytest.fixture
def fresh_registry() -> Iterator[Any]:
    """The registry; what the test registers is forgotten afterwards."""
    from benchmark import registry

    before = {kind: dict(found) for kind, found in registry._plugins.items()}
    modules = set(sys.modules)
    yield registry
    for kind, found in before.items():
        registry._plugins[kind].clear()
        registry._plugins[kind].update(found)
    for name in [name for name in set(sys.modules) - modules if name.startswith("dynconf_bench_plugin_")]:
        del sys.modules[name]


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh_registry: Any
) -> Callable[..., Answer]:
    """`python -m benchmark ARGUMENTS` in this process, so that parts of it can be replaced. Runs in an empty folder."""

    def run(*arguments: object) -> Answer:
        from benchmark.cli import main

        monkeypatch.setattr(sys, "argv", ["benchmark", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        return Answer(stopped.value.code, *capsys.readouterr())

    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    return run


@pytest.fixture(scope="session")
def finished(cli: Callable[..., Answer], common_folder: Path) -> Finished:
    """The run that a new user makes first, done once. Copy it before changing anything."""
    folder, said = common_folder / "first run", common_folder / "first run.json"
    with FileLock(said.with_suffix(".lock")):
        if not said.exists():
            folder.mkdir(exist_ok=True)
            answer = cli("run", "--json", cwd=folder)
            assert answer.code == 0, answer.err
            said.write_text(json.dumps(asdict(answer)))
    answer = Answer(**json.loads(said.read_text()))
    results = folder / "leaderboard" / "results"
    (record_file,) = results.glob("digits/*/*/*.json")
    (checkpoint,) = results.glob("checkpoints/*.safetensors")
    return Finished(answer, folder, results, record_file, checkpoint)


@pytest.fixture
def small_run(finished: Finished, tmp_path: Path) -> list[object]:
    """Arguments of a run that takes a tenth of a second: 40 + 40 digits, 4 timesteps, trained weights."""
    return [
        "run",
        "--results",
        tmp_path / "results",
        "--checkpoint",
        finished.checkpoint,
        "--timesteps",
        4,
        "--limit",
        40,
        "--calibration-size",
        40,
        "--batch-size",
        16,
        "--device",
        "cpu",
    ]


@pytest.fixture(scope="session")
def make_record() -> Callable[..., Any]:
    """A full record with every optional part in it; keyword arguments replace parts of its JSON."""
    from benchmark.records import ResultRecord
    from benchmark.spec import RunSpec

    def make(spec: dict[str, Any] | None = None, **changes: Any) -> ResultRecord:
        fields = record_document()
        fields["spec"] |= spec or {}
        fields["id"] = RunSpec.model_validate(fields["spec"]).id
        return ResultRecord.model_validate({**fields, **changes})

    return make


def record_document() -> dict[str, Any]:
    """The JSON of a full record but for its id. The floats are those that careless writing would change."""
    third, sum_ = 1 / 3, 0.1 + 0.2
    energies = {"fp32-45nm": 1e300 / 7, "fp16-45nm": 5e-324, "int8-45nm": sum_}
    estimate = {"value": third, "ci95": [0.1, 0.7000000000000001], "n": 6}
    return {
        "schema": 1,
        "status": "ok",
        "spec": {
            "method": "qcfs",
            "method_options": {"levels": 4, "threshold": 8.0},
            "dataset": "digits",
            "dataset_fingerprint": "test:0123 calibration:4567",
            "model": "small-cnn",
            "weights": {"source": "zoo:a", "sha256": "a" * 64},
            "timesteps": 3,
            "policies": [{"name": "dynamic-confidence", "options": {"scale": 30.0}}],
            "limit": 6,
        },
        "protocol": "digits - test 6 @0123",
        "flags": ["a remark"],
        "ann": {"accuracy": estimate, "training": "0123456789ab"},
        "curve": {
            "timestep": [1, 2, 3],
            "accuracy": [0.1, third, sum_],
            "spikes_per_image": [1.1, 2.2, 3.3000000000000003],
            "synops_per_image": [1e15 / 3, 2e15 / 3, 1e16 / 3],
        },
        "static": {
            "accuracy": estimate,
            "latency": 3.0,
            "prelude": 0,
            "streaming_prelude": 0,
            "spikes_per_image": 2 / 3,
            "synops_per_image": 1e22,
            "macs_per_image": 123456789.123456789,
            "energy": energies,
        },
        "policies": [
            {
                "name": "dynamic-confidence",
                "params": {"scale": 30.0, "threshold": 0.6000000000000001, "tolerance": 0.0},
                "selection": "given",
                "accuracy": estimate,
                "latency": {
                    "mean": 11 / 6,
                    "median": 1.5,
                    "p95": 2.9999999999999996,
                    "share_at_cap": third,
                    "ci95": [1.1, 2.3],
                },
                "spikes_per_image": 1 / 7,
                "synops_per_image": 2 / 7,
                "macs_per_image": 3 / 7,
                "energy": energies,
                "saving": {"latency": 0.3888888888888889, "spikes": -0.0, "synops": 1e-17},
                "equal_fixed": {"timesteps": 2, "latency": 2.0, "accuracy": third, "saving_latency": 1 / 12},
                "losers": 1,
                "winners": 2,
                "mcnemar_p": 1.0,
                "drop_upper95": 0.123456789012345678,
                "guarantee": {"epsilon": 0.01, "delta": 0.05, "risk": "loss of accuracy"},
                "exit_histogram": [3, 1, 2],
            }
        ],
        "oracle": {
            name: {"accuracy": third, "latency": 7 / 6}
            for name in ("any_time_correct", "stable_correct", "consistency")
        },
        "measured": {
            "static_seconds": 1.1,
            "dynamic_seconds": 0.3,
            "speedup": 3.666666666666667,
            "ideal_speedup": 4.1,
            "device": "cpu",
            "batch_size": 1,
            "images": 6,
            "policy": "dynamic-confidence",
            "differing_images": 0,
            "stream_seconds": 1.25,
            "floor_seconds": 1.75,
            "git_sha": "e" * 40,
        },
        "measured_also": [
            {
                "static_seconds": 2.1,
                "dynamic_seconds": 0.7,
                "speedup": 3.0,
                "ideal_speedup": 4.1,
                "device": "cpu",
                "batch_size": 64,
                "images": 6,
                "policy": "dynamic-confidence",
                "differing_images": 0,
                "stream_seconds": 0.6,
                "floor_seconds": 1.9,
                "git_sha": "f" * 40,
            },
        ],
        "reported": {"accuracy": 0.9, "latency": 8.0, "source": "a paper, table 1"},
        "provenance": {
            "git_sha": "b" * 40,
            "dirty": True,
            "diff_sha256": "c" * 64,
            "submit_sha": None,
            "versions": {"torch": "2"},
            "device": "cpu",
            "torch_flags": {"num_threads": 1, "cuda": "", "tf32": False},
            "seeds": {"run": 0},
            "dataset_fingerprint": "test:0123 calibration:4567",
            "slurm": {},
            "started": "2030-01-01T00:00:00+00:00",
            "phases": {"convert": 0.012345678901234567},
            "batch_size": 64,
            "oom_halvings": 0,
        },
        "artifacts": [{"path": "recordings/x/test/recording.json", "sha256": "d" * 64}],
    }


@pytest.fixture(scope="session")
def make_checkpoint() -> Callable[..., Path]:
    """Write untrained weights of a small CNN for digits; `change` may spoil them, keywords change the card."""

    def make(path: Path, change: Callable[[dict[str, Any]], Any] | None = None, **card: Any) -> Path:
        import torch

        from benchmark.backbones.small_cnn import small_cnn
        from benchmark.checkpoints import Card, write_checkpoint
        from methods.qcfs import QCFS

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            state = QCFS().prepare(small_cnn()).state_dict()
        if change is not None:
            change(state)
        fields = {
            "model": "small-cnn",
            "method": "qcfs",
            "method_options": {"levels": 4, "threshold": 8.0},
            "dataset": "digits",
            "num_classes": 10,
            "in_channels": 1,
            "training_fingerprint": "0123",
            "preprocessing": {"divisor": 16.0, "mean": [0.3], "std": [0.4]},
            **card,
        }
        write_checkpoint(path, state, Card.model_validate(fields))
        return path

    return make
