"""From a request for a training to data, networks and the `TrainSpec`; whatever is wrong is said before anything is trained."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from benchmark import backbones, registry, weights
from benchmark.checkpoints import load_into, read_weights
from benchmark.data import recorded_name
from benchmark.data.images import ImageDataset, Images, Preprocessing
from benchmark.errors import UsageError
from benchmark.foreign import translate
from benchmark.loading import normalise
from benchmark.options import build
from benchmark.spec import Weights
from benchmark.store import sha256_of
from benchmark.training.objective import Teacher
from benchmark.training.spec import TrainCell, TrainSpec
from benchmark.training.thresholds import initialise_thresholds

if TYPE_CHECKING:
    from methods.base import ConversionMethod

FIRST = 500  # training images that thresholds start on


@dataclass(frozen=True)
class PreparedTraining:
    """Everything a training needs, on the CPU. `method` is None where a plain ReLU network is trained."""

    spec: TrainSpec
    method: ConversionMethod | None
    train: Images
    calibration: Images
    preprocessing: Preprocessing
    init: weights.Source | None
    teacher: weights.Source | None
    flags: tuple[str, ...]


def prepare_training(cell: TrainCell) -> PreparedTraining:
    """Read the data, find the weights to start from and the teacher's, and fix the spec.

    Raises UsageError, DataError and their kin; nothing has been written then.
    """
    entry = registry.entry("datasets", cell.dataset)
    model = cell.model or getattr(entry, "model", None)
    if model is None:
        raise UsageError(f"dataset {cell.dataset!r} has no default backbone; pass --model.")
    backbones.check(model)
    name = weights.trained_as(cell.method)
    method = _method(name, cell)
    if cell.recipe.distill and cell.teacher is None:
        raise UsageError("a distillation needs a teacher.", "Pass --teacher FILE, zoo:NAME or timm:NAME.")
    init = weights.describe(cell.init, model) if cell.init else None
    if init is not None and init.stated and weights.kind_of(init.method) == "spiking" != weights.kind_of(name):
        raise UsageError(f"{init.name} is a spiking network; {name} cannot start from it.")
    teacher_model = cell.teacher_model or model
    teacher = weights.describe(cell.teacher, teacher_model) if cell.teacher else None
    if teacher is not None and teacher.stated and teacher.method != weights.RELU:
        raise UsageError(f"{teacher.name} has quantised activations ({teacher.method}); a teacher has none.")
    dataset: ImageDataset = registry.load("datasets", cell.dataset)(Path(cell.data_dir) if cell.data_dir else None)
    if "train" not in dataset.splits:
        raise UsageError(f"this copy of {cell.dataset} has no training images.")
    given = Preprocessing.from_dict(cell.preprocessing) if cell.preprocessing else None
    preprocessing = given or (init.preprocessing if init else None) or dataset.preprocessing
    dataset = dataset.viewed(preprocessing)
    whole = dataset.split("train")
    train, calibration = whole.first(cell.limit), dataset.split("calibration")
    for images in (train, calibration):
        images.check()
    spec = TrainSpec(
        method=name,
        method_options=method.options() if method is not None else {},
        dataset=recorded_name(cell.dataset),
        training_fingerprint=train.fingerprint,
        calibration_fingerprint=calibration.fingerprint,
        model=model,
        init=Weights(source=init.name, sha256=sha256_of(init.path)) if init else None,
        teacher=Weights(source=teacher.name, sha256=sha256_of(teacher.path)) if teacher else None,
        teacher_model=teacher_model if teacher else None,
        preprocessing=preprocessing.to_dict(),
        recipe=cell.recipe,
        limit=cell.limit,
    )
    inherited = init.flags if init is not None else ()
    flags = tuple(dict.fromkeys((*dataset.flags(whole), *cell.flags, *inherited)))
    return PreparedTraining(spec, method, train, calibration, preprocessing, init, teacher, flags)


def _method(name: str, cell: TrainCell) -> ConversionMethod | None:
    if name == weights.RELU:
        if cell.method_options:
            raise UsageError(f"{cell.method} converts plain ReLU networks; these have no options to be trained with.")
        return None
    return build(registry.load("methods", name), cell.method_options, f"method {name}")  # type: ignore[no-any-return]


def new_network(prepared: PreparedTraining) -> nn.Module:
    """The network to train, seeded, with the weights it starts from and its thresholds where they start.

    Raises CheckpointError if weights do not fit, Incompatible if the method cannot have this backbone.
    """
    spec, method, init = prepared.spec, prepared.method, prepared.init
    _, channels, size, _ = prepared.train.pixels.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.recipe.seed)
        network = backbones.build(spec.model, channels, prepared.train.num_classes, size)
        if init is None:
            if method is not None:
                network = weights.prepared_by(method, network, spec.model)
        else:
            network = _started(prepared, network, init)
    from_relu = init is not None and init.method == weights.RELU
    quantile = spec.recipe.threshold_quantile
    if method is not None and quantile is not None and (from_relu or (init is None and spec.recipe.start_thresholds)):
        initialise_thresholds(network, first_batch(prepared.train, prepared.preprocessing), quantile)
    return network


def _started(prepared: PreparedTraining, ann: nn.Module, init: weights.Source) -> nn.Module:
    spec, method = prepared.spec, prepared.method
    state = translate(read_weights(init.path), spec.model).state
    if init.method == weights.RELU:
        load_into(ann, state, init.path, spec.model)
        return weights.prepared_by(method, ann, spec.model) if method is not None else ann
    if method is None or method.name != init.method:
        raise UsageError(
            f"{init.name} has the activations of {init.method}, not of {spec.method}.",
            "Start from a ReLU network, or from one that was trained for the same method.",
        )
    if "levels" in init.options and int(init.options["levels"]) != method.options().get("levels"):
        raise UsageError(f"{init.name} was trained with {init.options['levels']} levels: pass --set levels=...")
    network = weights.prepared_by(method, ann, spec.model)
    load_into(network, state, init.path, spec.model)
    return network


def teacher_of(prepared: PreparedTraining) -> Teacher | None:
    """The teacher in eval mode on the CPU, if there is one. Raises CheckpointError if its weights do not fit."""
    source, spec = prepared.teacher, prepared.spec
    if source is None or spec.teacher_model is None:
        return None
    _, channels, size, _ = prepared.train.pixels.shape
    network = backbones.build(spec.teacher_model, channels, prepared.train.num_classes, size)
    load_into(network, translate(read_weights(source.path), spec.teacher_model).state, source.path, spec.teacher_model)
    its = source.preprocessing or prepared.preprocessing
    # The pictures are framed for the student.
    its = dataclasses.replace(its, resize=prepared.preprocessing.resize, crop=prepared.preprocessing.crop)
    return Teacher(network.eval(), its, prepared.preprocessing)


def first_batch(images: Images, preprocessing: Preprocessing, count: int = FIRST) -> Tensor:
    """The first training images as network input, to start thresholds on."""
    return normalise(torch.from_numpy(images.pixels[:count]), preprocessing)
