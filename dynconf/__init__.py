"""When may a spiking network stop? Recordings, stopping rules, calibration, oracles, statistics, online inference.

Needs torch, scipy and safetensors; works on any network that is simulated one timestep at a time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynconf.online import DynamicInference
    from dynconf.policies import DynamicConfidence, FixedTime, Policy
    from dynconf.recorder import record
    from dynconf.recording import Recording

_PUBLIC = {
    "DynamicConfidence": "dynconf.policies",
    "DynamicInference": "dynconf.online",
    "FixedTime": "dynconf.policies",
    "Policy": "dynconf.policies",
    "Recording": "dynconf.recording",
    "record": "dynconf.recorder",
}

__all__ = ["DynamicConfidence", "DynamicInference", "FixedTime", "Policy", "Recording", "record"]


def __getattr__(name: str) -> Any:
    # The names come with torch; the table in dynconf.names must not.
    if name not in _PUBLIC:
        raise AttributeError(f"module 'dynconf' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
