"""Whether a record that others made may stand in the table: what is wrong with it, and what a reader must know."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from benchmark.identities import broken_identities
from benchmark.records import ResultRecord

# As the runner writes it; the fingerprints are those of the pixels and labels that were read.
PROTOCOL = re.compile(r"(.+) · test (\d+) @(\w+) · calibration (\d+) @(\w+) · protocol (\d+)")
ABSOLUTE = re.compile(r"^(/|~|[A-Za-z]:[\\/]|\\\\)")


@dataclass(frozen=True)
class Admission:
    """`objections` keep a record out; `remarks` do not."""

    objections: tuple[str, ...]
    remarks: tuple[str, ...]


def examine(record: ResultRecord, known: Iterable[ResultRecord], methods: Iterable[str]) -> Admission:
    """Check a record against itself, and against those that are there.

    Args:
        record: parsed, so its schema and its id are right.
        known: the records of the results folder.
        methods: names that the registry knows.
    """
    known = list(known)
    if record.status != "ok":
        return Admission((f"its status is {record.status}: {record.reason}",), ())
    objections = [*_protocol(record), *broken_identities(record), *_policies(record), *_provenance(record)]
    twin = next((other for other in known if other.id == record.id), None)
    if twin is not None and twin != record:
        objections.append(f"a record {record.id} is there already, with other figures or of another run")
    return Admission(tuple(objections), tuple(_remarks(record, known, set(methods))))


def _protocol(record: ResultRecord) -> Iterator[str]:
    found = PROTOCOL.fullmatch(record.protocol)
    spec = record.spec
    if not found:
        yield f"protocol {record.protocol!r} is not written as a run writes it"
        return
    dataset, test, test_print, calibration, calibration_print, _ = found.groups()
    if dataset != spec.dataset:
        yield f"protocol names dataset {dataset!r}, the spec {spec.dataset!r}"
    if spec.dataset_fingerprint != f"test:{test_print} calibration:{calibration_print}":
        yield "protocol and spec have different fingerprints of the images"
    assert record.static
    if int(test) != record.static.accuracy.n:
        yield f"protocol counts {test} test images, the figures {record.static.accuracy.n}"
    for name, limit, images in (("limit", spec.limit, test), ("calibration_size", spec.calibration_size, calibration)):
        if limit is not None and int(images) > limit:
            yield f"protocol counts {images} images, {name} is {limit}"


def _policies(record: ResultRecord) -> Iterator[str]:
    wanted, found = [policy.name for policy in record.spec.policies], [policy.name for policy in record.policies]
    if wanted != found:
        yield f"the spec asks for the rules {', '.join(wanted)}, the record has {', '.join(found) or 'none'}"
        return
    for asked, policy in zip(record.spec.policies, record.policies, strict=True):
        if asked.options.get("selection", policy.selection) != policy.selection:
            yield f"{policy.name}: selection {policy.selection}, the spec asks for {asked.options['selection']}"
        promise = policy.guarantee
        if promise is not None and {promise.epsilon, promise.delta} - set(asked.options.values()):
            yield f"{policy.name}: the guarantee is not the one that the spec asks for"


def _provenance(record: ResultRecord) -> Iterator[str]:
    made = record.provenance
    if made.git_sha is None:
        yield "no commit is named: the code that made it cannot be found"
    if made.dataset_fingerprint != record.spec.dataset_fingerprint:
        yield "provenance and spec have different fingerprints of the images"
    for place, text in (
        ("weights.source", record.spec.weights.source),
        *((each.path,) * 2 for each in record.artifacts),
    ):
        if ABSOLUTE.match(text) or ".." in text.replace("\\", "/").split("/"):
            yield f"{place} is a path of one machine"


def _remarks(record: ResultRecord, known: list[ResultRecord], methods: set[str]) -> Iterator[str]:
    if record.provenance.dirty:
        yield "made with code that was changed after its commit"
    if record.spec.method not in methods:
        yield f"method {record.spec.method!r} is not one of ours: readers need its plug-in to run it"
    mates = [
        other for other in known if (other.spec.dataset, other.spec.model) == (record.spec.dataset, record.spec.model)
    ]
    if not any(other.protocol == record.protocol for other in mates if other.id != record.id):
        yield "no other record has its protocol: it stands in a table of its own"
    if not any(policy.guarantee for policy in record.policies):
        yield "no rule with a guarantee"
