"""The processes of one job, for torch: who each is, and where the first one is found."""

from __future__ import annotations

import os

import submitit
from submitit.helpers import TorchDistributedEnvironment


def export_environment() -> None:
    """Set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT where the job has several processes.

    A MASTER_ADDR that is set already, for example in the profile's `setup`, is kept: the name of a node may belong to a slow
    network, or to none.
    """
    if submitit.JobEnvironment().num_tasks == 1:
        return
    found = TorchDistributedEnvironment()
    found.master_addr = os.environ.get("MASTER_ADDR", found.master_addr)
    # A scheduler may show a task all devices of its node or its own alone; which one to take is decided later.
    found.export(set_cuda_visible_devices=False, overwrite=True)
