"""`train` as users call it: from a request to a checkpoint that `run` takes, and what bad input gets."""

from __future__ import annotations

import json
from importlib.metadata import version

import pytest
import torch

from benchmark.card import read_card
from benchmark.checkpoints import read_weights
from benchmark.errors import RecordError
from benchmark.store import sha256_of
from benchmark.training.record import load_training_record

QUICK = ["train", "--dataset", "synthetic", "--epochs", 2, "--results", "r"]


def only(folder, pattern):
    (path,) = folder.glob(pattern)
    return path


@pytest.fixture(scope="module")
def trained(cli, tmp_path_factory):
    """One training through a process of its own: the folder and the answer."""
    folder = tmp_path_factory.mktemp("trained")
    answer = cli(*QUICK, "--method", "qcfs", "--half", "--flag", "a remark", "--json", cwd=folder)
    assert answer.code == 0, answer.err
    return folder, answer


def test_a_training_leaves_a_checkpoint_a_record_and_curves(trained):
    folder, answer = trained
    record = json.loads(answer.out)
    path = only(folder, "r/training/*.json")
    assert path.read_text() == answer.out and path.stem == record["id"] == load_training_record(path).spec.id
    checkpoint = only(folder, "r/checkpoints/*.safetensors")
    assert checkpoint.name == record["checkpoint"] == f"synthetic-small-cnn-qcfs-{record['id']}.safetensors"
    assert record["checkpoint_sha256"] == sha256_of(checkpoint)
    assert (record["status"], record["images"], record["calibration_images"]) == ("ok", 512, 192)
    assert [epoch["epoch"] for epoch in record["epochs"]] == [1, 2]
    assert record["best_epoch"] in (1, 2) and record["flags"] == ["a remark"]
    assert record["provenance"]["versions"]["torch"] == version("torch")
    assert not list(folder.glob("r/training/*/*.pt"))
    curves = only(folder, "r/training/*/metrics.csv").read_text().splitlines()
    assert curves[0].startswith("epoch,lr,loss,train_accuracy,calibration_accuracy") and len(curves) == 3
    assert json.loads(only(folder, "r/training/*/metrics.json").read_text()) == record["epochs"]
    assert "epoch 2/2: loss" in answer.err and "images/s" in answer.err


def test_the_card_says_what_the_record_says(trained):
    folder, answer = trained
    record = json.loads(answer.out)
    card = read_card(only(folder, "r/checkpoints/*.safetensors"))
    assert card.training_record == record["id"]
    assert card.calibration_accuracy == record["accuracy"]["value"]
    assert (card.calibration_images, card.calibration_fingerprint) == (192, record["spec"]["calibration_fingerprint"])
    assert card.training_fingerprint == record["spec"]["training_fingerprint"]
    assert (card.method, card.model, card.flags) == ("qcfs", "small-cnn", ("a remark",))
    assert card.method_options["levels"] == 4


def test_the_accuracy_is_that_of_the_stored_weights(trained, call):
    """They are stored in half precision; `run` measures the network that is read."""
    from benchmark.backbones.small_cnn import small_cnn
    from benchmark.data.synthetic import Synthetic
    from benchmark.training.batches import Share
    from benchmark.training.distributed import Team
    from benchmark.training.judging import judge
    from methods.qcfs import QCFS

    folder, answer = trained
    path = only(folder, "r/checkpoints/*.safetensors")
    network = QCFS().prepare(small_cnn(3, 4))
    network.load_state_dict(read_weights(path))
    data = Synthetic()
    judged = judge(network, data.split("calibration"), data.preprocessing, Team(Share(), torch.device("cpu")))
    assert judged.accuracy == json.loads(answer.out)["accuracy"]["value"]
    answer = call("run", "--dataset", "synthetic", "--checkpoint", path, "--timesteps", 2, "--limit", 8, "--json")
    assert answer.code == 0, answer.err
    assert "a remark" in json.loads(answer.out)["flags"]


def test_the_same_request_is_answered_from_the_store(trained, call, monkeypatch):
    folder, _ = trained
    monkeypatch.chdir(folder)
    again = call(*QUICK, "--method", "qcfs", "--half", "--flag", "a remark")
    assert again.code == 0 and "was there already" in again.out and "epoch" not in again.err


@pytest.mark.parametrize(
    ("method", "more", "trained_as"),
    [
        ("relu", [], "relu"),
        ("ltb", [], "relu"),
        ("srp", ["--set", "levels=8"], "qcfs"),
        ("qffs", ["--set", "levels=3"], "qffs"),
        ("surrogate", ["--set", "steps=2"], "surrogate"),
    ],
)
def test_what_a_method_converts_is_trained(call, tmp_path, method, more, trained_as):
    answer = call(*QUICK, "--method", method, "--limit", 128, *more)
    assert answer.code == 0, answer.err
    path = only(tmp_path / "empty", "r/checkpoints/*.safetensors")
    assert read_card(path).method == trained_as
    converts = "ltb" if method == "relu" else method
    few = ["--timesteps", 2, "--limit", 8, "--calibration-size", 64, "--json"]
    run = call("run", "--method", converts, "--dataset", "synthetic", "--checkpoint", path, *few, *more)
    assert run.code == 0, run.err
    record = json.loads(run.out)
    assert record["status"] == "ok", record["reason"]


def test_a_training_starts_from_another_network(call, tmp_path):
    assert call(*QUICK, "--method", "relu", "--output", "relu.safetensors", "--flag", "short").code == 0
    folder = tmp_path / "empty"
    tuned = ["--method", "qcfs", "--init", "relu.safetensors", "--output", "qcfs.safetensors", "--lr", 1e-6]
    answer = call(*QUICK, *tuned, "--json")
    assert answer.code == 0, answer.err
    record = json.loads(answer.out)
    assert record["spec"]["init"] == {"source": "relu.safetensors", "sha256": sha256_of(folder / "relu.safetensors")}
    assert record["flags"] == ["short"]  # what is said of the weights goes on with them
    before, after = (read_weights(folder / f"{name}.safetensors") for name in ("relu", "qcfs"))
    name = "features.0.weight"
    assert torch.allclose(before[name], after[name], atol=1e-3)
    card = read_card(folder / "qcfs.safetensors")
    assert card.trained_from == "relu.safetensors"
    tops = [float(value) for key, value in after.items() if key.endswith("threshold")]
    assert tops and max(tops) < 7.9  # not at the method's 8, but where the input of the layer is
    wrong = call(*QUICK, "--method", "qffs", "--init", "qcfs.safetensors")
    assert wrong.code == 2 and "has the activations of qcfs, not of qffs" in wrong.err
    levels = call(*QUICK, "--method", "qcfs", "--init", "qcfs.safetensors", "--set", "levels=8")
    assert levels.code == 2 and "was trained with 4 levels" in levels.err
    teacher = call(*QUICK, "--method", "qcfs", "--teacher", "qcfs.safetensors")
    assert teacher.code == 2 and "a teacher has none" in teacher.err
    distilled = call(*QUICK, "--method", "qcfs", "--teacher", "relu.safetensors", "--limit", 64, "--json")
    assert distilled.code == 0, distilled.err
    spec = json.loads(distilled.out)["spec"]
    assert spec["recipe"]["distill"] == 0.5 and spec["teacher"]["source"] == "relu.safetensors"


def test_a_dry_run_trains_nothing(call, tmp_path):
    answer = call(*QUICK, "--method", "qcfs", "--mixup", 0.2, "--augment", "crop-flip,cutout", "--dry-run")
    assert answer.code == 0, answer.err
    spec = json.loads(answer.out)
    assert spec["recipe"]["mixup"] == 0.2 and spec["recipe"]["augment"] == ["crop-flip", "cutout"]
    assert not (tmp_path / "empty" / "r").exists()


def test_a_presets_warm_up_keeps_its_share(call):
    answer = call(*QUICK, "--method", "qcfs", "--dry-run")
    assert json.loads(answer.out)["recipe"]["warmup_epochs"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "qcsf"], "Did you mean 'qcfs'"),
        (["--dataset", "sinthetic"], "Did you mean 'synthetic'"),
        (["--model", "resnet21"], "Did you mean"),
        (["--augment", "crop-flop"], "Did you mean 'crop-flip'"),
        (["--augment", "crop-flip,resized-crop"], "exclude each other"),
        (["--set", "level=4"], "Did you mean 'levels'"),
        (["--method", "relu", "--set", "levels=4"], "have no options to be trained with"),
        (["--preset", "qffs-cifar"], "starts from trained weights: pass --init"),
        (["--lr", "-1"], "--lr: Input should be greater than 0"),
        (["--ema", "2"], "--ema: Input should be less than 1"),
        (["--warmup-epochs", "5"], "a warm-up of 5 epochs does not fit into 2"),
        (["--batch-size", "1000"], "512 training images do not fill a batch of 1000"),
        (["--accumulate", "3"], "does not divide into"),
        (["--output", "x.pt"], "must end with .safetensors"),
        (["--init", "nothing.safetensors"], "nothing.safetensors does not exist"),
        (["--distill", "0.5"], "a distillation needs a teacher"),
        (["--dataset", "cifar10", "--data-dir", "."], "cifar10 is not on this disk"),
        (["--device", "cuda"], "no usable GPU"),
    ],
)
def test_bad_requests_are_told_before_anything_is_trained(call, tmp_path, arguments, message):
    if arguments[-1] == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    answer = call(*QUICK, *arguments)
    assert answer.code == 2, (answer.out, answer.err)
    assert message in answer.err
    assert not list((tmp_path / "empty").glob("r/checkpoints/*"))


def test_a_diverging_training_leaves_a_record_that_says_so(call, tmp_path):
    answer = call(*QUICK, "--method", "qcfs", "--lr", 1e15)
    assert answer.code == 1 and "training diverged in epoch" in answer.err and "--clip-norm" in answer.err
    record = load_training_record(only(tmp_path / "empty", "r/training/*.json"))
    assert record.status == "failed" and "diverged" in record.reason


def test_damaged_records_are_named(trained, tmp_path):
    folder, _ = trained
    path = tmp_path / "bad.json"
    path.write_text(only(folder, "r/training/*.json").read_text()[:-50])
    with pytest.raises(RecordError, match=r"bad\.json is not a training record"):
        load_training_record(path)


def test_help_needs_no_torch_and_names_the_presets(cli, tmp_path):
    answer = cli("train", "--help", cwd=tmp_path)
    assert answer.code == 0 and "qcfs-cifar" in answer.out and "Bu et al., ICLR 2022" in answer.out
