"""Energy of the arithmetic alone, in picojoules: no memory traffic, no leakage, no chip.

Horowitz, ISSCC 2014 (45 nm) for FP32; FP16 and INT8 from the same source as used in SpikingJelly's op counter. The ratio
of a MAC to an AC moves from 3.75 to 7.7 between presets, so a conclusion that flips between them is none.
"""

from __future__ import annotations

# preset: (one multiply-accumulate, one accumulate)
PRESETS: dict[str, tuple[float, float]] = {"fp32-45nm": (4.6, 0.9), "fp16-45nm": (1.5, 0.4), "int8-45nm": (0.23, 0.03)}


def energy(macs: float, synops: float) -> dict[str, float]:
    """Picojoules per image under each preset."""
    return {name: macs * mac + synops * ac for name, (mac, ac) in PRESETS.items()}
