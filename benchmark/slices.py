"""One recording by several processes: which shards a slice does, and what slices leave beside them for `collect`.

`<recording>/slices/` holds a `Plan` for every record that is to be made of the recording, the number of right analog answers
of every test shard, and one `Contribution` of each process that added anything.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from benchmark.errors import RecordError, UsageError
from benchmark.records import Provenance
from benchmark.spec import Frozen, RunSpec, Slice
from benchmark.store import ResultStore, write_atomic

FOLDER = "slices"
SplitName = Literal["calibration", "test"]
CALIBRATION: Literal["calibration"] = "calibration"
TEST: Literal["test"] = "test"
SPLITS: tuple[SplitName, ...] = (CALIBRATION, TEST)

ARRAY = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT")
TORCHRUN = ("RANK", "WORLD_SIZE")

Note = TypeVar("Note", bound=Frozen)


def parse_slice(text: str, environment: Mapping[str, str]) -> tuple[Slice, int | None]:
    """The slice that `K/N` or `auto` asks for, and the GPU that is this process's own, if the launcher says so.

    `auto` is the task of a SLURM array, or else the process of torchrun.

    Raises:
        UsageError: it is neither, or `auto` without such an environment.
    """
    if text == "auto":
        return _of_environment(environment)
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UsageError(
            f"--slice {text!r} is not K/N with K from 1 to N, and not auto.",
            "The second of three slices: --slice 2/3",
        )
    return Slice(number=int(number), of=int(count)), None


def _of_environment(environment: Mapping[str, str]) -> tuple[Slice, int | None]:
    if ARRAY[0] in environment:
        task, first, count = (_whole_number(environment, name) for name in ARRAY)
        step = _whole_number(environment, "SLURM_ARRAY_TASK_STEP") if "SLURM_ARRAY_TASK_STEP" in environment else 1
        number, left_over = divmod(task - first, max(step, 1))
        if left_over or not 0 <= number < count:
            raise UsageError(
                f"--slice auto: task {task} is not one of {count} evenly spaced tasks from {first} on.",
                "Give the array consecutive numbers: sbatch --array=1-N",
            )
        return Slice(number=number + 1, of=count), None
    if TORCHRUN[0] in environment:
        rank, world = (_whole_number(environment, name) for name in TORCHRUN)
        if not rank < world:
            raise UsageError(f"--slice auto: RANK is {rank}, but WORLD_SIZE is {world}.")
        gpu = _whole_number(environment, "LOCAL_RANK") if "LOCAL_RANK" in environment else None
        return Slice(number=rank + 1, of=world), gpu
    raise UsageError(
        f"--slice auto: neither {ARRAY[0]} nor {TORCHRUN[0]} is set: this is no task of a SLURM array, and was not started "
        "by torchrun.",
        "Say which slice it is: --slice K/N",
    )


def _whole_number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name)
    if text is None:
        raise UsageError(f"--slice auto: {name} is not set.", "Say which slice it is: --slice K/N")
    if not text.isdecimal():
        raise UsageError(f"--slice auto: {name} is {text!r}, which is no whole number.")
    return int(text)


def shards_in(images: int, size: int) -> int:
    """How many shards so many images take."""
    return -(-images // size)


def images_in(numbers: Mapping[int, object] | list[int] | range, images: int, size: int) -> int:
    """How many of the images of a split are in these of its shards."""
    return sum(min(size, images - number * size) for number in numbers)


def share_of(part: Slice, images: Mapping[SplitName, int], size: int) -> dict[str, range]:
    """The shards of each split that a slice does. All shards are dealt out in one row, a block to each slice.

    Args:
        part: the slice.
        images: numbers of images, by split.
        size: images a shard.
    """
    total = sum(shards_in(count, size) for count in images.values())
    first, last = (total * number // part.of for number in (part.number - 1, part.number))
    share: dict[str, range] = {}
    before = 0
    for split, count in images.items():
        shards = shards_in(count, size)
        start, stop = (min(max(edge - before, 0), shards) for edge in (first, last))
        share[split] = range(start, stop)
        before += shards
    return share


class Plan(Frozen):
    """What a record needs to know besides the recordings; `images` and `shard_size` are those of the recordings."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    spec: RunSpec
    protocol: str
    flags: tuple[str, ...] = ()
    training: str | None = None
    streaming_prelude: int | None = None
    images: dict[SplitName, PositiveInt]
    shard_size: PositiveInt

    @model_validator(mode="after")
    def _both_splits(self) -> Plan:
        if set(self.images) != set(SPLITS):
            raise ValueError(
                f"images of {', '.join(sorted(self.images)) or 'no split'}; expected {' and '.join(SPLITS)}"
            )
        return self


class RightAnswers(Frozen):
    """How many images of a test shard the analog network gets right."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    recording: str
    shard: NonNegativeInt
    images: PositiveInt
    right: NonNegativeInt

    @model_validator(mode="after")
    def _no_more_than_all(self) -> RightAnswers:
        if self.right > self.images:
            raise ValueError(f"{self.right} of {self.images} images are right")
        return self


class Contribution(Frozen):
    """A process that added shards or counts to a recording, with where and how it did so."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    recording: str
    slice: Slice
    provenance: Provenance


@dataclass(frozen=True)
class SliceFolder:
    """What slices leave beside the shards of the recording in `recording`. Whatever is read is validated.

    Reading raises RecordError that names the file.
    """

    recording: Path

    @property
    def path(self) -> Path:
        """The folder itself."""
        return self.recording / FOLDER

    @property
    def id(self) -> str:
        """The recording's."""
        return self.recording.name

    def plan_path(self, spec_id: str) -> Path:
        """Where the plan of a record is."""
        return self.path / f"{spec_id}.json"

    def plans(self) -> list[Path]:
        """Files of all plans, sorted."""
        return sorted(path for path in self.path.glob("*.json") if not path.name.startswith((".", "right-", "made-")))

    def write_plan(self, plan: Plan) -> None:
        """Leave a plan, in place of an older one of the same record."""
        _write(self.plan_path(plan.spec.id), plan)

    def read_plan(self, path: Path) -> Plan:
        """One of `plans`."""
        plan = _read(path, Plan)
        if (plan.spec.recording_id, plan.spec.id) != (self.id, path.stem):
            raise RecordError(
                f"{path} is the plan of record {plan.spec.id} of recording {plan.spec.recording_id}; it does not belong there."
            )
        return plan

    def counted(self) -> set[int]:
        """Numbers of the test shards whose right answers are counted."""
        numbers = (path.stem.removeprefix("right-") for path in self.path.glob("right-*.json"))
        return {int(number) for number in numbers if number.isdecimal()}

    def write_count(self, shard: int, images: int, right: int) -> None:
        """Leave how many of the images of a test shard the analog network gets right."""
        _write(self._count_path(shard), RightAnswers(recording=self.id, shard=shard, images=images, right=right))

    def read_count(self, shard: int, images: int) -> int:
        """The same, of a shard that has so many images."""
        path = self._count_path(shard)
        found = _read(path, RightAnswers)
        if (found.recording, found.shard, found.images) != (self.id, shard, images):
            raise RecordError(
                f"{path} counts {found.images} images of shard {found.shard} of recording {found.recording}, "
                f"expected {images} of shard {shard}."
            )
        return found.right

    def contributions(self) -> list[Contribution]:
        """All of them, by time."""
        found = []
        for path in self.path.glob("made-*.json"):
            found.append(_read(path, Contribution))
            if found[-1].recording != self.id:
                raise RecordError(f"{path} belongs to recording {found[-1].recording}.")
        return sorted(found, key=lambda each: (each.provenance.started, each.slice.number, each.slice.of))

    def new_contribution_path(self) -> Path:
        """A file that no other process writes."""
        return self.path / f"made-{uuid.uuid4().hex}.json"

    def write_contribution(self, path: Path, contribution: Contribution) -> None:
        """Leave it, in place of what this process said before."""
        _write(path, contribution)

    def _count_path(self, shard: int) -> Path:
        return self.path / f"right-{shard:05d}.json"


def sliced_recordings(store: ResultStore) -> list[SliceFolder]:
    """All recordings in a results folder that slices have worked on, sorted."""
    folders = sorted((store.root / "recordings").glob(f"*/{FOLDER}"))
    return [SliceFolder(folder.parent) for folder in folders if folder.is_dir()]


def _write(path: Path, note: Frozen) -> None:
    text = json.dumps(note.model_dump(mode="json", by_alias=True), indent=2, sort_keys=True, allow_nan=False) + "\n"
    write_atomic(path, text.encode())


def _read(path: Path, kind: type[Note]) -> Note:
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: unreadable ({error}).") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise RecordError(
            f"{path} is damaged: {where}: {first['msg']}.", "Remove it and run the slices again."
        ) from error
