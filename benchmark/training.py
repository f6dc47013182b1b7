"""Training the quantised ANN: a small loop with momentum SGD, one-cycle cosine schedule and epoch checkpoints.

    python -m benchmark.training --dataset cifar10 --data-dir DIR --model resnet20 --method qcfs --init FILE \
        --epochs 8 --output NAME.safetensors
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark import backbones, registry
from benchmark.checkpoints import Card, load_into, read_weights, write_checkpoint
from benchmark.data.images import Images, Preprocessing
from benchmark.errors import BenchmarkError
from benchmark.foreign import translate
from benchmark.loading import normalise
from benchmark.options import build, parse_settings
from methods.quantisers import UniformQuantiser


@dataclass(frozen=True)
class Recipe:
    """Hyper-parameters. `augment` is `none` or `crop-flip` (pad 4, horizontal flip)."""

    epochs: int
    batch_size: int = 64
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augment: str = "none"
    seed: int = 0


def first_batch(images: Images, preprocessing: Preprocessing, count: int = 500) -> Tensor:
    """The first training images as network input, to initialise thresholds with."""
    return normalise(torch.from_numpy(images.pixels[:count]), preprocessing)


def crop_and_flip(images: Tensor, generator: torch.Generator, padding: int = 4) -> Tensor:
    """Each image [B, C, H, W] shifted by up to `padding` pixels over zeros and mirrored half of the time."""
    count, _, height, width = images.shape
    padded = F.pad(images, [padding] * 4)
    top = torch.randint(0, 2 * padding + 1, (count,), generator=generator)
    left = torch.randint(0, 2 * padding + 1, (count,), generator=generator)
    mirrored = torch.randint(0, 2, (count,), generator=generator).bool()
    columns = torch.where(mirrored[:, None], torch.arange(width - 1, -1, -1), torch.arange(width))
    rows = (top[:, None] + torch.arange(height))[:, None, :, None]
    columns = (left[:, None] + columns)[:, None, None, :]
    index = torch.arange(count)[:, None, None, None]
    channels = torch.arange(images.shape[1])[None, :, None, None]
    return padded[index, channels, rows, columns]


def initialise_thresholds(model: nn.Module, images: Tensor, quantile: float = 0.995) -> None:
    """Set every threshold to a quantile of its positive input, layer by layer on already quantised input."""

    def set_threshold(activation: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(activation, UniformQuantiser)
        values = inputs[0].detach().clamp_min(0).flatten()
        keep = max(1, math.ceil((1 - quantile) * values.numel()))
        activation.set_top(max(float(values.topk(keep).values[-1]), 1e-3))

    activations = [module for module in model.modules() if isinstance(module, UniformQuantiser)]
    handles = [activation.register_forward_pre_hook(set_threshold) for activation in activations]
    was_training = model.training
    model.eval()
    with torch.no_grad():
        model(images)
    model.train(was_training)
    for handle in handles:
        handle.remove()


def train(
    model: nn.Module,
    images: Images,
    preprocessing: Preprocessing,
    recipe: Recipe,
    *,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    resume: Path | None = None,
    after_epoch: Callable[[int, float], None] | None = None,
) -> None:
    """Train `model` in place on the CPU.

    Args:
        model: a quantised ANN.
        images: the training split.
        preprocessing: of the network.
        recipe: hyper-parameters; the same recipe, data, weights and machine give the same result.
        loss: of the network's output and labels [B]; cross entropy by default.
        resume: a file that holds the state after each epoch; training goes on from there.
        after_epoch: called with the number of finished epochs and the mean loss.

    Raises:
        BenchmarkError: the loss became NaN or infinite, or a threshold fell to zero or below.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    steps_per_epoch = len(images) // recipe.batch_size
    optimizer = torch.optim.SGD(
        model.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.lr, total_steps=recipe.epochs * steps_per_epoch, pct_start=0.2, cycle_momentum=False
    )
    first = 0
    if resume is not None and resume.exists():
        state = torch.load(resume, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        generator.set_state(state["generator"])
        first = int(state["epoch"])
    pixels, labels = torch.from_numpy(images.pixels), torch.from_numpy(images.labels)
    for epoch in range(first, recipe.epochs):
        model.train()
        order = torch.randperm(len(labels), generator=generator)
        total = 0.0
        for step in range(steps_per_epoch):
            chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
            batch = normalise(pixels[chosen], preprocessing)
            if recipe.augment == "crop-flip":
                batch = crop_and_flip(batch, generator)
            error = (loss or F.cross_entropy)(model(batch), labels[chosen])
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
            schedule.step()
            total += error.item()
            if not math.isfinite(total):
                raise BenchmarkError(f"training diverged in epoch {epoch + 1}: the loss is {error.item()}.")
        for name, module in model.named_modules():
            if isinstance(module, UniformQuantiser) and not module.top > 0:
                raise BenchmarkError(
                    f"the threshold of {name} fell to {module.top:.3g} in epoch {epoch + 1}; start from a larger threshold."
                )
        if resume is not None:
            write_state(
                resume,
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "epoch": epoch + 1,
                    "schedule": schedule.state_dict(),
                    "generator": generator.get_state(),
                },
            )
        if after_epoch is not None:
            after_epoch(epoch + 1, total / steps_per_epoch)
    model.eval()


def write_state(path: Path, state: dict[str, object]) -> None:
    """Save a training state so that a crash leaves either the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


@torch.no_grad()
def accuracy(model: nn.Module, images: Images, preprocessing: Preprocessing, batch_size: int = 250) -> float:
    """Share of correct answers of an analog network."""
    model.eval()
    right = 0
    for start in range(0, len(images), batch_size):
        batch = normalise(torch.from_numpy(images.pixels[start : start + batch_size]), preprocessing)
        right += int((model(batch).argmax(1) == torch.from_numpy(images.labels[start : start + batch_size])).sum())
    return right / len(images)


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--dataset", required=True, help="Name of the dataset.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where it lies.")
@click.option("--model", required=True, help="Backbone.")
@click.option("--method", default="qcfs", help="Conversion method whose quantised ANN is trained.")
@click.option("--set", "options", multiple=True, metavar="KEY=VALUE", help="Option of the method.")
@click.option(
    "--init", type=click.Path(path_type=Path), help="ReLU checkpoint to start from, in any format that `run` reads."
)
@click.option("--epochs", type=int, required=True)
@click.option("--lr", type=float, default=0.1)
@click.option("--batch-size", type=int, default=64)
@click.option("--augment", type=click.Choice(["none", "crop-flip"]), default="crop-flip")
@click.option("--mean", help="Preprocessing mean, comma-separated, if not the dataset's own.")
@click.option("--std", help="Preprocessing std, comma-separated.")
@click.option("--seed", type=int, default=0)
@click.option("--flag", "flags", multiple=True, help="What a reader of the table must know about these weights.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Checkpoint to write (.safetensors).")
def main(
    dataset: str,
    data_dir: Path | None,
    model: str,
    method: str,
    options: tuple[str, ...],
    init: Path | None,
    epochs: int,
    lr: float,
    batch_size: int,
    augment: str,
    mean: str | None,
    std: str | None,
    seed: int,
    flags: tuple[str, ...],
    output: Path,
) -> None:
    """Train the quantised ANN of a method and write it as a checkpoint with a card."""
    source = registry.load("datasets", dataset)(data_dir)
    recipe = Recipe(epochs=epochs, batch_size=batch_size, lr=lr, augment=augment, seed=seed)
    preprocessing = source.preprocessing
    if mean and std:
        preprocessing = replace(
            preprocessing, mean=tuple(map(float, mean.split(","))), std=tuple(map(float, std.split(",")))
        )
    images = source.split("train")
    torch.manual_seed(seed)
    _, channels, size, _ = images.pixels.shape
    ann = backbones.build(model, channels, images.num_classes, size)
    if init is not None:
        load_into(ann, translate(read_weights(init), model).state, init, model)
    conversion = build(registry.load("methods", method), parse_settings(options), f"method {method}")
    network = conversion.prepare(ann)
    if init is not None:
        initialise_thresholds(network, first_batch(images, preprocessing))
    network = network.to(memory_format=torch.channels_last)
    held_out = source.split("calibration")

    def report(epoch: int, error: float) -> None:
        click.echo(
            f"epoch {epoch}/{epochs}: loss {error:.4f}, calibration {accuracy(network, held_out, preprocessing):.4f}"
        )

    state = output.with_suffix(".state.pt")
    train(network, images, preprocessing, recipe, loss=conversion.loss, resume=state, after_epoch=report)
    card = Card(
        model=model,
        method=method,
        method_options=conversion.options(),
        dataset=dataset,
        num_classes=images.num_classes,
        in_channels=images.pixels.shape[1],
        preprocessing=preprocessing.to_dict(),
        training_fingerprint=images.fingerprint,
        recipe=asdict(recipe),
        trained_from=init.name if init else None,
        calibration_accuracy=accuracy(network, held_out, preprocessing),
        flags=flags,
    )
    write_checkpoint(output, network.state_dict(), card, half=True)


if __name__ == "__main__":
    main()
