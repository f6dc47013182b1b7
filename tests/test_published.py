"""Figures of others beside ours: sources, preludes, and which of them stand on which page."""

from __future__ import annotations

import pytest
from test_leaderboard import record

from benchmark import registry
from leaderboard import Leaderboard
from leaderboard.published import load_published, published_table

SOURCE = '[[source]]\nid = "a"\ntitle = "A title"\nvenue = "A 2020"\nurl = "https://example.org/a"\n'
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
    # Names of ours are spelt as ours; the others are methods that we do not have.
    assert {row.method for row in rows} - set(registry.names("methods")) == {"direct training", "opi", "rts"}
    assert {row.dataset for row in rows} <= set(registry.names("datasets"))
    assert all(row.accuracy or row.dynamic for row in rows)
    # Every row of a method that runs something before the first answer says how long that is.
    assert all(row.prelude > 0 for row in rows if row.method in ("srp", "cos"))
    log = next(row for row in rows if row.dynamic and row.dynamic.latency == 11.51)
    assert log.accuracy[27] == log.dynamic.accuracy == 94.27


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
        (ROW, "unknown: a"),
        (SOURCE + "[other]\n", "unknown: other"),
        (SOURCE + ROW + "accuracy = { 1 = 101 }\n", "less than or equal to 100"),
        (SOURCE + ROW + "accuracy = { 0 = 50 }\n", "greater than 0"),
        (SOURCE + ROW + "anm = 90\n", "Extra inputs"),
    ],
)
def test_what_is_wrong_is_refused(read, text, said):
    with pytest.raises(ValueError, match=said):
        read(text)
