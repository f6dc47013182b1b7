"""What a page is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.records import Curve, Oracle, PolicyResult, ResultRecord, Static
    from benchmark.report.pictures import Pictures
    from dynconf.policies import Policy
    from dynconf.recording import Recording


@dataclass(frozen=True)
class Rule:
    """A stopping rule on the test images.

    `label` is what the page calls it. `result` holds the numbers: the record's where `recorded`. `policy` is the fitted rule
    and `exits` what it does, int64 [N]; both are None where the rule cannot be fitted here. `doubt` says why not, or how the
    fitted rule differs from the record's.
    """

    label: str
    result: PolicyResult
    recorded: bool
    policy: Policy | None = None
    exits: Tensor | None = None
    doubt: str | None = None

    @property
    def details(self) -> str:
        """The parameters in force and how they came about."""
        shown = [
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in self.result.params.items()
            if isinstance(value, (int, float, str)) and (key != "tolerance" or value)
        ]
        return "; ".join(filter(None, [", ".join(shown), f"selection {self.result.selection}"]))


def labels(names: Sequence[tuple[str, str]]) -> list[str]:
    """A short label for each rule of these names and selections: the name, and as much more as tells the rules apart."""
    plain = [name for name, _ in names]
    found = [name if plain.count(name) == 1 else f"{name} ({selection})" for name, selection in names]
    return [
        label if found.count(label) == 1 else f"{label} #{found[: place + 1].count(label)}"
        for place, label in enumerate(found)
    ]


@dataclass(frozen=True)
class Subject:
    """A run: its numbers, its two recordings, its rules, and, where they can be had, the test images.

    `record` is None for a recording without one; `title` names it then. `scale` is the smoothing scale of the confidences
    that are shown, and `scale_source` says where it is from. `no_pictures` says why there are no images.
    """

    title: str
    record: ResultRecord | None
    calibration: Recording
    test: Recording
    curve: Curve
    static: Static
    oracle: Oracle
    rules: tuple[Rule, ...]
    scale: float
    scale_source: str
    remarks: tuple[str, ...] = ()
    pictures: Pictures | None = None
    no_pictures: str = ""

    @property
    def prelude(self) -> int:
        """Timesteps before the first answer."""
        return self.test.info.prelude_steps

    @cached_property
    def confidence(self) -> Tensor:
        """Of every test image after every timestep, at `scale`; float64 [N, T]."""
        return self.test.evidence.confidence(self.scale)
