"""A run in slices and `collect` are one run: the same recordings and record, byte for byte, whatever happens in between."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import environment

from benchmark.errors import UsageError
from benchmark.slices import parse_slice, share_of
from benchmark.spec import ExecSpec, Slice

# 192 calibration and 1,280 test images: one shard and three. The commit must not change while the tests run.
FLAGS = ("run", "--dataset", "synthetic", "--timesteps", "4", "--policy", "dynamic-confidence", "--policy", "patience")
NO_GIT = {"GIT_DIR": os.devnull}


def files_of(results: Path) -> dict[str, bytes]:
    """What `run` and `collect` leave alike: the recordings, and the record without its provenance."""
    found = {}
    for path in sorted(results.rglob("*")):
        name = path.relative_to(results).as_posix()
        if path.parent.name in ("calibration", "test") and not path.name.startswith("."):
            found[name] = path.read_bytes()
        elif name.startswith("synthetic/"):
            document = json.loads(path.read_text()) if path.is_file() else {"provenance": None}
            del document["provenance"]
            found[name] = json.dumps(document, indent=2, sort_keys=True).encode()
    return found


def in_this_process(*arguments: object) -> None:
    """A command whose output nobody looks at."""
    from benchmark.cli import cli

    with pytest.MonkeyPatch.context() as patch:
        for name, value in NO_GIT.items():
            patch.setenv(name, value)
        assert not cli.main(list(map(str, arguments)), standalone_mode=False)


@pytest.fixture(scope="module")
def network(tmp_path_factory, trained_networks) -> Path:
    """A trained network; all runs here take it from this file."""
    folder = tmp_path_factory.mktemp("trained")
    trained_networks(folder)
    return next(folder.glob("checkpoints/*.safetensors"))


def whole_run(network, folder, *more) -> Path:
    in_this_process(*FLAGS, "--checkpoint", network, "--results", folder, *more)
    assert len(files_of(folder)) >= 6
    return folder


@pytest.fixture(scope="module")
def reference(network, tmp_path_factory) -> Path:
    """The results folder of a whole float32 run."""
    return whole_run(network, tmp_path_factory.mktemp("whole"))


@pytest.fixture
def no_git(monkeypatch):
    """The state of the source tree is unknown, in this process too."""
    for name, value in NO_GIT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def slices(call, network, tmp_path, no_git):
    """Run a slice in this process."""

    def run(part, *more):
        return call(*FLAGS, "--checkpoint", network, "--results", tmp_path / "r", "--slice", part, *more)

    return run


@pytest.fixture
def collect(call, tmp_path, no_git):
    return lambda *more: call("collect", "--results", tmp_path / "r", *more)


def recording(results: Path) -> Path:
    return next(path for path in (results / "recordings").iterdir())


# The whole from its slices


def test_slices_of_float64_in_any_order_are_the_whole(network, slices, collect, tmp_path):
    reference = whole_run(network, tmp_path / "whole", "--precision", "fp64")
    for part, own in (("3/3", 2), ("1/3", 1), ("2/3", 1)):
        answer = slices(part, "--precision", "fp64", "--batch-size", "50" if part == "2/3" else "64")
        assert answer.code == 0, answer.err
        assert f"is done: shards recorded {own}, there already 0" in answer.err and not answer.out
        assert not list((tmp_path / "r").glob("synthetic/**/*.json"))
    answer = collect("--json")
    assert answer.code == 0, answer.err
    (printed,) = json.loads(answer.out)
    assert files_of(tmp_path / "r") == files_of(reference)
    assert printed == json.loads(next((tmp_path / "r").glob("synthetic/*/*/*.json")).read_text())
    made, expected = (
        printed["provenance"],
        json.loads(next(reference.glob("synthetic/*/*/*.json")).read_text())["provenance"],
    )
    assert made["batch_size"] == 50
    for same in (
        "versions",
        "device",
        "torch_flags",
        "seeds",
        "dataset_fingerprint",
        "git_sha",
        "slurm",
        "oom_halvings",
    ):
        assert made[same] == expected[same], same
    assert set(made["phases"]) == {*expected["phases"], "join"}


def wait_for(condition, process, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the slice ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.002)


def test_a_killed_slice_is_resumed_by_others_and_is_the_whole(cli, collect, network, reference, tmp_path):
    """Through processes of their own, in float32; the number of slices changes between the attempts."""
    results = tmp_path / "r"
    arguments = [*FLAGS, "--checkpoint", str(network), "--results", str(results), "--slice"]
    command = [sys.executable, "-m", "benchmark", *arguments, "3/3"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment(**NO_GIT))
    wait_for(lambda: any(results.glob("recordings/*/test/shard-00001.safetensors")), process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    test = recording(results) / "test"
    assert not (test / "shard-00002.safetensors").exists()
    before = (test / "shard-00001.safetensors").stat().st_mtime_ns
    unfinished = collect()
    assert unfinished.code == 1 and "Traceback" not in unfinished.err
    for said in (
        "is not finished",
        "calibration: 1 of 1 shards missing (0), 192 of 192 images",
        "test: 2 of 3 shards missing (0, 2), 768 of 1,280 images",
        "right answers of the analog network: 1 of 3 shards missing (0), 512 of 1,280 images",
    ):
        assert said in unfinished.err
    for part, done in (("2/2", "recorded 1, there already 1"), ("1/2", "recorded 2, there already 0")):
        answer = cli(*arguments, part, cwd=tmp_path, env=NO_GIT)
        assert answer.code == 0 and done in answer.err, answer.err
    assert (test / "shard-00001.safetensors").stat().st_mtime_ns == before
    answer = collect(recording(results).name[:6])
    assert answer.code == 0 and "dynamic-confidence" in answer.out, answer.err
    assert files_of(results) == files_of(reference)


def test_a_whole_run_and_slices_go_on_where_the_other_stopped(slices, collect, call, network, reference, tmp_path):
    """What one has done the other does not do again, and the end is the same."""
    assert slices("2/2").code == 0
    (test,) = (tmp_path / "r").glob("recordings/*/test")
    done = {path: path.stat().st_mtime_ns for path in test.glob("shard-*")}
    assert sorted(path.name[6:11] for path in done) == ["00001", "00002"]
    whole = call(*FLAGS, "--checkpoint", network, "--results", tmp_path / "r")
    assert whole.code == 0, whole.err
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert files_of(tmp_path / "r") == files_of(reference)
    answer = slices("1/2")
    assert answer.code == 0 and "was in the store already" in answer.err
    assert "was in the store already" in collect().err
    # A whole run that was cut off before its header: the shards are there, but nobody has counted right answers.
    shutil.rmtree(tmp_path / "r" / "synthetic")
    for path in [*(tmp_path / "r").glob("recordings/*/*/recording.json"), test / "shard-00000.safetensors"]:
        path.unlink()
    shutil.rmtree(test.parent / "slices")
    for part, said in (("1/2", "recorded 1, there already 1"), ("2/2", "recorded 0, there already 2")):
        answer = slices(part)
        assert answer.code == 0 and said in answer.err
    assert collect().code == 0
    assert files_of(tmp_path / "r") == files_of(reference)


def test_more_slices_than_shards_and_other_rules(slices, collect, call, network, tmp_path):
    """A slice may have nothing to do; other stopping rules need no second recording, and no network."""
    for number in range(1, 7):
        answer = slices(f"{number}/6")
        assert answer.code == 0, answer.err
    assert collect().code == 0
    other = call(
        *["run", "--dataset", "synthetic", "--timesteps", "4", "--policy", "fixed", "--checkpoint", network],
        *["--results", tmp_path / "r", "--slice", "1/1"],
    )
    assert other.code == 0 and "recorded 0, there already 4" in other.err
    answer = collect("--json")
    rules = [[policy["name"] for policy in record["policies"]] for record in json.loads(answer.out)]
    assert answer.code == 0 and sorted(rules) == [["dynamic-confidence", "patience"], ["fixed"]]
    assert len(list((tmp_path / "r").glob("synthetic/*/*/*.json"))) == 2


# What collect says


def finished(slices):
    assert slices("1/1").code == 0


def test_collect_finds_what_is_asked_for(slices, collect, call, tmp_path):
    nothing = collect()
    assert nothing.code == 2 and "no slices have worked on a recording in" in nothing.err
    finished(slices)
    unknown = collect("beef")
    assert unknown.code == 2 and "beef: no slices have worked on such a recording" in unknown.err
    assert recording(tmp_path / "r").name in unknown.err
    assert not list((tmp_path / "r").glob("synthetic/*/*/*.json"))
    plan = next((tmp_path / "r").glob("recordings/*/slices/????????????.json"))
    assert collect(plan.stem).code == 0


def test_slices_of_different_code_are_remarked(slices, collect, tmp_path, monkeypatch):
    for part, sha in (("1/2", "a" * 40), ("2/2", "b" * 40)):
        state = {"git_sha": sha, "dirty": sha[0] == "b", "diff_sha256": "c" * 64 if sha[0] == "b" else None}
        with monkeypatch.context() as patch:
            patch.setattr("benchmark.runner.git_state", lambda state=state: state)
            assert slices(part).code == 0
    answer = collect("--json")
    (record,) = json.loads(answer.out)
    (flag,) = [flag for flag in record["flags"] if "different code" in flag]
    assert flag == (
        "recorded in slices and collected by different code: aaaaaaaaaaaa, bbbbbbbbbbbb with changes cccccccccccc, unknown"
    )


def spoil(path: Path, change) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def plan_of(folder):
    return next(folder.glob("slices/????????????.json"))


DAMAGE = {
    "a plan that is no JSON": (lambda f: plan_of(f).write_text("{"), "is damaged"),
    "a plan without a protocol": (lambda f: spoil(plan_of(f), lambda d: d.pop("protocol")), "is damaged: protocol"),
    "a plan with an unknown key": (lambda f: spoil(plan_of(f), lambda d: d.update(more=1)), "is damaged: more"),
    "a plan of another schema": (lambda f: spoil(plan_of(f), lambda d: d.update(schema=2)), "is damaged: schema"),
    "a plan of one split": (
        lambda f: spoil(plan_of(f), lambda d: d["images"].pop("test")),
        "expected calibration and test",
    ),
    "a plan of another recording": (
        lambda f: spoil(plan_of(f), lambda d: d["spec"].update(seed=7)),
        "does not belong there",
    ),
    "a plan of more images": (
        lambda f: spoil(plan_of(f), lambda d: d["images"].update(test=1281)),
        "expected 257 of shard 2",
    ),
    "a count of other images": (
        lambda f: spoil(f / "slices" / "right-00001.json", lambda d: d.update(images=511)),
        "right-00001.json counts 511 images of shard 1",
    ),
    "a count of too many": (
        lambda f: spoil(f / "slices" / "right-00001.json", lambda d: d.update(right=513)),
        "513 of 512 images are right",
    ),
    "a count of another recording": (
        lambda f: spoil(f / "slices" / "right-00002.json", lambda d: d.update(recording="x")),
        "of recording x",
    ),
    "a provenance of another recording": (
        lambda f: spoil(next(f.glob("slices/made-*")), lambda d: d.update(recording="x")),
        "belongs to recording x",
    ),
    "no provenance": (lambda f: next(f.glob("slices/made-*")).unlink(), "nothing there says which process"),
    "a shard that is cut short": (
        lambda f: os.truncate(f / "test" / "shard-00001.safetensors", 5000),
        "shard-00001.safetensors is not a complete shard",
    ),
    "a shard of another recording": (
        lambda f: shutil.copy(f / "test" / "shard-00000.safetensors", f / "calibration" / "shard-00000.safetensors"),
        "belongs to another recording",
    ),
    "a shard too many": (
        lambda f: shutil.copy(f / "test" / "shard-00002.safetensors", f / "test" / "shard-00003.safetensors"),
        "has 1536 images, expected 1280",
    ),
    "a shard that is not there": (
        lambda f: (f / "test" / "shard-00001.safetensors").unlink(),
        "test: 1 of 3 shards missing (1), 512 of 1,280 images",
    ),
    "a count that is not there": (
        lambda f: (f / "slices" / "right-00002.json").unlink(),
        "right answers of the analog network: 1 of 3 shards missing (2), 256 of 1,280 images",
    ),
}


@pytest.fixture(scope="module")
def sliced(network, tmp_path_factory) -> Path:
    """The results folder of slices that are done and not collected."""
    folder = tmp_path_factory.mktemp("sliced")
    in_this_process(*FLAGS, "--checkpoint", network, "--results", folder, "--slice", "1/1")
    return folder


@pytest.mark.parametrize("name", DAMAGE)
def test_collect_names_what_is_damaged_or_missing(sliced, collect, tmp_path, name):
    damage, message = DAMAGE[name]
    shutil.copytree(sliced, tmp_path / "r")
    damage(recording(tmp_path / "r"))
    answer = collect()
    assert answer.code == 1 and message in answer.err and "Traceback" not in answer.err
    assert not list((tmp_path / "r").glob("synthetic/*/*/*.json"))


def test_what_is_removed_is_made_again(sliced, slices, collect, reference, tmp_path):
    """As the messages advise: plan, counts and shards come back from one more slice."""
    shutil.copytree(sliced, tmp_path / "r")
    folder = recording(tmp_path / "r")
    for path in (
        plan_of(folder),
        folder / "slices" / "right-00000.json",
        folder / "slices" / "right-00002.json",
        folder / "calibration" / "shard-00000.safetensors",
        folder / "test" / "shard-00001.safetensors",
    ):
        path.unlink()
    assert slices("1/1").code == 0
    assert collect().code == 0
    assert files_of(tmp_path / "r") == files_of(reference)


def test_one_damaged_recording_does_not_keep_others_from_being_collected(sliced, collect, tmp_path):
    shutil.copytree(sliced, tmp_path / "r")
    shutil.copytree(recording(tmp_path / "r"), tmp_path / "r" / "recordings" / "0foreign")
    answer = collect()
    assert answer.code == 1 and "0foreign" in answer.err and "does not belong there" in answer.err
    assert len(list((tmp_path / "r").glob("synthetic/*/*/*.json"))) == 1


def test_a_damaged_record_is_named(sliced, collect, tmp_path):
    shutil.copytree(sliced, tmp_path / "r")
    assert collect().code == 0
    record = next((tmp_path / "r").glob("synthetic/*/*/*.json"))
    record.write_text("{}")
    answer = collect()
    assert answer.code == 1 and record.name in answer.err and "Traceback" not in answer.err


def test_a_failed_slice_leaves_a_record_that_says_so_until_it_is_collected(slices, collect, tmp_path, monkeypatch):
    from methods.network import SpikingNetwork

    def out_of_memory(self, images):
        raise MemoryError

    with monkeypatch.context() as broken:
        broken.setattr(SpikingNetwork, "begin", out_of_memory)
        answer = slices("1/1")
    assert answer.code == 1 and "slice 1/1: oom" in answer.err
    (file,) = (tmp_path / "r").glob("synthetic/*/*/*.json")
    assert json.loads(file.read_text())["status"] == "oom"
    assert collect().code == 1
    finished(slices)
    assert collect().code == 0
    assert json.loads(file.read_text())["status"] == "ok"


def test_sizes_that_fit_are_in_the_provenance(slices, collect, tmp_path, monkeypatch):
    from methods.network import SpikingNetwork

    begin, tried = SpikingNetwork.begin, []

    def limited(self, images):
        tried.append(len(images))
        if len(images) > 20:
            raise torch_out_of_memory()
        begin(self, images)

    monkeypatch.setattr(SpikingNetwork, "begin", limited)
    monkeypatch.setattr("methods.network.IMAGES_AT_ONCE", 64)  # else fewer are simulated together in the first place
    assert slices("1/1").code == 0
    # Once for all shards of both splits.
    assert [count for count in tried if count > 20] == [64, 32]
    (record,) = json.loads(collect("--json").out)
    assert (record["provenance"]["batch_size"], record["provenance"]["oom_halvings"]) == (16, 2)


def torch_out_of_memory():
    import torch

    return torch.OutOfMemoryError("CUDA out of memory")


# The command line


@pytest.mark.parametrize("text", ["0/3", "4/3", "x", "1/", "/3", "1/0", "-1/3", "1.5/3", "1/3/5", "", "AUTO"])
def test_impossible_slices(slices, text):
    answer = slices(text)
    assert answer.code == 2 and "is not K/N with K from 1 to N" in answer.err


@pytest.mark.parametrize("more", [["--rerun"], ["--measure"], ["--json"], ["--method", "all"]])
def test_what_does_not_go_with_a_slice(slices, more):
    answer = slices("1/2", *more)
    assert answer.code == 2 and f"--slice does not go with {' '.join(more)}" in answer.err


@pytest.mark.parametrize("text", ["0", "-3", "many", "1.5", "AUTO"])
def test_impossible_batch_sizes(call, text):
    answer = call("run", "--batch-size", text)
    assert answer.code == 2 and "--batch-size" in answer.err


def test_automatic_batches_on_a_cpu_are_the_usual_ones(call, network, reference, tmp_path):
    answer = call(
        *[*FLAGS, "--checkpoint", network, "--results", tmp_path / "r"],
        "--batch-size",
        "auto",
        "--device",
        "cpu",
        "--json",
    )
    assert answer.code == 0 and json.loads(answer.out)["provenance"]["batch_size"] == 64
    assert ExecSpec().batch_size == 64


ARRAY = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_COUNT": "4"}


@pytest.mark.parametrize(
    ("environment", "expected", "gpu"),
    [
        (ARRAY, "3/4", None),
        ({**ARRAY, "SLURM_ARRAY_TASK_STEP": "2"}, "2/4", None),
        ({**ARRAY, "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "3/4", None),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, "6/8", 1),
        ({"RANK": "0", "WORLD_SIZE": "1"}, "1/1", None),
    ],
)
def test_automatic_slices(environment, expected, gpu):
    part, own = parse_slice("auto", environment)
    assert (str(part), own) == (expected, gpu)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "neither SLURM_ARRAY_TASK_ID nor RANK is set"),
        ({**ARRAY, "SLURM_ARRAY_TASK_ID": "7"}, "task 7 is not one of 4 evenly spaced tasks from 3 on"),
        ({**ARRAY, "SLURM_ARRAY_TASK_ID": "2"}, "task 2 is not one of 4"),
        ({**ARRAY, "SLURM_ARRAY_TASK_STEP": "4"}, "task 5 is not one of 4"),
        ({"SLURM_ARRAY_TASK_ID": "1"}, "SLURM_ARRAY_TASK_MIN is not set"),
        ({**ARRAY, "SLURM_ARRAY_TASK_COUNT": "x"}, "SLURM_ARRAY_TASK_COUNT is 'x', which is no whole number"),
        ({"RANK": "0"}, "WORLD_SIZE is not set"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2, but WORLD_SIZE is 2"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK is '-1'"),
    ],
)
def test_automatic_slices_need_their_environment(environment, message):
    with pytest.raises(UsageError, match=message):
        parse_slice("auto", environment)


@pytest.mark.parametrize(
    ("device", "gpu", "expected"),
    [("cuda", 5, "cuda:1"), ("cuda", 1, "cuda:1"), ("cuda", None, "cuda"), ("cpu", 1, "cpu")],
)
def test_the_process_takes_its_own_gpu(monkeypatch, device, gpu, expected):
    """On a pretended machine with four GPUs."""
    import torch

    from benchmark import runner

    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    found = runner._device(ExecSpec(device=device, gpu=gpu))
    assert str(found) == expected
    assert current == ([found] if gpu is not None and device == "cuda" else [])


def test_automatic_slices_of_an_array_are_the_whole(slices, collect, reference, tmp_path, monkeypatch):
    for name in ("SLURM_ARRAY_TASK_ID", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    alone = slices("auto")
    assert alone.code == 2 and "--slice K/N" in alone.err
    for task in (11, 10):
        for name, value in (("ID", task), ("MIN", 10), ("COUNT", 2)):
            monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "77")
        assert slices("auto").code == 0
    (record,) = json.loads(collect("--json").out)
    assert record["provenance"]["slurm"] == {"SLURM_ARRAY_JOB_ID": "77"}
    assert files_of(tmp_path / "r") == files_of(reference)


# Shares


@pytest.mark.parametrize("of", [1, 2, 3, 4, 7, 99, 120])
@pytest.mark.parametrize("images", [{"calibration": 10_000, "test": 40_000}, {"calibration": 1, "test": 1}])
def test_shares_are_all_shards_once_and_even(of, images):
    shares = [share_of(Slice(number=number, of=of), images, 512) for number in range(1, of + 1)]
    for split, count in images.items():
        assert [number for share in shares for number in share[split]] == list(range(-(-count // 512)))
    sizes = [sum(map(len, share.values())) for share in shares]
    assert max(sizes) - min(sizes) <= 1
