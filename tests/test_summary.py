"""The first table of a section: which rules it shows, in which order, and with which figures."""

from __future__ import annotations

import random
from decimal import ROUND_HALF_UP, Decimal

import pytest
from test_leaderboard import all_rows_of, page_of, policy, record

from benchmark.records import EqualFixed, Estimate, Guarantee, Latency, Saving
from benchmark.spec import Weights
from leaderboard import Leaderboard, numerals

PROMISE = Guarantee(epsilon=0.005, delta=0.05, risk="accuracy drop")


def guaranteed(name="dynamic-confidence", **changes):
    return policy(name, selection="ltt", guarantee=PROMISE, **changes)


def summary_of(page):
    return [row for row in all_rows_of(page) if "all T %" in row]


def test_dynamic_confidence_and_the_fastest_rule_with_a_guarantee():
    rules = (
        policy(latency=5.0),
        guaranteed(latency=9.0),
        guaranteed("margin", latency=8.0),
        guaranteed("agreement", latency=7.0),
        policy("fixed", latency=3.0),
    )
    for order in (rules, rules[::-1]):
        fast, slow = summary_of(page_of(record(policies=order)))
        assert (fast["rule"], slow["rule"]) == ("fastest with a guarantee: agreement (ltt)", "Dynamic Confidence (ltt)")
        assert fast["latency [95%]"].startswith("7.00 ") and slow["latency [95%]"].startswith("9.00 ")


def test_dynamic_confidence_alone_where_it_is_the_fastest():
    (row,) = summary_of(page_of(record(policies=(guaranteed(latency=7.0), guaranteed("margin", latency=8.0)))))
    assert row["rule"] == "Dynamic Confidence (ltt)"


def test_one_threshold_comes_before_one_per_timestep():
    per_step = guaranteed(latency=6.0, params={"scale": 12.0, "per_step": True})
    rows = summary_of(page_of(record(policies=(per_step, guaranteed(latency=9.0)))))
    assert [row["rule"] for row in rows] == [
        "fastest with a guarantee: dynamic-confidence (ltt, per step)",
        "Dynamic Confidence (ltt)",
    ]


def test_without_a_guarantee_there_is_no_rank_and_it_says_so():
    (row,) = summary_of(page_of(record(policies=(policy(),))))
    assert row["rule"] == "Dynamic Confidence (pareto, no guarantee)" and row["rank"] == "—"


def test_without_any_rule_the_row_is_fixed_time():
    (row,) = summary_of(page_of(record(policies=(), prelude=4)))
    assert row["rule"] == "none was run: fixed T=16" and row["latency [95%]"] == "20 (prelude 4)"
    assert row["accuracy % [95%]"] == "76.40 \\[75.40, 77.40\\]"
    assert [row[name] for name in ("rank", "vs equal fixed T", "gap closed")] == ["—"] * 3


def test_the_figures_are_those_of_the_rule():
    rule = guaranteed(
        accuracy=0.7555,
        latency=9.0,
        saving=Saving(latency=0.5, spikes=0.456, synops=0.321),
        equal_fixed=EqualFixed(timesteps=11, latency=15, accuracy=0.76, saving_latency=0.4),
        gap_closed=0.876,
    )
    (row,) = summary_of(page_of(record("srp", prelude=4, policies=(rule,))))
    assert row["ANN %"] == "75.00" and row["all T %"] == "76.40"
    assert row["accuracy % [95%]"] == "75.55 \\[74.55, 76.55\\]"
    assert row["latency [95%]"] == "9.00 \\[8.75, 9.25\\] (prelude 4)"
    assert row["vs equal fixed T"] == "40.0% (T=11)" and row["gap closed"] == "88%"
    assert row["spikes / image (saved)"] == "12.3 k (45.6%)" and row["SynOps / image (saved)"] == "1.23 M (32.1%)"
    assert row["energy (INT8)"] == "129 nJ" and row["weights"] == "zoo:cnn @aaaaaaaa"


def test_a_gap_that_is_not_known_is_a_dash():
    (row,) = summary_of(page_of(record(policies=(guaranteed(),))))
    assert row["gap closed"] == "—"


def test_ranks_are_shared_where_intervals_overlap_and_order_the_rows():
    rows = summary_of(
        page_of(
            record("cos", policies=(guaranteed(latency=12.0),)),
            record("srp", policies=(guaranteed(latency=6.0),)),
            record("qcfs", policies=(guaranteed(latency=6.1),)),
            record("qffs", policies=(policy(latency=2.0),)),
        )
    )
    assert [(row["method"].split()[0], row["rank"]) for row in rows] == [
        ("srp", "1"),
        ("qcfs", "1"),
        ("cos", "3"),
        ("qffs", "—"),
    ]


def test_weights_have_a_column_and_not_a_place_in_the_name():
    one = record(policies=(guaranteed(),), weights=Weights(source="/home/me/a.pt", sha256="b" * 64))
    two = record(policies=(guaranteed(latency=20.0),), weights=Weights(source="zoo:b", sha256="c" * 64))
    first, second = summary_of(page_of(one, two))
    assert first["method"] == second["method"] and "weights" not in first["method"]
    assert (first["weights"], second["weights"]) == ("a.pt @bbbbbbbb", "zoo:b @cccccccc")


def test_the_papers_of_a_method_are_linked_and_a_plugin_has_none():
    rows = summary_of(page_of(record("qcfs"), record("our-own")))
    by_name = {row["method"].split()[0]: row["method"] for row in rows}
    assert "](https://" in by_name["qcfs"] and by_name["our-own"] == "our-own"


def test_a_few_images_are_a_smoke_test():
    def images(number):
        few = record()
        small = Estimate(value=0.5, ci95=(0.4, 0.6), n=number)
        return few.model_copy(update={"static": few.static.model_copy(update={"accuracy": small})})

    assert "smoke test" not in page_of(images(1000))
    assert "## digits · cnn · smoke test with 999 images" in page_of(images(999))


def test_the_reason_of_a_missing_cell_is_said():
    page = page_of(record("qcfs"), record("cos", status="oom", reason="out of memory at batch size 1"))
    assert "- missing: cos — oom — out of memory at batch size 1" in page


def test_every_rule_stands_below_whatever_the_summary_shows():
    page = page_of(record(policies=(guaranteed(), guaranteed("margin"), policy("fixed"))))
    assert "<details><summary>Every stopping rule: 4 rows</summary>\n\n|" in page
    assert page.index("all T %") < page.index("stopping rule |")


def test_equal_latencies_have_one_order():
    ties = (guaranteed("margin", latency=8.0), guaranteed("entropy", latency=8.0), guaranteed(latency=9.0))
    board = {Leaderboard.from_records([record(policies=order)]).render() for order in (ties, ties[::-1])}
    assert len({page.split("<details><summary>Every")[0].split("</details>")[1] for page in board}) == 1


def exact(value, digits, shift):
    rounded = Decimal(repr(float(value))).scaleb(shift).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    return f"{abs(rounded) if rounded.is_zero() else rounded:f}"


def scaled(value, units):
    number = Decimal(repr(float(value)))
    short = number.quantize(Decimal(1).scaleb(number.adjusted() - 2), ROUND_HALF_UP)
    unit = min(max(short.adjusted() // 3, 0), len(units) - 1)
    short = short.scaleb(-3 * unit)
    return f"{short:.{max(2 - short.adjusted(), 0)}f}{units[unit]}"


@pytest.mark.parametrize("seed", range(4))
def test_fast_rounding_is_decimal_rounding(seed):
    """Random numbers, and many with few digits, among which are the ties."""
    random.seed(seed)
    for _ in range(5000):
        value = random.choice(
            [
                random.uniform(-2, 2),
                random.randrange(-200_000, 200_000) / 10.0 ** random.randrange(3, 6),
                10 ** random.uniform(-9, 14),
                random.randrange(1, 2000) * 5 * 10.0 ** random.randrange(-3, 12),
                -0.0,
            ]
        )
        for digits in (0, 1, 2):
            assert numerals.rounded(value, digits) == exact(value, digits, 0), value
            assert numerals.percent(value, digits) == exact(value, digits, 2), value
        if value > 0:
            assert numerals.count(value) == scaled(value, numerals.COUNT_UNITS), value
            assert numerals.energy(value) == scaled(value, numerals.ENERGY_UNITS), value


@pytest.mark.parametrize("value", [5e-324, 1e-300, 1.5e-299, 9.995e-5, 1e300])
def test_the_smallest_and_largest_numbers_are_rounded_too(value):
    assert numerals.count(value) == scaled(value, numerals.COUNT_UNITS)


def test_the_latency_of_the_rule_carries_its_own_interval():
    wide = guaranteed(latency=9.0).model_copy(
        update={"latency": Latency(mean=9.0, median=9, p95=15, share_at_cap=0.1, ci95=(4.0, 13.5))}
    )
    (row,) = summary_of(page_of(record(policies=(wide,))))
    assert row["latency [95%]"] == "9.00 \\[4.00, 13.50\\]"
