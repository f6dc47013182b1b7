"""ImageNet from both layouts, in small copies and in the real partial one: decoding, geometry, splits, lazy pixels."""

from __future__ import annotations

import hashlib
import io
import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from benchmark.card import Card
from benchmark.checkpoints import read_weights
from benchmark.data import encoded, imagenet
from benchmark.data.decoding import decode
from benchmark.data.digits import Digits
from benchmark.data.imagenet import ImageNet
from benchmark.data.images import Images, Preprocessing
from benchmark.errors import CheckpointError, DataError, DatasetMissing, UsageError
from benchmark.loading import Loader

PIXELS = Preprocessing(1.0, (0.0,) * 3, (1.0,) * 3, resize=20, crop=16)
PIXELS_16 = Preprocessing(1.0, (0.0,) * 3, (1.0,) * 3, crop=16)
CAFFE = Preprocessing(1.0, (123.0, 117.0, 104.0), (1.0,) * 3, crop=227)
WNIDS = [f"n{number:08d}" for number in range(1_000, 3_000, 2)]


# Small copies


def picture(seed, size=(40, 30), mode="RGB"):
    """A smooth pattern with some noise; JPEG keeps most of it."""
    width, height = size
    random = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(0, 3, width), np.linspace(0, 3, height))
    waves = [np.sin(random.uniform(1, 4) * x + random.uniform(1, 4) * y + random.uniform(0, 6)) for _ in range(3)]
    pixels = 127 + 100 * np.stack(waves, -1) + random.normal(0, 5, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert(mode)


def stored(image, kind="JPEG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def rows_of(count, named=True):
    """Image number, file name, encoded bytes and label of each image: sizes differ, numbers have gaps."""
    sizes = [(40, 30), (30, 45), (33, 33), (12, 25), (61, 47)]
    return [
        {
            "path": f"ILSVRC2012_val_{3 * index + 1:08d}.JPEG" if named else f"{index:04d}.JPEG",
            "bytes": stored(picture(index, sizes[index % 5])),
            "label": (37 * index) % 1000,
        }
        for index in range(count)
    ]


def write_parquet(folder, rows, files=2, group=3):
    """As the Hugging Face hub stores it."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, chosen in enumerate(np.array_split(np.arange(len(rows)), files)):
        images = pa.array(
            [{"bytes": rows[index]["bytes"], "path": rows[index]["path"]} for index in chosen],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        )
        table = pa.table({"image": images, "label": pa.array([rows[index]["label"] for index in chosen], pa.int64())})
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, folder / f"validation-{number:05d}-of-{files:05d}.parquet", row_group_size=group)


def write_folders(folder, rows, wnids=WNIDS):
    for wnid in wnids:
        (folder / "val" / wnid).mkdir(parents=True)
    for row in rows:
        (folder / "val" / WNIDS[row["label"]] / row["path"]).write_bytes(row["bytes"])


LAYOUTS = {
    "parquet": lambda folder, rows: write_parquet(folder / "data", rows),
    "parquet, folder itself": write_parquet,
    "parquet, one file": lambda folder, rows: write_parquet(folder / "data", rows, files=1, group=1000),
    "folders": write_folders,
}


@pytest.fixture
def rows():
    return rows_of(13)


@pytest.fixture
def copy(tmp_path, rows):
    """Thirteen images as parquet, seen in 16 x 16."""

    def make(change=None, folder="copy", preprocessing=PIXELS):
        changed = [dict(row) for row in rows]
        if change is not None:
            change(changed)
        write_parquet(tmp_path / folder / "data", changed)
        return ImageNet(tmp_path / folder).viewed(preprocessing)

    return make


# Geometry and decoding


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("resize", "crop"), [(64, 56), (50, 50), (71, 48), (20, 3)])
@pytest.mark.parametrize("size", [(97, 64), (64, 97), (50, 50), (41, 300), (500, 375), (23, 31)])
def test_resize_and_crop_are_those_of_torchvision(size, resize, crop, interpolation):
    from torchvision import transforms

    image = picture(1, size)
    mode = transforms.InterpolationMode(interpolation)
    theirs = transforms.Compose([transforms.Resize(resize, mode), transforms.CenterCrop(crop)])(image)
    asked = Preprocessing(255.0, (0.5,), (0.5,), resize=resize, crop=crop, interpolation=interpolation)
    ours = decode(stored(image, "PNG"), "image", asked)
    assert ours.shape == (3, crop, crop) and ours.dtype == np.uint8
    assert np.array_equal(ours.transpose(1, 2, 0), np.asarray(theirs))


def test_without_resize_only_small_images_are_scaled():
    from torchvision import transforms

    asked = Preprocessing(255.0, (0.5,), (0.5,), crop=24)
    large, small = picture(1, (31, 29)), picture(2, (40, 20))
    cut = transforms.CenterCrop(24)
    for image, expected in ((large, cut(large)), (small, cut(transforms.Resize(24)(small)))):
        assert np.array_equal(decode(stored(image, "PNG"), "image", asked).transpose(1, 2, 0), np.asarray(expected))
    exact = picture(3, (24, 24))
    assert np.array_equal(decode(stored(exact, "PNG"), "image", asked).transpose(1, 2, 0), np.asarray(exact))


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "JPEG"), ("YCbCr", "JPEG"), ("RGBA", "PNG"), ("LA", "PNG"), ("1", "PNG")],
)
def test_every_mode_becomes_rgb(mode, kind):
    content = stored(picture(4, (16, 16), mode), kind)
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(image.convert("RGB"))
    found = decode(content, "image", PIXELS_16).transpose(1, 2, 0)
    assert np.array_equal(found, expected)
    if mode in ("L", "LA", "1"):
        assert (found == found[..., :1]).all()
    if mode == "CMYK":
        # Also right in colour, not only the same as Pillow's.
        assert np.abs(found.astype(int) - np.asarray(picture(4, (16, 16))).astype(int)).mean() < 12


def test_a_palette_with_transparency_keeps_its_colours():
    palette = picture(5, (16, 16)).quantize(32)
    expected = np.asarray(palette.convert("RGB"))
    content = stored(palette, "PNG", transparency=bytes(range(0, 256, 8)))
    assert np.array_equal(decode(content, "image", PIXELS_16).transpose(1, 2, 0), expected)


def test_sixteen_bits_a_channel_are_refused():
    """Pillow would clip them to white."""
    deep = Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 200)
    with pytest.raises(DataError, match=r"this one is corrupt: mode I;16 is not 8 bits"):
        decode(stored(deep, "PNG"), "this one", PIXELS_16)


def test_cards_without_geometry_stay_as_they_were():
    old = {"divisor": 255.0, "mean": [0.5], "std": [0.25]}
    assert Preprocessing.from_dict(old) == Preprocessing(255.0, (0.5,), (0.25,))
    assert Preprocessing.from_dict(old).to_dict() == old


@pytest.mark.parametrize(
    "preprocessing",
    [ImageNet.preprocessing, CAFFE, Preprocessing(2.0, (0.0,), (1.0,), resize=236, crop=224, interpolation="bicubic")],
)
def test_geometry_goes_through_json(preprocessing):
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing


@pytest.mark.parametrize(
    ("geometry", "said"),
    [
        ({"resize": 200, "crop": 224}, "a crop of 224 pixels does not fit into a short side of 200"),
        ({"crop": 0}, "crop must be at least 1 pixel"),
        ({"resize": 256.5}, "resize must be a whole number of pixels, not 256.5"),
        ({"crop": "224"}, "crop must be a whole number"),
        ({"interpolation": "nearest"}, "bilinear or bicubic, not 'nearest'"),
    ],
)
def test_an_impossible_geometry_in_a_card_is_refused(geometry, said, make_checkpoint, tmp_path):
    from benchmark.card import read_card

    path = make_checkpoint(tmp_path / "a.safetensors")
    card = read_card(path)
    assert isinstance(card, Card)
    fields = card.model_dump() | {"preprocessing": {"divisor": 1.0, "mean": [0.0], "std": [1.0], **geometry}}
    with pytest.raises(ValueError, match=said):
        Card.model_validate(fields)
    content = json.dumps(fields).encode()
    header = json.dumps({"__metadata__": {"card": content.decode()}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="its card is invalid"):
        read_card(path)


def test_a_dataset_of_one_size_takes_no_geometry():
    digits = Digits()
    assert digits.viewed(Preprocessing(16.0, (0.3,), (0.4,))) is digits
    with pytest.raises(UsageError, match=r"digits gives its images as they are; .* resize 256, crop 224"):
        digits.viewed(ImageNet.preprocessing)


def test_imagenet_needs_a_crop(copy):
    with pytest.raises(UsageError, match="names no crop"):
        copy(preprocessing=Preprocessing(255.0, (0.5,) * 3, (0.5,) * 3, resize=256))


def test_a_view_leaves_the_dataset_as_it_was(copy):
    own = copy(preprocessing=ImageNet.preprocessing)
    other = own.viewed(PIXELS)
    assert own.split("test").pixels.shape[1:] == (3, 224, 224)
    assert other.split("test").pixels.shape[1:] == (3, 16, 16)
    assert (own.preprocessing, other.preprocessing) == (ImageNet.preprocessing, PIXELS)


# Layouts


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_images(tmp_path, rows, layout):
    LAYOUTS[layout](tmp_path / "copy", rows)
    write_parquet(tmp_path / "other", rows)
    source, other = ImageNet(tmp_path / "copy").viewed(PIXELS), ImageNet(tmp_path / "other").viewed(PIXELS)
    for name, chosen in (("calibration", rows[::2]), ("test", rows[1::2])):
        found = source.split(name)
        assert found.labels.tolist() == [row["label"] for row in chosen] and found.num_classes == 1000
        assert found.pixels.shape == (len(chosen), 3, 16, 16) and found.pixels.dtype == np.uint8
        expected = np.stack([decode(row["bytes"], "", PIXELS) for row in chosen])
        assert np.array_equal(found.pixels[:], expected)
        assert found.fingerprint == other.split(name).fingerprint


def test_labels_follow_the_sorted_wnids_of_all_thousand(tmp_path, rows):
    write_folders(tmp_path, rows, WNIDS[:999])
    with pytest.raises(DataError, match=r"val has 999 of the 1,000 class folders.*cannot be known"):
        ImageNet(tmp_path)
    (tmp_path / "val" / "n99999999").mkdir()
    assert len(ImageNet(tmp_path).split("test")) == 6


def test_empty_class_folders_are_named(tmp_path):
    write_folders(tmp_path, [])
    with pytest.raises(DataError, match="val: its class folders hold no images"):
        ImageNet(tmp_path)


def test_what_is_not_there(tmp_path, monkeypatch):
    """Pictures loose in val/, or other people's folders, are no ImageFolder of ImageNet."""
    (tmp_path / "val" / "cats").mkdir(parents=True)
    with pytest.raises(DatasetMissing) as missing:
        ImageNet(tmp_path)
    said = str(missing.value)
    for name in ("data/validation-*.parquet", "validation-*.parquet", "val/<wnid>/*.JPEG", "val/ILSVRC2012_val_*.JPEG"):
        assert f"{tmp_path}/{name}" in said
    assert "python -m benchmark prepare imagenet --data-dir" in said
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(DatasetMissing, match=r"data/imagenet/val.*the Hugging Face cache of ILSVRC/imagenet-1k"):
        ImageNet()


def test_without_data_dir_it_looks_in_data(tmp_path, rows, monkeypatch):
    write_parquet(tmp_path / "data" / "imagenet" / "data", rows)
    monkeypatch.chdir(tmp_path)
    assert len(ImageNet().split("calibration")) == 7


def test_prepare_says_which_files_to_put_where(call, tmp_path):
    answer = call("prepare", "imagenet", "--data-dir", tmp_path / "there")
    assert (answer.code, answer.out) == (2, "")
    for part in ("needs an account", f"Put into {tmp_path / 'there'}", "ILSVRC/imagenet-1k", "val/<wnid>/*.JPEG"):
        assert part in answer.err


def test_splits(copy):
    source = copy()
    assert source.splits == ("calibration", "test")
    with pytest.raises(UsageError, match="this copy of imagenet has no training images"):
        source.split("train")
    with pytest.raises(UsageError, match="unknown split 'val'; there are calibration, test"):
        source.split("val")


# The split


def test_the_committed_split_follows_its_recipe():
    indices = imagenet.calibration_indices()
    texts = {n: f"dynconf-bench imagenet calibration {n}" for n in range(50_000)}
    order = sorted(texts, key=lambda n: hashlib.sha256(texts[n].encode()).digest())
    assert indices.dtype == np.int64 and indices.tolist() == sorted(order[:10_000])


@pytest.fixture
def small_set(monkeypatch):
    """A validation set of 13 images, numbers 1 to 13, of which 3, 5 and 11 calibrate."""
    monkeypatch.setattr(imagenet, "COUNT", 13)
    monkeypatch.setattr(imagenet, "calibration_indices", lambda: np.array([2, 4, 10]))

    def renumber(rows):
        for number, row in enumerate(rows, 1):
            row["path"] = f"ILSVRC2012_val_{number:08d}.JPEG"

    return renumber


def held_out(source):
    return source.split("calibration").labels.tolist()


def labels_of(rows, *indices):
    return [rows[index]["label"] for index in indices]


def test_a_full_copy_is_split_by_number_and_has_no_flags(copy, rows, small_set):
    source = copy(small_set)
    assert held_out(source) == labels_of(rows, 2, 4, 10)
    assert source.split("test").labels.tolist() == labels_of(rows, 0, 1, 3, 5, 6, 7, 8, 9, 11, 12)
    assert source.flags(source.split("test")) == ()


def test_numbers_count_not_places_nor_wnids_in_the_name(copy, rows, small_set):
    def shuffled(changed):
        small_set(changed)
        for row in changed:
            row["path"] = row["path"].replace(".JPEG", "_n01440764.JPEG")
        changed.reverse()

    assert held_out(copy(shuffled)) == labels_of(rows, 10, 4, 2)


def test_a_partial_copy_with_enough_calibration_images(copy, rows, small_set, monkeypatch):
    monkeypatch.setattr(imagenet, "ENOUGH", 2)

    def without_the_third(changed):
        small_set(changed)
        del changed[2]

    source = copy(without_the_third)
    assert held_out(source) == labels_of(rows, 4, 10)
    assert source.flags(source.split("test")) == (
        "12 of the 13 validation images: a smoke test, comparable with no paper",
    )


def test_a_partial_copy_with_few_calibration_images(copy, rows):
    source = copy()
    assert held_out(source) == labels_of(rows, 0, 2, 4, 6, 8, 10, 12)
    assert source.viewed(CAFFE).flags(source.split("test")) == (
        "13 of the 50,000 validation images: a smoke test, comparable with no paper",
        "unofficial split: every second image is calibration",
    )


@pytest.mark.parametrize("name", ["cat.JPEG", None, "ILSVRC2012_val_00000014.JPEG", "ILSVRC2012_val_00000000.JPEG"])
def test_an_image_without_a_number_is_flagged(copy, rows, small_set, name):
    def unnamed(changed):
        small_set(changed)
        changed[0]["path"] = name
        changed[2]["path"], changed[3]["path"] = changed[3]["path"], changed[2]["path"]

    source = copy(unnamed)
    assert held_out(source) == labels_of(rows, 2, 4, 10)
    assert source.flags(source.split("test")) == (
        "unofficial split: all images are known by their place, because of file names without official number: 1",
    )


def test_an_image_that_is_there_twice_is_refused(tmp_path, rows):
    """Also the files of two uploads in one folder."""
    write_parquet(tmp_path, rows, files=1)
    write_parquet(tmp_path, rows[3:4], files=2)
    with pytest.raises(DataError, match=r"image 1[34] \(ILSVRC2012_val_00000010.JPEG\) is there twice"):
        ImageNet(tmp_path)


def test_more_images_than_there_are_is_refused(copy, small_set, monkeypatch):
    monkeypatch.setattr(imagenet, "COUNT", 12)
    with pytest.raises(DataError, match="13 images, ImageNet has 12"):
        copy(small_set)


def test_a_lone_image_leaves_nothing_to_test(tmp_path, rows):
    write_parquet(tmp_path, rows[:1], files=1)
    with pytest.raises(DataError, match="imagenet test: no images"):
        ImageNet(tmp_path).split("test")


# Bad files


@pytest.mark.parametrize(
    ("how", "workers"), [("truncated", 0), ("text", 0), ("empty", 0), ("none", 0), ("truncated", 2)]
)
def test_a_corrupt_image(copy, tmp_path, how, workers):
    def damage(rows):
        content = rows[9]["bytes"]
        rows[9]["bytes"] = {"truncated": content[: len(content) // 2], "text": b"hello", "empty": b"", "none": None}[
            how
        ]

    images = copy(damage).split("test")
    loader = Loader(images, PIXELS, 3, torch.device("cpu"), workers=workers)
    with pytest.raises(DataError) as error:
        list(loader())
    said = str(error.value)
    assert f"{tmp_path / 'copy' / 'data'}: image 9 (ILSVRC2012_val_00000028.JPEG) is corrupt: " in said
    assert "Traceback" not in said and "BytesIO" not in said


def test_a_corrupt_file_in_a_folder(tmp_path, rows):
    rows[1]["bytes"] = rows[1]["bytes"][:300]
    write_folders(tmp_path, rows)
    images = ImageNet(tmp_path).viewed(PIXELS).split("test")
    path = tmp_path / "val" / WNIDS[37] / rows[1]["path"]
    with pytest.raises(DataError, match=f"{path} is corrupt"):
        images.pixels[:2]
    path.unlink()
    with pytest.raises(DataError, match=f"{path} cannot be read: No such file"):
        images.pixels[:2]


@pytest.mark.parametrize("label", [1000, -1])
def test_a_label_out_of_range(copy, label):
    said = rf"image 4 \(ILSVRC2012_val_00000013.JPEG\) has label {label}, outside 0..999"
    with pytest.raises(DataError, match=said):
        copy(lambda rows: rows[4].update(label=label))


def test_a_label_that_is_missing(copy):
    with pytest.raises(DataError, match=r"00001-of-00002\.parquet: 1 of its 6 images have no label"):
        copy(lambda rows: rows[8].update(label=None))


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"img": pa.array([b""]), "label": pa.array([1])}, r"columns \['image'\] missing; found \['img', 'label'\]"),
        ({"image": pa.array([b""]), "label": pa.array([1])}, "'image' must hold bytes and path, found binary"),
        ({"image": pa.array([{"bytes": b""}]), "label": pa.array([1])}, "must hold bytes and path"),
        ({"image": pa.array([{"bytes": b"", "path": ""}]), "label": pa.array(["cat"])}, "'label' must hold integers"),
    ],
)
def test_a_foreign_parquet_file(tmp_path, columns, said):
    pq.write_table(pa.table(columns), tmp_path / "validation-0.parquet")
    with pytest.raises(DataError, match=f"validation-0.parquet: .*{said}"):
        ImageNet(tmp_path)


def test_a_truncated_parquet_file(copy, tmp_path):
    copy()
    path = tmp_path / "copy" / "data" / "validation-00001-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=f"{path} cannot be read"):
        ImageNet(tmp_path / "copy")


def test_a_parquet_file_that_is_damaged_or_gone_later(copy, tmp_path):
    images = copy().split("test")
    path = tmp_path / "copy" / "data" / "validation-00001-of-00002.parquet"
    path.unlink()
    assert images.pixels[:2].shape[0] == 2
    with pytest.raises(DataError, match=f"{path} cannot be read"):
        images.pixels[:]


# Lazy pixels


def test_slices_are_arrays(copy):
    images = copy().split("test")
    everything = images.pixels[:]
    assert isinstance(everything, np.ndarray) and everything.shape == images.pixels.shape == (6, 3, 16, 16)
    assert len(images) == len(images.pixels) == 6
    for chosen in (slice(2, 5), slice(4, 100), slice(3, 3), slice(None, None, 2), slice(-2, None)):
        assert np.array_equal(images.pixels[chosen], everything[chosen])
    for wrong in (0, [0, 1], np.array([1])):
        with pytest.raises(TypeError, match="lazy pixels give slices"):
            images.pixels[wrong]


def test_the_first_images_are_lazy_too(copy, monkeypatch):
    images = copy().split("test")
    expected = images.pixels[:2]
    monkeypatch.setattr(encoded, "decode", lambda *arguments: 1 / 0)
    few = images.first(2)
    assert few.pixels.shape == (2, 3, 16, 16) and few.labels.tolist() == images.labels[:2].tolist()
    assert few.fingerprint not in (images.fingerprint, images.first(3).fingerprint)
    assert images.first(None) is images
    with pytest.raises(DataError, match="imagenet test: 7 images asked for, 6 there"):
        images.first(7)
    monkeypatch.undo()
    assert np.array_equal(few.pixels[:], expected)


def test_fingerprints_name_bytes_labels_order_and_geometry(copy):
    """Nothing is decoded for them, so a changed byte counts even if the pixels stay the same."""

    def fingerprint(change=None, preprocessing=PIXELS, split="test"):
        return copy(change, preprocessing=preprocessing).split(split).fingerprint

    def append(index):
        return lambda rows: rows[index].update(bytes=rows[index]["bytes"] + b"\0")

    def swap(rows):
        rows[1], rows[3] = rows[3], rows[1]

    def geometry(**changes):
        return Preprocessing(1.0, (0.0,) * 3, (1.0,) * 3, **{"resize": 20, "crop": 16, **changes})

    own = fingerprint()
    assert own == fingerprint() and len(own) == 12
    assert fingerprint(append(0)) == own, "image 0 calibrates"
    assert fingerprint(preprocessing=Preprocessing(255.0, (0.5,) * 3, (0.5,) * 3, resize=20, crop=16)) == own
    others = [
        fingerprint(split="calibration"),
        fingerprint(append(1)),
        fingerprint(lambda rows: rows[1].update(label=5)),
        fingerprint(swap),
        fingerprint(preprocessing=geometry(resize=21)),
        fingerprint(preprocessing=geometry(resize=None)),
        fingerprint(preprocessing=geometry(crop=15)),
        fingerprint(preprocessing=geometry(interpolation="bicubic")),
    ]
    assert len({own, *others}) == 9


def test_fingerprints_stay_what_they_were(copy, rows):
    images = copy().split("test")
    content = hashlib.sha256(b"(6, 3, 16, 16)resize 20, crop 16, bilinear")
    content.update(b"".join(hashlib.sha256(row["bytes"]).digest() for row in rows[1::2]))
    content.update(np.array([row["label"] for row in rows[1::2]], dtype=np.int64).tobytes())
    assert images.fingerprint == content.hexdigest()[:12]


def test_fingerprints_in_memory_are_unchanged():
    pixels, labels = np.arange(48, dtype=np.uint8).reshape(4, 1, 3, 4), np.array([0, 1, 1, 0])
    expected = hashlib.sha256(b"(4, 1, 3, 4)" + pixels.tobytes() + labels.astype(np.int64).tobytes()).hexdigest()[:12]
    assert Images("few", pixels, labels, 2).fingerprint == expected
    assert Digits().split("test").fingerprint == "5b23b211881c"


def test_files_are_read_group_by_group_and_for_both_fingerprints_once(copy, monkeypatch):
    source = copy()
    opened = []
    real = pq.ParquetFile.read_row_group

    def counted(self, number, **options):
        opened.append(number)
        return real(self, number, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    seen = [source.split("calibration"), source.split("test"), source.viewed(CAFFE).split("test")]
    assert len({images.fingerprint for images in seen}) == 3
    assert opened == [0, 1, 2, 0, 1], "groups of 3 in files of 7 and 6 images"
    opened.clear()
    pixels = source.split("test").pixels
    assert pixels[:1].shape[0] == pixels[1:2].shape[0] == 1
    assert opened == [0, 1]


def test_copies_for_workers_carry_no_pixels_and_no_digests(copy):
    images = copy().split("test")
    before = len(pickle.dumps(images.pixels))
    expected = images.pixels[:]
    assert images.fingerprint
    assert len(pickle.dumps(images.pixels)) == before
    assert np.array_equal(pickle.loads(pickle.dumps(images.pixels))[:], expected)


@pytest.mark.parametrize("layout", ["parquet", "folders"])
def test_batches_do_not_depend_on_their_size_or_the_workers(tmp_path, rows, layout):
    LAYOUTS[layout](tmp_path, rows)
    images = ImageNet(tmp_path).viewed(PIXELS).split("calibration")
    expected = torch.from_numpy(images.pixels[:]).float()
    for batch_size, workers, first in ((1, 0, 0), (3, 0, 0), (64, 0, 2), (2, 2, 1)):
        batches = list(Loader(images, PIXELS, batch_size, torch.device("cpu"), workers=workers)(first))
        assert torch.equal(torch.cat([pixels for pixels, _ in batches]), expected[first:])
        assert torch.cat([labels for _, labels in batches]).tolist() == images.labels[first:].tolist()


# The real images


@pytest.fixture(scope="session")
def real(shared):
    return ImageNet(shared("imagenet"))


def test_the_real_copy(real):
    assert real.flags(real.split("test")) == (
        "250 of the 50,000 validation images: a smoke test, comparable with no paper",
        "unofficial split: every second image is calibration",
    )
    assert [len(real.split(name)) for name in real.splits] == [125, 125]
    assert [real.split(name).fingerprint for name in real.splits] == ["932f59a24a84", "d693abf42eb8"]
    assert np.unique(np.concatenate([real.split(name).labels for name in real.splits])).size == 218


@pytest.mark.slow
def test_a_published_network_is_as_accurate_as_it_should_be(real, shared):
    """Wrong channels, labels, means or geometry would show."""
    from torchvision.models import squeezenet1_0

    network = squeezenet1_0()
    network.load_state_dict(read_weights(shared("weights/squeezenet1_0-imagenet.safetensors")))
    network.eval()
    right = 0
    source = real.viewed(CAFFE)
    for name in source.splits:
        for images, labels in Loader(source.split(name), CAFFE, 25, torch.device("cpu"))():
            with torch.no_grad():
                right += int((network(images).argmax(1) == labels).sum())
    assert right == pytest.approx(178, abs=1)  # another libjpeg may round a pixel otherwise
