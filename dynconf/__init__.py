"""When may a spiking network stop? Recordings, stopping rules, calibration, oracles, statistics, online inference.

Needs torch, scipy and safetensors; works on any network that is simulated one timestep at a time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynconf.online import DynamicInference
    from dynconf.policies import (
        Agreement,
        Conformal,
        DynamicConfidence,
        Entropy,
        FixedTime,
        Margin,
        Patience,
        Policy,
        RandomExit,
        Silence,
    )
    from dynconf.recorder import record
    from dynconf.recording import Recording

_PUBLIC = {
    "Agreement": "dynconf.policies",
    "Conformal": "dynconf.policies",
    "DynamicConfidence": "dynconf.policies",
    "DynamicInference": "dynconf.online",
    "Entropy": "dynconf.policies",
    "FixedTime": "dynconf.policies",
    "Margin": "dynconf.policies",
    "Patience": "dynconf.policies",
    "Policy": "dynconf.policies",
    "RandomExit": "dynconf.policies",
    "Recording": "dynconf.recording",
    "Silence": "dynconf.policies",
    "record": "dynconf.recorder",
}

__all__ = [
    "Agreement",
    "Conformal",
    "DynamicConfidence",
    "DynamicInference",
    "Entropy",
    "FixedTime",
    "Margin",
    "Patience",
    "Policy",
    "RandomExit",
    "Recording",
    "Silence",
    "record",
]


def __getattr__(name: str) -> Any:
    # The names come with torch; the table in dynconf.names must not.
    if name not in _PUBLIC:
        raise AttributeError(f"module 'dynconf' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
