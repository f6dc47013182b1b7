"""The kernel for GPUs, in Triton's interpreter: spike for spike, membrane for membrane what the eager neurons do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def last_line(script: str, *options: str, **environment: str) -> str:
    """What a script of tests/made says last. In a process of its own: Triton settles when imported whether it interprets."""
    pytest.importorskip("triton", reason="torch came without Triton")
    ran = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "made" / script), *options],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()[-1]


def test_in_the_interpreter_the_kernel_is_the_eager_neuron_bit_for_bit():
    assert last_line("fused_against_eager.py", TRITON_INTERPRET="1") == "all equal"


@pytest.mark.parametrize("which", [(), pytest.param(("--all",), marks=pytest.mark.slow)], ids=["some", "all"])
def test_in_the_interpreter_a_network_gives_the_same_where_the_kernel_computes_several_timesteps_at_once(which):
    assert last_line("folded_against_stepwise.py", *which, TRITON_INTERPRET="1") == "all equal"


@pytest.mark.slow
def test_the_kernel_compiles_for_a_gpu(tmp_path):
    assert last_line("fused_for_gpus.py", TRITON_CACHE_DIR=str(tmp_path)) == "all compiled"
