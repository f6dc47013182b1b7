"""CIFAR-10 from both layouts: the same images, labels and fingerprints, in small copies and in the real one."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmark.data import cifar10
from benchmark.data.cifar10 import Cifar10
from benchmark.errors import DataError, DatasetMissing, UsageError

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
HELD_OUT = np.array([0, 3, 17, 18, 49])


# The two layouts, as their makers write them


class Python2Pickler(pickle._Pickler):
    """Strings and bytes as Python 2's `str`, like in the batches that Krizhevsky pickled with Python 2."""

    def save_string(self, value):
        content = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(pickle.BINSTRING + len(content).to_bytes(4, "little") + content)

    dispatch = pickle._Pickler.dispatch | {str: save_string, bytes: save_string}


def python2_pickle(value):
    stream = io.BytesIO()
    Python2Pickler(stream, protocol=2).dump(value)
    return stream.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")


def write_batches(folder, parts, dump=pickle.dumps):
    folder.mkdir(parents=True)
    for part, names in cifar10.BATCH_FILES.items():
        pixels, labels = parts[part]
        for name, chosen in zip(names, np.array_split(np.arange(len(labels)), len(names)), strict=True):
            (folder / name).write_bytes(
                dump(
                    {
                        "batch_label": name,
                        "labels": [int(label) for label in labels[chosen]],
                        "data": np.ascontiguousarray(pixels[chosen].reshape(len(chosen), 3072)),
                        "filenames": [f"{index}.png" for index in chosen],
                    }
                )
            )


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(stream, "PNG")
    return stream.getvalue()


def parquet_table(pixels, labels, metadata=True):
    images = pa.array(
        [{"bytes": png(image), "path": None} for image in pixels],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    table = pa.table({"img": images, "label": pa.array(labels, pa.int64())})
    features = {"img": {"_type": "Image"}, "label": {"names": CLASSES, "_type": "ClassLabel"}}
    if not metadata:
        return table
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def write_parquet(folder, parts, metadata=True):
    folder.mkdir(parents=True)
    for part, (pixels, labels) in parts.items():
        halves = np.array_split(np.arange(len(labels)), 2)
        for number, chosen in enumerate(halves):
            pq.write_table(
                parquet_table(pixels[chosen], labels[chosen], metadata),
                folder / f"{part}-{number:05d}-of-{len(halves):05d}.parquet",
            )


@pytest.fixture
def parts(monkeypatch):
    """Fifty training and twenty test images instead of 60,000."""
    monkeypatch.setattr(cifar10, "COUNTS", {"train": 50, "test": 20})
    monkeypatch.setattr(cifar10, "calibration_indices", lambda: HELD_OUT)
    random = np.random.default_rng(0)
    return {
        part: (random.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8), random.integers(0, 10, count))
        for part, count in cifar10.COUNTS.items()
    }


LAYOUTS = {
    "python 2 batches": lambda folder, parts: write_batches(folder / "cifar-10-batches-py", parts, python2_pickle),
    "python 3 batches": lambda folder, parts: write_batches(folder / "cifar-10-batches-py", parts),
    "old batches": lambda folder, parts: write_batches(
        folder / "cifar-10-batches-py", parts, lambda batch: pickle.dumps(batch, protocol=2)
    ),
    "batches, folder itself": write_batches,
    "parquet": lambda folder, parts: write_parquet(folder / "plain_text", parts),
    "parquet, folder itself": write_parquet,
    "parquet without Hugging Face's metadata": lambda folder, parts: write_parquet(folder / "plain_text", parts, False),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_images(tmp_path, parts, layout):
    LAYOUTS[layout](tmp_path / "data", parts)
    source = Cifar10(tmp_path / "data")
    pixels, labels = parts["train"]
    rest = [index for index in range(50) if index not in HELD_OUT]
    expected = {
        "train": (pixels[rest], labels[rest]),
        "calibration": (pixels[HELD_OUT], labels[HELD_OUT]),
        "test": parts["test"],
    }
    for name, (expected_pixels, expected_labels) in expected.items():
        found = source.split(name)
        assert np.array_equal(found.pixels, expected_pixels) and np.array_equal(found.labels, expected_labels)
        assert found.pixels.dtype == np.uint8 and found.labels.dtype == np.int64 and found.num_classes == 10
    with pytest.raises(UsageError, match="unknown split 'val'"):
        source.split("val")


def test_fingerprints_tell_copies_apart_and_layouts_not(tmp_path, parts):
    for number, layout in enumerate(("python 2 batches", "parquet")):
        LAYOUTS[layout](tmp_path / str(number), parts)
    parts["test"][0][7, 1, 5, 5] ^= 1
    LAYOUTS["parquet"](tmp_path / "2", parts)
    one, two, other = (Cifar10(tmp_path / str(number)) for number in range(3))
    for name in ("train", "calibration", "test"):
        assert one.split(name).fingerprint == two.split(name).fingerprint
        assert (one.split(name).fingerprint == other.split(name).fingerprint) == (name != "test")


def test_the_python_2_pickle_is_one(parts):
    """As found in the original: Python 2 strings, numpy under its old name, protocol 2."""
    content = python2_pickle({"data": parts["test"][0], "labels": [1]})
    assert content.startswith(b"\x80\x02") and b"numpy.core.multiarray" in content and b"_codecs" not in content
    assert b"T\x04\x00\x00\x00data" in content
    assert np.array_equal(pickle.loads(content, encoding="latin1")["data"], parts["test"][0])


@pytest.mark.parametrize("layout", ["python 3 batches", "parquet"])
def test_without_data_dir_it_looks_in_data(tmp_path, parts, layout, monkeypatch):
    LAYOUTS[layout](tmp_path / "data", parts)
    monkeypatch.chdir(tmp_path)
    assert len(Cifar10().split("test")) == 20


def test_the_hugging_face_cache_is_read_without_network(tmp_path, parts, monkeypatch):
    hub = tmp_path / "hub"
    repository = hub / "datasets--uoft-cs--cifar10"
    write_parquet(repository / "snapshots" / ("a" * 40) / "plain_text", parts)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    tried = []
    monkeypatch.setattr("socket.getaddrinfo", lambda *where, **_: tried.append(where) or 1 / 0)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(Cifar10().split("test").pixels, parts["test"][0])
    shutil.rmtree(repository / "snapshots" / ("a" * 40) / "plain_text")
    with pytest.raises(DatasetMissing, match="the Hugging Face cache of uoft-cs/cifar10"):
        Cifar10()
    assert not tried


def test_a_known_copy_is_flagged(tmp_path, parts, monkeypatch):
    LAYOUTS["parquet"](tmp_path / "data", parts)
    source = Cifar10(tmp_path / "data")
    test = source.split("test")
    assert source.flags(test) == ()
    monkeypatch.setitem(cifar10.KNOWN_COPIES, test.fingerprint, "not the original")
    assert source.flags(test) == ("not the original",)


def test_a_batch_with_too_few_labels_is_named(tmp_path, parts):
    """The labels of all later batches would be shifted by one."""
    LAYOUTS["python 3 batches"](tmp_path / "data", parts)
    path = tmp_path / "data" / "cifar-10-batches-py" / "data_batch_2"
    batch = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(batch | {"labels": batch["labels"][1:]}))
    with pytest.raises(DataError, match="data_batch_2 has 10 images but 9 labels"):
        Cifar10(tmp_path / "data").split("calibration")


# The committed indices


def test_the_calibration_indices_are_sorted_unique_and_in_range():
    indices = cifar10.calibration_indices()
    assert indices.shape == (5000,) and indices.dtype == np.int64
    assert (np.diff(indices) > 0).all() and indices[0] >= 0 and indices[-1] < 50_000


def test_the_calibration_indices_are_the_agreed_ones(shared):
    assert np.array_equal(cifar10.calibration_indices(), np.load(shared("cifar10/labels.npz"))["calibration_indices"])


# The real data


def unpacked(shared, folder, *options):
    command = [sys.executable, shared("cifar10/unpack.py"), folder, *options]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return Cifar10(folder)


@pytest.fixture(scope="session")
def real(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cifar10")
    yield unpacked(shared, folder)
    shutil.rmtree(folder)


def test_the_real_data(real, shared):
    labels = np.load(shared("cifar10/labels.npz"))
    held_out = labels["calibration_indices"]
    expected = {
        "train": np.delete(labels["train_labels"], held_out),
        "calibration": labels["train_labels"][held_out],
        "test": labels["test_labels"],
    }
    found = {name: real.split(name) for name in expected}
    for name, a_class in (("train", 4500), ("calibration", 500), ("test", 1000)):
        assert found[name].pixels.shape == (10 * a_class, 3, 32, 32)
        assert np.bincount(found[name].labels).tolist() == [a_class] * 10
        assert np.array_equal(found[name].labels, expected[name])
    # The mean that every CIFAR-10 code base uses; wrong channels or a wrong reshape would show.
    scaled = found["calibration"].pixels / np.float32(255)
    assert scaled.mean((0, 2, 3)) == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-3)
    assert scaled.std((0, 2, 3)) == pytest.approx([0.2470, 0.2435, 0.2616], abs=5e-3)
    held_out_images = {image.tobytes() for image in found["calibration"].pixels}
    assert not any(image.tobytes() in held_out_images for image in found["train"].pixels)


def test_the_real_test_split_is_a_known_copy(real):
    test = real.split("test")
    assert test.fingerprint == "488dd4c8184d"
    assert real.flags(test) == (cifar10.KNOWN_COPIES["488dd4c8184d"],)
    assert "20 of the 10,000 test images" in real.flags(test)[0]
    assert real.flags(real.split("calibration")) == ()


@pytest.mark.slow
def test_the_real_data_as_parquet(real, shared, tmp_path):
    parquet = unpacked(shared, tmp_path, "--parquet")
    for name in ("train", "calibration", "test"):
        assert parquet.split(name).fingerprint == real.split(name).fingerprint
