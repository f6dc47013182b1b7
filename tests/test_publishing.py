"""`publish`: a folder that says what it is, holds the same bytes, and is a checkpoint of the zoo again."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil

import pytest
import torch
from conftest import ROOT
from hub_cache import COMMIT, put
from huggingface_hub import ModelCard

from benchmark import locating
from benchmark.card import Card, read_card
from benchmark.checkpoints import read_weights, write_checkpoint
from benchmark.publishing import network_of
from benchmark.store import sha256_of
from benchmark.training.record import TrainingRecord, load_training_record

FINGERPRINT = "0f1e2d3c4b5a"


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.delenv("DYNCONF_BENCH_ZOO", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no hub"))


@pytest.fixture
def checkpoint(make_checkpoint, tmp_path):
    """A checkpoint in a results folder, with everything that a card may hold."""
    (tmp_path / "r" / "checkpoints").mkdir(parents=True)
    return make_checkpoint(
        tmp_path / "r" / "checkpoints" / "digits-net.safetensors",
        calibration_accuracy=0.974,
        calibration_fingerprint=FINGERPRINT,
        calibration_images=500,
        recipe={"epochs": 3},
    )


@pytest.fixture
def few(tmp_path):
    """Arguments of a run that takes a tenth of a second."""
    return ["--limit", 20, "--calibration-size", 20, "--timesteps", 2, "--results", tmp_path / "results", "--json"]


def training_record(card, checksum, **changes):
    """The JSON of a finished training of that checkpoint."""
    document = {
        "schema": 1,
        "id": "abcdef012345",
        "status": "ok",
        "spec": {
            "method": card.method,
            "method_options": card.method_options,
            "dataset": card.dataset,
            "training_fingerprint": card.training_fingerprint,
            "calibration_fingerprint": FINGERPRINT,
            "model": card.model,
            "preprocessing": card.preprocessing,
            "recipe": {"epochs": 1},
        },
        "images": 797,
        "calibration_images": 500,
        "parameters": 24_000,
        "epochs": [
            {
                "epoch": 1,
                "lr": 0.1,
                "loss": 0.5,
                "train_accuracy": 0.9,
                "calibration_accuracy": 0.974,
                "calibration_loss": 0.4,
                "seconds": 1.5,
                "images_per_second": 531.0,
            }
        ],
        "best_epoch": 1,
        "accuracy": {"value": 0.974, "ci95": [0.95, 0.98], "n": 500},
        "checkpoint": "digits-net.safetensors",
        "checkpoint_sha256": checksum,
        "provenance": {
            "git_sha": "c" * 40,
            "dirty": True,
            "diff_sha256": "d" * 64,
            "versions": {"torch": "2"},
            "device": "a processor (1 threads)",
            "processes": 1,
            "torch_flags": {},
            "execution": {},
            "started": "2030-01-01T00:00:00+00:00",
            "finished": "2030-01-01T00:01:00+00:00",
        },
        **changes,
    }
    return TrainingRecord.model_validate_json(json.dumps(document)).to_json()


def front_matter(folder):
    return ModelCard((folder / "README.md").read_text()).data.to_dict()


def commands(folder):
    """Every command of the model card, as a list of words."""
    blocks = re.findall(r"```\n(.*?)\n```", (folder / "README.md").read_text(), re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def files_of(folder):
    return sorted(path.name for path in folder.iterdir())


# What is written


def test_the_folder_holds_the_same_bytes_and_says_what_they_are(call, checkpoint, tmp_path):
    folder = tmp_path / "out" / "net"
    answer = call("publish", checkpoint, "--output", folder)
    assert answer.code == 0
    assert answer.err == "note: the licence is given as apache-2.0; --license ID says another\n"
    assert files_of(folder) == ["README.md", "card.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == checkpoint.read_bytes()
    card = read_card(folder / "model.safetensors")
    assert Card.model_validate_json((folder / "card.json").read_text()) == card == read_card(checkpoint)
    assert (folder / "card.json").read_text().startswith('{\n  "model": "small-cnn",\n')
    network = network_of(card, read_weights(folder / "model.safetensors"), folder)
    assert not network.training and network(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    said, run, upload = answer.out.splitlines()
    assert said == f"wrote {folder}: README.md, card.json, model.safetensors"
    assert f"--checkpoint {folder}/model.safetensors" in run and "--data-dir" not in run
    assert shlex.split(upload)[2:] == ["hf", "upload", "digits-net", str(folder)]


def test_nothing_is_uploaded(call, checkpoint, tmp_path, monkeypatch):
    for name in ("socket.getaddrinfo", "socket.create_connection", "socket.socket.connect"):
        monkeypatch.setattr(name, lambda *_, **__: pytest.fail("tried to reach a network"))
    assert call("publish", checkpoint, "--output", tmp_path / "net").code == 0


def test_the_old_name_of_the_client_where_that_is_installed(call, checkpoint, tmp_path, monkeypatch):
    from importlib.metadata import EntryPoint

    old = [EntryPoint("huggingface-cli", "huggingface_hub:main", "console_scripts")]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: old)
    answer = call("publish", checkpoint, "--output", tmp_path / "net")
    assert f"huggingface-cli upload digits-net {tmp_path}/net" in answer.out


def test_the_front_matter_is_what_the_hub_reads(call, checkpoint, tmp_path):
    assert call("publish", checkpoint, "--output", tmp_path / "net", "--name", "org/net").code == 0
    assert front_matter(tmp_path / "net") == {
        "license": "apache-2.0",
        "library_name": "dynconf-bench",
        "pipeline_tag": "image-classification",
        "tags": ["spiking-neural-networks", "ann-to-snn-conversion", "image-classification", "qcfs", "small-cnn"],
        "metrics": ["accuracy"],
    }
    text = (tmp_path / "net" / "README.md").read_text()
    assert text.startswith("---\n") and "\n# org/net\n" in text
    assert (
        f"**97.40% on the calibration split** (500 images, fingerprint `{FINGERPRINT}`), of the analog network" in text
    )
    assert "Nothing was measured on test images" in text
    assert sha256_of(checkpoint) in text and "epochs = 3" in text and "divisor = 16.0" in text
    assert "There is no record of the training." in text and "What a reader must know" not in text
    assert str(tmp_path) not in text


def cifar_card(tmp_path, **changes):
    """A ResNet-20 for CIFAR-10."""
    from benchmark.backbones.resnet import resnet20
    from methods.qcfs import QCFS

    fields = {
        "model": "resnet20",
        "method": "qcfs",
        "method_options": {"levels": 4, "threshold": 8.0},
        "dataset": "cifar10",
        "num_classes": 10,
        "in_channels": 3,
        "preprocessing": {"divisor": 255.0, "mean": [0.5] * 3, "std": [0.2] * 3},
        "training_fingerprint": "0123",
        "calibration_accuracy": 0.9,
        "calibration_fingerprint": FINGERPRINT,
        "calibration_images": 5000,
        **changes,
    }
    write_checkpoint(tmp_path / "cifar.safetensors", QCFS().prepare(resnet20()).state_dict(), Card(**fields))
    return tmp_path / "cifar.safetensors"


def test_a_result_on_the_hub_names_its_images(call, tmp_path):
    assert call("publish", cifar_card(tmp_path), "--output", tmp_path / "net", "--name", "org/net").code == 0
    found = front_matter(tmp_path / "net")
    assert found["datasets"] == ["uoft-cs/cifar10"]
    ((entry,),) = [index["results"] for index in found["model-index"]]
    assert found["model-index"][0]["name"] == "net"
    dataset = entry["dataset"]
    assert dataset["type"] == "uoft-cs/cifar10" and dataset["split"] == "train"
    assert dataset["name"] == "cifar10, calibration split: 5000 images of the train part"
    assert dataset["args"] == {"subset": "calibration", "fingerprint": FINGERPRINT}
    (metric,) = entry["metrics"]
    assert (metric["type"], metric["value"]) == ("accuracy", 0.9) and "not on test images" in metric["name"]


@pytest.mark.parametrize(
    "changes",
    [
        {"calibration_fingerprint": None},
        {"calibration_images": None},
        {"calibration_accuracy": None},
        {"flags": ("it had seen the calibration images",)},
        {"dataset": "my-cifar"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_there_is_no_result_where_it_would_say_too_much(call, tmp_path, changes):
    answer = call("publish", cifar_card(tmp_path, **changes), "--output", tmp_path / "net")
    assert answer.code == 0
    found, text = front_matter(tmp_path / "net"), (tmp_path / "net" / "README.md").read_text()
    assert "model-index" not in found
    assert ("metrics" in found) == ("calibration_accuracy" not in changes) == ("90.00%" in text)
    for flag in changes.get("flags", ()):
        assert f"## What a reader must know\n\n* {flag}\n" in text


def test_text_of_a_card_stays_in_its_place(call, make_checkpoint, tmp_path):
    nasty = "a remark\n---\n# Title | cell"
    path = make_checkpoint(tmp_path / "net.safetensors", flags=(nasty,), trained_from=nasty, recipe={"note": nasty})
    assert call("publish", path, "--output", tmp_path / "net", "--license", "mit").code == 0
    text = (tmp_path / "net" / "README.md").read_text()
    assert front_matter(tmp_path / "net")["license"] == "mit"
    assert text.count("\n# ") == 1 and text.count("\n---\n") == 1
    assert "| recipe | note = a remark --- # Title \\| cell |" in text


def test_whose_licence(call, make_checkpoint, tmp_path):
    path = make_checkpoint(tmp_path / "net.safetensors", trained_from="theirs.th")
    answer = call("publish", path, "--output", tmp_path / "unknown")
    assert answer.code == 0 and "given as unknown because the weights were trained from theirs.th" in answer.err
    assert front_matter(tmp_path / "unknown")["license"] == "unknown"
    assert "trained from `theirs.th`, whose licence counts" in (tmp_path / "unknown" / "README.md").read_text()
    answer = call("publish", path, "--output", tmp_path / "said", "--license", "bsd-2-clause")
    assert (answer.code, answer.err) == (0, "") and front_matter(tmp_path / "said")["license"] == "bsd-2-clause"
    assert "whose licence counts" not in (tmp_path / "said" / "README.md").read_text()


@pytest.mark.parametrize(
    ("origin", "base"),
    [
        ("zoo:org/relu@v1#net.safetensors", "org/relu"),
        ("zoo:cifar10-relu", None),
        ("theirs/relu.th", None),
        (None, None),
    ],
)
def test_what_it_was_trained_from_is_linked_where_it_is_on_the_hub(call, make_checkpoint, tmp_path, origin, base):
    path = make_checkpoint(tmp_path / "net.safetensors", trained_from=origin)
    assert call("publish", path, "--output", tmp_path / "net").code == 0
    assert front_matter(tmp_path / "net").get("base_model") == base


def test_a_plain_network_is_run_with_a_method_for_such(call, tmp_path, few):
    from benchmark.backbones.small_cnn import small_cnn

    card = Card(
        model="small-cnn",
        method="relu",
        dataset="digits",
        num_classes=10,
        in_channels=1,
        preprocessing={"divisor": 16, "mean": [0], "std": [1]},
        training_fingerprint="0123",
    )
    write_checkpoint(tmp_path / "plain.safetensors", small_cnn().state_dict(), card)
    assert call("publish", tmp_path / "plain.safetensors", "--output", tmp_path / "net").code == 0
    here = commands(tmp_path / "net")[0]
    assert here[here.index("--method") + 1] in ("ltb", "snn-calibration", "threshold-balancing")
    assert "Its card names no accuracy." in (tmp_path / "net" / "README.md").read_text()
    shutil.copy(tmp_path / "net" / "model.safetensors", "model.safetensors")
    options = ["--set", "iterations=2"] if "ltb" in here else []
    assert call(*here[3:], *few, *options).code == 0


# It is a checkpoint again


def test_it_resolves_from_everywhere_as_the_same_result(call, checkpoint, tmp_path, monkeypatch, few):
    folder = tmp_path / "out" / "my-net"
    assert call("publish", checkpoint, "--output", folder, "--name", "org/my-net").code == 0
    for path in folder.iterdir():
        put(tmp_path / "hub", "org/my-net", path.name, path.read_bytes())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("DYNCONF_BENCH_ZOO", str(folder.parent))
    sources = {
        str(checkpoint): "digits-net.safetensors",
        f"{folder}/model.safetensors": "model.safetensors",
        "zoo:my-net": "my-net/model.safetensors",
        "zoo:org/my-net": f"zoo:org/my-net@{COMMIT}",
        f"zoo:org/my-net@{COMMIT}": f"zoo:org/my-net@{COMMIT}",
    }
    found = {}
    for source, called in sources.items():
        answer = call("run", "--checkpoint", source, *few, "--rerun")
        assert answer.code == 0, answer.err
        found[source] = json.loads(answer.out)
        assert found[source]["spec"]["weights"] == {"source": called, "sha256": sha256_of(checkpoint)}
    assert len({document["id"] for document in found.values()}) == 1


def test_as_users_call_it(cli, checkpoint, tmp_path, few):
    """Published, put into the cache of the Hub, and run from there by the commands of its own model card."""
    name = checkpoint.relative_to(tmp_path)
    answer = cli("publish", name, "--output", "out/my-net", "--name", "org/my-net", "--license", "mit", cwd=tmp_path)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.splitlines()[-1] == "upload it: hf upload org/my-net out/my-net"
    for path in (tmp_path / "out" / "my-net").iterdir():
        put(tmp_path / "hub", "org/my-net", path.name, path.read_bytes())
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    here, prepare, there = commands(tmp_path / "out" / "my-net")
    assert here[:4] == [*prepare[:3], "run"] == ["python", "-m", "benchmark", "run"]
    fetched = cli(*prepare[3:], cwd=tmp_path, env=offline)
    assert fetched.code == 0 and sha256_of(checkpoint) in fetched.out
    answer = cli(*there[3:], *few, cwd=tmp_path, env=offline)
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["spec"]["weights"]["source"] == f"zoo:org/my-net@{COMMIT}"


def test_a_dataset_that_is_a_folder(call, make_checkpoint, tmp_path):
    path = make_checkpoint(tmp_path / "x.safetensors", dataset="imagefolder:my-birds")
    assert call("publish", path, "--output", tmp_path / "net").code == 0
    here = commands(tmp_path / "net")[0]
    assert here[here.index("--dataset") + 1] == "imagefolder:DIR" and "--data-dir" not in here
    text = (tmp_path / "net" / "README.md").read_text()
    assert "`DIR` is where the dataset lies" in text and "`imagefolder:my-birds`" in text


def test_publishing_what_was_published(call, checkpoint, tmp_path):
    for source, folder in ((checkpoint, "first"), (tmp_path / "first" / "model.safetensors", "second")):
        assert call("publish", source, "--output", tmp_path / folder).code == 0
    assert "\n# first\n" in (tmp_path / "second" / "README.md").read_text()
    assert sha256_of(tmp_path / "second" / "model.safetensors") == sha256_of(checkpoint)


def test_every_shipped_checkpoint_can_be_published_with_the_record_of_its_training(call, tmp_path):
    records = ROOT / "leaderboard" / "results"
    for found in locating.shipped():
        folder = tmp_path / found.path.stem
        assert call("publish", found.name, "--output", folder, "--license", "other", "--results", records).code == 0
        assert sha256_of(folder / "model.safetensors") == sha256_of(found.path)
        assert commands(folder)[0][-2:] == ["--data-dir", "DIR"]
        assert "trained on a recompressed copy" in (folder / "README.md").read_text()
        assert load_training_record(folder / "training.json").checkpoint_sha256 == sha256_of(found.path)


# The training record


def with_record(checkpoint, make_checkpoint, **changes):
    """The checkpoint with a card that names a training record, and that record as JSON."""
    card = read_card(checkpoint).model_copy(update={"training_record": "abcdef012345"})
    make_checkpoint(checkpoint, **card.model_dump(mode="json"))
    return training_record(card, sha256_of(checkpoint), **changes)


@pytest.mark.parametrize("place", ["beside the checkpoints", "in the results folder", "given", "published"])
def test_the_training_record_is_found(call, checkpoint, make_checkpoint, tmp_path, place):
    text = with_record(checkpoint, make_checkpoint)
    places = {
        "beside the checkpoints": tmp_path / "r" / "training" / "abcdef012345.json",
        "in the results folder": tmp_path / "elsewhere" / "training" / "abcdef012345.json",
        "given": tmp_path / "mine.json",
        "published": checkpoint.parent / "training.json",
    }
    places[place].parent.mkdir(parents=True, exist_ok=True)
    places[place].write_text(text)
    more = {
        "in the results folder": ["--results", tmp_path / "elsewhere"],
        "given": ["--training-record", places[place]],
    }
    answer = call("publish", checkpoint, "--output", tmp_path / "net", "--license", "mit", *more.get(place, []))
    assert (answer.code, answer.err) == (0, "")
    assert files_of(tmp_path / "net") == ["README.md", "card.json", "model.safetensors", "training.json"]
    assert (tmp_path / "net" / "training.json").read_text() == text
    page = (tmp_path / "net" / "README.md").read_text()
    assert "Record `abcdef012345`, in full in `training.json`." in page and "a processor (1 threads)" in page
    assert "The epoch was chosen by it, so it is a little too high." in page
    assert f"`{'c' * 40}` with changes" in page


def test_a_training_record_that_is_not_here_is_named(call, checkpoint, make_checkpoint, tmp_path):
    text = with_record(checkpoint, make_checkpoint, checkpoint_sha256="0" * 64)
    for found_anew in (False, True):
        if found_anew:  # the same training, repeated on another machine: other weights
            (tmp_path / "r" / "training").mkdir()
            (tmp_path / "r" / "training" / "abcdef012345.json").write_text(text)
        folder = tmp_path / f"net {found_anew}"
        answer = call("publish", checkpoint, "--output", folder)
        assert answer.code == 0 and "note: the card names training record abcdef012345, which is not here" in answer.err
        assert "training.json" not in files_of(folder)
        text_of_card = (folder / "README.md").read_text()
        assert "`abcdef012345`; it is not part of this folder" in text_of_card and "chosen by it" not in text_of_card


def test_a_record_for_a_card_that_names_none(call, checkpoint, tmp_path):
    """As for checkpoints of old versions: the checksum says that they belong together."""
    (tmp_path / "t.json").write_text(training_record(read_card(checkpoint), sha256_of(checkpoint)))
    answer = call("publish", checkpoint, "--output", tmp_path / "net", "--training-record", tmp_path / "t.json")
    assert answer.code == 0 and "training.json" in files_of(tmp_path / "net")
    assert sha256_of(tmp_path / "net" / "model.safetensors") == sha256_of(checkpoint)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id": "000000000000"}, "it is record 000000000000, the card names abcdef012345"),
        ({"checkpoint_sha256": "0" * 64}, f"it is about the file with sha256 {'0' * 64}"),
        ({"status": "interrupted"}, "that training is interrupted"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_record_of_something_else_is_refused(refused, checkpoint, make_checkpoint, tmp_path, changes, said):
    (tmp_path / "t.json").write_text(with_record(checkpoint, make_checkpoint, **changes))
    assert f"{tmp_path / 't.json'} is not about {checkpoint}: {said}" in refused(
        checkpoint, "--training-record", tmp_path / "t.json"
    )


def test_a_record_that_is_none(refused, checkpoint, tmp_path):
    (tmp_path / "t.json").write_text("{}")
    for name in ("t.json", "none.json"):
        said = refused(checkpoint, "--training-record", tmp_path / name)
        assert f"{tmp_path / name} is not a training record" in said


# What is refused


@pytest.fixture
def refused(call, tmp_path):
    """`publish`, which must fail and leave nothing; gives what it said."""

    def start(checkpoint, *more):
        answer = call("publish", checkpoint, "--output", tmp_path / "net", *more)
        assert (answer.code, answer.out) == (2, "") and "Traceback" not in answer.err
        assert not (tmp_path / "net").exists()
        return answer.err

    return start


def test_checkpoints_without_a_card(refused, tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "bare.safetensors")
    torch.save({"a": torch.ones(2)}, tmp_path / "net.pt")
    assert f"{tmp_path}/bare.safetensors holds no card" in refused(tmp_path / "bare.safetensors")
    said = refused(tmp_path / "net.pt")
    assert f"{tmp_path}/net.pt is no .safetensors file, so it has no card" in said and "benchmark train" in said


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(refused, make_checkpoint, tmp_path, bad):
    path = make_checkpoint(tmp_path / "x.safetensors", lambda state: state["head.bias"].view(-1)[:1].fill_(bad))
    assert f"{path} has NaN or infinite values in head.bias" in refused(path)


def test_a_half_written_file(refused, checkpoint):
    checkpoint.write_bytes(checkpoint.read_bytes()[:-10])
    assert f"{checkpoint} is not a complete safetensors file" in refused(checkpoint)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "resnet20"}, "does not fit resnet20; missing: bn1.bias"),
        ({"num_classes": 7}, "head.bias is [10], not [7]"),
        ({"in_channels": 3}, "features.0.weight is [16, 1, 3, 3], not [16, 3, 3, 3]"),
        ({"method": "qffs"}, "missing: features.2.step"),
        ({"method": "relu", "method_options": {}}, "not known: features.2.threshold"),
        ({"model": "resnet21"}, "unknown model 'resnet21'"),
        ({"method": "qfcs"}, "unknown method 'qfcs'"),
        ({"method_options": {"lvels": 4}}, "lvels"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(f"{key}={item}" for key, item in value.items()),
)
def test_a_card_that_does_not_belong_to_the_weights(refused, make_checkpoint, tmp_path, changes, said):
    path = make_checkpoint(tmp_path / "x.safetensors", **changes)
    answer = refused(path)
    assert said in answer
    if "does not fit" in answer and "missing" in answer:
        assert str(path) in answer and "Its card says" in answer


def test_folders_that_hold_something(call, checkpoint, tmp_path):
    folder = tmp_path / "net"
    folder.mkdir()
    assert call("publish", checkpoint, "--output", folder).code == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    again = call("publish", checkpoint, "--output", folder)
    assert again.code == 2 and f"{folder} is not empty: it holds README.md, card.json" in again.err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "file").touch()
    answer = call("publish", checkpoint, "--output", tmp_path / "file")
    assert answer.code == 2 and "is a file" in answer.err and (tmp_path / "file").stat().st_size == 0


@pytest.mark.parametrize("name", ["a/b/c", "n et", "-net", "net--l4", ""])
def test_names_that_the_hub_would_not_take(refused, checkpoint, name):
    assert "cannot be a name on the Hugging Face Hub" in refused(checkpoint, "--name", name)


def test_a_file_whose_name_is_none_for_the_hub(refused, checkpoint):
    path = checkpoint.rename(checkpoint.with_name("my net.safetensors"))
    assert "--name NAME" in refused(path)


@pytest.mark.parametrize("identifier", ["Apache 2.0", "", "mit\nx", "MIT"])
def test_licences_that_are_no_identifiers(refused, checkpoint, identifier):
    assert "no licence identifier" in refused(checkpoint, "--license", identifier)


def test_files_that_are_not_there(refused, tmp_path):
    assert "does not exist" in refused(tmp_path / "none.safetensors")
    assert "unknown checkpoint 'none'" in refused("zoo:none")


def test_a_full_disk_leaves_nothing(call, checkpoint, tmp_path, monkeypatch):
    from benchmark import publishing

    real = publishing.write_atomic

    def fail(path, content):
        if path.name == "model.safetensors":
            raise OSError(28, "No space left on device")
        real(path, content)

    monkeypatch.setattr(publishing, "write_atomic", fail)
    (tmp_path / "there").mkdir()
    for name in ("new", "there"):
        answer = call("publish", checkpoint, "--output", tmp_path / name)
        assert answer.code == 1 and "No space left on device" in answer.err
    assert not (tmp_path / "new").exists() and not os.listdir(tmp_path / "there")


# Networks of every kind


@pytest.mark.parametrize("method", ["qcfs", "qffs", "surrogate", "relu"])
def test_every_kind_of_training(tmp_path, method):
    import methods
    from benchmark.backbones.small_cnn import small_cnn

    state = (methods.get(method)().prepare(small_cnn()) if method != "relu" else small_cnn()).state_dict()
    fields = {
        "model": "small-cnn",
        "dataset": "digits",
        "num_classes": 10,
        "in_channels": 1,
        "training_fingerprint": "0",
    }
    card = Card(**fields, method=method, preprocessing={"divisor": 16, "mean": [0], "std": [1]})
    found = network_of(card, state, tmp_path / "net.safetensors").state_dict()
    assert found.keys() == state.keys() and all(torch.equal(found[name], value) for name, value in state.items())


def test_a_damaged_training_record_in_the_results_folder(call, checkpoint, make_checkpoint, tmp_path):
    with_record(checkpoint, make_checkpoint)
    (tmp_path / "r" / "training").mkdir()
    (tmp_path / "r" / "training" / "abcdef012345.json").write_text("{")
    answer = call("publish", checkpoint, "--output", tmp_path / "net")
    assert answer.code == 1 and "abcdef012345.json is not a training record" in answer.err
    assert not (tmp_path / "net").exists()


def test_a_card_for_large_images(tmp_path):
    """The same name is another network there."""
    from benchmark import backbones
    from methods.qcfs import QCFS

    small = {"divisor": 255.0, "mean": [0.5] * 3, "std": [0.2] * 3}
    fields = {
        "model": "resnet18",
        "method": "qcfs",
        "dataset": "imagenet",
        "in_channels": 3,
        "training_fingerprint": "0",
    }
    for size, preprocessing in ((224, {**small, "crop": 224}), (224, small), (32, small)):
        state = QCFS().prepare(backbones.build("resnet18", 3, 10, size)).state_dict()
        card = Card(**fields, num_classes=10, preprocessing=preprocessing)
        assert network_of(card, state, tmp_path / "net.safetensors").state_dict().keys() == state.keys()


def test_networks_of_a_plugin(call, checkpoint, make_checkpoint, tmp_path):
    (tmp_path / "my_plugin.py").write_text(
        "from benchmark.backbones.small_cnn import small_cnn\n"
        "from benchmark.registry import register\n"
        "register('models', 'my-cnn', small_cnn)\n"
    )
    path = make_checkpoint(tmp_path / "x.safetensors", model="my-cnn")
    assert "unknown model 'my-cnn'" in call("publish", path, "--output", tmp_path / "net").err
    answer = call("publish", path, "--output", tmp_path / "net", "--plugin", tmp_path / "my_plugin.py")
    assert answer.code == 0, answer.err
    assert commands(tmp_path / "net")[0][-2:] == ["--plugin", "my_plugin.py"]
