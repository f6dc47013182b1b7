"""The kernel behind `methods.fused`, apart because importing Triton takes a second and is not possible everywhere."""

from __future__ import annotations

import triton
import triton.language as tl


# Thresholds vary from layer to layer; a kernel compiled for the value 1.0 of one would be compiled again for the next. A single
# image must stay a number that can be cast.
# Triton reads annotations as its own: those of plain arguments have to be left out.
@triton.jit(do_not_specialize=["images", "steps", "threshold", "fire_at", "retract_below", "most"])  # type: ignore[misc,unused-ignore]
def timesteps(  # type: ignore[no-untyped-def]
    current,
    membrane,
    count,
    mask,
    fan_out,
    spikes,
    totals,
    size,
    images,
    steps,
    threshold,
    fire_at,
    retract_below,
    most,
    RETRACTS: tl.constexpr,
    BOUNDED: tl.constexpr,
    MASKED: tl.constexpr,
    COUNTED: tl.constexpr,
    CONSTANT: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Program (b, c): the c-th BLOCK of the `size` neurons of image b of `images`; see `methods.fused.fire_and_count`.

    m = v + I; s = [m >= fire_at and count < most] - [m < retract_below and count > 1/2]; v = m - threshold s; count += s.
    States stay in registers from the first of `steps` timesteps to the last. Beyond the last neuron all loads give zero,
    where nothing fires.
    """
    image = tl.program_id(0).to(tl.int64)
    neuron = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = neuron < size
    place = image * size + neuron
    potential = tl.load(membrane + place, mask=there, other=0.0)
    if RETRACTS:
        standing = tl.load(count + place, mask=there, other=0.0)
    if MASKED:
        sends = tl.load(mask + place, mask=there, other=0.0)
    if COUNTED:
        synapses = tl.load(fan_out + neuron, mask=there, other=0)
    row, own, read = image, place, place
    for _ in range(steps):
        charged = potential + tl.load(current + read, mask=there, other=0.0).to(tl.float32)
        fires = charged >= fire_at
        if RETRACTS:
            if BOUNDED:
                fires = fires & (standing < most)
            retracts = (charged < retract_below) & (standing > 0.5)
            sent = fires.to(tl.float32) - retracts.to(tl.float32)
            standing = standing + sent
        else:
            sent = fires.to(tl.float32)
        potential = charged - sent * threshold
        if MASKED:
            sent = sent * sends
        # Where the current was: this timestep's is read by now, and no other program reads it.
        tl.store(spikes + own, sent, mask=there)
        if COUNTED:
            events = tl.abs(sent).to(tl.int32)
            tl.atomic_add(totals + row, tl.sum(events, 0).to(tl.int64))
            tl.atomic_add(totals + steps * images + row, tl.sum(events * synapses, 0).to(tl.int64))
        row += images
        own += images.to(tl.int64) * size
        if not CONSTANT:
            read = own
    tl.store(membrane + place, potential, mask=there)
    if RETRACTS:
        tl.store(count + place, standing, mask=there)
