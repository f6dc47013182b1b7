"""The pieces of a sweep, each of which one job can do. No torch."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt

from benchmark.spec import Cell, ExecSpec, Frozen, digest
from benchmark.training.spec import TrainCell, TrainExec

TRAINING = "training:"  # a checkpoint that a training of the same sweep makes


def _minutes(value: Any) -> Any:
    """SLURM's ways to write a time: minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS; as whole minutes, rounded up."""
    if not isinstance(value, str) or value.isdecimal():
        return value
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", value)
    if found is None:
        raise ValueError("a time is minutes, HH:MM:SS or D-HH:MM:SS")
    days, *parts = found.groups()
    numbers = [int(part) for part in parts if part is not None]
    if days is not None:
        hours, minutes, seconds = [*numbers, 0, 0][:3]
    elif len(numbers) == 2:
        hours, (minutes, seconds) = 0, numbers
    else:
        hours, minutes, seconds = numbers
    return int(days or 0) * 1440 + hours * 60 + minutes + (seconds > 0)


class Resources(Frozen):
    """What a job asks for; None leaves it to the profile or the cluster.

    `gpus` and `tasks` count per node, `cpus` per task. `mem` as SLURM writes it, per node. `time` in minutes.
    """

    nodes: PositiveInt | None = None
    tasks: PositiveInt | None = None
    gpus: int | None = Field(default=None, ge=0)
    cpus: PositiveInt | None = None
    mem: str | None = Field(default=None, pattern=r"^\d+[KMGT]?B?$")
    time: Annotated[PositiveInt | None, BeforeValidator(_minutes)] = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None

    def over(self, others: Resources) -> Resources:
        """These, and the others' where these say nothing."""
        return others.model_copy(update=self.model_dump(exclude_none=True))


class CellTask(Frozen):
    """One cell, or a slice of it (`execution.slice`). `needs` is the key of the training that makes its checkpoint."""

    kind: Literal["cell"] = "cell"
    cell: Cell
    execution: ExecSpec = ExecSpec()
    resources: Resources = Resources()
    needs: str | None = None

    @property
    def key(self) -> str:
        """12 hexadecimal digits: what is asked for, but neither where the data lie nor how it is carried out."""
        asked = self.cell.model_dump(mode="json", exclude={"data_dir"})
        part = str(self.execution.slice) if self.execution.slice else None
        return digest({"cell": asked, "slice": part, "measure": self.execution.measure, "needs": self.needs})

    @property
    def label(self) -> str:
        """For people."""
        cell = self.cell
        known = [
            ("T", cell.timesteps),
            ("seed", cell.seed or None),
            ("precision", cell.precision if cell.precision != "fp32" else None),
            ("limit", cell.limit),
            ("calibration", cell.calibration_size),
            ("slice", self.execution.slice),
        ]
        options = [f"{key}={value}" for key, value in cell.method_options.items()]
        rest = [f"{name}={value}" for name, value in known if value is not None]
        checkpoint = [cell.checkpoint.replace("\\", "/").rpartition("/")[2]] if cell.checkpoint else []
        return " · ".join([cell.method, cell.dataset, *filter(None, [cell.model]), *checkpoint, *options, *rest])


class TrainingTask(Frozen):
    """One training. `name` is how cells of the sweep call its checkpoint."""

    kind: Literal["training"] = "training"
    name: str
    cell: TrainCell
    execution: TrainExec = TrainExec()
    resources: Resources = Resources()
    needs: str | None = None

    @property
    def key(self) -> str:
        """12 hexadecimal digits: what is asked for, but neither where the data lie nor how it is carried out."""
        asked = self.cell.model_dump(mode="json", exclude={"data_dir"})
        return digest({"training": asked, "half": self.execution.half, "needs": self.needs})

    @property
    def label(self) -> str:
        """For people."""
        return " · ".join(["train", self.name, self.cell.method, self.cell.dataset, *filter(None, [self.cell.model])])


Task = Annotated[CellTask | TrainingTask, Field(discriminator="kind")]
