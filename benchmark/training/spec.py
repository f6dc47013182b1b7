"""A training: the request, the `TrainSpec` that determines its result, and what only says how to get there. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from benchmark.spec import Frozen, Scalar, Weights, digest
from benchmark.training.recipe import Recipe


class TrainCell(Frozen):
    """What a user asks for. `method` is any method; what is trained is the network that it converts."""

    method: str = "qcfs"
    method_options: dict[str, Scalar] = Field(default_factory=dict)
    dataset: str
    data_dir: str | None = None
    model: str | None = None
    init: str | None = None
    teacher: str | None = None
    teacher_model: str | None = None
    recipe: Recipe
    limit: PositiveInt | None = None
    preprocessing: dict[str, Any] | None = None
    flags: tuple[str, ...] = ()


class TrainSpec(Frozen):
    """Everything that determines a training, but for the rounding of the machine.

    `method` is the one whose activations are trained, `relu` for none. `limit` is a number of training images (None: all).
    """

    method: str
    method_options: dict[str, Scalar] = Field(default_factory=dict)
    dataset: str
    training_fingerprint: str
    calibration_fingerprint: str
    model: str
    init: Weights | None = None
    teacher: Weights | None = None
    teacher_model: str | None = None
    preprocessing: dict[str, Any]
    recipe: Recipe
    limit: PositiveInt | None = None

    @property
    def id(self) -> str:
        """First 12 hexadecimal digits of the sha256 of the canonical JSON; where weights lay does not count."""
        return digest(self.model_dump(mode="json", exclude={"init": {"source"}, "teacher": {"source"}}))


class TrainExec(Frozen):
    """How a training is carried out; never part of the id.

    `checkpoint_seconds`: the state is written after this time at the latest, and after every epoch. `output`: the checkpoint;
    None for one in the results folder. `distributed`: whether to join the processes that the environment names.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: int = Field(default=0, ge=0)
    channels_last: bool = True
    compile: bool = False
    sync_batch_norm: bool = True
    checkpoint_seconds: NonNegativeFloat = 300.0
    half: bool = False
    rerun: bool = False
    distributed: bool = True
    output: Path | None = None
    plugins: tuple[str, ...] = ()
    submit_sha: str | None = None
