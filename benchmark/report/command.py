"""The command that makes a record again."""

from __future__ import annotations

import shlex
from typing import Any

from benchmark.spec import RunSpec, Scalar


def reproduce(spec: RunSpec) -> str:
    """`python -m benchmark run ...` on one line, with every option that counts; FILE stands for weights of the user's own."""
    return " ".join(["python -m benchmark run", *_options(spec)])


def reproduce_in_lines(spec: RunSpec) -> str:
    """The same with one option on each line."""
    return " \\\n    ".join(["python -m benchmark run", *_options(spec)])


def _options(spec: RunSpec) -> list[str]:
    parts: list[str] = ["--method", spec.method, "--dataset", spec.dataset, "--model", spec.model]
    source = spec.weights.source
    if source.startswith(("zoo:", "timm:")):
        parts += ["--checkpoint", source]
    elif not source.startswith("trained:"):
        parts += ["--checkpoint", "FILE"]
    parts += ["--timesteps", str(spec.timesteps)]
    for policy in spec.policies:
        parts += ["--policy", str(policy)]
    for key, value in sorted(spec.method_options.items()):
        parts += ["--set", f"{key}={_text(value)}"]
    for key, value in sorted((spec.preprocessing or {}).items()):
        parts += ["--preprocessing", f"{key}={_text(value)}"]
    if spec.limit is not None:
        parts += ["--limit", str(spec.limit)]
    if spec.calibration_size is not None:
        parts += ["--calibration-size", str(spec.calibration_size)]
    parts += ["--seed", str(spec.seed), "--precision", spec.precision]
    return [f"{name} {shlex.quote(value)}" for name, value in zip(parts[::2], parts[1::2], strict=True)]


def _text(value: Scalar | list[Any]) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
