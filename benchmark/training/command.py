"""One training, from a request to a checkpoint with a card and a training record."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from benchmark import registry
from benchmark.card import Card
from benchmark.checkpoints import as_stored, write_checkpoint
from benchmark.claims import Claim, waiting_for
from benchmark.errors import BenchmarkError, RecordError
from benchmark.numerics import dtype_of, numerics, torch_flags
from benchmark.provenance import device_name, git_state, now, slurm_environment, versions
from benchmark.records import Estimate
from benchmark.reporting import Console
from benchmark.store import ResultStore, file_name, sha256_of, write_atomic
from benchmark.tensor_files import SUFFIX
from benchmark.training.batches import training_batches
from benchmark.training.distributed import Team, team
from benchmark.training.judging import Judged, judge
from benchmark.training.loop import Interrupted, Training
from benchmark.training.metrics import Metrics
from benchmark.training.objective import Objective
from benchmark.training.prepared import PreparedTraining, new_network, prepare_training, teacher_of
from benchmark.training.record import Epoch, TrainingProvenance, TrainingRecord, TrainingStatus, load_training_record
from benchmark.training.spec import TrainCell, TrainExec, TrainSpec
from benchmark.training.state import Progress, StateFiles
from benchmark.training.stopping import stop_on_signals
from dynconf.intervals import wilson


class Reporter(Protocol):
    """How a training talks to people."""

    def say(self, text: str) -> None:
        """One line."""

    def bar(self, title: str, total: int, done: int = 0) -> AbstractContextManager[Callable[[int], None]]:
        """A progress bar; call what it gives with the number of images done."""


def train(
    cell: TrainCell, store: ResultStore, execution: TrainExec, reporter: Reporter
) -> tuple[TrainingRecord, Path, bool]:
    """Train, go on with what was begun, or answer from the store.

    Every process of a distributed training calls this; only the leading one writes and talks.

    Returns:
        The record, the checkpoint, and whether both were there already.

    Raises:
        BenchmarkError: the request is wrong, or the training diverged; a record says so then.
        Interrupted: it was asked to stop. The same request goes on from there.
    """
    for plugin in execution.plugins:
        registry.load_plugin(plugin)
    prepared = prepare_training(cell)
    spec = prepared.spec
    folder = store.training / spec.id
    record_path = store.training / f"{spec.id}.json"
    checkpoint = execution.output or store.checkpoints / f"{stem(spec)}{SUFFIX}"
    precision = spec.recipe.precision
    with (
        team(execution.device, execution.distributed) as processes,
        numerics("fp32" if precision == "bf16" else precision, processes.device),
        ExitStack() as stack,
    ):

        def is_stored() -> bool:
            return not execution.rerun and processes.any(_finished(record_path, checkpoint) is not None)

        if is_stored():
            return load_training_record(record_path), checkpoint, True
        if processes.leads:
            stack.enter_context(waiting_for(Claim(folder / "claim")))
        processes.wait()
        # Somebody else may have finished it while this one waited.
        if is_stored():
            return load_training_record(record_path), checkpoint, True
        files = StateFiles(folder, spec.id)
        if execution.rerun and processes.leads:
            files.clear()
        processes.wait()
        run = _Run(prepared, execution, processes, files, reporter)
        try:
            run.train()
        except (BenchmarkError, Interrupted) as error:
            if processes.leads:
                status: TrainingStatus = "interrupted" if isinstance(error, Interrupted) else "failed"
                _write_record(record_path, run.record(status, reason=str(error) or None))
            raise
        if processes.leads:
            run.write_checkpoint(checkpoint)
            _write_record(record_path, run.record("ok", checkpoint=checkpoint))
            files.clear()
        processes.wait()
    return load_training_record(record_path), checkpoint, False


def train_in_folder(cell: TrainCell, results: Path, execution: TrainExec) -> TrainingRecord:
    """As `train`, for a job: results folder by path, progress as lines on stderr."""
    return train(cell, ResultStore(results), execution, Console())[0]


def stem(spec: TrainSpec) -> str:
    """Name of the checkpoint of a training, without suffix."""
    return f"{file_name(spec.dataset)}-{file_name(spec.model)}-{spec.method}-{spec.id}"


def _finished(record_path: Path, checkpoint: Path) -> TrainingRecord | None:
    """The good record, if the checkpoint that it names is there and is the one."""
    if not record_path.exists() or not checkpoint.exists():
        return None
    try:
        record = load_training_record(record_path)
    except RecordError as error:
        raise RecordError(str(error), "Replace it with: --rerun") from error
    return record if record.status == "ok" and record.checkpoint_sha256 == sha256_of(checkpoint) else None


def _write_record(path: Path, record: TrainingRecord) -> None:
    write_atomic(path, record.to_json().encode())


@dataclass(frozen=True)
class _Listener:
    """Tells people and writes the curves."""

    reporter: Reporter
    metrics: Metrics
    title: str
    epochs: int

    def begins(self, progress: Progress) -> None:
        self.reporter.say(self.title)
        if progress.resumed_at:
            self.reporter.say(f"going on after {progress.epoch} epochs and {progress.step} steps")

    def bar(self, title: str, total: int, done: int) -> AbstractContextManager[Callable[[int], None]]:
        return self.reporter.bar(title, total, done)

    def epoch(self, result: Epoch, progress: Progress) -> None:
        self.metrics.write(progress.history)
        mean = sum(epoch.seconds for epoch in progress.history) / len(progress.history)
        best = max(epoch.calibration_accuracy for epoch in progress.history)
        self.reporter.say(
            f"epoch {result.epoch}/{self.epochs}: loss {result.loss:.4f}, calibration {result.calibration_accuracy:.2%} "
            f"(best {best:.2%}, epoch {progress.best_epoch}), {result.images_per_second:.0f} images/s, "
            f"about {mean * (self.epochs - result.epoch) / 60:.0f} min left"
        )
        if progress.at_floor:
            self.reporter.say(f"thresholds held above zero: {', '.join(progress.at_floor)}")


class _Run:
    def __init__(
        self, prepared: PreparedTraining, execution: TrainExec, processes: Team, files: StateFiles, reporter: Reporter
    ):
        self.prepared, self.execution, self.team, self.files = prepared, execution, processes, files
        self.reporter = reporter
        self.code: dict[str, Any] = git_state()
        self.flags = torch_flags()
        self.dtype = dtype_of(prepared.spec.recipe.precision)
        self.network = new_network(prepared).to(processes.device, self.dtype)
        if execution.channels_last:
            self.network = self.network.to(memory_format=torch.channels_last)
        self.parameters = sum(parameter.numel() for parameter in self.network.parameters())
        self.training = self._training()
        self.accuracy: Estimate | None = None

    def _training(self) -> Training:
        prepared, recipe, execution = self.prepared, self.prepared.spec.recipe, self.execution
        teacher = teacher_of(prepared)
        if teacher is not None:
            teacher.network.to(self.team.device, self.dtype)
        return Training(
            model=self.network,
            batches=training_batches(
                prepared.train,
                prepared.preprocessing,
                recipe,
                self.team.share,
                self.team.device,
                self.dtype,
                execution.workers,
            ),
            objective=Objective(
                prepared.method.loss if prepared.method is not None else F.cross_entropy,
                recipe,
                prepared.train.num_classes,
                teacher,
            ),
            judged=self._judge,
            team=self.team,
            files=self.files,
            compile=execution.compile,
            channels_last=execution.channels_last,
            sync_batch_norm=execution.sync_batch_norm,
            checkpoint_seconds=execution.checkpoint_seconds,
        )

    def _judge(self, model: nn.Module) -> Judged:
        prepared = self.prepared
        return judge(model, prepared.calibration, prepared.preprocessing, self.team, self.dtype, self.execution.workers)

    def train(self) -> None:
        """To the end; the network has the best weights then, rounded as they will be stored."""
        spec, world = self.prepared.spec, self.team.share.world
        several = f", {world} processes" if world > 1 else ""
        title = (
            f"training {spec.id}: {spec.model} for {spec.method} on {spec.dataset}, {len(self.prepared.train):,} images, "
            f"{spec.recipe.epochs} epochs, {device_name(self.team.device)}{several}"
        )
        listener = _Listener(self.reporter, Metrics(self.files.folder), title, spec.recipe.epochs)
        with stop_on_signals() as stop:
            self.training.run(listener, stop)
        self.network.load_state_dict(as_stored(self.network.state_dict(), self.execution.half))
        judged = self._judge(self.network)
        self.accuracy = Estimate(value=judged.accuracy, ci95=wilson(judged.right, judged.images), n=judged.images)

    def write_checkpoint(self, path: Path) -> None:
        """The network with its card."""
        prepared, spec = self.prepared, self.prepared.spec
        assert self.accuracy is not None
        card = Card(
            model=spec.model,
            method=spec.method,
            method_options=spec.method_options,
            dataset=spec.dataset,
            num_classes=prepared.train.num_classes,
            in_channels=prepared.train.pixels.shape[1],
            preprocessing=spec.preprocessing,
            training_fingerprint=spec.training_fingerprint,
            recipe=spec.recipe.model_dump(mode="json", exclude_defaults=True),
            trained_from=spec.init.source if spec.init else None,
            calibration_accuracy=self.accuracy.value,
            training_record=spec.id,
            calibration_fingerprint=spec.calibration_fingerprint,
            calibration_images=len(prepared.calibration),
            flags=prepared.flags,
        )
        write_checkpoint(path, self.network.state_dict(), card, half=self.execution.half)

    def record(
        self, status: TrainingStatus, reason: str | None = None, checkpoint: Path | None = None
    ) -> TrainingRecord:
        """What came of it so far."""
        prepared, progress = self.prepared, self.training.progress
        execution = self.execution.model_dump(mode="json", exclude={"output", "plugins", "submit_sha", "rerun"})
        return TrainingRecord(
            schema=1,
            id=prepared.spec.id,
            status=status,
            reason=reason,
            spec=prepared.spec,
            images=len(prepared.train),
            calibration_images=len(prepared.calibration),
            parameters=self.parameters,
            epochs=tuple(progress.history),
            best_epoch=progress.best_epoch,
            accuracy=self.accuracy,
            checkpoint=checkpoint.name if checkpoint else None,
            checkpoint_sha256=sha256_of(checkpoint) if checkpoint else None,
            at_floor=tuple(progress.at_floor),
            flags=prepared.flags,
            provenance=TrainingProvenance(
                **self.code,
                submit_sha=self.execution.submit_sha,
                versions=versions(),
                device=device_name(self.team.device),
                processes=self.team.share.world,
                torch_flags=self.flags,
                execution=execution,
                slurm=slurm_environment(),
                started=progress.started,
                finished=now(),
                resumed_at=tuple(progress.resumed_at),
            ),
        )
