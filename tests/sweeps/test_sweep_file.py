"""Sweep files: what they stand for, and that whatever is wrong is said with file and line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from benchmark import registry
from benchmark.errors import UsageError
from benchmark.spec import PolicySpec, Slice, digest
from benchmark.sweeps import option_checks
from benchmark.sweeps.lines import Lines
from benchmark.sweeps.option_checks import FILE, check_options
from benchmark.sweeps.sweep_file import load_sweep
from benchmark.sweeps.tasks import Resources
from benchmark.sweeps.toml_file import SweepError


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def load(text, name="table.toml"):
        Path(name).write_text(text)
        return load_sweep(Path(name))

    return load


def labels(sweep):
    return [task.label for task in sweep.tasks]


def test_lists_are_products(load):
    sweep = load('[[cells]]\nmethod = ["qcfs", "cos"]\nseed = [0, 1]\nset = { levels = [2, 4] }\ntimesteps = 8')
    assert sweep.name == "table"
    assert labels(sweep) == [
        f"{method} · digits · levels={levels} · T=8{seed}"
        for method in ("qcfs", "cos")
        for seed in ("", " · seed=1")
        for levels in (2, 4)
    ]
    assert len({task.key for task in sweep.tasks}) == 8


def test_a_row_stands_over_the_defaults_and_tables_key_by_key(load):
    sweep = load(
        """
        [defaults]
        dataset = "synthetic"
        policies = ["fixed"]
        set = { levels = 2, threshold = 4.0 }
        [resources]
        gpus = 1
        time = "1:30:00"
        [[cells]]
        seed = 7
        [[cells]]
        dataset = "digits"
        policies = ["entropy[selection=ltt,epsilon=0.01]", "margin"]
        [cells.set]
        levels = 8
        [cells.resources]
        gpus = 4
        """
    )
    first, second = sweep.tasks
    assert first.cell.dataset == "synthetic" and first.cell.seed == 7
    assert first.cell.method_options == {"levels": 2, "threshold": 4.0}
    assert first.cell.policies == (PolicySpec(name="fixed"),)
    assert first.resources == Resources(gpus=1, time=90)
    assert second.cell.dataset == "digits" and second.cell.method_options == {"levels": 8, "threshold": 4.0}
    assert second.cell.policies[0].options == {"selection": "ltt", "epsilon": "0.01"}
    assert second.resources == Resources(gpus=4, time=90)


def test_equal_tasks_stand_once_and_others_are_excluded(load):
    sweep = load(
        """
        [[cells]]
        method = ["qcfs", "srp", "cos"]
        seed = [0, 1, 2]
        [[cells]]
        method = "qcfs"
        seed = [2, 3]
        [[exclude]]
        method = ["srp", "cos"]
        seed = 1
        [[exclude]]
        method = "cos"
        seed = [0, 2]
        """
    )
    found = [(task.cell.method, task.cell.seed) for task in sweep.tasks]
    assert found == [("qcfs", 0), ("qcfs", 1), ("qcfs", 2), ("srp", 0), ("srp", 2), ("qcfs", 3)]


def test_slices_are_tasks(load):
    sweep = load("[[cells]]\nslices = 3\nworkers = 2")
    assert [task.execution.slice for task in sweep.tasks] == [Slice(number=number, of=3) for number in (1, 2, 3)]
    assert all(task.execution.workers == 2 for task in sweep.tasks)
    assert len({task.key for task in sweep.tasks}) == 3


def test_cells_run_on_trainings_of_the_same_file(load):
    sweep = load(
        """
        [defaults]
        dataset = "synthetic"
        [[trainings]]
        name = "net-{levels}-{seed}"
        preset = "short-cifar"
        epochs = 4
        augment = "none"
        seed = [0, 1]
        set = { levels = [2, 4] }
        resources = { nodes = 2, tasks = 4, gpus = 4 }
        half = true
        [[cells]]
        method = ["qcfs", "srp"]
        checkpoint = "training:net-{levels}-{seed}"
        set = { levels = 4 }
        seed = 1
        """
    )
    trainings, cells = sweep.tasks[:4], sweep.tasks[4:]
    assert [task.name for task in trainings] == ["net-2-0", "net-4-0", "net-2-1", "net-4-1"]
    last = trainings[-1]
    assert last.cell.recipe.epochs == 4 and last.cell.recipe.seed == 1 and last.cell.recipe.augment == ()
    assert last.cell.method_options["levels"] == 4 and last.execution.half
    assert last.resources == Resources(nodes=2, tasks=4, gpus=4)
    assert [cell.needs for cell in cells] == [last.key] * 2
    assert cells[0].cell.checkpoint == "training:net-4-1"


def test_files_are_included_before_the_own_rows(load, tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "common.toml").write_text('[defaults]\ntimesteps = 4\nseed = 1\n[[cells]]\nmethod = "cos"\n')
    sweep = load('include = ["parts/common.toml"]\nname = "mine"\n[defaults]\nseed = 2\n[[cells]]\nmethod = "srp"\n')
    assert sweep.name == "mine"
    assert [(task.cell.method, task.cell.timesteps, task.cell.seed) for task in sweep.tasks] == [
        ("cos", 4, 2),
        ("srp", 4, 2),
    ]


def test_paths_are_whole_and_know_the_environment(load, tmp_path, monkeypatch):
    monkeypatch.setenv("PLACE", "/data")
    sweep = load('[[cells]]\ndata-dir = "$PLACE/x"\ncheckpoint = "nets/a.pt"\n[[cells]]\ncheckpoint = "zoo:b"')
    assert sweep.tasks[0].cell.data_dir == "/data/x"
    assert sweep.tasks[0].cell.checkpoint == str(tmp_path / "nets" / "a.pt")
    assert sweep.tasks[1].cell.checkpoint == "zoo:b"


def test_where_the_data_lie_and_how_it_is_done_is_not_what_is_done(load):
    first = load("[[cells]]\nseed = 1")
    second = load('[[cells]]\nseed = 1\ndata-dir = "/elsewhere"\nbatch-size = 8\nresources = { gpus = 2 }')
    assert first.tasks[0].key == second.tasks[0].key
    assert first.tasks[0].key != load("[[cells]]\nseed = 1\nmeasure = true").tasks[0].key


@pytest.mark.parametrize(
    ("written", "minutes"),
    [("90", 90), (90, 90), ("1:30", 2), ("0:45:00", 45), ("1:00:01", 61), ("2-3", 3060), ("1-00:30:00", 1470)],
)
def test_times_are_slurms(written, minutes):
    assert Resources(time=written).time == minutes


WRONG = [
    ('[[cells]]\n\nmethod = "qcf"', 3, "unknown method 'qcf'.*Did you mean 'qcfs'"),
    ('[[cells]]\nmethod = [\n  "qcfs",\n  "coz",\n]', 4, "unknown method 'coz'.*'cos'"),
    ('[[cells]]\nseed = 0\n[[cells]]\ndataset = "cifar"', 4, "unknown dataset 'cifar'.*'cifar10'"),
    ('[defaults]\nmodel = "resnet21"\n[[cells]]', 3, "unknown model 'resnet21'.*'resnet20'"),
    ('[[cells]]\npolicies = ["fixed", "entropie"]', 2, "unknown policy 'entropie'.*'entropy'"),
    ('[[cells]]\npolicies = ["fixed[timesteps=3"]', 2, "the closing bracket is missing"),
    ('[[cells]]\npolicies = "fixed"', 2, "policies must be a list of names"),
    ("[[cells]]\ntimestep = 3", 2, "unknown key 'timestep'.*'timesteps'"),
    ("[[cells]]\n[[cells]]\ntimesteps = 0", 3, "timesteps: .*greater than 0, not 0"),
    ('[[cells]]\nseed = "a"', 2, "seed: .*valid integer.*'a'"),
    ("[[cells]]\nseed = []", 2, "seed is an empty list"),
    ("[[cells]]\nseed = 1\nset = 3", 3, "set must be a table"),
    ('[[cells]]\n[cells.resources]\ngpu = 1', 3, "gpu: "),
    ('[resources]\nmem = "lots"\n[[cells]]', 2, "mem: "),
    ('[resources]\ntime = "soon"\n[[cells]]', 2, "time: .*HH:MM:SS"),
    ("[[cells]]\nslices = 0", 2, "slices must be a number from 1"),
    ("[[cells]]\nslices = 2\nmeasure = true", 3, "slices are not measured"),
    ('[[cells]]\ncheckpoint = "training:net"', 2, "there is no training 'net'"),
    ('[[cells]]\ncheckpoint = "training:{lvl}"', 2, "does not say a name of the row in its braces: 'lvl'"),
    ('[[cells]]\ndata-dir = "$NO_SUCH_PLACE/x"', 2, "an environment variable that is not set"),
    ('[[cells]]\n[[exclude]]\nmethod = "cos"', 2, "this excludes nothing"),
    ('[[exclude]]\nmethods = "cos"\n[[cells]]', 2, "unknown key 'methods'.*'method'"),
    ('[[trainings]]\ndataset = "digits"', 1, "a training needs a name"),
    ('[[trainings]]\nname = "a"', 1, "a training needs a dataset"),
    ('[[trainings]]\nname = "a"\ndataset = "digits"\npreset = "fast"', 4, "unknown preset 'fast'"),
    ('[[trainings]]\nname = "a"\ndataset = "digits"\nlr = -1', 4, "lr: "),
    ('[[trainings]]\nname = "a"\ndataset = "digits"\nseed = [0, 1]', 2, "two trainings are called 'a'"),
    ("", 1, "no \\[\\[cells\\]\\] and no \\[\\[trainings\\]\\]"),
    ("[cells]\nseed = 1", 1, "cells is written as \\[\\[cells\\]\\]"),
    ('cell = 1', 1, "unknown key 'cell'.*'cells'"),
    ('name = "a/b"\n[[cells]]', 1, "cannot be the name of a folder"),
    ('include = ["none.toml"]', 1, "none.toml is not there"),
    ('include = ["table.toml"]', 1, "includes itself"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "said"), WRONG, ids=[said[:40] for *_, said in WRONG])
def test_what_is_wrong_is_named_with_its_line(load, text, line, said):
    with pytest.raises(SweepError, match=rf"(?s)^table\.toml:{line}: .*{said}"):
        load(text)


def test_what_is_no_toml_says_where(load, tmp_path):
    with pytest.raises(SweepError, match=r"table\.toml is not TOML: .*line 2"):
        load("[[cells]]\nseed = = 1")
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    with pytest.raises(SweepError, match="cannot be read"):
        load_sweep(tmp_path / "bytes.toml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[cells]]\nset = { level = 2 }", "method qcfs has no option 'level'"),
        ('[[cells]]\nset = { levels = "many" }', "must be int"),
        ('[[cells]]\npolicies = ["fixed[step=2]"]', "policy fixed has no option 'step'"),
    ],
)
def test_options_are_checked_by_their_classes(load, text, said):
    for _ in range(2):  # nothing wrong is remembered
        with pytest.raises(UsageError, match=said):
            check_options(load(text))


TORCH_AFTER_CHECK = """
import sys
from pathlib import Path
from benchmark.sweeps.option_checks import check_options
from benchmark.sweeps.sweep_file import load_sweep
check_options(load_sweep(Path(sys.argv[1])))
print("torch" in sys.modules)
"""


@pytest.mark.slow
def test_torch_is_needed_for_new_options_only(tmp_path):
    path = tmp_path / "table.toml"

    def imported(text, cache="cache"):
        path.write_text(text)
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / cache)}
        command = [sys.executable, "-c", TORCH_AFTER_CHECK, str(path)]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
        return {"True": True, "False": False}[done.stdout.strip()]

    row = '[[cells]]\nset = { levels = 4 }\npolicies = ["dynamic-confidence[threshold=0.9]"]\n'
    assert imported(row) and not imported(row)
    assert imported(row.replace("0.9", "0.8")) and imported(row.replace("4", "8"))
    assert not imported(row + row.replace("0.9", "0.8") + row.replace("4", "8"))
    (tmp_path / "cache" / "dynconf-bench" / FILE).write_text("not what we wrote")
    assert imported(row) and not imported(row)
    (tmp_path / "closed").write_text("no folder")
    assert imported(row, "closed") and imported(row, "closed")


def test_edited_code_checks_anew(tmp_path, monkeypatch, load):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code = tmp_path / "edited" / "__init__.py"
    code.parent.mkdir()
    code.write_text("A = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(option_checks, "PACKAGES", ("edited",))
    path = tmp_path / "dynconf-bench" / FILE
    check_options(load("[[cells]]"))
    first = json.loads(path.read_text())
    check_options(load("[[cells]]\nset = { levels = 8 }"))
    second = json.loads(path.read_text())
    assert first["code"] == second["code"] and set(first["accepted"]) < set(second["accepted"])
    code.write_text("A = 12\n")
    check_options(load("[[cells]]"))
    assert json.loads(path.read_text()) == {"code": json.loads(path.read_text())["code"], "accepted": first["accepted"]}
    assert json.loads(path.read_text())["code"] != first["code"]


def test_what_a_plug_in_takes_is_never_remembered(tmp_path, monkeypatch, load, fresh_registry):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    registry.register("methods", "mine", registry.load("methods", "qcfs"))
    check_options(load('[[cells]]\nmethod = "mine"\npolicies = ["fixed"]'))
    kept = json.loads((tmp_path / "dynconf-bench" / FILE).read_text())["accepted"]
    assert kept == [digest(["policies", "fixed", {}])]


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.toml")), ids=lambda path: path.name)
def test_the_shipped_sweeps_are_right(path, monkeypatch):
    monkeypatch.setenv("DATA", "/data")
    sweep = load_sweep(path)
    check_options(sweep)
    assert sweep.tasks


def test_the_demo_is_what_it_says():
    tasks = load_sweep(ROOT / "sweeps" / "demo.toml").tasks
    cells = [task.cell for task in tasks]
    assert len(tasks) == 24
    assert len({cell.method for cell in cells}) == 3 and len({cell.model for cell in cells}) == 2
    assert {cell.seed for cell in cells} == {0, 1, 2, 3} and {cell.dataset for cell in cells} == {"digits"}


def test_lines_of_odd_but_valid_toml():
    lines = Lines(
        'a = [\n  "x", # ]\n  "[y",\n]\n[b.c]\n"d e" = 1\nf.g = { h = 2 }\n[[t]]\nu = 1\n[t.v]\nw = 2\n[[t]]\n[t.v]\nw = 3\n'
    )
    assert [lines.of(("a",)), lines.of(("a",), "[y"), lines.of(("b", "c", "d e"))] == [1, 3, 6]
    assert lines.of(("b", "c", "f", "g", "h")) == 7
    assert [lines.of(("t", 0, "u")), lines.of(("t", 0, "v", "w")), lines.of(("t", 1, "v", "w"))] == [9, 11, 14]
    assert [lines.of(("t", 1, "none")), lines.of(("nothing",)), lines.of(())] == [12, 1, 1]
