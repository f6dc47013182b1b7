"""A sweep file (TOML) as tasks. Whatever is wrong is said with file and line; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmark import registry
from benchmark.sweeps.rows import Rows
from benchmark.sweeps.tasks import CellTask, Task, TrainingTask
from benchmark.sweeps.toml_file import toml_files


@dataclass(frozen=True)
class Sweep:
    """What a sweep file asks for: every task once, trainings first, in the order of the file."""

    name: str
    tasks: tuple[Task, ...]
    plugins: tuple[str, ...] = ()


def load_sweep(path: Path) -> Sweep:
    """Read and check a sweep file.

    Names, types and combinations are checked here; options of methods and rules by `option_checks`, because their types are
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
