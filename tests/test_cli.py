"""The command line as users call it. `python tests/test_cli.py` freezes the options anew."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import click
import pytest
from conftest import environment

from benchmark.cli import cli as group
from benchmark.records import load_record, parse_record

COMMANDS = sorted(group.commands)


def commands_below(command, *names):
    """Every command by the words that call it, those of a group too."""
    for name, found in sorted(command.commands.items()):
        yield (*names, name), found
        if isinstance(found, click.Group):
            yield from commands_below(found, *names, name)


EVERY = dict(commands_below(group))
OPTIONS = Path(__file__).with_name("test_cli_options.json")
HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "datasets",
    "pandas",
    "numpy",
    "scipy",
    "sklearn",
    "matplotlib",
    "safetensors",
    "submitit",
    "pydantic",
)


# Help and lists


@pytest.mark.parametrize("command", [[], *map(list, EVERY)], ids=lambda command: " ".join(command) or "group")
def test_help(cli, tmp_path, command):
    answer = cli(*command, "--help", cwd=tmp_path)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(" ".join(["Usage: python -m benchmark", *command]))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["list", "methods"],
        ["list", "datasets"],
        ["list", "models"],
        ["list", "policies"],
    ],
    ids=" ".join,
)
def test_help_and_lists_import_nothing_heavy(tmp_path, arguments):
    program = textwrap.dedent(f"""
        import sys
        from benchmark.cli import main
        sys.argv = ["benchmark", *{arguments!r}]
        try:
            main()
        except SystemExit as stopped:
            assert stopped.code == 0, stopped.code
        heavy = sorted(set({HEAVY!r}) & set(sys.modules))
        sys.exit(f"imported {{heavy}}" if heavy else 0)
    """)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def options_now() -> dict[str, dict[str, str]]:
    """Every argument and option of every command: its names, and what it takes."""
    return {
        " ".join(names): {", ".join(parameter.opts): takes(parameter) for parameter in command.params}
        for names, command in EVERY.items()
    }


def takes(parameter: click.Parameter) -> str:
    """The type of a parameter, whether it is required or may be repeated, and its default."""
    kind = parameter.type.name
    if isinstance(parameter.type, click.Choice):
        kind = "|".join(parameter.type.choices)
    elif isinstance(parameter.type, click.IntRange):
        kind = f"integer from {parameter.type.min}"
    elif getattr(parameter, "is_flag", False):
        kind = "flag"
    words = [kind, *(word for word in ("required", "multiple") if getattr(parameter, word, False))]
    if kind != "flag" and isinstance(parameter.default, (int, float, str, Path)):
        words.append(f"default {parameter.default}")
    return ", ".join(words)


def test_the_options_are_the_frozen_ones():
    frozen, now = json.loads(OPTIONS.read_text()), options_now()
    for command in sorted(frozen.keys() | now.keys()):
        assert now.get(command) == frozen.get(command), (
            f"the options of {command!r} changed. Others rely on them; if the change is wanted: "
            "python tests/test_cli.py, and say so in the change log"
        )


def test_run_has_the_options_of_the_contract():
    promised = {
        "method",
        "dataset",
        "model",
        "checkpoint",
        "timesteps",
        "policy",
        "set",
        "limit",
        "calibration-size",
        "seed",
        "batch-size",
        "device",
        "precision",
        "data-dir",
        "results",
        "measure",
        "plugin",
        "json",
    }
    assert not {f"--{name}" for name in promised} - set(options_now()["run"])


@pytest.mark.parametrize(
    ("kind", "name"),
    [("methods", "qcfs"), ("datasets", "digits"), ("models", "small-cnn"), ("policies", "dynamic-confidence")],
)
def test_list(cli, call, tmp_path, kind, name):
    answer = cli("list", kind, cwd=tmp_path)
    assert (answer.code, answer.err) == (0, "")
    listed = json.loads(call("list", kind, "--json").out)
    assert name in listed and listed[name]["summary"]
    for entry in listed:
        assert any(line.split()[0] == entry for line in answer.out.splitlines())


def test_list_checkpoints_shows_the_cards_of_the_zoo(call, make_checkpoint, monkeypatch, tmp_path):
    make_checkpoint(tmp_path / "mine.safetensors", calibration_accuracy=0.5)
    monkeypatch.setenv("DYNCONF_BENCH_ZOO", str(tmp_path))
    assert json.loads(call("list", "checkpoints", "--json").out)["zoo:mine"]["dataset"] == "digits"
    (row,) = [line.split() for line in call("list", "checkpoints").out.splitlines() if "zoo:mine" in line]
    assert row == ["zoo:mine", str(tmp_path), "digits", "small-cnn", "qcfs", "50.00%", "0.10", "MB"]


def test_list_checkpoints_of_the_real_zoo(call):
    assert call("list", "checkpoints", "--json").code == 0


def test_console_script(tmp_path):
    script = Path(sys.executable).with_name("dynconf-bench")
    done = subprocess.run(
        [script, "list", "methods"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "qcfs" in done.stdout


# Run


def test_run_without_options_prints_one_record_and_nothing_else(finished):
    record = parse_record(finished.answer.out)
    assert json.loads(finished.answer.out)["schema"] == 1
    spec = record.spec
    assert (record.status, spec.method, spec.dataset, spec.timesteps) == ("ok", "qcfs", "digits", 32)
    assert [policy.name for policy in record.policies] == ["dynamic-confidence"]
    assert record.ann.accuracy.value > 0.93 and record.static.accuracy.value > 0.93
    assert record.policies[0].latency.mean < record.static.latency == 32
    assert finished.record_file.read_text() == finished.answer.out
    for said in ("small-cnn for qcfs on digits", "recording test: 500/500 images", record.id, "dynamic-confidence"):
        assert said in finished.answer.err
    assert "Warning" not in finished.answer.err


def test_its_artifacts_are_the_files_it_names(finished):
    from benchmark.store import sha256_of

    artifacts = load_record(finished.record_file).artifacts
    assert len(artifacts) == 2
    for artifact in artifacts:
        assert sha256_of(finished.results / artifact.path) == artifact.sha256


def test_the_same_run_again_is_answered_from_the_store(finished, cli, tmp_path):
    shutil.copytree(finished.results, tmp_path / "results")
    shutil.rmtree(tmp_path / "results" / "recordings")
    file = tmp_path / "results" / finished.record_file.relative_to(finished.results)
    before = file.stat().st_mtime_ns
    answer = cli("run", "--json", "--results", "results", cwd=tmp_path)
    assert answer.code == 0
    assert answer.out == finished.answer.out == file.read_text()
    assert file.stat().st_mtime_ns == before
    assert f"record {finished.id} was in the store already; --rerun repeats it" in answer.err
    # Had it simulated, the recordings would be there again.
    assert "recording" not in answer.err and not (tmp_path / "results" / "recordings").exists()


def test_rerun_repeats_it_with_the_same_numbers(small_run, call, tmp_path):
    first = call(*small_run, "--json")
    shards = {path: path.stat().st_mtime_ns for path in tmp_path.glob("results/recordings/*/*/*")}
    second = call(*small_run, "--json", "--rerun")
    assert (first.code, second.code) == (0, 0)
    assert "was in the store" not in second.err
    assert len(shards) == 4 and all(path.stat().st_mtime_ns != made for path, made in shards.items())
    one, two = json.loads(first.out), json.loads(second.out)
    assert one.pop("provenance")["phases"] != two.pop("provenance")["phases"]
    assert one == two


def test_the_table_is_for_people_on_stdout(small_run, call):
    answer = call(*small_run, "--policy", "fixed", "--policy", "dynamic-confidence[scale=30,threshold=0.6]")
    assert answer.code == 0
    assert "all 4 timesteps" in answer.out and "dynamic-confidence (scale 30, threshold 0.6; given)" in answer.out
    assert not answer.out.startswith("{")


@pytest.mark.parametrize(
    "changes",
    [["--timesteps", 3], ["--limit", 39], ["--seed", 1], ["--precision", "fp64"], ["--policy", "fixed"]],
    ids=lambda changes: changes[0],
)
def test_another_request_is_another_record(small_run, call, changes):
    records = [json.loads(call(*small_run, *more, "--json").out) for more in ([], changes)]
    assert records[0]["id"] != records[1]["id"]


def test_batch_size_and_workers_do_not_make_another_record(small_run, call):
    first = call(*small_run, "--json")
    assert call(*small_run, "--batch-size", 7, "--workers", 1, "--json").out == first.out


def test_measure_adds_the_clock_to_a_stored_record(small_run, call):
    assert json.loads(call(*small_run, "--json").out)["measured"] is None
    answer = call(*small_run, "--measure", "--json")
    measured = json.loads(answer.out)["measured"]
    assert measured["static_seconds"] > 0 and measured["images"] == 40 and measured["differing_images"] == 0
    assert "on the clock" in answer.err


def test_replay_gives_the_numbers_of_the_record(finished, call, tmp_path):
    answer = call("replay", finished.recording, "--json")
    assert answer.code == 0
    assert json.loads(answer.out) == json.loads(finished.record_file.read_text())["policies"]
    shutil.copytree(finished.recording, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "test")
    assert call("replay", tmp_path / "copy").code == 1


def test_replay_of_other_policies(finished, call):
    answer = call(
        "replay",
        finished.recording,
        "--policy",
        "fixed[timesteps=5]",
        "--policy",
        "dynamic-confidence-reference",
        "--json",
    )
    fixed, reference = json.loads(answer.out)
    assert (fixed["latency"]["mean"], fixed["exit_histogram"][4]) == (5.0, 500)
    assert (reference["params"]["scale"], reference["params"]["threshold"]) == (30.0, 0.6)
    curve = load_record(finished.record_file).curve
    assert fixed["accuracy"]["value"] == curve.accuracy[4] and fixed["spikes_per_image"] == curve.spikes_per_image[4]


# Looking at records


def test_show(finished, call):
    answer = call("show", finished.id[:5], "--results", finished.results)
    assert answer.code == 0 and f"record {finished.id}" in answer.out and "protocol digits" in answer.out
    as_json = call("show", finished.id[:5], "--results", finished.results, "--json")
    assert as_json.out == finished.record_file.read_text()


def test_show_names_what_is_missing(finished, call):
    answer = call("show", "zzz", "--results", finished.results)
    assert answer.code == 2 and "no record 'zzz'" in answer.err and not answer.out


def test_compare(small_run, call, tmp_path):
    one, two = (json.loads(call(*small_run, *more, "--json").out) for more in ([], ["--timesteps", 3]))
    answer = call("compare", one["id"][:6], two["id"][:6], "--results", tmp_path / "results")
    assert answer.code == 0
    lines = [line.split() for line in answer.out.splitlines()]
    assert ["timesteps", "4", "3"] in lines
    assert ["latency,", "all", "timesteps", "4", "3", "-1"] in lines
    assert "Different protocols" not in answer.out
    assert call("compare", one["id"], one["id"], "--results", tmp_path / "results").code == 2


def test_compare_warns_of_different_protocols(small_run, call, tmp_path):
    ids = [json.loads(call(*small_run, *more, "--json").out)["id"] for more in ([], ["--limit", 39])]
    assert "Different protocols" in call("compare", *ids, "--results", tmp_path / "results").out


# Other commands


def test_doctor(call):
    findings = json.loads(call("doctor", "--json").out)
    assert findings["tf32 in fp32 runs"] == "off" and findings["dataset digits"] == "found"
    assert {"python", "torch", "device"} <= findings.keys()
    assert "dataset digits" in call("doctor").out


@pytest.mark.parametrize("dataset", ["digits", "synthetic"])
def test_prepare_prints_fingerprints(call, dataset, tmp_path):
    from benchmark import registry

    answer = call("prepare", dataset, "--data-dir", tmp_path / "data")
    source = registry.load("datasets", dataset)(None)
    expected = [
        f"{dataset} {name}: {len(source.split(name))} images, fingerprint {source.split(name).fingerprint}"
        for name in ("train", "calibration", "test")
    ]
    assert (answer.code, answer.out.splitlines(), answer.err) == (0, expected, "")


def test_prepare_downloads_only_what_is_missing(call, tmp_path, monkeypatch):
    fetched = []
    monkeypatch.setattr("benchmark.data.cifar10.Cifar10.download", staticmethod(fetched.append))
    answer = call("prepare", "cifar10", "--data-dir", tmp_path / "data")
    assert fetched == [tmp_path / "data"]
    assert answer.code == 2 and "cifar10 is not on this disk" in answer.err


@pytest.mark.slow
def test_selftest_passes(call):
    answer = call("selftest", "--json")
    findings = json.loads(answer.out)
    assert answer.code == 0 and all(finding["passed"] for finding in findings)
    assert {"method qcfs / plain", "method qcfs / residual", "policy dynamic-confidence / qcfs"} <= {
        finding["subject"] for finding in findings
    }
    assert f"{len(findings)} passed, 0 failed" in answer.err


METHOD = """
from benchmark.registry import register
from methods.neurons import IFNeuron
from methods.qcfs import QCFS

class Neuron(IFNeuron):
    {neuron}

class Mine(QCFS):
    name = "mine"

    def neuron(self, activation):
        made = super().neuron(activation)
        return Neuron(made.threshold, made.initial)

register("methods", "mine", Mine)
"""
DRIFTS = """
    def fire(self, current):
        self.threshold *= 1.01
        return super().fire(current)
"""
FORGETS_TO_KEEP = """
    def keep(self, rows):
        self.membrane = self.membrane[:len(rows)]
"""


@pytest.mark.parametrize(
    ("neuron", "broken"),
    [
        ("pass", None),
        (DRIFTS, "the same images give the same result again"),
        (FORGETS_TO_KEEP, "keep(mask) equals the kept images alone"),
        ("fire = None", "runs without an error"),
    ],
    ids=["good", "drifts", "forgets to keep", "raises"],
)
def test_selftest_of_a_plug_in_method(call, tmp_path, monkeypatch, neuron, broken):
    plugin = tmp_path / "mine.py"
    plugin.write_text(METHOD.format(neuron=neuron))
    # Only the plug-in; ours have been tested above.
    monkeypatch.setattr("benchmark.registry._table", lambda kind: {})
    answer = call("selftest", "--plugin", plugin, "--json")
    failed = {finding["promise"] for finding in json.loads(answer.out) if not finding["passed"]}
    assert answer.code == (1 if broken else 0)
    assert (broken in failed) if broken else not failed
    if broken:
        line = next(line for line in answer.err.splitlines() if broken in line)
        assert line.startswith("method mine / ") and "FAILED" in line


def test_a_plug_in_method_can_be_run(small_run, call, tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(METHOD.format(neuron="pass"))
    mine, ours = (
        json.loads(call(*small_run, *more, "--json").out) for more in (["--plugin", plugin, "--method", "mine"], [])
    )
    assert mine["spec"]["method"] == "mine" and mine["id"] != ours["id"]
    assert mine["curve"] == ours["curve"]


# Typing errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--method", "qfcs"], ["unknown method 'qfcs'", "'qcfs'", "list methods"]),
        (["run", "--dataset", "cifar-10"], ["unknown dataset 'cifar-10'", "'cifar10'", "list datasets"]),
        (["run", "--model", "resnet-20"], ["unknown model 'resnet-20'", "'resnet20'", "list models"]),
        (
            ["run", "--policy", "dynamic-confidense"],
            ["unknown policy 'dynamic-confidense'", "'dynamic-confidence'", "list policies"],
        ),
        (["run", "--timestep", "4"], ["--timesteps"]),
        (["rnu"], ["'rnu'", "'run'"]),
        (["leaderbord"], ["'leaderbord'", "'leaderboard'"]),
        (["prepare", "digit"], ["unknown dataset 'digit'", "'digits'"]),
        (["list", "method"], ["'method'", "'methods'"]),
    ],
    ids=lambda value: " ".join(value) if value[0] in (*COMMANDS, "rnu", "leaderbord") else "",
)
def test_a_near_match_is_suggested(cli, tmp_path, arguments, said):
    answer = cli(*arguments, cwd=tmp_path)
    assert (answer.code, answer.out) == (2, "")
    for words in said:
        assert words in answer.err
    assert "Traceback" not in answer.err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "level=8"], ["method qcfs has no option 'level'", "'levels'"]),
        (["--set", "levels=four"], ["option 'levels' of method qcfs must be int, not 'four'"]),
        (["--set", "threshold=nan"], ["option 'threshold' of method qcfs must be float, not 'nan'"]),
        (["--set", "levels"], ["'levels' is not KEY=VALUE"]),
        (["--set", "levels=4", "--set", "levels=8"], ["levels is given twice"]),
        (["--policy", "fixed[timestep=3]"], ["policy fixed has no option 'timestep'", "'timesteps'"]),
        (["--policy", "fixed[timesteps=0]"], ["timesteps must be at least 1"]),
        (["--policy", "fixed[timesteps=3"], ["the closing bracket is missing"]),
        (["--policy", "fixed[tolerance=inf]"], ["option 'tolerance' of policy fixed must be float, not 'inf'"]),
        (["--policy", "dynamic-confidence[selection=luck]"], ["knows no selection 'luck'"]),
        (["--checkpoint", "zoo:no-such-thing"], ["unknown checkpoint 'no-such-thing'", "list checkpoints"]),
        (["--checkpoint", "timm:resnet18"], ["timm:resnet18"]),
        (["--checkpoint", "nowhere.pt"], ["checkpoint nowhere.pt does not exist"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_a_wrong_option_is_a_usage_error(small_run, call, arguments, said):
    answer = call(*small_run, *arguments)
    assert (answer.code, answer.out) == (2, "")
    for words in said:
        assert words in answer.err


def test_a_foreign_recordings_folder_is_named(small_run, call, tmp_path):
    assert call(*small_run).code == 0
    (shard,) = tmp_path.glob("results/recordings/*/test/shard-00000.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1])
    next(tmp_path.glob("results/digits/*/*/*.json")).unlink()
    answer = call(*small_run)
    assert answer.code == 1 and f"{shard} is missing or damaged" in answer.err and "--rerun" in answer.err
    assert call(*small_run, "--rerun").code == 0


# Interruption


GATE = """
import os, time
from pathlib import Path
from benchmark.registry import register
from methods.neurons import IFNeuron
from methods.qcfs import QCFS

GATE = Path(os.environ["GATE"])

class Neuron(IFNeuron):
    def fire(self, current):
        # Once the calibration split is on disk, wait as long as the gate is shut.
        if (GATE / "shut").exists() and list(GATE.glob("results/recordings/*/calibration/recording.json")):
            (GATE / "waiting").touch()
            time.sleep(60)
        return super().fire(current)

class Gated(QCFS):
    def neuron(self, activation):
        made = super().neuron(activation)
        return Neuron(made.threshold, made.initial)

register("methods", "gated", Gated)
"""


def test_an_interrupted_run_exits_130_and_is_finished_by_the_next(small_run, call, tmp_path, monkeypatch):
    (tmp_path / "gate.py").write_text(GATE)
    (tmp_path / "shut").touch()
    monkeypatch.setenv("GATE", str(tmp_path))
    arguments = [*small_run, "--method", "gated", "--plugin", tmp_path / "gate.py", "--json"]
    command = [sys.executable, "-m", "benchmark", *map(str, arguments)]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(GATE=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever started the tests in the background may have had SIGINT ignored, which children inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "waiting").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, out) == (130, ""), err
    assert "interrupted" in err and "Traceback" not in err
    (file,) = tmp_path.glob("results/digits/*/*/*.json")
    assert load_record(file).status == "interrupted"
    assert not list(tmp_path.glob("results/recordings/*/test/recording.json"))
    (calibration,) = tmp_path.glob("results/recordings/*/calibration/recording.json")
    recorded = calibration.stat().st_mtime_ns

    (tmp_path / "shut").unlink()
    answer = call(*arguments)
    assert answer.code == 0
    assert parse_record(answer.out) == load_record(file) and load_record(file).status == "ok"
    assert calibration.stat().st_mtime_ns == recorded, "the calibration split was recorded twice"


# The leaderboard


@pytest.fixture
def board(finished, tmp_path):
    """A copy of the finished run's record, and the arguments of `leaderboard` on it."""
    file = tmp_path / "results" / finished.record_file.relative_to(finished.results)
    file.parent.mkdir(parents=True)
    shutil.copy(finished.record_file, file)
    return file, ["leaderboard", "--results", tmp_path / "results", "--output", tmp_path / "page" / "README.md"]


def test_leaderboard_is_written_and_current(board, finished, cli, call, tmp_path):
    _, arguments = board
    answer = cli(*arguments, cwd=tmp_path)
    assert (answer.code, answer.out) == (0, "")
    assert str(tmp_path / "page" / "README.md") in answer.err
    assert f"`{finished.id}`" in (tmp_path / "page" / "README.md").read_text()
    files = {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "page").rglob("*") if path.is_file()
    }
    assert len(files) == 2
    assert call(*arguments, "--check").code == 0
    assert files == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_a_changed_number_makes_it_stale(board, call):
    file, arguments = board
    call(*arguments)
    document = json.loads(file.read_text())
    document["policies"][0]["losers"] += 1
    file.write_text(json.dumps(document))
    answer = call(*arguments, "--check")
    assert answer.code == 3 and "README.md" in answer.err and "Rebuild it with" in answer.err
    assert call(*arguments).code == 0
    assert call(*arguments, "--check").code == 0


def test_check_writes_nothing(board, call, tmp_path):
    assert call(*board[1], "--check").code == 3
    assert not (tmp_path / "page").exists()


def test_leaderboard_needs_no_torch(board, tmp_path):
    program = (
        "import sys; from benchmark.cli import main; sys.argv = sys.argv[:1] + sys.argv[2:]\n"
        "try: main()\nexcept SystemExit as stopped: assert stopped.code == 3, stopped.code\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "-", *map(str, board[1]), "--check"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    OPTIONS.write_text(json.dumps(options_now(), indent=2, sort_keys=True) + "\n")
