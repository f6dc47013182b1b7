"""Lazy images are decoded while those before them are in use, in order, and no further than asked for."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from benchmark.data.images import Images, LazyPixels, Preprocessing
from benchmark.errors import DataError
from benchmark.loading import Loader

CPU = torch.device("cpu")
PLAIN = Preprocessing(divisor=1.0, mean=(0.0,), std=(1.0,))


class Watched(LazyPixels):
    """Image n is all n. Says which slices were asked for, and when; the one with number `broken` cannot be decoded."""

    def __init__(self, count, broken=None):
        self.count, self.broken = count, broken
        self.asked = []
        self.changed = threading.Condition()

    @property
    def shape(self):
        return self.count, 1, 2, 2

    def __getitem__(self, chosen):
        with self.changed:
            self.asked.append((chosen.start, chosen.stop))
            self.changed.notify_all()
        if self.broken is not None and chosen.start <= self.broken < chosen.stop:
            raise DataError(f"image {self.broken} is damaged")
        return np.arange(chosen.start, chosen.stop, dtype=np.uint8)[:, None, None, None].repeat(2, 2).repeat(2, 3)

    def wait_for(self, count):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.asked) >= count, timeout=60)

    def picture(self, index):
        raise NotImplementedError

    def first(self, count):
        return Watched(count, self.broken)

    def identity(self):
        return b"watched"

    def check(self):
        pass


def loader(pixels, **options):
    return Loader(Images("watched", pixels, np.arange(len(pixels)), 100), PLAIN, 4, CPU, **options)


def test_the_next_batch_is_decoded_while_one_is_in_use():
    pixels = Watched(11)
    batches = loader(pixels)()
    images, labels = next(batches)
    pixels.wait_for(2)  # nobody has asked for more than the first one
    assert pixels.asked == [(0, 4), (4, 8)]
    rest = list(batches)
    assert pixels.asked == [(0, 4), (4, 8), (8, 11)]
    found = torch.cat([images, *(own for own, _ in rest)])
    assert torch.equal(found, torch.arange(11.0)[:, None, None, None].expand(11, 1, 2, 2))
    assert torch.cat([labels, *(own for _, own in rest)]).tolist() == list(range(11))


def test_an_image_that_cannot_be_decoded_is_an_error_in_its_place():
    batches = loader(Watched(11, broken=5))()
    next(batches)
    with pytest.raises(DataError, match="image 5 is damaged"):
        next(batches)


def test_who_stops_early_leaves_no_thread_behind():
    before = threading.active_count()
    batches = loader(Watched(40))()
    next(batches)
    assert threading.active_count() > before
    batches.close()
    assert threading.active_count() == before


def test_images_in_memory_need_no_thread():
    before = threading.active_count()
    batches = loader(Watched(11)[0:11])()
    assert len(next(batches)[0]) == 4
    assert threading.active_count() == before
    assert [len(images) for images, _ in batches] == [4, 3]
