"""A real Slurm of several nodes on this machine, for the tests marked `cluster`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ROOT

LAB = ROOT / "tests" / "cluster" / "lab"
INSTALL = "bash tests/cluster/lab/install.sh"

# A method `slow` that waits before each batch, {pause} seconds (an expression) for 64 images, and as long as there is a file
# `held` beside it.
SLOW_PLUGIN = """
import os
import time
from pathlib import Path
from benchmark.registry import register
from methods.qcfs import QCFS

class Slow(QCFS):
    def convert(self, network, calibration=None):
        spiking = super().convert(network, calibration)
        begin = spiking.begin
        def slowly(images):
            time.sleep({pause} * len(images) / 64)  # a network may be given a batch in parts
            while Path(__file__).with_name("held").exists():
                time.sleep(0.1)
            begin(images)
        spiking.begin = slowly
        return spiking

register("methods", "slow", Slow)
"""


@dataclass(frozen=True)
class Cluster:
    """A running cluster: `folder` holds its state, `environment` what its clients need."""

    folder: Path
    environment: dict[str, str]

    def lab(self, script: str, *arguments: str) -> str:
        """Run one of the lab's scripts."""
        done = subprocess.run(
            ["bash", LAB / script, *arguments],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def asked(self, *command: str) -> str:
        """What a command of Slurm prints."""
        done = subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else f"error: {done.stderr}"

    def jobs(self, *more: str) -> list[tuple[str, str, str]]:
        """Id, state and node of every live job, array elements one by one."""
        lines = self.asked("squeue", "-h", "-r", "-o", "%i|%T|%N", *more).splitlines()
        return [tuple(line.split("|")) for line in lines if line.count("|") == 2]  # type: ignore[misc]

    def wait_empty(self, seconds: float) -> None:
        """Until no job is alive."""
        end = time.monotonic() + seconds
        while self.jobs():
            assert time.monotonic() < end, self.jobs()
            time.sleep(0.5)

    def clear(self) -> None:
        """End all jobs; a node that is closed is an error, and open again for the next test."""
        self.asked("scancel", "-u", str(os.getuid()))
        self.wait_empty(240)  # a word that was lost on the way to the controller is said again after two minutes
        assert not (closed := self.closed_nodes()), closed

    def wait_saved(self) -> None:
        """Until the controller has written every live job as it is now to its disk, which it does some seconds late.

        One that is killed before does not know the job when it starts again, gives its number to the next, and closes the node
        on which it finds the old one.
        """
        for job, *_ in self.jobs():
            mark = uuid.uuid4().hex
            self.asked("scontrol", "update", f"jobid={job}", f"comment={mark}")
            end = time.monotonic() + 60
            while mark.encode() not in (self.folder / "state" / "ctld" / "job_state").read_bytes():
                assert time.monotonic() < end, f"job {job} is not saved"
                time.sleep(0.1)

    def processes(self) -> list[int]:
        """The wardens of Slurm (slurmstepd) and everything that they started here."""
        mark = f"SLURM_CONF={self.environment['SLURM_CONF']}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "environ").read_bytes().split(b"\0")
                of_a_job = any(word.startswith(b"SLURM_JOB_ID=") for word in words)
                if mark in words and (of_a_job or (folder / "comm").read_text() == "slurmstepd\n"):
                    found.append(int(folder.name))
            except (OSError, ValueError):  # it has ended
                continue
        return found

    def closed_nodes(self) -> str:
        """The nodes that take no jobs, and why; they are opened."""
        closed = self.asked("sinfo", "-h", "-R", "-o", "%n: %E")
        if closed:
            self.asked("scontrol", "update", f"nodename=n[1-{self.environment['SLURMLAB_NODES']}]", "state=resume")
        return closed


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two nodes of four pretended processors and two pretended GPUs.

    Without accounting, as many small clusters are; SLURMLAB_ACCT=1 tests with it (slurmdbd and mariadb).
    """
    if shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip(f"NO SLURM ON THIS MACHINE: nothing is known about clusters. Install it with: {INSTALL}")
    folder = Path(tempfile.mkdtemp(prefix="lab", dir="/tmp"))  # sockets have short paths
    environment = {
        "SLURMLAB_DIR": str(folder),
        "SLURMLAB_PORT": str(20000 + os.getpid() % 20000),
        "SLURMLAB_ACCT": os.environ.get("SLURMLAB_ACCT", "0"),
        "SLURMLAB_NODES": "2",
        "SLURMLAB_CPUS": "4",
        "SLURMLAB_MEM": "16000",
        "SLURM_CONF": str(folder / "etc" / "slurm.conf"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "OMP_NUM_THREADS": "1",
    }
    running = Cluster(folder, environment)
    try:
        try:
            running.lab("start.sh")
        except AssertionError as error:
            pytest.skip(f"NO SLURM CAN BE STARTED ON THIS MACHINE: nothing is known about clusters. {error}")
        yield running
    finally:
        running.lab("stop.sh", "--purge")


@dataclass(frozen=True)
class Benchmark:
    """The command line on the cluster, with its results in `results`."""

    cluster: Cluster
    folder: Path

    @property
    def results(self) -> Path:
        return self.folder / "r"

    def __call__(
        self, *arguments: object, code: int | None = 0, results: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run it; with `results`, in the folder of that name if the arguments say no other."""
        command = [sys.executable, "-m", "benchmark", *map(str, arguments)]
        if results and "--results" not in arguments:
            command += ["--results", str(self.results)]
        done = subprocess.run(
            command,
            env={**os.environ, **self.cluster.environment},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert code is None or done.returncode == code, done.stdout + done.stderr
        return done

    def write(self, text: str, name: str = "table") -> Path:
        path = self.folder / f"{name}.toml"
        path.write_text(text)
        return path


@pytest.fixture
def benchmark(cluster, tmp_path) -> Iterator[Benchmark]:
    """The command line; no job is left afterwards, and no node closed."""
    yield Benchmark(cluster, tmp_path)
    cluster.clear()
