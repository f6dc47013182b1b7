"""How many images memory holds at once: found by halving where it runs out, and remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch

Result = TypeVar("Result")


@dataclass
class BatchLimit:
    """The largest batch that is tried. Calls that share one share what it has learned.

    Attributes:
        size: number of images; None: any, as memory has not run out yet.
        halvings: how often memory ran out.
    """

    size: int | None = None
    halvings: int = 0

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ValueError(f"a batch must have at least one image, got {self.size}")

    def parts(self, images: int, work: Callable[[slice], Result]) -> Iterator[Result]:
        """What `work` gives for consecutive slices of so many images, none of them larger than the limit.

        Where memory runs out, the limit becomes half of the slice, and the same images are tried again. Raises the error
        itself for a single image.
        """
        start = 0
        while start < images:
            stop = min(images, start + (self.size or images))
            try:
                result = work(slice(start, stop))
            except (RuntimeError, MemoryError) as error:
                if stop - start == 1 or not is_out_of_memory(error):
                    raise
            else:
                yield result
                start = stop
                continue
            # Here, where the error and the tensors that its traceback holds are gone.
            self.size = (stop - start) // 2
            self.halvings += 1
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: torch names it on GPUs, but on the CPU only in the message."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
