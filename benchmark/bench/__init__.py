"""How fast: ratios against a floor that is measured in the same run, because machines are noisy. One file per command.

python -m benchmark.bench                     simulation and thresholds
python -m benchmark.bench simulation --model resnet18 --batch-size 64 --timesteps 8
python -m benchmark.bench thresholds
python -m benchmark.bench memory
python -m benchmark.bench replaying --images 10000 --timesteps 64 --classes 1000
python -m benchmark.bench full-size
python -m benchmark.bench leaderboard --records 10000
python -m benchmark.bench early-exit --model resnet20 --batch-size 64 --timesteps 32
python -m benchmark.bench exits --data-dir DIR --model resnet20 --batch-size 64 --batch-size 512
python -m benchmark.bench peers --model resnet20 --batch-size 1 --batch-size 64 --timesteps 8
python -m benchmark.bench growth --model resnet20 --batch-size 64
python -m benchmark.bench startup

`peers`, `early-exit`, `growth` and `startup` each write a page of their own under bench/.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from benchmark.cli.suggesting import Suggesting
from benchmark.errors import BenchmarkError

# By name: its module, and what `--help` says of it.
COMMANDS = {
    "early-exit": ("early_exit", "How much of the ideal speed-up early exit keeps."),
    "exits": ("equal_exits", "Images that fast simulation answers otherwise than plain code."),
    "full-size": ("full_size", "Memory and time of a whole ImageNet validation, judged."),
    "growth": ("growth", "How time and memory grow with timesteps, images and classes."),
    "leaderboard": ("board", "`leaderboard --check` on many records."),
    "memory": ("memory", "Peak memory of recording and judging at ImageNet's size."),
    "peers": ("peers", "Speed and memory beside forward passes and other simulators."),
    "replaying": ("replaying", "Fit and judge all stopping rules on two recordings."),
    "simulation": ("simulation", "A full recording beside forward passes."),
    "startup": ("startup", "Seconds of imports, help, listings and a first result."),
    "thresholds": ("thresholds", "All thresholds of the grid on one recording."),
}


class _Imported(click.Command):
    """Stands for a command that is imported when it is called: most need torch."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        return self.command.make_context(*args, **kwargs)

    @property
    def command(self) -> click.Command:
        assert self.name is not None
        module = import_module(f"{__name__}.{COMMANDS[self.name][0]}")
        command: click.Command = getattr(module, self.name.replace("-", "_"))
        return command


class _Plain(Suggesting):
    """Errors that a user can act on are told in a line or two, not as tracebacks."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BenchmarkError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)


@click.group(
    cls=_Plain,
    commands=[_Imported(name, help=about) for name, (_, about) in COMMANDS.items()],
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.pass_context
def main(context: click.Context) -> None:
    """Print the cost of simulation and of replay beside their goals."""
    if context.invoked_subcommand is None:
        for name in ("simulation", "thresholds"):
            context.invoke(_Imported(name).command)
