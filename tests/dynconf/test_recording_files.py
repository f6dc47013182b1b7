"""What is written is what is read: spikes per layer, old files, files of other programs, and whatever is wrong in them."""

from __future__ import annotations

import hashlib
import json

import numpy
import pytest
import torch
from recordings import drift
from safetensors.numpy import save as numpy_save
from safetensors.torch import load_file, save_file

from benchmark import registry
from benchmark.conformance import CLASSES, calibration_images, quantised_network, random_images
from dynconf import Agreement, Recording, record
from dynconf.recorder import RecordingReport
from dynconf.recording import HEADER, RecordingError, RecordingInfo, load_recording, shard_path
from methods.qcfs import QCFS

IMAGES, TIMESTEPS = 23, 5


@pytest.fixture(scope="module")
def network():
    return QCFS().convert(quantised_network(QCFS(), "residual"), random_images(1))


@pytest.fixture(scope="module")
def labels():
    return torch.randint(0, CLASSES, (IMAGES,), generator=torch.Generator().manual_seed(1))


def batches(labels, size, first=0):
    images = random_images(IMAGES)
    return [(images[start : start + size], labels[start : start + size]) for start in range(first, IMAGES, size)]


def same(left, right):
    a, b = left.tensors(), right.tensors()
    return left.info == right.info and a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# Spikes per layer


def test_spikes_per_layer_are_those_of_the_network(network, labels):
    recording = record(network, batches(labels, 7), timesteps=TIMESTEPS)
    network.begin(random_images(IMAGES))
    for t in range(TIMESTEPS):
        network.step()
        assert torch.equal(recording.site_spikes[t], network.site_spikes.sum(0))
    assert recording.site_spikes.dtype == torch.int64
    assert recording.info.sites == tuple(site.name for site in network.sites)
    assert len(recording.info.sites) > 2 and bool((recording.site_spikes.sum(0) > 0).all())


@pytest.mark.parametrize("method", registry.names("methods"))
def test_layers_add_up_to_all_spikes(method):
    converter = registry.load("methods", method)()
    network = converter.convert(quantised_network(converter, "plain"), calibration_images(converter))
    images = random_images(9)
    recording = record(network, [(images, torch.zeros(9, dtype=torch.long))], timesteps=TIMESTEPS)
    assert recording.site_spikes.shape == (TIMESTEPS, len(network.sites))
    assert torch.equal(recording.site_spikes.sum(1), recording.spikes.sum(0))


class ShortOfMemory:
    """Holds only a few images, and for other reasons fails at the n-th batch."""

    def __init__(self, network, capacity):
        self._network, self._capacity = network, capacity

    def begin(self, images):
        if len(images) > self._capacity:
            raise MemoryError
        self._network.begin(images)

    def __getattr__(self, name):
        return getattr(self._network, name)


@pytest.mark.parametrize(
    ("batch", "shard", "capacity"), [(1, 4, 99), (7, 5, 99), (23, 10, 99), (23, 7, 5), (4, 512, 99)]
)
def test_layers_survive_shards_halving_and_the_disk(network, labels, tmp_path, batch, shard, capacity):
    whole = record(network, batches(labels, IMAGES), timesteps=TIMESTEPS)
    cut = record(
        ShortOfMemory(network, capacity), batches(labels, batch), timesteps=TIMESTEPS, folder=tmp_path, shard_size=shard
    )
    assert torch.equal(cut.site_spikes, whole.site_spikes)
    assert cut.info.sites == whole.info.sites
    assert same(cut, load_recording(tmp_path))
    parts = [load_file(path)["site_spikes"] for path in sorted(tmp_path.glob("shard-*"))]
    assert len(parts) == -(-IMAGES // shard)
    assert torch.equal(torch.stack(parts).sum(0), whole.site_spikes)


def test_layers_survive_an_interruption(network, labels, tmp_path):
    unbroken = record(network, batches(labels, 4), timesteps=TIMESTEPS, folder=tmp_path / "a", shard_size=8)
    record(network, batches(labels, 4), timesteps=TIMESTEPS, folder=tmp_path / "b", shard_size=8)
    for path in (tmp_path / "b" / HEADER, shard_path(tmp_path / "b", 2), shard_path(tmp_path / "b", 1)):
        path.unlink()
    report = RecordingReport()
    resumed = record(
        network, batches(labels, 4), timesteps=TIMESTEPS, folder=tmp_path / "b", shard_size=8, report=report
    )
    assert report.resumed_images == 8 and same(resumed, unbroken)
    for path in (tmp_path / "a").iterdir():
        assert (tmp_path / "b" / path.name).read_bytes() == path.read_bytes()


def test_a_selection_has_no_layers_and_two_halves_have_them_together(network, labels):
    recording = record(network, batches(labels, IMAGES), timesteps=TIMESTEPS)
    first, second = (
        record(network, [(random_images(IMAGES)[part], labels[part])], timesteps=TIMESTEPS)
        for part in (slice(0, 9), slice(9, None))
    )
    joined = Recording.concatenate([first, second])
    assert torch.equal(joined.site_spikes, recording.site_spikes)
    selected = recording.take(torch.arange(9))
    assert selected.site_spikes is None and selected.info.sites == ()
    mixed = Recording.concatenate([selected, second])
    assert mixed.site_spikes is None and mixed.info.sites == () and len(mixed) == IMAGES


def strip(folder):
    """A recording as programs wrote it that knew nothing of layers."""
    checksums = []
    for path in sorted(folder.glob("shard-*")):
        arrays = {name: array for name, array in load_file(path).items() if name not in ("site_spikes", "sites")}
        with path.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        save_file(arrays, path, header["__metadata__"])
        checksums.append(hashlib.sha256(path.read_bytes()).hexdigest())
    header = json.loads((folder / HEADER).read_text())
    del header["sites"]
    (folder / HEADER).write_text(json.dumps({**header, "shards": checksums}))


def test_old_recordings_load_and_are_resumed_without_layers(network, labels, tmp_path):
    whole = record(network, batches(labels, 4), timesteps=TIMESTEPS, folder=tmp_path, shard_size=8)
    strip(tmp_path)
    old = load_recording(tmp_path)
    assert old.site_spikes is None and old.info.sites == ()
    assert torch.equal(old.spikes, whole.spikes)
    assert "sites" not in old.info.to_dict() and RecordingInfo.from_dict(old.info.to_dict()) == old.info
    for path in (tmp_path / HEADER, shard_path(tmp_path, 2), shard_path(tmp_path, 1)):
        path.unlink()
    resumed = record(network, batches(labels, 4), timesteps=TIMESTEPS, folder=tmp_path, shard_size=8)
    assert same(resumed, old) and same(load_recording(tmp_path), old)


def test_an_old_program_reads_a_new_recording_but_for_the_layers(network, labels, tmp_path):
    """It knows these fields and no others, and reads the header's `info`, `images` and `shards`."""
    record(network, batches(labels, 23), timesteps=TIMESTEPS, folder=tmp_path)
    known = {
        "split",
        "timesteps",
        "num_classes",
        "prelude_steps",
        "macs_once",
        "macs_per_timestep",
        "scales",
        "identity",
    }
    header = json.loads((tmp_path / HEADER).read_text())
    assert set(header["info"]) == known | {"format"} and header["info"]["format"] == 1
    with shard_path(tmp_path, 0).open("rb") as stream:
        about = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))["__metadata__"]
    assert json.loads(about["info"]) == header["info"]


def test_a_network_that_says_what_it_cannot_count(labels):
    class Foreign:
        prelude_steps = 0
        counts_synops = False

        def begin(self, images):
            self.spikes = self.synops = torch.zeros(len(images)).long()

        def step(self):
            return torch.ones(len(self.spikes), CLASSES)

    recording = record(Foreign(), batches(labels, 10), timesteps=2)
    assert recording.info.counts_spikes and not recording.info.counts_synops
    assert recording.site_spikes is None and recording.info.sites == ()


# Leads


def leads_by_hand(sums):
    """Gains of the present answer over the best other class during the last 1, 2, 4 and 8 timesteps, per timestep."""
    found = torch.zeros(*sums.shape[:2], 4, dtype=torch.float64)
    for image, path in enumerate(sums.double().tolist()):
        for t, present in enumerate(path):
            answer = max(range(len(present)), key=lambda k: (present[k], -k))
            for column, window in enumerate((1, 2, 4, 8)):
                steps = min(window, t + 1)
                before = path[t - steps] if t >= steps else [0.0] * len(present)
                gained = [now - then for now, then in zip(present, before, strict=True)]
                others = max(gain for k, gain in enumerate(gained) if k != answer)
                found[image, t, column] = (gained[answer] - others) / steps
    return found.float()


def test_statistics_have_leads(network, labels, tmp_path):
    logits = record(network, batches(labels, IMAGES), timesteps=10, keep="logits").evidence.logits
    recording = record(network, batches(labels, 9), timesteps=10, keep="statistics", folder=tmp_path, shard_size=7)
    expected = leads_by_hand(logits)
    assert torch.allclose(recording.evidence.statistics["leads"], expected, rtol=1e-5, atol=1e-5)
    assert same(load_recording(tmp_path), recording)
    again = Recording.from_logits(labels, logits, split="test", sums=True, keep="statistics")
    assert torch.equal(again.evidence.statistics["leads"], expected)


def test_recordings_without_leads_load_and_join(network, labels):
    recording = record(network, batches(labels, IMAGES), timesteps=TIMESTEPS, keep="statistics")
    tensors = recording.tensors()
    del tensors["leads"]
    old = Recording.from_tensors(recording.info, tensors)
    assert "leads" not in old.evidence.statistics
    for parts in ([old, recording], [recording, old]):
        joined = Recording.concatenate(parts)
        assert "leads" not in joined.evidence.statistics and len(joined) == 2 * IMAGES
    tensors["leads"] = recording.evidence.statistics["leads"][..., :3]
    with pytest.raises(RecordingError, match=r"array 'leads' is \[23, 5, 3\], expected \[23, 5, 4\]"):
        Recording.from_tensors(recording.info, tensors)


def test_agreement_on_statistics_is_agreement_on_logits():
    random = numpy.random.default_rng(0)
    labels = random.integers(0, 6, 300)
    steps = random.normal(size=(300, 10, 6))
    steps[numpy.arange(300), :, labels] += 0.7
    pair = [
        Recording.from_logits(labels, steps, split="calibration", sums=False, keep=keep)
        for keep in ("logits", "statistics")
    ]
    fitted = [Agreement().fit(recording) for recording in pair]
    assert fitted[0] == fitted[1]
    assert torch.equal(*(policy.exit_steps(recording) for policy, recording in zip(fitted, pair, strict=True)))


# There and back


@pytest.mark.parametrize("statistics", [False, True])
def test_saving_and_loading(tmp_path, statistics):
    recording = drift(images=1200, timesteps=3, split="calibration", prelude_steps=2, statistics=statistics)
    recording.save(tmp_path / "a")
    assert len(list((tmp_path / "a").glob("shard-*"))) == 3
    assert same(load_recording(tmp_path / "a"), recording)
    with pytest.raises(RecordingError, match="holds another recording"):
        recording.save(tmp_path / "a")


def test_saving_with_layers_keeps_them(network, labels, tmp_path):
    recording = record(network, batches(labels, IMAGES), timesteps=TIMESTEPS)
    recording.save(tmp_path)
    assert same(load_recording(tmp_path), recording)


# Folders that another program wrote


def written(folder, spoil=None, **changes):
    """A recording folder written with numpy, json and hashlib, as docs/recordings.md says."""
    random = numpy.random.default_rng(0)
    labels = random.integers(0, 3, 20)
    logits = random.normal(size=(20, 4, 3)).astype(numpy.float32).cumsum(1, dtype=numpy.float32)
    arrays = {
        "labels": labels,
        "logits": logits,
        "label_logits": logits[numpy.arange(20)[:, None], numpy.arange(4), labels[:, None]],
        "spikes": random.integers(0, 9, (20, 4)),
        "synops": random.integers(0, 9, (20, 4)),
        "prelude_spikes": numpy.zeros(20, dtype=numpy.int64),
        "prelude_synops": numpy.zeros(20, dtype=numpy.int64),
    }
    if spoil is not None:
        spoil(arrays)
    info = {"format": 1, "split": "test", "timesteps": 4, "num_classes": 3, **changes}
    folder.mkdir(parents=True)
    shards = []
    for number, rows in enumerate((slice(0, 15), slice(15, 20))):
        part = {name: numpy.ascontiguousarray(array[rows]) for name, array in arrays.items()}
        content = numpy_save(part, {"info": json.dumps(info)})
        (folder / f"shard-{number:05d}.safetensors").write_bytes(content)
        shards.append(hashlib.sha256(content).hexdigest())
    (folder / "recording.json").write_text(json.dumps({"info": info, "images": 20, "shards": shards}))
    return arrays


def test_a_folder_of_another_program(tmp_path):
    arrays = written(tmp_path / "test")
    recording = load_recording(tmp_path / "test")
    for name, array in arrays.items():
        assert numpy.array_equal(recording.tensors()[name].numpy(), array), name


def put(name, change):
    return lambda arrays: arrays.update({name: change(arrays[name])})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda arrays: arrays.pop("spikes"), "array 'spikes' is missing"),
        (lambda arrays: arrays.pop("labels"), "array 'labels' is missing"),
        (lambda arrays: arrays.pop("logits"), "array 'prediction' is missing"),
        (put("labels", lambda a: a.astype(numpy.int32)), "array 'labels' is int32, expected int64"),
        (put("labels", lambda a: a + 1), r"labels outside 0\.\.2"),
        (put("logits", lambda a: a.astype(numpy.float64)), "array 'logits' is float64, expected float32"),
        (put("logits", lambda a: a[:, :3]), r"array 'logits' is \[15, 3, 3\], expected \[15, 4, 3\]"),
        (put("logits", lambda a: a * numpy.nan), "array 'logits' has NaN or infinite values"),
        (put("label_logits", lambda a: a + 1), "'label_logits' is not that of the labels in 'logits'"),
        (put("spikes", lambda a: a - 9), "array 'spikes' has negative numbers"),
        (put("synops", lambda a: a[:, 0]), r"array 'synops' is \[15\], expected \[15, 4\]"),
        (lambda arrays: arrays.update(site_spikes=arrays["spikes"]), "array 'site_spikes' is"),
    ],
)
def test_wrong_arrays_in_a_shard_are_named(tmp_path, spoil, message):
    written(tmp_path / "test", spoil)
    with pytest.raises(RecordingError, match=message) as refused:
        load_recording(tmp_path / "test")
    assert "shard-00000.safetensors" in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "not a recording of format 1"),
        ({"timesteps": "4"}, "'timesteps' must be a whole number of at least 1, found '4'"),
        ({"timesteps": True}, "'timesteps' must be a whole number"),
        ({"num_classes": 0}, "'num_classes' must be a whole number of at least 1"),
        ({"prelude_steps": -1}, "'prelude_steps' must be a whole number of at least 0"),
        ({"split": None}, "'split' must be a string"),
        ({"scales": [0.0]}, "'scales' must be positive"),
        ({"scales": 3}, "not iterable"),
        ({"counts_spikes": 0}, "'counts_spikes' must be true or false"),
        ({"surprise": 1}, "header does not fit"),
    ],
)
def test_wrong_headers_are_named(tmp_path, changes, message):
    written(tmp_path / "test", **changes)
    with pytest.raises(RecordingError, match=message):
        load_recording(tmp_path / "test")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"info": 3, "images": 1, "shards": []}', "\x00"])
def test_a_header_that_is_none(tmp_path, content):
    written(tmp_path / "test")
    (tmp_path / "test" / HEADER).write_text(content)
    with pytest.raises(RecordingError, match="holds no complete recording"):
        load_recording(tmp_path / "test")


def test_a_recording_without_images_is_refused(tmp_path):
    written(tmp_path / "test")
    header = json.loads((tmp_path / "test" / HEADER).read_text())
    (tmp_path / "test" / HEADER).write_text(json.dumps({**header, "images": 0, "shards": []}))
    with pytest.raises(RecordingError, match="without images"):
        load_recording(tmp_path / "test")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("top", lambda tensor: tensor[..., :4], r"array 'top' is \[30, 12, 4\], expected \[30, 12, 5\]"),
        ("top", None, "array 'top' is missing"),
        ("prediction", lambda tensor: tensor + 6, r"array 'prediction' has classes outside 0\.\.5"),
        ("prediction", lambda tensor: tensor.long(), "array 'prediction' is int64, expected int32"),
        (
            "log_sum_exp",
            lambda tensor: tensor[..., 1:],
            r"array 'log_sum_exp' is \[30, 12, 15\], expected \[30, 12, 16\]",
        ),
    ],
)
def test_wrong_statistics_are_named(name, change, message):
    recording = drift(images=30, statistics=True)
    tensors = recording.tensors()
    if change is None:
        del tensors[name]
    else:
        tensors[name] = change(tensors[name])
    with pytest.raises(RecordingError, match=message):
        Recording.from_tensors(recording.info, tensors)
