"""`train`: the network that a method converts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from benchmark.training.presets import AUGMENTATIONS, PRESETS


@click.command(
    epilog="""\b
Examples:
  python -m benchmark train --method qcfs --dataset cifar10 --data-dir DIR
  python -m benchmark train --method relu --dataset cifar10 --preset short-cifar --epochs 20
  python -m benchmark train --method qffs --dataset cifar10 --preset fine-tune --init FILE
  torchrun --nproc-per-node 4 -m benchmark train --method qcfs --dataset imagenet --workers 8

\b
The same command goes on after any stop. Presets:
"""
    + "\n".join(f"  {name:16} {preset.source}" for name, preset in PRESETS.items())
)
@click.option("--method", default="qcfs", show_default=True, help="Method that will convert it; relu for none.")
@click.option("--dataset", required=True, help="What to train on; the calibration split is never trained on.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the dataset lies.")
@click.option("--model", help="Backbone.  [default: the dataset's]")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Option of the method. May be repeated.")
@click.option("--preset", type=click.Choice(list(PRESETS)), help="Recipe to start from.  [default: the paper's]")
@click.option(
    "--init", metavar="FILE|zoo:NAME|timm:NAME", help="Weights to start from, in any format that `run` reads."
)
@click.option("--epochs", type=click.IntRange(min=1))
@click.option("--batch-size", type=click.IntRange(min=1), help="Images a step, over all processes and parts.")
@click.option("--accumulate", type=click.IntRange(min=1), help="Parts that a batch is computed in.")
@click.option("--optimizer", type=click.Choice(["sgd", "adamw"]))
@click.option("--lr", type=float, help="Peak learning rate.")
@click.option("--warmup-epochs", type=float)
@click.option("--momentum", type=float)
@click.option("--weight-decay", type=float)
@click.option("--decay-thresholds/--no-decay-thresholds", default=None, help="Weight decay of thresholds.")
@click.option(
    "--augment", metavar="NAME,NAME", help=f"Any of {', '.join(AUGMENTATIONS)}; none for no augmentation at all."
)
@click.option("--mixup", type=float, help="Alpha of mixup.")
@click.option("--cutmix", type=float, help="Alpha of CutMix.")
@click.option("--label-smoothing", type=float)
@click.option("--teacher", metavar="FILE|zoo:NAME|timm:NAME", help="Full-precision network to distill from.")
@click.option("--teacher-model", help="Its backbone.  [default: that of the student]")
@click.option("--distill", type=float, help="Weight of the teacher in the loss.  [default: 0.5 with --teacher]")
@click.option("--temperature", type=float, help="Of the distillation.")
@click.option("--ema", type=float, help="Decay of an average of the weights, which is then what is kept.")
@click.option("--clip-norm", type=float, help="Largest norm of the gradient.")
@click.option("--precision", type=click.Choice(["fp32", "tf32", "bf16", "fp64"]), help="bf16 is autocast.")
@click.option("--seed", type=click.IntRange(min=0))
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N training images.")
@click.option(
    "--preprocessing", "geometry", multiple=True, metavar="KEY=VALUE", help="As for `run`, where --init carries none."
)
@click.option("--flag", "flags", multiple=True, help="What a reader of the table must know about these weights.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--workers", type=click.IntRange(min=0), default=0, show_default=True, help="Processes that load images.")
@click.option("--channels-last/--no-channels-last", default=True, show_default=True, help="Memory format.")
@click.option("--compile", "compiled", is_flag=True, help="Train through torch.compile.")
@click.option("--sync-batch-norm/--no-sync-batch-norm", default=True, show_default=True, help="With several processes.")
@click.option(
    "--checkpoint-seconds", type=click.FloatRange(min=0), default=300.0, show_default=True, help="Between two states."
)
@click.option("--half", is_flag=True, help="Store the weights in half precision; they are judged so.")
@click.option("--results", type=click.Path(path_type=Path), help="Results folder.  [default: leaderboard/results]")
@click.option(
    "--output", type=click.Path(path_type=Path), help="Checkpoint to write.  [default: in the results folder]"
)
@click.option("--rerun", is_flag=True, help="Start anew even if it is begun or done.")
@click.option("--dry-run", is_flag=True, help="Check everything, print what would be trained, and stop.")
@click.option(
    "--plugin", "plugins", multiple=True, type=click.Path(path_type=Path), help="Python file that registers more."
)
@click.option("--json", "as_json", is_flag=True, help="Print the training record, and nothing else, on stdout.")
def train(
    method: str,
    dataset: str,
    data_dir: Path | None,
    model: str | None,
    settings: tuple[str, ...],
    preset: str | None,
    init: str | None,
    teacher: str | None,
    teacher_model: str | None,
    limit: int | None,
    geometry: tuple[str, ...],
    flags: tuple[str, ...],
    device: str,
    workers: int,
    channels_last: bool,
    compiled: bool,
    sync_batch_norm: bool,
    checkpoint_seconds: float,
    half: bool,
    results: Path | None,
    output: Path | None,
    rerun: bool,
    dry_run: bool,
    plugins: tuple[Path, ...],
    as_json: bool,
    **changes: Any,
) -> None:
    """Train the network that a method needs: quantised, spiking, or plain ReLU.

    Writes a checkpoint with a card, a training record and the curves. The epoch that is kept is chosen on the calibration
    split, never on test images. Without recipe options: the recipe of the method's paper for this kind of dataset.
    """
    from benchmark import registry
    from benchmark.errors import UsageError
    from benchmark.options import parse_preprocessing, parse_settings
    from benchmark.training.request import training_cell
    from benchmark.training.spec import TrainExec

    for plugin in plugins:
        registry.load_plugin(plugin)
    if method != "relu":
        registry.entry("methods", method)
    registry.entry("datasets", dataset)
    if model is not None and not model.startswith("timm:"):
        registry.entry("models", model)
    if output is not None and output.suffix != ".safetensors":
        raise UsageError(f"--output {output} must end with .safetensors.")

    cell = training_cell(
        method=method,
        method_options=dict(parse_settings(settings)),
        dataset=dataset,
        data_dir=str(data_dir) if data_dir else None,
        model=model,
        preset=preset,
        init=init,
        teacher=teacher,
        teacher_model=teacher_model,
        changes=changes,
        limit=limit,
        preprocessing=parse_preprocessing(geometry),
        flags=flags,
    )
    execution = TrainExec(
        device=device,  # type: ignore[arg-type]  # click has checked the choice
        workers=workers,
        channels_last=channels_last,
        compile=compiled,
        sync_batch_norm=sync_batch_norm,
        checkpoint_seconds=checkpoint_seconds,
        half=half,
        rerun=rerun,
        output=output,
        plugins=tuple(map(str, plugins)),
    )
    if dry_run:
        from benchmark.training.prepared import new_network, prepare_training

        prepared = prepare_training(cell)
        new_network(prepared)
        click.echo(prepared.spec.model_dump_json(indent=2))
        return
    _train(cell, execution, results, as_json)


def _train(cell: Any, execution: Any, results: Path | None, as_json: bool) -> None:
    from benchmark.reporting import Console
    from benchmark.store import DEFAULT_RESULTS, ResultStore
    from benchmark.training.command import train as run_training
    from benchmark.training.distributed import leading

    store = ResultStore(results or DEFAULT_RESULTS)
    record, checkpoint, stored = run_training(cell, store, execution, Console())
    if not leading():
        return
    assert record.accuracy is not None
    low, high = record.accuracy.ci95
    click.echo(
        f"{'was there already' if stored else 'wrote'}: {checkpoint}, calibration accuracy {record.accuracy.value:.2%} "
        f"[{low:.2%}, {high:.2%}], epoch {record.best_epoch} of {len(record.epochs)}; training record {record.id}",
        err=as_json,
    )
    if as_json:
        click.echo(record.to_json(), nl=False)
