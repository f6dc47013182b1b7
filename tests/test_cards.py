"""Cards: those of old versions stay readable, those of newer ones are refused by name; what a file is if it has none."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from conftest import environment

from benchmark.card import Card, parse_card, read_card
from benchmark.checkpoints import read_weights
from benchmark.errors import CheckpointError
from benchmark.locating import shipped
from benchmark.tensor_files import read_header

# As version 0.1.0 wrote it.
OLD = (
    '{"model":"small-cnn","method":"qcfs","method_options":{"levels":4,"threshold":8.0},"dataset":"digits",'
    '"num_classes":10,"in_channels":1,"preprocessing":{"divisor":16.0,"mean":[0.305],"std":[0.376]},'
    '"training_fingerprint":"0a1b2c3d4e5f","recipe":{"epochs":30,"batch_size":64,"lr":0.1,"momentum":0.9,'
    '"weight_decay":0.0005,"augment":"none","seed":0},"trained_from":null,"calibration_accuracy":0.974,"flags":["a remark"]}'
)
# The least that a card has ever held.
OLDEST = (
    '{"model":"small-cnn","method":"relu","dataset":"digits","num_classes":10,"in_channels":1,'
    '"preprocessing":{"divisor":16,"mean":[0],"std":[1]},"training_fingerprint":"0a1b"}'
)


def test_a_card_of_an_old_version(tmp_path):
    card = parse_card(OLD, tmp_path)
    assert (card.calibration_accuracy, card.training_fingerprint, card.flags) == (0.974, "0a1b2c3d4e5f", ("a remark",))
    assert (card.training_record, card.calibration_fingerprint, card.calibration_images) == (None, None, None)
    assert card.to_json() == OLD


def test_the_oldest_card(tmp_path):
    card = parse_card(OLDEST, tmp_path)
    assert (card.method_options, card.recipe, card.trained_from, card.calibration_accuracy) == ({}, {}, None, None)


def test_shipped_cards_are_still_written_as_they_are():
    """So the checksum of a file that is written anew stays what records say."""
    for found in shipped():
        assert read_card(found.path).to_json() == read_header(found.path)["__metadata__"]["card"]


def test_a_card_of_this_version(make_checkpoint, tmp_path):
    path = make_checkpoint(
        tmp_path / "net.safetensors",
        training_record="abcdef012345",
        calibration_fingerprint="0f1e2d3c4b5a",
        calibration_images=500,
        calibration_accuracy=1 / 3,
    )
    stored = json.loads(read_header(path)["__metadata__"]["card"])
    assert stored["training_record"] == "abcdef012345" and stored["calibration_accuracy"] == 1 / 3
    card = read_card(path)
    assert (card.training_record, card.calibration_fingerprint, card.calibration_images) == (
        "abcdef012345",
        "0f1e2d3c4b5a",
        500,
    )
    assert Card.model_validate_json(card.to_json()) == card


def changed(**changes):
    return json.dumps({**json.loads(OLD), **changes})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            changed(pruned=True),
            "its card has an unknown key 'pruned'; a newer version of dynconf-bench has written it.",
        ),
        (changed(pruned=True, bits=4), "its card has unknown keys 'bits', 'pruned'; a newer version"),
        (
            changed(preprocessing={"divisor": 1, "mean": [0], "std": [1], "gamma": 2.2}),
            "('preprocessing',): Value error, not a preprocessing: unknown key 'gamma'; a newer version of dynconf-bench",
        ),
    ],
    ids=["one", "two", "preprocessing"],
)
def test_a_card_of_a_newer_version(tmp_path, text, said):
    with pytest.raises(CheckpointError) as refused:
        parse_card(text, tmp_path / "net.safetensors")
    message = str(refused.value)
    assert message.startswith(f"{tmp_path / 'net.safetensors'}: ") and said.replace("'bits', 'pruned'", "") in (
        message.replace("'bits', 'pruned'", "").replace("'pruned', 'bits'", "")
    )
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (changed(num_classes=0), ["('num_classes',)"]),
        (changed(in_channels=-1, calibration_accuracy=97.4), ["('in_channels',)", "('calibration_accuracy',)"]),
        (changed(calibration_images=0), ["('calibration_images',)"]),
        (changed(model=None, bits=4), ["('model',)", "('bits',)"]),
        ("{", ["Invalid JSON"]),
    ],
    ids=["classes", "channels and accuracy", "images", "model and a new key", "no JSON"],
)
def test_an_invalid_card_names_its_keys(tmp_path, text, said):
    with pytest.raises(CheckpointError) as refused:
        parse_card(text, tmp_path / "net.safetensors")
    assert str(refused.value).startswith(f"{tmp_path / 'net.safetensors'}: its card is invalid: ")
    assert all(part in str(refused.value) for part in said)


# Files that are something else


def test_a_cut_file_is_known_by_its_header_alone(make_checkpoint, tmp_path):
    path = make_checkpoint(tmp_path / "net.safetensors")
    whole = path.read_bytes()
    for content, bytes_there in ((whole[:-1], len(whole) - 1), (whole + b"x", len(whole) + 1)):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=f"it has {bytes_there:,} bytes, its header says {len(whole):,}"):
            read_card(path)


def header(content):
    encoded = json.dumps(content).encode() if not isinstance(content, bytes) else content
    return len(encoded).to_bytes(8, "little") + encoded


@pytest.mark.parametrize(
    "content",
    [
        header([]),
        header({"__metadata__": 3}),
        header({"a": 3}),
        header({"a": {}}),
        header({"a": {"data_offsets": []}}),
        header({"a": {"data_offsets": "ab"}}),
        header(b"[" * 100_000),
        header(b"{"),
        b"\xff" * 8,
    ],
    ids=["list", "metadata", "number", "no offsets", "empty offsets", "text", "deep", "no JSON", "length"],
)
def test_a_header_that_is_none(tmp_path, content):
    path = tmp_path / "net.safetensors"
    path.write_bytes(content)
    for read in (read_card, read_weights):
        with pytest.raises(CheckpointError, match="is not a complete safetensors file") as refused:
            read(path)
        assert str(path) in str(refused.value)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 567764\n"


@pytest.mark.parametrize("name", ["net.safetensors", "net.pt"])
@pytest.mark.parametrize(
    ("content", "said"),
    [(LFS, "pointer of Git LFS"), (b"\n<!DOCTYPE html><html>", "web page"), (b"<html>", "web page")],
    ids=["lfs", "doctype", "html"],
)
def test_what_was_fetched_instead_of_the_weights_is_named(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        read_weights(tmp_path / name)


def test_the_wrong_suffix_is_named(make_checkpoint, tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "pickled.safetensors")
    with pytest.raises(CheckpointError, match=r"ends in \.pt"):
        read_weights(tmp_path / "pickled.safetensors")
    make_checkpoint(tmp_path / "net.safetensors").rename(tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match=r"ends in \.safetensors"):
        read_weights(tmp_path / "net.pt")


def test_cards_are_read_without_torch(make_checkpoint, tmp_path):
    path = make_checkpoint(tmp_path / "net.safetensors")
    program = (
        "import sys, pathlib; from benchmark.locating import resolve; from benchmark.card import read_card;"
        "assert read_card(resolve(sys.argv[1]).path).model == 'small-cnn'; sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, path], env=environment(), check=False, timeout=60)
    assert done.returncode == 0
