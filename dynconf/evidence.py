"""What a stopping rule may look at: functions of the running sum of logits, the same online and in replay.

The sum is accumulated in float64 and handed out in float32; everything derived from it is computed in float64, so a
replayed decision equals the online one bit for bit.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

# Smoothing scales that are tried and, for large class numbers, recorded. 30 is the constant of the released demo.
SCALES = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 30.0, 48.0, 64.0, 96.0, 128.0, 192.0, 256.0)
TOP = 5
SCALED_AT_ONCE = 2**15


def log_sum_exp(logits: Tensor, scale: float) -> Tensor:
    """log sum_k exp(logits_k / scale), float64 [...] for float32 logits [..., K]."""
    return torch.logsumexp(logits.double() / scale, dim=-1)


def expected_logit(logits: Tensor, scale: float) -> Tensor:
    """The mean of logits/scale under their own softmax, float32 [...]; gives the entropy."""
    scaled = logits.double() / scale
    return (scaled.softmax(-1) * scaled).sum(-1).float()


class Evidence(ABC):
    """Summed logits after some timesteps, for a batch [B] or for images by timesteps [N, T]."""

    num_classes: int

    @property
    @abstractmethod
    def prediction(self) -> Tensor:
        """The class with the largest sum, int64 [...]; the lowest index among equals."""

    @property
    @abstractmethod
    def top(self) -> Tensor:
        """The largest sums in falling order, float32 [..., min(5, K)]."""

    @abstractmethod
    def log_sum_exp(self, scale: float) -> Tensor:
        """See `log_sum_exp`. Raises KeyError if this scale was not recorded."""

    @abstractmethod
    def expected_logit(self, scale: float) -> Tensor:
        """See `expected_logit`. Raises KeyError if this scale was not recorded."""

    def confidence(self, scale: float) -> Tensor:
        """Largest softmax probability of the sum divided by `scale`, float64 [...] in (0, 1]."""
        return torch.exp(self.top[..., 0].double() / scale - self.log_sum_exp(scale)).clamp_(max=1.0)

    def entropy(self, scale: float) -> Tensor:
        """Entropy of that softmax divided by log K, float64 [...] in [0, 1]."""
        return (self.log_sum_exp(scale) - self.expected_logit(scale).double()).clamp_(min=0.0) / math.log(
            self.num_classes
        )

    @property
    def margin(self) -> Tensor:
        """Largest minus second largest sum, float32 [...]."""
        return self.top[..., 0] - self.top[..., 1]


@dataclass(frozen=True)
class LogitEvidence(Evidence):
    """Evidence from the summed logits themselves, float32 [..., K]."""

    logits: Tensor

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        """K."""
        return self.logits.shape[-1]

    @property
    def prediction(self) -> Tensor:
        return self.logits.argmax(-1)

    @property
    def top(self) -> Tensor:
        return self.logits.topk(min(TOP, self.num_classes), dim=-1).values

    def log_sum_exp(self, scale: float) -> Tensor:
        return log_sum_exp(self.logits, scale)

    def expected_logit(self, scale: float) -> Tensor:
        return expected_logit(self.logits, scale)

    def __getitem__(self, index: object) -> LogitEvidence:
        return LogitEvidence(self.logits[index])  # type: ignore[index]


@dataclass(frozen=True)
class StatisticEvidence(Evidence):
    """Evidence from compact statistics, for many classes: a few numbers instead of K.

    `statistics` holds `prediction` int32 [...], `top` float32 [..., 5], `log_sum_exp` float64 [..., S] and
    `expected_logit` float32 [..., S] at the S scales.
    """

    statistics: dict[str, Tensor]
    scales: tuple[float, ...]
    num_classes: int

    @property
    def prediction(self) -> Tensor:
        return self.statistics["prediction"].long()

    @property
    def top(self) -> Tensor:
        return self.statistics["top"]

    def log_sum_exp(self, scale: float) -> Tensor:
        return self.statistics["log_sum_exp"][..., self._position(scale)]

    def expected_logit(self, scale: float) -> Tensor:
        return self.statistics["expected_logit"][..., self._position(scale)]

    def _position(self, scale: float) -> int:
        if scale not in self.scales:
            raise KeyError(
                f"scale {scale:g} was not recorded; recorded: {', '.join(f'{known:g}' for known in self.scales)}"
            )
        return self.scales.index(scale)

    def __getitem__(self, index: object) -> StatisticEvidence:
        chosen = {name: value[index] for name, value in self.statistics.items()}  # type: ignore[index]
        return StatisticEvidence(chosen, self.scales, self.num_classes)


def statistics_of(logits: Tensor, scales: tuple[float, ...]) -> dict[str, Tensor]:
    """The statistics of `StatisticEvidence` for summed logits [..., K]."""
    evidence = LogitEvidence(logits)
    by_scale = torch.tensor(scales, dtype=torch.float64, device=logits.device)[:, None]
    rows = logits.flatten(0, -2)
    # All scales in one call, each with the arithmetic of `log_sum_exp` and `expected_logit`; as many rows as fit a cache.
    together = max(1, SCALED_AT_ONCE // max(1, len(scales) * rows.shape[-1]))
    parts = [_over_scales(part.double()[:, None] / by_scale) for part in rows.split(together)]
    sums, expected = (torch.cat(each).reshape(*logits.shape[:-1], len(scales)) for each in zip(*parts, strict=True))
    return {
        "prediction": evidence.prediction.int(),
        "top": evidence.top,
        "log_sum_exp": sums,
        "expected_logit": expected,
    }


def _over_scales(scaled: Tensor) -> tuple[Tensor, Tensor]:
    return torch.logsumexp(scaled, dim=-1), (scaled.softmax(-1) * scaled).sum(-1).float()


class RunningSum:
    """Accumulates the logits of a batch, timestep by timestep."""

    def __init__(self) -> None:
        self._total: Tensor | None = None

    def add(self, logits: Tensor) -> Tensor:
        """Add this timestep's logits [B, K]; returns the sum so far, float32 [B, K].

        Rows behind those of the call before are images that begin with this timestep.
        """
        step = logits.double()
        if self._total is None:
            self._total = step.clone()
            return self._total.float()
        begin = len(step) - len(self._total)
        if begin:
            self._total = torch.cat([self._total, self._total.new_zeros(begin, step.shape[1])])
        return self._total.add_(step).float()

    def keep(self, mask: Tensor) -> None:
        """Go on with the images where `mask` [B] is True, or at these indices (int64)."""
        if self._total is not None:
            self._total = self._total[mask]
