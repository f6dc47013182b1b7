"""CIFAR-100 from both layouts: fine labels, the same images, calibration images that follow from labels and order."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_cifar10_data import png, python2_pickle

from benchmark import registry
from benchmark.data import cifar100
from benchmark.data.cifar100 import Cifar100
from benchmark.errors import DataError, DatasetMissing, UsageError


def write_pickles(folder, parts, dump=pickle.dumps):
    """torchvision's `cifar-100-python`."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, (pixels, labels) in parts.items():
        content = {
            "filenames": [f"{index}.png" for index in range(len(labels))],
            "batch_label": f"{part}ing batch 1 of 1",
            "fine_labels": [int(label) for label in labels],
            "coarse_labels": [int(label) // 5 for label in labels],
            "data": np.ascontiguousarray(pixels.reshape(len(pixels), 3072)),
        }
        (folder / part).write_bytes(dump(content))
    (folder / "meta").write_bytes(dump({"fine_label_names": ["apple"], "coarse_label_names": ["fruit"]}))


def write_parquet(folder, parts):
    """As the Hugging Face hub stores it."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, (pixels, labels) in parts.items():
        images = pa.array(
            [{"bytes": png(image), "path": None} for image in pixels],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        )
        fine = pa.array(labels, pa.int64())
        table = pa.table({"img": images, "fine_label": fine, "coarse_label": pa.array(np.asarray(labels) // 5)})
        features = {
            "img": {"_type": "Image"},
            **{name: {"_type": "Value", "dtype": "int64"} for name in ("fine_label", "coarse_label")},
        }
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, folder / f"{part}-00000-of-00001.parquet")


@pytest.fixture
def parts(monkeypatch):
    """Six training images of each of the 100 classes, two of which calibrate, and 30 test images."""
    monkeypatch.setattr(cifar100, "COUNTS", {"train": 600, "test": 30})
    monkeypatch.setattr(cifar100, "PER_CLASS", 2)
    random = np.random.default_rng(0)
    labels = {"train": random.permutation(np.arange(600) % 100), "test": random.integers(0, 100, 30)}
    return {
        part: (random.integers(0, 256, (len(some), 3, 32, 32), dtype=np.uint8), some) for part, some in labels.items()
    }


LAYOUTS = {
    "pickles": lambda folder, parts: write_pickles(folder / "cifar-100-python", parts),
    "python 2 pickles": lambda folder, parts: write_pickles(folder / "cifar-100-python", parts, python2_pickle),
    "pickles, folder itself": write_pickles,
    "parquet": lambda folder, parts: write_parquet(folder / "cifar100", parts),
    "parquet, folder itself": write_parquet,
}


def held_out_of(labels):
    """Two a class: those with the smallest sha256."""
    texts = [f"dynconf-bench cifar100 calibration {index}" for index in range(len(labels))]
    order = sorted(range(len(labels)), key=lambda index: hashlib.sha256(texts[index].encode()).digest())
    return sorted(index for label in range(100) for index in [n for n in order if labels[n] == label][:2])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_images(tmp_path, parts, layout):
    LAYOUTS[layout](tmp_path / "data", parts)
    source = Cifar100(tmp_path / "data")
    pixels, labels = parts["train"]
    held_out = held_out_of(labels)
    expected = {
        "train": (np.delete(pixels, held_out, 0), np.delete(labels, held_out)),
        "calibration": (pixels[held_out], labels[held_out]),
        "test": parts["test"],
    }
    for name, (expected_pixels, expected_labels) in expected.items():
        found = source.split(name)
        assert np.array_equal(found.pixels, expected_pixels) and np.array_equal(found.labels, expected_labels)
        assert (found.name, found.num_classes) == (f"cifar100 {name}", 100)
        assert source.flags(found) == ()
    assert np.bincount(source.split("calibration").labels).tolist() == [2] * 100
    with pytest.raises(UsageError, match="unknown split 'val'"):
        source.split("val")


def test_five_thousand_images_calibrate():
    labels = np.arange(50_000) * 37 % 100
    indices = cifar100.calibration_indices(labels)
    assert indices.shape == (5000,) and (np.diff(indices) > 0).all()
    assert np.bincount(labels[indices]).tolist() == [50] * 100
    checksum = hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest()
    assert checksum.startswith(CHECKSUM), "another choice would make all older figures incomparable"


CHECKSUM = "299d99cc6e79784a"


def test_the_hugging_face_cache_is_read_without_network(tmp_path, parts, monkeypatch):
    repository = tmp_path / "hub" / "datasets--uoft-cs--cifar100"
    write_parquet(repository / "snapshots" / ("a" * 40) / "cifar100", parts)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("socket.getaddrinfo", lambda *where, **_: pytest.fail(f"went online: {where}"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(Cifar100().split("test").pixels, parts["test"][0])
    shutil.rmtree(repository)
    with pytest.raises(DatasetMissing, match="the Hugging Face cache of uoft-cs/cifar100") as missing:
        Cifar100()
    for place in ("data/cifar-100-python/train", "data/cifar100/train-*.parquet", "prepare cifar100 --data-dir"):
        assert place in str(missing.value)


def test_cifar10_is_not_taken_for_it(tmp_path, parts):
    """Its parquet files have other columns."""
    write_parquet(tmp_path, parts)
    for path in tmp_path.iterdir():
        pq.write_table(pq.read_table(path).rename_columns({"fine_label": "label"}), path)
    with pytest.raises(DataError, match=r"columns \['fine_label'\] missing; found \['coarse_label', 'img', 'label'\]"):
        Cifar100(tmp_path).split("test")


def test_a_copy_with_other_class_sizes_is_refused(tmp_path, parts):
    """A label that is wrong would change which images calibrate."""
    labels = parts["train"][1]
    labels[labels == 7] = 8
    write_pickles(tmp_path, parts)
    source = Cifar100(tmp_path)
    for name in ("calibration", "train"):
        with pytest.raises(DataError, match="this is not cifar100: 0 of its 600 training images are of class 7, not 6"):
            source.split(name)


def test_labels_that_are_missing(tmp_path, parts):
    parts["train"] = (parts["train"][0], [None, *parts["train"][1][1:].tolist()])
    folder = tmp_path / "cifar100"
    folder.mkdir()
    images = [{"bytes": png(image), "path": None} for image in parts["train"][0]]
    pq.write_table(pa.table({"img": images, "fine_label": parts["train"][1]}), folder / "train-0.parquet")
    with pytest.raises(DataError, match="cifar100: labels must be integers, found object"):
        Cifar100(tmp_path).split("calibration")


def test_a_wrong_number_of_images(tmp_path, parts, monkeypatch):
    write_pickles(tmp_path, parts)
    monkeypatch.setattr(cifar100, "COUNTS", {"train": 600, "test": 31})
    with pytest.raises(DataError, match="the test part has 30 images, CIFAR-100 has 31"):
        Cifar100(tmp_path).split("test")


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.folder),)


def test_code_in_a_pickle_is_not_executed(tmp_path, parts):
    write_pickles(tmp_path / "data", parts)
    path = tmp_path / "data" / "test"
    path.write_bytes(pickle.dumps(pickle.loads(path.read_bytes()) | {"meta": Evil(tmp_path / "executed")}))
    with pytest.raises(DataError, match=f"{path} cannot be read: .*mkdir has no place in a CIFAR-100 batch"):
        Cifar100(tmp_path / "data").split("test")
    assert not (tmp_path / "executed").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "executed").exists(), "it would have been"


def test_prepare_downloads_what_is_missing(call, tmp_path, parts, monkeypatch):
    def fetched(root, train, download):
        assert train and download
        write_pickles(tmp_path / "there" / "cifar-100-python", parts)

    monkeypatch.setattr("torchvision.datasets.CIFAR100", fetched)
    answer = call("prepare", "cifar100", "--data-dir", tmp_path / "there")
    assert answer.code == 0, answer.err
    assert (
        f"cifar100 calibration: 200 images, fingerprint {Cifar100(tmp_path / 'there').split('calibration').fingerprint}"
        in (answer.out)
    )
    assert registry.entry("datasets", "cifar100").model == "resnet20"
