"""What a user waits for before anything happens: imports, help, listings, the first result."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import click
import torch

from benchmark.bench.machine import command_line, machine
from benchmark.bench.peer_table import spread
from benchmark.bench.timing import interleaved
from benchmark.provenance import processor_name

ROOT = Path(__file__).resolve().parent.parent.parent

PAGE = Path("bench/STARTUP.md")

BARE = "python -c pass"
FIRST_RESULT = "python -m benchmark run"
STALE = 3  # what --check exits with if the page is not up to date: it took as long

# What is started, and the exit codes that it may have.
COMMANDS: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    BARE: (("-c", "pass"), (0,)),
    'python -c "import torch"': (("-c", "import torch"), (0,)),
    'python -c "import dynconf"': (("-c", "import dynconf"), (0,)),
    'python -c "import methods"': (("-c", "import methods"), (0,)),
    'python -c "from dynconf import record"': (("-c", "from dynconf import record"), (0,)),
    'python -c "import benchmark.cli"': (("-c", "import benchmark.cli"), (0,)),
    "python -m benchmark --help": (("-m", "benchmark", "--help"), (0,)),
    "python -m benchmark list methods": (("-m", "benchmark", "list", "methods"), (0,)),
    "python -m benchmark leaderboard --check": (("-m", "benchmark", "leaderboard", "--check"), (0, STALE)),
    FIRST_RESULT: (("-m", "benchmark", "run"), (0,)),
}


@click.command()
@click.option("--repeats", type=click.IntRange(min=1), default=5)
@click.option(
    "--first-result/--no-first-result", default=True, help="Measure `run` on digits, too, in an empty folder."
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), default=PAGE, help="The page to write.")
def startup(repeats: int, first_result: bool, output: Path) -> None:
    """Seconds of imports, help, listings and a first result, each in a fresh process, beside a bare Python and torch."""
    tasks: dict[str, Callable[[], None]] = {
        name: partial(_start, name, arguments, codes)
        for name, (arguments, codes) in COMMANDS.items()
        if first_result or name != FIRST_RESULT
    }
    place = torch.device("cpu")
    words = machine(place, ("torch",))
    command = command_line()
    seconds = interleaved(tasks, repeats, place)
    click.echo(f"{processor_name()}, {os.cpu_count()} cores, median of {repeats} [min, max]")
    for name, times in seconds.items():
        click.echo(f"  {name:40s} {spread(times):>24s} s  {_above(times, seconds[BARE]):8.3f} s above a bare Python")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page(seconds, words, command))
    click.echo(f"written to {output}: {'; '.join(words)}")


def page(seconds: Mapping[str, Sequence[float]], machine: Sequence[str], command: str) -> str:
    """The whole page in Markdown: seconds of each command, a bare Python among them; `machine` says what measured them."""
    lines = [
        "<!-- Written by `python -m benchmark.bench startup`; edits are lost. -->",
        "",
        "# What a user waits for before anything happens",
        "",
        "Seconds from start to end of a fresh process, median of the repeats [smallest, largest], the commands taking turns,",
        "after one round that fills the caches of files. `run` is on digits, and trains its network, too: its folder is empty.",
        "",
        *(f"- {line}" for line in machine),
        f"- Command: `{command}`",
        "",
        "| | seconds | above a bare Python |",
        "| --- | ---: | ---: |",
    ]
    lines += [f"| `{name}` | {spread(times)} | {_above(times, seconds[BARE]):.3f} |" for name, times in seconds.items()]
    return "\n".join(lines) + "\n"


def _above(times: Sequence[float], bare: Sequence[float]) -> float:
    """Median of the differences, repeat by repeat."""
    return statistics.median(own - base for own, base in zip(times, bare, strict=True))


def _start(name: str, arguments: Sequence[str], codes: Sequence[int]) -> None:
    """Run it to its end: the leaderboard's check where its records are, all else in an empty folder."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(  # noqa: S603
            [sys.executable, *arguments],
            cwd=ROOT if "leaderboard" in arguments else folder,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode not in codes:
        raise click.ClickException(f"{name} exited with {done.returncode}:\n{done.stderr}")
