"""Which weights a method runs on: of its own kind, from whoever trained them, with the options they were trained with."""

from __future__ import annotations

import json
import os
import re

import pytest
import torch
from conftest import Answer

import methods
from benchmark import weights
from benchmark.backbones.small_cnn import small_cnn
from benchmark.card import read_card
from benchmark.errors import CheckpointError, UsageError
from benchmark.locating import resolve
from benchmark.records import parse_record
from benchmark.spec import Cell
from benchmark.store import sha256_of
from benchmark.training.record import load_training_record

EVERY = sorted(methods.METHODS)


def test_every_method_says_what_it_converts():
    for name, entry in methods.METHODS.items():
        assert entry.network in ("quantised", "relu", "spiking"), name
        trained = weights.trained_as(name)
        assert trained == "relu" or methods.METHODS[trained].network == entry.network, name
        assert (trained == "relu") == (entry.network == "relu"), name


@pytest.fixture(scope="module")
def every(cli, tmp_path_factory):
    """`run --method all` on a few images of the synthetic dataset; answer and folder."""
    folder = tmp_path_factory.mktemp("every method")
    command = "run --method all --dataset synthetic --results r --limit 24 --calibration-size 24 --timesteps 12 --set"
    answer = cli(*command.split(), "iterations=2", "--set", "prelude_length=3", "--json", cwd=folder)
    assert answer.code == 0, answer.err
    return answer, folder


def records(every) -> dict:
    answer: Answer = every[0]
    return {document["spec"]["method"]: document for document in json.loads(answer.out)}


def test_one_command_runs_every_method(every):
    found = records(every)
    assert sorted(found) == EVERY
    assert all(document["status"] == "ok" for document in found.values())
    for method, document in found.items():
        path = every[1] / "r" / "synthetic" / "small-cnn" / method / f"{document['id']}.json"
        assert parse_record(path.read_text()).to_json() == path.read_text()


def test_methods_share_the_networks_they_can(every):
    """Four trainings serve all methods: QCFS, LSQ, ReLU and surrogate."""
    by_weights = {}
    for method, document in records(every).items():
        by_weights.setdefault(document["spec"]["weights"]["sha256"], set()).add(method)
    assert sorted(map(sorted, by_weights.values())) == [
        ["cos", "ftbc", "qcfs", "snm", "srp"],
        ["ltb", "snn-calibration", "threshold-balancing"],
        ["qffs", "st-bif"],
        ["surrogate"],
    ]
    cards = {read_card(path).method for path in (every[1] / "r" / "checkpoints").glob("*.safetensors")}
    assert cards == {"qcfs", "relu", "qffs", "surrogate"}
    accuracies = {document["ann"]["accuracy"]["value"] for document in records(every).values()}
    assert min(accuracies) > 0.5  # all four have learnt something


def test_options_reach_the_methods_that_have_them(every):
    found = {method: document["spec"]["method_options"] for method, document in records(every).items()}
    assert found["cos"]["iterations"] == found["ltb"]["iterations"] == 2
    assert found["srp"]["prelude_length"] == found["cos"]["prelude_length"] == 3
    assert "iterations" not in found["qcfs"]


def test_latency_holds_the_prelude_everywhere(every):
    for method, document in records(every).items():
        prelude = 3 if method in ("srp", "cos") else 0
        static = document["static"]
        assert (static["prelude"], static["latency"]) == (prelude, prelude + 12)
        assert static["streaming_prelude"] == (9 if method == "cos" else prelude)  # three layers of neurons
        for policy in document["policies"]:
            assert policy["latency"]["mean"] >= prelude + 1
        assert document["oracle"]["consistency"]["latency"] >= prelude + 1


def test_qffs_is_its_network_once_it_has_settled(every):
    for method in ("qffs", "st-bif"):
        document = records(every)[method]
        curve = document["curve"]
        assert curve["accuracy"][-1] == document["ann"]["accuracy"]["value"]
        assert curve["spikes_per_image"][-1] == curve["spikes_per_image"][-2]  # silent at the end


def test_the_table_compares_with_and_without_the_prelude(every):
    text = every[0].err
    assert "the prelude not counted" in text and "the prelude is part of it" in text
    free, paid = text.partition("the prelude is part of it")[::2]
    (line,) = [line for line in free.splitlines() if line.startswith("srp ")]
    assert line.split()[:2] == ["srp", f"{100 * records(every)['srp']['ann']['accuracy']['value']:.2f}"]
    (line,) = [line for line in paid.splitlines() if line.startswith("srp ") and "µJ" not in line and "." in line][:1]
    assert line.split()[3:5] == ["-", "-"]
    assert "int8-45nm" in text


def test_energies_stand_under_their_preset_whatever_the_order_in_the_record(every):
    from benchmark.cli.tables import comparison_tables

    ours = [parse_record(json.dumps(document)) for document in records(every).values()]
    energy = ours[1].static.energy
    turned = ours[1].static.model_copy(update={"energy": dict(reversed(energy.items()))})
    assert list(turned.energy) != list(energy)
    changed = [ours[0], ours[1].model_copy(update={"static": turned})]
    assert comparison_tables(changed) == comparison_tables(ours[:2])


def test_every_method_stands_in_the_leaderboard(cli, every):
    answer = cli("leaderboard", "--results", "r", "--output", "page/README.md", cwd=every[1])
    assert answer.code == 0, answer.err
    page = (every[1] / "page" / "README.md").read_text()
    for method, document in records(every).items():
        rows = [line for line in page.splitlines() if f"`{document['id']}`" in line]
        # Once in the summary, and with fixed time and early exit among all rules.
        assert len(rows) == 3 and all(f"| {method}" in row for row in rows), method
    assert "(prelude 3, streaming 9)" in page


def test_the_leaderboard_links_to_the_training_of_the_weights(cli, every):
    """Each network was trained for the run; its record is where the page says, and belongs to the weights of the row."""
    answer = cli("leaderboard", "--results", "r", "--output", "elsewhere/README.md", cwd=every[1])
    assert answer.code == 0, answer.err
    page = (every[1] / "elsewhere" / "README.md").read_text()
    links = dict(re.findall(r"- <sup>(\d+)</sup> Training record \[`[0-9a-f]{12}`\]\((.+)\)\.", page))
    assert len(links) == len({document["ann"]["training"] for document in records(every).values()})
    for method, document in records(every).items():
        row = next(line for line in page.splitlines() if f"`{document['id']}`" in line)
        (link,) = [links[mark] for mark in re.findall(r"<sup>(\d+)</sup>", row.split("|")[2]) if mark in links]
        training = load_training_record(every[1] / "elsewhere" / link)
        assert (training.id, training.checkpoint_sha256) == (
            document["ann"]["training"],
            document["spec"]["weights"]["sha256"],
        ), method


def test_an_option_that_no_method_has(cli, tmp_path):
    answer = cli("run", "--method", "all", "--set", "levles=8", cwd=tmp_path)
    assert answer.code == 2
    assert "no method has an option 'levles'" in answer.err and "Did you mean 'levels'" in answer.err


@pytest.fixture
def run(call, tmp_path):
    """`run` on a few images, in this process."""

    def start(*arguments):
        few = ("--limit", 20, "--calibration-size", 20, "--timesteps", 4, "--results", tmp_path / "results")
        return call("run", *few, *arguments)

    return start


def test_every_quantised_method_runs_on_one_checkpoint(run, finished, tmp_path):
    """The levels come from the card, whatever the method's own default is."""
    for method in EVERY:
        answer = run("--method", method, "--checkpoint", finished.checkpoint, "--json")
        if methods.METHODS[method].network == "quantised":
            assert answer.code == 0, answer.err
            assert json.loads(answer.out)["spec"]["method_options"]["levels"] == 4
        else:
            assert answer.code == 2 and f"{method} converts" in answer.err
            assert "is a network trained with quantised activations (qcfs)" in answer.err


def test_other_levels_than_those_of_the_weights_are_refused(run, finished, tmp_path):
    for method in ("qcfs", "qffs"):
        flags = ("--method", method, "--checkpoint", finished.checkpoint, "--set", "levels=8", "--json")
        answer = run(*flags)
        assert answer.code == 2 and "was trained with 4 levels, not 8" in answer.err


def test_a_plain_network_is_no_quantised_one(run, finished, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(small_cnn().state_dict(), tmp_path / "plain.pt")
    refused = run("--checkpoint", tmp_path / "plain.pt")
    assert refused.code == 2 and "plain.pt is a plain ReLU network" in refused.err
    answer = run("--method", "ltb", "--checkpoint", tmp_path / "plain.pt", "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["spec"]["weights"]["source"] == "plain.pt"
    assert any("preprocessing assumed" in flag for flag in json.loads(answer.out)["flags"])
    assert any("calibration images may be among" in flag for flag in json.loads(answer.out)["flags"])


def test_weights_that_do_not_say_their_levels(run, finished, tmp_path):
    state = methods.get("qcfs")(levels=4).prepare(small_cnn()).state_dict()
    torch.save(state, tmp_path / "quantised.pt")
    refused = run("--method", "srp", "--checkpoint", tmp_path / "quantised.pt")
    assert refused.code == 2 and "does not say how many levels" in refused.err and "--set levels=L" in refused.err
    given = ("--method", "srp", "--checkpoint", tmp_path / "quantised.pt", "--set", "levels=4", "--json")
    answer = run(*given)
    assert answer.code == 0, answer.err


def test_preprocessing_by_hand_belongs_to_the_result(run, finished, tmp_path):
    torch.save(small_cnn().state_dict(), tmp_path / "plain.pt")
    command = ("--method", "threshold-balancing", "--checkpoint", tmp_path / "plain.pt", "--json")
    ids = set()
    for settings in ((), ("divisor=16",), ("divisor=16", "mean=0.3", "std=0.4")):
        flags = [part for setting in settings for part in ("--preprocessing", setting)]
        answer = run(*command, *flags)
        assert answer.code == 0, answer.err
        document = json.loads(answer.out)
        ids.add(document["id"])
        assert (document["spec"]["preprocessing"] is None) == (not settings)
        assert any("preprocessing assumed" in flag for flag in document["flags"]) == (not settings)
    assert len(ids) == 3
    for wrong, message in (("size=3", "no 'size'"), ("divisor=x", "could not convert"), ("crop=4", "crop")):
        answer = run(*command, "--preprocessing", wrong)
        assert answer.code == 2 and message in answer.err, wrong


@pytest.mark.parametrize("method", ["ltb", "threshold-balancing", "snn-calibration", "ftbc", "cos"])
def test_batch_size_and_precision_do_not_decide_what_is_calibrated(run, tmp_path, method, trained_networks):
    found = []
    for batch_size in (5, 64):
        flags = (
            "--dataset",
            "synthetic",
            "--method",
            method,
            "--precision",
            "fp64",
            "--json",
            "--batch-size",
            batch_size,
        )
        trained_networks(tmp_path / str(batch_size), method)
        answer = run(*flags, "--results", tmp_path / str(batch_size))
        assert answer.code == 0, answer.err
        document = json.loads(answer.out)
        found.append({key: document[key] for key in ("id", "curve", "static", "policies", "ann")})
    assert found[0] == found[1]


def test_a_network_of_timm_by_name(run):
    answer = run(
        "--method", "ltb", "--dataset", "synthetic", "--model", "timm:test_resnet", "--set", "iterations=20", "--json"
    )
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    assert document["spec"]["model"] == "timm:test_resnet" and document["ann"]["accuracy"]["value"] > 0.5
    wrong = run("--method", "ltb", "--dataset", "synthetic", "--model", "timm:test_resnot")
    assert wrong.code == 2 and "test_resnet" in wrong.err


# Weights of the zoo, shipped and local


@pytest.fixture
def local_zoo(monkeypatch, tmp_path, make_checkpoint):
    """A function that puts a checkpoint into one of two local folders, `a` before `b`; nothing of this machine is seen."""
    monkeypatch.setenv("DYNCONF_BENCH_ZOO", os.pathsep.join(str(tmp_path / name) for name in "ab"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no cache"))

    def put(place, **card):
        path = tmp_path / f"{place}.safetensors"
        path.parent.mkdir(exist_ok=True)
        return make_checkpoint(path, **{"method_options": {"levels": 4}, **card})

    return put


def chosen(method="qcfs", dataset="digits", model="small-cnn", **options):
    return weights.find(Cell(method=method, dataset=dataset, method_options=options), model, False)


def test_weights_of_a_local_folder_are_found_by_their_card(local_zoo):
    path = local_zoo("a/mine")
    local_zoo("a/other-model", model="resnet20")
    local_zoo("a/other-data", dataset="synthetic")
    for method in EVERY:
        if methods.METHODS[method].network == "quantised":
            source = chosen(method)
            assert (source.path, source.name, source.card) == (path, "mine.safetensors", read_card(path))
        else:
            with pytest.raises(UsageError, match=f"no weights for {method} on digits with small-cnn"):
                chosen(method)


def test_shipped_weights_come_first_among_equals(local_zoo):
    shipped = resolve("zoo:cifar10-resnet20-qcfs-l4")
    local_zoo("a/a-name-before-it", model="resnet20", dataset="cifar10")
    local_zoo(f"a/{shipped.path.stem}", model="resnet20", dataset="cifar10")
    found = chosen(dataset="cifar10", model="resnet20")
    assert (found.path, found.name) == (shipped.path, "zoo:cifar10-resnet20-qcfs-l4")
    assert chosen("srp", "cifar10", "resnet20").path == shipped.path  # it is trained as QCFS


def test_weights_of_the_method_itself_come_before_shipped_ones(local_zoo):
    own = local_zoo("a/snm", model="resnet20", dataset="cifar10", method="snm")
    assert chosen("snm", "cifar10", "resnet20").path == own
    assert chosen("qcfs", "cifar10", "resnet20").name == "zoo:cifar10-resnet20-qcfs-l4"


def test_a_file_whose_name_is_taken_is_never_chosen(local_zoo):
    """`zoo:NAME` finds another file, so nobody who reads that name could find this one."""
    local_zoo("a/cifar10-resnet20-qcfs-l4", model="resnet20", dataset="cifar10", method="snm")
    assert chosen("snm", "cifar10", "resnet20").name == "zoo:cifar10-resnet20-qcfs-l4"


def test_equals_are_taken_in_the_order_of_the_folders_then_by_name(local_zoo):
    local_zoo("b/1")
    assert chosen().name == "1.safetensors"
    third, second = local_zoo("a/3"), local_zoo("a/2")
    assert chosen().path == second
    second.unlink()
    assert chosen().path == third


def test_the_levels_that_are_asked_for_decide(local_zoo):
    local_zoo("a/1", method_options={"levels": 4})
    eight = local_zoo("b/2", method_options={"levels": 8})
    assert chosen().path != eight and chosen(levels="4").path != eight
    assert chosen(levels="8").path == chosen("qffs", levels="8").path == eight


def test_files_that_cannot_be_read_are_passed_over_and_named_if_nothing_fits(local_zoo, tmp_path):
    good, bad = local_zoo("b/mine"), local_zoo("a/broken")
    bad.write_bytes(bad.read_bytes()[:-1])
    (tmp_path / "a" / "text.safetensors").write_text("text")
    local_zoo("a/plugin", method="my-method")
    assert chosen().path == good
    good.unlink()
    with pytest.raises(UsageError, match="no weights for qcfs") as refused:
        chosen()
    assert f"{bad} is not a complete safetensors file" in str(refused.value)
    assert f"{tmp_path}/a/text.safetensors is not a complete" in str(refused.value)
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        weights.describe("zoo:broken", "small-cnn")


def test_a_run_takes_the_weights_that_fit_and_says_which(run, local_zoo, fresh_registry):
    from benchmark.data.digits import Digits

    class NotEmbedded(Digits):
        name = "my-digits"

    fresh_registry.register("datasets", "my-digits", NotEmbedded)
    path = local_zoo("a/mine", dataset="my-digits")
    answer = run("--dataset", "my-digits", "--model", "small-cnn", "--method", "qcfs", "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)["spec"]
    assert found["weights"] == {"source": "mine.safetensors", "sha256": sha256_of(path)}
    assert found["method_options"]["levels"] == 4
