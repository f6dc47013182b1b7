"""One cell of the table, from images to a result record."""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from benchmark import evaluation, registry
from benchmark.errors import BenchmarkError, Incompatible, RecordError, UsageError
from benchmark.loading import Loader
from benchmark.measuring import measure
from benchmark.numerics import choose_device, dtype_of, numerics, torch_flags
from benchmark.preparation import Prepared, build_network, prepare
from benchmark.provenance import Phases, device_name, git_state, now, slurm_environment, versions
from benchmark.records import Ann, Artifact, Estimate, Provenance, ResultRecord, Status
from benchmark.reporting import Console
from benchmark.spec import Cell, ExecSpec, RunSpec
from benchmark.store import ResultStore, sha256_of
from dynconf.intervals import wilson
from dynconf.recorder import RecordingReport, is_out_of_memory, record
from dynconf.recording import HEADER, Recording, RecordingError
from methods.errors import ConversionError
from methods.network import SpikingNetwork

CONVERSION_BATCH = 50


class Reporter(Protocol):
    """How a run talks to people."""

    def say(self, text: str) -> None:
        """One line."""

    def bar(self, title: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """A progress bar; call what it gives with the number of images done."""


@dataclass
class _Work:
    """What a run has found out so far."""

    prepared: Prepared
    execution: ExecSpec
    device: torch.device
    folder: Path
    started: str = field(default_factory=now)
    code: dict[str, Any] = field(default_factory=git_state)
    flags: dict[str, bool | int | float | str] = field(default_factory=dict)
    phases: Phases = field(default_factory=Phases)
    report: RecordingReport = field(default_factory=RecordingReport)


def run(cell: Cell, store: ResultStore, execution: ExecSpec, reporter: Reporter) -> tuple[ResultRecord, bool]:
    """Run a cell, or answer from the store.

    Returns the record and whether it was in the store already. A failure inside the run gives a record with its
    traceback; it never replaces a good one and never counts as done.

    Raises:
        BenchmarkError: the request is wrong; nothing was recorded.
    """
    for plugin in execution.plugins:
        registry.load_plugin(plugin)
    device = choose_device(execution.device)
    prepared = prepare(cell, store, reporter.say)
    stored = _stored(store, prepared.spec, execution)
    if stored is not None and not execution.rerun and not (execution.measure and stored.measured is None):
        return stored, True
    folder = store.recording_folder(prepared.spec)
    work = _Work(prepared, execution, device, folder.with_suffix(".rerun") if execution.rerun else folder)
    if execution.rerun:
        shutil.rmtree(work.folder, ignore_errors=True)
    try:
        result = _run(work, store, reporter)
    except (UsageError, RecordingError):
        raise
    except BaseException as error:
        result = _failure(work, error)
        if stored is None:
            store.save(result)
        if not isinstance(error, Exception):
            raise
        return result, False
    store.save(result)
    return result, False


def _stored(store: ResultStore, spec: RunSpec, execution: ExecSpec) -> ResultRecord | None:
    """The good record of this spec, if there is one. A damaged one is an error, unless it is to be replaced anyway."""
    try:
        record = store.get(spec)
    except RecordError as error:
        if execution.rerun:
            return None
        raise RecordError(str(error), "Replace it with: --rerun") from error
    return record if record is not None and record.status == "ok" else None


def run_in_folder(cell: Cell, results: Path, execution: ExecSpec) -> ResultRecord:
    """As `run`, for a job: results folder by path, progress as lines on stderr."""
    return run(cell, ResultStore(results), execution, Console())[0]


def _run(work: _Work, store: ResultStore, reporter: Reporter) -> ResultRecord:
    prepared, spec, device = work.prepared, work.prepared.spec, work.device
    loaders = {
        name: Loader(
            images,
            prepared.preprocessing,
            work.execution.batch_size,
            device,
            dtype_of(spec.precision),
            work.execution.workers,
        )
        for name, images in (("calibration", prepared.calibration), ("test", prepared.test))
    }
    with numerics(spec.precision, device):
        work.flags = torch_flags()
        with work.phases("convert"):
            quantised = build_network(prepared).to(device, dtype_of(spec.precision))
            network = prepared.method.convert(quantised, _conversion_images(work))
        reporter.say(str(network.report))
        with work.phases("ann"):
            ann = _ann_accuracy(quantised, loaders["test"])
        recordings = {name: _record(work, reporter, network, loader, name) for name, loader in loaders.items()}
        artifacts = _keep_recordings(work, store)
        with work.phases("policies"):
            judged = [
                evaluation.evaluate(policy, recordings["calibration"], recordings["test"], spec.seed)
                for policy in spec.policies
            ]
        measured = None
        if work.execution.measure:
            with work.phases("measure"):
                measured = measure(network, judged[0][1], loaders["test"], recordings["test"])
    test = recordings["test"]
    return ResultRecord(
        id=spec.id,
        status="ok",
        spec=spec,
        protocol=prepared.protocol,
        flags=prepared.flags,
        ann=ann,
        curve=evaluation.curve(test),
        static=evaluation.static(test, network.streaming_prelude_steps),
        policies=tuple(result for result, _ in judged),
        oracle=evaluation.oracle(test),
        measured=measured,
        provenance=_provenance(work),
        artifacts=artifacts,
    )


def _conversion_images(work: _Work) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Calibration images for the conversion, in batches of a fixed size: that of the run must not change the result."""
    prepared = work.prepared
    images = prepared.calibration.first(min(max(1, prepared.method.calibration_images), len(prepared.calibration)))
    dtype = dtype_of(prepared.spec.precision)
    return iter(Loader(images, prepared.preprocessing, CONVERSION_BATCH, work.device, dtype)(0))


@torch.no_grad()
def _ann_accuracy(model: torch.nn.Module, loader: Loader) -> Ann:
    right = sum(int((model(images).argmax(1).cpu() == labels).sum()) for images, labels in loader(0))
    count = len(loader.images)
    return Ann(accuracy=Estimate(value=right / count, ci95=wilson(right, count), n=count))


def _record(work: _Work, reporter: Reporter, network: SpikingNetwork, loader: Loader, split: str) -> Recording:
    spec = work.prepared.spec
    with work.phases(f"record_{split}"), reporter.bar(f"recording {split}", len(loader.images)) as progress:
        return record(
            network,
            loader,
            timesteps=spec.timesteps,
            split=split,
            folder=work.folder / split,
            identity=spec.recording_id,
            progress=progress,
            report=work.report,
        )


def _keep_recordings(work: _Work, store: ResultStore) -> tuple[Artifact, ...]:
    """Put the recordings of a rerun, now that they are complete, in the place of the old ones; name what is there."""
    folder = store.recording_folder(work.prepared.spec)
    if work.folder != folder:
        shutil.rmtree(folder, ignore_errors=True)
        work.folder.rename(folder)
    headers = sorted(folder.glob(f"*/{HEADER}"))
    return tuple(Artifact(path=str(path.relative_to(store.root)), sha256=sha256_of(path)) for path in headers)


def _provenance(work: _Work) -> Provenance:
    spec: RunSpec = work.prepared.spec
    return Provenance(
        **work.code,
        submit_sha=work.execution.submit_sha,
        versions=versions(),
        device=device_name(work.device),
        torch_flags=work.flags,
        seeds={"run": spec.seed},
        dataset_fingerprint=spec.dataset_fingerprint,
        slurm=slurm_environment(),
        started=work.started,
        phases=work.phases.seconds,
        batch_size=work.execution.batch_size,
        oom_halvings=work.report.oom_halvings,
    )


def _failure(work: _Work, error: BaseException) -> ResultRecord:
    status: Status = "failed"
    if isinstance(error, KeyboardInterrupt):
        status = "interrupted"
    elif isinstance(error, Incompatible):
        status = "skipped"
    elif is_out_of_memory(error):
        status = "oom"
    known = isinstance(error, (BenchmarkError, ConversionError))
    trace = "".join(traceback.format_exception(error)).replace(f"{Path(__file__).resolve().parent.parent}/", "")
    return ResultRecord(
        id=work.prepared.spec.id,
        status=status,
        reason=str(error) or type(error).__name__,
        traceback=None if known else trace,
        spec=work.prepared.spec,
        protocol=work.prepared.protocol,
        flags=work.prepared.flags,
        provenance=_provenance(work),
    )
