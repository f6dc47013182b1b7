"""ImageNet's training images from folders and parquet files, and its validation images as their archive holds them."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from test_imagenet_data import PIXELS, picture, rows_of, stored, write_folders, write_parquet
from test_imagenet_data import WNIDS as ALL_WNIDS

from benchmark.data import devkit, imagenet
from benchmark.data.decoding import decode
from benchmark.data.encoded import EncodedPixels
from benchmark.data.file_images import FileImages
from benchmark.data.imagenet import ImageNet
from benchmark.errors import DataError, DatasetMissing, UsageError
from benchmark.loading import Loader

FEW = 12
WNIDS = ALL_WNIDS[:FEW]
SIZES = [(40, 30), (30, 45), (33, 33), (12, 25), (61, 47)]


# Small copies


@pytest.fixture(autouse=True)
def few_classes(monkeypatch):
    """Twelve instead of a thousand: every copy here would have two thousand folders."""
    monkeypatch.setattr(imagenet, "CLASSES", FEW)


def val_rows(count):
    return [{**row, "label": row["label"] % FEW} for row in rows_of(count)]


def train_rows(count=11):
    """As in ILSVRC2012_img_train.tar: `<wnid>_<number>.JPEG`, sizes differ."""
    labels = [(5 * index) % FEW for index in range(count)]
    return [
        {
            "path": f"{WNIDS[label]}_{7 * index}.JPEG",
            "bytes": stored(picture(100 + index, SIZES[index % 5])),
            "label": label,
        }
        for index, label in enumerate(labels)
    ]


def write_train_folders(folder, rows, wnids=WNIDS):
    for wnid in wnids:
        (folder / "train" / wnid).mkdir(parents=True)
    for row in rows:
        (folder / "train" / WNIDS[row["label"]] / row["path"]).write_bytes(row["bytes"])


def write_train_parquet(folder, rows, files=2, group=2):
    folder.mkdir(parents=True, exist_ok=True)
    for number, chosen in enumerate(np.array_split(np.arange(len(rows)), files)):
        some = [rows[index] for index in chosen]
        images = pa.array(
            [row["bytes"] and {"bytes": row["bytes"], "path": row["path"]} for row in some],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        )
        table = pa.table({"image": images, "label": pa.array([row["label"] for row in some], pa.int64())})
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": WNIDS}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, folder / f"train-{number:05d}-of-{files:05d}.parquet", row_group_size=group)


@pytest.fixture
def arrow_cache(tmp_path, monkeypatch):
    """Where the Arrow copy goes; and no network."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "arrow")
    for name in ("socket.getaddrinfo", "socket.create_connection"):
        monkeypatch.setattr(name, lambda *where, **_: pytest.fail(f"went online: {where}"))
    return tmp_path / "arrow"


@pytest.fixture
def rows():
    return train_rows()


@pytest.fixture(params=["folders", "parquet"])
def source(request, tmp_path, rows, arrow_cache):
    """A copy with 11 training and 13 validation images, in both layouts."""
    folder = tmp_path / "a [copy] of *"  # no pattern
    if request.param == "folders":
        write_train_folders(folder, rows)
        write_folders(folder, val_rows(13), WNIDS)
    else:
        write_train_parquet(folder / "data", rows)
        write_parquet(folder / "data", val_rows(13))
    return ImageNet(folder).viewed(PIXELS)


def by_digest(rows):
    return sorted(rows, key=lambda row: hashlib.sha256(row["path"].encode()).digest())


# The training images


def test_the_train_split_holds_all_training_images(source, rows):
    assert source.splits == ("train", "calibration", "test") and not source.calibration_from_train
    train = source.split("train")
    ordered = by_digest(rows)
    assert train.name == "imagenet train" and train.pixels.shape == (11, 3, 16, 16)
    assert train.labels.tolist() == [row["label"] for row in ordered]
    assert np.array_equal(train.pixels[:], np.stack([decode(row["bytes"], "", PIXELS) for row in ordered]))
    assert source.flags(train) == ("11 of the 1,281,167 training images",)


def test_pictures_come_in_their_own_size_and_in_any_order(source, rows):
    pixels = source.split("train").pixels
    ordered = by_digest(rows)
    for index in (7, 0, 10, 3, 3, -1):
        with Image.open(io.BytesIO(ordered[index]["bytes"])) as expected:
            found = pixels.picture(index)
            assert (found.mode, found.size) == ("RGB", expected.size)
            assert np.array_equal(np.asarray(found), np.asarray(expected))
    with pytest.raises(IndexError):
        pixels.picture(11)


def test_training_images_change_nothing_in_the_other_splits(source, tmp_path):
    write_parquet(tmp_path / "only", val_rows(13))
    alone = ImageNet(tmp_path / "only").viewed(PIXELS)
    assert alone.splits == ("calibration", "test")
    for name in alone.splits:
        assert alone.split(name).fingerprint == source.split(name).fingerprint
        assert alone.flags(alone.split(name)) == source.flags(source.split(name))
    with pytest.raises(UsageError, match=r"no training images.*\n.*data/train-\*.parquet or train/<wnid>"):
        alone.split("train")


def test_workers_get_the_same_images(source):
    train = source.split("train")
    expected = torch.from_numpy(train.pixels[:]).float()
    batches = list(Loader(train, PIXELS, 4, torch.device("cpu"), workers=1)())
    assert torch.equal(torch.cat([pixels for pixels, _ in batches]), expected)
    copied = pickle.loads(pickle.dumps(train.pixels))
    assert np.array_equal(np.asarray(copied.picture(5)), np.asarray(train.pixels.picture(5)))


def test_folders_come_before_parquet_files(tmp_path, rows):
    """They need no copy."""
    write_train_parquet(tmp_path / "data", rows[:4])
    write_train_folders(tmp_path, rows)
    write_parquet(tmp_path / "data", val_rows(3))
    assert len(ImageNet(tmp_path).split("train")) == 11


def test_a_damaged_training_image_is_named(source, rows, tmp_path):
    rows[4]["bytes"] = rows[4]["bytes"][: len(rows[4]["bytes"]) // 2]
    for path in (tmp_path / "a [copy] of *").rglob(rows[4]["path"]):
        path.write_bytes(rows[4]["bytes"])
    if (tmp_path / "a [copy] of *" / "data").exists():
        write_train_parquet(tmp_path / "a [copy] of *" / "data", rows)
    train = source.split("train")
    place = by_digest(rows).index(rows[4])
    for use in (lambda: train.pixels.picture(place), lambda: train.pixels[:], train.check):
        with pytest.raises(DataError, match=rf"{rows[4]['path']}\)? is corrupt: (?i:.*truncated)"):
            use()


# The fingerprint of the training images


@pytest.mark.parametrize("layout", ["folders", "parquet"])
def test_the_fingerprint_reads_no_image(tmp_path, rows, arrow_cache, layout, monkeypatch):
    def fingerprint(change=lambda rows: None):
        changed = [dict(row) for row in rows]
        change(changed)
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        if layout == "folders":
            write_train_folders(folder, changed)
        else:
            write_train_parquet(folder / "data", changed)
        write_parquet(folder / "data", val_rows(3))
        train = ImageNet(folder).viewed(PIXELS).split("train")
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"read {path}"))
            patch.setattr(Path, "open", lambda path, *_, **__: pytest.fail(f"opened {path}"))
            assert train.first(2).fingerprint != train.fingerprint
            return train.fingerprint

    own = fingerprint()
    assert own == fingerprint() and len(own) == 12
    others = {
        fingerprint(lambda rows: rows[2].update(bytes=rows[2]["bytes"] + b"\0" * 100)),
        fingerprint(lambda rows: rows[2].update(path=rows[2]["path"].replace("_", "_9"))),
        fingerprint(lambda rows: rows[2].update(label=rows[2]["label"] + 1)),
        fingerprint(lambda rows: rows.pop()),
    }
    assert len({own, *others}) == 5
    assert not arrow_cache.exists()


def test_the_fingerprint_of_folders_stays_what_it_is(tmp_path, rows):
    write_train_folders(tmp_path, rows)
    write_folders(tmp_path, val_rows(3), WNIDS)
    ordered = by_digest(rows)
    outline = "".join(f"{row['path']}\0{len(row['bytes'])}\n" for row in ordered)
    content = hashlib.sha256(b"(11, 3, 16, 16)resize 20, crop 16, bilinear, names and sizes")
    content.update(hashlib.sha256(outline.encode()).digest())
    content.update(np.array([row["label"] for row in ordered], dtype=np.int64).tobytes())
    assert ImageNet(tmp_path).viewed(PIXELS).split("train").fingerprint == content.hexdigest()[:12]


# A million of them


def test_many_images_pickle_at_once_and_small():
    """Of 1.28 million, each worker process gets 40 MB, and no Python object for each."""
    count = 100_000
    labels = (np.arange(count) % 1000).astype(np.uint16)
    names = [f"{ALL_WNIDS[label]}_{index}.JPEG" for index, label in enumerate(labels.tolist())]
    source = FileImages(Path("/somewhere/train"), ALL_WNIDS, labels, names, labels)
    pixels = EncodedPixels(source, np.arange(count, dtype=np.int32), ImageNet.preprocessing, by_size=True)
    content = pickle.dumps(pixels)
    assert len(content) < 36 * count
    again = pickle.loads(content)._source
    for row in (0, 1, 4711, count - 1):
        assert again.name(row) == source.name(row) == f"/somewhere/train/{ALL_WNIDS[labels[row]]}/{names[row]}"


# The Arrow copy


def test_the_arrow_copy_is_made_once_and_follows_the_files(tmp_path, rows, arrow_cache):
    write_train_parquet(tmp_path / "data", rows)
    write_parquet(tmp_path / "data", val_rows(3))
    train = ImageNet(tmp_path).split("train")
    assert not arrow_cache.exists()
    pickle.dumps(train.pixels)  # as for workers, which would otherwise all begin to copy
    copies = list(arrow_cache.rglob("*.arrow"))
    assert copies and len(pickle.dumps(train.pixels)) < 20_000
    written = copies[0].stat().st_mtime_ns
    ImageNet(tmp_path).split("train").pixels.picture(1)
    assert list(arrow_cache.rglob("*.arrow")) == copies and copies[0].stat().st_mtime_ns == written
    rows[0]["bytes"] = stored(picture(999, (21, 22)))
    write_train_parquet(tmp_path / "data", rows)
    place = by_digest(rows).index(rows[0])
    assert ImageNet(tmp_path).split("train").pixels.picture(place).size == (21, 22)


def test_an_image_that_is_null(tmp_path, rows, arrow_cache):
    rows[1]["bytes"] = None
    write_train_parquet(tmp_path / "data", rows)
    write_parquet(tmp_path / "data", val_rows(3))
    train = ImageNet(tmp_path).split("train")
    for use in (train.check, lambda: train.pixels[:]):
        with pytest.raises(DataError, match="image 1 is corrupt: its 0 bytes are not an image"):
            use()


def test_missing_and_doubled_training_files(tmp_path, rows, arrow_cache):
    write_train_parquet(tmp_path / "data", rows, files=3)
    write_parquet(tmp_path / "data", val_rows(3))
    (tmp_path / "data" / "train-00001-of-00003.parquet").unlink()
    source = ImageNet(tmp_path)
    with pytest.raises(DataError, match="data has 2 training files; their names say 3"):
        source.split("train")
    assert len(source.split("test")) == 1, "which is none of its business"
    write_train_parquet(tmp_path / "data", rows, files=2)
    with pytest.raises(DataError, match="data has 4 training files; their names say 2 or 3"):
        ImageNet(tmp_path).split("train")


def test_a_training_file_that_is_damaged_later(tmp_path, rows, arrow_cache, monkeypatch):
    monkeypatch.setattr("logging.raiseExceptions", False)
    write_train_parquet(tmp_path / "data", rows)
    write_parquet(tmp_path / "data", val_rows(3))
    train = ImageNet(tmp_path).split("train")
    path = tmp_path / "data" / "train-00001-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"cannot be copied to Arrow files in .*arrow: .*\n.*HF_DATASETS_CACHE"):
        train.pixels.picture(0)


@pytest.mark.parametrize("label", [FEW, -1])
def test_a_training_label_out_of_range(tmp_path, rows, label):
    rows[3]["label"] = label
    write_train_parquet(tmp_path / "data", rows)
    write_parquet(tmp_path / "data", val_rows(3))
    with pytest.raises(DataError, match=rf"image 3 \({rows[3]['path']}\) has label {label}, outside 0..11"):
        ImageNet(tmp_path).split("train")


def test_the_hugging_face_cache_is_read_without_network(tmp_path, rows, arrow_cache, monkeypatch):
    repository = tmp_path / "hub" / "datasets--ILSVRC--imagenet-1k"
    folder = repository / "snapshots" / ("a" * 40) / "data"
    write_train_parquet(folder, rows)
    write_parquet(folder, val_rows(13))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    source = ImageNet()
    assert [len(source.split(name)) for name in source.splits] == [11, 7, 6]
    assert source.split("train").pixels.picture(0).size == Image.open(io.BytesIO(by_digest(rows)[0]["bytes"])).size
    with pytest.raises(DatasetMissing):
        ImageNet(tmp_path)
    for path in folder.glob("validation-*"):
        path.unlink()
    with pytest.raises(DatasetMissing, match="the Hugging Face cache of ILSVRC/imagenet-1k"):
        ImageNet()


# The classes


def test_train_and_val_have_the_same_classes(tmp_path, rows):
    write_folders(tmp_path, val_rows(3), WNIDS)
    write_train_folders(tmp_path, [], WNIDS[:-2])
    source = ImageNet(tmp_path)
    with pytest.raises(DataError, match=rf"train has other class .*: missing are {WNIDS[-2]}, {WNIDS[-1]}\.$"):
        source.split("train")
    for number in range(4):
        (tmp_path / "train" / f"n9999999{number}").mkdir()
    with pytest.raises(
        DataError, match=rf"missing are {WNIDS[-2]}, {WNIDS[-1]}; not known there are n99999990, .* and 1 more\.$"
    ):
        ImageNet(tmp_path).split("train")
    assert len(ImageNet(tmp_path).split("calibration")) == 2


def test_all_classes_are_there(tmp_path, rows):
    write_parquet(tmp_path / "data", val_rows(3))
    write_train_folders(tmp_path, [], WNIDS[1:])
    with pytest.raises(DataError, match="train has 11 of the 12 class folders"):
        ImageNet(tmp_path).split("train")
    (tmp_path / "train" / WNIDS[0]).mkdir()
    (tmp_path / "train" / WNIDS[0] / "notes.txt").write_text("no image")
    (tmp_path / "train" / WNIDS[0] / "._n00001000_1.JPEG").write_text("left by a Mac")
    with pytest.raises(DataError, match="train: its class folders hold no images"):
        ImageNet(tmp_path).split("train")


def test_more_training_images_than_there_are(tmp_path, rows, monkeypatch):
    write_train_folders(tmp_path, rows)
    write_parquet(tmp_path / "data", val_rows(3))
    source = ImageNet(tmp_path)
    monkeypatch.setattr(imagenet, "TRAIN_COUNT", 11)
    assert source.flags(source.split("train")) == ()
    monkeypatch.setattr(imagenet, "TRAIN_COUNT", 10)
    with pytest.raises(DataError, match="there are 11 images, ImageNet has 10 for training"):
        source.split("train")


# The validation images in one folder, with the development kit


# ILSVRC counts the classes otherwise: its number of WNIDS[k] is NUMBERS[k].
NUMBERS = (np.random.default_rng(3).permutation(FEW) + 1).tolist()


def synsets(change=None):
    """The struct array of meta.mat: leaves in the order of their numbers, then inner nodes, numbered on."""
    leaves = sorted(zip(NUMBERS, WNIDS, strict=True))
    inner = [(FEW + 1 + index, f"n{90_000_000 + index}") for index in range(5)]
    fields = [
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    ]
    found = []
    for number, wnid in leaves + inner:
        children = [] if number <= FEW else [1, 2, 3]
        found.append((float(number), wnid, "a, b", "a thing", float(len(children)), children, 0.0, 1300.0))
    if change is not None:
        change(found)
    array = np.empty((len(found), 1), dtype=[(field, object) for field in fields])
    array[:, 0] = found
    return array


def write_devkit(folder, labels, change=None, name="ILSVRC2012_devkit_t12"):
    """`labels` of all validation images; the kit is unpacked into `folder`."""
    data = folder / name / "data"
    data.mkdir(parents=True)
    savemat(data / "meta.mat", {"synsets": synsets(change), "unrelated": np.ones(3)})
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{NUMBERS[label]}\n" for label in labels))
    return data


def write_flat(folder, rows):
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        (folder / row["path"]).write_bytes(row["bytes"])


@pytest.fixture
def flat(tmp_path, monkeypatch):
    """A validation set of 40 images, of which 13 are there, in `val`; and a way to look at them."""
    monkeypatch.setattr(imagenet, "COUNT", 40)
    rows = val_rows(13)
    labels = {3 * index: row["label"] for index, row in enumerate(rows)}
    write_flat(tmp_path / "copy" / "val", rows)
    write_devkit(tmp_path / "copy", [labels.get(number, 0) for number in range(40)])
    return tmp_path / "copy"


def truth(folder):
    return folder / "ILSVRC2012_devkit_t12" / "data" / "ILSVRC2012_validation_ground_truth.txt"


def test_a_kit_of_all_thousand_classes(tmp_path, monkeypatch):
    """And the ground truth of all images, both as they are."""
    numbers = (np.random.default_rng(4).permutation(1000) + 1).tolist()
    labels = np.random.default_rng(5).integers(0, 1000, 50_000)
    monkeypatch.setattr(f"{__name__}.NUMBERS", numbers)
    monkeypatch.setattr(f"{__name__}.WNIDS", ALL_WNIDS)
    monkeypatch.setattr(f"{__name__}.FEW", 1000)
    found, wnids = devkit.read_labels(write_devkit(tmp_path, labels.tolist()), 50_000, 1000)
    assert np.array_equal(found, labels) and wnids == ALL_WNIDS


def test_the_flat_folder_gives_the_same_images(flat, tmp_path):
    write_parquet(tmp_path / "other", val_rows(13))
    (flat / "val" / "notes.txt").write_text("no image")
    (flat / "val" / "ILSVRC2012_val_00000001.JPEG.part").write_text("no image either")
    source, other = ImageNet(flat).viewed(PIXELS), ImageNet(tmp_path / "other").viewed(PIXELS)
    assert source.splits == ("calibration", "test")
    for name in source.splits:
        assert source.split(name).fingerprint == other.split(name).fingerprint
        assert np.array_equal(source.split(name).pixels[:], other.split(name).pixels[:])
    assert source.flags(source.split("test"))[0].startswith("13 of the 40 validation images")


@pytest.mark.parametrize("place", ["ILSVRC2012_img_val", "."])
def test_other_names_of_the_flat_folder(flat, place):
    target = flat / place
    target.mkdir(exist_ok=True)
    for path in (flat / "val").iterdir():
        path.rename(target / path.name)
    (flat / "val").rmdir()
    assert sum(len(ImageNet(flat).split(name)) for name in ("calibration", "test")) == 13


def test_a_kit_in_a_folder_of_its_own_name(flat):
    (flat / "ILSVRC2012_devkit_t12").rename(flat / "kit")
    (flat / "ILSVRC2012_devkit_t12").mkdir()
    (flat / "kit").rename(flat / "ILSVRC2012_devkit_t12" / "ILSVRC2012_devkit_t12")
    assert len(ImageNet(flat).split("test")) == 6


def test_flat_validation_images_beside_training_folders(flat, rows):
    """How most people unpack the archives."""
    write_train_folders(flat, rows)
    assert len(ImageNet(flat).split("train")) == 11
    shutil.rmtree(flat / "train" / WNIDS[5])
    with pytest.raises(DataError, match=f"other class folders than the validation set: missing are {WNIDS[5]}"):
        ImageNet(flat).split("train")


def test_labels_are_places_among_the_sorted_wnids(flat):
    """Inner nodes of the tree, here n9..., do not count."""
    labels, wnids = devkit.read_labels(truth(flat).parent, 40, FEW)
    assert wnids == WNIDS and labels[:7].tolist() == [0, 0, 0, 37 % FEW, 0, 0, 74 % FEW] and labels.dtype == np.int64


@pytest.mark.parametrize("missing", ["meta.mat", "ILSVRC2012_validation_ground_truth.txt"])
def test_without_the_kit(flat, missing):
    (truth(flat).parent / missing).unlink()
    with pytest.raises(DataError, match="not the labels of the development kit") as refused:
        ImageNet(flat)
    assert missing in str(refused.value) and str(truth(flat).parent) in str(refused.value)
    assert f"Unpack ILSVRC2012_devkit_t12.tar.gz into {flat}." in str(refused.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines[:-1], "has 39 lines for the 40 validation images"),
        (lambda lines: [*lines, "7"], "has 41 lines for the 40 validation images"),
        (lambda lines: [*lines[:6], "13", *lines[7:]], "line 7: '13' is no class of 1..12"),
        (lambda lines: [*lines[:6], "0", *lines[7:]], "line 7: '0' is no class of 1..12"),
        (lambda lines: [*lines[:6], "cat", *lines[7:]], "line 7: 'cat' is no class of 1..12"),
    ],
)
def test_a_foreign_ground_truth(flat, change, said):
    truth(flat).write_text("\n".join(change(truth(flat).read_text().split())))
    with pytest.raises(DataError, match=f"{truth(flat)}.* ?{said}"):
        ImageNet(flat)


def test_a_ground_truth_that_is_no_text(flat):
    truth(flat).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=f"{truth(flat)} cannot be read"):
        ImageNet(flat)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: found.pop(0), "has 11 classes without children, numbered 2 to 12; ImageNet has 12"),
        (lambda found: found.__setitem__(4, (5.0, found[0][1], *found[4][2:])), "has 11 classes without children"),
        (lambda found: found.__setitem__(4, (5.0, *found[4][1:4], 2.0, *found[4][5:])), "has 11 classes without"),
        (lambda found: found.__setitem__(4, (6.0, *found[4][1:])), "has 11 classes without children"),
        (lambda found: found.__setitem__(4, ("five", *found[4][1:])), "is not the meta.mat of ILSVRC2012: ValueError"),
    ],
    ids=["one short", "a wnid twice", "a leaf with children", "a number twice", "no number"],
)
def test_foreign_synsets(flat, change, said):
    savemat(truth(flat).parent / "meta.mat", {"synsets": synsets(change)})
    with pytest.raises(DataError, match=f"meta.mat {said}"):
        ImageNet(flat)


@pytest.mark.parametrize(
    "content",
    [b"", b"text", pickle.dumps(Path("x")), {"other": np.ones(3)}, {"synsets": np.ones(3)}],
    ids=["empty", "text", "pickle", "no synsets", "numbers"],
)
def test_what_is_no_meta_mat(flat, content):
    path = truth(flat).parent / "meta.mat"
    path.write_bytes(content) if isinstance(content, bytes) else savemat(path, content)
    with pytest.raises(DataError, match=f"{path} is not the meta.mat of ILSVRC2012"):
        ImageNet(flat)


def test_a_flat_image_without_a_known_number(flat):
    path = flat / "val" / "ILSVRC2012_val_00000041.JPEG"
    path.write_bytes(stored(picture(1)))
    with pytest.raises(DataError, match=rf"{path} has no number in 1..40, so its label cannot be known"):
        ImageNet(flat)


def test_a_flat_image_that_is_there_twice(flat):
    path = flat / "val" / "ILSVRC2012_val_00000004.png"
    path.write_bytes(stored(picture(1), "PNG"))
    with pytest.raises(DataError, match=f"{path} is there twice"):
        ImageNet(flat)


def test_the_real_images_in_the_flat_folder(shared, tmp_path, monkeypatch):
    """The fingerprints are those that the parquet file has had from the beginning."""
    table = pq.read_table(shared("imagenet/data/validation-00000-of-00001.parquet"))
    labels = [0] * 50_000
    for image, label in zip(table["image"].to_pylist(), table["label"].to_pylist(), strict=True):
        write_flat(tmp_path, [image])
        labels[int(image["path"][15:23]) - 1] = label
    monkeypatch.setattr(f"{__name__}.NUMBERS", list(range(1000, 0, -1)))
    monkeypatch.setattr(f"{__name__}.WNIDS", ALL_WNIDS)
    monkeypatch.setattr(f"{__name__}.FEW", 1000)
    monkeypatch.setattr(imagenet, "CLASSES", 1000)
    write_devkit(tmp_path, labels)
    source = ImageNet(tmp_path)
    assert {name: source.split(name).fingerprint for name in source.splits} == {
        "calibration": "932f59a24a84",
        "test": "d693abf42eb8",
    }


def test_prepare_takes_every_split(call, tmp_path, rows):
    write_train_folders(tmp_path / "data", rows)
    write_folders(tmp_path / "data", val_rows(13), WNIDS)
    answer = call("prepare", "imagenet", "--data-dir", tmp_path / "data")
    assert answer.code == 0, answer.err
    source = ImageNet(tmp_path / "data")
    for name, count in (("train", 11), ("calibration", 7), ("test", 6)):
        assert f"imagenet {name}: {count} images, fingerprint {source.split(name).fingerprint}" in answer.out
