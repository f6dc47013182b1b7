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

from typing import Any

import click

from benchmark.bench.board import board
from benchmark.bench.early_exit import early_exit
from benchmark.bench.equal_exits import exits
from benchmark.bench.full_size import full_size
from benchmark.bench.growth import growth
from benchmark.bench.memory import memory
from benchmark.bench.peers import peers
from benchmark.bench.replaying import replaying
from benchmark.bench.simulation import simulation
from benchmark.bench.startup import startup
from benchmark.bench.thresholds import thresholds
from benchmark.errors import BenchmarkError


class _Plain(click.Group):
    """Errors that a user can act on are told in a line or two, not as tracebacks."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BenchmarkError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)


@click.group(
    cls=_Plain,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.pass_context
def main(context: click.Context) -> None:
    """Print the cost of simulation and of replay beside their goals."""
    if context.invoked_subcommand is None:
        context.invoke(simulation)
        context.invoke(thresholds)


for command in (simulation, thresholds, memory, early_exit, exits, replaying, full_size, board, peers, growth, startup):
    main.add_command(command)
