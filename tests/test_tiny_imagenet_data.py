"""Tiny ImageNet in the layout of its authors, in small copies: labels, splits, pictures, damaged lists."""

from __future__ import annotations

import hashlib
import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from test_imagenet_data import picture, stored

from benchmark import backbones, registry
from benchmark.data import tiny_imagenet
from benchmark.data.images import Preprocessing
from benchmark.data.tiny_imagenet import TinyImageNet
from benchmark.errors import DataError, DatasetMissing, UsageError
from benchmark.loading import Loader

WNIDS = ["n03000000", "n01000000", "n02000000"]  # as in wnids.txt, which is not sorted
SORTED = sorted(WNIDS)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Three classes with six training images each, two of which calibrate, and seven test images."""
    monkeypatch.setattr(tiny_imagenet, "CLASSES", 3)
    monkeypatch.setattr(tiny_imagenet, "COUNTS", {"train": 18, "test": 7})
    monkeypatch.setattr(tiny_imagenet, "PER_CLASS", 2)


@pytest.fixture
def copy(tmp_path):
    """tiny-imagenet-200 as its zip file unpacks, with grey images among the others."""
    folder = tmp_path / "data" / "tiny-imagenet-200"
    for label, wnid in enumerate(SORTED):
        (folder / "train" / wnid / "images").mkdir(parents=True)
        boxes = ""
        for number in range(6):
            name = f"{wnid}_{number}.JPEG"
            image = picture(10 * label + number, (64, 64), "L" if number == 3 else "RGB")
            (folder / "train" / wnid / "images" / name).write_bytes(stored(image))
            boxes += f"{name}\t0\t10\t63\t58\n"
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text(boxes)
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "test" / "images").mkdir(parents=True)
    lines = ""
    for number in range(7):
        (folder / "val" / "images" / f"val_{number}.JPEG").write_bytes(stored(picture(100 + number, (64, 64))))
        lines += f"val_{number}.JPEG\t{WNIDS[number % 3]}\t0\t32\t44\t62\n"
    (folder / "val" / "val_annotations.txt").write_text(lines)
    (folder / "wnids.txt").write_text("\n".join(WNIDS))
    (folder / "words.txt").write_text("n01000000\tthing\n")
    return folder


def order(names):
    return sorted(names, key=lambda name: hashlib.sha256(f"dynconf-bench tiny-imagenet {name}".encode()).digest())


def pixels_of(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


@pytest.mark.parametrize("inner", [False, True])
def test_splits(copy, inner):
    source = TinyImageNet(copy if inner else copy.parent)
    assert source.splits == ("train", "calibration", "test") and source.calibration_from_train
    names = order(f"{wnid}_{number}.JPEG" for wnid in SORTED for number in range(6))
    held_out = [name for wnid in SORTED for name in [each for each in names if each.startswith(wnid)][:2]]
    expected = {
        "train": [name for name in names if name not in held_out],
        "calibration": [name for name in names if name in held_out],
    }
    for split, chosen in expected.items():
        found = source.split(split)
        assert found.labels.tolist() == [SORTED.index(name[:9]) for name in chosen]
        assert found.pixels.shape == (len(chosen), 3, 64, 64) and found.pixels.same_size
        assert found.first(1).pixels.same_size
        paths = [copy / "train" / name[:9] / "images" / name for name in chosen]
        assert np.array_equal(found.pixels[:], np.stack(list(map(pixels_of, paths))))
        assert np.array_equal(np.asarray(found.pixels.picture(1)), pixels_of(paths[1]).transpose(1, 2, 0))
    test = source.split("test")
    assert test.labels.tolist() == [2, 0, 1, 2, 0, 1, 2], "places among the sorted wnids, in the order of the list"
    assert np.array_equal(test.pixels[:][5], pixels_of(copy / "val" / "images" / "val_5.JPEG"))
    with pytest.raises(UsageError, match="unknown split 'val'"):
        source.split("val")


def test_fingerprints(copy):
    """Of the calibration and test images every byte counts, of the training images name, size and label."""

    def fingerprints():
        return {name: TinyImageNet(copy).split(name).fingerprint for name in ("train", "calibration", "test")}

    def flip(path):
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)

    own = fingerprints()
    assert own == fingerprints() and len(set(own.values())) == 3
    names = order(f"{wnid}_{number}.JPEG" for wnid in SORTED for number in range(6))
    for name in names:
        flip(copy / "train" / name[:9] / "images" / name)
    changed = fingerprints()
    assert [changed[name] == own[name] for name in own] == [True, False, True]
    flip(copy / "val" / "images" / "val_6.JPEG")
    assert fingerprints()["test"] != own["test"]


def test_another_geometry(copy):
    source = TinyImageNet(copy)
    plain = source.viewed(Preprocessing(1.0, (0.0,) * 3, (1.0,) * 3))
    assert plain.split("test").fingerprint == source.split("test").fingerprint, "weights that name no geometry"
    large = source.viewed(Preprocessing(1.0, (0.0,) * 3, (1.0,) * 3, resize=96, crop=80)).split("train")
    assert large.pixels.shape == (12, 3, 80, 80) and not large.pixels.same_size
    assert not source.viewed(Preprocessing(1.0, (0.0,) * 3, (1.0,) * 3, crop=56)).split("train").pixels.same_size
    with pytest.raises(UsageError, match=r"the images of tiny-imagenet differ in size.*names no crop"):
        source.viewed(Preprocessing(1.0, (0.0,) * 3, (1.0,) * 3, resize=96))
    assert source.split("test").pixels.shape == (7, 3, 64, 64)


def test_batches_and_pickles(copy):
    images = TinyImageNet(copy).split("calibration")
    images.check()
    batches = list(Loader(images, TinyImageNet.preprocessing, 4, torch.device("cpu"))())
    assert [tuple(batch.shape) for batch, _ in batches] == [(4, 3, 64, 64), (2, 3, 64, 64)]
    assert np.array_equal(pickle.loads(pickle.dumps(images.pixels))[:], images.pixels[:])


def test_its_backbone_takes_its_images():
    entry = registry.entry("datasets", "tiny-imagenet")
    network = backbones.build(entry.model, 3, 200, tiny_imagenet.SIDE).eval()
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 200)


def test_where_it_is_looked_for(tmp_path, copy, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    assert len(TinyImageNet().split("test")) == 7
    with pytest.raises(DatasetMissing) as missing:
        TinyImageNet(tmp_path / "nowhere")
    for said in (f"{tmp_path}/nowhere/tiny-imagenet-200/wnids.txt", tiny_imagenet.ARCHIVE):
        assert said in str(missing.value)
    answer = call("prepare", "tiny-imagenet", "--data-dir", tmp_path / "nowhere")
    assert answer.code == 2 and tiny_imagenet.ARCHIVE in answer.err and f"{tmp_path}/nowhere" in answer.err
    answer = call("prepare", "tiny-imagenet", "--data-dir", copy)
    assert answer.code == 0 and "tiny-imagenet calibration: 6 images, fingerprint " in answer.out


@pytest.mark.parametrize(
    ("path", "change", "said"),
    [
        ("wnids.txt", lambda text: text + "\nn09000000", "wnids.txt names 4 classes, Tiny ImageNet has 3"),
        ("wnids.txt", lambda text: text + "\nn01000000", None),
        ("wnids.txt", lambda text: "n01000000\nn02000000\nn01000000", "wnids.txt names 2 classes"),
        (
            "wnids.txt",
            lambda text: text.replace("n01", "n09"),
            r"train/n02000000/images.*|train/n09000000/images cannot",
        ),
        ("val/val_annotations.txt", lambda text: text[:41], "line 2: no class of wnids.txt behind"),
        ("val/val_annotations.txt", lambda text: "\n".join(text.splitlines()[:6]), "test part has 6 images, .* has 7"),
        ("val/val_annotations.txt", lambda text: text + text, "line 8: val_0.JPEG is there twice"),
        (
            "val/val_annotations.txt",
            lambda text: text.replace("n02", "n05"),
            "line 3: no class of wnids.txt behind 'val_2",
        ),
        ("val/val_annotations.txt", lambda text: text + "\n", "line 8: no class of wnids.txt behind ''"),
    ],
)
def test_damaged_lists(copy, path, change, said):
    (copy / path).write_text(change((copy / path).read_text()))

    def everything():
        source = TinyImageNet(copy)
        for name in source.splits:
            source.split(name)

    if said is None:
        return everything()
    with pytest.raises(DataError, match=said):
        everything()
    return None


def test_missing_files(copy):
    (copy / "train" / SORTED[1] / "images" / f"{SORTED[1]}_4.JPEG").unlink()
    with pytest.raises(DataError, match="the train part has 17 images, Tiny ImageNet has 18"):
        TinyImageNet(copy).split("calibration")
    (copy / "val" / "images" / "val_3.JPEG").unlink()
    with pytest.raises(DataError, match=r"val/images/val_3.JPEG cannot be read: No such file"):
        TinyImageNet(copy).split("test").check()
    (copy / "val" / "val_annotations.txt").unlink()
    with pytest.raises(DataError, match=r"val_annotations.txt cannot be read"):
        TinyImageNet(copy).split("test")


def test_a_damaged_image(copy):
    names = order(f"{wnid}_{number}.JPEG" for wnid in SORTED for number in range(6))
    for name in names:
        (copy / "train" / name[:9] / "images" / name).write_bytes(b"")
    source = TinyImageNet(copy)
    with pytest.raises(DataError, match=r"its 0 bytes are not an image\. 5 more images are damaged"):
        source.split("calibration").check()
    with pytest.raises(DataError, match=r"its 0 bytes are not an image\. 11 more images are damaged"):
        source.split("train").check()
    source.split("test").check()


def test_the_stored_images_are_those_made(copy):
    """Grey ones are there, or the tests above would not show that they become RGB."""
    content = (copy / "train" / SORTED[0] / "images" / f"{SORTED[0]}_3.JPEG").read_bytes()
    assert Image.open(io.BytesIO(content)).mode == "L"
