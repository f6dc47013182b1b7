"""The ImageNet path from the command line to a record, on the few real images that are at hand."""

from __future__ import annotations

import json

import pytest

FLAGS = ["--preprocessing", "divisor=1", "--preprocessing", "mean=123,117,104", "--preprocessing", "crop=227"]


@pytest.mark.slow
def test_squeezenet_converts_without_training(cli, shared, tmp_path):
    images, weights = shared("imagenet"), shared("weights/squeezenet1_0-imagenet.safetensors")
    few = ["--limit", 6, "--calibration-size", 6, "--timesteps", 3]
    few += ["--set", "iterations=2", "--set", "delay=1", "--set", "images=6"]
    command = ["run", "--method", "ltb", "--dataset", "imagenet", "--data-dir", images, "--model", "squeezenet1_0"]
    answer = cli(*command, "--checkpoint", weights, *FLAGS, *few, "--results", "r", "--json", cwd=tmp_path)
    assert answer.code == 0, answer.err
    record = json.loads(answer.out)
    assert record["spec"]["weights"]["source"] == "squeezenet1_0-imagenet.safetensors"
    assert record["spec"]["preprocessing"]["crop"] == 227
    assert record["ann"]["accuracy"]["value"] >= 0.5  # decoded, cropped and labelled right
    assert (record["static"]["prelude"], record["static"]["latency"]) == (1, 4)
    assert "smoke test" in " ".join(record["flags"])
    assert "preprocessing assumed" not in " ".join(record["flags"])  # it was given
    assert "26 activations became spiking layers" in answer.err


def test_the_geometry_belongs_to_the_result(call, shared):
    images, weights = shared("imagenet"), shared("weights/squeezenet1_0-imagenet.safetensors")
    command = ["run", "--method", "ltb", "--dataset", "imagenet", "--data-dir", images, "--model", "squeezenet1_0"]
    answer = call(*command, "--checkpoint", weights, "--preprocessing", "divisor=1")
    assert answer.code == 2 and "names no crop" in answer.err


def test_squeezenet_on_the_wrong_architecture(call, shared):
    images, weights = shared("imagenet"), shared("weights/squeezenet1_0-imagenet.safetensors")
    answer = call(
        *["run", "--method", "ltb", "--dataset", "imagenet", "--data-dir", images, "--model", "resnet34"],
        *["--checkpoint", weights, *FLAGS, "--limit", 1, "--calibration-size", 1],
    )
    assert answer.code == 2, answer.err
    assert "does not fit resnet34" in answer.err and "It looks like 'squeezenet1_0'" in answer.err
