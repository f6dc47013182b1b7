"""`replay` of recordings that no program of ours wrote: numpy and nothing else, judged from the command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy
import pytest
from conftest import environment
from safetensors.numpy import save_file


def simulated(seed, images=150, timesteps=8, classes=5):
    """The outputs of a simulator, timestep by timestep, and what its neurons did."""
    random = numpy.random.default_rng(seed)
    labels = random.integers(0, classes, images)
    outputs = random.normal(size=(images, timesteps, classes)).astype(numpy.float32)
    outputs[numpy.arange(images), :, labels] += random.normal(1.5, 0.5, images)[:, None].astype(numpy.float32)
    return {"labels": labels, "logits": outputs, "spikes": random.integers(1, 9, (images, timesteps))}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    for seed, split in enumerate(("calibration", "test")):
        numpy.savez(folder / f"{split}.npz", **simulated(seed), logits_are="steps")
    return folder


def by_hand(timesteps):
    """Accuracy and mean spikes of fixed time on the test images."""
    arrays = simulated(1)
    sums = arrays["logits"].astype(numpy.float64).cumsum(1)[:, timesteps - 1]
    return (sums.argmax(1) == arrays["labels"]).mean(), arrays["spikes"][:, :timesteps].sum(1).mean()


def test_a_foreign_recording_in_a_process_of_its_own(folder, cli, tmp_path):
    answer = cli("replay", folder, "--policy", "fixed[timesteps=3]", "--policy", "conformal", "--json", cwd=tmp_path)
    assert answer.code == 0, answer.err
    fixed, conformal = json.loads(answer.out)
    accuracy, spikes = by_hand(3)
    assert fixed["accuracy"]["value"] == pytest.approx(accuracy, abs=1e-12)
    assert fixed["spikes_per_image"] == pytest.approx(spikes, abs=1e-9)
    assert (fixed["latency"]["mean"], fixed["uncounted"]) == (3.0, ["synops"])
    assert fixed["synops_per_image"] is fixed["energy"] is fixed["saving"]["synops"] is None
    assert conformal["name"] == "conformal" and 1 <= conformal["latency"]["mean"] <= 8
    assert "unknown" in answer.err


def test_two_files_of_either_kind_give_the_same(folder, call, tmp_path):
    expected = json.loads(call("replay", folder, "--json").out)
    arrays = simulated(1)
    sums = arrays["logits"].astype(numpy.float64).cumsum(1).astype(numpy.float32)
    save_file({**arrays, "logits": sums}, tmp_path / "b.safetensors", {"logits_are": "sums", "split": "test"})
    answer = call("replay", tmp_path / "b.safetensors", folder / "calibration.npz", "--json")
    assert json.loads(answer.out) == expected


def test_every_policy_but_silence_works_without_spikes(folder, call):
    for seed, split in enumerate(("calibration", "test")):
        arrays = simulated(seed)
        numpy.savez(folder / f"{split}.npz", labels=arrays["labels"], logits=arrays["logits"], logits_are="steps")
    rules = ["agreement", "conformal", "dynamic-confidence", "entropy", "fixed", "margin", "patience", "random"]
    answer = call("replay", folder, *(word for rule in rules for word in ("--policy", rule)))
    assert answer.code == 0 and len(re.findall(r"unknown +unknown", answer.out)) == len(rules)
    refused = call("replay", folder, "--policy", "silence")
    assert refused.code == 2 and "looks at spikes, and this recording does not count them" in refused.err


def test_against_another_rule(folder, call):
    arguments = [
        "replay",
        folder,
        "--policy",
        "dynamic-confidence",
        "--policy",
        "margin",
        "--against",
        "fixed[timesteps=8]",
    ]
    answer = call(*arguments)
    assert answer.code == 0
    assert "saved vs fixed (timesteps 8; given) [95%]" in answer.out and "accuracy difference [95%]" in answer.out
    documents = json.loads(call(*arguments, "--json").out)
    assert [document["against"]["policy"] for document in documents] == ["fixed", "fixed"]
    for document in documents:
        against = document["against"]
        assert against["params"]["timesteps"] == 8
        assert against["saving_latency"] == pytest.approx(document["saving"]["latency"])  # against all 8 timesteps
        low, high = against["saving_latency_ci95"]
        assert low <= against["saving_latency"] <= high
        assert against["latency_difference"] == pytest.approx(document["latency"]["mean"] - 8)
    without = json.loads(call(*arguments[:-2], "--json").out)
    assert all("against" not in document for document in without)
    assert [{**document, "against": None} for document in without] == [
        {**document, "against": None} for document in documents
    ]


def test_an_unknown_rule_to_compare_with_is_a_usage_error(folder, call):
    answer = call("replay", folder, "--against", "fixd")
    assert answer.code == 2 and "Did you mean 'fixed'" in answer.err


def test_test_images_among_the_calibration_images_are_refused(folder, call):
    ours, theirs = simulated(0), simulated(1)
    mixed = {name: numpy.concatenate([ours[name][:4], theirs[name]]) for name in ours}
    numpy.savez(folder / "test.npz", **mixed, logits_are="steps")
    answer = call("replay", folder)
    assert answer.code == 1 and "4 of 154 test images have exactly the logits of a calibration image" in answer.err
    assert call("replay", folder, "--allow-shared-images").code == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": numpy.zeros((150, 7, 5))}, "the calibration recording has 8 timesteps, the test recording 7"),
        ({"labels": numpy.full(150, 5)}, "labels outside 0..4"),
        ({"split": "calibration"}, "the file is called test.npz"),
        ({"logits_are": "mean"}, "'logits_are' must say 'sums'"),
        ({"labels": numpy.array([None] * 150)}, "array 'labels' holds pickled objects"),
    ],
)
def test_a_wrong_file_is_an_error_of_one_line(folder, call, change, message):
    arrays = {**simulated(1), "logits_are": "steps", **change}
    if "logits" in change:
        del arrays["spikes"]
    numpy.savez(folder / "test.npz", **arrays)
    answer = call("replay", folder)
    assert answer.code == 1 and message in answer.err
    assert str(folder) in answer.err and len(answer.err.strip().splitlines()) == 1
    assert "Traceback" not in answer.err


def test_nothing_to_replay(call, tmp_path):
    assert call("replay").code == 2
    answer = call("replay", tmp_path)
    assert answer.code == 1 and "has no calibration recording" in answer.err


def test_the_example_of_the_page_runs(root, call, tmp_path):
    page = (root / "docs" / "recordings.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 3
    script = tmp_path / "example.py"
    script.write_text("\n".join(blocks).replace("FOLDER/", "folder/"))
    subprocess.run([sys.executable, script], cwd=tmp_path, check=True, env=environment())
    (tmp_path / "test.safetensors").unlink()
    answer = call("replay", tmp_path, "--policy", "dynamic-confidence", "--against", "fixed")
    assert answer.code == 0 and "gap closed" in answer.out, answer.err
    saved = call("replay", tmp_path / "calibration.npz", tmp_path / "folder" / "test")
    assert saved.code == 0, saved.err
