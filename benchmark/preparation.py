"""From what a user asks for to what will run: data read, weights found or trained, the `RunSpec` fixed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark import backbones, registry, weights
from benchmark.card import Card
from benchmark.data import recorded_name
from benchmark.data.images import Images, Preprocessing
from benchmark.errors import UsageError
from benchmark.evaluation import normalised
from benchmark.spec import Cell, RunSpec, Weights
from benchmark.store import ResultStore, sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from methods.base import ConversionMethod

PROTOCOL = 1


@dataclass(frozen=True)
class Prepared:
    """Everything a run needs, on the CPU."""

    spec: RunSpec
    method: ConversionMethod
    calibration: Images
    test: Images
    source: weights.Source
    preprocessing: Preprocessing
    flags: tuple[str, ...]

    @property
    def training(self) -> str | None:
        """Id of the training record that the card of the weights names."""
        return self.source.card.training_record if self.source.card is not None else None

    @property
    def protocol(self) -> str:
        """Two rows stand in one table only if they share this string: the pixels and labels actually read."""
        return (
            f"{self.spec.dataset} · test {len(self.test)} @{self.test.fingerprint} · "
            f"calibration {len(self.calibration)} @{self.calibration.fingerprint} · protocol {PROTOCOL}"
        )


def prepare(cell: Cell, store: ResultStore, say: Callable[[str], None] = lambda text: None) -> Prepared:
    """Read the data, find the weights (or train them, for an embedded dataset) and fix the spec.

    Raises UsageError, DataError and their kin; nothing has been recorded then.
    """
    entry = registry.entry("datasets", cell.dataset)
    method_entry = registry.entry("methods", cell.method)
    model = cell.model or getattr(entry, "model", None)
    if model is None:
        raise UsageError(f"dataset {cell.dataset!r} has no default backbone; pass --model.")
    backbones.check(model)
    source = weights.find(cell, model, bool(getattr(entry, "embedded", False)))
    method = weights.method_for(cell, source)
    dataset = registry.load("datasets", cell.dataset)(Path(cell.data_dir) if cell.data_dir else None)
    if source is None:
        source = weights.train_embedded(cell, model, method, dataset, store, say)
    given = Preprocessing.from_dict(cell.preprocessing) if cell.preprocessing else None
    preprocessing = given or source.preprocessing or dataset.preprocessing
    dataset = dataset.viewed(preprocessing)
    calibration = dataset.split("calibration").first(cell.calibration_size)
    whole_test = dataset.split("test")
    test = whole_test.first(cell.limit)
    if source.card is not None:
        _check_card(source.card, cell, model, test, source.path)
    for images in (calibration, test):
        images.check()
    spec = RunSpec(
        method=cell.method,
        method_version=getattr(method_entry, "version", 1),
        method_options=method.options(),
        dataset=recorded_name(cell.dataset),
        dataset_fingerprint=f"test:{test.fingerprint} calibration:{calibration.fingerprint}",
        model=model,
        weights=Weights(source=source.name, sha256=sha256_of(source.path)),
        timesteps=cell.timesteps or int(getattr(method_entry, "timesteps", 32)),
        policies=tuple(map(normalised, cell.policies)),
        seed=cell.seed,
        precision=cell.precision,
        limit=cell.limit,
        calibration_size=cell.calibration_size,
        # A card's preprocessing belongs to the weights, which have a checksum; any other has to be said.
        preprocessing=preprocessing.to_dict() if given or (source.preprocessing and not source.card) else None,
    )
    flags = (*dataset.flags(whole_test), *source.flags)
    if given is None and source.preprocessing is None:
        flags = (*flags, "preprocessing assumed, the weights carry none")
    if source.card is None and dataset.calibration_from_train and "train" in dataset.splits:
        flags = (*flags, "weights without a card: the calibration images may be among those they were trained on")
    return Prepared(spec, method, calibration, test, source, preprocessing, flags)


def build_network(prepared: Prepared) -> nn.Module:
    """The network to convert, with its weights, in eval mode.

    Raises CheckpointError, or Incompatible if the method cannot convert this backbone.
    """
    return weights.build_network(prepared.source, prepared.method, prepared.spec.model, prepared.test)


def _check_card(card: Card, cell: Cell, model: str, test: Images, path: Path) -> None:
    for what, has, wants in (
        ("model", card.model, model),
        ("dataset", card.dataset, recorded_name(cell.dataset)),
        ("number of classes", card.num_classes, test.num_classes),
        ("number of input channels", card.in_channels, test.pixels.shape[1]),
    ):
        if has != wants:
            hint = f"Try --model {has}." if what == "model" else None
            raise UsageError(f"{path.name} was trained for {what} {has!r}, not {wants!r}.", hint)
