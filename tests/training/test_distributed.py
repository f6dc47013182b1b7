"""Two processes are one: the same weights, the same curve; together they stop and go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import environment

from benchmark.checkpoints import read_weights
from benchmark.errors import UsageError
from benchmark.training.batch_norm import share_batch_norms
from benchmark.training.distributed import team

TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "benchmark"]
ONE = [sys.executable, "-m", "benchmark"]
COMMAND = ["train", "--dataset", "synthetic", "--preset", "embedded", "--batch-size", "64", "--device", "cpu"]


def arguments(folder, *more):
    return [*COMMAND, "--results", str(folder), *map(str, more)]


def trained(start, folder, *more):
    command = [*start, *arguments(folder, *more)]
    done = subprocess.run(
        command, env=environment(), cwd=folder.parent, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    (record,) = folder.glob("training/*.json")
    (checkpoint,) = folder.glob("checkpoints/*.safetensors")
    return json.loads(record.read_text()), read_weights(checkpoint), done


@pytest.mark.parametrize(
    ("more", "tolerance"),
    [
        (["--method", "qcfs", "--precision", "fp64", "--augment", "crop-flip", "--epochs", 3], 1e-6),
        pytest.param(
            ["--method", "relu", "--precision", "fp64", "--epochs", 3, "--ema", 0.9, "--clip-norm", 0.5],
            1e-6,
            marks=pytest.mark.slow,
        ),
        pytest.param(["--method", "qcfs", "--lr", 0.01, "--epochs", 2], 2e-3, marks=pytest.mark.slow),
    ],
)
def test_two_processes_are_one(tmp_path, more, tolerance):
    """In float64 to the float32 that is stored; in float32 a sum in another order may tip a quantiser over."""
    alone, weights, _ = trained(ONE, tmp_path / "one", *more)
    together, others, done = trained(TWO, tmp_path / "two", *more)
    assert together["id"] == alone["id"]
    assert (alone["provenance"]["processes"], together["provenance"]["processes"]) == (1, 2)
    for name, value in weights.items():
        assert torch.allclose(others[name].double(), value.double(), rtol=tolerance, atol=tolerance), name
    for one, two in zip(alone["epochs"], together["epochs"], strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=max(tolerance, 1e-6) * 10)
        if tolerance < 1e-5:
            assert two["train_accuracy"] == one["train_accuracy"]
            assert two["calibration_accuracy"] == one["calibration_accuracy"]
    assert done.stderr.count("epoch 1/") >= 1 and done.stdout.count("wrote: ") == 1  # one process talks


@pytest.mark.slow
def test_batch_norms_are_apart_if_asked(tmp_path):
    more = ["--method", "qcfs", "--precision", "fp64", "--epochs", 1]
    _, weights, _ = trained(ONE, tmp_path / "one", *more)
    _, others, _ = trained(TWO, tmp_path / "two", *more, "--no-sync-batch-norm")
    assert any(not torch.allclose(others[name].double(), value.double(), rtol=1e-4) for name, value in weights.items())


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on_as_one(tmp_path):
    more = ["--method", "qcfs", "--precision", "fp64", "--epochs", 40]
    folder = tmp_path / "two"
    command = [*TWO, *arguments(folder, *more)]
    process = subprocess.Popen(command, env=environment(), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not list(folder.glob("training/*/state.pt")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    (path,) = folder.glob("training/*.json")
    record = json.loads(path.read_text())
    assert record["status"] == "interrupted" and 1 <= len(record["epochs"]) < 40, errors
    rest, weights, _ = trained(ONE, folder, *more)
    assert rest["status"] == "ok" and len(rest["provenance"]["resumed_at"]) == 1
    _, others, _ = trained(ONE, tmp_path / "one", *more)
    for name, value in weights.items():
        assert torch.allclose(others[name].double(), value.double(), rtol=1e-5, atol=1e-5), name


def test_a_batch_norm_of_one_process_is_torchs(tmp_path):
    from torch import distributed

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        ours, theirs = torch.nn.BatchNorm2d(3).double(), torch.nn.BatchNorm2d(3).double()
        share_batch_norms(torch.nn.Sequential(ours), torch.device("cpu"))
        assert type(ours) is not torch.nn.BatchNorm2d
        random = torch.Generator().manual_seed(0)
        for _ in range(3):
            images = torch.randn(4, 3, 5, 5, dtype=torch.float64, generator=random).requires_grad_()
            copy = images.detach().clone().requires_grad_()
            weights = torch.randn(4, 3, 5, 5, dtype=torch.float64, generator=random)
            (ours(images) * weights).sum().backward()
            (theirs(copy) * weights).sum().backward()
            assert torch.allclose(images.grad, copy.grad, atol=1e-12)
        for name, value in theirs.state_dict().items():
            assert torch.allclose(ours.state_dict()[name], value, atol=1e-12), name
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.allclose(a.grad, b.grad, atol=1e-12)
        assert torch.allclose(ours.eval()(images), theirs.eval()(images), atol=1e-12)
        half = ours.float().train()(images.to(torch.bfloat16))
        assert half.dtype == torch.bfloat16
    finally:
        distributed.destroy_process_group()


def test_an_incomplete_environment(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(UsageError, match="has RANK but not WORLD_SIZE, LOCAL_RANK"), team("cpu"):
        pass
    with team("cpu", joined=False) as alone:
        assert alone.share.world == 1
    assert "RANK" in os.environ
