"""What sweeps cost on a cluster, beside a script that hands the same cells over by submitit alone.

python -m slurm.bench                        on the cluster of this machine
python -m slurm.bench --partition gpu --account lab --folder /shared/tmp/bench
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import click
from tabulate import tabulate

SWEEP = """
[defaults]
dataset = "synthetic"
timesteps = 3
limit = 16
calibration-size = 16
[[cells]]
method = "qcfs"
seed = {seeds}
"""

BENCHMARK = (sys.executable, "-m", "benchmark")

# What somebody would write who has submitit and `benchmark.runner`; the parameters are those that a sweep asks for.
BARE = """
import json, sys
from pathlib import Path
import submitit
from benchmark.runner import run_in_folder
from benchmark.spec import Cell, ExecSpec
folder, count, parameters = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
executor = submitit.SlurmExecutor(folder / "logs")
executor.update_parameters(**parameters)
small = {"method": "qcfs", "dataset": "synthetic", "timesteps": 3, "limit": 16, "calibration_size": 16}
cells = [Cell(**small, seed=seed) for seed in range(count)]
jobs = executor.map_array(run_in_folder, cells, [folder / "results"] * count, [ExecSpec()] * count)
print(jobs[0].job_id.partition("_")[0])
"""


@dataclass(frozen=True)
class Lab:
    """Where it is measured: one folder, and what every job asks for."""

    folder: Path
    asked: dict[str, object]

    def seconds(self, *command: str, code: int = 0) -> tuple[float, str]:
        """What a command takes that exits with `code`, start of Python included, and what it prints."""
        start = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, check=False)  # noqa: S603  # our words
        taken = time.monotonic() - start
        if done.returncode != code:
            raise click.ClickException(done.stderr.strip())
        return taken, done.stdout

    def sweep(self, count: int, name: str, held: bool) -> tuple[str, ...]:
        """A sweep file and a profile; the command that submits it."""
        (self.folder / f"{name}.toml").write_text(SWEEP.format(seeds=list(range(count))))
        lines = [f"{key.replace('_', '-')} = {json.dumps(value)}" for key, value in self.asked.items()]
        profile = self.folder / f"{name}.slurm.toml"
        profile.write_text("\n".join([*lines, f"extra = {{ hold = {str(held).lower()} }}" if held else ""]))
        own = ("sweep", f"{name}.toml", "--cluster", "slurm", "--profile-file", str(profile))
        return (*BENCHMARK, *own, "--results", str(self.folder / name))

    def bare(self, count: int, name: str, held: bool) -> tuple[str, ...]:
        """The command that submits the same cells without us."""
        parameters = {"job_name": name, "cpus_per_task": 1, **self.asked}
        if held:
            parameters["additional_parameters"] = {"hold": True}
        return (sys.executable, "-c", BARE, str(self.folder / name), str(count), json.dumps(parameters))

    def ended(self, names: Sequence[str]) -> float:
        """Seconds until no job of these names is left."""
        start = time.monotonic()
        while self.seconds("squeue", "-h", "-n", ",".join(names))[1].strip():
            time.sleep(0.1)
        return time.monotonic() - start


def submission(lab: Lab, cells: int) -> dict[str, float]:
    """Seconds of each command for so many cells that wait, on hold, and are cancelled then."""
    name = f"held{uuid.uuid4().hex[:8]}"
    results = ("--results", str(lab.folder / name))
    sweep = lab.sweep(cells, name, held=True)
    found = {"submit": lab.seconds(*sweep)[0]}
    found["submit again: nothing"] = lab.seconds(*sweep)[0]
    found["status"] = lab.seconds(*BENCHMARK, "status", *results, code=1)[0]  # nothing is done
    found["cancel"] = lab.seconds(*BENCHMARK, "cancel", *results)[0]
    found["bare"], job = lab.seconds(*lab.bare(cells, f"{name}-bare", held=True))
    lab.seconds("scancel", job.strip())
    return found


def running(lab: Lab, cells: int) -> dict[str, float]:
    """Seconds from the submission to the last end, ours and bare."""
    name = f"run{uuid.uuid4().hex[:8]}"
    before = lab.seconds(*lab.sweep(cells, name, held=False))[0]
    (document,) = (lab.folder / name / "sweeps" / name / "submissions").glob("*.json")
    found = {"run": before + lab.ended([f"{name}-{document.stem}"])}
    before = lab.seconds(*lab.bare(cells, f"{name}-bare", held=False))[0]
    found["run bare"] = before + lab.ended([f"{name}-bare"])
    for folder, where in ((name, "synthetic"), (f"{name}-bare", "results/synthetic")):
        records = len(list((lab.folder / folder / where).rglob("*.json")))
        if records != cells:
            raise click.ClickException(f"{records} records of {cells} in {lab.folder / folder}: see the logs there.")
    return found


@click.command()
@click.option("--cells", type=click.IntRange(min=1), default=200, help="Cells that are submitted, on hold.")
@click.option("--run", "ran", type=click.IntRange(min=0), default=16, help="Cells that are run.")
@click.option("--repeats", type=click.IntRange(min=1), default=3, help="The median counts.")
@click.option("--partition", help="Of the jobs.")
@click.option("--account", help="Of the jobs.")
@click.option("--mem", default="2G", help="Of a job.")
@click.option(
    "--folder", type=click.Path(path_type=Path), default=Path("build/slurm-bench"), help="Shared with the nodes."
)
def bench(
    cells: int, ran: int, repeats: int, partition: str | None, account: str | None, mem: str, folder: Path
) -> None:
    """Print seconds of submission, of `status` and of running beside those of bare submitit, and the goals."""
    folder.mkdir(parents=True, exist_ok=True)
    asked = {"partition": partition, "account": account, "mem": mem, "time": 30}
    lab = Lab(folder.absolute(), {key: value for key, value in asked.items() if value is not None})
    repeated = [{**submission(lab, cells), **(running(lab, ran) if ran else {})} for _ in range(repeats)]
    found = {key: median(each[key] for each in repeated) for key in repeated[0]}
    goals = {"submit": 2.0, "status": 1.0}
    rows = [
        [key, seconds, min(each[key] for each in repeated), max(each[key] for each in repeated), goals.get(key)]
        for key, seconds in found.items()
    ]
    click.echo(f"{cells} cells submitted, {ran} run; seconds, median of {repeats}\n")
    click.echo(tabulate(rows, ["", "seconds", "least", "most", "goal"], floatfmt=".2f", missingval=""))
    click.echo(f"\nsubmission: {found['submit'] / found['bare'] - 1:+.1%} over bare submitit")
    if ran:
        click.echo(f"running: {found['run'] / found['run bare'] - 1:+.1%} over bare submitit (goal: +10%)")


if __name__ == "__main__":
    bench()
