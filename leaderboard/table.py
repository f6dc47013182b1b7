"""Which records stand in one table, in which order, and what tells records of the same method apart."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from benchmark.records import ResultRecord
from leaderboard.digest import digest

# With fewer test images a 95% interval is wider than 6 percentage points, and no two methods can be told apart.
SMOKE = 1000
# Where and when a run happened is no number of the page: a re-run with the same results leaves the page as it is.
NOT_SHOWN = {"provenance", "artifacts", "traceback"}


@dataclass(frozen=True)
class Table:
    """Records that may be compared: same dataset, same protocol, same model.

    `records` have results and are sorted by fixed-time accuracy, best first, then by id. `missing` have none.
    """

    dataset: str
    model: str
    protocol: str
    records: tuple[ResultRecord, ...]
    missing: tuple[ResultRecord, ...]

    @property
    def title(self) -> str:
        """Dataset and model, for people; a smoke test is called one."""
        name = f"{self.dataset} · {self.model}"
        images = min((record.static.accuracy.n for record in self.records if record.static), default=SMOKE)
        return name if images >= SMOKE else f"{name} · smoke test with {images} images"

    @property
    def slug(self) -> str:
        """A file name and anchor; the hash keeps tables apart that differ in their protocol only."""
        readable = re.sub(r"[^A-Za-z0-9.-]+", "_", f"{self.dataset}-{self.model}")[:60]
        return f"{readable}-{digest([self.dataset, self.protocol, self.model])[:8]}"

    @property
    def fingerprint(self) -> str:
        """Sha256 of everything the records say, in full floats: changes that rounding hides still show."""
        lines = (record.model_dump_json(exclude=NOT_SHOWN) for record in self.records + self.missing)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def labels(self, without: tuple[str, ...] = ()) -> dict[str, str]:
        """Record id -> method name, followed by whatever differs between the records of that method, `without` some facts."""
        if without not in self._known_labels:
            by_method = defaultdict(list)
            for record in self.records + self.missing:
                by_method[record.spec.method].append(record)
            self._known_labels[without] = {
                key: label for group in by_method.values() for key, label in _labels(group, without).items()
            }
        return self._known_labels[without]

    @cached_property
    def _known_labels(self) -> dict[tuple[str, ...], dict[str, str]]:
        return {}


def tables(records: Iterable[ResultRecord]) -> tuple[Table, ...]:
    """The tables of a page, sorted by dataset, model and protocol; the order of `records` does not matter."""
    groups = defaultdict(list)
    for record in records:
        groups[record.spec.dataset, record.spec.model, record.protocol].append(record)
    return tuple(_table(*key, group) for key, group in sorted(groups.items()))


def _table(dataset: str, model: str, protocol: str, group: Sequence[ResultRecord]) -> Table:
    seen = Counter(record.id for record in group)
    # The whole content breaks ties: two results folders may hold the same id.
    group = sorted(group, key=lambda record: (record.id, record.model_dump_json() if seen[record.id] > 1 else ""))
    done = sorted((record for record in group if record.status == "ok"), key=_best_first)
    missing = sorted((record for record in group if record.status != "ok"), key=lambda record: record.spec.method)
    return Table(dataset, model, protocol, tuple(done), tuple(missing))


def _best_first(record: ResultRecord) -> float:
    assert record.static is not None
    return -record.static.accuracy.value


def _labels(group: Sequence[ResultRecord], without: tuple[str, ...]) -> dict[str, str]:
    facts = {record.id: _facts(record) for record in group}
    names = sorted({name for known in facts.values() for name in known} - {(1, name) for name in without})
    told_apart_by = [name for name in names if len({known.get(name) for known in facts.values()}) > 1]
    labels = {}
    for record in group:
        known = facts[record.id]
        details = ", ".join(f"{name[1]}={known.get(name, 'default')}" for name in told_apart_by)
        labels[record.id] = f"{record.spec.method} ({details})" if details else record.spec.method
    return labels


def _facts(record: ResultRecord) -> dict[tuple[int, str], str]:
    """What may tell two records of one method apart; an option named `seed` is not the seed of the run."""
    spec = record.spec
    # The folder of a checkpoint belongs to one machine; its name and checksum do not.
    weights_name = spec.weights.source.replace("\\", "/").rsplit("/", 1)[-1]
    run = {
        "version": spec.method_version,
        "weights": f"{weights_name}@{spec.weights.sha256[:8]}",
        "T": spec.timesteps,
        "seed": spec.seed,
        "precision": spec.precision,
        "limit": spec.limit,
        "calibration": spec.calibration_size,
    }
    return {(0, name): str(value) for name, value in spec.method_options.items()} | {
        (1, name): str(value) for name, value in run.items()
    }
