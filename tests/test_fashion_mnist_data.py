"""Fashion-MNIST from idx files, gzipped or not; MNIST, which has files of the same names, is refused."""

from __future__ import annotations

import gzip
import hashlib

import numpy as np
import pytest

from benchmark import backbones, registry
from benchmark.data import fashion_mnist
from benchmark.data.fashion_mnist import FashionMnist
from benchmark.errors import DataError, DatasetMissing, UsageError


def idx(array):
    """As its authors write it: two zeros, the type, the number of axes, their lengths, the bytes."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(side.to_bytes(4, "big") for side in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write(folder, parts, zipped=False):
    folder.mkdir(parents=True, exist_ok=True)
    for part, (pixels, labels) in parts.items():
        for name, array in ((f"{part}-images-idx3-ubyte", pixels), (f"{part}-labels-idx1-ubyte", labels)):
            content = idx(array)
            (folder / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(content) if zipped else content)


@pytest.fixture
def parts(monkeypatch):
    """Eight training images of each class, three of which calibrate, and 15 test images; under the files' own names."""
    monkeypatch.setattr(fashion_mnist, "COUNTS", {"train": 80, "test": 15})
    monkeypatch.setattr(fashion_mnist, "PER_CLASS", 3)
    random = np.random.default_rng(0)
    labels = {"train": random.permutation(np.arange(80) % 10), "t10k": random.integers(0, 10, 15)}
    return {part: (random.integers(0, 256, (len(some), 28, 28), dtype=np.uint8), some) for part, some in labels.items()}


LAYOUTS = {
    "as torchvision stores them": lambda folder, parts: write(folder / "FashionMNIST" / "raw", parts),
    "gzipped": lambda folder, parts: write(folder / "FashionMNIST" / "raw", parts, zipped=True),
    "both": lambda folder, parts: [write(folder / "FashionMNIST" / "raw", parts, zipped) for zipped in (True, False)],
    "folder itself": write,
    "folder itself, gzipped": lambda folder, parts: write(folder, parts, zipped=True),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_images(tmp_path, parts, layout):
    LAYOUTS[layout](tmp_path / "data", parts)
    source = FashionMnist(tmp_path / "data")
    pixels, labels = parts["train"]
    texts = [f"dynconf-bench fashion-mnist calibration {index}" for index in range(80)]
    order = sorted(range(80), key=lambda index: hashlib.sha256(texts[index].encode()).digest())
    held_out = sorted(index for label in range(10) for index in [n for n in order if labels[n] == label][:3])
    expected = {
        "train": (np.delete(pixels, held_out, 0), np.delete(labels, held_out)),
        "calibration": (pixels[held_out], labels[held_out]),
        "test": parts["t10k"],
    }
    for name, (expected_pixels, expected_labels) in expected.items():
        found = source.split(name)
        assert np.array_equal(found.pixels, expected_pixels[:, None])
        assert np.array_equal(found.labels, expected_labels) and found.num_classes == 10
    with pytest.raises(UsageError, match="unknown split 'val'"):
        source.split("val")


def test_torchvision_reads_the_same_files(tmp_path, parts):
    """So the files made here are true ones."""
    from torchvision.datasets import FashionMNIST

    write(tmp_path / "FashionMNIST" / "raw", parts)
    theirs = FashionMNIST(str(tmp_path), train=False)
    ours = FashionMnist(tmp_path).split("test")
    assert np.array_equal(theirs.data.numpy()[:, None], ours.pixels)
    assert np.array_equal(theirs.targets.numpy(), ours.labels)


def test_five_thousand_images_calibrate():
    labels = (np.arange(60_000) * 7 % 10).astype(np.uint8)
    indices = fashion_mnist.calibration_indices(labels)
    assert indices.shape == (5000,) and np.bincount(labels[indices]).tolist() == [500] * 10
    checksum = hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest()
    assert checksum.startswith(CHECKSUM), "another choice would make all older figures incomparable"


CHECKSUM = "1352a43e9062db8d"


def test_mnist_is_not_taken_for_it(tmp_path, parts):
    parts["train"][1][:2] = 3
    write(tmp_path, parts)
    with pytest.raises(
        DataError, match=r"this is not fashion-mnist: \d+ of its 80 training images are of class \d, not 8"
    ):
        FashionMnist(tmp_path).split("calibration")


def test_where_it_is_looked_for(tmp_path, parts, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetMissing) as missing:
        FashionMnist()
    for said in ("data/FashionMNIST/raw/train-images-idx3-ubyte[.gz]", "data/fashion-mnist/", "prepare fashion-mnist"):
        assert said in str(missing.value)
    write(tmp_path / "data" / "FashionMNIST" / "raw", parts)
    assert len(FashionMnist().split("test")) == 15


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("t10k-labels-idx1-ubyte", lambda content: None, "t10k-labels-idx1-ubyte is missing, also with .gz"),
        ("t10k-images-idx3-ubyte", lambda content: content[:-1], "has 11,759 bytes of data, its header says 11,760"),
        ("t10k-images-idx3-ubyte", lambda content: content + b"0", "has 11,761 bytes of data, its header says 11,760"),
        ("t10k-images-idx3-ubyte", lambda content: content[:9], "not an idx file of bytes with 3 axes"),
        ("t10k-images-idx3-ubyte", lambda content: b"", "not an idx file of bytes with 3 axes"),
        ("t10k-images-idx3-ubyte", lambda content: b"\0\0\x0d" + content[3:], "not an idx file of bytes with 3 axes"),
        ("t10k-labels-idx1-ubyte", lambda content: idx(np.zeros((15, 1))), "not an idx file of bytes with 1 axes"),
        ("t10k-labels-idx1-ubyte", lambda content: idx(np.zeros(14)), "has 14 labels, Fashion-MNIST has 15"),
        ("t10k-images-idx3-ubyte", lambda content: idx(np.zeros((14, 28, 28))), "has 14 images, Fashion-MNIST has 15"),
        (
            "t10k-images-idx3-ubyte",
            lambda content: idx(np.zeros((15, 32, 28))),
            "images of 32 x 28 pixels, not 28 x 28",
        ),
        ("t10k-labels-idx1-ubyte", lambda content: idx(np.full(15, 10)), "image 0 has label 10, outside 0..9"),
    ],
)
def test_damaged_files(tmp_path, parts, name, change, said):
    write(tmp_path, parts)
    content = change((tmp_path / name).read_bytes())
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        FashionMnist(tmp_path).split("test")


@pytest.mark.parametrize("damage", [lambda content: content[:200], lambda content: b"text", lambda content: b""])
def test_a_damaged_gzip_file(tmp_path, parts, damage):
    write(tmp_path, parts, zipped=True)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=f"{path} (cannot be read|is not an idx file)"):
        FashionMnist(tmp_path).split("test")


def test_a_gzip_file_that_is_damaged_in_the_middle(tmp_path, parts):
    write(tmp_path, parts, zipped=True)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[50:90] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path} cannot be read"):
        FashionMnist(tmp_path).split("test")


def test_prepare_downloads_what_is_missing(call, tmp_path, parts, monkeypatch):
    def fetched(root, download):
        assert download
        write(tmp_path / "there" / "FashionMNIST" / "raw", parts)

    monkeypatch.setattr("torchvision.datasets.FashionMNIST", fetched)
    answer = call("prepare", "fashion-mnist", "--data-dir", tmp_path / "there")
    assert answer.code == 0 and "fashion-mnist train: 50 images, fingerprint " in answer.out, answer.err


def test_its_backbone_takes_its_images(tmp_path, parts):
    import torch

    model = registry.entry("datasets", "fashion-mnist").model
    assert backbones.build(model, 1, 10, 28).eval()(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
