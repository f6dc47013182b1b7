"""The HTML page as text: complete without scripts, escaped, bound to itself, the same for the same records."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import random
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
from conftest import ROOT
from test_leaderboard import policy, record

from benchmark.records import Guarantee
from leaderboard import Leaderboard, numerals
from leaderboard.bibliography import sources_of
from leaderboard.export import rows as export_rows
from leaderboard.site import document as site
from leaderboard.site.entries import entries
from leaderboard.site.looks import COLOURS, SHAPES, looks

pytest_plugins = ["html_lab"]

VOID = {"meta", "link", "input"}


class Reader(HTMLParser):
    """The tables of a page, its elements, its links and what it holds between them; fails on tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.tables, self.texts = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        assert len(given) == len(attributes), (tag, attributes)
        self.elements.append((tag, given))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append((given, []))

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.texts.append(data)
        if "tr" in self.open:
            self.tables[-1][-1][-1][1].append(data)

    def attributes(self, tag):
        return [given for name, given in self.elements if name == tag]

    @property
    def rows(self):
        """For each table its rows as key -> (texts of the cell, full value)."""
        found = []
        for head, *body in self.tables:
            keys = [given["data-key"] for given, _ in head]
            assert all(len(row) == len(keys) for row in body)
            found.append(
                [
                    {key: (texts, given.get("data-value")) for key, (given, texts) in zip(keys, row, strict=True)}
                    for row in body
                ]
            )
        return found


@pytest.fixture(scope="module")
def text(page):
    return page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def read(text):
    return Reader(text)


def html_of(*records, **options):
    return site.document(Leaderboard.from_records(records, published=()).tables, (), (), options)


# Complete


def test_every_exported_row_stands_in_its_table_with_its_numbers(board, read):
    assert len(read.rows) == len(board.tables) == 2
    for table, shown in zip(board.tables, read.rows, strict=True):
        wanted = [row for row in export_rows([table]) if row["status"] == "ok"]
        assert len(shown) == len(wanted)
        for row in wanted:
            (cells,) = [each for each in shown if same_rule(each, row)]
            assert_shows(cells, row)


def same_rule(cells, row):
    name = f"fixed T={row['timesteps']}" if row["rule"] == "fixed-time" else row["rule"]
    return cells["record"][0] == [row["record"]] and cells["rule"][1] == name


def assert_shows(cells, row):
    fixed = row["rule"] == "fixed-time"
    shown = {key: texts for key, (texts, _) in cells.items()}
    percent, rounded = numerals.percent, numerals.rounded
    low, high = percent(row["accuracy_low"]), percent(row["accuracy_high"])
    assert shown["accuracy"] == [percent(row["accuracy"]), f"[{low}, {high}]"]
    assert f"ANN {percent(row['ann_accuracy'])}%" in shown["method"]
    assert shown["method"][0] == row["method"]
    assert shown["spikes"] == [numerals.count(row["spikes_per_image"])]
    assert shown["synops"] == [numerals.count(row["synops_per_image"])]
    energy = row.get("energy_int8_pj")
    assert shown["energy"] == (["—"] if energy is None else [numerals.energy(energy)])
    full = {"accuracy": row["accuracy"], "latency": row["latency"], "spikes": row["spikes_per_image"], "energy": energy}
    full["synops"] = row["synops_per_image"]
    if row["prelude"]:
        assert f"prelude {row['prelude']}" in shown["method"]
    if fixed:
        assert shown["latency"] == [numerals.timesteps(row["latency"])]
        assert all(shown[key] == ["—"] for key in ("rank", "equal", "saved", "gap", "drop"))
        full |= dict.fromkeys(("rank", "equal", "saved", "gap", "drop"))
    else:
        low, high = rounded(row["latency_low"]), rounded(row["latency_high"])
        assert shown["latency"] == [rounded(row["latency"]), f"[{low}, {high}]"]
        assert shown["rank"] == [str(row["rank"])]
        assert shown["saved"] == [f"{percent(row['saving_latency'], 1)}%"]
        steps, equal = row["equal_fixed_timesteps"], row["equal_fixed_saving_latency"]
        assert shown["equal"] == (
            ["—", "no T as accurate"] if steps is None else [f"{percent(equal, 1)}%", f"T={steps}"]
        )
        gap = row["gap_closed"]
        assert shown["gap"] == (["—"] if gap is None else [f"{percent(gap, 0)}%"])
        assert shown["drop"] == [percent(row["drop_upper95"]), f"{row['losers']} lost, {row['winners']} won"]
        full |= {
            "rank": row["rank"],
            "saved": row["saving_latency"],
            "equal": equal,
            "gap": gap,
            "drop": row["drop_upper95"],
        }
        promise = row["guarantee_epsilon"]
        assert ("guarantee ε\u00a00.5%, δ\u00a05%" in shown["rule"]) == (promise is not None)
    for key, value in full.items():
        found = cells[key][1]
        assert (None if found is None else float(found)) == value, key


def test_parameters_and_how_the_threshold_was_chosen_are_named():
    params = {
        "threshold": 0.99996,
        "scale": 12.0,
        "per_step": True,
        "steps": 3,
        "tolerance": 0.0,
        "delta": 0.1,
        "grid": [1],
    }
    promise = Guarantee(epsilon=0.01, delta=0.1, risk="loss")
    (rows,) = Reader(html_of(record(policies=(policy(params=params), policy("margin", guarantee=promise))))).rows
    assert words(rows, "dynamic-confidence") == "pareto, scale 12, threshold 1-4e-05, delta 0.1, per step, steps 3"
    assert words(rows, "margin") == "pareto, scale 12, threshold 0.6123"


def words(rows, name):
    (cell,) = [row["rule"][0] for row in rows if row["rule"][1] == name]
    return cell[1].replace("\u00a0", " ")


def test_remarks_missing_records_and_unreadable_files_are_told(read, board):
    said = "".join(read.texts)
    for expected in (
        "Missing: cos",
        "oom. out of memory",
        "Reported for this cell, as counted there: 90.00% at 8 (",
        "Measured with margin on cpu, batch size 1: 2.00 times as fast as fixed time (ideal 2.50); fixed time ",
        "Guarantee (ε = 0.5%, δ = 5%): drop",
        "Records that could not be read",
        "a/b.json: ",
        board.tables[0].protocol,
    ):
        assert expected in said


def test_a_remark_of_some_records_is_numbered_and_one_of_all_is_not():
    text = html_of(record("qcfs", flags=("of all", "of one")), record("srp", flags=("of all",)))
    (rows,) = Reader(text).rows
    marks = {row["method"][0][0]: row["method"][0][1] for row in rows}
    assert marks["qcfs"] == "1" and marks["srp"].startswith("ANN")
    assert "<ul><li>of all</li></ul><ol><li>of one</li></ol>" in text


def test_the_static_chart_has_a_mark_for_every_row_and_a_line_and_an_oracle_for_every_record(board, text):
    pictures = re.findall(r'<svg class="plot".*?</svg>', text, flags=re.DOTALL)
    for table, picture in zip(board.tables, pictures, strict=True):
        assert picture.count('class="mark"') == len(entries(table))
        assert picture.count('class="line ') == picture.count('class="oracle ') == len(table.records)
        assert "nan" not in picture and "inf" not in picture


def test_rows_and_numbers_for_the_script_stand_in_one_order(read, text):
    island = json.loads(re.search(r'id="numbers">(.*?)</script>', text, re.DOTALL).group(1))
    for chart, rows in zip(island["charts"], read.rows, strict=True):
        assert [row[2] for row in chart["rows"]] == [float(row["accuracy"][1]) for row in rows]
        assert [row[5] for row in chart["rows"]] == [float(row["latency"][1]) for row in rows]


def test_published_figures_of_this_network_are_for_the_script(text):
    island = json.loads(re.search(r'id="numbers">(.*?)</script>', text, re.DOTALL).group(1))
    first = island["charts"][0]["published"]
    assert [point[:3] for point in first[:2]] == [[10, 0.76, "qcfs, T=8"], [66, 0.77, "qcfs, T=64"]]
    assert first[2][:2] == [7.5, 0.755] and first[2][3].endswith(", second-hand")
    assert len(first) == 3 and island["charts"][1]["published"] == []


@pytest.mark.parametrize(
    ("policies", "best"),
    [
        ((policy(latency=5), policy("a", latency=9), policy("b", latency=8)), "dynamic-confidence"),
        ((policy(latency=5), policy("a", latency=9, guarantee=Guarantee(epsilon=1, delta=1, risk="x"))), "a"),
        ((policy("a", latency=5),), None),
    ],
)
def test_the_best_rule_of_a_record(policies, best):
    (table,) = Leaderboard.from_records([record(policies=policies)]).tables
    (found,) = [entry for entry in entries(table) if entry.best]
    assert (found.policy and found.policy.name) == best


# Safe


def test_names_end_nothing_and_start_nothing(text, read):
    assert "owned" in "".join(read.texts)
    assert [tag for tag, _ in read.elements].count("script") == 2
    assert [tag for tag, _ in read.elements].count("img") == 0
    assert not [given for _, given in read.elements if any(name.startswith("on") for name in given)]
    assert text.count("</script>") == 2


def test_text_that_no_page_can_hold_is_replaced():
    text = html_of(record(policies=(policy("a\ud800\x00b"),)))
    assert "a\ufffd\ufffdb" in text
    text.encode()


def test_the_policy_allows_this_style_and_this_script_and_nothing_else(text, read):
    (given,) = [each["content"] for each in read.attributes("meta") if "http-equiv" in each]
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL).group(1)
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL).group(1)
    assert given == (
        f"default-src 'none'; style-src 'sha256-{digest(style)}'; script-src 'sha256-{digest(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    # It has to stand before what it governs.
    assert text.index("Content-Security-Policy") < text.index("<style>")
    assert not [given for _, given in read.elements if "style" in given]


def digest(text):
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_nothing_is_loaded(text, read):
    for tag, given in read.elements:
        assert "src" not in given and "srcset" not in given, tag
        if tag == "link":
            assert given["href"] == "data:,"
        elif tag == "use":
            assert given["href"].startswith("#")
        elif "href" in given:
            assert tag == "a"
    assert "url(" not in re.sub(r"url\(#", "", text) and "@import" not in text and "innerHTML" not in text


def test_records_are_linked_where_a_report_is_known(board, read):
    first = board.tables[0].records[0].id
    links = [given["href"] for given in read.attributes("a") if not given["href"].startswith(("#", "https:"))]
    assert links == [f"reports/{first}.html?a='\"<b>"] * (1 + len(board.tables[0].records[0].policies))


def test_a_table_names_the_papers_of_its_methods_and_a_plugin_has_none():
    text = html_of(record("surrogate"), record("our-own"), record("qcfs", model="vgg"))
    links = [given["href"] for given in Reader(text).attributes("a")]
    papers = [[source.url for source in sources_of(method)] for method in ("surrogate", "qcfs")]
    assert [len(found) for found in papers] == [2, 1]
    assert [link for link in links if link.startswith("https:")] == list(itertools.chain.from_iterable(papers))
    assert re.search(r"Papers: surrogate <a [^>]*>AAAI 2021</a>, <a [^>]*>ICLR 2022</a></p>", text)


# The same


def test_the_same_records_in_any_order_give_the_same_bytes(tmp_path):
    records = [record("qcfs", method_options={"levels": level}, policies=(policy(), policy("b"))) for level in range(6)]
    pages = set()
    for seed in range(4):
        random.Random(seed).shuffle(records)
        mixed = [
            each.model_copy(update={"policies": tuple(random.Random(seed).sample(each.policies, 2))})
            for each in records
        ]
        links = {each.id: "x" for each in mixed}
        Leaderboard.from_records(mixed).write_html(tmp_path / "page.html", links)
        pages.add((tmp_path / "page.html").read_bytes())
    assert len(pages) == 1


def test_where_and_when_a_run_happened_is_not_told():
    assert html_of(record(started="2026-01-01")) == html_of(record(started="2027-02-02"))


def test_a_page_is_written_whole_or_not_at_all(tmp_path, board, monkeypatch):
    path = tmp_path / "deep" / "page.html"
    board.write_html(path)
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        board.write_html(path, {"a": "b"})
    assert path.read_bytes() == before and [each.name for each in path.parent.iterdir()] == ["page.html"]


# Edges


def test_without_records_the_page_says_so():
    text = site.document((), ["x.json: bad"], (), {})
    assert "No records yet." in text and "x.json: bad" in text
    Reader(text)


@pytest.mark.parametrize(
    "changes",
    [
        {"policies": ()},
        {"timesteps": 1, "policies": ()},
        {"accuracy": 0.0, "policies": ()},
        {"policies": (policy(latency=0.0, slow=0.0), policy("b", latency=1e9))},
        {"policies": (policy(energy={"int8": 0.0}, synops_per_image=0.0, spikes_per_image=1e-300),)},
    ],
)
def test_extreme_numbers_still_give_a_chart(changes):
    text = html_of(record(**changes))
    assert 'class="mark"' in text and "nan" not in re.search(r'<svg class="plot".*?</svg>', text, re.DOTALL).group()
    Reader(text)


def test_methods_differ_in_colour_or_shape_up_to_sixty_six():
    found = looks(Leaderboard.from_records([record(f"m{number:02}") for number in range(66)]).tables)
    assert len(set(found.values())) == COLOURS * len(SHAPES) == 66
    neighbours = list(found.values())
    assert all(one.colour != two.colour and one.shape != two.shape for one, two in itertools.pairwise(neighbours))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_told_from_what_they_stand_on(scheme):
    style = (ROOT / "leaderboard/site/page.css").read_text()
    light, dark = re.findall(r":root\{[^}]*\}", style)[:2]
    colours = dict(re.findall(r"--(\w+):(#\w+)", light))
    if scheme == "dark":
        colours |= dict(re.findall(r"--(\w+):(#\w+)", dark))
    for text in ("ink", "soft", "link", "good"):
        assert contrast(colours[text], colours["paper"]) >= 4.5, text
        assert contrast(colours[text], colours["fill"]) >= 4.5, text
        if text != "soft":  # which a chosen row does not use
            assert contrast(colours[text], colours["chosen"]) >= 4.5, text
    for number in range(COLOURS):
        assert contrast(colours[f"c{number}"], colours["paper"]) >= 3, number


def contrast(one, two):
    lighter, darker = sorted((luminance(one), luminance(two)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour):
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_page_of_the_committed_records_builds(tmp_path):
    from benchmark.store import ResultStore

    records, problems = ResultStore(ROOT / "leaderboard/results").load_all()
    assert not problems
    board = Leaderboard.from_records(records)
    board.write_html(tmp_path / "page.html")
    content = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert len(content.encode()) < 1_000_000
    assert [len(rows) for rows in Reader(content).rows] == [
        sum(1 + len(each.policies) for each in table.records) for table in board.tables if table.records
    ]


def test_the_command_writes_it_and_its_links_lead_to_the_records(cli, tmp_path):
    target = tmp_path / "deep" / "page.html"
    answer = cli("leaderboard", "--results", ROOT / "leaderboard/results", "--html", target, cwd=tmp_path)
    assert answer.code == 0, answer.err
    found = [given["href"] for given in Reader(target.read_text()).attributes("a")]
    links = [link for link in found if not link.startswith(("#", "https:"))]
    assert links and all((target.parent / unquote(link)).is_file() for link in links)
    assert [each.name for each in tmp_path.iterdir()] == ["deep"]
