"""A checkpoint as a folder that is ready for the Hugging Face Hub. Nothing is uploaded here."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark import backbones, registry
from benchmark.card import Card, read_card
from benchmark.checkpoints import load_into, read_weights
from benchmark.errors import CheckpointError, RecordError, UsageError
from benchmark.foreign import translate
from benchmark.locating import PUBLISHED
from benchmark.model_card import Published, model_card
from benchmark.options import build
from benchmark.store import sha256_of, write_atomic
from benchmark.tensor_files import SUFFIX
from benchmark.training.record import TrainingRecord, load_training_record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

README, CARD, TRAINING = "README.md", "card.json", "training.json"
SIZES = (backbones.LARGE_IMAGES // 2, backbones.LARGE_IMAGES * 4)  # sides of small and large images
LICENSE = re.compile(r"[a-z0-9]+([.+-][a-z0-9]+)*")


@dataclass(frozen=True)
class Publication:
    """A folder that was written.

    Attributes:
        files: names of its files.
        about: what its model card says.
        remarks: what is missing in it, and why.
    """

    folder: Path
    files: tuple[str, ...]
    about: Published
    remarks: tuple[str, ...]


def publish(
    path: Path,
    folder: Path,
    *,
    name: str | None = None,
    license_id: str | None = None,
    training_record: Path | None = None,
    results: Path | None = None,
    plugins: Sequence[Path] = (),
) -> Publication:
    """Write weights, byte for byte as they are, model card, card and training record into a folder.

    The bytes stay, so that the records of results, which hold their checksum, are about the published file.

    Args:
        path: a checkpoint with a card.
        folder: new or empty.
        name: NAME or ORG/NAME on the Hub; that of the file by default.
        license_id: identifier of the Hub, such as `mit`.
        training_record: record of the training. By default the one whose id the card names is looked for: as
            `training.json` beside the checkpoint, and in the results folder that it lies in, and in `results`.
        results: results folder.
        plugins: plug-ins that the network needs; named in the commands of the model card.

    Raises:
        CheckpointError: no card, a card that does not belong to the weights, weights that are NaN or infinite.
        UsageError: the folder holds something, a name or licence that the Hub would not take, a training record of other
            weights.
        RecordError: the training record was found, but cannot be read.
    """
    _check_folder(folder)
    name = _checked_name(name, path)
    if license_id is not None and not LICENSE.fullmatch(license_id):
        raise UsageError(
            f"{license_id!r} is no licence identifier of the Hugging Face Hub.", "Such as apache-2.0, mit, other."
        )
    card = read_card(path)
    if card is None:
        what = "holds no card" if path.suffix == SUFFIX else f"is no {SUFFIX} file, so it has no card"
        raise CheckpointError(
            f"{path} {what}: nobody could tell what these weights are.",
            "python -m benchmark train writes checkpoints with a card.",
        )
    network_of(card, read_weights(path), path)
    checksum = sha256_of(path)
    found = _training_record(path, card, checksum, training_record, results)
    remarks = []
    if found is None and card.training_record is not None:
        remarks.append(
            f"the card names training record {card.training_record}, which is not here; pass it with --training-record FILE"
        )
    training = found[1] if found is not None else None
    about = Published(name, card, checksum, license_id, training, tuple(plugin.name for plugin in plugins))
    if license_id is None:
        origin = f" because the weights were trained from {card.trained_from}" if card.trained_from is not None else ""
        remarks.append(f"the licence is given as {about.license_id}{origin}; --license ID says another")
    contents = {README: model_card(about).encode(), CARD: _json(card), PUBLISHED: path.read_bytes()}
    if found is not None:
        contents[TRAINING] = found[0].read_bytes()
    _write(folder, contents)
    if sha256_of(folder / PUBLISHED) != checksum:
        raise CheckpointError(f"{path} changed while it was being published.", f"Remove {folder} and repeat it.")
    return Publication(folder, tuple(sorted(contents)), about, tuple(remarks))


def network_of(card: Card, state: dict[str, Tensor], path: Path) -> nn.Module:
    """The network that a card describes, with the weights in it, in eval mode.

    Raises:
        UsageError: unknown backbone or method.
        CheckpointError: the weights do not fit, or are NaN or infinite. `path` is what it names.
    """
    from methods.errors import ConversionError

    translated = translate(state, card.model).state
    crop = card.preprocessing.get("crop")
    refused: CheckpointError | None = None
    for size in SIZES if crop is None else (crop,):
        network = backbones.build(card.model, card.in_channels, card.num_classes, size)
        if card.method != "relu":
            cls = registry.load("methods", card.method)
            method = build(cls, card.method_options, f"{path}: its card: method {card.method}")
            try:
                network = method.prepare(network)
            except ConversionError as error:
                raise CheckpointError(
                    f"{path}: its card says {card.method} on {card.model}, which cannot be: {error}."
                ) from error
        try:
            load_into(network, translated, path, card.model)
        except CheckpointError as error:
            refused = refused or error
        else:
            return network.eval()
    assert refused is not None
    raise refused


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; --output takes a folder.")
    if folder.is_dir() and (held := sorted(path.name for path in folder.iterdir())):
        raise UsageError(f"{folder} is not empty: it holds {', '.join(held[:4])}.", "Name a new folder with --output.")


def _checked_name(name: str | None, path: Path) -> str:
    """A name that a repository can have: the given one, that of the file, or of the folder of a published file."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    chosen = name if name is not None else path.resolve().parent.name if path.name == PUBLISHED else path.stem
    try:
        validate_repo_id(chosen)
    except HFValidationError as error:
        raise UsageError(
            f"{chosen!r} cannot be a name on the Hugging Face Hub: {error}", "Give one with --name NAME."
        ) from error
    return chosen


def _training_record(
    path: Path, card: Card, checksum: str, given: Path | None, results: Path | None
) -> tuple[Path, TrainingRecord] | None:
    """The record of the training and its file. A given one must belong to the weights; others are passed over."""
    if given is not None:
        try:
            record = load_training_record(given)
        except RecordError as error:
            raise UsageError(str(error)) from error
        if (reason := _other_weights(record, card, checksum)) is not None:
            raise UsageError(f"{given} is not about {path}: {reason}.")
        return given, record
    if card.training_record is None:
        return None
    file = f"{card.training_record}.json"
    places = [path.parent / TRAINING, path.parent.parent / "training" / file]
    for place in [*places, *([results / "training" / file] if results is not None else [])]:
        if place.is_file():
            record = load_training_record(place)
            if _other_weights(record, card, checksum) is None:
                return place, record
    return None


def _other_weights(record: TrainingRecord, card: Card, checksum: str) -> str | None:
    """Why a record cannot be that of these weights. The same training, repeated, may give other weights."""
    if record.status != "ok":
        return f"that training is {record.status}"
    if card.training_record is not None and record.id != card.training_record:
        return f"it is record {record.id}, the card names {card.training_record}"
    if record.checkpoint_sha256 != checksum:
        return f"it is about the file with sha256 {record.checkpoint_sha256}, this one has {checksum}"
    return None


def _json(card: Card) -> bytes:
    return (json.dumps(json.loads(card.to_json()), indent=2) + "\n").encode()


def _write(folder: Path, contents: dict[str, bytes]) -> None:
    """All files or none."""
    there = folder.is_dir()
    try:
        for name, content in contents.items():
            write_atomic(folder / name, content)
    except BaseException:
        for name in contents:
            (folder / name).unlink(missing_ok=True)
        if not there and folder.is_dir():
            folder.rmdir()
        raise
