"""The loop: steps, epochs, the state on disk, and every guard. It knows no dataset and no command line."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from benchmark.errors import BenchmarkError
from benchmark.training.batches import TrainingBatches
from benchmark.training.compiling import refuse_lost_gradients
from benchmark.training.distributed import Team
from benchmark.training.judging import Judged
from benchmark.training.objective import Objective
from benchmark.training.optimisation import (
    averaged,
    learning_rate,
    norm_clipped,
    optimizer_of,
    set_learning_rate,
)
from benchmark.training.record import Epoch
from benchmark.training.seeds import Purpose, seed_of
from benchmark.training.state import Progress, StateFiles
from benchmark.training.stopping import StopRequest
from benchmark.training.thresholds import Floors

AGREE_STEPS = 10  # several processes ask each other this often whether to stop; each time they wait for one another


class Interrupted(KeyboardInterrupt):
    """The training was asked to stop; its state is on disk."""


class Diverged(BenchmarkError):
    """The loss or a weight is no longer a number."""


class Listener(Protocol):
    """Who hears how it goes. Called in the leading process only."""

    def begins(self, progress: Progress) -> None:
        """The first step comes next."""

    def bar(self, title: str, total: int, done: int) -> AbstractContextManager[Callable[[int], None]]:
        """A progress bar of `total` images, of which `done` are done."""

    def epoch(self, result: Epoch, progress: Progress) -> None:
        """An epoch is over."""


@dataclass
class Training:
    """One training, ready to run.

    Attributes:
        model: the network, on the team's device; trained in place. It ends with the best weights, in eval mode.
        batches: of the training split.
        objective: what is minimised.
        judged: how good a network is on the calibration split.
        team: the processes.
        files: where the state goes; None for none.
        compile: whether the training steps run through torch.compile.
        channels_last: whether images are given in this memory format; the network is to have it too.
        sync_batch_norm: whether several processes share batch statistics.
        checkpoint_seconds: the longest time between two states.
        progress: where it is.
    """

    model: nn.Module
    batches: TrainingBatches
    objective: Objective
    judged: Callable[[nn.Module], Judged]
    team: Team
    files: StateFiles | None = None
    compile: bool = False
    channels_last: bool = False
    sync_batch_norm: bool = True
    checkpoint_seconds: float = 300.0
    progress: Progress = field(default_factory=Progress)

    def run(self, listener: Listener, stop: StopRequest | None = None) -> None:
        """Train to the end, from the state on disk if there is one.

        Raises:
            Interrupted: `stop` was raised; the state is written.
            Diverged: a loss or weight became NaN or infinite; the last good state and the best weights are kept.
            BenchmarkError: the state on disk is damaged or of another training.
        """
        with torch.random.fork_rng(devices=[self.team.device] if self.team.device.type == "cuda" else []):
            _Loop(self, listener, stop or StopRequest()).run()


class _Loop:
    def __init__(self, training: Training, listener: Listener, stop: StopRequest):
        self.training, self.listener, self.stop = training, listener, stop
        self.recipe, self.team = training.batches.recipe, training.team
        self.model = training.model
        self.floors = Floors(self.model)
        self.optimizer = optimizer_of(self.model, self.floors.parameters, self.recipe)
        self.average = averaged(self.model, self.recipe)
        self.progress = training.progress
        self.progress.floors = self.floors.floors
        self.best: dict[str, Tensor] | None = None
        self._resume()
        self.network = self.team.wrap(self.model, training.sync_batch_norm)
        self.step_network = torch.compile(self.network) if training.compile else self.network
        self.unchecked = training.compile
        self.written = time.monotonic()

    @property
    def kept(self) -> nn.Module:
        """The network that is judged and kept."""
        return self.model if self.average is None else self.average.module

    def run(self) -> None:
        progress = self.progress
        if self.team.leads:
            self.listener.begins(progress)
        while progress.epoch < self.recipe.epochs:
            self._epoch()
        if progress.best_epoch is not None:
            self.model.load_state_dict(self._best_weights(progress.best_epoch))
        self.model.eval()

    def _epoch(self) -> None:
        progress, batches = self.progress, self.training.batches
        size = self.recipe.batch_size
        title = f"epoch {progress.epoch + 1}/{self.recipe.epochs}"
        self.model.train()
        totals = _Totals.of(progress, self.team.device)
        with self._bar(title, batches.steps * size, progress.step * size) as update:
            start = time.monotonic()
            for images, labels in batches.epoch(progress.epoch, progress.step):
                self._step(images, labels, totals)
                progress.step += 1
                progress.images += size
                update(size)
                if self._must_stop():
                    progress.seconds += time.monotonic() - start
                    self._write(totals)
                    raise Interrupted
                if self._is_due():
                    progress.seconds += time.monotonic() - start
                    start = time.monotonic()
                    self._write(totals)
            progress.seconds += time.monotonic() - start
        totals.into(progress, self.team)
        self._guard()
        self._finish_epoch()

    def _step(self, images: Tensor, labels: Tensor, totals: _Totals) -> None:
        recipe, progress, objective = self.recipe, self.progress, self.training.objective
        rate = learning_rate(
            recipe, progress.epoch * self.training.batches.steps + progress.step, self.training.batches.steps
        )
        set_learning_rate(self.optimizer, rate)
        torch.manual_seed(seed_of(recipe.seed, Purpose.STEP, progress.epoch, progress.step, self.team.share.rank))
        self.optimizer.zero_grad(set_to_none=True)
        if self.training.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        parts = list(zip(images.chunk(recipe.accumulate), labels.chunk(recipe.accumulate), strict=True))
        for number, (some_images, some_labels) in enumerate(parts):
            changed, wanted = objective.mixed(some_images, some_labels)
            with self._alone(number + 1 < len(parts)), self._autocast():
                outputs = self.step_network(changed)
                error = objective(outputs, changed, wanted) / len(parts)
            with self._alone(number + 1 < len(parts)):
                error.backward()
            if self.unchecked:
                self.unchecked = False
                refuse_lost_gradients(self.model, partial(self._loss, changed, wanted))
            totals.add(error.detach(), outputs.detach(), some_labels)
        norm_clipped(self.model, recipe)
        self.optimizer.step()
        self.floors.hold()
        if self.average is not None:
            self.average.update_parameters(self.model)

    def _loss(self, images: Tensor, wanted: Tensor, network: nn.Module) -> Tensor:
        with self._autocast():
            return self.training.objective(network(images), images, wanted)

    def _finish_epoch(self) -> None:
        progress, recipe = self.progress, self.recipe
        judged = self.training.judged(self.kept)
        steps = self.training.batches.steps
        result = Epoch(
            epoch=progress.epoch + 1,
            lr=learning_rate(recipe, progress.epoch * steps, steps),
            loss=progress.loss / steps,
            train_accuracy=None if self.training.objective.mixes else progress.right / progress.images,
            calibration_accuracy=judged.accuracy,
            calibration_loss=judged.loss,
            seconds=progress.seconds,
            images_per_second=progress.images / max(progress.seconds, 1e-9),
        )
        best = max((epoch.calibration_accuracy for epoch in progress.history), default=-1.0)
        progress.history.append(result)
        progress.epoch, progress.step = progress.epoch + 1, 0
        progress.loss, progress.right, progress.images, progress.seconds = 0.0, 0.0, 0, 0.0
        if judged.accuracy >= best:
            progress.best_epoch = progress.epoch
            self._keep_best(progress.epoch)
        self._write(None)
        if self.team.leads:
            self.listener.epoch(result, progress)

    # The state on disk

    def _resume(self) -> None:
        files = self.training.files
        found = files.read() if files is not None else None
        if found is None:
            return
        self.training.progress, parts = found
        self.progress = self.training.progress
        self.model.load_state_dict(parts["model"])
        self.optimizer.load_state_dict(parts["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(parts["average"])
        self.floors.restore(tuple(self.progress.floors))
        if self.progress.epoch < self.recipe.epochs:
            place = self.progress.epoch + self.progress.step / self.training.batches.steps
            self.progress.resumed_at = (*self.progress.resumed_at, round(place, 4))

    def _write(self, totals: _Totals | None) -> None:
        """The state, if all numbers in it are good; `totals` are those of the epoch so far."""
        self.written = time.monotonic()
        self.progress.at_floor = tuple(sorted({*self.progress.at_floor, *self.floors.held()}))
        progress = replace(self.progress)
        if totals is not None:
            totals.into(progress, self.team)
        self._guard(progress.loss)
        if self.training.files is not None and self.team.leads:
            parts: dict[str, Any] = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
            if self.average is not None:
                parts["average"] = self.average.state_dict()
            self.training.files.write(progress, parts)

    def _keep_best(self, epoch: int) -> None:
        weights = {name: value.detach().cpu().clone() for name, value in self.kept.state_dict().items()}
        if self.training.files is None:
            self.best = weights
        elif self.team.leads:
            self.training.files.write_best(epoch, weights)

    def _best_weights(self, epoch: int) -> dict[str, Tensor]:
        if self.training.files is None:
            assert self.best is not None
            return self.best
        self.team.wait()
        return self.training.files.read_best(epoch)

    # Guards

    def _guard(self, loss: float | None = None) -> None:
        progress = self.progress
        loss = progress.loss if loss is None else loss
        tensors = [value for value in self.model.state_dict().values() if value.is_floating_point()]
        finite = all(bool(torch.isfinite(value).all()) for value in tensors)
        if finite and math.isfinite(loss):
            return
        what = "the loss" if finite else "a weight"
        kept = ""
        if progress.best_epoch is not None:
            kept = f" The best weights so far, of epoch {progress.best_epoch}, are kept."
        raise Diverged(
            f"training diverged in epoch {progress.epoch + 1}: {what} is no longer a finite number.{kept}",
            "Lower --lr, warm up for longer, or clip the gradient with --clip-norm.",
        )

    def _must_stop(self) -> bool:
        if self.team.share.world == 1:
            return self.stop.raised
        return self._agrees() and self.team.any(self.stop.raised)

    def _is_due(self) -> bool:
        """Whether the time for a state has come; with several processes, for the leading one, which they all follow."""
        due = time.monotonic() - self.written >= self.training.checkpoint_seconds
        if self.team.share.world == 1:
            return due
        return self._agrees() and self.team.any(due and self.team.leads)

    def _agrees(self) -> bool:
        """Whether the processes ask each other after this step."""
        step = self.progress.epoch * self.training.batches.steps + self.progress.step
        return step % AGREE_STEPS == 0

    # Contexts

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.recipe.precision != "bf16":
            return nullcontext()
        return torch.autocast(self.team.device.type, torch.bfloat16)

    def _alone(self, wanted: bool) -> AbstractContextManager[Any]:
        """Gradients stay in this process until the last part of a batch."""
        if wanted and isinstance(self.network, DistributedDataParallel):
            return self.network.no_sync()
        return nullcontext()

    @contextmanager
    def _bar(self, title: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
        if not self.team.leads:
            yield lambda count: None
            return
        with self.listener.bar(title, total, done) as update:
            yield update


@dataclass
class _Totals:
    """Sums of an epoch's steps in this process, kept on the device: reading them would make the device wait."""

    loss: Tensor
    right: Tensor
    before: tuple[float, float]

    @classmethod
    def of(cls, progress: Progress, device: torch.device) -> _Totals:
        return cls(
            torch.zeros((), dtype=torch.float64, device=device),
            torch.zeros((), dtype=torch.float64, device=device),
            (progress.loss, progress.right),
        )

    def add(self, error: Tensor, outputs: Tensor, labels: Tensor) -> None:
        """A part of a batch; `error` is its share of the batch's mean loss."""
        self.loss += error
        logits = outputs.mean(0) if outputs.dim() == 3 else outputs
        self.right += (logits.argmax(1) == labels).sum()

    def into(self, progress: Progress, team: Team) -> None:
        """Add the sums over all processes to what the epoch had at its start here."""
        loss, right = team.sum(torch.stack([self.loss, self.right])).tolist()
        progress.loss = self.before[0] + loss / team.share.world
        progress.right = self.before[1] + right
