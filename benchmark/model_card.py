"""The README.md of a published checkpoint: what the Hugging Face Hub reads, what people read, how to run it here."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmark import hub, registry
from benchmark.card import Card
from benchmark.locating import ZOO
from benchmark.tensor_files import SUFFIX

if TYPE_CHECKING:
    from benchmark.training.record import TrainingRecord

LIBRARY = "dynconf-bench"
TASK = "image-classification"
# Where the images are on the Hub, and the part that our calibration split was taken from.
ON_THE_HUB = {
    "cifar10": ("uoft-cs/cifar10", "train"),
    "cifar100": ("uoft-cs/cifar100", "train"),
    "fashion-mnist": ("zalando-datasets/fashion_mnist", "train"),
    "imagenet": ("ILSVRC/imagenet-1k", "validation"),
}
OWN_LICENSE = "apache-2.0"
UNKNOWN_LICENSE = "unknown"


@dataclass(frozen=True)
class Published:
    """What a model card is about.

    Attributes:
        name: NAME, or ORG/NAME where the repository is known.
        sha256: of the file of weights.
        license: identifier of the Hub, None if nobody has said one.
        training: the record of the training, if it lies in the folder.
        plugins: file names of the plug-ins that the network needs.
    """

    name: str
    card: Card
    sha256: str
    license: str | None = None
    training: TrainingRecord | None = None
    plugins: tuple[str, ...] = ()

    @property
    def license_id(self) -> str:
        """Ours for what was trained from nothing; other weights bring a licence of their own."""
        return self.license or (OWN_LICENSE if self.card.trained_from is None else UNKNOWN_LICENSE)


def model_card(published: Published) -> str:
    """Front matter and text, checked by the Hub's own reader."""
    from huggingface_hub import ModelCard

    parts = [f"---\n{_metadata(published).to_yaml()}\n---", *_text(published)]
    return str(ModelCard("\n\n".join(parts) + "\n", ignore_metadata_errors=False).content)


def run_command(published: Published, checkpoint: str) -> str:
    """The command that converts these weights and judges the result; DIR stands for where the dataset lies."""
    card = published.card
    kind, colon, _ = card.dataset.partition(":")  # imagefolder:NAME, where a user has a path
    dataset = f"{kind}:DIR" if colon else card.dataset
    parts = ["--method", _converter(card), "--dataset", dataset, "--model", card.model, "--checkpoint", checkpoint]
    if not colon and not getattr(registry.entries("datasets").get(dataset), "embedded", False):
        parts += ["--data-dir", "DIR"]
    for plugin in published.plugins:
        parts += ["--plugin", plugin]
    return f"python -m benchmark run {shlex.join(parts)}"


def _converter(card: Card) -> str:
    """A method that takes these weights: their own, or one for plain networks."""
    if card.method != "relu":
        return card.method
    methods = registry.entries("methods")
    return min(name for name, entry in methods.items() if getattr(entry, "network", "") == "relu")


def _metadata(published: Published) -> Any:
    from huggingface_hub import ModelCardData

    card = published.card
    results = _results(published)
    return ModelCardData(
        base_model=_base_model(card),
        license=published.license_id,
        library_name=LIBRARY,
        pipeline_tag=TASK,
        tags=["spiking-neural-networks", "ann-to-snn-conversion", TASK, card.method, card.model],
        datasets=[ON_THE_HUB[card.dataset][0]] if card.dataset in ON_THE_HUB else None,
        metrics=["accuracy"] if card.calibration_accuracy is not None else None,
        model_name=published.name.rpartition("/")[2] if results else None,
        eval_results=results,
    )


def _base_model(card: Card) -> str | None:
    """The repository that training started from, where it was one of the Hub."""
    origin = card.trained_from or ""
    return hub.parse(origin.removeprefix(ZOO)).repository if origin.startswith(ZOO) and "/" in origin else None


def _results(published: Published) -> list[Any] | None:
    """The calibration accuracy as a result that others can repeat: on known images of a public dataset.

    None where that would say too much: the images are unknown, or the weights carry a remark that such a line cannot.
    """
    from huggingface_hub import EvalResult

    card = published.card
    complete = None not in (card.calibration_accuracy, card.calibration_fingerprint, card.calibration_images)
    if not complete or card.flags or card.dataset not in ON_THE_HUB:
        return None
    repository, part = ON_THE_HUB[card.dataset]
    return [
        EvalResult(
            task_type=TASK,
            dataset_type=repository,
            dataset_name=f"{card.dataset}, calibration split: {card.calibration_images} images of the {part} part",
            dataset_split=part,
            dataset_args={"subset": "calibration", "fingerprint": card.calibration_fingerprint},
            metric_type="accuracy",
            metric_name="accuracy of the analog network on the calibration split, not on test images",
            metric_value=card.calibration_accuracy,
        )
    ]


def _text(published: Published) -> list[str]:
    card = published.card
    what = "A plain ReLU network" if card.method == "relu" else f"A network trained for the conversion `{card.method}`"
    return [
        f"# {published.name}",
        f"{what}: `{_line(card.model)}` on `{_line(card.dataset)}`, {card.num_classes} classes. It becomes a spiking network"
        " in dynconf-bench, a reference benchmark for low-latency spiking neural networks.",
        "## Run it",
        *_commands(published),
        "## What it is",
        _table(_facts(published)),
        *_accuracy(published),
        *_flags(card),
        *_training(published),
        *_license(published),
    ]


def _commands(published: Published) -> list[str]:
    repository = published.name if "/" in published.name else f"ORG/{published.name}"
    whose = "" if "/" in published.name else "; `ORG` is the account that this repository is under"
    where = "; `DIR` is where the dataset lies" if "DIR" in run_command(published, "") else ""
    here = run_command(published, f"model{SUFFIX}")
    there = f"python -m benchmark prepare zoo:{repository}\n{run_command(published, f'zoo:{repository}')}"
    return [
        f"In this folder, with dynconf-bench installed{where}:",
        f"```\n{here}\n```",
        f"From the Hugging Face Hub, where only the first command downloads{whose}:",
        f"```\n{there}\n```",
    ]


def _facts(published: Published) -> dict[str, str]:
    card = published.card
    options = ", ".join(f"{key} = {value}" for key, value in sorted(card.method_options.items()))
    values = ", ".join(f"{key} = {value}" for key, value in card.preprocessing.items())
    facts = {
        "backbone": f"`{_line(card.model)}`, {card.in_channels} input channel(s), {card.num_classes} classes",
        "trained for": f"`{_line(card.method)}`{f' ({options})' if options else ''}",
        "dataset": f"`{_line(card.dataset)}`, training images with fingerprint `{_line(card.training_fingerprint)}`",
        "preprocessing": f"(pixels / divisor - mean) / std, with {values}",
        "trained from": None if card.trained_from is None else f"`{_line(card.trained_from)}`",
        "recipe": ", ".join(f"{key} = {value}" for key, value in sorted(card.recipe.items())) or None,
        f"sha256 of model{SUFFIX}": f"`{published.sha256}`",
    }
    return {key: value for key, value in facts.items() if value is not None}


def _accuracy(published: Published) -> list[str]:
    card = published.card
    if card.calibration_accuracy is None:
        return ["## Accuracy", "Its card names no accuracy."]
    images = "" if card.calibration_images is None else f" {card.calibration_images:,} images,"
    known = f" fingerprint `{_line(card.calibration_fingerprint)}`" if card.calibration_fingerprint is not None else ""
    which = f" ({f'{images}{known}'.strip().rstrip(',')})" if images or known else ""
    chosen = " The epoch was chosen by it, so it is a little too high." if published.training is not None else ""
    return [
        "## Accuracy",
        f"**{100 * card.calibration_accuracy:.2f}% on the calibration split**{which}, of the analog network, before it becomes"
        f" a spiking one.{chosen} Nothing was measured on test images for this card: accuracy, latency and spikes on those are"
        " in the record that the command above writes.",
    ]


def _flags(card: Card) -> list[str]:
    return ["## What a reader must know", "\n".join(f"* {_line(flag)}" for flag in card.flags)] if card.flags else []


def _training(published: Published) -> list[str]:
    identity = published.card.training_record or (published.training.id if published.training is not None else None)
    if identity is None:
        return ["## Training", "There is no record of the training."]
    if published.training is None:
        return ["## Training", f"The record of the training is `{_line(identity)}`; it is not part of this folder."]
    training = published.training
    facts = {
        "epochs": f"{len(training.epochs)}, the weights are those of epoch {training.best_epoch}",
        "training images": f"{training.images:,}",
        "trained parameters": f"{training.parameters:,}",
        "device": _line(training.provenance.device),
        "commit": f"`{training.provenance.git_sha or 'unknown'}`{' with changes' if training.provenance.dirty else ''}",
    }
    return ["## Training", f"Record `{_line(identity)}`, in full in `training.json`.", _table(facts)]


def _license(published: Published) -> list[str]:
    origin = published.card.trained_from
    if published.license is None and origin is not None:
        return ["## Licence", f"Not stated. The weights were trained from `{_line(origin)}`, whose licence counts."]
    return []


def _table(facts: dict[str, str]) -> str:
    rows = [f"| {key} | {_line(value).replace('|', chr(92) + '|')} |" for key, value in facts.items()]
    return "\n".join(["| | |", "|---|---|", *rows])


def _line(text: str | None) -> str:
    """On one line: a line break would end a table or a list."""
    return " ".join(str(text).split())
