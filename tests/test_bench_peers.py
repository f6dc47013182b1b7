"""The comparison with the floor and the peers: who stands in it computes what we do, and the page says what was measured."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from benchmark.bench import contestants, main, peers, startup
from benchmark.bench import peer_memory as memory
from benchmark.bench.contestants import COMPILED, CONTESTANTS, Side, by_name, disagreement
from benchmark.bench.foreign_neurons import NotAvailable, with_neurons
from benchmark.bench.peer_table import Cell, Row, page, times_reference
from benchmark.bench.peers import check
from benchmark.bench.source_network import Model, SourceNetwork
from benchmark.errors import UsageError
from methods.pooling import SpikeMaxPool

CPU = torch.device("cpu")
TINY = Model("small-cnn", 8)
NAMES = [each.name for each in CONTESTANTS]


@pytest.fixture
def invoke(tmp_path):
    """`python -m benchmark.bench` with these arguments, here; the answer, and the page that was written."""

    def run(*arguments):
        page = tmp_path / "folder" / "RESULTS.md"
        if "--output" not in arguments:
            arguments = (*arguments, "--output", str(page))
        answer = CliRunner().invoke(main, list(map(str, arguments)))
        return answer, page.read_text() if page.exists() else ""

    return run


@pytest.mark.parametrize("model", [TINY, Model("resnet20", 8)], ids=str)
def test_every_contestant_gives_our_logits_in_float64(model):
    rows = check(model, 6, CPU)
    assert list(rows) == NAMES
    for name, row in rows.items():
        if row.contestant.side is Side.FLOOR:
            assert row.agrees is None
        else:
            assert row.agrees is True, f"{name}: {row.agreement}"
            assert row.agreement.startswith(("equal", "same answers"))


def test_thresholds_are_those_of_float64_there():
    """Rounded to float32, one let a spike of two images come late, at the ninth timestep."""
    rows = check(Model("resnet20", 32), 10, CPU)
    assert {name for name, row in rows.items() if row.agrees is False} == set()


@torch.no_grad()
def test_the_compared_logits_are_those_of_a_network_that_spikes():
    source = TINY.build(torch.float64)
    logits = by_name("ours, step loop").build(source)(TINY.images(2).double(), 6)
    assert logits.shape == (2, 10) and logits.abs().max() > 0.1
    assert all(neuron.counts[0].min() > 0 for neuron in source.network.neurons.values())


@torch.no_grad()
def test_they_are_close_in_float32_too():
    """What is timed may run other kernels than what is checked in float64."""
    source, images = TINY.build(), TINY.images(3)
    expected = by_name("ours, step loop").build(source)(images, 4)
    for each in CONTESTANTS:
        if each.side is Side.PEER or each.side is Side.REFERENCE:
            found = each.build(source)(images, 4)
            assert found.dtype == torch.float32
            assert disagreement(found, expected) < 1e-4, each.name


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_a_second_run_starts_anew(name):
    run, images = by_name(name).build(TINY.build(torch.float64)), TINY.images(2).double()
    first = run(images, 3)
    run(images[:1], 5)
    assert torch.equal(run(images, 3), first)


@torch.no_grad()
def test_the_floor_is_the_network_that_was_converted():
    source, images = TINY.build(torch.float64), TINY.images(2).double()
    passes = [by_name(name).build(source)(images, 3) for name in ("floor, NCHW", "floor, channels_last")]
    torch.testing.assert_close(*passes)
    torch.testing.assert_close(passes[0], 3 * source.analog(images))
    assert not any("BatchNorm" in type(module).__name__ for module in source.analog.modules())


class Probe(torch.nn.Conv2d):
    seen = ()

    def forward(self, images):
        formats = (images, self.weight)
        Probe.seen += tuple(each.is_contiguous(memory_format=torch.channels_last) for each in formats)
        return super().forward(images).mean((2, 3))


@torch.no_grad()
@pytest.mark.parametrize(("name", "last"), [("floor, NCHW", False), ("floor, channels_last", True)])
def test_each_floor_is_in_its_memory_format_and_passes_once_per_timestep(name, last, monkeypatch):
    monkeypatch.setattr(Probe, "seen", ())
    source = SourceNetwork(Probe(3, 4, 3), torch.nn.Identity(), TINY.build().network)
    by_name(name).build(source)(TINY.images(2), 3)
    assert Probe.seen == (last, last) * 3


def test_who_computes_something_else_is_marked_and_no_peer(monkeypatch):
    from benchmark.bench import spikingjelly_network

    real = spikingjelly_network._node

    def empty(threshold, step_mode):
        node = real(threshold, step_mode)
        node.set_reset_value("v", 0.0)
        return node

    monkeypatch.setattr(spikingjelly_network, "_node", empty)
    rows = check(TINY, 4, CPU)
    for name in ("SpikingJelly, single-step", "SpikingJelly, multi-step"):
        assert rows[name].agrees is False and rows[name].agreement.startswith("DIFFERS by")
    assert rows["snnTorch"].agrees
    cell = Cell(TINY, 1, 4, tuple(Row(r.contestant, r.agreement, r.agrees, (1.0,)) for r in rows.values()), 1)
    assert [row.contestant.name for row in cell.peers] == ["snnTorch", "reference loop"]


def test_other_answers_are_told_from_other_logits():
    logits = torch.tensor([[0.0, 1.0], [2.0, 1.0]])
    assert disagreement(torch.tensor([1, 0]), logits) == 0
    assert disagreement(torch.tensor([1, 1]), logits) == 0.5
    assert disagreement(logits + 0.25, logits) == 0.25


def test_a_network_that_the_peers_cannot_have_is_refused():
    network = TINY.build().network
    name = next(iter(network.neurons))
    network.graph.add_submodule(name, SpikeMaxPool(torch.nn.MaxPool2d(2), "binary"))
    with pytest.raises(NotAvailable, match="no counterpart of SpikeMaxPool"):
        with_neurons(network, lambda threshold: torch.nn.Identity())


def test_our_own_network_is_left_alone():
    source = TINY.build()
    before = [type(module) for module in source.network.modules()]
    for each in CONTESTANTS:
        each.build(source)
    assert [type(module) for module in source.network.modules()] == before


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_more_images_than_a_batch_are_simulated_batch_after_batch(name):
    source, images = TINY.build(torch.float64), TINY.images(5).double()
    contestant = by_name(name)
    found = contestant.batched(source, 2)(images, 3)
    expected = [contestant.build(source)(batch, 3) for batch in (images[:2], images[2:4], images[4:])]
    torch.testing.assert_close(found, torch.cat(expected))


def test_small_batches_go_into_one_recording_and_rates_count_all_images(invoke, monkeypatch):
    recorded, timed = [], []
    real = contestants.record
    monkeypatch.setattr(
        contestants, "record", lambda *a, **options: recorded.append(real(*a, **options)) or recorded[-1]
    )

    def once(tasks, repeats, place, warm_up):
        for each in (*warm_up.values(), *tasks.values()):
            each()
        timed.append(list(tasks))
        return {name: [2.0] * repeats for name in tasks}

    monkeypatch.setattr(peers, "interleaved", once)
    small = ["--model", "small-cnn@8", "--timesteps", 8, "--repeats", 1, "--no-memory", "--images", 5]
    answer, written = invoke("peers", *small, "--batch-size", 2, "--batch-size", 7)
    assert answer.exit_code == 0, answer.output
    # Checked, warmed up in four timesteps, timed.
    assert [(len(each), each.timesteps) for each in recorded] == [(2, 8), (2, 4), (5, 8), (7, 4), (7, 8)]
    first, second = written.split("## small-cnn")[1:3]
    assert "| ours, recording | 20.0 [20.0, 20.0] |" in first and "| ours, recording | 28.0 [28.0, 28.0] |" in second
    assert (
        "Each run takes\n5 images" in written
        and "--images 5 --repeats 1 --precision fp32 --device auto --no-memory" in written
    )
    assert len(timed) == 2


@pytest.mark.slow
def test_compiled_contestants_are_shown_and_count_for_nothing(invoke):
    options = ("--batch-size", 2, "--timesteps", 2, "--repeats", 1, "--no-memory", "--compiled")
    answer, written = invoke("peers", "--model", "small-cnn@8", *options)
    assert answer.exit_code == 0, answer.output
    for each, agreement in zip(COMPILED, (r"equal( \(to .*\))?", "no spikes"), strict=True):
        assert re.search(rf"^\| {each.name} (\| [\d.]+ \[.*?\] ){{3}}\| - \| {agreement} \|$", written, re.MULTILINE)
        assert f"- {each.name}: " in written
    assert "--precision fp32 --compiled --device auto --no-memory" in written
    rows = check(TINY, 6, CPU, COMPILED)
    assert [row.agrees for row in rows.values()] == [True, None]
    slow = Row(by_name("ours, recording"), "same answers", True, (2.0,))
    cell = Cell(TINY, 1, 4, (slow, *(Row(row.contestant, "", row.agrees, (1.0,)) for row in rows.values())), 1)
    assert not cell.peers and cell.floor is None


def test_where_nothing_can_be_compiled_that_is_said(monkeypatch):
    def without_compiler(function, **options):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", without_compiler)
    rows = check(TINY, 2, CPU, COMPILED)
    assert rows["ours, compiled"].agreement == "cannot be compiled here: RuntimeError"
    assert rows["ours, compiled"].agrees is False


@pytest.mark.slow
def test_the_command_writes_a_page_with_every_contestant(invoke):
    answer, written = invoke("peers", "--model", "small-cnn@8", "--batch-size", 1, "--timesteps", 2, "--repeats", 2)
    assert answer.exit_code == 0, answer.output
    assert "## small-cnn, 8 px, batch 1, T = 2" in written
    figures = r"\| [\d.]+ \[[\d.]+, [\d.]+\] "
    for name in NAMES:
        assert re.search(rf"^\| {name} {figures * 3}\| -?[\d.]+ \| \S.* \|$", written, re.MULTILINE), name
    assert written.count("recording / floor <= 1.08 (goal): ") == 1
    assert len(re.findall(r"ahead of every peer: (yes|no, not of)", written)) == 1
    assert re.search(r"Machine: .+ \(\d+ threads\)", written) and f"torch {torch.__version__.split('+')[0]}" in written
    command = (
        "python -m benchmark.bench peers --model small-cnn@8 --batch-size 1 --timesteps 2 "
        "--images 16 --repeats 2 --precision fp32 --device auto"
    )
    assert command in written and "Not finished" not in written
    assert all(verdict in answer.output for verdict in re.findall(r"^- (ahead .*)$", written, re.MULTILINE))


def test_a_page_names_itself_so_that_another_machines_page_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(peers, "peak_in_a_process", lambda *cell: 1.5)
    small = ["peers", "--model", "small-cnn@8", "--batch-size", "2", "--timesteps", "1", "--repeats", "1"]
    for more in ([], ["--output", "bench/GPU.md"]):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*.md")}
        assert CliRunner().invoke(main, [*small, *more]).exit_code == 0
        assert all(path.read_bytes() == content for path, content in before.items())
    usual, other = (Path("bench", name).read_text() for name in ("RESULTS.md", "GPU.md"))
    assert "--device auto`" in usual and "--device auto --output bench/GPU.md`" in other


def test_a_missing_peer_is_said(invoke, monkeypatch):
    monkeypatch.setitem(sys.modules, "spikingjelly.activation_based", None)
    monkeypatch.setitem(sys.modules, "snntorch", None)
    monkeypatch.setattr(peers, "peak_in_a_process", lambda *cell: 1.5)
    answer, written = invoke("peers", "--model", "small-cnn@8", "--batch-size", 2, "--timesteps", 1, "--repeats", 1)
    assert answer.exit_code == 0, answer.output
    assert (
        len(re.findall(r"^\| (?:SpikingJelly, .*|snnTorch) \| - \| - \| - \| - \| not installed \|$", written, re.M))
        == 3
    )
    assert "ahead of every peer: there is none here" in written
    assert "| reference loop |" not in written  # one image at a time
    assert len(re.findall(r"^\| (?:ours|floor), .* \| 1.5 \|", written, re.M)) == 4


def test_who_is_left_out_does_not_run_and_the_page_says_so(invoke):
    options = ["--model", "small-cnn@8", "--batch-size", 2, "--timesteps", 2, "--repeats", 1, "--no-memory"]
    unwanted = ["--without", "SpikingJelly, multi-step", "--without", "floor, NCHW"]
    answer, written = invoke("peers", *options, *unwanted)
    assert answer.exit_code == 0, answer.output
    for name in NAMES:
        row = re.search(rf"^\| {name} \| (.*) \|$", written, re.MULTILINE)
        assert (name in unwanted) == (row is not None and row[1] == "- | - | - | - | left out"), name
    assert "| floor, channels_last | " in written and " 1.000 [1.000, 1.000] | " in written
    assert "--without 'SpikingJelly, multi-step' --without 'floor, NCHW'" in written
    answer, _ = invoke("peers", *options, "--without", "ours, recording")
    assert answer.exit_code == 2 and "'SpikingJelly, single-step'" in answer.output


@pytest.mark.slow
def test_memory_is_that_of_the_run_and_running_out_of_it_is_said():
    model = Model("small-cnn", 32)
    single, small, large = (memory.peak_in_a_process(model, "ours, step loop", size, 2, "cpu") for size in (1, 32, 128))
    membranes = (16 * 32 * 32 + (32 + 64) * 16 * 16) * 4 / 2**20  # MiB of one image
    assert membranes < single < membranes * 16
    assert 32 * membranes < small < 32 * membranes * 4
    assert 3 < large / small < 5
    with pytest.raises(NotAvailable, match="out of memory"):
        memory.peak_in_a_process(model, "SpikingJelly, multi-step", 64, 1_000_000, "cpu")


def row(name, *seconds, agrees=True):
    contestant = by_name(name)
    return Row(contestant, "equal", None if contestant.side is Side.FLOOR else agrees, seconds, 1.0)


def cell(recording, *others):
    floors = (row("floor, NCHW", 4.0, 2.0, 3.0), row("floor, channels_last", 2.0, 1.0, 4.0))
    return Cell(TINY, 4, 3, (row("ours, recording", *recording), *floors, *others), 4)


def test_ratios_are_taken_within_a_repeat_against_the_faster_floor():
    made = cell((2.0, 1.08, 8.0))
    assert made.floor.contestant.name == "floor, channels_last"
    assert made.overhead == [1.0, 1.08, 2.0]
    assert made.verdicts() == [
        "recording / floor <= 1.08 (goal): 1.080 [1.000, 2.000], met",
        "ahead of every peer: there is none here",
    ]
    assert (
        "| floor, NCHW | 4.000 [3.000, 6.000] | 2.000 [0.750, 2.000] | 1.852 [0.375, 2.000] | 1.0 |" in made.table()[3]
    )
    assert cell((2.2, 1.09, 8.0)).verdicts()[0].endswith("1.100 [1.090, 2.000], missed")


def test_on_a_gpu_other_goals_hold_and_the_reference_loop_is_that_of_a_single_image():
    """The loop takes one image at a time: batches of any size are compared with its rate, on the same network."""
    loop = row("reference loop", 30.0, 30.0, 30.0)
    single, many = cell((2.0, 2.0, 2.0), loop), cell((0.2, 0.2, 0.2))
    other = Cell(Model("resnet20", 8), 64, 3, many.rows, 4, "cuda")
    gpu = [Cell(TINY, each.batch_size, 3, each.rows, 4, "cuda") for each in (single, many)]
    assert gpu[0].limit == 1.25 and gpu[0].verdicts()[0].startswith("recording / floor <= 1.25 (goal)")
    assert [times_reference(each, gpu) for each in gpu] == [15.0, 150.0]
    assert times_reference(other, [*gpu, other]) is None
    written = page([*gpu, other], 3, [], "command", 4, "tf32")
    assert "no gradient, in tf32." in written
    ends = [line.split(" | ")[-1] for line in written.splitlines() if line.startswith(f"| {TINY.name}, 8 px")]
    assert ends == ["15.0, missed (>= 100) |", "150.0, met (>= 100) |"]
    assert "| 15.0 |" in page([single, many], 2, [], "command", 4)
    rows = (row("ours, recording", 5.0, 2.4, 3.6), row("floor, NCHW", 4.0, 2.0, 3.0))
    assert [Cell(TINY, 4, 3, rows, 4, place).goal for place in ("cpu", "cuda")] == ["missed", "met"]


def test_a_processor_has_no_tf32(invoke):
    answer, written = invoke("peers", "--model", "small-cnn@8", "--precision", "tf32", "--device", "cpu")
    assert answer.exit_code == 2 and "--precision tf32 needs a GPU" in answer.output and not written


def test_what_could_not_be_measured_is_a_dash_and_no_verdict():
    full = cell((1.0, 2.0, 2.0), row("snnTorch", 2.0, 4.0, 1.0))
    bare = Row(by_name("ours, recording"), "out of memory", False)
    without = Cell(TINY, 4, 3, (bare, *full.rows[1:]), 4)
    assert without.verdicts() == [
        "recording / floor <= 1.08 (goal): -, not measured",
        "ahead of every peer: there is none here",
    ]
    assert without.table()[2] == "| ours, recording | - | - | - | - | out of memory |"
    assert "| - | not measured" in page([without], 1, [], "command", 4)
    no_floor = Cell(TINY, 4, 3, (full.rows[0], full.rows[3]), 4)
    assert no_floor.verdicts()[0].endswith("-, not measured") and no_floor.verdicts()[1].endswith("yes")


def test_the_verdict_names_those_who_are_faster():
    slow, fast = row("snnTorch", 2.0, 4.0, 1.0), row("SpikingJelly, multi-step", 0.5, 4.0, 1.0)
    assert cell((1.0, 2.0, 2.0), slow).verdicts()[1] == "ahead of every peer: yes"
    both = cell((1.0, 2.0, 2.0), slow, fast)
    expected = "no, not of SpikingJelly, multi-step (its time / recording 0.500 [0.500, 2.000])"
    assert both.verdicts()[1] == f"ahead of every peer: {expected}"
    wrong = row("SpikingJelly, multi-step", 0.1, 0.1, 0.1, agrees=False)
    assert cell((1.0, 2.0, 2.0), slow, wrong).verdicts()[1] == "ahead of every peer: yes"
    written = page([both], 2, ["Machine: this"], "command", 4)
    assert "**Not finished: 1 of 2 cells.**" in written and "| no: SpikingJelly, multi-step |" in written


def test_a_models_size_is_its_own_or_the_one_asked_for():
    assert [Model.parse(text).pixels for text in ("resnet20", "resnet34", "resnet34@32")] == [32, 224, 32]
    assert [str(Model.parse(text)) for text in ("resnet20@32", "resnet20@64")] == ["resnet20", "resnet20@64"]
    for text in ("resnet20@", "resnet20@0", "resnet20@x"):
        with pytest.raises(UsageError, match="positive number"):
            Model.parse(text)


def test_an_unknown_model_is_a_usage_error_with_near_matches(invoke):
    answer, written = invoke("peers", "--model", "resnet2O")
    assert answer.exit_code == 2 and re.search("Did you mean .*'resnet20'", answer.output) and not written


def test_startup_times_each_command_and_says_which_one_failed(invoke, monkeypatch):
    assert {"python -m benchmark --help", startup.FIRST_RESULT, startup.BARE} < set(startup.COMMANDS)
    commands = {name: startup.COMMANDS[name] for name in (startup.BARE, "python -m benchmark list methods")}
    monkeypatch.setattr(startup, "COMMANDS", commands)
    answer, written = invoke("startup", "--repeats", 1)
    assert answer.exit_code == 0, answer.output
    assert re.search(r"Machine: .+ \(\d+ threads\)", written) and "bench startup --repeats 1" in written
    for name in commands:
        assert re.search(rf"^\| `{name}` \| [\d.]+ \[[\d.]+, [\d.]+\] \| -?[\d.]+ \|$", written, re.M)
        assert re.search(rf"^  {name} +[\d.]+ \[[\d.]+, [\d.]+\] s +[\d.]+ s above a bare Python$", answer.output, re.M)
    monkeypatch.setitem(commands, "broken", (("-c", "import sys; sys.exit('no such thing')"), (0,)))
    answer, _ = invoke("startup", "--repeats", 1)
    assert answer.exit_code == 1 and "broken exited with 1:\nno such thing" in answer.output
