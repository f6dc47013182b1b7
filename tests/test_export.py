"""The leaderboard for other programs: every figure of the records, unrounded, the same in every format."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from test_bibliography import parsed
from test_leaderboard import policy, record

from leaderboard import Leaderboard
from leaderboard.bibliography import keys
from leaderboard.export import export
from leaderboard.published import load_published, load_sources
from leaderboard.table import tables

SHARE = 1 / 3  # no decimal writes it exactly


@pytest.fixture
def written(tmp_path):
    """The name of a file -> its path, with the tables of these records."""

    def write(name, *records):
        path = tmp_path / "folder" / name
        Leaderboard.from_records(records).export(path)
        return path

    return write


def some():
    rules = (policy("entropy", latency=5 + SHARE), policy(accuracy=0.7, params={"scale": 8.0, "per_step": True}))
    return [
        record(prelude=4, accuracy=SHARE, policies=rules, flags=("one", "two"), source="C:\\nets\\a_b.pt"),
        record("cos", seed=3),
        record("srp", status="failed", reason="no weights"),
    ]


def test_every_row_says_what_its_record_says(written):
    rows = json.loads(written("t.json", *some()).read_text())
    by_method = {method: [row for row in rows if row["method"] == method] for method in ("qcfs", "cos", "srp")}
    first, *_ = some()
    fixed, *ruled = by_method["qcfs"]
    assert (fixed["rule"], fixed["accuracy"], fixed["prelude"]) == ("fixed-time", SHARE, 4)
    assert fixed["latency"] == first.static.latency and "rank" not in fixed
    assert fixed["weights"] == "a_b.pt" and fixed["flags"] == "one; two"
    for row, rule in zip(ruled, first.policies, strict=True):
        assert row["rule"] == rule.name and row["accuracy"] == rule.accuracy.value
        assert row["latency"] == rule.latency.mean and json.loads(row["params"]) == rule.params
        assert [row["latency_low"], row["latency_high"]] == list(rule.latency.ci95)
        assert row["spikes_per_image"] == rule.spikes_per_image
        energies = {name: value for name, value in row.items() if name.startswith("energy_")}
        assert sorted(energies.values()) == sorted(rule.energy.values())
    assert by_method["cos"][0]["seed"] == 3
    (missing,) = by_method["srp"]
    assert (missing["status"], missing["reason"]) == ("failed", "no weights") and "accuracy" not in missing


def test_ranks_are_those_of_the_page(written):
    # slow and good, fast and bad, good and fast: the order of the record is not the order of the page
    rules = [policy("entropy", latency=12), policy("margin", accuracy=0.6, latency=4), policy(latency=5)]
    asked = [record(policies=rules), record("cos", policies=[policy(accuracy=0.5, latency=14)])]
    exported = {
        row["rule"] + row["method"]: row.get("rank") for row in json.loads(written("t.json", *asked).read_text())
    }
    shown = {}
    for line in Leaderboard.from_records(asked).render().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 10 and cells[1].isdecimal():
            shown[cells[3].partition(" ")[0] + cells[2]] = int(cells[1])
    assert shown == {name: rank for name, rank in exported.items() if rank is not None}
    assert len(set(shown.values())) > 1


@pytest.mark.parametrize(("name", "read"), [("t.csv", pd.read_csv), ("t.parquet", pd.read_parquet)])
def test_all_formats_say_the_same(written, name, read):
    rows = json.loads(written("t.json", *some()).read_text())
    frame = read(written(name, *some()))
    assert len(frame) == len(rows) == 6
    for row, (_, found) in zip(rows, frame.iterrows(), strict=True):
        for key in frame.columns:
            known = row.get(key)
            missing = known is None or known == ""
            assert pd.isna(found[key]) or not found[key] if missing else found[key] == known, key
    assert list(frame.columns) == list(dict.fromkeys(key for row in rows for key in row))


def test_whole_numbers_stay_whole(written):
    frame = pd.read_parquet(written("t.parquet", *some()))
    assert {str(frame[name].dtype) for name in ("rank", "losers", "timesteps", "streaming_prelude")} == {"Int64"}
    # A median may be a half, so it is a float also where none is.
    assert frame["latency_median"].dtype == float
    assert ",,16,4," in written("t.csv", *some()).read_text()  # timesteps and prelude, although one record has none


def test_latex_is_escaped_and_has_a_table_per_protocol(written):
    text = written("t.tex", *some(), record("cos", model="an_other")).read_text()
    assert text.count("\\toprule") == text.count("\\end{tabular}") == 2
    assert "33.33 [" in text and "dynamic-confidence (pareto, per step)" in text
    assert "no weights" not in text
    lines = [line for line in text.splitlines() if "&" in line]
    assert all(line.count("&") == 7 and line.endswith("\\\\") for line in lines)
    outside = [line for line in text.splitlines() if not line.startswith("%")]
    assert not [line for line in outside if "%" in line.replace("\\%", "") or "_" in line.replace("\\_", "")]


def test_the_papers_of_what_stands_in_the_tables(written):
    entries = parsed(written("t.bib", *some()).read_text())
    # qcfs, cos and the failed srp; entropy and Dynamic Confidence; nothing is published on these images.
    expected = {"qcfs", "cos", "srp", "dt-snn", "dynamic-confidence"}
    known = {source.id: key for source, key in keys(load_sources()).items()}
    assert entries.keys() == {known[name] for name in expected} | {"dynconfbench"}
    assert entries[known["cos"]][1]["eprint"] == "2302.10685"
    assert entries["dynconfbench"][0] == "software"
    assert written("t.bib", *reversed(some())).read_text() == written("t.bib", *some()).read_text()


def test_the_papers_of_what_is_published_on_the_datasets(written, tmp_path):
    asked = record("ftbc", dataset="imagenet", policies=())
    known = {source.id: key for source, key in keys(load_sources()).items()}
    entries = parsed(written("t.bib", asked).read_text())
    on_imagenet = {row.source.id for row in load_published() if row.dataset == "imagenet"}
    assert "group-neurons" in on_imagenet and "seenn" not in on_imagenet
    assert entries.keys() == {known[name] for name in on_imagenet | {"ftbc"}} | {"dynconfbench"}
    path = tmp_path / "none.bib"
    export(tables([asked]), path, published=())
    assert parsed(path.read_text()).keys() == {known["ftbc"], "dynconfbench"}


def test_a_plug_in_is_not_cited_and_breaks_nothing(written):
    theirs = record("theirs", policies=(policy("their-rule"),))
    assert list(parsed(written("t.bib", theirs).read_text())) == ["dynconfbench"]
    text = written("t.tex", theirs).read_text()
    assert "% cites: none\n" in text and "their-rule" in text


def test_latex_names_the_papers_of_each_table_by_the_keys_of_the_bibliography(written):
    asked = [*some(), record("st-bif", model="other", policies=(policy("silence"), policy("fixed")))]
    entries = parsed(written("t.bib", *asked).read_text())
    lines = [line for line in written("t.tex", *asked).read_text().splitlines() if line.startswith("% cites: ")]
    first, second = (line.removeprefix("% cites: ").split(", ") for line in lines)
    # Of the methods that are in the tables: srp failed, so no row of LaTeX is its.
    assert first == ["bu2022optimal", "hao2023bridging", "li2023input", "li2023unleashing"]
    assert second == ["li2022quantization", "you2024spikezip"]
    assert {*first, *second} < entries.keys()


def test_an_empty_leaderboard_is_an_empty_table(written):
    assert json.loads(written("t.json").read_text()) == []
    assert written("t.csv").read_text().strip() == ""
    assert pd.read_parquet(written("t.parquet")).empty


def test_the_command_leaves_the_page_alone(call, tmp_path):
    papers = tmp_path / "papers.bib"
    done = call(
        "leaderboard", "--results", tmp_path / "none", "--export", "t.csv", "--export", "t.tex", "--export", papers
    )
    assert done.code == 0 and all(f"wrote {name}" in done.err for name in ("t.csv", "t.tex", papers))
    assert list(parsed(papers.read_text())) == ["dynconfbench"]
    assert not (tmp_path / "leaderboard").exists()
    done = call("leaderboard", "--export", "t.txt")
    assert done.code == 2 and "t.txt" in done.err and ".csv, .json, .parquet, .tex, .bib" in done.err
