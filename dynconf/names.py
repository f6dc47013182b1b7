"""The table of stopping rules. Importing it loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class PolicyEntry:
    """Where the class is, the options it starts with, what it does, and where it comes from."""

    target: str
    summary: str
    source: str
    options: Mapping[str, float | int | str] = field(default_factory=dict)


POLICIES: dict[str, PolicyEntry] = {
    "dynamic-confidence": PolicyEntry(
        "dynconf.policies:DynamicConfidence",
        "stop when the smoothed softmax confidence of the summed logits exceeds a calibrated threshold",
        "Li, Jones, Furber, ICCV 2023, arXiv:2303.10276",
    ),
    "dynamic-confidence-reference": PolicyEntry(
        "dynconf.policies:DynamicConfidence",
        "the same with the constants of the released demo: scale 30, threshold 0.6, nothing calibrated",
        "Li, Jones, Furber, ICCV 2023, released code",
        options={"scale": 30.0, "threshold": 0.6},
    ),
    "fixed": PolicyEntry(
        "dynconf.policies:FixedTime",
        "the same number of timesteps for every image; by default the shortest without loss on the calibration images",
        "baseline",
    ),
}
