"""Papers behind methods and stopping rules, and BibTeX that other programs can read."""

from __future__ import annotations

import importlib.metadata
import re
from email.message import Message

import pytest
from conftest import ROOT
from test_leaderboard import record

from dynconf.names import POLICIES
from leaderboard import bibliography
from leaderboard.bibliography import bibtex, cited, keys, project_entry, sources_of, sources_of_rule
from leaderboard.published import Source, load_published, load_sources
from leaderboard.table import tables
from methods import METHODS

REQUIRED = {"article": {"journal"}, "inproceedings": {"booktitle"}, "misc": {"eprint"}, "software": {"version"}}
# What BibTeX takes for the end of a value or LaTeX for markup, unless a command or a backslash says otherwise.
MARKUP = re.compile(r"(?<!\\)[&%$#_~^]")


def source(family="Roe", title="A Title", year=2020, **changes):
    fields = {
        "id": f"{family}-{title}",
        "kind": "article",
        "authors": (f"{family}, Jane",),
        "title": title,
        "venue": f"Journal {year}",
        "year": year,
        "url": "https://example.org/a_b%20c",
    }
    return Source(**{**fields, **changes})


def value_at(text, start):
    """The value in braces that begins at `start`, and where it ends. Braces have to balance."""
    assert text[start] == "{"
    depth = 0
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[start + 1 : place], place + 1
    raise AssertionError(f"a brace stays open: {text[start : start + 60]}")


def parsed(text):
    """Key -> kind and fields, of entries as strictly written as ours; also what stands between entries."""
    found, outside, place = {}, [], 0
    for entry in re.finditer(r"^@(\w+)", text, re.MULTILINE):
        if entry.start() < place:
            raise AssertionError(f"an entry within an entry: {entry[0]}")
        outside.append(text[place : entry.start()])
        body, place = value_at(text, entry.end())
        key, _, rest = body.partition(",\n")
        assert re.fullmatch("[a-z0-9]+", key) and key not in found
        fields, start = {}, 0
        while rest[start:].strip():
            name = re.match(r"  ([a-z]+) = ", rest[start:])
            assert name and name[1] not in fields, rest[start:]
            fields[name[1]], start = value_at(rest, start + name.end())
            assert rest[start : start + 2] == ",\n"
            start += 2
        assert {"author", "title", *REQUIRED[entry[1]]} <= fields.keys()
        assert all(fields.values())
        found[key] = (entry[1], fields)
    assert all(not part.strip() or part.startswith("%") for part in [*outside, text[place:]])
    return found


def plain(text):
    """LaTeX as ours back to text."""
    text = (
        text.replace(r"\textbackslash{}", "\0").replace(r"\textasciitilde{}", "~").replace(r"\textasciicircum{}", "^")
    )
    text = text.replace(r"\textbraceleft{}", "\1").replace(r"\textbraceright{}", "\2")
    text = re.sub(r"[{}]", "", re.sub(r"\\([&%$#_])", r"\1", text))
    return text.translate({0: "\\", 1: "{", 2: "}"})


@pytest.mark.parametrize("name", METHODS)
def test_the_papers_of_a_method_are_those_of_its_table(name):
    check(sources_of(name), METHODS[name].paper)


@pytest.mark.parametrize("name", POLICIES)
def test_the_papers_of_a_rule_are_those_of_its_table(name):
    said = POLICIES[name].source
    if said in ("baseline", "control", "this benchmark"):
        assert sources_of_rule(name) == ()
    else:
        check(sources_of_rule(name), said.partition("networks: ")[2] or said)


def check(sources, said):
    """A paper for each part of what a table says, of the same first author, and of the year and arXiv id if those are told."""
    parts = said.split("; ")
    assert len(sources) == len(parts) > 0
    for paper, part in zip(sources, parts, strict=True):
        names = part.partition(": ")[2] or part
        assert names.startswith(paper.authors[0].partition(",")[0])
        years = re.findall(r"\b20\d\d\b(?!\.)", part)
        assert years in ([], [str(paper.year)])
        told = re.findall(r"arXiv:([\d.]+)", part)
        assert told in ([], [paper.eprint])


def test_papers_name_only_what_there_is():
    papers = load_sources()
    assert {name for paper in papers for name in paper.methods} == set(METHODS)
    assert {name for paper in papers for name in paper.rules} <= set(POLICIES)
    used = {row.source for row in load_published()}
    assert not [paper.id for paper in papers if not (paper.methods or paper.rules or paper in used)]


def test_a_paper_is_cited_once():
    """Two records of a method, and a published figure of the same paper."""
    asked = [record(seed=seed, dataset="cifar10", policies=()) for seed in (1, 2)]
    rows = [row for row in load_published() if row.method == "qcfs" and row.source.id == "qcfs"]
    assert [paper.id for paper in cited(tables(asked), rows)] == ["qcfs"]


def test_a_plug_in_has_no_papers():
    assert sources_of("theirs") == sources_of_rule("theirs") == ()


def test_links_lead_to_the_paper():
    for paper in load_sources():
        assert paper.eprint or paper.doi
        if "arxiv.org" in paper.url:
            assert paper.url == f"https://arxiv.org/abs/{paper.eprint}"
        if "doi.org" in paper.url:
            assert paper.url == f"https://doi.org/{paper.doi}"


def test_all_shipped_papers_as_bibtex():
    papers = load_sources()
    entries = parsed(bibtex(papers))
    assert list(entries) == sorted(entries) and len(entries) == len(papers)
    for paper, key in keys(papers).items():
        kind, fields = entries[key]
        assert kind == paper.kind and fields["year"] == str(paper.year) and fields["url"] == paper.url
        assert plain(fields["title"]) == paper.title and fields["author"].split(" and ") == list(paper.authors)
        assert fields.get("eprint") == paper.eprint and fields.get("doi") == paper.doi
        assert fields.get("archiveprefix") == ("arXiv" if paper.eprint else None)
        # Without a letter behind it: a key is then the same whatever else is exported.
        assert key == keys([paper])[paper]
    assert entries["bu2022optimal"][1]["booktitle"] == "ICLR"
    assert entries["li2022quantization"][1]["journal"] == "Frontiers in Neuroscience"


@pytest.mark.parametrize(
    ("family", "title", "key"),
    [
        ("Bu", "Optimal ANN-SNN Conversion", "bu2020optimal"),
        ("Li", "A Free Lunch", "li2020free"),
        ("Li", "On the Way Towards Nets", "li2020way"),
        ("Li", "Input-Aware Timesteps", "li2020input"),
        ("Li", "SEENN: Towards Exits", "li2020seenn"),
        ("Bojković", "Ångström", "bojkovic2020angstrom"),
        ("De la Cruz", "Then There", "delacruz2020then"),
        ("Weiß", "The", "weiss2020"),
        ("李", "Nets", "any2020nets"),
    ],
)
def test_keys(family, title, key):
    paper = source(family, title, id="any")
    assert keys([paper])[paper] == key
    assert list(parsed(bibtex([paper]))) == [key]


def test_keys_that_agree_get_letters_in_any_order():
    papers = [source(title=f"Optimal {what}") for what in ("spikes", "nets", "time")]
    expected = {
        "Optimal nets": "roe2020optimal",
        "Optimal spikes": "roe2020optimalb",
        "Optimal time": "roe2020optimalc",
    }
    for some in (papers, papers[::-1], papers + papers[:1]):
        assert {paper.title: key for paper, key in keys(some).items()} == expected
        assert bibtex(some) == bibtex(papers)
        assert len(parsed(bibtex(some))) == 3
    # The letter does not run into a key that another paper has by itself.
    other = source(title="Optimalb")
    assert len(set(keys([*papers, other]).values())) == 4


@pytest.mark.parametrize(
    "text",
    [
        "50% of R&D",
        "a_b #1 $x$",
        "~tilde ^hat",
        "back\\slash",
        "open { brace",
        "close } brace",
        "Bojković über",
        '"x" @y',
    ],
)
def test_what_latex_would_take_for_markup_is_escaped(text):
    family = text.translate(dict.fromkeys(map(ord, "{},"))).strip()
    paper = source(title=text, authors=(f"{family}, Jane",), venue=f"{text} 2020")
    ((_, fields),) = parsed(bibtex([paper])).values()
    assert plain(fields["title"]) == plain(fields["journal"]) == text
    assert plain(fields["author"]) == f"{family}, Jane"
    for name in ("title", "journal", "author"):
        assert not MARKUP.search(fields[name])
    assert fields["url"] == paper.url  # as it is: % and _ belong to it


def test_capitals_that_must_stay_stand_in_braces():
    paper = source(title="Bridging ANNs, SpikeZIP-TF and DT-SNN: Early-Exit (SNN) Networks")
    ((_, fields),) = parsed(bibtex([paper])).values()
    assert re.findall(r"\{(.+?)\}", fields["title"]) == ["ANNs", "SpikeZIP-TF", "DT-SNN", "SNN"]


def test_more_authors_than_are_known():
    paper = source(authors=("Roe, Jane", "others"))
    assert "author = {Roe, Jane and others}," in bibtex([paper])


def test_the_project_is_as_its_citation_file_says(monkeypatch):
    (kind, fields) = parsed(project_entry())["dynconfbench"]
    assert kind == "software"
    citation = (ROOT / "CITATION.cff").read_text()
    assert f'title: "{plain(fields["title"])}"' in citation
    assert f"name: {plain(fields['author'])}\n" in citation
    assert fields["author"].startswith("{")  # or BibTeX would look for a family name
    about = importlib.metadata.metadata("dynconf-bench")
    assert fields["version"] == about["Version"]
    assert ("url" in fields) == bool(about.get_all("Project-URL"))
    linked = Message()
    linked["Version"], linked["Project-URL"] = "9.8", "Repository, https://example.org/a_b"
    monkeypatch.setattr(bibliography, "metadata", lambda _: linked)
    assert parsed(project_entry())["dynconfbench"][1]["url"] == "https://example.org/a_b"


def test_no_papers_are_no_entries():
    assert bibtex([]) == ""


@pytest.mark.parametrize(
    "text", ["@misc{a1,\n  title = {x,\n}", "@misc{a1,\n  title = {x},\n  title = {y},\n}", "@misc{A b,\n}"]
)
def test_the_reader_of_these_tests_is_strict(text):
    with pytest.raises(AssertionError):
        parsed(text)
