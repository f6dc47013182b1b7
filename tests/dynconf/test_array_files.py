"""Recordings that somebody else's program wrote, with numpy and nothing of ours; and everything that can be wrong in them."""

from __future__ import annotations

import json
import zipfile

import numpy
import pytest
import torch
from safetensors.numpy import save_file

from dynconf import DynamicConfidence, Margin, Recording
from dynconf.evidence import SCALES, StatisticEvidence, statistics_of
from dynconf.recording import HEADER, RecordingError, load_recording

IMAGES, TIMESTEPS, CLASSES = 30, 5, 4


def foreign(seed=0, images=IMAGES, timesteps=TIMESTEPS, classes=CLASSES):
    """What a simulator has after a run: this timestep's outputs, labels, spikes."""
    random = numpy.random.default_rng(seed)
    labels = random.integers(0, classes, images)
    steps = random.normal(size=(images, timesteps, classes)).astype(numpy.float32)
    steps[numpy.arange(images), :, labels] += 0.8
    return {
        "labels": labels,
        "logits": steps,
        "spikes": random.integers(0, 50, (images, timesteps)),
        "synops": random.integers(0, 500, (images, timesteps)),
    }


def in_metadata(value):
    return value if isinstance(value, str) else json.dumps(value)


def write(path, arrays, **fields):
    """As .npz or .safetensors, whatever the name says."""
    if path.suffix == ".npz":
        numpy.savez(path, **arrays, **fields)
    else:
        about = {name: in_metadata(value) for name, value in fields.items()}
        save_file({name: numpy.ascontiguousarray(array) for name, array in arrays.items()}, path, about)
    return path


SUFFIXES = pytest.mark.parametrize("suffix", [".npz", ".safetensors"])


@SUFFIXES
def test_the_outputs_of_each_timestep(tmp_path, suffix):
    arrays = foreign()
    recording = load_recording(write(tmp_path / f"test{suffix}", arrays, logits_are="steps"))
    total = numpy.zeros((IMAGES, CLASSES))
    for t in range(TIMESTEPS):
        total += arrays["logits"][:, t]
        assert numpy.array_equal(recording.evidence.logits[:, t].numpy(), total.astype(numpy.float32))
    assert recording.evidence.logits.dtype == torch.float32
    info = recording.info
    assert (info.split, info.timesteps, info.num_classes, info.prelude_steps) == ("test", 5, 4, 0)
    assert info.counts_spikes and info.counts_synops
    for name in ("labels", "spikes", "synops"):
        assert getattr(recording, name).dtype == torch.int64
        assert numpy.array_equal(getattr(recording, name).numpy(), arrays[name])
    assert recording.prelude_spikes.tolist() == recording.prelude_synops.tolist() == [0] * IMAGES


@SUFFIXES
def test_outputs_are_added_up_in_float64(tmp_path, suffix):
    """Rounded to float32 only when they are handed out: 2^25 + 1 is no float32, but the sum after the next timestep is."""
    arrays = foreign(timesteps=2)
    steps = numpy.tile(numpy.array([2.0**25 + 1, -(2.0**25)])[:, None], (IMAGES, 1, CLASSES))
    path = write(tmp_path / f"test{suffix}", {"labels": arrays["labels"], "logits": steps}, logits_are="steps")
    assert load_recording(path).evidence.logits[0, :, 0].tolist() == [2.0**25, 1.0]


@SUFFIXES
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int16", ">f4", "uint8"])
def test_sums_of_any_dtype(tmp_path, suffix, dtype):
    if suffix == ".safetensors" and dtype == ">f4":
        dtype = "float32"  # the format knows one byte order
    arrays = foreign()
    sums = (10 * arrays["logits"].cumsum(1)).clip(0, 200).astype(dtype)
    path = write(tmp_path / f"calibration{suffix}", {**arrays, "logits": sums}, logits_are="sums")
    assert numpy.array_equal(load_recording(path).evidence.logits.numpy(), sums.astype(numpy.float32))


@SUFFIXES
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_labels_and_counts_of_any_integer_dtype(tmp_path, suffix, dtype):
    arrays = foreign()
    small = {name: (arrays[name] % 100).astype(dtype) for name in ("labels", "spikes", "synops")}
    recording = load_recording(write(tmp_path / f"test{suffix}", {**arrays, **small}, logits_are="steps"))
    assert numpy.array_equal(recording.labels.numpy(), arrays["labels"])
    assert numpy.array_equal(recording.synops.numpy(), arrays["synops"] % 100)


@SUFFIXES
def test_a_prelude_layers_and_everything_else(tmp_path, suffix):
    arrays = foreign()
    arrays["prelude_spikes"], arrays["prelude_synops"] = numpy.arange(IMAGES), 2.0 * numpy.arange(IMAGES)
    first = arrays["spikes"].sum(0) // 3
    arrays["site_spikes"] = numpy.stack([first, arrays["spikes"].sum(0) - first], 1)
    path = write(
        tmp_path / f"run 7{suffix}",
        arrays,
        logits_are="steps",
        split="calibration",
        prelude_steps=3,
        macs_once=100,
        macs_per_timestep=7,
        identity="theirs",
        sites=["conv", "head"],
    )
    recording = load_recording(path)
    info = recording.info
    assert (info.split, info.prelude_steps, info.macs_once, info.macs_per_timestep) == ("calibration", 3, 100, 7)
    assert (info.identity, info.sites) == ("theirs", ("conv", "head"))
    assert recording.prelude_synops.tolist() == list(range(0, 2 * IMAGES, 2))
    assert numpy.array_equal(recording.site_spikes.numpy(), arrays["site_spikes"])


def test_compressed_and_column_major_archives(tmp_path):
    arrays = foreign()
    plain = load_recording(write(tmp_path / "test.npz", arrays, logits_are="steps"))
    (tmp_path / "b").mkdir()
    numpy.savez_compressed(
        tmp_path / "b" / "test.npz", **{**arrays, "logits": numpy.asfortranarray(arrays["logits"])}, logits_are="steps"
    )
    other = load_recording(tmp_path / "b" / "test.npz")
    assert torch.equal(plain.evidence.logits, other.evidence.logits)


@SUFFIXES
@pytest.mark.parametrize("chunk", [1, 64_000])
def test_many_classes_become_statistics_a_few_images_at_a_time(tmp_path, suffix, chunk, monkeypatch):
    """Whatever the chunks, as if all logits were there at once; no scale is lost."""
    from dynconf import arrays as module

    monkeypatch.setattr(module, "CHUNK_BYTES", chunk)
    arrays = foreign(images=12, timesteps=5, classes=1000)
    recording = load_recording(write(tmp_path / f"calibration{suffix}", arrays, logits_are="steps"))
    assert isinstance(recording.evidence, StatisticEvidence) and recording.scales == SCALES
    sums = torch.from_numpy(arrays["logits"]).double().cumsum(1).float()
    for name, expected in statistics_of(sums, SCALES).items():
        assert torch.equal(recording.evidence.statistics[name], expected), name
    own = sums.numpy()[numpy.arange(12)[:, None], numpy.arange(5), arrays["labels"][:, None]]
    assert numpy.array_equal(recording.label_logits.numpy(), own)
    assert Margin().fit(recording).threshold is not None


@SUFFIXES
def test_only_a_chunk_of_the_logits_is_read_at_once(tmp_path, suffix, monkeypatch):
    from dynconf import arrays as module
    from dynconf import over_time

    seen = []

    def watched(logits, scales):
        seen.append(len(logits))
        return statistics_of(logits, scales)

    monkeypatch.setattr(over_time, "statistics_of", watched)
    monkeypatch.setattr(module, "CHUNK_BYTES", 5 * 8 * 5000)
    load_recording(write(tmp_path / f"test{suffix}", foreign(images=23, timesteps=5, classes=1000), logits_are="steps"))
    assert seen == [5] * 4 + [3]


@SUFFIXES
def test_what_was_not_counted_is_not_zero(tmp_path, suffix):
    arrays = foreign()
    del arrays["spikes"], arrays["synops"]
    recording = load_recording(write(tmp_path / f"test{suffix}", arrays, logits_are="steps"))
    assert not recording.info.counts_spikes and not recording.info.counts_synops
    recording.save(tmp_path / "test")
    assert json.loads((tmp_path / "test" / HEADER).read_text())["info"]["counts_spikes"] is False
    assert load_recording(tmp_path / "test").info == recording.info


# What is refused


def without(name):
    return lambda arrays: arrays.pop(name)


def changed(name, change):
    def spoil(arrays):
        arrays[name] = change(numpy.array(arrays[name]))

    return spoil


def at(value, *index):
    def put(array):
        array = array.astype(numpy.result_type(array, type(value)))
        array[index] = value
        return array

    return put


BAD = [
    (without("labels"), "array 'labels' is missing"),
    (without("logits"), "array 'logits' is missing"),
    (changed("labels", lambda a: a[:-1]), r"array 'labels' is \[29\], expected \[30\]"),
    (changed("labels", lambda a: a[:, None]), r"array 'labels' is \[30, 1\], expected \[30\]"),
    (changed("labels", lambda a: a.astype(float)), "array 'labels' is float64, expected whole numbers"),
    (changed("labels", lambda a: a > 1), "array 'labels' is bool, expected whole numbers"),
    (changed("labels", at(4, 7)), r"labels outside 0\.\.3, the classes of 'logits'; found 4"),
    (changed("labels", at(-1, 7)), r"labels outside 0\.\.3, the classes of 'logits'; found -1"),
    (changed("logits", lambda a: a[:, :, 0]), r"'logits' is \[30, 5\], expected \[images, timesteps, classes\]"),
    (changed("logits", lambda a: a[:, :0]), r"'logits' is \[30, 0, 4\], expected"),
    (changed("logits", lambda a: a[:0]), r"'logits' is \[0, 5, 4\], expected"),
    (changed("logits", at(float("nan"), 11, 2, 1)), "'logits' has NaN or infinite values, first in image 11"),
    (changed("logits", at(float("-inf"), 29, 0, 0)), "'logits' has NaN or infinite values, first in image 29"),
    (changed("logits", lambda a: a.astype(float) * 1e300), "'logits' has NaN or infinite values"),
    (changed("spikes", lambda a: a[:, :4]), r"array 'spikes' is \[30, 4\], expected \[30, 5\]"),
    (changed("spikes", lambda a: a.T), r"array 'spikes' is \[5, 30\], expected \[30, 5\]"),
    (changed("spikes", at(-3, 1, 1)), "array 'spikes' has negative numbers, -3 among them"),
    (changed("spikes", at(0.5, 1, 1)), r"array 'spikes' must hold whole numbers, found 0\.5"),
    (changed("synops", at(float("nan"), 1, 1)), "array 'synops' must hold whole numbers, found nan"),
    (lambda arrays: arrays.update(spike=arrays["spikes"]), "array 'spike' is not known; known are labels"),
    (
        lambda arrays: arrays.update(prelude_spikes=numpy.ones(30)),
        "'prelude_spikes' is not zero, but 'prelude_steps' is",
    ),
    (
        lambda arrays: arrays.update(prelude_spikes=arrays.pop("spikes")[:, 0]),
        "array 'prelude_spikes' is there, but 'spikes' is missing",
    ),
    (lambda arrays: arrays.update(site_spikes=numpy.zeros((5, 2))), "'site_spikes' and 'sites'.* go together"),
]


@SUFFIXES
@pytest.mark.parametrize(("spoil", "message"), BAD, ids=[message for _, message in BAD])
def test_wrong_arrays_are_named(tmp_path, suffix, spoil, message):
    arrays = foreign()
    spoil(arrays)
    path = write(tmp_path / f"test{suffix}", arrays, logits_are="steps")
    with pytest.raises(RecordingError, match=message) as refused:
        load_recording(path)
    assert str(refused.value).startswith(f"{path}: ")


@SUFFIXES
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "'logits_are' must say 'sums' .* or 'steps' .*; it is missing"),
        ({"logits_are": "mean"}, "'logits_are' must say .* found 'mean'"),
        ({"logits_are": "sums", "split": "calibration"}, "'split' says 'calibration', but the file is called test"),
        (
            {"logits_are": "sums", "split": "validation"},
            "'split' must be one of calibration, test, train.* 'validation'",
        ),
        ({"logits_are": "sums", "prelude_steps": -1}, "'prelude_steps' must be a whole number of at least 0, found -1"),
        ({"logits_are": "sums", "prelude_steps": 2}, "array 'prelude_spikes' is missing: there is a prelude"),
        ({"logits_are": "sums", "macs_once": 2.5}, "'macs_once' must be"),
        ({"logits_are": "sums", "sites": ["a"]}, "'site_spikes' and 'sites'.* go together"),
    ],
)
def test_wrong_fields_are_named(tmp_path, suffix, fields, message):
    path = write(tmp_path / f"test{suffix}", foreign(), **fields)
    with pytest.raises(RecordingError, match=message) as refused:
        load_recording(path)
    assert str(path) in str(refused.value)


@SUFFIXES
def test_a_file_of_another_name_must_say_its_split(tmp_path, suffix):
    path = write(tmp_path / f"mine{suffix}", foreign(), logits_are="sums")
    with pytest.raises(
        RecordingError, match="'split' must be one of calibration, test, train, or the file be called so"
    ):
        load_recording(path)
    path = write(tmp_path / f"mine{suffix}", foreign(), logits_are="sums", split="test")
    assert load_recording(path).split == "test"


@SUFFIXES
def test_layers_that_do_not_add_up(tmp_path, suffix):
    arrays = foreign()
    arrays["site_spikes"] = numpy.stack([arrays["spikes"].sum(0), numpy.ones(TIMESTEPS, dtype=int)], 1)
    path = write(tmp_path / f"test{suffix}", arrays, logits_are="sums", sites=["a", "b"])
    with pytest.raises(RecordingError, match="'site_spikes' does not add up to 'spikes'"):
        load_recording(path)


class Trap:
    """Leaves a trace when it is unpickled."""

    def __reduce__(self):
        return (eval, ("__import__('pathlib').Path('trapped').touch()",))


@pytest.mark.parametrize("name", ["labels", "logits", "extra", "split"])
def test_pickled_objects_are_refused_and_never_loaded(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "test.npz"
    numpy.savez(path, **{**foreign(), "logits_are": "sums", name: numpy.array([Trap()], dtype=object)})
    with pytest.raises(RecordingError, match=f"array '{name}' holds pickled objects, which are never loaded"):
        load_recording(path)
    assert not (tmp_path / "trapped").exists()


@SUFFIXES
def test_truncated_files_are_refused_wherever_they_end(tmp_path, suffix):
    path = write(tmp_path / f"test{suffix}", foreign(), logits_are="sums")
    content = path.read_bytes()
    for end in range(0, len(content) - 1, 211):
        path.write_bytes(content[:end])
        with pytest.raises(RecordingError, match=r"test\.(npz|safetensors)"):
            load_recording(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_flipped_bit_in_an_archive_is_found(tmp_path, compressed):
    path = tmp_path / "test.npz"
    (numpy.savez_compressed if compressed else numpy.savez)(path, **foreign(), logits_are="sums")
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("logits.npy")
    content = bytearray(path.read_bytes())
    content[member.header_offset + member.compress_size] ^= 1
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=r"damaged|cut short"):
        load_recording(path)


@pytest.mark.parametrize("name", ["labels", "logits"])
@pytest.mark.parametrize("change", ["longer", "shorter"])
def test_an_array_of_another_length_than_its_header_says(tmp_path, name, change):
    path = tmp_path / "test.npz"
    numpy.savez(path, **foreign(), logits_are="sums")
    with zipfile.ZipFile(path) as archive:
        contents = {member: archive.read(member) for member in archive.namelist()}
    contents[f"{name}.npy"] += bytes(8)
    if change == "shorter":
        contents[f"{name}.npy"] = contents[f"{name}.npy"][:-16]
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in contents.items():
            archive.writestr(member, content)
    said = "is longer than its header says" if change == "longer" else "is cut short"
    with pytest.raises(RecordingError, match=f"array '{name}' {said}"):
        load_recording(path)


@pytest.mark.parametrize("name", ["test.npz", "test.safetensors", "test"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(RecordingError, match=name):
        load_recording(tmp_path / name)


@pytest.mark.parametrize("name", ["test.npz", "test.safetensors"])
def test_some_other_file_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04 this is not an archive" * 20)
    with pytest.raises(RecordingError, match="no file of arrays"):
        load_recording(tmp_path / name)


def test_a_shard_alone_is_no_recording(tmp_path):
    Recording.from_logits(foreign()["labels"], foreign()["logits"], split="test", sums=False).save(tmp_path)
    with pytest.raises(RecordingError, match="one shard of a recording; give the folder"):
        load_recording(tmp_path / "shard-00000.safetensors")


# The same from Python


def test_from_logits_takes_arrays_of_numpy_and_torch():
    arrays = foreign()
    ours = Recording.from_logits(**arrays, split="calibration", sums=False)
    theirs = Recording.from_logits(
        **{name: torch.from_numpy(array) for name, array in arrays.items()}, split="calibration", sums=False
    )
    assert ours.info == theirs.info
    for name, tensor in ours.tensors().items():
        assert torch.equal(tensor, theirs.tensors()[name]), name
    sums = numpy.cumsum(arrays["logits"].astype(float), 1)
    again = Recording.from_logits(arrays["labels"], sums, split="calibration", sums=True)
    assert torch.equal(again.evidence.logits, ours.evidence.logits)
    assert again.info.counts_spikes is False and ours.info.counts_spikes is True
    assert DynamicConfidence().fit(ours).threshold == DynamicConfidence().fit(again).threshold


def test_from_logits_takes_what_must_not_be_written_to():
    arrays = foreign()
    sums = arrays["logits"].copy()
    sums.flags.writeable = False
    recording = Recording.from_logits(arrays["labels"], sums, split="test", sums=True)
    assert numpy.array_equal(recording.evidence.logits.numpy(), arrays["logits"])
    kept = Recording.from_logits(arrays["labels"], sums, split="test", sums=True, keep="statistics", scales=(1.0, 3.0))
    assert kept.scales == (1.0, 3.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": list("abcd")}, "array 'labels' is <U1, expected numbers"),
        ({"logits": [[[1j]]]}, "array 'logits' is complex128, expected numbers"),
        ({"prelude_steps": 1.5}, "'prelude_steps' must be a whole number"),
        ({"split": 3}, "'split' must be a string"),
    ],
)
def test_from_logits_names_what_is_wrong(changes, message):
    arguments = {"labels": [0, 1], "logits": numpy.zeros((2, 3, 2)), "split": "test", "sums": True, **changes}
    with pytest.raises(RecordingError, match=message):
        Recording.from_logits(**arguments)
    with pytest.raises(ValueError, match="keep must be"):
        Recording.from_logits([0], numpy.zeros((1, 1, 2)), split="test", sums=True, keep="all")
