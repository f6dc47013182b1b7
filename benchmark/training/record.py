"""The training record: one validated JSON file per training, `<results>/training/<id>.json`. Full floats; no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from benchmark.errors import RecordError
from benchmark.records import Estimate
from benchmark.spec import Frozen
from benchmark.training.spec import TrainSpec

TrainingStatus = Literal["ok", "failed", "interrupted"]


class Epoch(Frozen):
    """One pass over the training images.

    `loss` is the mean of what was minimised; `train_accuracy` is that of the training batches as they were seen, augmented and
    in training mode, None where labels were mixed. `calibration_loss` is the cross entropy. `seconds` are those of the
    training steps, over all interruptions.
    """

    epoch: int
    lr: float
    loss: float
    train_accuracy: float | None
    calibration_accuracy: float
    calibration_loss: float
    seconds: float
    images_per_second: float


class TrainingProvenance(Frozen):
    """With what it was trained. `resumed_at` holds epochs (with the part of the epoch) at which it went on after a stop."""

    git_sha: str | None
    dirty: bool | None
    diff_sha256: str | None
    submit_sha: str | None = None
    versions: dict[str, str]
    device: str
    processes: int
    torch_flags: dict[str, bool | int | float | str]
    execution: dict[str, Any]
    slurm: dict[str, str] = Field(default_factory=dict)
    started: str
    finished: str
    resumed_at: tuple[float, ...] = ()


class TrainingRecord(Frozen):
    """What came of a training.

    Attributes:
        status: `ok`, `failed` (see `reason`) or `interrupted`.
        best_epoch: the one whose weights are in the checkpoint: that of the best calibration accuracy, the last of equals.
        accuracy: on the calibration split, of the weights in the checkpoint, in fp32. The epoch was chosen for it, so it is a
            little too high.
        checkpoint: name of the file; `checkpoint_sha256` of its bytes.
        at_floor: thresholds that would have fallen to zero or below and were held at a hundredth of where they started.
        flags: what a reader of the table must know about these weights.
    """

    schema_: Literal[1] = Field(default=1, alias="schema")
    id: str
    status: TrainingStatus
    reason: str | None = None
    spec: TrainSpec
    images: int
    calibration_images: int
    parameters: int
    epochs: tuple[Epoch, ...] = ()
    best_epoch: int | None = None
    accuracy: Estimate | None = None
    checkpoint: str | None = None
    checkpoint_sha256: str | None = None
    at_floor: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    provenance: TrainingProvenance

    def to_json(self) -> str:
        """Canonical text: sorted keys, two spaces, a newline at the end."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), indent=2, sort_keys=True, allow_nan=False) + "\n"


def load_training_record(path: Path) -> TrainingRecord:
    """Read and check a training record. Raises RecordError naming the file."""
    try:
        return TrainingRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
        raise RecordError(f"{path} is not a training record: {reason}.") from error
