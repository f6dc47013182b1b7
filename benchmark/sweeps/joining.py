"""The records of cells that a sweep has recorded in slices."""

from __future__ import annotations

from benchmark import collecting
from benchmark.errors import BenchmarkError
from benchmark.sweeps.folder import RECORDINGS, SweepFolder
from benchmark.sweeps.tasks import CellTask


def join_slices(folder: SweepFolder) -> list[str]:
    """Write the record of every cell whose slices are all done; what keeps one from it, in words.

    A cell with slices that are not done is no problem of joining: their own states tell.
    """
    recordings: dict[str, set[str]] = {}
    for task in folder.plan().tasks:
        if isinstance(task, CellTask) and task.execution.slice is not None:
            whole = task.model_copy(update={"execution": task.execution.model_copy(update={"slice": None})})
            outcome = folder.outcome(task.key)
            made = outcome.files[0] if outcome is not None and outcome.status == "ok" and outcome.files else ""
            recordings.setdefault(whole.key, set()).add(made)
    problems = []
    for names in recordings.values():
        if len(names) != 1 or not (name := names.pop()).startswith(f"{RECORDINGS}/"):
            continue  # not all done, or answered by a record that was there
        try:
            found, damaged = collecting.find(folder.store, (name.removeprefix(f"{RECORDINGS}/"),))
            problems += [str(error) for error in damaged]
            for sliced in found:
                result = collecting.collect(sliced, folder.store)
                problems += [f"recording {name}: {missing}" for missing in result.missing]
        except BenchmarkError as error:
            problems.append(f"{name}: {error}")
    return problems
