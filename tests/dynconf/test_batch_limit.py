"""Memory that runs out is remembered: each size is tried once, and the numbers stay what they are."""

from __future__ import annotations

import pytest
import torch
from counted_network import CountedNetwork, racing_images

from dynconf import record
from dynconf.batch_limit import BatchLimit
from dynconf.recorder import RecordingReport, record_shards

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"),
]


def room_for(count, tried, error=ERRORS[0]):
    """Work that fails on more than so many images, and gives their numbers."""

    def work(part):
        numbers = list(range(part.start, part.stop))
        tried.append(len(numbers))
        if len(numbers) > count:
            raise error
        return numbers

    return work


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    ("images", "room", "size", "tried"),
    [
        (10, 10, None, [10]),
        (10, 10, 4, [4, 4, 2]),
        (10, 9, None, [10, 5, 5]),
        (10, 2, None, [10, 5, 2, 2, 2, 2, 2]),
        (7, 1, 4, [4, 2, 1, 1, 1, 1, 1, 1, 1]),
        (1, 1, 64, [1]),
        (0, 1, None, []),
    ],
)
def test_parts(error, images, room, size, tried):
    seen, limit = [], BatchLimit(size)
    parts = list(limit.parts(images, room_for(room, seen, error)))
    assert seen == tried
    assert [number for part in parts for number in part] == list(range(images))
    assert limit.halvings == sum(count > room for count in tried)


def test_what_was_found_holds_for_later_batches():
    limit, tried = BatchLimit(16), []
    for images in (16, 16, 5, 16):
        list(limit.parts(images, room_for(3, tried)))
    assert tried == [16, 8, 4, 2, *[2] * 7, *[2] * 8, 2, 2, 1, *[2] * 8]
    assert (limit.size, limit.halvings) == (2, 3)


def test_memory_that_shrinks_is_found_again():
    limit = BatchLimit(8)
    list(limit.parts(8, room_for(8, [])))
    tried = []
    list(limit.parts(8, room_for(4, tried)))
    assert tried == [8, 4, 4] and limit.size == 4


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_one_image_that_does_not_fit_is_the_end(error):
    limit = BatchLimit()
    with pytest.raises(type(error)):
        list(limit.parts(4, room_for(0, [], error)))
    assert (limit.size, limit.halvings) == (1, 2)


def test_other_errors_are_passed_on():
    limit, tried = BatchLimit(), []
    with pytest.raises(RuntimeError, match="shapes"):
        list(limit.parts(4, room_for(2, tried, RuntimeError("shapes do not fit"))))
    assert tried == [4] and (limit.size, limit.halvings) == (None, 0)


def test_a_limit_is_a_number_of_images():
    with pytest.raises(ValueError, match="at least one image"):
        BatchLimit(0)


class Small(CountedNetwork):
    """Has memory for a few images."""

    def __init__(self, room):
        self.room, self.tried = room, []

    def begin(self, images):
        self.tried.append(len(images))
        if len(images) > self.room:
            raise ERRORS[0]
        super().begin(images)


def loader(count):
    images, labels = racing_images(count, 3)
    return lambda first: ((images[start : start + 16], labels[start : start + 16]) for start in range(first, count, 16))


def test_recordings_share_what_was_found(tmp_path):
    """As the splits of a run, and its shards."""
    limit, reports = BatchLimit(16), [RecordingReport(), RecordingReport()]
    networks = [Small(5), Small(5)]
    found = record(networks[0], loader(40), timesteps=3, limit=limit, report=reports[0])
    record_shards(
        networks[1], loader(40), [0], timesteps=3, folder=tmp_path, shard_size=20, limit=limit, report=reports[1]
    )
    assert networks[0].tried == [16, 8, 4, *[4] * 3, *[4] * 4, 4, 4]
    assert networks[1].tried == [4] * 5
    assert (limit.size, limit.halvings) == (4, 2)
    assert [report.oom_halvings for report in reports] == [2, 0]
    expected = record(CountedNetwork(), loader(40), timesteps=3)
    for name, array in expected.tensors().items():
        assert torch.equal(found.tensors()[name], array), name


def test_without_a_limit_each_recording_finds_its_own():
    for _ in range(2):
        network, report = Small(8), RecordingReport()
        record(network, loader(32), timesteps=3, report=report)
        assert network.tried == [16, 8, 8, 8, 8] and report.oom_halvings == 1


def test_halvings_before_the_end_are_reported():
    report = RecordingReport()
    with pytest.raises(torch.OutOfMemoryError):
        record(Small(0), loader(16), timesteps=3, report=report)
    assert report.oom_halvings == 4
