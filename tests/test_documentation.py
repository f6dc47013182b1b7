"""What the documentation shows works when it is pasted."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(path for path in ROOT.glob("*.md"))


def block(page: str, marker: str) -> str:
    """The code block that contains `marker`."""
    blocks = re.findall(r"```\w*\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    (found,) = [text for text in blocks if marker in text]
    return found


@pytest.mark.slow
def test_the_example_method_keeps_every_promise_and_runs(tmp_path):
    plugin = tmp_path / "clip_floor.py"
    plugin.write_text(block("CONTRIBUTING.md", "# clip_floor.py"))
    commands = [line for line in block("CONTRIBUTING.md", "selftest --plugin").splitlines() if line]
    assert len(commands) == 2
    for line in commands:
        arguments = line.split()[1:] + (
            ["--dataset", "synthetic", "--limit", "32", "--timesteps", "3"] if " run " in line else []
        )
        done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "clip-floor" in done.stdout
    assert list((tmp_path / "leaderboard/results/synthetic/small-cnn/clip-floor").glob("*.json"))


def test_the_readme_python_example_runs(tmp_path):
    script = tmp_path / "example.py"
    script.write_text(block("README.md", "import methods"))
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "timesteps" in done.stdout


THEIR_NETWORK = """
import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

torch.manual_seed(0)
my_snn = nn.Sequential(nn.Conv2d(1, 4, 3), neuron.IFNode(), nn.Flatten(), nn.Linear(4 * 36, 5))
images = torch.randn(12, 1, 8, 8)
calibration_batches = [(torch.randn(20, 1, 8, 8), torch.randint(0, 5, (20,)))]
batches_of_images = images.split(5)
"""


def test_the_readme_example_for_other_simulators_runs(tmp_path):
    pytest.importorskip("spikingjelly", reason="test extra: spikingjelly")
    script = tmp_path / "example.py"
    script.write_text(
        THEIR_NETWORK + block("README.md", "spikingjelly(my_snn)") + "print(answers.timesteps.tolist())\n"
    )
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split(",")) == 12


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_commands_of_the_readme_exist():
    """Every `make` target and every subcommand that a page mentions is there."""
    text = "".join(page.read_text() for page in PAGES)
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z-]+)`", text)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    listed = subprocess.run(
        [sys.executable, "-m", "benchmark", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for command in set(re.findall(r"python -m benchmark ([a-z]+)", text)):
        assert re.search(rf"^  {command} ", listed, re.MULTILINE), command


def test_the_numbers_of_the_readme_are_those_of_the_leaderboard():
    """Each figure in a row of the README's table stands in a row of the same record on the page, the rule's own in one."""
    page = (ROOT / "leaderboard" / "README.md").read_text().splitlines()
    checked = 0
    for row in (ROOT / "README.md").read_text().splitlines():
        found = re.search(r"\| `([0-9a-f]{12})` \|", row)
        if not found:
            continue
        figures = re.findall(r"\d+\.\d\d?%?", row)
        ann, fixed, *own = figures
        lines = [line for line in page if found[1] in line]
        assert any(all(figure in line for figure in (ann, *own)) for line in lines), f"{row}\nis not on the page"
        assert any("fixed T=" in line and fixed in line for line in lines), f"{row}\nis not on the page"
        checked += 1
    assert checked >= 2
