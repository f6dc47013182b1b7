"""Bad input: the answer names what is wrong, nothing half-done stays."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import resource
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from test_cifar10_data import write_batches, write_parquet

from benchmark.card import read_card
from benchmark.data import cifar10
from benchmark.records import load_record
from benchmark.store import ResultStore, write_atomic
from dynconf.recorder import RecordingReport, record
from dynconf.recording import HEADER, Recording, RecordingError, load_recording, write_file


@pytest.fixture
def run(call, tmp_path):
    """`run` on few digits with a given checkpoint."""

    def start(checkpoint, *more):
        return call(
            "run",
            "--results",
            tmp_path / "results",
            "--checkpoint",
            checkpoint,
            "--timesteps",
            2,
            "--limit",
            20,
            "--calibration-size",
            20,
            "--device",
            "cpu",
            *more,
        )

    return start


@pytest.fixture
def refused(run, tmp_path):
    """As `run`; asserts that it fails in a few lines and records nothing. Gives what it said."""

    def start(checkpoint, *more, code=2):
        answer = run(checkpoint, *more)
        assert (answer.code, answer.out) == (code, "")
        assert "Traceback" not in answer.err
        assert not files_below(tmp_path / "results")
        return answer.err

    return start


def files_below(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_the_evil_pickle_works(tmp_path):
    """Or the tests below would show nothing."""
    pickle.loads(pickle.dumps(Evil(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()


# Dataset not on disk


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """Notes every attempt to reach a network or to download; an empty Hugging Face cache."""
    tried = []

    def refuse(*where, **_):
        tried.append(where)
        raise OSError("no network in this test")

    for name in (
        "socket.getaddrinfo",
        "socket.create_connection",
        "socket.socket.connect",
        "benchmark.data.cifar10.Cifar10.download",
    ):
        monkeypatch.setattr(name, refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tried


def test_a_dataset_that_is_not_there(call, tmp_path, no_network):
    answer = call("run", "--dataset", "cifar10", "--data-dir", tmp_path / "nowhere", "--results", tmp_path / "results")
    assert (answer.code, answer.out) == (2, "")
    assert "cifar10 is not on this disk" in answer.err
    assert f"{tmp_path}/nowhere/cifar-10-batches-py/data_batch_1" in answer.err
    assert f"{tmp_path}/nowhere/plain_text/train-*.parquet" in answer.err
    assert "python -m benchmark prepare cifar10 --data-dir" in answer.err
    assert not no_network and not files_below(tmp_path)


def test_without_data_dir_it_says_all_places(call, no_network, tmp_path):
    answer = call("run", "--dataset", "cifar10")
    assert answer.code == 2
    for place in (
        "data/cifar-10-batches-py/data_batch_1",
        "data/cifar10/plain_text/train-*.parquet",
        "the Hugging Face cache of uoft-cs/cifar10",
    ):
        assert place in answer.err
    assert not no_network


def test_a_broken_hugging_face_cache_is_no_reason_to_go_online(call, no_network, tmp_path):
    (tmp_path / "hub" / "datasets--uoft-cs--cifar10" / "refs").mkdir(parents=True)
    (tmp_path / "hub" / "datasets--uoft-cs--cifar10" / "refs" / "main").write_text("a" * 40)
    answer = call("run", "--dataset", "cifar10")
    assert answer.code == 2 and "cifar10 is not on this disk" in answer.err
    assert not no_network


# Checkpoints


@pytest.mark.parametrize("kept", [0, 5, 8, 100, 0.5, -1], ids=lambda kept: f"keeps {kept}")
def test_a_truncated_safetensors_file(refused, make_checkpoint, tmp_path, kept):
    path = make_checkpoint(tmp_path / "net.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    assert f"{path} is not a complete safetensors file" in refused(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"not a checkpoint", b"\xff" * 100, bytes([2, *[0] * 7]) + b"[]", bytes([2, *[0] * 7]) + b"{}"],
    ids=["empty", "text", "bytes", "list", "no tensors"],
)
def test_a_foreign_file_called_safetensors(refused, tmp_path, content):
    path = tmp_path / "net.safetensors"
    path.write_bytes(content)
    assert str(path) in refused(path)


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.99], ids=lambda kept: f"keeps {kept}")
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old"])
def test_a_truncated_pickled_file(refused, tmp_path, kept, zipped):
    path = tmp_path / "net.pt"
    torch.save({"a": torch.ones(1000)}, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    assert f"{path} cannot be read as weights only" in refused(path)


@pytest.mark.parametrize("form", ["zip", "old", "pickle", "safetensors"])
def test_code_in_a_checkpoint_is_not_executed(refused, tmp_path, form):
    path = tmp_path / ("net.safetensors" if form == "safetensors" else "net.pt")
    evil = {"state_dict": {"a": torch.ones(1)}, "args": Evil(tmp_path / "executed")}
    if form in ("zip", "old"):
        torch.save(evil, path, _use_new_zipfile_serialization=form == "zip")
    else:
        path.write_bytes(pickle.dumps(Evil(tmp_path / "executed")))
    said = refused(path)
    assert str(path) in said
    assert form == "safetensors" or "nothing in it was executed" in said
    assert not (tmp_path / "executed").exists()
    if form != "safetensors":  # the file is as dangerous as it should be
        torch.load(path, weights_only=False) if form != "pickle" else pickle.loads(path.read_bytes())
        assert (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "content",
    [{"state_dict": {}}, {}, [1, 2], {"epoch": 3}, torch.ones(3)],
    ids=["empty", "nothing", "list", "number", "tensor"],
)
def test_a_file_without_weights(refused, tmp_path, content):
    torch.save(content, tmp_path / "net.pt")
    assert f"{tmp_path / 'net.pt'} holds no state dict" in refused(tmp_path / "net.pt")


def test_foreign_keys(refused, tmp_path):
    torch.save({"encoder.weight": torch.ones(3), "encoder.bias": torch.ones(3)}, tmp_path / "net.pt")
    said = refused(tmp_path / "net.pt")
    assert f"{tmp_path / 'net.pt'} does not fit small-cnn; missing: features.0.weight" in said
    assert "not known: encoder.bias, encoder.weight" in said and "looks like" not in said


def test_a_foreign_architecture_is_named(refused, tmp_path):
    from benchmark.backbones.resnet import resnet20
    from methods.qcfs import QCFS

    torch.save(QCFS().prepare(resnet20()).state_dict(), tmp_path / "net.pt")
    said = refused(tmp_path / "net.pt")
    assert "does not fit small-cnn; missing: features.0.weight" in said and "not known: bn1.bias" in said
    assert "It looks like 'resnet20': try --model resnet20." in said


def test_wrong_shapes(refused, make_checkpoint, tmp_path):
    path = make_checkpoint(
        tmp_path / "net.safetensors",
        lambda state: state.update({"head.weight": torch.ones(7, 64), "head.bias": torch.ones(7)}),
    )
    said = refused(path)
    assert f"{path} does not fit small-cnn; wrong shape: " in said
    assert "head.bias is [7], not [10], head.weight is [7, 64], not [10, 64]" in said


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["features.0.weight", "features.1.running_var", "head.bias", "features.2.threshold"])
def test_weights_that_are_no_numbers(refused, make_checkpoint, tmp_path, name, bad):
    path = make_checkpoint(tmp_path / "net.safetensors", lambda state: state[name].view(-1)[-1:].fill_(bad))
    assert f"{path} has NaN or infinite values in {name}" in refused(path)


@pytest.mark.parametrize("threshold", [0.0, -0.5])
def test_a_threshold_that_is_not_positive(run, make_checkpoint, tmp_path, threshold):
    path = make_checkpoint(tmp_path / "net.safetensors", lambda state: state["features.5.threshold"].fill_(threshold))
    answer = run(path)
    assert answer.code == 1 and "Traceback" not in answer.err + answer.out
    said = f"layer 'features.5': its threshold is {threshold:g}; it must be positive"
    assert said in answer.out
    (file,) = files_below(tmp_path / "results")
    failed = load_record(file)
    assert failed.status == "failed" and said in failed.reason and failed.static is None


def rewrite_card(path, content):
    """Replace the card in the header of a safetensors file."""
    stored = path.read_bytes()
    length = int.from_bytes(stored[:8], "little")
    header = json.loads(stored[8 : 8 + length])
    header["__metadata__"]["card"] = content
    new = json.dumps(header).encode()
    path.write_bytes(len(new).to_bytes(8, "little") + new + stored[8 + length :])


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": "small-cnn"}', '{"model": 3}'])
def test_an_unreadable_card(refused, make_checkpoint, tmp_path, content):
    path = make_checkpoint(tmp_path / "net.safetensors")
    rewrite_card(path, content)
    assert f"{path}: its card is invalid" in refused(path)


@pytest.mark.parametrize("key", ["mean", "divisor"])
def test_a_card_without_a_part_of_the_preprocessing(refused, make_checkpoint, tmp_path, key):
    path = make_checkpoint(tmp_path / "net.safetensors")
    card = read_card(path).model_dump(mode="json")
    del card["preprocessing"][key]
    rewrite_card(path, json.dumps(card))
    said = refused(path)
    assert f"{path}: its card is invalid: ('preprocessing',)" in said and key in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "resnet20"}, "was trained for model 'resnet20', not 'small-cnn'"),
        ({"dataset": "cifar10"}, "was trained for dataset 'cifar10', not 'digits'"),
        ({"num_classes": 4}, "was trained for number of classes 4, not 10"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_card_for_something_else(refused, make_checkpoint, tmp_path, changes, said):
    assert f"net.safetensors {said}" in refused(make_checkpoint(tmp_path / "net.safetensors", **changes))


# Pictures


@pytest.fixture
def small_cifar(monkeypatch):
    """CIFAR-10 with 20 training and 10 test images: pixels and labels of each part."""
    monkeypatch.setattr(cifar10, "COUNTS", {"train": 20, "test": 10})
    monkeypatch.setattr(cifar10, "calibration_indices", lambda: np.array([1, 5, 19]))
    random = np.random.default_rng(0)
    return {
        part: (random.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8), random.integers(0, 10, count))
        for part, count in cifar10.COUNTS.items()
    }


@pytest.fixture
def wrong_data(call, tmp_path, monkeypatch):
    """`run` on the CIFAR-10 in tmp_path / data, which must fail with exit code 1 and record nothing."""
    # The log of `datasets` goes to the stderr of the first test that imported it, which is closed by now.
    monkeypatch.setattr("logging.raiseExceptions", False)

    def start():
        answer = call("run", "--dataset", "cifar10", "--data-dir", tmp_path / "data", "--results", tmp_path / "results")
        assert (answer.code, answer.out) == (1, "") and "Traceback" not in answer.err
        assert not files_below(tmp_path / "results")
        return answer.err

    return start


def replace_rows(path, change):
    """Change the rows of a parquet file: `change` gets the list of images and the list of labels."""
    table = pq.read_table(path)
    images, labels = table["img"].to_pylist(), table["label"].to_pylist()
    change(images, labels)
    new = pa.table({"img": pa.array(images, table["img"].type), "label": pa.array(labels, table["label"].type)})
    pq.write_table(new.replace_schema_metadata(table.schema.metadata), path)


def damage(image, how):
    content = image["bytes"]
    damaged = {"truncated": content[: len(content) // 2], "text": b"not an image", "empty": b"", "none": None}
    image["bytes"] = damaged[how]


@pytest.mark.parametrize("how", ["truncated", "text", "empty", "none"])
def test_a_corrupt_image(wrong_data, small_cifar, tmp_path, how):
    """The tenth image of the second file of ten is number 19, whatever its place among the calibration images."""
    folder = tmp_path / "data" / "plain_text"
    write_parquet(folder, small_cifar)
    replace_rows(folder / "train-00001-of-00002.parquet", lambda images, labels: damage(images[9], how))
    said = wrong_data()
    assert f"{folder} train: image 19 is corrupt" in said


def test_a_corrupt_image_that_is_not_used_does_not_matter(small_cifar, tmp_path):
    folder = tmp_path / "plain_text"
    write_parquet(folder, small_cifar)
    replace_rows(folder / "train-00001-of-00002.parquet", lambda images, labels: damage(images[0], "text"))
    assert len(cifar10.Cifar10(tmp_path).split("calibration")) == 3
    with pytest.raises(Exception, match="train: image 10 is corrupt"):
        cifar10.Cifar10(tmp_path).split("train")


@pytest.mark.parametrize("label", [10, -1])
@pytest.mark.parametrize("layout", ["batches", "parquet"])
def test_a_label_out_of_range(wrong_data, small_cifar, tmp_path, label, layout):
    small_cifar["test"][1][4] = label
    if layout == "batches":
        write_batches(tmp_path / "data" / "cifar-10-batches-py", small_cifar)
    else:
        write_parquet(tmp_path / "data" / "plain_text", small_cifar)
    assert f"cifar10 test: image 4 has label {label}, outside 0..9" in wrong_data()


@pytest.mark.parametrize("layout", ["batches", "parquet"])
def test_a_wrong_number_of_images(wrong_data, small_cifar, tmp_path, layout, monkeypatch):
    if layout == "batches":
        write_batches(tmp_path / "data", small_cifar)
    else:
        write_parquet(tmp_path / "data", small_cifar)
    monkeypatch.setattr(cifar10, "COUNTS", {"train": 20, "test": 11})
    assert f"{tmp_path / 'data'}: the test part has 10 images, CIFAR-10 has 11" in wrong_data()


def test_a_label_that_is_missing(wrong_data, small_cifar, tmp_path):
    write_parquet(tmp_path / "data", small_cifar)
    replace_rows(tmp_path / "data" / "test-00000-of-00002.parquet", lambda images, labels: labels.__setitem__(2, None))
    assert "cifar10 test: labels must be integers" in wrong_data()


def test_a_missing_column(wrong_data, small_cifar, tmp_path):
    write_parquet(tmp_path / "data", small_cifar)
    for path in (tmp_path / "data").glob("test-*"):
        pq.write_table(pq.read_table(path).rename_columns(["image", "label"]), path)
    assert f"{tmp_path / 'data'}: columns ['img'] missing; found ['image', 'label']" in wrong_data()


def test_an_image_of_another_size(wrong_data, small_cifar, tmp_path):
    import io

    from PIL import Image

    write_parquet(tmp_path / "data", small_cifar)
    stream = io.BytesIO()
    Image.new("RGB", (64, 16)).save(stream, "PNG")
    replace_rows(
        tmp_path / "data" / "test-00000-of-00002.parquet",
        lambda images, labels: images[3].update(bytes=stream.getvalue()),
    )
    assert "test: image 3 is 16 x 64 pixels, not 32 x 32" in wrong_data()


def test_a_truncated_parquet_file(wrong_data, small_cifar, tmp_path):
    write_parquet(tmp_path / "data", small_cifar)
    path = tmp_path / "data" / "test-00000-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    assert f"{tmp_path / 'data'}/test-*.parquet cannot be read" in wrong_data()


def test_a_missing_part(wrong_data, small_cifar, tmp_path):
    write_parquet(tmp_path / "data", small_cifar)
    for path in (tmp_path / "data").glob("test-*"):
        path.unlink()
    assert f"{tmp_path / 'data'} has no test-*.parquet" in wrong_data()


def test_a_missing_batch(wrong_data, small_cifar, tmp_path):
    write_batches(tmp_path / "data", small_cifar)
    (tmp_path / "data" / "data_batch_4").unlink()
    assert f"{tmp_path / 'data' / 'data_batch_4'} is missing" in wrong_data()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        pickle.dumps([1, 2]),
        pickle.dumps({"labels": [1]}),
        pickle.dumps({"data": np.zeros((4, 7), np.uint8), "labels": [1] * 4}),
        pickle.dumps({"data": np.zeros((4, 3072), np.uint8), "labels": ["a"] * 4}),
    ],
    ids=["empty", "text", "list", "no data", "wrong shape", "labels are text"],
)
def test_a_damaged_batch(wrong_data, small_cifar, tmp_path, content):
    write_batches(tmp_path / "data", small_cifar)
    path = tmp_path / "data" / "data_batch_1"
    path.write_bytes(content)
    said = wrong_data()
    assert str(path) in said or "labels must be integers" in said


@pytest.mark.parametrize("evil", ["whole", "inside", "global"])
def test_code_in_a_batch_is_not_executed(wrong_data, small_cifar, tmp_path, evil):
    write_batches(tmp_path / "data", small_cifar)
    path = tmp_path / "data" / "data_batch_1"
    trap = Evil(tmp_path / "executed")
    batch = pickle.loads(path.read_bytes())
    path.write_bytes(
        {
            "whole": pickle.dumps(trap),
            "inside": pickle.dumps(batch | {"filenames": [trap]}),
            "global": f"cposix\nmkdir\n(V{tmp_path / 'executed'}\ntR.".encode(),
        }[evil]
    )
    said = wrong_data()
    assert f"{path} cannot be read" in said and "has no place in a CIFAR-10 batch" in said
    assert not (tmp_path / "executed").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "executed").exists()


# Records


def test_bad_records_are_named_and_skipped_by_leaderboard(call, make_record, tmp_path):
    store = ResultStore(tmp_path / "results")
    good, corrupt, newer, old = (make_record({"seed": seed}) for seed in range(4))
    for entry in (good, corrupt, newer, old):
        store.save(entry)
    store.path(corrupt.spec).write_text(corrupt.to_json()[:-20])
    for entry, schema in ((newer, 2), (old, 0)):
        store.path(entry.spec).write_text(json.dumps(json.loads(entry.to_json()) | {"schema": schema}))
    arguments = ["leaderboard", "--results", tmp_path / "results", "--output", tmp_path / "README.md"]
    answer = call(*arguments)
    assert answer.code == 1 and "Traceback" not in answer.err
    lines = {
        path: next(line for line in answer.err.splitlines() if path in line)
        for path in (f"digits/small-cnn/qcfs/{entry.id}.json" for entry in (corrupt, newer, old))
    }
    for line, said in zip(lines.values(), ("not JSON", "schema 2 is newer", "schema 0 is too old"), strict=True):
        assert line.startswith("skipped ") and said in line
    page = (tmp_path / "README.md").read_text()
    assert f"`{good.id}`" in page
    for path in lines:
        assert path in page, "a silent gap"
    assert call(*arguments, "--check").code == 1


def test_a_corrupt_record_is_named_by_run(run, make_checkpoint, tmp_path):
    path = make_checkpoint(tmp_path / "net.safetensors")
    assert run(path).code == 0
    (file,) = tmp_path.glob("results/digits/*/*/*.json")
    file.write_text(file.read_text()[:-20])
    answer = run(path)
    assert (answer.code, answer.out) == (1, "") and f"{file}: not JSON" in answer.err and "--rerun" in answer.err
    assert run(path, "--rerun").code == 0
    assert load_record(file).status == "ok"


# Out of memory


class Limited:
    """A stepwise network that needs memory for at most `room` images at a time."""

    prelude_steps = 1

    def __init__(self, room, error):
        self.room, self.error, self.batches = room, error, []

    def begin(self, images):
        if len(images) > self.room:
            raise self.error
        self.batches.append(len(images))
        self.images, self.time = images, 0

    def step(self):
        self.time += 1
        return self.images * self.time

    def keep(self, mask):
        self.images = self.images[mask]

    @property
    def spikes(self):
        return (self.images.sum(1) * 10 + self.time).abs().long()

    synops = spikes


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_out_of_memory_halves_the_batch_and_changes_nothing(error):
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(count, 4, generator=generator), torch.arange(count) % 4) for count in (16, 16, 3)]
    unlimited, limited, report = Limited(100, error), Limited(4, error), RecordingReport()
    expected = record(unlimited, batches, timesteps=3, split="test")
    found = record(limited, batches, timesteps=3, split="test", report=report)
    assert unlimited.batches == [16, 16, 3] and limited.batches == [4] * 8 + [3]
    # A batch of 16 is halved once, each of its halves of 8 once more.
    assert report.oom_halvings == 2
    assert found.info == expected.info
    for name, value in expected.tensors().items():
        assert torch.equal(found.tensors()[name], value), name


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_one_image_that_does_not_fit_is_the_end(error, tmp_path):
    with pytest.raises(type(error)):
        record(Limited(0, error), [(torch.ones(4, 4), torch.arange(4))], timesteps=2, folder=tmp_path / "rec")
    assert not files_below(tmp_path)


def test_another_error_is_not_taken_for_a_lack_of_memory():
    network, report = Limited(4, RuntimeError("shapes do not fit")), RecordingReport()
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        record(network, [(torch.ones(8, 4), torch.arange(8) % 4)], timesteps=2, report=report)
    assert report.oom_halvings == 0


def limit_memory(monkeypatch, room, error=None):
    from methods.network import SpikingNetwork

    begin = SpikingNetwork.begin

    def limited(self, images):
        if len(images) > room:
            raise error or torch.OutOfMemoryError("CUDA out of memory")
        begin(self, images)

    monkeypatch.setattr(SpikingNetwork, "begin", limited)


def test_halved_batches_are_in_the_provenance(run, make_checkpoint, tmp_path, monkeypatch):
    path = make_checkpoint(tmp_path / "net.safetensors")
    whole = json.loads(run(path, "--json").out)
    limit_memory(monkeypatch, 5)
    halved = json.loads(run(path, "--json", "--rerun").out)
    # Twenty images: 20 -> 10 10 -> 5 5 5 5, on either split.
    assert (whole["provenance"]["oom_halvings"], halved["provenance"]["oom_halvings"]) == (0, 2)
    for key in ("curve", "static", "policies", "oracle", "ann", "id"):
        assert halved[key] == whole[key]


@pytest.mark.parametrize("error", [None, MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_no_memory_at_all_is_recorded_as_such(run, make_checkpoint, tmp_path, monkeypatch, error):
    limit_memory(monkeypatch, 0, error)
    assert run(make_checkpoint(tmp_path / "net.safetensors")).code == 1
    (file,) = tmp_path.glob("results/digits/*/*/*.json")
    assert load_record(file).status == "oom"


# Full disk


@contextmanager
def disk_full_after(size):
    """The kernel refuses to write files beyond `size` bytes: what fits is written, then comes an error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("write", [write_atomic, write_file], ids=["records", "recordings"])
@pytest.mark.parametrize("before", [None, b"old"])
def test_a_full_disk_leaves_the_old_file_or_none(tmp_path, write, before):
    path = tmp_path / "file"
    if before:
        path.write_bytes(before)
    with disk_full_after(1000), pytest.raises(OSError) as full:
        write(path, b"x" * 5000)
    assert full.value.errno in (errno.EFBIG, errno.ENOSPC)
    assert files_below(tmp_path) == ([path] if before else [])
    assert not before or path.read_bytes() == before


@pytest.mark.parametrize("size", [300, 6000], ids=["not even the failure fits", "the failure fits"])
def test_a_full_disk_while_recording(run, make_checkpoint, tmp_path, monkeypatch, size):
    path = make_checkpoint(tmp_path / "net.safetensors")
    # git would run under the limit, too.
    monkeypatch.setattr("benchmark.runner.git_state", lambda: {"git_sha": None, "dirty": None, "diff_sha256": None})
    monkeypatch.setattr("benchmark.runner.versions", dict)
    with disk_full_after(size):
        answer = run(path, "--limit", 200)
    assert answer.code == 1 and "Traceback" not in answer.err
    assert os.strerror(errno.EFBIG) in answer.err + answer.out
    left = files_below(tmp_path / "results")
    assert not [file for file in left if file.name.startswith(".")], "rubbish"
    for file in left:
        if file.name == HEADER:
            load_recording(file.parent)
        elif file.suffix == ".json":
            assert load_record(file).status == "failed"
    assert not list(tmp_path.glob("results/recordings/*/test/*"))
    finished = run(path, "--limit", 200, "--json")
    assert finished.code == 0 and json.loads(finished.out)["static"]["accuracy"]["n"] == 200


# Failure inside a run


def test_a_failing_run_leaves_its_traceback_and_does_not_count_as_done(run, make_checkpoint, tmp_path, monkeypatch):
    path = make_checkpoint(tmp_path / "net.safetensors")

    def boom(*_):
        raise RuntimeError("boom in the middle")

    with monkeypatch.context() as broken:
        broken.setattr("benchmark.evaluation.static", boom)
        answer = run(path)
    assert answer.code == 1 and "failed: boom in the middle" in answer.out
    (file,) = tmp_path.glob("results/digits/*/*/*.json")
    failed = load_record(file)
    assert (failed.status, failed.reason, failed.static, failed.policies) == ("failed", "boom in the middle", None, ())
    assert failed.traceback.startswith("Traceback") and "in boom" in failed.traceback
    again = run(path, "--json")
    assert again.code == 0 and "was in the store" not in again.err
    assert load_record(file).status == json.loads(again.out)["status"] == "ok"


def test_a_failing_run_does_not_replace_a_good_record(run, make_checkpoint, tmp_path, monkeypatch):
    path = make_checkpoint(tmp_path / "net.safetensors")
    assert run(path).code == 0
    (file,) = tmp_path.glob("results/digits/*/*/*.json")
    good = file.read_bytes()

    def boom(*_):
        raise RuntimeError("boom in the middle")

    monkeypatch.setattr("benchmark.evaluation.static", boom)
    answer = run(path, "--rerun", "--json")
    assert answer.code == 1 and json.loads(answer.out)["status"] == "failed"
    assert file.read_bytes() == good
    stored = run(path, "--json")
    assert stored.code == 0 and stored.out.encode() == good


def test_a_rerun_that_fails_leaves_the_old_recordings(run, make_checkpoint, tmp_path, monkeypatch):
    path = make_checkpoint(tmp_path / "net.safetensors")
    before = json.loads(run(path, "--json").out)
    with monkeypatch.context() as broken:
        limit_memory(broken, 0)
        assert run(path, "--rerun").code == 1
    for artifact in before["artifacts"]:
        content = (tmp_path / "results" / artifact["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == artifact["sha256"]
    assert len(before["artifacts"]) == 2
    again = json.loads(run(path, "--rerun", "--json").out)
    assert again["artifacts"] == before["artifacts"]
    assert not list(tmp_path.glob("results/recordings/*.rerun"))


@pytest.mark.parametrize(("setting", "said"), [("levels=0", "levels must be at least 1"), ("threshold=-1", "positive")])
def test_an_impossible_option_of_the_method(run, make_checkpoint, tmp_path, setting, said):
    answer = run(make_checkpoint(tmp_path / "net.safetensors"), "--set", setting)
    assert answer.code == 2 and said in answer.err and "Traceback" not in answer.err


def test_logits_that_are_no_numbers_are_not_recorded(tmp_path):
    network = Limited(10, None)
    with pytest.raises(RecordingError, match="logits' has NaN or infinite values"):
        record(network, [(torch.full((2, 4), torch.inf), torch.arange(2))], timesteps=2, folder=tmp_path / "rec")
    assert not files_below(tmp_path)


def test_an_unfinished_recording_is_not_read(tmp_path):
    folder = tmp_path / "rec"
    record(Limited(10, None), [(torch.ones(2, 4), torch.arange(2))], timesteps=2, folder=folder)
    assert isinstance(load_recording(folder), Recording)
    shard = folder / "shard-00000.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(RecordingError, match=r"shard-00000\.safetensors is missing or damaged"):
        load_recording(folder)
    shard.write_bytes(content)
    (folder / HEADER).unlink()
    with pytest.raises(RecordingError, match="holds no complete recording"):
        load_recording(folder)


def test_nothing_may_be_written(run, make_checkpoint, tmp_path):
    path = make_checkpoint(tmp_path / "net.safetensors")
    Path(tmp_path / "results").write_text("a file where the folder should be")
    answer = run(path)
    assert answer.code == 1 and "Traceback" not in answer.err and str(tmp_path / "results") in answer.err
