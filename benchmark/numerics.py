"""Precision and device of a run. fp32 means fp32: TF32 is off unless asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from benchmark.errors import UsageError


def choose_device(name: str) -> torch.device:
    """`auto` takes a GPU if there is one. Raises UsageError for `cuda` without one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "--device cuda: this machine has no usable GPU.", "See what torch finds: python -m benchmark doctor"
        )
    return torch.device(name)


def dtype_of(precision: str) -> torch.dtype:
    """Type of weights and input. bf16 is autocast over float32 weights; membranes are never below float32."""
    return torch.float64 if precision == "fp64" else torch.float32


@contextmanager
def numerics(precision: str, device: torch.device) -> Iterator[None]:
    """Set the flags that decide about rounding, and put them back afterwards."""
    tf32 = precision == "tf32"
    matmul, convolution = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    deterministic, benchmark = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    autocast = torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
    try:
        with autocast:
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, convolution
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic, benchmark


def torch_flags() -> dict[str, bool | int | float | str]:
    """The flags in force, for provenance."""
    return {
        "cuda.matmul.allow_tf32": torch.backends.cuda.matmul.allow_tf32,
        "cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn.deterministic": torch.backends.cudnn.deterministic,
        "num_threads": torch.get_num_threads(),
        "cuda": torch.version.cuda or "",
    }
