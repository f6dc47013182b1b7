"""Any folder of images as a dataset: names, labels, the held-out share, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from test_imagenet_data import picture, stored

from benchmark import backbones, registry
from benchmark.data import imagefolder, recorded_name
from benchmark.data.imagefolder import calibration_counts
from benchmark.data.images import Preprocessing
from benchmark.errors import DataError, DatasetMissing, UsageError
from benchmark.loading import Loader

SMALL = Preprocessing(255.0, (0.5,) * 3, (0.5,) * 3, resize=20, crop=16)
CLASSES = ["Zebra", "a cat", "dög"]  # sorted by code point
COUNTS = [20, 3, 31]


@pytest.fixture
def flowers(tmp_path):
    """Three classes of 20, 3 and 31 training images and two test images each; formats and sizes differ."""
    root = tmp_path / "some where" / "flowers"
    kinds = [("JPEG", ".jpg"), ("PNG", ".PNG"), ("WEBP", ".webp"), ("BMP", ".bmp")]
    for label, (name, count) in enumerate(zip(CLASSES, COUNTS, strict=True)):
        for part, images in (("train", count), ("val", 2)):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(images):
                kind, suffix = kinds[number % 4]
                image = picture(100 * label + number, (30 + number, 25))
                (folder / f"{number:03d}{suffix}").write_bytes(stored(image, kind))
            (folder / "notes.txt").write_text("no image")
    (root / "train" / ".cache").mkdir()
    return root


def load(path, data_dir=None):
    return registry.load("datasets", f"imagefolder:{path}")(data_dir)


def names_in_order(root, part):
    """`<class>/<file>` of all images, in the order of the splits."""
    names = [
        f"{path.parent.name}/{path.name}"
        for path in (root / part).rglob("*.*")
        if path.is_file() and path.suffix != ".txt"
    ]
    return sorted(names, key=lambda name: hashlib.sha256(f"dynconf-bench imagefolder {name}".encode()).digest())


def labels_of(names):
    return [CLASSES.index(name.partition("/")[0]) for name in names]


# Images


def test_splits(flowers):
    source = load(flowers)
    assert (source.name, source.num_classes, source.splits) == (
        "imagefolder:flowers",
        3,
        ("train", "calibration", "test"),
    )
    names = names_in_order(flowers, "train")
    held_out = [name for label, count in enumerate([2, 1, 3]) for name in _of_class(names, label)[:count]]
    expected = {
        "train": [name for name in names if name not in held_out],
        "calibration": [name for name in names if name in held_out],
        "test": names_in_order(flowers, "val"),
    }
    for split, chosen in expected.items():
        found = source.split(split)
        found.check()
        assert found.name == f"imagefolder:flowers {split}"
        assert found.labels.tolist() == labels_of(chosen)
        assert found.pixels.shape == (len(chosen), 3, 224, 224)
        folder = flowers / ("val" if split == "test" else "train")
        for index in (0, len(chosen) - 1):
            number = int(chosen[index].rpartition("/")[2][:3])
            assert found.pixels.picture(index).size == (30 + number, 25), folder
    with pytest.raises(UsageError, match="unknown split 'val'"):
        source.split("val")


def _of_class(names, label):
    return [name for name in names if labels_of([name]) == [label]]


def test_test_comes_before_val(flowers):
    shutil.copytree(flowers / "val", flowers / "test")
    for path in (flowers / "test").rglob("001*"):
        path.unlink()
    assert len(load(flowers).split("test")) == 3
    shutil.rmtree(flowers / "val")
    assert len(load(flowers).split("test")) == 3


def test_batches_and_geometry(flowers):
    source = load(flowers)
    images = source.viewed(SMALL).split("calibration")
    batches = list(Loader(images, SMALL, 4, torch.device("cpu"))())
    assert [tuple(batch.shape) for batch, _ in batches] == [(4, 3, 16, 16), (2, 3, 16, 16)]
    with pytest.raises(UsageError, match=r"the images of imagefolder:flowers differ in size.*names no crop"):
        source.viewed(Preprocessing(1.0, (0.0,) * 3, (1.0,) * 3))


def test_its_backbone_takes_its_images():
    entry = registry.entry("datasets", "imagefolder:/somewhere")
    assert backbones.build(entry.model, 3, 3, 224).eval()(torch.zeros(1, 3, 224, 224)).shape == (1, 3)


def test_fingerprints(flowers):
    def fingerprints(path=flowers):
        return [load(path).split(name).fingerprint for name in ("train", "calibration", "test")]

    own = fingerprints()
    assert own == fingerprints() and len(set(own)) == 3
    shutil.copytree(flowers, flowers.parent / "roses")
    assert fingerprints(flowers.parent / "roses") == own, "the name of the folder is not in them"
    path = flowers / "val" / "Zebra" / "001.PNG"
    path.write_bytes(path.read_bytes() + b"\0")
    assert [mine == old for mine, old in zip(fingerprints(), own, strict=True)] == [True, True, False]
    (flowers / "train" / "Zebra").rename(flowers / "train" / "zebra")
    (flowers / "val" / "Zebra").rename(flowers / "val" / "zebra")
    assert fingerprints()[0] != own[0], "labels have moved"


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([20, 3, 31], [2, 1, 3]),
        ([10, 9, 2], [1, 1, 1]),
        ([50_000, 0], [5000, 1]),
        ([60_000, 40_000], [3000, 2000]),
        ([1_281_167], [4985]),
        ([500] * 100, [50] * 100),
        ([11] * 6000, [1] * 6000),
    ],
)
def test_a_tenth_of_each_class_but_at_most_five_thousand(sizes, expected):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    assert calibration_counts(labels, len(sizes)) == expected


def test_classes_without_test_images_are_allowed(flowers):
    shutil.rmtree(flowers / "val" / "a cat")
    source = load(flowers)
    assert source.num_classes == 3 and sorted(source.split("test").labels.tolist()) == [0, 0, 2, 2]


# Names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("imagefolder:/data/private/flowers", "imagefolder:flowers"),
        ("imagefolder:flowers/", "imagefolder:flowers"),
        ("imagefolder:flowers", "imagefolder:flowers"),
        ("imagefolder:a:b/c:d", "imagefolder:c:d"),
        ("imagenet", "imagenet"),
        ("mine:/a/b", "mine:/a/b"),
    ],
)
def test_the_path_is_not_recorded(name, expected):
    assert recorded_name(name) == expected


def test_a_folder_without_a_name_is_looked_up(flowers, monkeypatch):
    (flowers / "inner").mkdir()
    monkeypatch.chdir(flowers / "inner")
    assert recorded_name("imagefolder:..") == "imagefolder:flowers"
    monkeypatch.chdir(flowers)
    assert recorded_name("imagefolder:.") == "imagefolder:flowers" == load(".").name


def test_a_relative_path_lies_below_data_dir(flowers, monkeypatch):
    """So the recorded name and --data-dir find it again."""
    assert load("flowers", flowers.parent).name == "imagefolder:flowers"
    monkeypatch.chdir(flowers.parent)
    assert load("flowers").split("test").fingerprint == load(flowers).split("test").fingerprint
    (flowers.parent / "data").mkdir()
    flowers.rename(flowers.parent / "data" / "flowers")
    assert load("flowers").name == "imagefolder:flowers"
    with pytest.raises(DatasetMissing, match=r"imagefolder:flowers is not on this disk\. Looked for: /none/flowers\."):
        from pathlib import Path

        load("flowers", Path("/none"))


def test_the_registry_resolves_the_path(call):
    entry = registry.entry("datasets", "imagefolder:PATH")
    assert entry is registry.entry("datasets", "imagefolder:/any/where") and entry.parametrised
    assert registry.load("datasets", "imagefolder:a:b").path == "a:b"
    assert registry.names("datasets").count("imagefolder:PATH") == 1
    for name in ("imagefolder", "imagefolder:", "imagefolders:x"):
        with pytest.raises(UsageError, match=r"unknown dataset .*\nDid you mean 'imagefolder:PATH'"):
            registry.entry("datasets", name)
    with pytest.raises(UsageError, match="unknown dataset 'cifar10:x'"):
        registry.entry("datasets", "cifar10:x")
    listed = json.loads(call("list", "datasets", "--json").out)
    assert listed["imagefolder:PATH"]["model"] == "resnet18"


def test_prepare(call, flowers):
    answer = call("prepare", f"imagefolder:{flowers}")
    assert answer.code == 0 and "calibration: 6 images, fingerprint" in answer.out
    answer = call("prepare", f"imagefolder:{flowers}/none")
    assert answer.code == 2 and "a folder of your own is not downloaded" in answer.err
    assert imagefolder.LAYOUT in answer.err


def test_a_network_is_trained_on_a_folder_and_run(call, flowers, tmp_path):
    common = ["--dataset", f"imagefolder:{flowers}", "--model", "small-cnn", "--results", tmp_path / "r"]
    small = [text for value in ("resize=20", "crop=16") for text in ("--preprocessing", value)]
    recipe = ["--preset", "embedded", "--augment", "resized-crop", "--epochs", "2", "--batch-size", "8"]
    answer = call("train", *common, *small, *recipe)
    assert answer.code == 0, answer.err
    (checkpoint,) = (tmp_path / "r" / "checkpoints").iterdir()
    answer = call("run", *common, "--checkpoint", checkpoint, "--timesteps", "4", "--json")
    assert answer.code == 0, answer.err
    record = json.loads(answer.out)
    assert record["spec"]["dataset"] == "imagefolder:flowers" and str(flowers) not in answer.out
    assert "test 6 @" in record["protocol"] and "calibration 6 @" in record["protocol"]
    assert record["ann"]["training"] == checkpoint.stem[-12:]


# What is refused


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda root: shutil.rmtree(root / "val"),
            r"flowers is not laid out as train/<class>/.*; it has train\.\nSplit",
        ),
        (lambda root: (root / "train").rename(root / "training"), r"it has training, val\."),
        (lambda root: [shutil.rmtree(root / name) for name in ("train", "val")], r"it has no folder\."),
        (
            lambda root: [
                shutil.rmtree(root / "val"),
                *[path.rename(root / path.name) for path in (root / "train").iterdir()],
            ],
            r"it has Zebra, a cat, dög, train\.",
        ),
        (
            lambda root: [shutil.rmtree(root / "train" / name) for name in CLASSES[1:]],
            "train has 1 class folders; two are the least",
        ),
        (lambda root: (root / "val" / "cow").mkdir(), "val has classes that .*train does not have: cow"),
        (
            lambda root: [path.unlink() for path in (root / "train" / "a cat").glob("0*")][1:],
            "train/a cat has fewer than",
        ),
        (
            lambda root: [path.unlink() for path in (root / "train" / "a cat").glob("00[12]*")],
            "train/a cat has fewer than",
        ),
        (lambda root: [path.unlink() for path in (root / "val").rglob("0*")], "val: its class folders hold no images"),
    ],
)
def test_other_layouts(flowers, change, said):
    change(flowers)

    def everything():
        source = load(flowers)
        for name in source.splits:
            source.split(name)

    with pytest.raises(DataError, match=said):
        everything()


def test_a_damaged_image_is_named(flowers):
    path = flowers / "train" / "dög" / "004.jpg"
    path.write_bytes(path.read_bytes()[:200])
    source = load(flowers)
    damaged = []
    for name in ("train", "calibration"):
        try:
            source.split(name).check()
        except DataError as error:
            damaged.append(str(error))
    assert len(damaged) == 1 and f"{path} is corrupt" in damaged[0]
