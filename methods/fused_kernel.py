"""The kernel behind `methods.fused`, apart because importing Triton takes a second and is not possible everywhere."""

from __future__ import annotations

import triton
import triton.language as tl


# Thresholds vary from layer to layer; a kernel compiled for the value 1.0 of one would be compiled again for the next.
# Triton reads annotations as its own: those of plain arguments have to be left out.
@triton.jit(do_not_specialize=["threshold", "fire_at", "retract_below", "most"])  # type: ignore[misc,unused-ignore]
def timestep(  # type: ignore[no-untyped-def]
    current,
    membrane,
    count,
    mask,
    fan_out,
    spikes,
    totals,
    size,
    images,
    threshold,
    fire_at,
    retract_below,
    most,
    RETRACTS: tl.constexpr,
    BOUNDED: tl.constexpr,
    MASKED: tl.constexpr,
    COUNTED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Program (b, c): the c-th BLOCK of the `size` neurons of image b of `images`; see `methods.fused.fire_and_count`.

    m = v + I; s = [m >= fire_at and count < most] - [m < retract_below and count > 1/2]; v = m - threshold s; count += s.
    Beyond the last neuron all loads give zero, where nothing fires.
    """
    image = tl.program_id(0).to(tl.int64)
    neuron = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = neuron < size
    place = image * size + neuron
    charged = tl.load(membrane + place, mask=there, other=0.0) + tl.load(current + place, mask=there, other=0.0).to(
        tl.float32
    )
    fires = charged >= fire_at
    if RETRACTS:
        standing = tl.load(count + place, mask=there, other=0.0)
        if BOUNDED:
            fires = fires & (standing < most)
        retracts = (charged < retract_below) & (standing > 0.5)
        sent = fires.to(tl.float32) - retracts.to(tl.float32)
        tl.store(count + place, standing + sent, mask=there)
    else:
        sent = fires.to(tl.float32)
    tl.store(membrane + place, charged - sent * threshold, mask=there)
    if MASKED:
        sent = sent * tl.load(mask + place, mask=there, other=0.0)
    tl.store(spikes + place, sent, mask=there)
    if COUNTED:
        events = tl.abs(sent).to(tl.int32)
        operations = events * tl.load(fan_out + neuron, mask=there, other=0)
        tl.atomic_add(totals + image, tl.sum(events, 0).to(tl.int64))
        tl.atomic_add(totals + images + image, tl.sum(operations, 0).to(tl.int64))
