"""Choices at random that are the same everywhere and for ever: by sha256, which no library can change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np


def shuffled(texts: Iterable[str]) -> np.ndarray:
    """The places of the texts in the order of their sha256, int64 [N]. Equal texts keep their order."""
    digests = [hashlib.sha256(text.encode(errors="surrogateescape")).digest() for text in texts]
    return np.array(sorted(range(len(digests)), key=digests.__getitem__), dtype=np.int64)


def first_of_each(labels: np.ndarray, order: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """Of each class k the first `counts[k]` images of a shuffled order; bool over that order, [N].

    Args:
        labels: int [N], of all images, each below K.
        order: int64 [N], places of the images.
        counts: of each of the K classes.
    """
    chosen = np.zeros(len(order), dtype=bool)
    in_order = labels[order]
    for label, count in enumerate(counts):
        chosen[np.flatnonzero(in_order == label)[:count]] = True
    return chosen
