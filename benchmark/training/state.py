"""What a training needs to go on after a stop, on disk: complete or not there at all."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.errors import BenchmarkError
from benchmark.provenance import now
from benchmark.store import write_atomic
from benchmark.training.record import Epoch

FILE = "state.pt"
Weights = dict[str, Tensor]


@dataclass
class Progress:
    """Where a training is.

    Attributes:
        epoch, step: finished epochs, and finished steps of the one after them.
        loss, right, images, seconds: sums over those steps.
        history: of the finished epochs.
        best_epoch: of the best weights so far, None before the first epoch is over.
        floors: of the thresholds.
        at_floor: names of the activations whose threshold was held there.
        started: when it began, ISO 8601.
        resumed_at: where it went on after a stop, in epochs.
    """

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    right: float = 0.0
    images: int = 0
    seconds: float = 0.0
    history: list[Epoch] = field(default_factory=list)
    best_epoch: int | None = None
    floors: tuple[float, ...] = ()
    at_floor: tuple[str, ...] = ()
    started: str = field(default_factory=now)
    resumed_at: tuple[float, ...] = ()


class StateFiles:
    """`state.pt` with everything, and `best-<epoch>.pt` with the best weights, which it names.

    The best weights are written before the state that names them, and removed after the state that names others. So whatever
    is cut off, the state and the weights that it names are there.
    """

    def __init__(self, folder: Path, identity: str):
        self.folder, self.identity = folder, identity

    @property
    def path(self) -> Path:
        """Of the state."""
        return self.folder / FILE

    def best(self, epoch: int) -> Path:
        """Of the best weights, if they are those of this epoch."""
        return self.folder / f"best-{epoch}.pt"

    def write(self, progress: Progress, parts: dict[str, Any]) -> None:
        """Everything; `parts` are the state dicts of network, optimizer and average."""
        values = {**vars(progress), "history": [epoch.model_dump() for epoch in progress.history]}
        _save(self.path, {"identity": self.identity, "progress": values, **parts})
        for path in self.folder.glob("best-*.pt"):
            if progress.best_epoch is None or path != self.best(progress.best_epoch):
                path.unlink(missing_ok=True)

    def write_best(self, epoch: int, weights: Weights) -> None:
        """The weights of an epoch that is better than all before."""
        _save(self.best(epoch), weights)

    def read(self) -> tuple[Progress, dict[str, Any]] | None:
        """The state, None if there is none. Raises BenchmarkError if it is damaged or of another training."""
        if not self.path.exists():
            return None
        state = _load(self.path)
        if state.pop("identity", None) != self.identity:
            raise BenchmarkError(f"{self.path} is the state of another training.", "Start anew with: --rerun")
        values = state.pop("progress")
        history = [Epoch.model_validate(epoch) for epoch in values.pop("history")]
        return Progress(**values, history=history), state

    def read_best(self, epoch: int) -> Weights:
        """The best weights. Raises BenchmarkError if they are damaged."""
        return _load(self.best(epoch))

    def clear(self) -> None:
        """Nothing is left to go on with."""
        for path in (self.path, *self.folder.glob("best-*.pt")):
            path.unlink(missing_ok=True)


def _save(path: Path, content: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomic(path, buffer.getvalue())


def _load(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds on damaged files
        reason = " ".join(str(error).split())[:200]
        raise BenchmarkError(f"{path} is damaged: {reason}", "Start anew with: --rerun") from error
    assert isinstance(content, dict)
    return content
