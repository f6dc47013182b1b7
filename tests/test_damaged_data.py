"""Damaged images are found before hours of compute, harmless ones pass, and pictures of every kind are RGB."""

from __future__ import annotations

import io
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from test_imagenet_data import PIXELS_16, picture, stored, write_folders, write_parquet
from test_imagenet_layouts_data import FEW, WNIDS, val_rows, write_train_folders

from benchmark.data import imagenet
from benchmark.data.decoding import EDGE, decode, looks_whole
from benchmark.data.decoding import picture as decoded_picture
from benchmark.data.digits import Digits
from benchmark.data.encoded import EncodedPixels
from benchmark.data.file_images import FileImages
from benchmark.data.imagenet import ImageNet
from benchmark.data.images import Preprocessing
from benchmark.errors import DataError

JPEG, PNG = stored(picture(1)), stored(picture(1), "PNG")
# What is wrong with an image, and what is said then.
DAMAGES = {
    "empty": (lambda content: b"", "its 0 bytes are not an image"),
    "text": (lambda content: b"<html>not found</html>", "its 22 bytes are not an image"),
    "half a JPEG": (lambda content: content[: len(content) // 2], "(?i:truncated)"),
    "half a PNG": (lambda content: PNG[: len(PNG) // 2], "(?i:truncated)"),
    "a PNG with zeros at its end": (lambda content: PNG[:-900] + bytes(900), ""),
    "without its end marker": (lambda content: content[:-2], "(?i:truncated)"),
    "zeros from the middle on": (lambda content: content[: len(content) // 2] + bytes(len(content) // 2), ""),
    "its start is missing": (lambda content: content[100:], r"its \d+ bytes are not an image"),
    "zeros": (lambda content: bytes(len(content)), r"its \d+ bytes are not an image"),
}
# Odd, but every pixel is there.
HARMLESS = {
    "trailing zeros": lambda content: content + bytes(1000),
    "trailing text": lambda content: content + b"\nnote",
    "trailing bytes after a PNG": lambda content: PNG + b"\0",
    "a PNG": lambda content: PNG,
    "a bitmap": lambda content: stored(picture(1), "BMP"),
    "WebP": lambda content: stored(picture(1), "WEBP"),
}


@pytest.fixture(autouse=True)
def few_classes(monkeypatch):
    monkeypatch.setattr(imagenet, "CLASSES", FEW)


# What begins and ends like a whole image


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_whole_jpegs_look_whole(mode):
    for options in ({}, {"progressive": True}, {"quality": 10}, {"comment": b"\xff\xd9"}):
        content = stored(picture(3, (50, 40), mode), "JPEG", **options)
        assert looks_whole(content[:EDGE], content[-EDGE:])
        assert not looks_whole(content[:EDGE], content[-EDGE - 9 : -9])
        assert not looks_whole(content[1 : EDGE + 1], content[-EDGE:])


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1"])
def test_whole_pngs_look_whole(mode):
    content = stored(picture(3).convert(mode), "PNG")
    assert looks_whole(content[:EDGE], content[-EDGE:])
    assert not looks_whole(content[:EDGE], content[-EDGE - 1 : -1])
    assert not looks_whole(content[:EDGE], JPEG[-EDGE:]) and not looks_whole(JPEG[:EDGE], content[-EDGE:])
    assert not looks_whole(b"", b"")


# Checks


@pytest.fixture
def rows():
    return val_rows(13)


@pytest.fixture(params=["parquet", "folders", "train"])
def check(request, tmp_path, rows):
    """Check the test split of 6 images, or the train split of 13, after some rows have been changed."""

    def run(change):
        change(rows)
        if request.param == "parquet":
            write_parquet(tmp_path / "data", rows)
            return ImageNet(tmp_path).split("test").check()
        if request.param == "folders":
            write_folders(tmp_path, rows, WNIDS)
            return ImageNet(tmp_path).split("test").check()
        write_train_folders(tmp_path, rows)
        write_parquet(tmp_path / "data", val_rows(3))
        return ImageNet(tmp_path).split("train").check()

    return run


def test_whole_images_pass(check):
    assert check(lambda rows: None) is None


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_image_is_named(check, how):
    damage, said = DAMAGES[how]

    def change(rows):
        rows[5]["bytes"] = damage(rows[5]["bytes"])

    with pytest.raises(DataError, match=rf"{val_rows(6)[5]['path']}\)? is corrupt: .*{said}.*\.\nCopy") as refused:
        check(change)
    assert " more image" not in str(refused.value)


@pytest.mark.parametrize("how", HARMLESS)
def test_an_odd_image_passes(check, how):
    content = HARMLESS[how](JPEG)
    decode(content, "it can be decoded", PIXELS_16)
    assert check(lambda rows: rows[5].update(bytes=content)) is None


def test_the_others_are_counted(check):
    def change(rows):
        for index in (1, 3, 9):
            rows[index]["bytes"] = b""

    with pytest.raises(DataError, match=r"its 0 bytes are not an image\. 2 more images are damaged\.\nCopy"):
        check(change)


def test_one_other_is_one(check):
    with pytest.raises(DataError, match=r"\. 1 more image is damaged\."):
        check(lambda rows: [rows[index].update(bytes=b"") for index in (1, 3)])


def test_a_damaged_middle_is_not_found_but_said_so(check):
    from benchmark.data.images import Images

    def change(rows):
        content = bytearray(rows[5]["bytes"])
        content[len(content) // 2 : len(content) // 2 + 60] = bytes(60)
        rows[5]["bytes"] = bytes(content)

    check(change)
    assert "damage in the middle of a\n        file stays unseen" in Images.check.__doc__


def test_only_the_images_of_a_split_are_checked(tmp_path, rows):
    rows[4]["bytes"] = b""
    write_parquet(tmp_path / "data", rows)
    source = ImageNet(tmp_path)
    source.split("test").check()
    with pytest.raises(DataError, match="image 4"):
        source.split("calibration").check()
    source.split("calibration").first(2).check()


def test_check_and_fingerprint_are_one_reading(tmp_path, rows, monkeypatch):
    rows[5]["bytes"] = JPEG + bytes(10)
    write_parquet(tmp_path / "data", rows, files=1, group=4)
    read = []
    real = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_group",
        lambda self, number, **options: read.append(number) or real(self, number, **options),
    )
    source = ImageNet(tmp_path)
    for name in ("test", "calibration"):
        source.split(name).check()
        assert source.split(name).fingerprint
    assert sorted(set(read)) == [0, 1, 2, 3]
    assert len(read) <= 5, "each group once, and the one with the odd image again"


def test_a_check_of_training_files_reads_their_ends_alone(tmp_path, monkeypatch):
    """A megabyte each here, of which 32 bytes are read."""
    names = [f"{index}.JPEG" for index in range(600)]
    for name in names:
        with (tmp_path / name).open("wb") as file:
            file.write(JPEG[:100])
            file.truncate(2**20)
            file.seek(2**20 - 2)
            file.write(b"\xff\xd9")
    source = FileImages(tmp_path, [""], np.zeros(600, np.uint8), names, np.zeros(600, np.uint8))
    pixels = EncodedPixels(source, np.arange(600), PIXELS_16, by_size=True)
    monkeypatch.setattr(FileImages, "read", lambda *_: pytest.fail("a whole file is read"))
    pixels.check()
    edges = list(source.edges(range(600)))
    assert edges == [(JPEG[:EDGE], bytes(EDGE - 2) + b"\xff\xd9")] * 600
    assert list(source.sizes([5, 3])) == [2**20] * 2


def test_a_training_file_that_cannot_be_read_counts_as_damaged(tmp_path, rows):
    write_train_folders(tmp_path, rows)
    write_parquet(tmp_path / "data", val_rows(3))
    train = ImageNet(tmp_path).split("train")
    gone = [tmp_path / "train" / WNIDS[rows[index]["label"]] / rows[index]["path"] for index in (2, 7)]
    for path in gone:
        path.unlink()
    with pytest.raises(
        DataError, match=r"cannot be read: No such file or directory\. 1 more image is damaged\."
    ) as found:
        train.check()
    assert any(str(path) in str(found.value) for path in gone)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        _ = train.fingerprint


def test_images_in_memory_need_no_check():
    assert Digits().split("test").check() is None


def test_the_real_images_are_whole(shared, monkeypatch):
    monkeypatch.setattr(imagenet, "CLASSES", 1000)
    source = ImageNet(shared("imagenet"))
    for name in source.splits:
        source.split(name).check()
    assert not source._source._suspects, "all of them end like JPEGs"
    found = source.split("test").pixels.picture(3)
    assert (found.mode, found.size) == ("RGB", (227, 227))


# Pictures


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("L", "PNG"), ("P", "PNG"), ("1", "PNG"), ("RGBA", "PNG")],
)
def test_a_picture_of_any_kind_is_rgb_in_its_own_size(tmp_path, mode, kind):
    """Also where the file name says something else, as that of a PNG among ImageNet's training images does."""
    content = stored(picture(4, (37, 21)).convert(mode), kind)
    row = {"path": "n00001000_1.JPEG", "bytes": content, "label": 0}
    write_train_folders(tmp_path, [row])
    write_parquet(tmp_path / "data", val_rows(3))
    source = ImageNet(tmp_path).viewed(Preprocessing(1.0, (0.0,) * 3, (1.0,) * 3, crop=21))
    train = source.split("train")
    train.check()
    found = train.pixels.picture(0)
    with Image.open(io.BytesIO(content)) as expected:
        assert np.array_equal(np.asarray(found), np.asarray(expected.convert("RGB")))
    assert (found.mode, found.size) == ("RGB", (37, 21))
    assert np.array_equal(train.pixels[:][0], np.asarray(found.crop((8, 0, 29, 21))).transpose(2, 0, 1))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_picture_is_refused(kind, kept):
    content = stored(picture(4, (120, 90)), kind)
    with pytest.raises(DataError, match=re.escape("this picture is corrupt: ")):
        decoded_picture(content[: int(kept * len(content))], "this picture")


def test_a_picture_of_sixteen_bits_is_refused():
    deep = Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 200)
    with pytest.raises(DataError, match="mode I;16 is not 8 bits a channel"):
        decoded_picture(stored(deep, "PNG"), "this picture")
