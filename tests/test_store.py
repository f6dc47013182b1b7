"""Where records lie: found by id, written whole or not at all, whoever else writes or dies."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from conftest import environment

from benchmark.errors import RecordError, UsageError
from benchmark.store import ResultStore, file_name, sha256_of, write_atomic


@pytest.fixture
def store(tmp_path):
    return ResultStore(tmp_path / "results")


def files_below(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def process(program, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)], env=environment(), stderr=subprocess.PIPE, text=True
    )


# Saving and finding


def test_a_saved_record_is_found_again(store, make_record):
    record = make_record()
    assert store.get(record.spec) is None
    path = store.save(record)
    assert path == store.root / "digits" / "small-cnn" / "qcfs" / f"{record.id}.json" == store.path(record.spec)
    assert store.get(record.spec) == record
    assert store.load_all() == ([record], [])
    assert files_below(store.root) == [path]
    assert path.stat().st_mode & 0o777 == 0o644


def test_saving_again_replaces(store, make_record):
    store.save(make_record())
    store.save(make_record(flags=("new",)))
    assert store.get(make_record().spec).flags == ("new",)
    assert len(files_below(store.root)) == 1


def test_find_by_prefix(store, make_record):
    kept = [make_record({"seed": seed}) for seed in range(40)]
    for record in kept:
        store.save(record)
    by_letter = {}
    for record in kept:
        by_letter.setdefault(record.id[0], []).append(record)
    alone = next(found[0] for found in by_letter.values() if len(found) == 1)
    crowd = next(found for found in by_letter.values() if len(found) > 1)
    assert store.find(alone.id) == store.find(alone.id[:6]) == store.find(alone.id[0]) == alone
    with pytest.raises(UsageError, match="is not unique") as refused:
        store.find(crowd[0].id[0])
    assert all(record.id in str(refused.value) for record in crowd)
    with pytest.raises(UsageError, match="no record 'nope'") as refused:
        store.find("nope")
    assert str(store.root) in str(refused.value)


def test_find_in_an_empty_or_missing_folder(store):
    with pytest.raises(UsageError, match="no record 'a'"):
        store.find("a")
    assert store.load_all() == ([], [])


def test_a_bad_record_is_named_and_the_others_are_read(store, make_record):
    record = make_record()
    store.save(record)
    bad = store.path(make_record({"seed": 5}).spec)
    bad.write_text(make_record({"seed": 5}).to_json()[:-10])
    good, problems = store.load_all()
    assert good == [record]
    assert [problem.path for problem in problems] == [bad] and problems[0].reason.startswith(f"{bad}: not JSON")
    with pytest.raises(RecordError, match="not JSON"):
        store.get(make_record({"seed": 5}).spec)
    with pytest.raises(RecordError, match="not JSON"):
        store.find(bad.stem)


def test_other_files_are_no_records(store, make_record):
    path = store.save(make_record())
    for name in (
        f"digits/small-cnn/qcfs/.{path.name}.tmp123.json",
        "digits/small-cnn/qcfs/.hidden.json",
        "digits/notes.txt",
        "recordings/abc/test/recording.json",
        "checkpoints/card.json",
    ):
        other = store.root / name
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_text("half a fi")
    assert list(store.paths()) == [path]
    assert store.load_all()[1] == []


def test_names_become_file_names(store, make_record):
    assert file_name("timm:a/b c.d_e-f") == "timm_a_b_c.d_e-f"
    record = make_record({"model": "timm:a/../../b"})
    assert store.save(record).relative_to(store.root).parts[:2] == ("digits", "timm_a_.._.._b")
    assert store.get(record.spec) == record


def test_sha256(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256_of(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# Atomic writes


WRITER = """
import sys
from pathlib import Path
from benchmark.store import write_atomic
for _ in range(120):
    write_atomic(Path(sys.argv[1]), sys.argv[2].encode() * 300_000)
"""


def test_concurrent_writers_never_show_half_a_file(tmp_path):
    path = tmp_path / "folder" / "file"
    writers = [process(WRITER, path, letter) for letter in "abc"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            content = path.read_bytes()
            assert len(content) == 300_000 and content == content[:1] * 300_000
            seen.add(content[:1])
    assert [(writer.wait(), writer.stderr.read()) for writer in writers] == [(0, "")] * 3
    for writer in writers:
        writer.stderr.close()
    assert len(seen) > 1, "the writers did not overlap; the test shows nothing"
    assert files_below(tmp_path) == [path]


KILLED = """
import os, signal, sys
from pathlib import Path
from benchmark.records import load_record
from benchmark.store import ResultStore
os.replace = lambda source, target: os.kill(os.getpid(), signal.SIGKILL)
Path.replace = os.replace
ResultStore(sys.argv[1]).save(load_record(Path(sys.argv[2])))
"""


@pytest.mark.parametrize("there_before", [False, True])
def test_a_kill_before_the_rename_leaves_nothing_visible(tmp_path, store, make_record, there_before):
    old, new = make_record(flags=("old",)), make_record(flags=("new",))
    if there_before:
        store.save(old)
    (tmp_path / "new.json").write_text(new.to_json())
    killed = process(KILLED, store.root, tmp_path / "new.json")
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    left = [path for path in files_below(store.root) if path != store.path(new.spec)]
    assert len(left) == 1 and left[0].name.startswith("."), "the writer was killed too early or too late"
    assert store.load_all() == ([old] if there_before else [], [])
    assert store.get(new.spec) == (old if there_before else None)
    store.save(new)
    assert store.get(new.spec) == new


@pytest.mark.parametrize("content", [b"", b"x" * 100])
def test_write_atomic_makes_folders_and_replaces(tmp_path, content):
    path = tmp_path / "a" / "b" / "file"
    write_atomic(path, b"before")
    write_atomic(path, content)
    assert path.read_bytes() == content
    assert files_below(tmp_path) == [path]


def test_a_failing_write_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def fail(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old" and files_below(tmp_path) == [path]
