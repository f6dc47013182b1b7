"""A calibration and a test recording that do not belong together are refused."""

from __future__ import annotations

import dataclasses

import numpy
import pytest
import torch
from recordings import drift

from dynconf import Recording
from dynconf.recording import RecordingError
from dynconf.splits import check_splits, load_splits, shared_images


def arrays(seed, images=40, timesteps=4, classes=3):
    random = numpy.random.default_rng(seed)
    return {"labels": random.integers(0, classes, images), "logits": random.normal(size=(images, timesteps, classes))}


def npz(path, seed, **options):
    fields = {name: options.pop(name) for name in ("split", "prelude_steps") if name in options}
    numpy.savez(path, **arrays(seed, **options), logits_are="steps", **fields)
    return path


def test_a_folder_of_two_files_or_two_folders_or_the_two_themselves(tmp_path):
    one, two = npz(tmp_path / "calibration.npz", 1), npz(tmp_path / "test.npz", 2)
    calibration, test = load_splits(tmp_path)
    assert (calibration.split, test.split) == ("calibration", "test")
    for paths in ((one, two), (two, one), (str(one), str(two))):
        for left, right in zip(load_splits(*paths), (calibration, test), strict=True):
            assert torch.equal(left.evidence.logits, right.evidence.logits) and left.info == right.info
    for recording in (calibration, test):
        recording.save(tmp_path / "folders" / recording.split)
    assert torch.equal(load_splits(tmp_path / "folders")[0].labels, calibration.labels)


def test_what_is_missing_or_there_twice_is_named(tmp_path):
    npz(tmp_path / "calibration.npz", 1)
    with pytest.raises(RecordingError, match=r"has no test recording: none of test, test\.npz, test\.safetensors"):
        load_splits(tmp_path)
    npz(tmp_path / "test.npz", 2)
    (tmp_path / "test").mkdir()
    with pytest.raises(RecordingError, match=r"more than one test recording: test, test\.npz"):
        load_splits(tmp_path)
    with pytest.raises(RecordingError, match="found 3 paths"):
        load_splits(tmp_path, tmp_path, tmp_path)


def test_a_folder_that_contradicts_its_name(tmp_path):
    for name, split in (("calibration", "test"), ("test", "calibration")):
        Recording.from_logits(**arrays(3 + len(name)), split=split, sums=False).save(tmp_path / name)
    with pytest.raises(RecordingError, match="says that it is of the split 'test', expected 'calibration'"):
        load_splits(tmp_path)


@pytest.mark.parametrize("splits", [("test", "test"), ("train", "calibration")])
def test_two_files_of_the_same_kind(tmp_path, splits):
    paths = [npz(tmp_path / f"{number}.npz", number, split=split) for number, split in enumerate(splits)]
    with pytest.raises(RecordingError, match=f"are of the splits '{splits[0]}' and '{splits[1]}'"):
        load_splits(*paths)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timesteps": 5}, "the calibration recording has 4 timesteps, the test recording 5"),
        ({"classes": 4}, "the calibration recording has 3 classes, the test recording 4"),
        ({"prelude_steps": 2}, "the calibration recording has 0 prelude steps, the test recording 2"),
    ],
)
def test_recordings_of_different_networks(tmp_path, change, message):
    npz(tmp_path / "calibration.npz", 1)
    npz(tmp_path / "test.npz", 2, **change)
    with pytest.raises(RecordingError, match=message) as refused:
        load_splits(tmp_path)
    assert str(tmp_path) in str(refused.value)


@pytest.mark.parametrize("statistics", [False, True])
def test_shared_images_are_counted_and_refused(statistics):
    everything = drift(images=100, statistics=statistics)
    calibration, test = everything.take(torch.arange(0, 60)), everything.take(torch.arange(53, 100))
    calibration = dataclasses.replace(calibration, info=dataclasses.replace(calibration.info, split="calibration"))
    assert shared_images(calibration, test) == 7
    assert shared_images(test, calibration) == 7
    with pytest.raises(RecordingError, match="7 of 47 test images have exactly the logits of a calibration image"):
        check_splits(calibration, test)
    check_splits(calibration, test, allow_shared_images=True)
    apart = everything.take(torch.arange(60, 100))
    assert shared_images(calibration, apart) == 0
    check_splits(calibration, apart)


def test_one_changed_logit_makes_another_image():
    calibration = drift(images=10, split="calibration")
    logits = calibration.evidence.logits.clone()
    for image in range(10):
        logits[image, image % 12, logits[image, image % 12].argmax()] += 1e-3
    other = Recording.from_logits(calibration.labels, logits, split="test", sums=True)
    assert shared_images(calibration, other) == 0


def test_the_recordings_of_one_run_are_taken_at_their_word():
    """Its data set may hold an image twice."""
    pair = [drift(images=10, split=split) for split in ("calibration", "test")]
    same = [dataclasses.replace(each, info=dataclasses.replace(each.info, identity="a run")) for each in pair]
    check_splits(*same)
    with pytest.raises(RecordingError, match="10 of 10"):
        check_splits(same[0], pair[1])


def test_statistics_at_other_scales():
    calibration, test = drift(split="calibration", statistics=True), drift(seed=1, statistics=True)
    other = dataclasses.replace(test.evidence, scales=(5.0, *test.evidence.scales[1:]))
    with pytest.raises(RecordingError, match="the calibration recording has the scales"):
        check_splits(calibration, dataclasses.replace(test, evidence=other))
