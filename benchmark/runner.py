"""One cell of the table, from images to a result record."""

from __future__ import annotations

import dataclasses
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
from benchmark.records import Artifact, Measured, Provenance, ResultRecord, Status
from benchmark.reporting import Console
from benchmark.slices import CALIBRATION, SPLITS, TEST, Contribution, Plan, SliceFolder, SplitName, shards_in, share_of
from benchmark.spec import Cell, ExecSpec, RunSpec, Slice
from benchmark.store import ResultStore, sha256_of
from dynconf.batch_limit import BatchLimit, is_out_of_memory
from dynconf.policies import Policy
from dynconf.recorder import record, record_shards
from dynconf.recording import HEADER, SHARD, Recording, RecordingError
from dynconf.shards import consecutive, finished_shards
from methods.errors import ConversionError
from methods.network import SpikingNetwork

CONVERSION_BATCH = 50
# What `--batch-size auto` starts with. On a CPU nothing but the end of the process would say that it is too large.
AUTOMATIC_BATCH = {"cuda": 512}
USUAL_BATCH = 64


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
    limit: BatchLimit
    code: dict[str, Any]
    started: str = field(default_factory=now)
    flags: dict[str, bool | int | float | str] = field(default_factory=dict)
    phases: Phases = field(default_factory=Phases)

    @property
    def batch_size(self) -> int:
        """The size in force."""
        assert self.limit.size is not None
        return self.limit.size

    def loader(self, split: str) -> Loader:
        """All images of a split, in batches of the size in force."""
        prepared = self.prepared
        images = prepared.calibration if split == CALIBRATION else prepared.test
        dtype = dtype_of(prepared.spec.precision)
        return Loader(images, prepared.preprocessing, self.batch_size, self.device, dtype, self.execution.workers)


@dataclass(frozen=True)
class SliceResult:
    """What a slice left.

    `shards` are those of either split that it answers for, which are all there now, and `simulated` how many of them it did
    itself. `record` is the record of the whole run if that was in the store already, or says why this slice failed; else None.
    """

    spec: RunSpec
    slice: Slice
    shards: dict[str, range]
    simulated: int = 0
    record: ResultRecord | None = None


def run(cell: Cell, store: ResultStore, execution: ExecSpec, reporter: Reporter) -> tuple[ResultRecord, bool]:
    """Run a cell, or answer from the store.

    Returns the record and whether it was in the store already. A failure inside the run gives a record with its
    traceback; it never replaces a good one and never counts as done.

    Raises:
        BenchmarkError: the request is wrong; nothing was recorded.
    """
    if execution.slice is not None:
        raise UsageError("a slice makes no record.", "Ask run_slice for it.")
    work, stored = _begin(cell, store, execution, reporter)
    if stored is not None and not execution.rerun:
        if not _unmeasured(work, stored):
            return stored, True
        timed = _with_clock(work, stored, reporter)
        store.save(timed)
        return timed, False
    if execution.rerun:
        work.folder = work.folder.with_suffix(".rerun")
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


def run_slice(cell: Cell, store: ResultStore, execution: ExecSpec, reporter: Reporter) -> SliceResult:
    """Simulate a slice of a cell's recordings, those of its shards that are missing; `benchmark.collecting` makes the record.

    A failure leaves a record that says so, as with `run`, where there is no good one; an interruption leaves none.

    Raises:
        BenchmarkError: the request is wrong; nothing was recorded.
    """
    if execution.slice is None:
        raise UsageError("no slice is named.")
    for wrong, why in (
        (execution.rerun, "slices share one folder: remove that of the recording to begin anew"),
        (execution.measure, "a slice has no stopping rule to measure"),
    ):
        if wrong:
            raise UsageError(f"--slice does not go with --{'rerun' if execution.rerun else 'measure'}; {why}.")
    work, stored = _begin(cell, store, execution, reporter)
    images: dict[SplitName, int] = {CALIBRATION: len(work.prepared.calibration), TEST: len(work.prepared.test)}
    result = SliceResult(work.prepared.spec, execution.slice, share_of(execution.slice, images, SHARD), record=stored)
    if stored is not None:
        return result
    try:
        simulated = _run_slice(work, images, result.shards, reporter)
    except (UsageError, RecordingError):
        raise
    except Exception as error:
        failure = _failure(work, error)
        if _stored(store, work.prepared.spec, execution) is None:
            store.save(failure)
        return dataclasses.replace(result, record=failure)
    return dataclasses.replace(result, simulated=simulated)


def _begin(
    cell: Cell, store: ResultStore, execution: ExecSpec, reporter: Reporter
) -> tuple[_Work, ResultRecord | None]:
    """What is to be done, and the good record of it, if there is one."""
    for plugin in execution.plugins:
        registry.load_plugin(plugin)
    device = _device(execution)
    prepared = prepare(cell, store, reporter.say)
    size = execution.batch_size
    limit = BatchLimit(AUTOMATIC_BATCH.get(device.type, USUAL_BATCH) if size == "auto" else size)
    work = _Work(prepared, execution, device, store.recording_folder(prepared.spec), limit, git_state())
    return work, _stored(store, prepared.spec, execution)


def _device(execution: ExecSpec) -> torch.device:
    device = choose_device(execution.device)
    if device.type != "cuda" or execution.gpu is None:
        return device
    # A launcher may also show each process its own GPU alone: there is one then, whatever its number.
    own = torch.device("cuda", execution.gpu % torch.cuda.device_count())
    torch.cuda.set_device(own)
    return own


def _stored(store: ResultStore, spec: RunSpec, execution: ExecSpec) -> ResultRecord | None:
    """The good record of this spec, if there is one. A damaged one is an error, unless it is to be replaced anyway."""
    try:
        record = store.get(spec)
    except RecordError as error:
        if execution.rerun:
            return None
        hint = "Remove it." if execution.slice is not None else "Replace it with: --rerun"
        raise RecordError(str(error), hint) from error
    return record if record is not None and record.status == "ok" else None


def run_in_folder(cell: Cell, results: Path, execution: ExecSpec) -> ResultRecord:
    """As `run`, for a job: results folder by path, progress as lines on stderr."""
    return run(cell, ResultStore(results), execution, Console())[0]


def run_slice_in_folder(cell: Cell, results: Path, execution: ExecSpec) -> SliceResult:
    """As `run_slice`, for a job."""
    return run_slice(cell, ResultStore(results), execution, Console())


def _run(work: _Work, store: ResultStore, reporter: Reporter) -> ResultRecord:
    prepared, spec = work.prepared, work.prepared.spec
    with numerics(spec.precision, work.device):
        quantised, network = _convert(work, reporter)
        with work.phases("ann"):
            right = sum(count for _, count in _right_answers(work, quantised, work.loader(TEST)))
        recordings = {split: _record(work, reporter, network, split) for split in SPLITS}
        artifacts = _keep_recordings(work, store)
        with work.phases("policies"):
            judged = [
                evaluation.evaluate(policy, recordings[CALIBRATION], recordings[TEST], spec.seed)
                for policy in spec.policies
            ]
        measured = _measure(work, network, quantised, judged[0][1], recordings[TEST], _sizes(work))
    return evaluation.finished_record(
        spec,
        recordings[TEST],
        [result for result, _ in judged],
        ann=evaluation.analog(right, len(prepared.test), prepared.training),
        streaming_prelude=network.streaming_prelude_steps,
        protocol=prepared.protocol,
        flags=prepared.flags,
        provenance=_provenance(work),
        artifacts=artifacts,
        measured=measured,
    )


def _sizes(work: _Work) -> tuple[int, ...]:
    """The batch sizes to be timed, if any."""
    return (work.execution.measure_batch_sizes or (work.batch_size,)) if work.execution.measure else ()


def _unmeasured(work: _Work, stored: ResultRecord) -> tuple[int, ...]:
    """Those of them that a record lacks on this device."""
    there = {(each.batch_size, each.device) for each in stored.clock}
    return tuple(size for size in _sizes(work) if (size, device_name(work.device)) not in there)


def _with_clock(work: _Work, stored: ResultRecord, reporter: Reporter) -> ResultRecord:
    """A record with the seconds that it lacks. Nothing else in it is made anew, and a failure leaves it as it was."""
    spec = work.prepared.spec
    with numerics(spec.precision, work.device):
        quantised, network = _convert(work, reporter)
        recordings = {split: _record(work, reporter, network, split) for split in SPLITS}
        policy = evaluation.fit(spec.policies[0], recordings[CALIBRATION])
        measured = _measure(work, network, quantised, policy, recordings[TEST], _unmeasured(work, stored))
    first, *others = (*stored.clock, *measured)
    return stored.model_copy(update={"measured": first, "measured_also": tuple(others)})


def _measure(
    work: _Work,
    network: SpikingNetwork,
    quantised: torch.nn.Module,
    policy: Policy,
    test: Recording,
    sizes: tuple[int, ...],
) -> tuple[Measured, ...]:
    """The seconds of the first stopping rule, for each batch size."""
    if not sizes:
        return ()
    loader = work.loader(TEST)
    wanted = work.execution.measure_images
    images = loader.images.first(None if wanted is None else min(wanted, len(loader.images)))
    sha = work.code["git_sha"]
    with work.phases("measure"):
        return tuple(
            measure(network, policy, dataclasses.replace(loader, images=images, batch_size=size), test, quantised, sha)
            for size in sizes
        )


def _run_slice(work: _Work, images: dict[SplitName, int], share: dict[str, range], reporter: Reporter) -> int:
    """Leave the missing shards and counts of a slice, and what `collect` needs; returns how many shards were simulated."""
    spec = work.prepared.spec
    left = SliceFolder(work.folder)
    wanted = _missing_shards(work, share)
    uncounted = sorted(set(share[TEST]) - left.counted())
    if left.plan_path(spec.id).exists() and not uncounted and not any(wanted.values()):
        return 0
    path = left.new_contribution_path()

    def contribute() -> None:
        assert work.execution.slice is not None
        contribution = Contribution(recording=left.id, slice=work.execution.slice, provenance=_provenance(work))
        left.write_contribution(path, contribution)

    def before_shard(number: int) -> None:
        # Whoever is cut off before the end has said who it was.
        if not path.exists():
            contribute()

    with numerics(spec.precision, work.device):
        quantised, network = _convert(work, reporter)
        left.write_plan(
            Plan(
                spec=spec,
                protocol=work.prepared.protocol,
                flags=work.prepared.flags,
                training=work.prepared.training,
                streaming_prelude=network.streaming_prelude_steps,
                images=images,
                shard_size=SHARD,
            )
        )
        with work.phases("ann"):
            for block in consecutive(uncounted):
                for number, right in _right_answers(work, quantised, work.loader(TEST), block):
                    before_shard(number)
                    left.write_count(number, min(SHARD, images[TEST] - number * SHARD), right)
        for split in SPLITS:
            if wanted[split]:
                _record_share(work, reporter, network, split, share[split], before_shard)
    if path.exists():
        contribute()
    return sum(map(len, wanted.values()))


def _missing_shards(work: _Work, share: dict[str, range]) -> dict[str, list[int]]:
    spec = work.prepared.spec
    missing = {}
    for split, numbers in share.items():
        there = finished_shards(work.folder / split, identity=spec.recording_id, split=split, timesteps=spec.timesteps)
        missing[split] = [number for number in numbers if number not in there]
    return missing


def _convert(work: _Work, reporter: Reporter) -> tuple[torch.nn.Module, SpikingNetwork]:
    """The analog network and the spiking one."""
    prepared = work.prepared
    work.flags = torch_flags()
    with work.phases("convert"):
        quantised = build_network(prepared).to(work.device, dtype_of(prepared.spec.precision))
        network = prepared.method.convert(quantised, _conversion_images(work))
    reporter.say(str(network.report))
    return quantised, network


def _conversion_images(work: _Work) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Calibration images for the conversion, in batches of a fixed size: that of the run must not change the result."""
    prepared = work.prepared
    images = prepared.calibration.first(min(max(1, prepared.method.calibration_images), len(prepared.calibration)))
    dtype = dtype_of(prepared.spec.precision)
    return iter(Loader(images, prepared.preprocessing, CONVERSION_BATCH, work.device, dtype)(0))


@torch.no_grad()
def _right_answers(
    work: _Work, model: torch.nn.Module, loader: Loader, shards: range | None = None
) -> Iterator[tuple[int, int]]:
    """Of these consecutive shards (None: of all) the number, and how many images the analog network gets right."""
    first = 0 if shards is None else shards.start * SHARD
    if shards is not None:
        loader = _up_to(loader, shards)
    right = 0
    for images, labels in loader(first):
        right += sum(_right(work.limit, model, images, labels))
        first += len(labels)
        if first % SHARD == 0 or first == len(loader.images):
            yield (first - 1) // SHARD, right
            right = 0


def _right(limit: BatchLimit, model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Iterator[int]:
    return limit.parts(len(labels), lambda part: int((model(images[part]).argmax(1).cpu() == labels[part]).sum()))


def _up_to(loader: Loader, shards: range) -> Loader:
    """The same loader, which ends with the last of these shards: workers need not look further."""
    return dataclasses.replace(loader, images=loader.images.first(min(shards.stop * SHARD, len(loader.images))))


def _record(work: _Work, reporter: Reporter, network: SpikingNetwork, split: str) -> Recording:
    spec, loader = work.prepared.spec, work.loader(split)
    with work.phases(f"record_{split}"), reporter.bar(f"recording {split}", len(loader.images)) as progress:
        return record(
            network,
            loader,
            timesteps=spec.timesteps,
            split=split,
            folder=work.folder / split,
            identity=spec.recording_id,
            progress=progress,
            limit=work.limit,
        )


def _record_share(
    work: _Work,
    reporter: Reporter,
    network: SpikingNetwork,
    split: str,
    shards: range,
    before_shard: Callable[[int], None],
) -> None:
    spec, whole = work.prepared.spec, work.loader(split)
    loader = _up_to(whole, shards)
    count = len(loader.images) - shards.start * SHARD
    title = f"recording {split}, {len(shards)} of {shards_in(len(whole.images), SHARD)} shards"
    with work.phases(f"record_{split}"), reporter.bar(title, count) as progress:
        record_shards(
            network,
            loader,
            shards,
            timesteps=spec.timesteps,
            split=split,
            folder=work.folder / split,
            identity=spec.recording_id,
            progress=progress,
            limit=work.limit,
            before_shard=before_shard,
        )


def _keep_recordings(work: _Work, store: ResultStore) -> tuple[Artifact, ...]:
    """Put the recordings of a rerun, now that they are complete, in the place of the old ones; name what is there."""
    folder = store.recording_folder(work.prepared.spec)
    if work.folder != folder:
        shutil.rmtree(folder, ignore_errors=True)
        work.folder.rename(folder)
    return artifacts_in(folder, store)


def artifacts_in(folder: Path, store: ResultStore) -> tuple[Artifact, ...]:
    """The headers of the recordings in a folder, which hold the sha256 of everything else."""
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
        batch_size=work.batch_size,
        oom_halvings=work.limit.halvings,
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
