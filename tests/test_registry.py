"""One table for ours and for plug-ins: names found, near names suggested, none taken twice."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint

import pytest

from benchmark.errors import UsageError, near_matches


@pytest.mark.parametrize(
    ("kind", "wrong", "right", "called"),
    [
        ("methods", "QFCS", "'qcfs'", "method"),
        ("datasets", "cifar", "'cifar10'", "dataset"),
        ("models", "smallcnn", "'small-cnn'", "model"),
        ("policies", "dynamic_confidence", "'dynamic-confidence'", "policy"),
    ],
)
def test_an_unknown_name_suggests_and_says_what_lists_them(fresh_registry, kind, wrong, right, called):
    with pytest.raises(UsageError) as refused:
        fresh_registry.load(kind, wrong)
    message = str(refused.value)
    assert message.startswith(f"unknown {called} {wrong!r}.\nDid you mean ")
    assert right in message and message.endswith(f"List them with: python -m benchmark list {kind}")
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qcsf", {"qcfs"}),
        ("QCFS", {"qcfs"}),
        ("dyn", {"Dynamic"}),
        ("zzzz", set()),
        ("aaaa1", {"aaaa2", "aaaa3", "aaaa4"}),
    ],
)
def test_near_matches(name, expected):
    found = near_matches(name, ["qcfs", "Dynamic", "aaaa2", "aaaa3", "aaaa4", "aaaa555555555"])
    assert set(re.findall("'(.+?)'", found)) == expected
    assert found == "" or re.fullmatch("Did you mean '.+'( or '.+')*\\?", found)


@pytest.mark.parametrize("kind", ["methods", "datasets", "models", "policies"])
def test_every_name_can_be_loaded(fresh_registry, kind):
    names = fresh_registry.names(kind)
    assert names == sorted(names) and names
    for name in names:
        assert callable(fresh_registry.load(kind, name))


def test_a_registered_object_is_found(fresh_registry):
    fresh_registry.register("methods", "mine", dict)
    assert fresh_registry.load("methods", "mine") is dict
    assert "mine" in fresh_registry.names("methods") and "mine" not in fresh_registry.names("models")


def test_a_name_is_not_taken_twice(fresh_registry):
    fresh_registry.register("policies", "mine", dict)
    for name in ("mine", "fixed"):
        with pytest.raises(UsageError, match=f"policy '{name}' is already registered"):
            fresh_registry.register("policies", name, list)
    assert fresh_registry.load("policies", "mine") is dict


def test_an_unknown_kind_is_refused(fresh_registry):
    with pytest.raises(UsageError, match="unknown kind of plug-in 'method'") as refused:
        fresh_registry.register("method", "mine", dict)
    assert "'methods'" in str(refused.value)


def test_entry_points_of_installed_packages_are_found(fresh_registry, monkeypatch):
    asked = []

    def entry_points(group):
        asked.append(group)
        return [EntryPoint("theirs", "collections:OrderedDict", group)] if group == "dynconf_bench.methods" else []

    monkeypatch.setattr("benchmark.registry.entry_points", entry_points)
    fresh_registry._installed.cache_clear()
    try:
        from collections import OrderedDict

        assert fresh_registry.load("methods", "theirs") is OrderedDict
        assert "theirs" not in fresh_registry.names("policies")
        assert asked == ["dynconf_bench.methods", "dynconf_bench.policies"]
    finally:
        fresh_registry._installed.cache_clear()


# Files


def plugin(path, body):
    path.parent.mkdir(exist_ok=True)
    path.write_text(body)
    return path


def test_a_plug_in_file_is_run_once(fresh_registry, tmp_path, monkeypatch):
    file = plugin(
        tmp_path / "mine.py",
        "from pathlib import Path\nfrom benchmark.registry import register\n"
        "with Path('log').open('a') as log:\n    log.write('run ')\nregister('methods', 'mine', dict)\n",
    )
    monkeypatch.chdir(tmp_path)
    for path in (file, str(file), "mine.py", tmp_path / "." / "mine.py"):
        fresh_registry.load_plugin(path)
    assert (tmp_path / "log").read_text() == "run "
    assert fresh_registry.load("methods", "mine") is dict


def test_two_files_of_one_name_are_two_plug_ins(fresh_registry, tmp_path):
    for name in ("one", "two"):
        body = f"from benchmark.registry import register\nregister('methods', {name!r}, dict)\n"
        fresh_registry.load_plugin(plugin(tmp_path / name / "mine.py", body))
    assert {"one", "two"} <= set(fresh_registry.names("methods"))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import no_such_module_here", "No module named"),
        ("def", "SyntaxError"),
        ("raise SystemExit(0)", "SystemExit"),
        (
            "from benchmark.registry import register\nregister('methods', 'qcfs', dict)",
            "method 'qcfs' is already registered",
        ),
    ],
)
def test_a_failing_plug_in_is_named(fresh_registry, tmp_path, body, said):
    file = plugin(tmp_path / "mine.py", body)
    for _ in range(2):  # a second attempt must not pass for success
        with pytest.raises(UsageError) as refused:
            fresh_registry.load_plugin(file)
        assert str(file) in str(refused.value) and said in str(refused.value)


def test_an_interrupt_is_no_failing_plug_in(fresh_registry, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fresh_registry.load_plugin(plugin(tmp_path / "mine.py", "raise KeyboardInterrupt"))


@pytest.mark.parametrize("name", ["none.py", "folder", "text.txt"])
def test_what_is_no_python_file_is_named(fresh_registry, tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.txt").write_text("x")
    with pytest.raises(UsageError, match="is not a Python file") as refused:
        fresh_registry.load_plugin(tmp_path / name)
    assert name in str(refused.value)


def test_a_missing_plug_in_is_a_usage_error_of_the_command(call, tmp_path):
    answer = call("run", "--plugin", tmp_path / "none.py")
    assert answer.code == 2 and "none.py is not a Python file" in answer.err
