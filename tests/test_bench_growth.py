"""How cost grows: the fit finds the exponents that made-up costs have, and the command writes every row of its page."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy
import pytest
from click.testing import CliRunner
from conftest import environment

from benchmark.bench import growth, main
from benchmark.bench.growing import Recorder, Work, bytes_per_image_timestep, peak_in_own_process
from benchmark.bench.growth_table import Memory, Series, page
from benchmark.bench.power_law import line_slope, log_slope, power_law
from benchmark.bench.source_network import Model

TINY = Model("small-cnn", 8)
SIZES = (4, 8, 16, 32)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.3, 2.0])
@pytest.mark.parametrize("constant", [0.0, 0.7, 40.0])
@pytest.mark.parametrize("sizes", [SIZES, (10, 100, 1000), (512, 64, 128, 256)], ids=str)
def test_the_fit_finds_exponent_and_constant(sizes, constant, exponent):
    law = power_law(sizes, [constant + 0.02 * size**exponent for size in sizes])
    assert law.exponent == pytest.approx(exponent, abs=1e-5)
    assert law.factor == pytest.approx(0.02, rel=1e-4)
    assert law.constant == pytest.approx(constant, abs=1e-4 * max(constant, 1))


def test_a_constant_flattens_the_log_slope_only():
    seconds = [3.0 + 0.1 * size for size in SIZES]
    assert log_slope(SIZES, seconds) < 0.4
    assert log_slope(SIZES, [0.1 * size**1.5 for size in SIZES]) == pytest.approx(1.5)
    assert power_law(SIZES, seconds).exponent == pytest.approx(1, abs=1e-6)


def test_no_constant_below_zero_makes_a_cost_look_linear():
    """A line through 1, 4, 16, 64 would fit well with a negative constant, which no cost has."""
    law = power_law(SIZES, [size**2 - 3 for size in SIZES])
    assert law.constant == 0 and law.exponent > 2


def test_noise_moves_the_exponent_by_little():
    noise = numpy.random.default_rng(0).normal(1, 0.01, (50, 4))
    found = [power_law((10, 100, 1000, 10_000), numpy.array([2.0, 2.9, 12, 102]) * each).exponent for each in noise]
    assert 0.95 < numpy.median(found) < 1.05 and numpy.std(found) < 0.05


def test_two_sizes_are_too_few():
    with pytest.raises(ValueError, match=re.escape("three different sizes, not [4, 8]")):
        power_law((4, 8, 8), (1.0, 2.0, 2.0))
    assert line_slope((1, 2, 4), (5.0, 7.0, 11.0)) == pytest.approx(2)


@pytest.mark.parametrize("subject", [TINY, 7], ids=["backbone", "random walk"])
def test_a_recording_has_the_size_that_was_asked_for_and_takes_what_is_said(subject):
    recording = Recorder(Work(subject, images=10, timesteps=3, batch_size=4)).record()
    assert len(recording) == 10 and recording.timesteps == 3
    assert "log_sum_exp" in recording.tensors()
    arrays = [value for value in recording.tensors().values() if value.shape[:2] == (10, 3)]
    assert bytes_per_image_timestep(Work(subject, 10, 3, 4)) == (
        sum(array.nbytes for array in arrays) // 30,
        4 * len(recording.info.sites),
    )


@pytest.mark.slow
def test_writing_holds_a_shard_and_reading_back_the_recording():
    few, many = (Work(10, images, 4, 64) for images in (1024, 8192))
    recorded, _ = bytes_per_image_timestep(many)
    size = (many.images - few.images) * many.timesteps * recorded / 2**20
    written = peak_in_own_process(many, False) - peak_in_own_process(few, False)
    read_back = peak_in_own_process(many, True) - peak_in_own_process(few, True)
    assert written < size / 10
    assert 0.9 * size < read_back < 1.5 * size


LARGE = {"timesteps": (1, 2, 4), "images": (16, 8, 40), "classes": (5, 50, 500)}
OPTIONS = [word for name, values in LARGE.items() for each in values for word in (f"--{name}", str(each))]
COMMAND = ["growth", "--model", "small-cnn@8", *OPTIONS, "--batch-size", "32", "--repeats", "2"]
SERIES = {
    "recording small-cnn, 8 px, 32 images, batch 32": ("timestep", "timesteps", (1, 2, 4), True),
    "recording small-cnn, 8 px, T = 1, batch 32": ("image", "images", (8, 16, 40), True),
    "recording random walks, 5 classes, T = 1, batch 32": ("image", "images", (512, 1024, 2560), True),
    "recording random walks, T = 8, 64 images, batch 32": ("class", "classes", (5, 50, 500), True),
    "replaying dynamic-confidence on recorded logits": ("class", "classes", (5, 50, 500), False),
    "replaying dynamic-confidence on recorded statistics": ("class", "classes", (5, 50, 500), False),
}


def check_page(written, output):
    number, figures = r"-?\d+\.\d+", r"-?[\d.]+ \[-?[\d.]+, -?[\d.]+\]"
    parts = dict(re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", written, re.MULTILINE))
    assert list(parts) == [f"{name}, by {units}" for name, (_, units, _, _) in SERIES.items()]
    for name, (unit, units, rows, measured) in SERIES.items():
        slope = number if measured else "-"
        exponent = rf"(?:{figures}|- \(hardly grows\))"
        row = rf"^\| {name} \| {unit} \| {exponent} \| {figures}(?: \| {slope}){{2}} \|$"
        assert re.search(row, written, re.MULTILINE), name
        for size in rows:
            memory = rf"(?: \| {number}){{2}}" if measured else ""
            assert re.search(rf"^\| {size} \| {figures}{memory} \|$", parts[f"{name}, by {units}"], re.MULTILINE)
    assert re.search(r"Machine: .+ \(\d+ threads\)", written) and "Not finished" not in written
    asked = "growth --model small-cnn@8 --timesteps 1 --timesteps 2 --timesteps 4 --images 8 --images 16 --images 40"
    assert f"{asked} --classes 5 --classes 50 --classes 500 --batch-size 32 --repeats 2 --output {output}`" in written


@pytest.mark.slow
def test_the_command_writes_a_page_with_every_row(tmp_path):
    output = tmp_path / "folder" / "page.md"
    done = subprocess.run(
        [sys.executable, "-m", "benchmark.bench", *COMMAND, "--output", str(output)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    check_page(output.read_text(), output)


def test_memory_is_asked_for_at_every_size_and_stands_on_the_page(tmp_path, monkeypatch):
    """As above, without two dozen processes."""
    asked = []

    def peak(work, read_back):
        asked.append((work, read_back))
        return 2.0 + work.images / 1024 * (3 if read_back else 1)

    monkeypatch.setattr(growth, "peak_in_own_process", peak)
    output = tmp_path / "page.md"
    answer = CliRunner().invoke(main, [*COMMAND, "--output", str(output)])
    assert answer.exit_code == 0, answer.output
    written = output.read_text()
    check_page(written, output)
    assert len(set(asked)) == len(asked) == 4 * 3 * 2
    assert re.search(r"^\| recording small-cnn, 8 px, T = 1, .* \| 1.00 \| 3.00 \|$", written, re.MULTILINE)
    assert "| 16 | " in written and "| 2.02 | 2.05 |" in written


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--timesteps", 1, "--timesteps", 2, "--timesteps", 2), "'--timesteps': an exponent takes at least three"),
        (("--classes", 1), "1 is not in the range x>=2"),
        (("--model", "resnet2O"), "Did you mean .*'resnet20'"),
    ],
)
def test_what_cannot_be_fitted_is_a_usage_error(options, said):
    answer = CliRunner().invoke(main, ["growth", *map(str, options)])
    assert answer.exit_code == 2 and re.search(said, answer.output)


def series(*seconds, memory=None):
    return Series("waiting", "class", SIZES, seconds, memory)


def test_exponents_are_those_of_each_repeat():
    made = series((5.0, 17.0), (9.0, 65.0), (17.0, 257.0), (33.0, 1025.0))
    assert [law.exponent for law in made.laws] == [pytest.approx(1, abs=1e-6), pytest.approx(2, abs=1e-6)]
    assert "| waiting | class | 1.500 [1.000, 2.000] | " in made.summary()
    assert made.remarks() == ["seconds = a + c x^b: b 1.500 [1.000, 2.000], a 1.0000 [1.0000, 1.0000] s"]


def test_what_hardly_grows_has_no_exponent_and_what_nobody_measured_is_a_dash():
    made = series((1.0,), (1.1,), (1.0,), (1.9,), memory=Memory((1.0, 2.0, 4.0, 8.0), (1.0, None, 4.0, 8.0)))
    assert made.laws == [] and made.remarks() == []
    assert made.summary().startswith("| waiting | class | - (hardly grows) | 0.")
    assert made.summary().endswith(" | 256.00 | - |")
    assert made.table()[:1] == ["| classes | seconds | peak memory, written, MiB | peak memory, read back, MiB |"]
    assert made.table()[3] == "| 8 | 1.1000 [1.1000, 1.1000] | 2.00 | - |"
    written = page([made], 2, ["Machine: this"], "command")
    assert "**Not finished: 1 of 2 series.**" in written and "## waiting, by classes\n\n| classes |" in written
