"""zoo:ORG/REPO: from the cache of the Hub's client, which a test can build; only `prepare` would go online."""

from __future__ import annotations

import json

import huggingface_hub
import pytest
from conftest import environment
from hub_cache import COMMIT, put

from benchmark import hub
from benchmark.errors import CheckpointError, UsageError
from benchmark.hub import HubFile, parse
from benchmark.locating import resolve


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty cache, and no way out."""
    monkeypatch.delenv("DYNCONF_BENCH_ZOO", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def refuse(*_, **__):
        pytest.fail("tried to reach a network")

    for name in ("socket.getaddrinfo", "socket.create_connection", "socket.socket.connect"):
        monkeypatch.setattr(name, refuse)
    return tmp_path / "hub"


@pytest.fixture
def content(make_checkpoint, tmp_path):
    """The bytes of a checkpoint with a card."""
    return make_checkpoint(tmp_path / "source.safetensors", calibration_accuracy=0.25).read_bytes()


# Names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/net", HubFile("org/net")),
        ("org/net@v1.0", HubFile("org/net", "v1.0")),
        ("org/net@refs/pr/3", HubFile("org/net", "refs/pr/3")),
        ("org/net#l4.safetensors", HubFile("org/net", "main", "l4.safetensors")),
        (f"org/net@{COMMIT}#sub/l4.safetensors", HubFile("org/net", COMMIT, "sub/l4.safetensors")),
    ],
)
def test_names(text, expected):
    assert parse(text) == expected and str(expected) == text


@pytest.mark.parametrize(
    "text",
    [
        "a/b/c",
        "/net",
        "org/",
        "org/n et",
        "org/..",
        "../net",
        "org/net@",
        "org/net@../../x",
        "org/net@/etc",
        "org/net#",
        "org/net#net.pt",
        "org/net#../net.safetensors",
        "org/net#/net.safetensors",
        "org/net#a/../net.safetensors",
    ],
)
def test_names_of_nothing(text):
    with pytest.raises(UsageError, match="ORG/REPO"):
        resolve(f"zoo:{text}")


# In the cache


def test_what_is_not_there_says_how_to_get_it():
    with pytest.raises(CheckpointError, match="zoo:org/net@v1 is not in the cache") as refused:
        resolve("zoo:org/net@v1")
    assert "python -m benchmark prepare zoo:org/net@v1" in str(refused.value)


def test_cached_files_are_found_with_their_commit(cache, content):
    other = "2" * 40
    main = put(cache, "org/net", "model.safetensors", content)
    named = put(cache, "org/net", "l4.safetensors", content + b"4", commit=other, ref="v1")
    deep = put(cache, "org/net", "sub/l8.safetensors", content + b"8", commit=other, ref="v1")
    found = resolve("zoo:org/net")
    assert (found.path, found.origin, found.source) == (main, "hub", f"zoo:org/net@{COMMIT}")
    assert resolve("zoo:org/net@v1#l4.safetensors").path == named
    assert resolve("zoo:org/net@v1#sub/l8.safetensors").source == f"zoo:org/net@{other}#sub/l8.safetensors"
    assert resolve(f"zoo:org/net@{other}#sub/l8.safetensors").path == deep
    for text in ("org/net@v1", "org/net#l4.safetensors", "org/net@v2", "other/net"):
        with pytest.raises(CheckpointError, match="not in the cache"):
            resolve(f"zoo:{text}")


def test_the_source_in_a_record_finds_the_same_file_when_the_branch_has_moved(cache, content):
    put(cache, "org/net", "model.safetensors", content)
    before = resolve("zoo:org/net")
    put(cache, "org/net", "model.safetensors", content + b"new", commit="3" * 40)
    after = resolve("zoo:org/net")
    assert after.path != before.path and after.source != before.source
    assert resolve(before.source).path == before.path


def test_a_blob_that_was_deleted(cache, content):
    put(cache, "org/net", "model.safetensors", content).resolve().unlink()
    with pytest.raises(CheckpointError, match="not in the cache"):
        resolve("zoo:org/net")


def test_list_shows_those_with_a_card(call, cache, content):
    put(cache, "org/net", "model.safetensors", content)
    put(cache, "org/old", "l4.safetensors", content, commit="2" * 40, ref="v1")
    put(cache, "other/llm", "model.safetensors", (2).to_bytes(8, "little") + b"{}")
    put(cache, "other/broken", "model.safetensors", b"half")
    put(cache, "org/net", "README.md", b"# net")
    listed = json.loads(call("list", "checkpoints", "--json").out)
    names = {name: entry for name, entry in listed.items() if entry["origin"] == "hub"}
    assert names.keys() == {"zoo:org/net", f"zoo:org/old@{'2' * 40}#l4.safetensors"}
    for name, entry in names.items():
        assert str(resolve(name).path) == entry["path"] and entry["calibration_accuracy"] == 0.25
    (row,) = [line.split() for line in call("list", "checkpoints").out.splitlines() if line.startswith("zoo:org/net ")]
    assert row[1:6] == ["hub", "digits", "small-cnn", "qcfs", "25.00%"]


# prepare


@pytest.fixture
def fetch(monkeypatch, cache):
    """Replaces the download by a function of repository, file and revision; notes what was asked for."""
    asked = []

    def replace(answer):
        def download(repository, file, revision=None):
            asked.append((repository, file, revision))
            return str(answer(repository, file, revision))

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
        return asked

    return replace


def test_prepare_fetches_and_says_what_it_is(call, cache, content, fetch):
    asked = fetch(lambda repository, file, revision: put(cache, repository, file, content, ref=revision))
    answer = call("prepare", "zoo:org/net@v1#l4.safetensors")
    assert (answer.code, answer.err) == (0, "")
    assert asked == [("org/net", "l4.safetensors", "v1")]
    first, second, third = answer.out.splitlines()
    assert first == f"zoo:org/net@{COMMIT}#l4.safetensors: {resolve('zoo:org/net@v1#l4.safetensors').path}"
    assert second.startswith("sha256 ") and third == "qcfs on digits with small-cnn"


def test_prepare_names_what_is_no_checkpoint_of_ours(call, cache, fetch):
    fetch(lambda repository, file, revision: put(cache, repository, file, (2).to_bytes(8, "little") + b"{}"))
    answer = call("prepare", "zoo:other/net")
    assert answer.code == 0 and "note: it has no card" in answer.out
    fetch(
        lambda repository, file, revision: put(cache, repository, file, b"version https://git-lfs.github.com/spec/v1")
    )
    answer = call("prepare", "zoo:other/pointer")
    assert answer.code == 2 and "pointer of Git LFS" in answer.err


def test_prepare_of_what_is_here_fetches_nothing(call, fetch):
    asked = fetch(lambda *_: pytest.fail("fetched"))
    answer = call("prepare", "zoo:cifar10-resnet20-qcfs-l4")
    assert answer.code == 0 and "cifar10-resnet20-qcfs-l4.safetensors" in answer.out and not asked
    assert "note: trained on a recompressed copy" in answer.out
    wrong = call("prepare", "zoo:cifar10-resnet20-qcfs")
    assert wrong.code == 2 and "Did you mean 'cifar10-resnet20-qcfs-l4'" in wrong.err


def error_of(name):
    """An error of the Hub's client; its constructors, which want an answer of a server, differ between versions."""
    from huggingface_hub import errors

    cls = getattr(errors, name)
    text = "the reason\nin two lines"
    return cls.__new__(cls, text) if issubclass(cls, errors.HfHubHTTPError) else cls(text)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("GatedRepoError", "asks for agreement to its terms"),
        ("RepositoryNotFoundError", "there is none, or it is private"),
        ("RevisionNotFoundError", "has no revision 'v1'"),
        ("LocalEntryNotFoundError", "cannot be reached: the reason in two lines"),
        ("OfflineModeIsEnabled", "cannot be reached: the reason in two lines"),
        ("EntryNotFoundError", "has no model.safetensors.\nName one of its files with #: l4.safetensors."),
        ("HfHubHTTPError", "model.safetensors cannot be fetched from repository org/net"),
    ],
)
def test_what_the_hub_refuses_is_told_in_a_line(call, monkeypatch, fetch, name, said):
    def refuse(*_):
        raise error_of(name)

    fetch(refuse)
    files = ["README.md", "l4.safetensors"]
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_, **__: files)
    answer = call("prepare", "zoo:org/net@v1")
    assert (answer.code, answer.out) == (2, "") and said in answer.err and "org/net" in answer.err
    assert "Traceback" not in answer.err


def test_a_missing_file_is_told_even_if_the_hub_does_not_say_what_is_there(call, monkeypatch, fetch):
    def refuse(*_, **__):
        raise error_of("EntryNotFoundError")

    def fail(*_, **__):
        raise error_of("HfHubHTTPError")

    fetch(refuse)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", fail)
    answer = call("prepare", "zoo:org/net")
    assert answer.code == 2 and "has no model.safetensors" in answer.err and "Traceback" not in answer.err
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", lambda *_, **__: ["model.bin"])
    assert "It has no .safetensors file at all" in call("prepare", "zoo:org/net").err


def test_a_full_disk_is_told(call, fetch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    fetch(refuse)
    answer = call("prepare", "zoo:org/net")
    assert answer.code == 2 and "No space left on device" in answer.err


def test_prepare_offline_as_users_call_it(cli, tmp_path, cache, content):
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
    answer = cli("prepare", "zoo:org/net", cwd=tmp_path, env=offline)
    assert (answer.code, answer.out) == (2, "") and "org/net" in answer.err and "cannot be reached" in answer.err
    path = put(cache, "org/net", "model.safetensors", content)
    answer = cli("prepare", "zoo:org/net", cwd=tmp_path, env=offline)
    assert answer.code == 0 and answer.out.startswith(f"zoo:org/net@{COMMIT}: {path}\n")


def test_run_never_fetches(call, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: pytest.fail("fetched"))
    answer = call("run", "--checkpoint", "zoo:org/net")
    assert (answer.code, answer.out) == (2, "")
    assert "zoo:org/net is not in the cache" in answer.err and "prepare zoo:org/net" in answer.err


def test_the_environment_decides_where_the_cache_is(tmp_path, content):
    import subprocess
    import sys

    path = put(tmp_path / "elsewhere", "org/net", "model.safetensors", content)
    program = "from benchmark.locating import locate; print(locate('zoo:org/net'))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment(HF_HUB_CACHE=str(tmp_path / "elsewhere"), HF_HUB_OFFLINE="1"),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == str(path)


def test_an_empty_cache_is_not_scanned(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "scan_cache_dir", lambda *_: pytest.fail("scanned"))
    assert list(hub.in_cache()) == []
