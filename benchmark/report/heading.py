"""The head of the page: what was run, on what, with what, and how to run it again."""

from __future__ import annotations

import re

from benchmark import registry
from benchmark.errors import UsageError
from benchmark.records import ResultRecord
from benchmark.report.command import reproduce_in_lines
from benchmark.report.markup import Content, Markup, element, escaped, joined
from benchmark.report.numerals import rounded, timesteps
from benchmark.report.operating import estimate
from benchmark.report.subject import Subject
from benchmark.report.tables import facts

ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


def heading(subject: Subject) -> Markup:
    """What was run, and what a reader must know about it."""
    rows = _of_record(subject.record) if subject.record is not None else _of_recording(subject)
    remarks = [*(subject.record.flags if subject.record else ()), *subject.remarks]
    remarks += [f"{rule.label}: {rule.doubt}" for rule in subject.rules if rule.doubt]
    return joined(
        facts(rows),
        element("h3", "Remarks"),
        element("ul", [element("li", remark) for remark in remarks]) if remarks else element("p", "None."),
        _again(subject),
    )


def _of_record(record: ResultRecord) -> list[tuple[str, Content]]:
    spec, static = record.spec, record.static
    assert static is not None and record.ann is not None
    options = ", ".join(f"{key} {value}" for key, value in sorted(spec.method_options.items()))
    streaming = static.streaming_prelude
    prelude = f"{static.prelude} timesteps"
    if streaming is not None and streaming != static.prelude:
        prelude += f"; {streaming} on hardware where every layer waits for the one before it"
    rows: list[tuple[str, Content]] = [
        ("Record", element("code", record.id)),
        (
            "Method",
            [f"{spec.method} (version {spec.method_version}{'; ' if options else ''}{options})", *_paper(spec.method)],
        ),
        ("Dataset", f"{spec.dataset}, {spec.split} split, {static.accuracy.n:,} images"),
        ("Model", spec.model),
        ("Protocol", record.protocol),
        ("Weights", [spec.weights.source, ", sha256 ", element("code", spec.weights.sha256)]),
        ("Timesteps", f"T = {spec.timesteps}, precision {spec.precision}, seed {spec.seed}"),
        ("Prelude", prelude),
        ("ANN accuracy", [estimate(record.ann.accuracy), " (the network that was converted, analog logits)"]),
    ]
    if record.reported is not None:
        reported = record.reported
        rows.append(
            (
                "Reported elsewhere",
                f"{rounded(100 * reported.accuracy)}% at {timesteps(reported.latency)} timesteps, {reported.source}",
            )
        )
    for seen in record.clock:
        stream, floor = seen.stream_seconds, seen.floor_seconds
        streamed = "" if stream is None else f" ({rounded(stream)} s as a stream)"
        passes = "" if floor is None else f"; as many forward passes {rounded(floor)} s"
        rows.append(
            (
                "On the clock",
                f"{seen.policy}, batch {seen.batch_size}, {seen.images:,} images, {seen.device}: "
                f"{rounded(seen.static_seconds)} s with all timesteps, {rounded(seen.dynamic_seconds)} s with early "
                f"exit{streamed}, {rounded(seen.speedup)}x (ideal {rounded(seen.ideal_speedup)}x){passes}; "
                f"{seen.differing_images} images differ from the replay",
            )
        )
    return rows


def _of_recording(subject: Subject) -> list[tuple[str, Content]]:
    info = subject.test.info
    return [
        ("Identity", element("code", info.identity) if info.identity else "none given"),
        ("Images", f"{len(subject.test):,} test, {len(subject.calibration):,} of split {subject.calibration.split}"),
        ("Classes", str(info.num_classes)),
        ("Timesteps", f"T = {info.timesteps}"),
        ("Prelude", f"{info.prelude_steps} timesteps"),
        ("ANN accuracy", "not known: there is no record of this recording"),
    ]


def _again(subject: Subject) -> Markup:
    record = subject.record
    if record is None:
        return Markup()
    provenance = record.provenance
    commit = provenance.git_sha or "unknown"
    versions = ", ".join(f"{name} {version}" for name, version in sorted(provenance.versions.items()))
    return joined(
        element("h3", "Run it again"),
        element("pre", element("code", reproduce_in_lines(record.spec)), tabindex="0", aria_label="Command"),
        element(
            "p",
            "With --data-dir DIR where the dataset lies, if it is not an embedded one",
            ""
            if record.spec.weights.source.startswith(("zoo:", "timm:", "trained:"))
            else "; FILE is the one with the sha256 above",
            ". The same inputs give the record of the same id.",
        ),
        facts(
            [
                ("Commit", [element("code", commit), " with changes" if provenance.dirty else ""]),
                ("Versions", versions),
                ("Device", provenance.device),
                ("Started", provenance.started),
            ]
        ),
    )


def _paper(method: str) -> list[Content]:
    try:
        paper = str(getattr(registry.entry("methods", method), "paper", "") or "")
    except UsageError:  # a plug-in that is not loaded
        paper = ""
    return [". ", with_links(paper)] if paper else []


def with_links(text: str) -> Markup:
    """A source as text in which arXiv numbers lead to the paper."""
    parts: list[Content] = []
    end = 0
    for found in ARXIV.finditer(text):
        parts += [text[end : found.start()], element("a", found[0], href=f"https://arxiv.org/abs/{found[1]}")]
        end = found.end()
    return joined(*parts, escaped(text[end:]))
