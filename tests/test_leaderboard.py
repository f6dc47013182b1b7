"""The leaderboard page: what stands in it, that it is a pure function of the records, and that the check notices."""

from __future__ import annotations

import json
import math
import os
import random
import re
import subprocess
import sys
import xml.dom.minidom
from pathlib import Path

import pytest

from benchmark.records import (
    Ann,
    Curve,
    EqualFixed,
    Estimate,
    Guarantee,
    Latency,
    Measured,
    Oracle,
    OraclePoint,
    PolicyResult,
    Provenance,
    Reported,
    ResultRecord,
    Saving,
    Static,
)
from benchmark.spec import PolicySpec, RunSpec, Weights
from leaderboard import Leaderboard, markdown, numerals
from leaderboard.ranking import ranks

PROTOCOL = "digits@1 | test, 1000 images | prep 1"
BAD = "results/digits/cnn/qcfs/x.json: not JSON (Expecting value)"


def policy(name="dynamic-confidence", *, accuracy=0.761, latency=9.125, wide=0.01, slow=0.25, **changes):
    fields = {
        "name": name,
        "params": {"threshold": 0.612345678, "scale": 12.0},
        "selection": "pareto",
        "accuracy": Estimate(value=accuracy, ci95=(accuracy - wide, accuracy + wide), n=1000),
        "latency": Latency(mean=latency, median=9, p95=15, share_at_cap=0.03, ci95=(latency - slow, latency + slow)),
        "spikes_per_image": 12_345.0,
        "synops_per_image": 1_234_567.0,
        "macs_per_image": 4e5,
        "energy": {"fp32": 9.9e9, "int8": 129_037.01},
        "saving": Saving(latency=0.4297, spikes=0.4, synops=0.4),
        "equal_fixed": EqualFixed(timesteps=12, latency=12, accuracy=0.762, saving_latency=0.2396),
        "losers": 4,
        "winners": 1,
        "mcnemar_p": 0.375,
        "drop_upper95": 0.0071,
        "exit_histogram": (400, 600),
    }
    return PolicyResult(**{**fields, **changes})


def record(
    method="qcfs",
    *,
    status="ok",
    reason=None,
    accuracy=0.764,
    prelude=0,
    timesteps=16,
    protocol=PROTOCOL,
    policies=None,
    flags=(),
    measured=None,
    reported=None,
    started="2026-01-01",
    source="zoo:cnn",
    **spec,
):
    spec = RunSpec(
        **{
            "method": method,
            "dataset": "digits",
            "dataset_fingerprint": "d" * 64,
            "model": "cnn",
            "timesteps": timesteps,
            "weights": Weights(source=source, sha256="a" * 64),
            "policies": (PolicySpec(name="dynamic-confidence"),),
            **spec,
        }
    )
    common = {
        "id": spec.id,
        "status": status,
        "spec": spec,
        "protocol": protocol,
        "flags": flags,
        "provenance": Provenance(
            git_sha=None,
            dirty=None,
            diff_sha256=None,
            submit_sha=None,
            versions={"torch": "9.9.9"},
            device="cpu",
            torch_flags={},
            seeds={},
            dataset_fingerprint="d" * 64,
            slurm={},
            started=started,
            phases={},
            batch_size=64,
        ),
    }
    if status != "ok":
        return ResultRecord(**common, reason=reason)
    steps = tuple(range(1, timesteps + 1))
    return ResultRecord(
        **common,
        ann=Ann(accuracy=Estimate(value=0.75, ci95=(0.72, 0.78), n=1000)),
        curve=Curve(
            timestep=steps,
            accuracy=tuple(accuracy * (1 - math.exp(-step)) for step in steps),
            spikes_per_image=steps,
            synops_per_image=steps,
        ),
        static=Static(
            accuracy=Estimate(value=accuracy, ci95=(accuracy - 0.01, accuracy + 0.01), n=1000),
            latency=prelude + timesteps,
            prelude=prelude,
            spikes_per_image=999_960,
            synops_per_image=2.5e9,
            macs_per_image=4e5,
            energy={"fp32": 1.0, "int8": 75_092_000.0},
        ),
        policies=(policy(),) if policies is None else policies,
        oracle=Oracle(
            **{
                name: OraclePoint(accuracy=accuracy, latency=prelude + 4.5)
                for name in ("any_time_correct", "stable_correct", "consistency")
            }
        ),
        measured=measured,
        reported=reported,
    )


def edited(original, path, value):
    """The record with one field of its JSON changed; the other fields stay as they are."""
    document = json.loads(original.to_json())
    *way, last = path
    place = document
    for key in way:
        place = place[key]
    assert place[last] != value
    place[last] = value
    return ResultRecord.model_validate(document)


def page_of(*records, problems=()):
    return Leaderboard.from_records(records, problems).render()


def rows_of(page):
    """Every row of the main tables of a page as header -> cell."""
    return [row for row in all_rows_of(page) if "stopping rule" in row]


def all_rows_of(page):
    found, headers = [], None
    for line in page.splitlines():
        if not line.startswith("|"):
            headers = None
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if headers is None:
            headers = cells
        elif set(line) - set("|:-"):
            assert len(cells) == len(headers), line
            found.append(dict(zip(headers, cells, strict=True)))
    return found


def sections_of(page):
    return re.split(r"^## ", page, flags=re.MULTILINE)[1:]


def various():
    return [
        record("qcfs", method_options={"levels": 4}),
        record("qcfs", method_options={"levels": 8}, accuracy=0.7701, policies=(policy(), policy("margin", latency=8))),
        record("srp", prelude=4, flags=("Not the paper's training.",)),
        record("cos", status="oom", reason="out of memory at batch size 1"),
        record("cos", model="vgg", status="failed", reason="RuntimeError: boom"),
        record("qffs", model="vgg", policies=()),
        record("qffs", protocol="another protocol"),
    ]


# Fixed time


def test_accuracy_after_fixed_times_with_and_without_the_prelude():
    rows = [row for row in all_rows_of(page_of(record("qcfs"), record("cos", prelude=4))) if "prelude" in row]
    qcfs, without, with_it = sorted(rows, key=lambda row: (row["method"], row["prelude"] != "none", row["prelude"]))[
        ::-1
    ]
    assert (qcfs["method"], qcfs["prelude"]) == ("qcfs", "none")
    assert {without["prelude"], with_it["prelude"]} == {"4, counted", "4, not counted"}
    free, paid = (without, with_it) if "not" in without["prelude"] else (with_it, without)
    curve = record("cos", prelude=4).curve.accuracy
    assert free["T=8"] == numerals.percent(curve[7]) and paid["T=8"] == numerals.percent(curve[3])
    assert paid["T=4"] == "—" and free["T=1"] == numerals.percent(curve[0])


def test_a_streaming_prelude_is_shown_beside_the_one_that_ranks():
    cos = edited(record("cos", prelude=4), ("static", "streaming_prelude"), 76)
    page = page_of(cos)
    assert "20 (prelude 4, streaming 76)" in page
    assert "4, counted (streaming 76)" in page


# Numbers


@pytest.mark.parametrize(
    ("share", "digits", "written"),
    [
        (0.761, 2, "76.10"),
        (0.75, 2, "75.00"),
        (1.0, 2, "100.00"),
        (0.0, 2, "0.00"),
        (0.89625, 2, "89.63"),
        (0.57125, 2, "57.13"),
        (-0.00001, 2, "0.00"),
        (-0.0012, 2, "-0.12"),
        (0.4297, 1, "43.0"),
        (1e-9, 2, "0.00"),
    ],
)
def test_percent(share, digits, written):
    assert numerals.percent(share, digits) == written


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "0"),
        (0.1234, "0.123"),
        (9.996, "10.0"),
        (812, "812"),
        (999.6, "1.00 k"),
        (12_345, "12.3 k"),
        (999_960, "1.00 M"),
        (1_234_567, "1.23 M"),
        (2.5e9, "2.50 G"),
        (7e16, "70000 T"),
    ],
)
def test_count(value, written):
    assert numerals.count(value) == written


def test_energy_unit_follows_the_size():
    assert [numerals.energy(value) for value in (5, 129_037.01, 75_092_000)] == ["5.00 pJ", "129 nJ", "75.1 µJ"]


# Rows


def test_a_record_gives_a_fixed_row_and_a_row_per_policy():
    one = record(policies=(policy(), policy("margin", latency=10)))
    fixed, first, second = rows_of(page_of(one))
    assert fixed == {
        "rank": "—",
        "method": "qcfs",
        "stopping rule": "fixed T=16",
        "ANN accuracy %": "75.00",
        "accuracy % [95%]": r"76.40 \[75.40, 77.40\]",
        "latency [95%]": "16",
        "saved vs T_max": "—",
        "saved vs equal fixed T": "—",
        "losers / winners": "—",
        "drop, upper 95%": "—",
        "spikes / image (saved)": "1.00 M",
        "SynOps / image (saved)": "2.50 G",
        "energy (INT8)": "75.1 µJ",
        "record": f"`{one.id}`",
    }
    assert first == {
        "rank": "1",
        "method": "qcfs",
        "stopping rule": "dynamic-confidence (scale 12, threshold 0.6123, pareto)",
        "ANN accuracy %": "75.00",
        "accuracy % [95%]": r"76.10 \[75.10, 77.10\]",
        "latency [95%]": r"9.13 \[8.88, 9.38\]",
        "saved vs T_max": "43.0%",
        "saved vs equal fixed T": "24.0% (T=12)",
        "losers / winners": "4 / 1",
        "drop, upper 95%": "0.71",
        "spikes / image (saved)": "12.3 k (40.0%)",
        "SynOps / image (saved)": "1.23 M (40.0%)",
        "energy (INT8)": "129 nJ",
        "record": f"`{one.id}`",
    }
    assert second["stopping rule"].startswith("margin")


def test_latency_names_the_prelude():
    fixed, dynamic = rows_of(page_of(record("srp", prelude=4)))
    assert fixed["latency [95%]"] == "20 (prelude 4)"
    assert dynamic["latency [95%]"].endswith("(prelude 4)")


def test_no_equal_fixed_time_is_said():
    none = EqualFixed(timesteps=None, latency=None, accuracy=None, saving_latency=None)
    _, dynamic = rows_of(page_of(record(policies=(policy(equal_fixed=none),))))
    assert dynamic["saved vs equal fixed T"] == "no T as accurate"


def test_missing_energy_preset_is_a_dash():
    assert rows_of(page_of(record(policies=(policy(energy={"fp32": 1.0}),))))[1]["energy (INT8)"] == "—"


def test_only_scalar_parameters_are_shown():
    rule = policy("patience", params={"steps": 3, "threshold": [0.1, 0.2], "strict": True, "per": {"a": 1}})
    assert rows_of(page_of(record(policies=(rule,))))[1]["stopping rule"] == "patience (steps 3, strict True, pareto)"


@pytest.mark.parametrize(
    ("threshold", "shown"),
    [
        (1.0, "1"),
        (0.99999, "1-1e-05"),
        (0.9999, "0.9999"),
        (0.25, "0.25"),
        (123.456, "123.5"),
        (1.00001, "1"),
    ],
)
def test_a_threshold_just_below_one_is_not_one(threshold, shown):
    rule = policy(params={"threshold": threshold, "tolerance": None})
    _, dynamic = rows_of(page_of(record(policies=(rule,))))
    assert dynamic["stopping rule"] == f"dynamic-confidence (threshold {shown}, pareto)"


def test_reported_claims_stand_beside_the_measured_numbers():
    claim = Reported(accuracy=0.9411, latency=2.52, source="Li | 2023")
    with_claim, without = record("qffs", reported=claim), record("qcfs", accuracy=0.1)
    cells = [row["reported"] for row in rows_of(page_of(with_claim, without))]
    assert cells == [r"94.11 at 2.52 (Li \| 2023)", "—", "—", "—"]
    assert "reported" not in rows_of(page_of(without))[0]


def test_flags_guarantee_and_measurement_become_footnotes():
    timed = Measured(
        static_seconds=2,
        dynamic_seconds=1,
        speedup=1.666,
        ideal_speedup=2.1,
        device="cpu",
        batch_size=1,
        images=100,
        policy="margin",
        differing_images=3,
    )
    rule = policy(guarantee=Guarantee(epsilon=0.005, delta=0.05, risk="drop"))
    first = record("qcfs", flags=("odd",), measured=timed, policies=(rule,))
    page = page_of(first, record("srp", flags=("odd",), accuracy=0.1))
    method = [row["method"] for row in rows_of(page)]
    assert method == ["qcfs<sup>1</sup> <sup>2</sup>"] * 2 + ["srp<sup>1</sup>"] * 2
    assert rows_of(page)[1]["stopping rule"].endswith("<sup>3</sup>")
    assert "- <sup>1</sup> odd\n" in page
    assert "- <sup>2</sup> Measured with margin on cpu, batch size 1: 1.67 times as fast as fixed time" in page
    assert " (ideal 2.10); fixed time 2.00 s, early exit 1.00 s. 3 of 100 images differ from the replay.\n" in page
    assert "- <sup>3</sup> Guarantee: drop at most 0.5% with probability 95%" in page
    assert "<sup>4</sup>" not in page


def test_rows_are_ordered_by_fixed_time_accuracy_then_latency():
    quick, slow = policy("b", latency=5), policy("a", latency=9)
    page = page_of(record("low", accuracy=0.5), record("high", accuracy=0.9, policies=(slow, quick)))
    assert [(row["method"], row["stopping rule"].split()[0]) for row in rows_of(page)] == [
        ("high", "fixed"),
        ("high", "b"),
        ("high", "a"),
        ("low", "fixed"),
        ("low", "dynamic-confidence"),
    ]


# What tells records of one method apart


def test_equal_methods_show_the_options_that_differ():
    page = page_of(
        record(method_options={"levels": 4, "same": 1}),
        record(method_options={"levels": 8, "same": 1}),
        record("srp", accuracy=0.1, method_options={"tau": 4}),
    )
    assert {row["method"] for row in rows_of(page)} == {"qcfs (levels=4)", "qcfs (levels=8)", "srp"}


def test_seed_timesteps_and_weights_tell_records_apart_without_machine_paths():
    def method(**changes):
        return sorted({row["method"] for row in rows_of(page_of(record(), record(**changes)))})

    assert method(seed=1) == ["qcfs (seed=0)", "qcfs (seed=1)"]
    assert method(timesteps=8) == ["qcfs (T=16)", "qcfs (T=8)"]
    assert method(method_options={"levels": 4}) == ["qcfs (levels=4)", "qcfs (levels=default)"]
    for source in ("/home/someone/net.pt", r"C:\Users\someone\net.pt"):
        other = Weights(source=source, sha256="b" * 64)
        assert method(weights=other) == ["qcfs (weights=net.pt@bbbbbbbb)", "qcfs (weights=zoo:cnn@aaaaaaaa)"]


def test_an_option_named_like_a_field_is_not_mixed_up_with_it():
    rows = rows_of(page_of(record(method_options={"seed": 7}), record(method_options={"seed": 8})))
    assert {row["method"] for row in rows} == {"qcfs (seed=7)", "qcfs (seed=8)"}


# Ranks


def test_overlapping_intervals_share_a_rank():
    assert ranks([policy(accuracy=0.760, latency=9.0), policy(accuracy=0.765, latency=9.2)]) == [1, 1]


def test_a_clear_difference_ranks():
    base, better, faster = policy(), policy(accuracy=0.79), policy(latency=5)
    assert ranks([base, better]) == [2, 1]
    assert ranks([base, faster]) == [2, 1]
    assert ranks([base, faster, better]) == [3, 1, 1]


def test_a_trade_of_accuracy_for_latency_does_not_rank():
    assert ranks([policy(accuracy=0.6, latency=2), policy(accuracy=0.9, latency=14)]) == [1, 1]
    assert ranks([]) == []


def test_a_training_record_is_a_footnote_and_a_link_where_there_is_one():
    cases = (("cos", 0.9, "a*"), ("srp", 0.8, "b"))
    trained = [edited(record(name, accuracy=value), ("ann", "training"), known) for name, value, known in cases]
    page = Leaderboard.from_records(trained, trainings={"b": "../training/b.json"}).render()
    assert "- <sup>1</sup> Training record `a*`.\n" in page
    assert "- <sup>2</sup> Training record [`b`](../training/b.json).\n" in page
    assert [row["method"] for row in rows_of(page)][::2] == ["cos<sup>1</sup>", "srp<sup>2</sup>"]
    assert "Training" not in page_of(record())


def test_ranks_are_taken_over_the_whole_table():
    slow = record("slow", accuracy=0.9, policies=(policy(latency=14), policy(latency=12)))
    rank = [row["rank"] for row in rows_of(page_of(slow, record("fast", accuracy=0.1, policies=(policy(latency=3),))))]
    assert rank == ["—", "2", "3", "—", "1"]


# Tables


def test_the_order_of_the_records_does_not_matter():
    records = various()
    board = Leaderboard.from_records(records, ["b: bad", "a: bad"])
    shuffle = random.Random(0)
    for _ in range(5):
        shuffle.shuffle(records)
        again = Leaderboard.from_records(records, ["a: bad", "b: bad"])
        assert again == board
        assert again.render() == board.render()


def test_two_records_of_one_id_stand_in_a_fixed_order():
    twins = [record(accuracy=0.8, flags=("one",)), record(accuracy=0.8, flags=("two",))]
    assert twins[0].id == twins[1].id
    assert page_of(*twins) == page_of(*reversed(twins))


@pytest.mark.parametrize("changes", [{"protocol": "another"}, {"model": "vgg"}, {"dataset": "another"}])
def test_what_must_not_be_compared_shares_no_table(changes):
    page = page_of(record("one"), record("two", **changes))
    sections = sections_of(page)
    assert len(sections) == 2
    for section in sections:
        assert len({row["method"] for row in rows_of(section)}) == 1
    assert len(set(re.findall(r"figures/(\S+)\.svg", page))) == 2


def test_the_same_dataset_protocol_and_model_share_a_table():
    assert len(sections_of(page_of(record("one"), record("two")))) == 1


@pytest.mark.parametrize("status", ["skipped", "failed", "oom", "timeout", "interrupted"])
def test_a_record_without_results_is_named_with_its_reason(status):
    page = page_of(record(), record("cos", status=status, reason="first|line\nsecond line"))
    (section,) = sections_of(page)
    assert f"\n- missing: cos — {status} — first\\|line second line\n" in section
    assert {row["method"] for row in rows_of(section)} == {"qcfs"}


def test_a_table_of_failures_only_has_no_figure(tmp_path):
    board = Leaderboard.from_records([record(status="failed", reason="boom")])
    assert "qcfs — failed — boom" in board.render()
    assert "figures/" not in board.render()
    assert board.write(tmp_path / "README.md") == [tmp_path / "README.md"]
    assert board.check(tmp_path / "README.md") == []


def test_unreadable_records_are_named():
    page = page_of(record(), problems=[BAD])
    section = sections_of(page)[-1]
    assert section.startswith("Records that could not be read\n")
    assert f"- {BAD}\n" in section
    assert "could not be read" not in page_of(record())


def test_an_empty_leaderboard_says_so():
    assert "No records yet." in page_of()
    assert "No records yet." not in page_of(record())


@pytest.mark.parametrize("name", ["a|b", "a\nb", "*a*", "_a_", "<b>", "`a", "a\\", "[a](b)", "$a$"])
def test_no_name_breaks_the_page(name):
    page = page_of(
        record(name, model=name, protocol=f"{name} protocol", policies=(policy(name, selection=name),), flags=(name,)),
        record(name, model=name, protocol=f"{name} protocol", status="failed", reason=name),
        problems=[name],
    )
    rows = rows_of(page)
    assert len(rows) == 2
    shown = markdown.text(name)
    assert rows[0]["method"].startswith(f"{shown} (") or rows[0]["method"].startswith(f"{shown}<sup>")
    assert rows[1]["stopping rule"] == f"{shown} (scale 12, threshold 0.6123, {shown})"


def test_escaping():
    assert markdown.text("a|b *c* <d> [e] _f_ g_h `i` \\ ~j~ $k$") == (
        r"a\|b \*c\* \<d\> \[e\] \_f\_ g_h \`i\` \\ \~j\~ \$k\$"
    )
    assert markdown.text("a\r\n b\x00\x1b[31m\udc80") == r"a b\[31m?"
    assert [markdown.code(value) for value in ("a|b", "a`b", "`a``")] == ["`a|b`", "``a`b``", "``` `a`` ```"]


def test_the_page_holds_nothing_of_machine_or_time():
    page = page_of(record(source="/home/someone/net.pt", started="2031-05-06"))
    assert not re.search(r"/home|2031|9\.9\.9", page)


# On disk


def written(tmp_path, *records):
    output = tmp_path / "board" / "README.md"
    paths = Leaderboard.from_records(records).write(output)
    return output, paths


def figures_of(output):
    return sorted((output.parent / "figures").iterdir())


def test_nothing_differs_right_after_writing(tmp_path):
    output, paths = written(tmp_path, *various())
    assert paths[0] == output
    assert sorted(paths[1:]) == figures_of(output)
    assert len(paths) == 4  # three of the tables have results
    assert Leaderboard.from_records(various()).check(output) == []
    for link in re.findall(r"\]\((figures/[^)]+)\)", output.read_text(encoding="utf-8")):
        assert (output.parent / link).is_file()


def test_writing_again_changes_no_byte(tmp_path):
    output, paths = written(tmp_path, *various())
    before = {path: path.read_bytes() for path in paths}
    written(tmp_path, *reversed(various()))
    assert {path: path.read_bytes() for path in [output, *figures_of(output)]} == before


def test_two_folders_get_the_same_bytes_whatever_the_users_matplotlib_settings(tmp_path):
    import matplotlib

    first = [path.read_bytes() for path in written(tmp_path / "1", *various())[1]]
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 5, "svg.fonttype": "path"}):
        second = [path.read_bytes() for path in written(tmp_path / "2", *various())[1]]
    assert first == second


def test_an_absent_page_is_missing(tmp_path):
    found = Leaderboard.from_records([record()]).check(tmp_path / "README.md")
    assert len(found) == 2
    assert found[0] == f"{tmp_path / 'README.md'}: missing"
    assert found[1].endswith(".svg: missing")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("ann", "accuracy", "value"), 0.7500001),
        (("curve", "accuracy", 3), 0.7123),
        (("curve", "spikes_per_image", 3), 3.5),
        (("static", "accuracy", "value"), 0.7640001),
        (("static", "synops_per_image"), 2.5000001e9),
        (("policies", 0, "accuracy", "ci95", 0), 0.7510001),
        (("policies", 0, "latency", "mean"), 9.1250001),
        (("policies", 0, "latency", "ci95", 1), 9.3750001),
        (("policies", 0, "energy", "fp32"), 9.8e9),
        (("policies", 0, "params", "threshold"), 0.612345679),
        (("policies", 0, "exit_histogram"), [401, 599]),
        (("policies", 0, "losers"), 5),
        (("policies", 0, "mcnemar_p"), 0.3750001),
        (("oracle", "consistency", "latency"), 4.5000001),
        (("flags",), ["new"]),
    ],
)
def test_any_changed_number_is_noticed(tmp_path, path, value):
    output, _ = written(tmp_path, record())
    found = Leaderboard.from_records([edited(record(), path, value)]).check(output)
    assert any("text differs" in line and "\n+" in line and "\n-" in line for line in found)


@pytest.mark.parametrize(
    "path",
    [
        ("ann", "accuracy", "value"),
        ("curve", "accuracy", 3),
        ("policies", 0, "accuracy", "value"),
        ("policies", 0, "accuracy", "ci95", 1),
        ("policies", 0, "latency", "mean"),
        ("policies", 0, "latency", "ci95", 0),
        ("oracle", "consistency", "latency"),
        ("static", "prelude"),
    ],
)
def test_a_figure_of_other_numbers_is_noticed_and_redrawn(tmp_path, path):
    output, paths = written(tmp_path, record())
    board = Leaderboard.from_records([edited(record(), path, 1)])
    assert f"{paths[1]}: made from other data" in board.check(output)
    before = paths[1].read_bytes()
    assert board.write(output) == paths
    assert paths[1].read_bytes() != before
    assert board.check(output) == []


def test_a_rerun_with_the_same_results_leaves_the_page_current(tmp_path):
    output, _ = written(tmp_path, record())
    assert Leaderboard.from_records([record(started="2031-05-06")]).check(output) == []


def test_a_long_difference_is_cut_short(tmp_path):
    output, _ = written(tmp_path, record())
    many = [record(seed=seed) for seed in range(20)]
    (text,) = [line for line in Leaderboard.from_records(many).check(output) if "text differs" in line]
    assert len(text.splitlines()) < 20
    assert re.search(r"and \d+ more lines$", text)


def test_an_unreadable_page_is_named_and_replaced(tmp_path):
    output, _ = written(tmp_path, record())
    output.write_bytes(b"\xff\xfe\xff")
    board = Leaderboard.from_records([record()])
    assert ["unreadable" in line for line in board.check(output)] == [True]
    board.write(output)
    assert board.check(output) == []


@pytest.mark.parametrize("content", [None, "", "<svg/>", "half"])
def test_a_deleted_truncated_or_foreign_figure_is_noticed_and_redrawn(tmp_path, content):
    output, (_, figure) = written(tmp_path, record())
    whole = figure.read_text(encoding="utf-8")
    if content is None:
        figure.unlink()
    else:
        figure.write_text(whole[: len(whole) // 2] if content == "half" else content, encoding="utf-8")
    board = Leaderboard.from_records([record()])
    assert board.check(output) == [f"{figure}: {'missing' if content is None else 'made from other data'}"]
    assert board.write(output) == [output, figure]
    assert figure.read_text(encoding="utf-8") == whole


def test_the_bytes_of_a_figure_may_differ_if_its_data_do_not(tmp_path):
    output, (_, figure) = written(tmp_path, record())
    other_version = figure.read_text(encoding="utf-8").replace("<svg", "<!-- drawn by another version --><svg", 1)
    figure.write_text(other_version, encoding="utf-8")
    board = Leaderboard.from_records([record()])
    assert board.check(output) == []
    assert board.write(output) == [output]
    assert figure.read_text(encoding="utf-8") == other_version


def test_stale_figures_are_noticed_and_removed_but_not_files_of_others(tmp_path):
    output, _ = written(tmp_path, record(), record(model="vgg"))
    foreign = output.parent / "figures" / "logo.svg"
    foreign.write_text("<svg/>")
    notes = output.parent / "figures" / "notes.txt"
    notes.write_text(f"<!-- data sha256: {'0' * 64} -->")
    board = Leaderboard.from_records([record()])
    (stale,) = [line for line in board.check(output) if "no table has" in line]
    assert "vgg" in stale
    paths = board.write(output)
    assert figures_of(output) == sorted([*paths[1:], *figures_of(output)[:1], foreign, notes])
    assert not any("vgg" in path.name for path in figures_of(output))
    assert board.check(output) == []


def test_an_interrupted_write_leaves_the_old_page_and_no_rubbish(tmp_path, monkeypatch):
    output, paths = written(tmp_path, record())
    before = output.read_bytes()

    def full_disk(source, target):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        Leaderboard.from_records([record("srp")]).write(output)
    assert output.read_bytes() == before
    assert sorted(path for path in output.parent.rglob("*") if path.is_file()) == sorted(paths)


# Figures


def svg_of(tmp_path, *records):
    _, (_, figure) = written(tmp_path, *records)
    return figure.read_text(encoding="utf-8")


def test_a_figure_is_valid_white_searchable_and_undated(tmp_path):
    svg = svg_of(tmp_path, *[record(method_options={"levels": level}) for level in (4, 8)])
    xml.dom.minidom.parseString(svg)
    assert "fill: #ffffff" in svg
    for words in ("qcfs (levels=4), fixed time", "dynamic-confidence", "consistency oracle", "ANN", "digits · cnn"):
        assert f">{words}</text>" in svg
    assert not re.search(r"<dc:date>|<dc:creator>|Matplotlib v", svg)
    assert re.search(r"\n<!-- data sha256: [0-9a-f]{64} -->\n$", svg)


@pytest.mark.parametrize("name", ["_hidden", "$x^$", r"\frac", "日本", "a & <b>", "n" * 200, "--"])
def test_any_name_can_be_drawn(tmp_path, name):
    svg = svg_of(tmp_path, record(name, model=name, policies=(policy(name),)))
    shown = xml.dom.minidom.parseString(svg).getElementsByTagName("text")
    letters = "".join(
        node.firstChild.data
        for text in shown
        for node in (text, *text.getElementsByTagName("tspan"))
        if node.firstChild and node.firstChild.nodeType == node.TEXT_NODE
    )
    assert letters.replace("\n", "").count(name[:30]) >= 3  # title, curve, policy


@pytest.mark.parametrize(
    "odd",
    [
        {"timesteps": 1},
        {"timesteps": 5, "prelude": 4},
        {"policies": ()},
        {"policies": (policy(latency=9, slow=-0.5),)},
        {"policies": (policy(params={}, latency=1, slow=2),)},
        {"policies": tuple(policy(f"rule {number}") for number in range(15))},
    ],
)
def test_odd_but_valid_records_are_drawn(tmp_path, odd):
    xml.dom.minidom.parseString(svg_of(tmp_path, record(**odd)))


def test_the_package_is_light_to_import_and_render(tmp_path):
    program = (
        "import sys, leaderboard; from pathlib import Path; from benchmark.records import load_record;"
        "board = leaderboard.Leaderboard.from_records([load_record(Path(sys.argv[1]))]);"
        "assert board.check(Path(sys.argv[2]));"
        "heavy = {'torch', 'matplotlib', 'scipy', 'pandas'} & set(sys.modules); assert not heavy, heavy"
    )
    (tmp_path / "record.json").write_text(record().to_json())
    command = [sys.executable, "-c", program, tmp_path / "record.json", tmp_path / "README.md"]
    subprocess.run(command, check=True, cwd=Path(__file__).parent.parent, timeout=60)
