"""The command line. Heavy imports stand inside the handlers, so that help and listings need no torch."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import NoReturn

import click

from benchmark.cli.collect import collect
from benchmark.cli.doctor import doctor
from benchmark.cli.jobs import cancel, logs
from benchmark.cli.leaderboard import leaderboard
from benchmark.cli.listing import listing
from benchmark.cli.prepare import prepare
from benchmark.cli.publish import publish
from benchmark.cli.records import compare, show
from benchmark.cli.replay import replay
from benchmark.cli.report import report
from benchmark.cli.run import run
from benchmark.cli.selftest import selftest
from benchmark.cli.status import status
from benchmark.cli.suggesting import Suggesting
from benchmark.cli.sweep import sweep
from benchmark.cli.train import train
from benchmark.errors import EXIT_FAILED, EXIT_INTERRUPTED, BenchmarkError


@click.group(
    cls=Suggesting,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  python -m benchmark run                       digits, trained in seconds, offline
  python -m benchmark run --dataset cifar10 --data-dir DIR
  python -m benchmark list methods
  python -m benchmark leaderboard --check

\b
Exit codes: 0 done, 1 a run failed, 2 usage, 3 leaderboard stale, 130 interrupted.""",
)
@click.version_option(version("dynconf-bench"), prog_name="dynconf-bench")
def cli() -> None:
    """Reference benchmark for low-latency spiking neural networks."""


for command in (
    run,
    sweep,
    status,
    logs,
    cancel,
    collect,
    train,
    replay,
    report,
    leaderboard,
    listing,
    show,
    compare,
    prepare,
    publish,
    doctor,
    selftest,
):
    cli.add_command(command)


def main() -> NoReturn:
    """Run the command line and exit with one of the documented codes."""
    try:
        code = cli.main(prog_name="python -m benchmark", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BenchmarkError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a folder that may not be written
        click.echo(f"error: {error}", err=True)
        sys.exit(EXIT_FAILED)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; run the same command again to go on", err=True)
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)
