"""A sweep file (TOML) as tasks. Whatever is wrong is said with file and line; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmark import registry
from benchmark.spec import Cell
from benchmark.sweeps.rows import Rows
from benchmark.sweeps.tasks import CellTask, Task, TrainingTask
from benchmark.sweeps.toml_file import toml_files
from benchmark.weights import RELU


@dataclass(frozen=True)
class Sweep:
    """What a sweep file asks for: every task once, trainings first, in the order of the file."""

    name: str
    tasks: tuple[Task, ...]
    plugins: tuple[str, ...] = ()


def load_sweep(path: Path) -> Sweep:
    """Read and check a sweep file.

    Names, types and combinations are checked here; options of methods and rules by `check_options`, because their types are
    known to the classes alone.

    Raises SweepError naming file and line.
    """
    files = list(toml_files(path))
    plugins = tuple(dict.fromkeys(plugin for file in files for plugin in file.plugins()))
    for plugin in plugins:
        registry.load_plugin(plugin)
    rows = Rows(files)
    tasks: dict[str, Task] = {}
    found: list[CellTask | TrainingTask] = [*rows.trainings(), *rows.cells()]
    for task in found:
        tasks.setdefault(task.key, task)
    if not tasks:
        files[-1].wrong((), "no [[cells]] and no [[trainings]].")
    name = files[-1].text("name") or path.stem
    if not name or Path(name).name != name or name.startswith("."):
        files[-1].wrong(("name",), f"{name!r} cannot be the name of a folder.")
    return Sweep(name, tuple(tasks.values()), plugins)


def check_options(sweep: Sweep) -> None:
    """Check the options of all methods and stopping rules; imports torch. Raises UsageError for the first that is wrong."""
    from benchmark.evaluation import make_policy
    from benchmark.options import build

    seen: set[tuple[str, str]] = set()
    for task in sweep.tasks:
        method, options = task.cell.method, task.cell.method_options
        if method != RELU and (method, repr(options)) not in seen:
            seen.add((method, repr(options)))
            build(registry.load("methods", method), options, f"method {method}")
        for policy in task.cell.policies if isinstance(task.cell, Cell) else ():
            if ("policy", str(policy)) not in seen:
                seen.add(("policy", str(policy)))
                make_policy(policy)
