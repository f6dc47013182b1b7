"""One kernel for a layer's timesteps on a GPU: charge, fire, reset, count. The eager neurons are its reference.

Eager code reads and writes a layer about a dozen times each timestep; this reads currents once and writes spikes once, reads
and writes states once for all timesteps, and sums spikes and SynOps on the way. The sums are of integers, so their order does
not matter, and the spikes are those of the eager neurons bit for bit.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BLOCK = 2048

_eager: ContextVar[bool] = ContextVar("eager neurons", default=False)


@contextmanager
def eager_neurons() -> Iterator[None]:
    """Neurons run as plain torch code in here, also on a GPU."""
    token = _eager.set(True)
    try:
        yield
    finally:
        _eager.reset(token)


def neurons_are_eager() -> bool:
    """Whether this runs within `eager_neurons`."""
    return _eager.get()


def fuses(current: Tensor) -> bool:
    """Whether currents like this one [B, ...] go through the kernel: on a GPU, or in Triton's interpreter, below float64."""
    place = current.is_cuda or (current.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1")
    wanted = place and not _eager.get() and current.dtype in (torch.float32, torch.bfloat16, torch.float16)
    return wanted and current.numel() > 0 and importlib.util.find_spec("triton") is not None


@dataclass(frozen=True)
class Rule:
    """What the kernel compares membranes with; all in units of the current.

    Attributes:
        threshold: what a spike takes from the membrane.
        fire_at: the membrane from which on a neuron fires.
        retract_below: the one below which it retracts a spike; None for neurons that never do.
        levels: the largest number of spikes that may stand; None for any.
    """

    threshold: float
    fire_at: float
    retract_below: float | None = None
    levels: int | None = None


def memory_order(tensor: Tensor) -> torch.memory_format | None:
    """How the values of an image [C, ...] follow each other in a tensor [B, C, ...] without gaps; None if they do not."""
    if tensor.is_contiguous():
        return torch.contiguous_format
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return None


def fire_and_count(
    current: Tensor,
    membrane: Tensor,
    rule: Rule,
    *,
    steps: int = 1,
    constant: bool = False,
    in_place: bool = False,
    count: Tensor | None = None,
    mask: Tensor | None = None,
    fan_out: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Timesteps of a layer, one after the other; states are changed in place.

    Args:
        current: [steps * B, ...], dense in any memory format.
        membrane: float32 [B, ...], in the same format; is charged and reset.
        rule: when to fire.
        steps: number of timesteps.
        constant: whether currents are those of one timestep, [B, ...], the same in all of them.
        in_place: whether spikes may take the place of currents, where these are float32 and not constant.
        count: float32 [B, ...], the spikes that stand, of neurons that retract; is brought up to date.
        mask: float32 [B, ...], 1 where spikes are sent on.
        fan_out: int32, as many as an image's neurons, in the order of memory: synapses behind each.

    Returns:
        spikes float32 [steps * B, ...], and the number of spikes and SynOps per row, int64 [2, steps * B], if there is a
        `fan_out`.
    """
    from methods.fused_kernel import timesteps

    images = len(membrane)
    rows, size = steps * images, membrane.numel() // images
    if in_place and not constant and current.dtype == torch.float32:
        spikes = current
    else:
        spikes = torch.empty_like(membrane[:1].expand(rows, *membrane.shape[1:]))
    totals = None if fan_out is None else torch.zeros(2, rows, dtype=torch.long, device=membrane.device)
    absent: Any = membrane  # a pointer that the kernel never follows
    timesteps[(images, -(-size // BLOCK))](
        current,
        membrane,
        absent if count is None else count,
        absent if mask is None else mask,
        absent if fan_out is None else fan_out,
        spikes,
        absent if totals is None else totals,
        size,
        images,
        steps,
        rule.threshold,
        rule.fire_at,
        0.0 if rule.retract_below is None else rule.retract_below,
        0.0 if rule.levels is None else rule.levels - 0.5,
        RETRACTS=rule.retract_below is not None,
        BOUNDED=rule.levels is not None,
        MASKED=mask is not None,
        COUNTED=totals is not None,
        CONSTANT=constant,
        BLOCK=BLOCK,
    )
    return spikes, totals
