"""What was measured on the clock, in words."""

from __future__ import annotations

from benchmark.records import Measured
from leaderboard.numerals import rounded


def on_the_clock(measured: Measured) -> str:
    """A sentence or two for the remarks of a row."""
    stream, floor = measured.stream_seconds, measured.floor_seconds
    streamed = "" if stream is None else f" ({rounded(stream)} s as a stream)"
    passes = "" if floor is None else f", as many forward passes {rounded(floor)} s"
    return (
        f"Measured with {measured.policy} on {measured.device}, batch size {measured.batch_size}: "
        f"{rounded(measured.speedup)} times as fast as fixed time (ideal {rounded(measured.ideal_speedup)}); fixed time "
        f"{rounded(measured.static_seconds)} s, early exit {rounded(measured.dynamic_seconds)} s{streamed}{passes}. "
        f"{measured.differing_images} of {measured.images} images differ from the replay."
    )
