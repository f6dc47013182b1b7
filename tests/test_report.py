"""One run as a page: whole, alone, accessible, and every number the record's."""

from __future__ import annotations

import base64
import io
import itertools
import json
import math
import re
import shlex
import shutil
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from recordings import drift

from benchmark import evaluation
from benchmark.data.digits import Digits
from benchmark.data.images import Images, Preprocessing
from benchmark.errors import RecordError, UsageError
from benchmark.evaluation import parse_policy
from benchmark.records import Ann, Provenance, ResultRecord, load_record
from benchmark.report import examples
from benchmark.report.axes import from_zero, latency_axis, linear, milestones, step_axis
from benchmark.report.command import reproduce, reproduce_in_lines
from benchmark.report.gathering import find_record, subject_of_record, subject_of_recording
from benchmark.report.markup import Markup, element, joined
from benchmark.report.page import page
from benchmark.report.pictures import Pictures
from benchmark.report.plot import LEFT, RIGHT, Plot, thinned
from benchmark.report.spiking import RAMP, colours
from benchmark.report.subject import labels
from benchmark.report.tradeoff import scores_of, threshold_curve
from benchmark.report.trust import at_exits, errors_of
from benchmark.spec import PolicySpec, RunSpec, Weights
from benchmark.store import ResultStore
from dynconf import metrics
from dynconf.policies import Margin
from dynconf.recording import Recording, load_recording, shard_path, write_header, write_shard
from dynconf.violations import coarse, violations

VOID = {"meta", "br", "hr", "img"}
HOSTILE = "<script>alert(1)<script>&\"'"


# Reading a page


@dataclass
class Node:
    """An element with its attributes, and its children and texts in order."""

    tag: str
    attributes: dict[str, str | None]
    children: list = field(default_factory=list)

    def all(self, tag: str) -> list[Node]:
        found = []
        for child in self.children:
            if isinstance(child, Node):
                found += [child] * (child.tag == tag) + child.all(tag)
        return found

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    @property
    def values(self) -> list[str]:
        """The full numbers in it."""
        return [data.attributes["value"] for data in self.all("data")]


class Strict(HTMLParser):
    """A tree of a page; what is not closed where it was opened is an error."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.root = Node("", {})
        self.open = [self.root]

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), f"an attribute of {tag} is there twice"
        node = Node(tag, dict(attributes))
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag, attributes):
        assert any(node.tag == "svg" for node in self.open), f"{tag} closes itself outside SVG"
        self.open[-1].children.append(Node(tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open[-1].tag == tag, f"{tag} is closed inside {self.open[-1].tag}"
        self.open.pop()

    def handle_data(self, data):
        self.open[-1].children.append(data)


def tree(text: str) -> Node:
    parser = Strict()
    parser.feed(text)
    parser.close()
    assert len(parser.open) == 1, f"not closed: {[node.tag for node in parser.open[1:]]}"
    return parser.root


def section(root: Node, identity: str) -> Node:
    (found,) = [node for node in root.all("section") if node.attributes["id"] == identity]
    return found


def rows_of(root: Node, caption: str) -> list[list[Node]]:
    """The body of the table whose caption begins so."""
    (found,) = [node for node in root.all("table") if node.all("caption")[0].text.startswith(caption)]
    return [[cell for cell in row.children if isinstance(cell, Node)] for row in found.all("tbody")[0].all("tr")]


def check_page(text: str) -> Node:
    """Well-formed, alone, and usable without a mouse or eyes. Returns its tree."""
    assert text.startswith("<!DOCTYPE html>\n<html ") and text.endswith("</html>\n")
    root = tree(text)
    every = [node for tag in set(re.findall(r"<([a-zA-Z0-9]+)", text)) for node in root.all(tag.lower())]
    ids = [node.attributes["id"] for node in every if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    for node in every:
        assert node.tag not in ("script", "link", "iframe", "object", "embed", "form")
        for name, value in node.attributes.items():
            assert not name.startswith("on"), f"{node.tag} has {name}"
            if name in ("src", "href", "xlink:href"):
                inside = value.startswith("#") and value[1:] in ids
                image = node.tag in ("img", "image") and value.startswith("data:image/png;base64,")
                paper = node.tag == "a" and re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{4,5}", value)
                assert inside or image or paper, f"{node.tag} {name}={value[:80]}"
            if name == "aria-labelledby":
                assert set(value.split()) <= set(ids), value
            if "url(" in (value or ""):
                assert re.fullmatch(r"url\(#([\w-]+)\)", value)[1] in ids
    style = root.all("style")[0].text
    assert "url(" not in style and "@import" not in style
    assert root.all("html")[0].attributes["lang"] == "en" and root.all("title")[0].text
    assert any(node.attributes.get("name") == "viewport" for node in root.all("meta"))
    assert [len(root.all(tag)) for tag in ("h1", "main", "nav")] == [1, 1, 1]
    levels = [int(level) for level in re.findall(r"<h([1-6])", text)]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    for table in root.all("table"):
        assert table.all("caption")[0].text.strip()
        assert all(header.attributes.get("scope") in ("col", "row") for header in table.all("th"))
        columns = len(table.all("thead")[0].all("th"))
        for row in table.all("tbody")[0].all("tr"):
            assert len(row.all("th")) == 1 and len(row.all("th")) + len(row.all("td")) == columns
    for image in root.all("img"):
        assert image.attributes["alt"]
    for drawing in root.all("svg"):
        if drawing.attributes.get("aria-hidden") == "true":
            continue
        assert drawing.attributes["role"] == "img"
        assert drawing.all("title")[0].text and drawing.all("desc")[0].text
        assert "nan" not in re.sub(r"data:[^\"]*", "", str(drawing.attributes)).lower()
        for path in drawing.all("path"):
            assert re.fullmatch(r"[MLHVazhvl0-9. \-]+", path.attributes["d"]), path.attributes["d"][:200]
    for figure in root.all("figure"):
        assert figure.all("figcaption") and figure.all("details") and figure.all("table")
    return root


# Runs made up for tests


def write_recording(recording: Recording, folder: Path) -> None:
    folder.mkdir(parents=True)
    write_header(folder, recording.info, len(recording), [write_shard(shard_path(folder, 0), recording)])


def made_run(
    root: Path,
    policies=("dynamic-confidence",),
    *,
    images=300,
    timesteps=12,
    classes=6,
    calibration=None,
    test=None,
    **spec,
) -> tuple[ResultStore, ResultRecord]:
    """A results folder with a record and its recordings, as a run leaves them."""
    import dataclasses

    store = ResultStore(root)
    fields = {
        "method": "qcfs",
        "dataset": "made",
        "dataset_fingerprint": "test:0123 calibration:4567",
        "model": "small-cnn",
        "weights": Weights(source="weights.pt", sha256="a" * 64),
        "timesteps": timesteps,
        "policies": tuple(parse_policy(text) for text in policies),
        **spec,
    }
    spec = RunSpec(**fields)
    parts = {
        "calibration": calibration or drift(images, timesteps, classes, "calibration", seed=1),
        "test": test or drift(images, timesteps, classes, "test", seed=2),
    }
    for name, part in parts.items():
        info = dataclasses.replace(part.info, identity=spec.recording_id)
        parts[name] = dataclasses.replace(part, info=info)
        write_recording(parts[name], store.recording_folder(spec) / name)
    static = evaluation.static(parts["test"])
    record = ResultRecord(
        id=spec.id,
        status="ok",
        spec=spec,
        protocol="made · test",
        ann=Ann(accuracy=static.accuracy),
        curve=evaluation.curve(parts["test"]),
        static=static,
        policies=tuple(evaluation.evaluate(each, *parts.values(), spec.seed)[0] for each in spec.policies),
        oracle=evaluation.oracle(parts["test"]),
        provenance=Provenance(
            git_sha="b" * 40,
            dirty=True,
            diff_sha256=None,
            submit_sha=None,
            versions={"torch": "2"},
            device="cpu",
            torch_flags={},
            seeds={"run": 0},
            dataset_fingerprint=spec.dataset_fingerprint,
            slurm={},
            started="2030-01-01T00:00:00+00:00",
            phases={},
            batch_size=64,
        ),
    )
    store.save(record)
    return store, record


def page_of(store: ResultStore, record: ResultRecord, *more: str) -> str:
    return page(subject_of_record(record, store, None, [parse_policy(text) for text in more]), 4)


@pytest.fixture(scope="module")
def digits(finished, cli, tmp_path_factory) -> str:
    """The page of the session's run, made by the command itself."""
    output = tmp_path_factory.mktemp("page") / "digits.html"
    answer = cli("report", finished.id[:6], "--output", output, "--policy", "margin", cwd=finished.folder)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == f"{output}\n"
    return output.read_text(encoding="utf-8")


# The page


def test_the_page_is_well_formed_alone_and_accessible(digits):
    check_page(digits)
    assert len(digits.encode()) < 1_500_000


def test_same_inputs_same_bytes(digits, finished, cli, tmp_path):
    results = tmp_path / "elsewhere"
    shutil.copytree(finished.results, results)
    arguments = ("report", finished.id, "--results", results, "--policy", "margin")
    answer = cli(*arguments, cwd=tmp_path)
    assert answer.out == f"{results}/reports/{finished.id}.html\n"
    assert (results / "reports" / f"{finished.id}.html").read_text() == digits


def test_every_number_of_the_tables_is_the_records(digits, finished):
    record = load_record(finished.record_file)
    root = tree(digits)
    static, (policy,), oracle = record.static, record.policies, record.oracle
    answers, costs = rows_of(root, "Answers"), rows_of(root, "Cost of one image")
    assert [row[0].all("b")[0].text for row in answers[1:3]] == ["dynamic-confidence", "margin"]
    found = [[value for cell in row[1:] for value in cell.values] for row in answers]
    assert found[0] == [*map(repr, (static.accuracy.value, *static.accuracy.ci95, static.latency))]
    equal = policy.equal_fixed
    assert found[1] == [
        repr(value)
        for value in (
            policy.accuracy.value,
            *policy.accuracy.ci95,
            policy.latency.mean,
            *policy.latency.ci95,
            policy.latency.median,
            policy.latency.p95,
            policy.latency.share_at_cap,
            policy.saving.latency,
            *((equal.saving_latency, equal.timesteps) if equal.timesteps is not None else ()),
            *((policy.gap_closed,) if policy.gap_closed is not None else ()),
            policy.losers,
            policy.winners,
            policy.mcnemar_p,
            policy.drop_upper95,
        )
    ]
    assert found[3:] == [
        [repr(point.accuracy), repr(point.latency)]
        for point in (oracle.any_time_correct, oracle.stable_correct, oracle.consistency)
    ]
    presets = ["fp32-45nm", "fp16-45nm", "int8-45nm"]
    assert [value for cell in costs[0][1:] for value in cell.values] == [
        *map(repr, (static.spikes_per_image, static.synops_per_image, static.macs_per_image)),
        *(repr(static.energy[preset]) for preset in presets),
    ]
    assert [value for cell in costs[1][1:] for value in cell.values] == [
        *map(repr, (policy.spikes_per_image, policy.saving.spikes, policy.synops_per_image, policy.saving.synops)),
        repr(policy.macs_per_image),
        *(repr(policy.energy[preset]) for preset in presets),
    ]
    fixed = rows_of(root, "Fixed time")
    assert [[row[0].text, row[2].values[0]] for row in fixed] == [
        [str(step), repr(value)] for step, value in zip(record.curve.timestep, record.curve.accuracy, strict=True)
    ]
    exits = rows_of(root, "Exits, dynamic-confidence")
    assert [int(row[1].values[0]) for row in exits] == list(policy.exit_histogram)


def test_what_is_shown_is_the_full_number_rounded(digits):
    """Halves up, from the digits of the full number; counts and parameters to three significant digits at least."""
    percentages, plain = 0, 0
    for data in tree(digits).all("data"):
        match = re.fullmatch(r"(-?\d+(?:\.(\d+))?)(%| pp)?", data.text)
        if match is None:
            continue
        shown, value = Decimal(match[1]), Decimal(data.attributes["value"])
        places = Decimal(1).scaleb(-len(match[2] or ""))
        if match[3] and match[3] != "%":
            assert shown == value.scaleb(2).quantize(places, ROUND_HALF_UP)
        elif match[3] and match[2]:
            assert shown == value.scaleb(2).quantize(places, ROUND_HALF_UP), (data.text, value)
            percentages += 1
        else:  # the ends of intervals have their unit outside
            near = min((value, value.scaleb(2)), key=lambda each: abs(each - shown))
            assert abs(near - shown) <= max(abs(near) * Decimal("0.005"), places / 2), (data.text, value)
            plain += 1
    assert percentages > 100 and plain > 300


def test_the_head_says_what_was_run(digits, finished):
    record = load_record(finished.record_file)
    run = section(tree(digits), "run").text
    for expected in (
        record.id,
        record.protocol,
        record.spec.weights.sha256,
        record.spec.model,
        f"T = {record.spec.timesteps}",
        f"{100 * record.ann.accuracy.value:.2f}%",
        record.provenance.device,
        record.provenance.started,
        *(f"{name} {version}" for name, version in record.provenance.versions.items()),
        *record.flags,
    ):
        assert expected in run, expected


def test_the_command_of_the_page_makes_the_same_record(digits, finished, cli):
    """Run where the record is, it finds it: all that determines the id is in the command."""
    (command,) = section(tree(digits), "run").all("pre")
    arguments = shlex.split(command.text.replace("\\\n", " "))
    assert arguments[:3] == ["python", "-m", "benchmark"]
    before = finished.record_file.stat().st_mtime_ns
    answer = cli(*arguments[3:], cwd=finished.folder)
    assert answer.code == 0
    assert f"record {finished.id} was in the store already" in answer.err
    assert finished.record_file.stat().st_mtime_ns == before


def test_the_command_has_every_option_that_counts():
    spec = RunSpec(
        method="ltb",
        method_options={"delay": 3, "channelwise": True},
        dataset="imagenet",
        dataset_fingerprint="test:0 calibration:1",
        model="squeezenet1_0",
        weights=Weights(source="my file.pth", sha256="a" * 64),
        timesteps=7,
        policies=(parse_policy("entropy[epsilon=0.01,selection=crc]"), parse_policy("fixed")),
        seed=3,
        precision="fp64",
        limit=10,
        calibration_size=20,
        preprocessing={"divisor": 1.0, "mean": [1.5, 2.0, 3.0], "std": [1.0, 1.0, 1.0], "crop": 227},
    )
    words = shlex.split(reproduce(spec))
    assert words == shlex.split(reproduce_in_lines(spec).replace("\\\n", " "))
    pairs = list(zip(words[4::2], words[5::2], strict=True))
    assert pairs == [
        ("--method", "ltb"),
        ("--dataset", "imagenet"),
        ("--model", "squeezenet1_0"),
        ("--checkpoint", "FILE"),
        ("--timesteps", "7"),
        ("--policy", "entropy[epsilon=0.01,selection=crc,tolerance=0.0]"),
        ("--policy", "fixed[selection=no-loss,tolerance=0.0]"),
        ("--set", "channelwise=True"),
        ("--set", "delay=3"),
        ("--preprocessing", "crop=227"),
        ("--preprocessing", "divisor=1.0"),
        ("--preprocessing", "mean=1.5,2.0,3.0"),
        ("--preprocessing", "std=1.0,1.0,1.0"),
        ("--limit", "10"),
        ("--calibration-size", "20"),
        ("--seed", "3"),
        ("--precision", "fp64"),
    ]
    assert tuple(parse_policy(value) for name, value in pairs if name == "--policy") == spec.policies


def test_the_pictures_are_those_of_the_dataset(digits, finished):
    """Each thumbnail, decoded, is the image that its text names, and leaves when the fitted rule says."""
    root, images = tree(digits), Digits().split("test")
    recording = load_recording(finished.recording / "test")
    calibration = load_recording(finished.recording / "calibration")
    exits = evaluation.fit(parse_policy("dynamic-confidence"), calibration).exit_steps(recording)
    part = section(root, "exit-times")
    first, last = (
        [int(re.search(r"\d+", image.attributes["alt"])[0]) for image in gallery.all("img")]
        for gallery in part.all("ul")[:2]
    )
    order = sorted(range(len(exits)), key=lambda index: (int(exits[index]), index))
    assert first == order[:8]
    latest = sorted(range(len(exits)), key=lambda index: (-int(exits[index]), index))
    assert last == latest[:8]
    for item in part.all("ul")[0].all("li") + part.all("ul")[1].all("li"):
        (image,) = item.all("img")
        index = int(re.search(r"\d+", image.attributes["alt"])[0])
        step, label = int(exits[index]), int(images.labels[index])
        answer = int(recording.predictions[index, step - 1])
        assert (decoded(image.attributes["src"]) == np.round(images.pixels[index, 0] * 255.0 / 16)).all()
        assert f"{label}, t = {step}" in item.text
        assert ("✓ right" in item.text) == (answer == label)
        if answer != label:
            assert f"wrong, answered {answer}" in item.text


def decoded(source: str) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))


def test_help_needs_no_torch(tmp_path):
    import subprocess
    import sys

    from conftest import environment

    program = (
        "import sys\nfrom benchmark.cli import main\nsys.argv = ['benchmark', 'report', '--help']\n"
        "try:\n    main()\nexcept SystemExit as stopped:\n    assert stopped.code == 0\n"
        "sys.exit(bool({'torch', 'numpy', 'matplotlib', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


# Runs of all kinds

KINDS_PRELUDE = {
    "calibration": drift(200, 12, 6, "calibration", seed=1, prelude_steps=7),
    "test": drift(200, 12, 6, "test", seed=2, prelude_steps=7),
}
KINDS = {
    "many rules": {"policies": ("dynamic-confidence", "dynamic-confidence-reference", "margin", "entropy", "random")},
    "no threshold": {"policies": ("fixed", "patience", "conformal", "margin[per_step=true]", "silence")},
    "a guarantee": {
        "policies": ("dynamic-confidence[selection=ltt,epsilon=0.05]", "dynamic-confidence[selection=crc,epsilon=0.04]")
    },
    "too few images": {"policies": ("dynamic-confidence[selection=ltt]",), "images": 40},
    "one timestep": {"policies": ("dynamic-confidence", "fixed"), "timesteps": 1},
    "two classes": {"policies": ("dynamic-confidence", "margin", "entropy"), "classes": 2},
    "one image": {"policies": ("dynamic-confidence",), "images": 1},
    "long": {"policies": ("dynamic-confidence",), "timesteps": 150, "images": 50},
    "prelude": {"policies": ("dynamic-confidence",), **KINDS_PRELUDE},
    "statistics": {
        "policies": ("dynamic-confidence[scale=3]", "margin"),
        "calibration": drift(200, 12, 6, "calibration", seed=1, statistics=True),
        "test": drift(200, 12, 6, "test", seed=2, statistics=True),
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_runs_of_every_kind_give_a_page(tmp_path, kind):
    store, record = made_run(tmp_path, **KINDS[kind])
    text = page_of(store, record)
    root = check_page(text)
    assert text == page_of(store, record)
    answers = rows_of(root, "Answers")
    assert len(answers) == 1 + len(record.policies) + 3
    for row, policy in zip(answers[1:], record.policies, strict=False):
        assert row[1].values[0] == repr(policy.accuracy.value)
        assert row[2].values[0] == repr(policy.latency.mean)
    assert "made" in section(root, "exit-times").text and not section(root, "exit-times").all("img")


def test_a_prelude_is_in_every_latency_of_the_page(tmp_path):
    store, record = made_run(tmp_path, **KINDS["prelude"])
    root = tree(page_of(store, record))
    assert [int(row[1].text) for row in rows_of(root, "Fixed time")] == list(range(8, 20))
    assert all(float(row[1].values[0]) >= 8 for row in rows_of(root, "dynamic-confidence: some thresholds"))
    whole = next(
        drawing
        for drawing in root.all("svg")
        if drawing.attributes.get("aria-labelledby", "").startswith("tradeoff-whole")
    )
    assert float(whole.all("text")[0].text) >= 7
    assert rows_of(root, "Mean per image and timestep")[0][0].text == "prelude"


def test_the_guarantee_is_said_in_words(tmp_path):
    store, record = made_run(tmp_path, **KINDS["a guarantee"])
    promise = record.policies[0].guarantee
    first, second = section(tree(page_of(store, record)), "rules").all("ul")[0].all("li")
    assert f"{promise.risk} at most 5%, with probability 95%" in first.text
    assert [promise.epsilon, promise.delta] == [float(value) for value in first.values]
    assert "in the mean over draws of the calibration images, at most 4% of all images are lost" in second.text
    (plain,) = section(tree(page_of(*made_run(tmp_path / "plain"))), "rules").all("ul")[0].all("li")
    assert "no guarantee" in plain.text


def test_too_few_images_are_named(tmp_path):
    store, record = made_run(tmp_path, **KINDS["too few images"])
    (item,) = section(tree(page_of(store, record)), "rules").all("ul")[0].all("li")
    assert "nothing stops early" in item.text and "598" in item.text


def test_rules_that_are_not_in_the_record_are_named(tmp_path):
    store, record = made_run(tmp_path, ("fixed",))
    rules = section(tree(page_of(store, record, "margin", "fixed[timesteps=3]")), "rules")
    assert "Not in the record, computed for this page: margin; fixed (given)." in rules.text


def test_rules_have_labels_of_their_own():
    assert labels([("a", "x"), ("b", "x")]) == ["a", "b"]
    assert labels([("a", "x"), ("a", "y"), ("b", "x")]) == ["a (x)", "a (y)", "b"]
    assert labels([("a", "x"), ("a", "x"), ("a", "y")]) == ["a (x) #1", "a (x) #2", "a (y)"]


def test_hostile_names_stay_text(tmp_path, fresh_registry):
    class Hostile(Margin):
        name = HOSTILE

    fresh_registry.register("policies", HOSTILE, Hostile)
    store, record = made_run(
        tmp_path / "a",
        (HOSTILE,),
        method=HOSTILE,
        dataset=HOSTILE,
        model=HOSTILE + "\x00",
        weights=Weights(source=HOSTILE + ".pt", sha256="a" * 64),
        method_options={HOSTILE: HOSTILE},
    )
    record = record.model_copy(update={"flags": (HOSTILE,), "protocol": HOSTILE})
    text = page_of(store, record)
    root = check_page(text)
    assert "<script" not in text and "\x00" not in text
    assert f"{HOSTILE} · {HOSTILE} · {HOSTILE}\ufffd" == root.all("h1")[0].text
    assert rows_of(root, "Answers")[1][0].all("b")[0].text == HOSTILE


def test_a_plug_in_that_is_gone_is_said(tmp_path):
    """The numbers of its rule stand in the record; only what needs the rule itself is missing."""
    store, record = made_run(tmp_path, ("margin",))
    spec = record.spec.model_copy(update={"policies": (PolicySpec(name="gone"),)})
    result = record.policies[0].model_copy(update={"name": "gone"})
    record = record.model_copy(update={"spec": spec, "policies": (result,), "id": spec.id})
    root = check_page(page_of(store, record))
    assert "gone: cannot be fitted here" in section(root, "run").text
    assert rows_of(root, "Answers")[1][1].values[0] == repr(result.accuracy.value)
    assert [int(row[1].values[0]) for row in rows_of(root, "Exits, gone")] == list(result.exit_histogram)


def test_a_fitted_rule_that_differs_from_the_record_is_said(tmp_path):
    store, record = made_run(tmp_path)
    assert "differs" not in section(tree(page_of(store, record)), "run").text
    histogram = list(record.policies[0].exit_histogram)
    place = next(place for place, count in enumerate(histogram) if count > 1)
    histogram[place] -= 2
    histogram[place - 1] += 2
    tampered = record.policies[0].model_copy(update={"exit_histogram": tuple(histogram)})
    run = section(tree(page_of(store, record.model_copy(update={"policies": (tampered,)}))), "run")
    assert "differs from the record's (at least 2 images leave at another timestep)" in run.text


def test_a_recording_that_differs_from_the_record_is_said(tmp_path):
    store, record = made_run(tmp_path)
    accuracy = (record.curve.accuracy[0] + 1 / 300, *record.curve.accuracy[1:])
    curve = record.curve.model_copy(update={"accuracy": accuracy})
    run = section(tree(page_of(store, record.model_copy(update={"curve": curve}))), "run")
    assert "gives other accuracies after fixed times than the record" in run.text


def test_what_was_measured_and_reported_stands_in_the_head(tmp_path, make_record):
    store, record = made_run(tmp_path)
    full = make_record()
    record = record.model_copy(update={"measured": full.measured, "reported": full.reported})
    run = section(tree(page_of(store, record)), "run").text
    assert "a paper, table 1" in run and "90.00% at 8 timesteps" in run
    assert (
        "1.10 s with all timesteps, 0.30 s with early exit (1.25 s as a stream), 3.67x (ideal 4.10x); as many "
        "forward passes 1.75 s; 0 images differ from the replay" in run
    )


# Recordings without a record


def test_a_recording_without_a_record(tmp_path, call):
    folder = tmp_path / "mine"
    write_recording(drift(200, 8, 4, "calibration", seed=1), folder / "calibration")
    write_recording(drift(200, 8, 4, "test", seed=2), folder / "test")
    answer = call("report", folder, "--policy", "margin", "--policy", "patience", "--results", tmp_path / "results")
    assert answer.code == 0, answer.err
    output = tmp_path / "results" / "reports" / "mine.html"
    assert answer.out == f"{output}\n"
    root = check_page(output.read_text())
    assert "ANN accuracynot known" in section(root, "run").text
    assert "ANN" not in [item.text for item in section(root, "accuracy-latency").all("ul")[0].all("li")]
    assert "No example images" in section(root, "exit-times").text
    calibration, test = load_recording(folder / "calibration"), load_recording(folder / "test")
    for row, name in zip(rows_of(root, "Answers")[1:], ("margin", "patience"), strict=False):
        result, _ = evaluation.evaluate(parse_policy(name), calibration, test)
        assert row[2].values[0] == repr(result.latency.mean)
    assert call("report", folder, "--output", tmp_path / "own.html").code == 0
    assert rows_of(tree((tmp_path / "own.html").read_text()), "Answers")[1][0].all("b")[0].text == "dynamic-confidence"


@pytest.mark.parametrize("spoil", ["missing", "half"])
def test_an_incomplete_recording_without_a_record_is_an_error(tmp_path, call, spoil):
    folder = tmp_path / "mine"
    write_recording(drift(50, 8, 4, "calibration", seed=1), folder / "calibration")
    if spoil == "half":
        write_recording(drift(50, 8, 4, "test", seed=2), folder / "test")
        shard_path(folder / "test", 0).write_bytes(b"half")
    answer = call("report", folder)
    assert answer.code == 1 and str(folder) in answer.err and "test" in answer.err
    assert "Traceback" not in answer.err


def test_spikes_that_were_not_counted_are_not_shown_as_zero(tmp_path):
    import dataclasses

    folder = tmp_path / "mine"
    for name, seed in (("calibration", 1), ("test", 2)):
        recording = drift(100, 8, 4, name, seed=seed, spikes=torch.zeros(100, 8, dtype=torch.long))
        info = dataclasses.replace(recording.info, counts_spikes=False, counts_synops=False)
        write_recording(dataclasses.replace(recording, info=info), folder / name)
    root = check_page(page(subject_of_recording(folder, [parse_policy("margin")])))
    assert "does not count spikes" in section(root, "spikes").text and not section(root, "spikes").all("figure")
    for row in rows_of(root, "Cost of one image"):
        assert [cell.text for cell in row[1:5]] == ["not counted", "-", "not counted", "-"]
        assert {cell.text for cell in row[6:]} == {"not counted"}


# Bad input


def test_an_unknown_id_has_near_matches(tmp_path, call):
    store, record = made_run(tmp_path)
    wrong = record.id[:-1] + ("0" if record.id[-1] != "0" else "1")
    answer = call("report", wrong, "--results", store.root)
    assert answer.code == 2
    assert f"no record {wrong!r}" in answer.err and f"Did you mean {record.id!r}?" in answer.err


def test_a_prefix_of_two_records_is_an_error(tmp_path, call):
    store, first = made_run(tmp_path)
    _, second = made_run(tmp_path, ("fixed",), seed=1)
    answer = call("report", "", "--results", store.root)
    assert answer.code == 2 and first.id in answer.err and second.id in answer.err


def test_without_recordings_it_says_how_to_make_them(finished, cli, call, tmp_path):
    """The hint is a command that works."""
    results = tmp_path / "results"
    shutil.copytree(finished.results, results)
    shutil.rmtree(results / "recordings")
    answer = call("report", finished.id, "--results", results)
    assert answer.code == 2
    command = answer.err.partition("with: ")[2].strip()
    assert cli(*shlex.split(command)[3:], cwd=tmp_path).code == 0
    assert call("report", finished.id, "--results", results).code == 0


@pytest.mark.parametrize("spoil", ["shard", "header", "other"])
def test_damaged_recordings_are_errors(tmp_path, spoil):
    store, record = made_run(tmp_path)
    folder = store.recording_folder(record.spec) / "test"
    if spoil == "shard":
        shard_path(folder, 0).write_bytes(shard_path(folder, 0).read_bytes()[:-1])
    elif spoil == "header":
        (folder / "recording.json").write_text("{")
    else:
        shutil.rmtree(folder)
        write_recording(drift(300, 12, 6, "test", seed=2), folder)
    with pytest.raises(RecordError, match="--rerun") as caught:
        subject_of_record(record, store, None)
    assert caught.value.exit_code == 1


def test_a_record_that_lacks_a_result_is_an_error(tmp_path, call):
    store, record = made_run(tmp_path, ("fixed", "margin"))
    store.save(record.model_copy(update={"policies": record.policies[:1]}))
    answer = call("report", record.id, "--results", store.root)
    assert answer.code == 1 and "1 results for the 2 rules" in answer.err


def test_records_without_numbers_and_damaged_ones_are_errors(tmp_path, call):
    store, record = made_run(tmp_path)
    path = store.path(record.spec)
    failed = {**json.loads(path.read_text()), "status": "failed", "reason": "no luck"}
    path.write_text(json.dumps(failed))
    answer = call("report", record.id, "--results", store.root)
    assert answer.code == 2 and "failed: no luck" in answer.err
    path.write_text("{}")
    answer = call("report", record.id, "--results", store.root)
    assert answer.code == 1 and str(path) in answer.err
    with pytest.raises(UsageError):
        find_record(ResultStore(tmp_path / "nowhere"), "abc")


def test_wrong_options_are_usage_errors(tmp_path, call):
    store, record = made_run(tmp_path)
    for arguments, words in (
        (("--policy", "marginn"), "Did you mean 'margin'?"),
        (("--output", tmp_path), "is a folder"),
        (("--examples", "-1"), "examples"),
        (("--plugin", tmp_path / "none.py"), "is not a Python file"),
    ):
        answer = call("report", record.id, "--results", store.root, *arguments)
        assert answer.code == 2 and words in answer.err, answer.err


# Images that cannot be had


@pytest.fixture
def pictured(fresh_registry):
    """A registered dataset whose test images and labels are those of a made run; returns them to be spoilt."""
    test = drift(60, 6, 3, "test", seed=2)
    pixels = np.arange(60 * 3 * 100 * 80, dtype=np.uint64).reshape(60, 3, 100, 80) % 251
    content = {"pixels": pixels.astype(np.uint8), "labels": test.labels.numpy().copy()}

    class Made:
        preprocessing = Preprocessing(255.0, (0.5,) * 3, (0.5,) * 3)
        class_names = ("<ant>", "bee", "cow")

        def __init__(self, data_dir):
            self.data_dir = data_dir

        def viewed(self, preprocessing):
            return self

        def split(self, name):
            return Images(f"made {name}", content["pixels"], content["labels"], 3)

    fresh_registry.register("datasets", "made", Made)
    fingerprint = Made(None).split("test").fingerprint
    return {"test": test, "calibration": drift(60, 6, 3, "calibration", seed=1)}, content, f"test:{fingerprint}"


def test_large_images_become_thumbnails_with_class_names(tmp_path, pictured):
    recordings, _, fingerprint = pictured
    store, record = made_run(tmp_path, dataset_fingerprint=fingerprint, timesteps=6, **recordings)
    root = check_page(page_of(store, record))
    shown = section(root, "exit-times").all("img")
    assert shown
    for image in shown:
        assert re.fullmatch(r"Test image \d+: (<ant>|bee|cow)", image.attributes["alt"])
        assert max(decoded(image.attributes["src"]).shape) == 64
    assert not section(tree(page(subject_of_record(record, store, None), 0)), "exit-times").all("img")


@pytest.mark.parametrize("spoil", ["pixels", "labels", "count"])
def test_other_images_than_the_recorded_ones_are_not_shown(tmp_path, pictured, spoil):
    recordings, content, fingerprint = pictured
    store, record = made_run(tmp_path, dataset_fingerprint=fingerprint, timesteps=6, **recordings)
    if spoil == "pixels":
        content["pixels"][7, 0, 0, 0] ^= 1
    elif spoil == "labels":
        content["labels"][7] = (content["labels"][7] + 1) % 3
    else:
        content["pixels"], content["labels"] = content["pixels"][:50], content["labels"][:50]
    part = section(check_page(page_of(store, record)), "exit-times")
    assert "No example images" in part.text and "are not the recorded ones" in part.text
    assert not part.all("img")


def test_labels_are_compared_too(tmp_path, pictured):
    """Even where the fingerprint is right: a recording of other images must not be illustrated with these."""
    recordings, _, fingerprint = pictured
    recordings["test"] = drift(60, 6, 3, "test", seed=3)
    store, record = made_run(tmp_path, dataset_fingerprint=fingerprint, timesteps=6, **recordings)
    part = section(tree(page_of(store, record)), "exit-times")
    assert "the labels of made found here are not the recorded ones" in part.text


def test_a_dataset_that_is_not_there(tmp_path):
    store, record = made_run(tmp_path / "results", dataset="cifar10", classes=10)
    (tmp_path / "empty").mkdir()
    subject = subject_of_record(record, store, tmp_path / "empty")
    part = section(check_page(page(subject)), "exit-times")
    assert "No example images: cifar10 was not found; --data-dir DIR says where it is." in part.text
    assert str(tmp_path) not in part.text


def test_grey_levels_are_spread_over_all_of_the_scale():
    pixels = np.array([[[[0, 8], [15, 16]]]], dtype=np.uint8)
    shown = Pictures(Images("made", pixels, np.zeros(1, dtype=np.int64), 2), 16.0)
    assert decoded(shown.thumbnail(0)).tolist() == [[0, 128], [239, 255]]
    assert shown.name(1) == "1" and shown.is_tiny


def test_which_images_are_shown():
    exits = torch.tensor([3, 1, 2, 1, 3, 3])
    assert examples.earliest(exits, 3) == [1, 3, 2]
    assert examples.latest(exits, 2, []) == [0, 4]
    assert examples.latest(exits, 4, [0, 1]) == [4, 5, 2, 3]
    assert examples.latest(exits, 9, [0, 1, 2, 3, 4, 5]) == []
    correct = torch.tensor([[0, 0, 1], [0, 1, 1], [0, 1, 1], [1, 0, 1], [0, 1, 0], [1, 1, 1]], dtype=torch.bool)
    # Image 1 leaves after timestep 1, at which it is wrong, and would have been right in the end.
    assert examples.lost(exits, correct, 5) == [1]


# The numbers behind the figures


def test_a_threshold_curve_goes_through_the_operating_point(tmp_path):
    store, record = made_run(tmp_path, ("dynamic-confidence", "margin"))
    subject = subject_of_record(record, store, None)
    for rule in subject.rules:
        curve = threshold_curve(rule, subject)
        place = curve.thresholds.index(rule.policy.threshold)
        assert curve.latency[place] == pytest.approx(rule.result.latency.mean, abs=1e-9)
        assert curve.accuracy[place] == pytest.approx(rule.result.accuracy.value, abs=1e-12)
        assert curve.low[place] == pytest.approx(rule.result.accuracy.ci95[0])
        assert curve.high[place] == pytest.approx(rule.result.accuracy.ci95[1])


def test_a_threshold_curve_is_what_a_loop_over_images_gives(tmp_path):
    store, record = made_run(tmp_path, images=40)
    subject = subject_of_record(record, store, None)
    curve = threshold_curve(subject.rules[0], subject)
    scores = subject.test.evidence.confidence(subject.rules[0].policy.scale)
    for place in range(0, len(curve.thresholds), 97):
        exits = [
            next((t for t in range(1, 12) if float(scores[n, t - 1]) > curve.thresholds[place]), 12) for n in range(40)
        ]
        assert curve.latency[place] == pytest.approx(sum(exits) / 40)
        right = sum(bool(subject.test.correct[n, t - 1]) for n, t in enumerate(exits))
        assert curve.accuracy[place] == pytest.approx(right / 40)


def test_a_rule_that_is_more_than_one_threshold_has_no_curve(tmp_path):
    import dataclasses

    store, record = made_run(tmp_path, ("margin", "margin[per_step=true]", "conformal"))
    subject = subject_of_record(record, store, None)
    plain, stepwise, conformal = subject.rules
    assert scores_of(plain, subject) is not None
    assert scores_of(stepwise, subject) is None and scores_of(conformal, subject) is None
    later = dataclasses.replace(plain, exits=(plain.exits + 1).clamp_max(12))
    assert scores_of(later, subject) is None


def test_rules_with_the_same_scores_share_a_line(tmp_path):
    store, record = made_run(tmp_path, ("dynamic-confidence[scale=3]", "dynamic-confidence[scale=3,threshold=0.9]"))
    part = section(tree(page_of(store, record)), "accuracy-latency")
    assert "(on the line of dynamic-confidence (pareto))" in part.all("ul")[0].text
    assert sum("some thresholds of its grid" in table.text for table in part.all("table")) == 1


@pytest.mark.parametrize("statistics", [False, True])
def test_errors_are_those_of_the_metrics(statistics):
    recording = drift(300, 9, 5, statistics=statistics)
    generator = torch.Generator().manual_seed(0)
    exits = torch.randint(1, 10, (300,), generator=generator)
    found = errors_of(recording, 4.0, recording.evidence.confidence(4.0))
    shown = at_exits(recording, exits)
    single = errors_of(shown, 4.0, shown.evidence.confidence(4.0))
    for name, measure, options in (
        ("ece", metrics.expected_calibration_error, {}),
        ("adaptive", metrics.expected_calibration_error, {"equal_mass": True}),
        ("nll", metrics.negative_log_likelihood, {}),
        ("brier", metrics.brier_score, {}),
    ):
        assert getattr(found, name) == measure(recording, 4.0, **options).tolist()
        assert getattr(single, name) == [pytest.approx(float(measure(recording, 4.0, exits, **options)), abs=1e-12)]


def test_without_the_half_scale_there_is_no_brier_score():
    recording = drift(100, 4, 5, statistics=True)
    assert errors_of(recording, 1.0, recording.evidence.confidence(1.0)).brier is None


def test_the_bins_of_the_reliability_tables_add_up(tmp_path):
    store, record = made_run(tmp_path)
    root = tree(page_of(store, record))
    counted: dict[int, int] = {}
    for row in rows_of(root, "Bins that hold images"):
        step, low, high = int(row[0].text), float(row[1].text), float(row[2].text)
        mean, accuracy, images = (float(cell.values[0]) for cell in row[3:])
        assert low - 1e-3 <= mean <= high + 1e-3 and 0 <= accuracy <= 1
        counted[step] = counted.get(step, 0) + int(images)
    assert counted == dict.fromkeys((1, 2, 4, 8, 12), 300)


def test_spikes_per_layer(tmp_path):
    """The table holds the means, and the colours of the map their square roots."""
    import dataclasses

    generator = torch.Generator().manual_seed(0)
    sites = torch.randint(0, 900, (5, 3), generator=generator)
    sites[0, 0], sites[4, 2] = 0, 1000
    spikes = torch.zeros(80, 5, dtype=torch.long)
    spikes[3] = sites.sum(1)
    base = drift(80, 5, 4, "test", seed=2, spikes=spikes)
    info = dataclasses.replace(base.info, sites=("stem", HOSTILE, "top"))
    test = dataclasses.replace(base, info=info, site_spikes=sites)
    store, record = made_run(tmp_path, test=test, calibration=drift(80, 5, 4, "calibration", seed=1), timesteps=5)
    root = check_page(page_of(store, record))
    rows = rows_of(root, "Mean spikes per image, by layer and timestep")
    assert [row[0].text for row in rows] == ["1: stem", f"2: {HOSTILE}", "3: top"]
    assert [[float(cell.values[0]) for cell in row[1:]] for row in rows] == (sites.T.double() / 80).tolist()
    (image,) = section(root, "spikes").all("image")
    drawn = decoded(image.attributes["href"])
    assert drawn.shape == (3, 5, 3)
    assert drawn[0, 0].tolist() == RAMP[0].tolist() and drawn[2, 4].tolist() == RAMP[-1].tolist()
    expected = colours(np.sqrt(sites.T.numpy() / 1000))
    assert np.abs(drawn.astype(int) - expected.astype(int)).max() <= 1
    assert "holds no spikes per layer" not in section(root, "spikes").text


def test_the_ramp_of_colours():
    assert colours(np.array([0.0, 0.25, 1.0, 2.0])).tolist() == [[*map(int, RAMP[place])] for place in (0, 1, 4, 4)]
    assert colours(np.array([0.125])).tolist() == [[64, 42, 112]]


def test_risk_and_coverage_tables(tmp_path):
    store, record = made_run(tmp_path)
    subject = subject_of_record(record, store, None)
    root = tree(page_of(store, record))
    rows = {row[0].text: row[1:] for row in rows_of(root, "Risk at some coverages")}
    for step in (1, 4, 12):
        order = torch.argsort(subject.confidence[:, step - 1], descending=True)
        wrong = ~subject.test.correct[order, step - 1]
        for cell, images in zip(rows[f"t = {step}"], range(30, 301, 30), strict=False):
            assert float(cell.values[0]) == pytest.approx(float(wrong[:images].double().mean()))
    areas = metrics.area_under_risk_coverage(subject.test, subject.confidence).tolist()
    assert [float(row[1].values[0]) for row in rows_of(root, "AURC at every timestep")] == areas


# Drawing


def test_places_on_axes():
    axis = linear(10, 30)
    assert [axis.place(value) for value in (10, 20, 30)] == [0, 0.5, 1]
    assert linear(0, 100).ticks == (0, 20, 40, 60, 80, 100)
    assert linear(89.56, 92.08).ticks == (90, 91, 92) or linear(89.56, 92.08).ticks == (89.5, 90, 90.5, 91, 91.5, 92)
    assert linear(3, 3).high > linear(3, 3).low
    powers = latency_axis([1, 32])
    assert powers.logarithmic and powers.ticks == (1, 2, 4, 8, 16, 32)
    assert powers.place(4) - powers.place(2) == pytest.approx(powers.place(32) - powers.place(16))
    assert not latency_axis([129, 160]).logarithmic and not latency_axis([1]).logarithmic
    assert from_zero([]).high == 1 and from_zero([math.nan, 2.0]).high == pytest.approx(2.12)
    assert step_axis(1).ticks == (1,) and step_axis(4).ticks == (1, 2, 3, 4)
    assert step_axis(32).ticks == (1, 5, 10, 15, 20, 25, 30)
    assert step_axis(100).ticks[0] == 1 and step_axis(100).ticks[-1] == 100


def test_milestones():
    assert milestones(1) == [1] and milestones(12) == [1, 2, 4, 8, 12]
    assert milestones(32) == [1, 2, 4, 8, 16, 32]
    assert milestones(200) == [1, 16, 32, 64, 128, 200]


def plot(**changes) -> Plot:
    options = {"x": linear(0, 10), "y": linear(0, 100), "x_label": "x", "y_label": "y", **changes}
    return Plot("p", "a title", "a description", **options)


def test_bars_are_as_high_as_their_values():
    drawn = plot()
    drawn.bars([(0, 1, 25.0), (1, 2, 50.0), (2, 3, 0.0), (3, 4, math.nan)], 0)
    (path,) = [node for node in tree(drawn.render()).all("path") if "bar" in node.attributes["class"]]
    bars = re.findall(r"M([\d.]+) ([\d.]+)V([\d.]+)H([\d.]+)V", path.attributes["d"])
    heights = [float(bottom) - float(top) for _, bottom, top, _ in bars]
    assert len(heights) == 2 and heights[0] > 0 and heights[1] == pytest.approx(2 * heights[0], abs=0.11)
    assert float(bars[0][0]) == LEFT and float(bars[0][3]) - LEFT == pytest.approx((480 - LEFT - RIGHT) / 10, abs=0.06)


def test_up_is_more_and_right_is_later():
    drawn = plot()
    (left, low), (right, high) = drawn.at(0, 0), drawn.at(10, 100)
    assert left < right and high < low
    assert drawn.at(5, 50) == (pytest.approx((left + right) / 2), pytest.approx((low + high) / 2))
    ticks = [(float(node.attributes["y"]), node.text) for node in tree(drawn.render()).all("text")[6:12]]
    assert [text for _, text in ticks] == ["0", "20", "40", "60", "80", "100"]
    assert [y for y, _ in ticks] == sorted((y for y, _ in ticks), reverse=True)


def test_lines_keep_their_ends_and_their_shape():
    points = [(float(x), 0.0) for x in np.linspace(0, 10, 1001)]
    kept = thinned(points)
    assert len(kept) < 20 and kept[0] == points[0] and kept[-1] == points[-1]
    assert thinned([(0, 0), (5, 5), (0, 0)]) == [(0, 0), (5, 5), (0, 0)]
    assert thinned([]) == []


def test_markup_escapes_what_is_not_markup():
    assert element("p", "a < b & c", [Markup("<b>"), ["d"]]) == "<p>a &lt; b &amp; c<b>d</p>"
    assert element("img", alt='"', class_="x", hidden=True, title=None) == '<img alt="&quot;" class="x" hidden>'
    assert element("path", stroke_dasharray="1 2") == '<path stroke-dasharray="1 2"/>'
    assert element("svg", viewbox="0 0 1 1") == '<svg viewBox="0 0 1 1"></svg>'
    assert joined("\x00\ud800<") == "\ufffd\ufffd&lt;"


# The guarantee


def test_the_guarantee_is_tried_out_on_the_test_images(tmp_path):
    """Every number is that of the simulation with the rule's own score, epsilon and delta, on the fine and a coarse grid."""
    store, record = made_run(
        tmp_path, ("fixed", "dynamic-confidence[selection=ltt,epsilon=0.05,delta=0.1]"), **KINDS_PRELUDE
    )
    subject = subject_of_record(record, store, None)
    part = section(tree(page(subject, 0)), "guarantee")
    assert "looks at test images and chooses nothing" in part.text
    policy = subject.rules[1].policy
    found = violations(
        subject.test,
        policy.scores(subject.test),
        images=200,
        epsilon=0.05,
        delta=0.1,
        grids={"fine": policy.grid, "coarse": coarse(policy.grid)},
        rules=("ltt", "plug-in", "pareto", "naive"),
        draws=1000,
    )
    expected = {(each.rule, each.thresholds): each for each in found}
    rows = rows_of(part, "Thresholds chosen on 1,000 draws of 200 images")
    assert len(rows) == len(expected) == 8
    for row in rows:
        rule = "ltt" if row[0].text == "Learn then Test" else row[0].text.partition(":")[0]
        each = expected[rule, int(re.search(r"\d[\d,]*", row[1].text)[0].replace(",", ""))]
        assert each.grid in row[1].text
        shown = [float(value) for cell in row[2:] for value in cell.values]
        assert shown == [each.rate, *each.rate_ci95, each.risk, each.timesteps + 7]
    assert expected["ltt", len(policy.grid)].rate <= 0.1 < expected["naive", len(policy.grid)].rate
    assert expected["plug-in", len(policy.grid)].rate > 0.2


def test_where_learn_then_test_needs_more_images_it_is_said(tmp_path):
    store, record = made_run(tmp_path, images=40)
    part = section(tree(page_of(store, record)), "guarantee")
    assert "With 40 images Learn then Test cannot conclude anything: it takes 598" in part.text
    assert all(
        float(row[2].values[0]) == 0 and row[4].text == "12.00" for row in rows_of(part, "Thresholds chosen")[:2]
    )


def test_without_a_threshold_there_is_nothing_to_try_out(tmp_path):
    store, record = made_run(tmp_path, ("fixed",))
    assert "nothing to try out" in section(tree(page_of(store, record)), "guarantee").text
