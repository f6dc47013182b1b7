"""Parts of a recording by several processes: in any order, with gaps, one after the other or at once, the same bytes."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from counted_network import CountedNetwork, racing_images

from dynconf import record
from dynconf.joining import Joined
from dynconf.recorder import RecordingReport, record_shards
from dynconf.recording import (
    HEADER,
    Recording,
    RecordingError,
    load_recording,
    read_shard_label,
    shard_path,
)
from dynconf.shards import Gap, batches_of, consecutive, finished_shards, gaps_in, join_shards

IMAGES, TIMESTEPS, SIZE, BATCH = 43, 6, 8, 4
SHARDS = 6  # five of 8 images and one of 3
PIXELS, LABELS = racing_images(IMAGES, TIMESTEPS, classes=5)
ABOUT = {"timesteps": TIMESTEPS, "split": "test", "identity": "a"}


class Watched(CountedNetwork):
    """Notes the labels of the images that are simulated; they tell which ones."""

    def __init__(self):
        self.seen = []

    def begin(self, images):
        self.seen.append(images)
        super().begin(images)

    def shown(self):
        return torch.cat(self.seen) if self.seen else PIXELS[:0]


def from_image(first=0, size=BATCH):
    for start in range(first, IMAGES, size):
        yield PIXELS[start : start + size], LABELS[start : start + size]


@pytest.fixture(params=["logits", "statistics"])
def whole(request, tmp_path):
    """A folder with the whole recording, and how it was kept."""
    folder = tmp_path / "whole"
    record(CountedNetwork(), from_image, folder=folder, shard_size=SIZE, keep=request.param, **ABOUT)
    return folder, request.param


def same_bytes(folder, other):
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    for name in names:
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name


def some(folder, shards, keep="auto", network=None, loader=from_image, **more):
    network = Watched() if network is None else network
    record_shards(network, loader, shards, folder=folder, shard_size=SIZE, keep=keep, **{**ABOUT, **more})
    return network


def test_shards_in_any_order_are_the_whole(whole, tmp_path):
    reference, keep = whole
    folder = tmp_path / "parts"
    for shards in ([4, 5], [1], [2, 0], [3]):
        network = some(folder, shards, keep)
        rows = [row for number in sorted(shards) for row in range(number * SIZE, min((number + 1) * SIZE, IMAGES))]
        assert torch.equal(network.shown(), PIXELS[rows])
        assert not (folder / HEADER).exists()
    joined = join_shards(folder, identity="a", split="test", timesteps=TIMESTEPS, images=IMAGES)
    same_bytes(folder, reference)
    loaded = load_recording(reference)
    assert joined.info == loaded.info
    for name, array in loaded.tensors().items():
        assert torch.equal(joined.tensors()[name], array), name


@pytest.mark.parametrize("there", [[0, 1], [3], [5], [1, 4], [0, 2, 5], list(range(SHARDS)), [2, 3, 4, 5]])
def test_a_whole_run_fills_the_gaps(whole, tmp_path, there):
    reference, keep = whole
    folder = tmp_path / "parts"
    some(folder, there, keep)
    network, report, done = Watched(), RecordingReport(), []
    recording = record(
        network, from_image, folder=folder, shard_size=SIZE, keep=keep, report=report, progress=done.append, **ABOUT
    )
    absent = [row for row in range(IMAGES) if row // SIZE not in there]
    assert torch.equal(network.shown(), PIXELS[absent])
    assert report.resumed_images == IMAGES - len(absent) and sum(done) == IMAGES == len(recording)
    same_bytes(folder, reference)


@pytest.mark.parametrize(
    "make", [lambda: list(from_image(size=5)), lambda: from_image(size=13), lambda: from_image(size=1)]
)
def test_batches_that_can_be_gone_through_once_fill_the_gaps_too(whole, tmp_path, make):
    """Batches may straddle the gaps: they are cut."""
    reference, keep = whole
    folder = tmp_path / "parts"
    some(folder, [1, 3], keep)
    network = Watched()
    record(network, make(), folder=folder, shard_size=SIZE, keep=keep, **ABOUT)
    assert torch.equal(network.shown(), PIXELS[[row for row in range(IMAGES) if row // SIZE not in (1, 3)]])
    same_bytes(folder, reference)


def test_a_loader_is_read_no_further_than_needed(tmp_path):
    asked = []

    def loader(first):
        asked.append(first)
        yield from from_image(first)
        raise AssertionError("read to the end")

    some(tmp_path, [1, 2, 4], loader=loader)
    assert asked == [8, 32]
    once = (
        (images, labels) if number < 6 else pytest.fail("read on")
        for number, (images, labels) in enumerate(from_image())
    )
    some(tmp_path / "once", [1, 2], loader=once)
    assert finished_numbers(tmp_path / "once") == [1, 2]


def finished_numbers(folder):
    return list(finished_shards(folder, identity="a", split="test", timesteps=TIMESTEPS))


def test_what_is_there_is_not_done_again(tmp_path):
    some(tmp_path, [0, 1])
    before = shard_path(tmp_path, 1).stat().st_mtime_ns
    report, done, said = RecordingReport(), [], []
    network = some(tmp_path, [1, 2], report=report, progress=done.append, before_shard=said.append)
    assert torch.equal(network.shown(), PIXELS[16:24])
    assert (report.resumed_images, said, sum(done)) == (8, [2], 16)
    assert shard_path(tmp_path, 1).stat().st_mtime_ns == before
    assert not some(tmp_path, [0, 1, 2]).seen


def test_before_shard_is_called_before_the_shard_is_there(tmp_path):
    def look(number):
        assert not shard_path(tmp_path, number).exists()
        looked.append(number)

    looked = []
    some(tmp_path, [5, 2], before_shard=look)
    assert looked == [2, 5]


def test_spikes_per_layer_are_those_of_each_shard(tmp_path):
    class Layered(CountedNetwork):
        sites = (SimpleNamespace(name="a"), SimpleNamespace(name="b"))

        @property
        def site_spikes(self):
            return torch.stack([self.spikes - self.spikes // 3, self.spikes // 3], 1)

    reference = record(Layered(), from_image, folder=tmp_path / "whole", shard_size=SIZE, **ABOUT)
    for shards in ([3, 4, 5], [0, 1, 2]):
        some(tmp_path / "parts", shards, network=Layered())
    joined = join_shards(tmp_path / "parts", identity="a", split="test", timesteps=TIMESTEPS)
    assert torch.equal(joined.site_spikes, reference.site_spikes) and joined.info.sites == ("a", "b")
    same_bytes(tmp_path / "parts", tmp_path / "whole")


# What is refused


def test_the_images_may_not_end_early(tmp_path):
    with pytest.raises(RecordingError, match="there are no images for shard 6"):
        some(tmp_path / "a", [6])
    with pytest.raises(RecordingError, match="the images end in shard 5, but there is to be a shard 7"):
        some(tmp_path / "b", [5, 7])
    assert finished_numbers(tmp_path / "b") == []
    some(tmp_path / "c", [5])
    few = [(PIXELS[:20], LABELS[:20])]
    with pytest.raises(RecordingError, match="the images end in shard 2, but there is to be a shard 5"):
        record(CountedNetwork(), few, folder=tmp_path / "c", shard_size=SIZE, **ABOUT)
    some(tmp_path / "d", [4])
    with pytest.raises(RecordingError, match="there are no images for shard 2"):
        record(CountedNetwork(), [(PIXELS[:16], LABELS[:16])], folder=tmp_path / "d", shard_size=SIZE, **ABOUT)


def test_shards_of_another_size_are_refused(tmp_path):
    some(tmp_path, [1, 3])
    for size, found in ((10, 8), (7, 8)):
        with pytest.raises(RecordingError, match=f"shard 1 has {found} images, expected {size}"):
            record_shards(CountedNetwork(), from_image, [0], folder=tmp_path, shard_size=size, **ABOUT)
    with pytest.raises(RecordingError, match="shard 1 has 8 images, expected 9"):
        record(CountedNetwork(), from_image, folder=tmp_path, shard_size=9, **ABOUT)


@pytest.mark.parametrize("change", [{"identity": "b"}, {"split": "calibration"}, {"timesteps": TIMESTEPS - 1}])
def test_another_recording_in_the_folder_is_refused(tmp_path, change):
    some(tmp_path, [2])
    with pytest.raises(RecordingError, match=r"shard-00002.* belongs to another recording"):
        some(tmp_path, [0], **change)
    with pytest.raises(RecordingError, match="belongs to another recording"):
        join_shards(tmp_path, **{"identity": "a", "split": "test", "timesteps": TIMESTEPS, **change})
    assert finished_numbers(tmp_path) == [2]


def test_joining_needs_all_shards_and_images(tmp_path):
    about = {"identity": "a", "split": "test", "timesteps": TIMESTEPS}
    with pytest.raises(RecordingError, match="has no shards"):
        join_shards(tmp_path, **about)
    some(tmp_path, [0, 1, 4, 5])
    with pytest.raises(RecordingError, match=r"lacks 2 of its shards, among them .*shard-00002"):
        join_shards(tmp_path, **about)
    some(tmp_path, [2, 3])
    for images in (40, 44):
        with pytest.raises(RecordingError, match=f"has 43 images, expected {images}"):
            join_shards(tmp_path, **about, images=images)
    assert not (tmp_path / HEADER).exists()
    assert len(join_shards(tmp_path, **about, images=43)) == 43


def test_shards_of_different_networks_are_not_joined(tmp_path):
    class Other(CountedNetwork):
        macs_once = 5

    some(tmp_path, [0, 1, 2])
    some(tmp_path, [3, 4, 5], network=Other())
    with pytest.raises(RecordingError, match=r"shard-00003.* belongs to another recording"):
        join_shards(tmp_path, identity="a", split="test", timesteps=TIMESTEPS)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], "cut short"),
        (lambda content: content + b"\0", "bytes at its end"),
        (lambda content: content[:20], "cut short"),
        (lambda content: b"", "not a complete shard"),
        (lambda content: b"\xff" * 8 + content[8:], "cut short"),
        (lambda content: content[:8] + b"?" + content[9:], "not a complete shard"),
        (lambda content: content.replace(b'"labels"', b'"labelz"'), "labels"),
        (lambda content: content.replace(b'\\"format\\": 1', b'\\"format\\": 7'), "format 1"),
    ],
)
def test_a_damaged_shard_is_named_before_anything_is_simulated(tmp_path, damage, message):
    some(tmp_path, [1])
    path = shard_path(tmp_path, 1)
    path.write_bytes(damage(path.read_bytes()))
    network = Watched()
    with pytest.raises(RecordingError, match=r"shard-00001\.safetensors is not a complete shard") as refused:
        some(tmp_path, [0], network=network)
    assert message in str(refused.value) and not network.seen


def test_a_label_is_what_the_shard_holds(tmp_path):
    some(tmp_path, [5])
    label = read_shard_label(shard_path(tmp_path, 5))
    assert (label.images, label.by_site, label.info.identity, label.info.num_classes) == (3, False, "a", 5)


def test_other_files_are_no_shards(tmp_path):
    some(tmp_path, [0])
    for name in (".shard-00001.safetensors.abc", "shard-1.safetensors", "shard-00001.safetensors.bak", "notes.txt"):
        (tmp_path / name).write_text("x")
    assert finished_numbers(tmp_path) == [0]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"timesteps": 0}, "timesteps"), ({"keep": "all"}, "keep must be"), ({"shard_size": 0}, "at least one image")],
)
def test_impossible_settings(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        record_shards(CountedNetwork(), from_image, [0], folder=tmp_path, **{**ABOUT, **change})


# Pieces


@pytest.mark.parametrize(
    ("numbers", "runs"), [([], []), ([3], [(3, 4)]), ([0, 1, 2, 5, 7, 8], [(0, 3), (5, 6), (7, 9)])]
)
def test_runs_of_numbers(numbers, runs):
    assert consecutive(numbers) == [range(*run) for run in runs]


@pytest.mark.parametrize(
    ("there", "shards", "gaps"),
    [
        ({}, None, [Gap(0, 0)]),
        ({0: 8, 1: 8}, None, [Gap(2, 16)]),
        ({0: 8, 1: 3}, None, [Gap(2, 11)]),
        ({0: 5, 1: 9}, None, [Gap(2, 14)]),  # made for shards of another size, and goes on where it was
        ({1: 8}, None, [Gap(0, 0, 0, 8), Gap(2, 16)]),
        ({0: 8, 3: 2}, None, [Gap(1, 8, 2, 24), Gap(4, 26)]),
        ({}, [2, 0, 1], [Gap(0, 0, 2, 24)]),
        ({1: 8}, [2, 0, 1], [Gap(0, 0, 0, 8), Gap(2, 16, 2, 24)]),
        ({1: 8}, [1], []),
    ],
)
def test_gaps(there, shards, gaps):
    assert gaps_in(there, shards, 8) == gaps


def test_gaps_are_cut_from_straddling_batches():
    gaps = [Gap(0, 2, 0, 5), Gap(1, 11, 1, 12), Gap(2, 30)]
    wanted = [list(range(2, 5)), [11], list(range(30, 43))]
    numbers = torch.arange(IMAGES)
    for size in (1, 3, 7, 50):
        batches = [(numbers[start : start + size], numbers[start : start + size]) for start in range(0, IMAGES, size)]
        for loader in (batches, iter(batches), lambda first: [(numbers[first:], numbers[first:])]):
            found = [
                [number for images, labels in part for number in images.tolist() if torch.equal(images, labels)]
                for _, part in batches_of(loader, gaps)
            ]
            assert found == wanted, size


def test_joined_arrays_are_those_that_all_parts_have():
    parts = [
        {"a": torch.arange(2), "b": torch.ones(2, 3), "s": torch.ones(4)},
        {"a": torch.arange(1), "s": torch.ones(4)},
    ]
    joined = Joined(3, summed=("s",))
    for part in parts:
        joined.add(part)
    arrays = joined.arrays()
    assert arrays.keys() == {"a", "s"}
    assert arrays["a"].tolist() == [0, 1, 0] and arrays["s"].tolist() == [2.0] * 4
    assert parts[0]["s"].tolist() == [1.0] * 4  # not added to in place


def test_joined_arrays_must_have_as_many_rows_as_announced():
    joined = Joined(3)
    with pytest.raises(ValueError, match="3 rows were announced, and there are 0"):
        joined.arrays()
    joined.add({"a": torch.zeros(2)})
    with pytest.raises(ValueError, match="3 rows were announced, and there are 2"):
        joined.arrays()
    with pytest.raises(ValueError, match="3 rows were announced, and there are at least 4"):
        joined.add({"a": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"equally long, these are \[1, 2\]"):
        joined.add({"a": torch.zeros(2), "b": torch.zeros(1)})


def test_no_parts_are_no_recording():
    with pytest.raises(RecordingError, match="no parts"):
        Recording.concatenate([])


def test_parts_may_be_forgotten_as_they_are_joined(whole):
    """`joined` asks for a part only once the one before has been copied."""
    import gc
    import weakref

    recording = load_recording(whole[0])
    alive = []

    def parts():
        for start in range(0, IMAGES, 10):
            gc.collect()
            assert sum(each() is not None for each in alive) <= 1
            part = recording.take(torch.arange(start, min(start + 10, IMAGES)))
            alive.append(weakref.ref(part.labels))
            yield part
            del part

    joined = Recording.joined(parts(), IMAGES)
    again = recording.take(torch.arange(IMAGES))
    assert joined.info == dataclasses.replace(recording.info, sites=())
    for name, array in again.tensors().items():
        assert torch.equal(joined.tensors()[name], array), name
