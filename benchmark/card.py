"""The card of a checkpoint: what its weights are and how their input is made. No torch, so that lists and ids are quick.

Fields are added, never changed: cards of all versions stay readable. A key that this version does not know is an error,
because it may say something that the numbers depend on.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt, ValidationError, field_validator

from benchmark.data.images import Preprocessing
from benchmark.errors import CheckpointError
from benchmark.spec import Frozen, Scalar
from benchmark.tensor_files import SUFFIX, read_header

KEY = "card"  # in the metadata of the file
NEWER = "a newer version of dynconf-bench has written it"
UPDATE = "Update dynconf-bench."
# A card without these is written as it was before there were any, so that the checksums of such files stay.
_ADDED = ("training_record", "calibration_fingerprint", "calibration_images")


class Card(Frozen):
    """What travels with the weights.

    Attributes:
        model: backbone.
        method: the method whose activations were trained, `relu` for none; `method_options` are its options.
        dataset: its name; `num_classes` and `in_channels` are those of the network.
        preprocessing: the one that the weights were trained with, as `Preprocessing.to_dict` gives it.
        training_fingerprint: of the training images as they were read.
        recipe: hyper-parameters of the training.
        trained_from: the file that training started from.
        calibration_accuracy: share of correct answers of the analog network on the calibration split, which it was not
            trained on. A checkpoint says nothing about test images.
        calibration_fingerprint: of those images; `calibration_images` is their number.
        training_record: id of the record of the training.
        flags: what a reader of a table must know about these weights.
    """

    model: str
    method: str
    method_options: dict[str, Scalar] = Field(default_factory=dict)
    dataset: str
    num_classes: PositiveInt
    in_channels: PositiveInt
    preprocessing: dict[str, Any]
    training_fingerprint: str
    recipe: dict[str, Any] = Field(default_factory=dict)
    trained_from: str | None = None
    calibration_accuracy: float | None = Field(default=None, ge=0, le=1)
    flags: tuple[str, ...] = ()
    training_record: str | None = None
    calibration_fingerprint: str | None = None
    calibration_images: PositiveInt | None = None

    @field_validator("preprocessing")
    @classmethod
    def _is_preprocessing(cls, values: dict[str, Any]) -> dict[str, Any]:
        try:
            Preprocessing.from_dict(values)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a preprocessing: {error!r}") from error
        unknown = sorted(values.keys() - {item.name for item in dataclasses.fields(Preprocessing)})
        if unknown:
            raise ValueError(f"not a preprocessing: unknown key {unknown[0]!r}; {NEWER}")
        return values

    def to_json(self) -> str:
        """One line of JSON, full floats."""
        return self.model_dump_json(exclude={name for name in _ADDED if getattr(self, name) is None})


def read_card(path: Path) -> Card | None:
    """The card of a safetensors file, None for other files. Raises CheckpointError for a damaged file or card."""
    if path.suffix != SUFFIX:
        return None
    metadata = read_header(path).get("__metadata__", {})
    return parse_card(metadata[KEY], path) if KEY in metadata else None


def parse_card(text: str, path: Path) -> Card:
    """A card from its JSON. Raises CheckpointError naming the file that it is from, and what is wrong with which keys."""
    try:
        return Card.model_validate_json(text)
    except ValidationError as error:
        problems = error.errors()
        unknown = [repr(problem["loc"][-1]) for problem in problems if problem["type"] == "extra_forbidden"]
        if len(unknown) == len(problems):
            keys = f"an unknown key {unknown[0]}" if len(unknown) == 1 else f"unknown keys {', '.join(unknown)}"
            raise CheckpointError(f"{path}: its card has {keys}; {NEWER}.", UPDATE) from error
        told = "; ".join(f"{problem['loc']}: {problem['msg']}" for problem in problems[:4])
        raise CheckpointError(f"{path}: its card is invalid: {told}.") from error
