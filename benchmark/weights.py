"""Where a network's weights come from, what they were trained for, and the network that is built from them."""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark import backbones, registry
from benchmark.card import Card, read_card
from benchmark.checkpoints import load_into, read_weights
from benchmark.data import recorded_name
from benchmark.data.images import ImageDataset, Images, Preprocessing
from benchmark.errors import CheckpointError, Incompatible, UsageError
from benchmark.foreign import translate
from benchmark.locating import local, resolve, shipped
from benchmark.options import build
from benchmark.spec import Cell, Scalar

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from benchmark.store import ResultStore
    from methods.base import ConversionMethod

RELU = "relu"
# What a method's `network` says, in words.
KINDS = {"quantised": "a network trained with quantised activations", RELU: "a plain ReLU network"}


@dataclass(frozen=True)
class Source:
    """Weights and what is known about them.

    `method` is the one whose activations they were trained with, `relu` for a plain network; `options` are that
    method's options as far as they are known. Where no card or catalogue says so, `stated` is False and the method is a
    guess from the names of the weights: what does not fit is then told by loading them.
    """

    path: Path
    name: str
    method: str
    options: dict[str, Scalar] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None
    card: Card | None = None
    flags: tuple[str, ...] = ()
    stated: bool = True


def kind_of(method: str) -> str:
    """Which networks a method converts: `quantised`, `relu` or `spiking`."""
    return RELU if method == RELU else str(getattr(registry.entry("methods", method), "network", "quantised"))


def trained_as(method: str) -> str:
    """The method whose activations a network for `method` is trained with, `relu` for none."""
    if kind_of(method) == RELU:
        return RELU
    return str(getattr(registry.entry("methods", method), "trained_as", "")) or method


def find(cell: Cell, model: str, embedded: bool) -> Source | None:
    """The weights that a cell asks for, or those of the zoo that fit; None means that they are to be trained.

    Of several that fit, those with the levels that are asked for come first, then those trained with the method itself, then
    those it is usually trained with, then shipped ones, then those of the first local folder, then the first name.

    Raises UsageError if there are none, or they are of another kind than the method converts.
    """
    if cell.checkpoint is not None:
        source = describe(cell.checkpoint, model)
        if source.stated:
            check_kind(source, cell.method)
        elif "levels" in cell.method_options and "levels" not in source.options:
            source = dataclasses.replace(source, options={**source.options, "levels": cell.method_options["levels"]})
        return source
    if embedded:
        return None
    fitting, unreadable = [], []
    for place, found in enumerate((*shipped(), *local())):
        if found.hidden_by is not None:
            continue
        try:
            card = read_card(found.path)
        except CheckpointError as error:  # one bad file in a folder must not stop every run
            unreadable.append(str(error).partition("\n")[0])
            continue
        if card is None or (card.dataset, card.model) != (recorded_name(cell.dataset), model):
            continue
        if card.method != RELU and card.method not in registry.names("methods"):
            continue  # a plug-in's that is not loaded
        if kind_of(card.method) == kind_of(cell.method):
            levels = cell.method_options.get("levels")
            others = levels is not None and str(levels) != str(card.method_options.get("levels"))
            rank = (others, card.method != cell.method, card.method != trained_as(cell.method), place)
            fitting.append((rank, found.name))
    if fitting:
        return describe(min(fitting)[1], model)
    hint = (
        "Pass --checkpoint FILE, zoo:NAME or timm:NAME; list what is there with: python -m benchmark list checkpoints"
    )
    raise UsageError(f"no weights for {cell.method} on {cell.dataset} with {model}.", "\n".join([hint, *unreadable]))


def check_kind(source: Source, method: str) -> None:
    """Raise UsageError unless the weights are of the kind that `method` converts."""
    if kind_of(source.method) != kind_of(method):
        wanted = KINDS.get(kind_of(method), "a network of its own")
        found = KINDS.get(kind_of(source.method), "a spiking network")
        raise UsageError(
            f"{method} converts {wanted}; {source.name} is {found} ({source.method}).",
            "See which method needs what: python -m benchmark list methods",
        )


def describe(checkpoint: str, model: str) -> Source:
    """What is known about FILE, zoo:NAME or timm:NAME. Raises UsageError or CheckpointError."""
    found = resolve(checkpoint)
    path, name = found.path, found.source
    if checkpoint.startswith(backbones.TIMM):
        from benchmark.backbones.from_timm import timm_preprocessing

        values = {"divisor": 255.0, **timm_preprocessing(checkpoint.removeprefix(backbones.TIMM))}
        return Source(path, name, RELU, preprocessing=Preprocessing.from_dict(values))
    card = read_card(path)
    if card is not None:
        preprocessing = Preprocessing.from_dict(card.preprocessing)
        return Source(path, name, card.method, card.method_options, preprocessing, card, card.flags)
    translation = translate(read_weights(path), model)
    flags = translation.flags
    if translation.source != "native":
        flags = (*flags, f"weights in the format of {translation.source}")
    return Source(path, name, translation.method, dict(translation.options), flags=flags, stated=False)


def method_for(cell: Cell, source: Source | None) -> ConversionMethod:
    """The method with the user's options, and for the rest those that the weights were trained with.

    Raises UsageError for an unknown option, or other levels than the weights have.
    """
    cls = registry.load("methods", cell.method)
    known = {item.name for item in dataclasses.fields(cls)}
    trained = {key: value for key, value in (source.options if source else {}).items() if key in known}
    method = build(cls, {**trained, **cell.method_options}, f"method {cell.method}")
    if "levels" in trained and method.levels != int(trained["levels"]):
        assert source is not None
        raise UsageError(
            f"{source.name} was trained with {trained['levels']} levels, not {method.levels}.",
            "Leave levels out, or train a network with them.",
        )
    return method  # type: ignore[no-any-return]


def training_method(name: str, method: ConversionMethod, known: dict[str, Scalar]) -> ConversionMethod:
    """The method called `name`, whose activations the network has, with options of `method` where `known` has none."""
    cls = registry.load("methods", name)
    shared = {item.name for item in dataclasses.fields(cls)}
    options = {key: value for key, value in method.options().items() if key in shared}
    return build(cls, {**options, **known}, f"method {name}")  # type: ignore[no-any-return]


def build_network(source: Source, method: ConversionMethod, model: str, images: Images) -> nn.Module:
    """The network that `method` converts, with its weights, in eval mode.

    Raises CheckpointError if the weights do not fit, UsageError if they are of another kind than the method converts or
    do not say their levels, Incompatible if the method cannot convert this backbone.
    """
    _, channels, size, _ = images.pixels.shape
    ann = backbones.build(model, channels, images.num_classes, size)
    state = translate(read_weights(source.path), model).state
    if source.method == RELU:
        load_into(ann, state, source.path, model)
        check_kind(source, method.name)
        return prepared_by(method, ann, model).eval()
    quantised = prepared_by(training_method(source.method, method, source.options), ann, model)
    load_into(quantised, state, source.path, model)
    check_kind(source, method.name)
    if kind_of(source.method) == "quantised" and "levels" not in source.options:
        raise UsageError(
            f"{source.name} does not say how many levels its activations have.", "Say it with: --set levels=L"
        )
    return quantised.eval()


def prepared_by(method: ConversionMethod, ann: nn.Module, model: str) -> nn.Module:
    """`method.prepare(ann)`. Raises Incompatible with the reason if it cannot."""
    from methods.errors import ConversionError

    try:
        return method.prepare(ann)
    except ConversionError as error:
        raise Incompatible(f"{method.name} cannot convert {model}: {error}") from error


class _Brief:
    """Tells of a training in one line."""

    def __init__(self, say: Callable[[str], None]):
        self._say: Callable[[str], None] | None = say

    def say(self, text: str) -> None:
        if self._say is not None:
            self._say(f"{text}; kept for later runs")
            self._say = None

    def bar(self, title: str, total: int, done: int = 0) -> AbstractContextManager[Callable[[int], None]]:
        return nullcontext(lambda count: None)


def train_embedded(
    cell: Cell,
    model: str,
    method: ConversionMethod,
    dataset: ImageDataset,
    store: ResultStore,
    say: Callable[[str], None],
) -> Source:
    """Train a network for an embedded dataset once; later runs find it in the results folder."""
    from benchmark.training.command import train
    from benchmark.training.presets import PRESETS
    from benchmark.training.recipe import Recipe
    from benchmark.training.spec import TrainCell, TrainExec

    name = trained_as(cell.method)
    options = training_method(name, method, {}).options() if name != RELU else {}
    request = TrainCell(
        method=name,
        method_options=options,
        dataset=cell.dataset,
        data_dir=cell.data_dir,
        model=model,
        recipe=Recipe(**PRESETS["embedded"].recipe, seed=cell.seed),
    )
    execution = TrainExec(device="cpu", distributed=False)
    record, path, _ = train(request, store, execution, _Brief(say))
    stored = read_card(path)
    assert stored is not None
    return Source(
        path, f"trained:{record.id}", name, stored.method_options, dataset.preprocessing, stored, stored.flags
    )
