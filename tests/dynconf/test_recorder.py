"""Recording: the same numbers however it is cut, interrupted or short of memory, and nothing half-written is read."""

from __future__ import annotations

import json

import pytest
import torch

from benchmark.conformance import CLASSES, quantised_network, random_images
from dynconf import DynamicConfidence, DynamicInference, record
from dynconf.judging import outcome
from dynconf.recorder import RecordingReport
from dynconf.recording import HEADER, RecordingError, load_recording, shard_path
from methods.qcfs import QCFS

IMAGES, TIMESTEPS = 50, 6


@pytest.fixture(scope="module")
def network():
    return QCFS().convert(quantised_network(QCFS(), "residual"), random_images(1))


@pytest.fixture(scope="module")
def labels():
    return torch.randint(0, CLASSES, (IMAGES,), generator=torch.Generator().manual_seed(1))


def batches(labels, size: int, first: int = 0):
    images = random_images(IMAGES)
    return [(images[start : start + size], labels[start : start + size]) for start in range(first, IMAGES, size)]


def equal(left, right) -> bool:
    a, b = left.tensors(), right.tensors()
    return left.info == right.info and a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("keep", ["logits", "statistics"])
def test_batch_and_shard_size_do_not_change_a_recording(network, labels, keep, tmp_path):
    whole = record(network, batches(labels, IMAGES), timesteps=TIMESTEPS, keep=keep)
    assert len(whole) == IMAGES
    for size, shard in ((1, 512), (7, 16), (16, 10)):
        other = record(
            network,
            batches(labels, size),
            timesteps=TIMESTEPS,
            keep=keep,
            folder=tmp_path / f"{size}",
            shard_size=shard,
        )
        for name, value in whole.tensors().items():
            if value.is_floating_point():
                # float64 simulation, stored in float32 (sums) or float64 (log-sum-exp)
                assert torch.allclose(value, other.tensors()[name], rtol=1e-6, atol=0), name
            else:
                assert torch.equal(value, other.tensors()[name]), name
        assert equal(other, load_recording(tmp_path / f"{size}"))


def test_recording_holds_what_the_network_did(network, labels):
    recording = record(network, batches(labels, 20), timesteps=TIMESTEPS)
    images = random_images(IMAGES)
    network.begin(images)
    total = 0
    for t in range(TIMESTEPS):
        total = total + network.step()
        assert torch.allclose(recording.evidence.logits[:, t], total.float(), rtol=1e-6)
        assert torch.equal(recording.spikes[:, t], network.spikes)
        assert torch.equal(recording.synops[:, t], network.synops)
    assert recording.info.macs_once == network.macs_once > 0
    assert recording.info.macs_per_timestep == network.macs_per_timestep > 0
    assert torch.equal(
        recording.label_logits,
        recording.evidence.logits.gather(2, labels[:, None, None].expand(-1, TIMESTEPS, 1))[..., 0],
    )


class Stops(Exception):
    pass


def test_an_interrupted_recording_goes_on_where_it_was(network, labels, tmp_path):
    unbroken = record(network, batches(labels, 5), timesteps=TIMESTEPS, folder=tmp_path / "whole", shard_size=10)

    def until_the_power_fails(first):
        for number, batch in enumerate(batches(labels, 5, first)):
            if number == 7:
                raise Stops
            yield batch

    with pytest.raises(Stops):
        record(network, until_the_power_fails, timesteps=TIMESTEPS, folder=tmp_path / "broken", shard_size=10)
    assert len(list((tmp_path / "broken").glob("shard-*"))) == 3
    with pytest.raises(RecordingError, match="no complete recording"):
        load_recording(tmp_path / "broken")
    asked, report = [], RecordingReport()

    def from_image(first):
        asked.append(first)
        return batches(labels, 5, first)

    resumed = record(network, from_image, timesteps=TIMESTEPS, folder=tmp_path / "broken", shard_size=10, report=report)
    assert asked == [30] and report.resumed_images == 30
    assert equal(resumed, unbroken)
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "broken" / path.name).read_bytes() == path.read_bytes()


def test_resuming_a_plain_list_skips_what_is_done(network, labels, tmp_path):
    record(network, batches(labels, 5), timesteps=TIMESTEPS, folder=tmp_path / "a", shard_size=16)
    (tmp_path / "a" / HEADER).unlink()
    shard_path(tmp_path / "a", 3).unlink()
    shard_path(tmp_path / "a", 2).unlink()
    resumed = record(network, batches(labels, 5), timesteps=TIMESTEPS, folder=tmp_path / "a", shard_size=16)
    assert equal(resumed, record(network, batches(labels, 5), timesteps=TIMESTEPS))


def test_a_finished_recording_is_not_simulated_again(network, labels, tmp_path):
    first = record(network, batches(labels, 25), timesteps=TIMESTEPS, folder=tmp_path, identity="a")
    again = record(None, None, timesteps=TIMESTEPS, folder=tmp_path, identity="a")
    assert equal(first, again)


@pytest.mark.parametrize("change", [{"identity": "b"}, {"timesteps": TIMESTEPS + 1}, {"split": "test"}])
def test_another_recording_in_the_folder_is_an_error(network, labels, tmp_path, change):
    arguments = {"timesteps": TIMESTEPS, "identity": "a", "split": "calibration"}
    record(network, batches(labels, 25), folder=tmp_path, **arguments)
    for header_there in (True, False):
        if not header_there:
            (tmp_path / HEADER).unlink()
        with pytest.raises(RecordingError, match="another recording"):
            record(network, batches(labels, 25), folder=tmp_path, **{**arguments, **change})


def damage_bytes(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage", [lambda path: path.write_bytes(path.read_bytes()[:-7]), damage_bytes, lambda path: path.unlink()]
)
def test_a_damaged_shard_is_named(network, labels, tmp_path, damage):
    record(network, batches(labels, 25), timesteps=TIMESTEPS, folder=tmp_path, shard_size=20)
    damage(shard_path(tmp_path, 1))
    with pytest.raises(RecordingError, match=r"shard-00001\.safetensors is missing or damaged"):
        load_recording(tmp_path)


def test_an_unknown_format_is_refused(network, labels, tmp_path):
    record(network, batches(labels, 25), timesteps=TIMESTEPS, folder=tmp_path)
    header = json.loads((tmp_path / HEADER).read_text())
    header["info"]["format"] = 99
    (tmp_path / HEADER).write_text(json.dumps(header))
    with pytest.raises(RecordingError, match="format"):
        load_recording(tmp_path)


class ShortOfMemory:
    """A network on a device that holds only a few images."""

    def __init__(self, network, capacity, error):
        self._network, self.capacity, self.error = network, capacity, error
        self.prelude_steps = 0

    def begin(self, images):
        if len(images) > self.capacity:
            raise self.error
        self._network.begin(images)

    def __getattr__(self, name):
        return getattr(self._network, name)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_halves_the_batch_and_changes_no_number(network, labels, error):
    report = RecordingReport()
    halved = record(ShortOfMemory(network, 13, error), batches(labels, IMAGES), timesteps=TIMESTEPS, report=report)
    whole = record(network, batches(labels, 12), timesteps=TIMESTEPS)
    assert report.oom_halvings == 2  # 50 -> 25 -> 12, and 12 for the rest
    assert torch.equal(halved.predictions, whole.predictions) and torch.equal(halved.spikes, whole.spikes)


def test_memory_too_small_for_one_image_is_an_error(network, labels):
    with pytest.raises(MemoryError):
        record(ShortOfMemory(network, 0, MemoryError()), batches(labels, 4), timesteps=TIMESTEPS)


def test_other_errors_are_not_taken_for_lack_of_memory(network, labels):
    with pytest.raises(RuntimeError, match="broken"):
        record(ShortOfMemory(network, 0, RuntimeError("broken")), batches(labels, 4), timesteps=TIMESTEPS)


def test_logits_that_are_not_finite_are_refused(labels):
    class Broken:
        prelude_steps = 0

        def begin(self, images):
            self.spikes = self.synops = torch.zeros(len(images)).long()

        def step(self):
            return torch.full((len(self.spikes), CLASSES), float("nan"))

    with pytest.raises(RecordingError, match="NaN or infinite"):
        record(Broken(), batches(labels, 10), timesteps=2)


def test_no_images_is_an_error(network):
    with pytest.raises(RecordingError, match="no images"):
        record(network, [], timesteps=2)


@pytest.mark.parametrize("batch_size", [1, 7, 50])
def test_online_equals_replay_image_by_image(network, labels, batch_size):
    recording = record(network, batches(labels, 10), timesteps=TIMESTEPS)
    scores = recording.evidence.confidence(2.0)
    policy = DynamicConfidence(scale=2.0, threshold=float(scores[:, 2].median()))
    expected = outcome(recording, policy.exit_steps(recording))
    assert len(expected.timesteps.unique()) > 2
    run = DynamicInference(network, policy, TIMESTEPS)
    answers = [run(images) for images, _ in batches(labels, batch_size)]
    for name in ("prediction", "timesteps", "latency", "spikes", "synops"):
        assert torch.equal(torch.cat([getattr(answer, name) for answer in answers]), getattr(expected, name)), name


def test_any_stepwise_network_can_be_wrapped(network, labels):
    recording = record(network, batches(labels, IMAGES), timesteps=TIMESTEPS)
    policy = DynamicConfidence(scale=2.0, threshold=float(recording.evidence.confidence(2.0)[:, 2].median()))
    started = []

    def step(images):
        if not started:
            network.begin(images)
            started.append(True)
        return network.step()

    wrapped = DynamicInference.wrap(step, started.clear, policy, TIMESTEPS)
    expected = outcome(recording, policy.exit_steps(recording))
    for _ in range(2):
        answers = wrapped(random_images(IMAGES))
        assert torch.equal(answers.timesteps, expected.timesteps)
        assert torch.equal(answers.prediction, expected.prediction)
