"""Figures of others beside ours: sources, preludes, and which of them stand on which page."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

import pytest
from test_leaderboard import record

from benchmark import registry
from leaderboard import Leaderboard
from leaderboard.published import load_published, load_sources, published_table
from methods import METHODS

SOURCE = (
    '[[source]]\nid = "a"\nkind = "article"\nauthors = ["Roe, Jane"]\ntitle = "A title"\nvenue = "A 2020"\nyear = 2020\n'
    'url = "https://example.org/a"\n'
)
ROW = '[[row]]\nmethod = "srp"\ndataset = "cifar10"\nnetwork = "ResNet-20"\nsource = "a"\nwhere = "table 3"\n'


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "published.toml"
        path.write_text(text)
        return load_published(path)

    return read


def page(published, **changes):
    return Leaderboard.from_records([record(**changes)], published=published).render()


def test_the_shipped_figures():
    rows = load_published()
    assert {"qcfs", "srp", "cos", "qffs", "dynamic-confidence", "dt-snn", "seenn"} <= {row.source.id for row in rows}
    assert {row.dataset for row in rows} <= set(registry.names("datasets"))
    assert all(row.accuracy or row.dynamic for row in rows)
    assert all(row.where for row in rows)
    log = next(row for row in rows if row.dynamic and row.dynamic.latency == 11.51)
    assert log.accuracy[27] == log.dynamic.accuracy == 94.27
    seen = [(row.method, row.dataset, row.network, row.settings, row.where) for row in rows]
    assert len(set(seen)) == len(seen)


def test_methods_of_ours_are_spelt_as_ours():
    """The other names are methods that we do not have, and none is one of ours written otherwise."""
    ours, found = set(registry.names("methods")), {row.method for row in load_published()}
    assert found - ours == {"direct training", "group neurons", "not stated", "opi", "rts"}

    def plain(name):
        return "".join(filter(str.isalnum, name)).lower()

    assert not {plain(name) for name in found - ours} & {plain(name) for name in ours}


@pytest.mark.parametrize(
    "row", load_published(), ids=lambda row: f"{row.method}-{row.dataset}-{row.network}-{row.settings}"
)
def test_every_row_counts_as_its_method_does(row):
    """A prelude where the method runs something before its first answer, and none where it does not."""
    prelude = METHODS[row.method].prelude if row.method in METHODS else "none"
    if prelude == "none":
        assert row.prelude == 0
    elif not prelude.startswith("none,"):
        assert row.prelude > 0


def test_no_figure_falls_as_time_goes_on():
    """A slip of the pen in a row of figures shows as a step down; the largest true one is a tenth of a point."""
    for row in load_published():
        values = [value for _, value in sorted(row.accuracy.items())]
        assert all(later > earlier - 0.1 for earlier, later in pairwise(values)), row


def test_figures_that_must_agree():
    rows = load_published()
    # What the abstracts count with the prelude.
    headlines = {("cos", 67.12): 6, ("srp", 64.32): 10}
    for (method, value), total in headlines.items():
        (found,) = [
            step + row.prelude
            for row in rows
            for step, accuracy in row.accuracy.items()
            if row.method == method and accuracy == value
        ]
        assert found == total
    # The three pipelines of the calibration repository, each better than the one before.
    by_network = defaultdict(dict)
    for row in rows:
        if row.source.id == row.method == "snn-calibration":
            by_network[row.dataset, row.network, row.ann][row.settings] = row.accuracy[16]
    assert len(by_network) == 4
    for found in by_network.values():
        assert found["no calibration"] < found["light"] < found["advanced"]


def test_second_hand_rows_say_from_where():
    rows = load_published()
    for row in rows:
        named = any(word in row.where for word in ("quoted", "second-hand", "page"))
        assert row.quoted == named, row


def test_the_prelude_is_added(read):
    (row,) = read(SOURCE + ROW + "ann = 90\nprelude = 4\naccuracy = { 1 = 71.5, 16 = 90.125 }\n")
    _, (cells,) = published_table([row])
    assert cells == [
        "srp",
        "ResNet-20",
        "90.00",
        "1: 71.50, 16: 90.13",
        "5: 71.50, 20: 90.13 (prelude 4)",
        "—",
        "[A 2020](https://example.org/a), table 3",
    ]


def test_second_hand_figures_are_called_so(read):
    text = SOURCE + ROW + 'quoted = true\nsettings = "L|4"\ndynamic = { rule = "entropy", latency = 1.27 }\n'
    _, (cells,) = published_table(read(text))
    assert cells[0] == "srp (L\\|4)" and cells[-2:] == [
        "1.27 timesteps, entropy",
        "[A 2020](https://example.org/a), table 3 (second-hand)",
    ]


def test_a_page_shows_what_belongs_to_its_datasets(read):
    rows = read(
        SOURCE + ROW + "accuracy = { 1 = 12.34 }\n" + ROW.replace("cifar10", "imagenet") + "accuracy = { 1 = 56.78 }\n"
    )
    shown = page(rows, dataset="cifar10", model="resnet18")
    assert shown.count("12.34") == 1 and "56.78" not in shown and "## Published: cifar10" in shown
    assert "Published" not in page(rows, dataset="digits")
    assert "Published" not in page((), dataset="cifar10")


def test_the_same_network_stands_beside_ours(read):
    rows = read(
        SOURCE
        + ROW
        + "prelude = 1\naccuracy = { 1 = 12.34 }\n"
        + ROW.replace("-20", "-20 wide")
        + "accuracy = { 1 = 56.78 }\n"
    )
    shown = page(rows, dataset="cifar10", model="resnet20").partition("## Published")[0]
    (uncounted, counted) = [line for line in shown.splitlines() if "as published" in line]
    assert "1, not counted" in uncounted and "1, counted" in counted and "56.78" not in shown
    first, second = ([cell.strip() for cell in line.split("|")[3:5]] for line in (uncounted, counted))
    assert first == ["12.34", "—"] and second == ["—", "12.34"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ROW, "unknown source: a"),
        (SOURCE + ROW.replace('source = "a"\n', ""), "unknown source: None"),
        (SOURCE + SOURCE, "there twice: a"),
        (SOURCE.replace("year = 2020", "year = 2021"), "'A 2020' is not of 2021"),
        (SOURCE.replace("Roe, Jane", "Jane Roe"), "String should match pattern"),
        (SOURCE.replace('"Roe, Jane"', '"others", "Roe, Jane"'), "stands behind the authors"),
        (SOURCE.replace("Roe, Jane", "others"), "stands behind the authors"),
        (SOURCE.replace('["Roe, Jane"]', "[]"), "at least 1 item"),
        (SOURCE.replace("article", "book"), "'article', 'inproceedings' or 'misc'"),
        (SOURCE + 'eprint = "arXiv:2303.04347"\n', "String should match pattern"),
        (SOURCE + 'doi = "https://doi.org/10.1000/1"\n', "String should match pattern"),
        (SOURCE + 'method = ["qcfs"]\n', "Extra inputs"),
        (SOURCE + "[other]\n", "unknown: other"),
        (SOURCE + ROW + "prelude = -1\n", "greater than or equal to 0"),
        (SOURCE + ROW + "accuracy = { 1 = 101 }\n", "less than or equal to 100"),
        (SOURCE + ROW + "accuracy = { 0 = 50 }\n", "greater than 0"),
        (SOURCE + ROW + "anm = 90\n", "Extra inputs"),
    ],
)
def test_what_is_wrong_is_refused(read, text, said):
    with pytest.raises(ValueError, match=said):
        read(text)


def test_what_is_right_is_read(tmp_path):
    path = tmp_path / "published.toml"
    path.write_text(
        SOURCE.replace('"Roe, Jane"', '"Roe, Jane", "others"') + 'eprint = "2303.04347"\nmethods = ["qcfs", "x"]\n'
    )
    (source,) = load_sources(path)
    assert source.authors == ("Roe, Jane", "others") and source.methods == ("qcfs", "x") and source.rules == ()
    assert source.published_in == "A"
    assert load_published(path) == ()
