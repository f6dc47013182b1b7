"""How many images, and how many of their timesteps, are simulated fastest at once."""

from __future__ import annotations

from dataclasses import dataclass

# On a CPU, per thread: the states of more images than this do not stay in the cache.
IMAGES_AT_ONCE = 16
# The same where images come and go, which costs its own time each time: in all, however few threads.
ENOUGH_PLACES = 32


@dataclass(frozen=True)
class Limits:
    """Of several timesteps at once: how many, and how many rows (images x timesteps) and bytes of a layer's rows in all."""

    timesteps: int
    rows: int
    bytes: int

    def fit(self, images: int, row_bytes: int, threads: int = 1) -> int:
        """How many timesteps, at least 1, of so many images whose largest layer takes so many bytes a row.

        Each of `threads` may have the rows and the bytes.
        """
        rows = min(threads * self.rows, threads * self.bytes // row_bytes)
        return min(self.timesteps, max(1, rows // max(1, images)))


# Several timesteps share the work of reading a layer's weights, until so many rows, or so large ones, do not stay in the cache
# of a CPU's thread.
AT_ONCE = Limits(timesteps=16, rows=32, bytes=2**25)
# Where images may leave after each of them it has to be much faster, as the last ones are computed in vain.
AHEAD = Limits(timesteps=6, rows=16, bytes=2**22)
# On a GPU, in all: there rows cost next to nothing until they fill it. SpikingJelly's ResNet-18 took an H100 as long for 32
# timesteps of one image at once as three in turn, and for those of 64 images two thirds of the time (bench/GPU.md).
GPU_AT_ONCE = Limits(timesteps=32, rows=2048, bytes=2**29)
GPU_AHEAD = Limits(timesteps=6, rows=16, bytes=2**26)
