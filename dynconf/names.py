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
    "agreement": PolicyEntry(
        "dynconf.agreement:Agreement",
        "stop when a small learned model of margin, confidence, streak and recent leads says that the answer is the final one",
        "this benchmark",
    ),
    "conformal": PolicyEntry(
        "dynconf.conformal:Conformal",
        "stop at the first of a few checkpoints at which the conformal prediction set is small enough",
        "SpikeCP: Chen, Park, Simeone, arXiv:2305.11322",
    ),
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
    "entropy": PolicyEntry(
        "dynconf.entropy:Entropy",
        "stop when the entropy of the smoothed softmax of the summed logits falls below a calibrated threshold",
        "DT-SNN: Li, Moitra, Geller, Panda, DAC 2023, arXiv:2305.17346",
    ),
    "fixed": PolicyEntry(
        "dynconf.policies:FixedTime",
        "the same number of timesteps for every image; by default the shortest without loss on the calibration images",
        "baseline",
    ),
    "margin": PolicyEntry(
        "dynconf.margin:Margin",
        "stop when the two largest summed logits are further apart than a calibrated threshold; one for all timesteps, or "
        "with per_step=true one for each",
        "Wu, Jin, Yu, Yi, Huang, arXiv:2301.09522",
    ),
    "patience": PolicyEntry(
        "dynconf.patience:Patience",
        "stop when the answer has been the same for a number of timesteps in a row",
        "baseline",
    ),
    "random": PolicyEntry(
        "dynconf.chance:RandomExit",
        "stop by chance, at the rate of another rule on the calibration images: a sanity control",
        "control",
    ),
    "silence": PolicyEntry(
        "dynconf.silence:Silence",
        "stop once a network that settles has come to rest, which changes no answer",
        "exactness of settled networks: Li, Ma, Furber, Front. Neurosci. 2022; You et al., ICML 2024",
    ),
}
