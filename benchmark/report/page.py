"""The whole page."""

from __future__ import annotations

from importlib.metadata import version

from benchmark.report.exits import exits
from benchmark.report.heading import heading
from benchmark.report.markup import Markup, element, joined
from benchmark.report.meaning import meaning
from benchmark.report.numerals import fixed, share, timesteps
from benchmark.report.operating import operating
from benchmark.report.promise import promise
from benchmark.report.selective import selective
from benchmark.report.spiking import spiking
from benchmark.report.stylesheet import STYLE
from benchmark.report.subject import Subject
from benchmark.report.tradeoff import tradeoff
from benchmark.report.trust import trust

EXAMPLES = 8


def page(subject: Subject, examples_each: int = EXAMPLES) -> str:
    """A page about a run as HTML text: one file, no script, nothing outside it.

    `examples_each` images are shown of those that leave first, that leave last, and that are lost, for each rule. The same
    subject gives the same text.
    """
    sections = [
        ("run", "Run", heading(subject)),
        ("rules", "Stopping rules", operating(subject)),
        ("accuracy-latency", "Accuracy and latency", tradeoff(subject)),
        ("exit-times", "When images leave", exits(subject, examples_each)),
        ("confidence", "Confidence", trust(subject)),
        ("coverage", "Risk and coverage", selective(subject)),
        ("spikes", "Spikes", spiking(subject)),
        ("guarantee", "The guarantee, tried out", promise(subject)),
        ("meaning", "What these numbers mean", meaning()),
    ]
    links = [element("li", element("a", title, href=f"#{identity}")) for identity, title, _ in sections]
    body = joined(
        element("a", "Skip to the content", href="#content", class_="skip"),
        element("header", element("h1", subject.title), element("p", _subtitle(subject)), _gist(subject)),
        element("nav", element("ul", links), aria_label="Sections"),
        element(
            "main",
            [
                element(
                    "section",
                    element("h2", title, id=f"{identity}-title"),
                    content,
                    id=identity,
                    aria_labelledby=f"{identity}-title",
                )
                for identity, title, content in sections
            ],
            id="content",
        ),
        element(
            "footer",
            f"Made by dynconf-bench {version('dynconf-bench')} from a record and its recordings; no network was run.",
        ),
    )
    head = joined(
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{subject.title} · dynconf-bench"),
        element("style", Markup(STYLE)),
    )
    return f"<!DOCTYPE html>\n{element('html', element('head', head), element('body', body), lang='en')}\n"


def _subtitle(subject: Subject) -> str:
    parts = [f"T = {subject.test.timesteps}", f"{len(subject.test):,} test images"]
    if subject.record is not None:
        parts.append(f"record {subject.record.id}")
    return " · ".join(parts)


def _gist(subject: Subject) -> Markup:
    """What came out, in one sentence for each rule."""
    static = subject.static
    items = [
        joined(
            f"All {subject.test.timesteps} timesteps: ",
            share(static.accuracy.value),
            f" in {timesteps(static.latency)}.",
        )
    ]
    for rule in subject.rules:
        result, equal = rule.result, rule.result.equal_fixed
        against = (
            "; no fixed T is as accurate"
            if equal.latency is None
            else f"; fixed time of that accuracy takes {timesteps(equal.latency)}"
        )
        items.append(
            joined(
                element("b", rule.label),
                ": ",
                share(result.accuracy.value),
                " in ",
                fixed(result.latency.mean),
                f" timesteps{against}.",
            )
        )
    return element("ul", [element("li", item) for item in items], class_="gist")
