"""Images that come in batches of any size, taken as many at a time as there is room for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

# Images [B, ...] with B of any size, or such images first in a pair with their labels, which are ignored.
ImageBatch = Tensor | Sequence[Tensor]


class ImageStream:
    """Cuts a sequence of batches anew. At most one batch is held beyond what has been taken."""

    def __init__(self, batches: Iterable[ImageBatch]):
        self._batches = iter(batches)
        self._held: Tensor | None = None

    @property
    def exhausted(self) -> bool:
        """Whether no image is left; to know it, the next batch is asked for where none is held."""
        while self._held is None or not len(self._held):
            try:
                batch = next(self._batches)
            except StopIteration:
                self._held = None
                return True
            self._held = batch if isinstance(batch, Tensor) else batch[0]
        return False

    def sample(self) -> Tensor | None:
        """The next image, [1, ...], which stays where it is; None if there is none."""
        if self.exhausted:
            return None
        assert self._held is not None
        return self._held[:1]

    def take(self, count: int) -> Tensor | None:
        """The next images, `count` or as many as are left; None if there are none."""
        pieces: list[Tensor] = []
        while count and not self.exhausted:
            assert self._held is not None
            pieces.append(self._held[:count])
            self._held = self._held[count:]
            count -= len(pieces[-1])
        if not pieces:
            return None
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
