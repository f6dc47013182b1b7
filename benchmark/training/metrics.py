"""The curves of a training as files: CSV and JSON always, TensorBoard where it is installed."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmark.store import write_atomic
from benchmark.training.record import Epoch


class Metrics:
    """`metrics.csv` and `metrics.json` in a folder, rewritten after every epoch, and a TensorBoard log beside them."""

    def __init__(self, folder: Path):
        self._folder = folder

    def write(self, history: Sequence[Epoch]) -> None:
        """All finished epochs."""
        rows = [epoch.model_dump() for epoch in history]
        table = io.StringIO()
        writer = csv.DictWriter(table, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(self._folder / "metrics.csv", table.getvalue().encode())
        write_atomic(self._folder / "metrics.json", (json.dumps(rows, indent=2) + "\n").encode())
        if importlib.util.find_spec("tensorboard") is not None:
            self._log(history[-1])

    @cached_property
    def _board(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self._folder / "tensorboard"))

    def _log(self, epoch: Epoch) -> None:
        for name, value in epoch.model_dump(exclude={"epoch"}).items():
            if value is not None:
                self._board.add_scalar(name, value, epoch.epoch)
        self._board.flush()
