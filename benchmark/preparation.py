"""From what a user asks for to what will run: data read, weights found or trained, the `RunSpec` fixed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import registry
from benchmark.checkpoints import SUFFIX, Card, load_into, locate, read_card, read_weights, write_checkpoint, zoo
from benchmark.data.images import ImageDataset, Images, Preprocessing
from benchmark.errors import Incompatible, UsageError
from benchmark.evaluation import normalised
from benchmark.options import build
from benchmark.spec import Cell, RunSpec, Weights, digest
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
    weights: Path
    preprocessing: Preprocessing
    flags: tuple[str, ...]

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
    registry.entry("models", model)
    dataset = registry.load("datasets", cell.dataset)(Path(cell.data_dir) if cell.data_dir else None)
    calibration = dataset.split("calibration").first(cell.calibration_size)
    whole_test = dataset.split("test")
    test = whole_test.first(cell.limit)

    source, card = _find_weights(cell, model, bool(getattr(entry, "embedded", False)))
    options = _method_options(cell, card)
    method = build(registry.load("methods", cell.method), options, f"method {cell.method}")
    if source is None:
        path, name = _train(cell, model, method, dataset, store, say)
        card = read_card(path)
    else:
        path, name = locate(source), _public_name(source)
    if card is not None:
        _check_card(card, cell, model, test, path)
    preprocessing = Preprocessing.from_dict(card.preprocessing) if card is not None else dataset.preprocessing
    spec = RunSpec(
        method=cell.method,
        method_version=getattr(method_entry, "version", 1),
        method_options=method.options(),
        dataset=cell.dataset,
        dataset_fingerprint=f"test:{test.fingerprint} calibration:{calibration.fingerprint}",
        model=model,
        weights=Weights(source=name, sha256=sha256_of(path)),
        timesteps=cell.timesteps or int(getattr(method_entry, "timesteps", 32)),
        policies=tuple(map(normalised, cell.policies)),
        seed=cell.seed,
        precision=cell.precision,
        limit=cell.limit,
        calibration_size=cell.calibration_size,
    )
    flags = (
        *dataset.flags(whole_test),
        *(card.flags if card is not None else ("preprocessing assumed, the weights carry none",)),
    )
    return Prepared(spec, method, calibration, test, path, preprocessing, flags)


def build_network(prepared: Prepared) -> nn.Module:
    """The quantised ANN with its weights, in eval mode.

    Raises CheckpointError, or Incompatible if the method cannot convert this backbone.
    """
    ann = registry.load("models", prepared.spec.model)(prepared.test.pixels.shape[1], prepared.test.num_classes)
    quantised = _quantise(prepared.method, ann, prepared.spec.model)
    load_into(quantised, read_weights(prepared.weights), prepared.weights, prepared.spec.model)
    return quantised.eval()


def _quantise(method: ConversionMethod, ann: nn.Module, model: str) -> nn.Module:
    from methods.errors import ConversionError

    try:
        return method.prepare(ann)
    except ConversionError as error:
        raise Incompatible(f"{method.name} cannot convert {model}: {error}") from error


def _find_weights(cell: Cell, model: str, embedded: bool) -> tuple[str | None, Card | None]:
    """The checkpoint to use and its card; (None, None) means train one."""
    if cell.checkpoint is not None:
        return cell.checkpoint, read_card(locate(cell.checkpoint))
    if embedded:
        return None, None
    for name, path in zoo().items():
        card = read_card(path)
        if card is not None and (card.dataset, card.model, card.method) == (cell.dataset, model, cell.method):
            return f"zoo:{name}", card
    raise UsageError(
        f"no weights for {cell.method} on {cell.dataset} with {model}.",
        "Pass --checkpoint FILE or zoo:NAME; list what is there with: python -m benchmark list checkpoints",
    )


def _public_name(source: str) -> str:
    """How a record names the weights: no folders of this machine."""
    return source if source.startswith("zoo:") else Path(source).name


def _method_options(cell: Cell, card: Card | None) -> dict[str, Any]:
    """The user's options, and for the rest those that the weights were trained with."""
    trained = card.method_options if card is not None and card.method == cell.method else {}
    return {**trained, **cell.method_options}


def _check_card(card: Card, cell: Cell, model: str, test: Images, path: Path) -> None:
    for what, has, wants in (
        ("model", card.model, model),
        ("dataset", card.dataset, cell.dataset),
        ("number of classes", card.num_classes, test.num_classes),
    ):
        if has != wants:
            hint = f"Try --model {has}." if what == "model" else None
            raise UsageError(f"{path.name} was trained for {what} {has!r}, not {wants!r}.", hint)


def _train(
    cell: Cell,
    model: str,
    method: ConversionMethod,
    dataset: ImageDataset,
    store: ResultStore,
    say: Callable[[str], None],
) -> tuple[Path, str]:
    """Train a network for an embedded dataset once; later runs find it in the results folder."""
    import torch

    from benchmark import training

    images = dataset.split("train")
    recipe = training.Recipe(epochs=30, batch_size=64, lr=0.1, seed=cell.seed)
    identity = digest([cell.dataset, images.fingerprint, model, cell.method, method.options(), asdict(recipe)])
    path = store.checkpoints / f"{cell.dataset}-{model}-{cell.method}-{identity}{SUFFIX}"
    if not path.exists():
        say(f"training {model} on {cell.dataset} ({len(images)} images, {recipe.epochs} epochs); kept for later runs")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(cell.seed)
            ann = registry.load("models", model)(images.pixels.shape[1], images.num_classes)
        network = _quantise(method, ann, model)
        training.initialise_thresholds(network, training.first_batch(images, dataset.preprocessing))
        training.train(network, images, dataset.preprocessing, recipe)
        calibration = dataset.split("calibration")
        card = Card(
            model=model,
            method=cell.method,
            method_options=method.options(),
            dataset=cell.dataset,
            num_classes=images.num_classes,
            in_channels=images.pixels.shape[1],
            recipe=asdict(recipe),
            preprocessing=dataset.preprocessing.to_dict(),
            training_fingerprint=images.fingerprint,
            calibration_accuracy=training.accuracy(network, calibration, dataset.preprocessing),
        )
        write_checkpoint(path, network.state_dict(), card)
    return path, f"trained:{identity}"
