"""The kernel for GPUs, in Triton's interpreter: spike for spike, membrane for membrane what the eager neurons do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
CHECK = ROOT / "tests" / "made" / "fused_against_eager.py"


def test_in_the_interpreter_the_kernel_is_the_eager_neuron_bit_for_bit():
    pytest.importorskip("triton", reason="torch came without Triton")
    # In a process of its own: whether Triton interprets is settled when it is imported.
    ran = subprocess.run(
        [sys.executable, str(CHECK)],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "all equal"
