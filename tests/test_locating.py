"""Where checkpoints are: files, the zoo's places in their order, and what a record calls what was found there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import environment
from hub_cache import put

from benchmark import locating
from benchmark.card import read_card
from benchmark.errors import CheckpointError, UsageError
from benchmark.locating import locate, resolve, shipped, zoo

SHIPPED = "cifar10-resnet20-qcfs-l4"


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch, tmp_path):
    """No folder of the user's own, and an empty cache of the Hub."""
    monkeypatch.delenv("DYNCONF_BENCH_ZOO", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no hub"))


def test_files(tmp_path, make_checkpoint):
    (tmp_path / "net.pt").touch()
    found = resolve(str(tmp_path / "net.pt"))
    assert (found.path, found.source, found.origin) == (tmp_path / "net.pt", "net.pt", "file")
    for missing in ("none.pt", str(tmp_path)):
        with pytest.raises(CheckpointError, match="does not exist"):
            locate(missing)
    make_checkpoint(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"pass {tmp_path}/model.safetensors"):
        locate(str(tmp_path))


def test_shipped_files():
    assert SHIPPED in zoo() and [found.origin for found in shipped()] == ["shipped"] * len(zoo())
    found = resolve(f"zoo:{SHIPPED}")
    assert (found.path, found.source, found.hidden_by) == (zoo()[SHIPPED], f"zoo:{SHIPPED}", None)


def test_an_unknown_name(monkeypatch, tmp_path):
    with pytest.raises(UsageError, match="unknown checkpoint 'cifar10-resnet20-qcfs'") as refused:
        locate("zoo:cifar10-resnet20-qcfs")
    assert f"'{SHIPPED}'" in str(refused.value) and "python -m benchmark list checkpoints" in str(refused.value)
    assert "DYNCONF" not in str(refused.value)
    monkeypatch.setenv("DYNCONF_BENCH_ZOO", str(tmp_path / "typo"))
    with pytest.raises(UsageError, match=f"DYNCONF_BENCH_ZOO names {tmp_path}/typo, which is no folder"):
        locate("zoo:cifar10-resnet20-qcfs")


@pytest.fixture
def three_folders(monkeypatch, tmp_path, make_checkpoint):
    """Two folders that the variable names, and the user's own; the same name in several, told apart by `dataset`."""
    monkeypatch.setenv(
        "DYNCONF_BENCH_ZOO", os.pathsep.join([str(tmp_path / "a"), "", f" {tmp_path / 'b'} ", "/no/such"])
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    own = tmp_path / "cache" / "dynconf-bench" / "zoo"
    for path in (
        tmp_path / "a" / "first.safetensors",
        tmp_path / "b" / "first.safetensors",
        tmp_path / "b" / "second" / "model.safetensors",
        own / "second.safetensors",
        own / "third.safetensors",
        own / f"{SHIPPED}.safetensors",
        tmp_path / "a" / ".first.safetensors.half-written.safetensors",
        tmp_path / "a" / "not" / "other.safetensors",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        make_checkpoint(path, dataset=path.parent.name)
    (tmp_path / "a" / "notes.txt").touch()
    return tmp_path / "a", tmp_path / "b", own


def test_the_first_place_with_the_name_wins(three_folders):
    a, b, own = three_folders
    expected = {"first": a / "first.safetensors", "second": b / "second" / "model.safetensors"}
    expected |= {"third": own / "third.safetensors", **{found.path.stem: found.path for found in shipped()}}
    assert zoo() == expected
    assert {name: locate(f"zoo:{name}") for name in expected} == expected
    assert read_card(locate(f"zoo:{SHIPPED}")).dataset == "cifar10"


def test_hidden_files_are_known_by_their_path(three_folders):
    _, b, own = three_folders
    hidden = {found.name: found.hidden_by for found in locating.local() if found.hidden_by}
    assert hidden == {
        str(b / "first.safetensors"): "zoo:first",
        str(own / "second.safetensors"): "zoo:second",
        str(own / f"{SHIPPED}.safetensors"): f"zoo:{SHIPPED}",
    }
    for name in hidden:
        assert str(locate(name)) == name


def test_a_record_calls_zoo_what_was_shipped_alone(three_folders):
    """Two machines may have different files of one local name: the prefix promises more than they keep."""
    assert resolve("zoo:first").source == "first.safetensors"
    assert resolve("zoo:second").source == "second/model.safetensors"
    assert resolve(f"zoo:{SHIPPED}").source == f"zoo:{SHIPPED}"
    assert not any(str(folder) in found.source for folder in three_folders for found in locating.local())


def test_the_own_folder_is_below_home(monkeypatch, tmp_path, make_checkpoint):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / ".cache" / "dynconf-bench" / "zoo" / "mine.safetensors"
    path.parent.mkdir(parents=True)
    make_checkpoint(path)
    assert locate("zoo:mine") == path
    monkeypatch.setenv("DYNCONF_BENCH_ZOO", "~/more")
    (tmp_path / "more").mkdir()
    shutil.copy(path, tmp_path / "more" / "other.safetensors")
    assert locate("zoo:other") == tmp_path / "more" / "other.safetensors"


def test_a_user_without_a_home(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.home", homeless)
    assert SHIPPED in zoo()


# list checkpoints


def test_list_shows_every_place_and_what_is_wrong(call, three_folders):
    a, b, _ = three_folders
    (a / "broken.safetensors").write_bytes(b"half")
    answer = call("list", "checkpoints", "--json")
    assert answer.code == 0 and answer.err == "note: DYNCONF_BENCH_ZOO names /no/such, which is no folder\n"
    listed = json.loads(answer.out)
    assert listed[f"zoo:{SHIPPED}"]["origin"] == "shipped" and listed[f"zoo:{SHIPPED}"]["folder"] is None
    first = listed["zoo:first"]
    assert (first["origin"], first["folder"], first["path"]) == ("local", str(a), str(a / "first.safetensors"))
    assert (first["dataset"], first["model"], first["method"]) == ("a", "small-cnn", "qcfs")
    assert first["bytes"] == (a / "first.safetensors").stat().st_size and first["problem"] is None
    assert listed[str(b / "first.safetensors")]["problem"] == "its name is taken by another zoo:first"
    assert (
        "is not a complete safetensors file" in listed["zoo:broken"]["problem"] and "model" not in listed["zoo:broken"]
    )
    lines = call("list", "checkpoints").out.splitlines()
    assert lines[0].split() == ["name", "from", "dataset", "model", "method", "calibration", "size", "remarks"]
    (row,) = [line for line in lines if line.startswith("zoo:broken ")]
    assert str(a) in row and "not a complete safetensors file" in row
    (row,) = [line for line in lines if line.startswith(f"zoo:{SHIPPED} ")]
    assert all(
        part in row for part in ("shipped", "cifar10", "resnet20", "qcfs", "88.06%", "0.57 MB", "recompressed copy")
    )


def test_the_list_needs_no_torch(tmp_path):
    put(tmp_path / "hub", "org/net", "model.safetensors", shipped()[0].path.read_bytes())
    program = (
        "import sys; from benchmark.cli import cli;"
        "cli.main(['list', 'checkpoints'], standalone_mode=False); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment(HF_HUB_CACHE=str(tmp_path / "hub")),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0 and "zoo:org/net " in done.stdout, done.stderr


def test_list_as_users_call_it(cli, tmp_path, make_checkpoint):
    make_checkpoint(tmp_path / "mine.safetensors", calibration_accuracy=0.5, flags=("a remark", "another"))
    answer = cli("list", "checkpoints", cwd=tmp_path, env={"DYNCONF_BENCH_ZOO": "."})
    assert (answer.code, answer.err) == (0, "")
    (row,) = [line for line in answer.out.splitlines() if line.startswith("zoo:mine ")]
    assert row.split()[1:6] == [".", "digits", "small-cnn", "qcfs", "50.00%"] and row.endswith("a remark; another")
