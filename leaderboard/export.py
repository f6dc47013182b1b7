"""The tables for other programs: CSV, JSON and parquet with every figure in full, LaTeX (booktabs) as people read them.

And the papers behind them as BibTeX.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.records import PolicyResult, ResultRecord
from leaderboard import numerals
from leaderboard.bibliography import bibtex, cited, keys, project_entry, sources_in
from leaderboard.publication import write_atomic
from leaderboard.published import Published, Source, load_published
from leaderboard.ranking import ranks
from leaderboard.table import Table

if TYPE_CHECKING:
    import pandas as pd

FIXED = "fixed-time"  # the row of all timesteps, which no rule stops
WHOLE = (
    *("timesteps", "prelude", "streaming_prelude", "seed", "method_version", "images"),
    *("rank", "equal_fixed_timesteps", "losers", "winners"),
)
TEXTS = ("reason", "training", "rule", "params", "selection", "guarantee_risk")
LATEX = ("method", "stopping rule", "ANN", "accuracy", "latency", "saved", "spikes", "energy")


def export(tables: Sequence[Table], path: Path, published: Sequence[Published] | None = None) -> None:
    """Write all tables, or the papers behind them, to one file, in the format that its name ends with.

    Args:
        tables: to write.
        path: ends with .csv, .json, .parquet, .tex or .bib.
        published: figures of others, by default those of `published.toml`. The papers of those on the datasets of the tables
            are among the papers.

    Raises ValueError for another ending, OSError if it cannot be written.
    """
    write = _FORMATS[_ending(path)]
    write_atomic(path, write(tables, cited(tables, load_published() if published is None else published)))


def check_ending(path: Path) -> None:
    """Raises ValueError if `export` has no format of this name."""
    _ending(path)


def _ending(path: Path) -> str:
    if path.suffix not in _FORMATS:
        raise ValueError(f"{path}: the name has to end with {', '.join(_FORMATS)}.")
    return path.suffix


def rows(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """A row per stopping rule of every record, one for fixed time first, and one without numbers per record that has none.

    Shares are 0..1, latencies in timesteps with the prelude, energies in pJ. `params` and `method_options` are JSON.
    """
    return [row for table in tables for row in _of_table(table)]


def _of_table(table: Table) -> Iterator[dict[str, Any]]:
    place = iter(ranks([policy for record in table.records for policy in record.policies]))
    for record in table.records:
        common = _common(table, record)
        yield {**common, **_fixed(record)}
        for policy in record.policies:
            yield {**common, "rank": next(place), **_policy(policy)}
    for record in table.missing:
        yield _common(table, record)


def _common(table: Table, record: ResultRecord) -> dict[str, Any]:
    spec = record.spec
    static = record.static
    return {
        "dataset": table.dataset,
        "model": table.model,
        "protocol": table.protocol,
        "record": record.id,
        "status": record.status,
        "reason": record.reason,
        "method": spec.method,
        "method_version": spec.method_version,
        "method_options": _json(spec.method_options),
        "weights": spec.weights.source.replace("\\", "/").rsplit("/", 1)[-1],
        "weights_sha256": spec.weights.sha256,
        "training": record.ann.training if record.ann else None,
        "timesteps": spec.timesteps,
        "prelude": static.prelude if static else None,
        "streaming_prelude": static.streaming_prelude if static else None,
        "seed": spec.seed,
        "precision": spec.precision,
        "ann_accuracy": record.ann.accuracy.value if record.ann else None,
        "flags": "; ".join(record.flags),
    }


def _fixed(record: ResultRecord) -> dict[str, Any]:
    static = record.static
    assert static
    return {
        "rule": FIXED,
        "accuracy": static.accuracy.value,
        "accuracy_low": static.accuracy.ci95[0],
        "accuracy_high": static.accuracy.ci95[1],
        "images": static.accuracy.n,
        "latency": static.latency,
        "spikes_per_image": static.spikes_per_image,
        "synops_per_image": static.synops_per_image,
        "macs_per_image": static.macs_per_image,
        **_energies(static.energy),
    }


def _policy(policy: PolicyResult) -> dict[str, Any]:
    promise = policy.guarantee
    return {
        "rule": policy.name,
        "params": _json(policy.params),
        "selection": policy.selection,
        "accuracy": policy.accuracy.value,
        "accuracy_low": policy.accuracy.ci95[0],
        "accuracy_high": policy.accuracy.ci95[1],
        "images": policy.accuracy.n,
        "latency": policy.latency.mean,
        "latency_low": policy.latency.ci95[0],
        "latency_high": policy.latency.ci95[1],
        "latency_median": policy.latency.median,
        "latency_p95": policy.latency.p95,
        "saving_latency": policy.saving.latency,
        "saving_spikes": policy.saving.spikes,
        "saving_synops": policy.saving.synops,
        "equal_fixed_timesteps": policy.equal_fixed.timesteps,
        "equal_fixed_saving_latency": policy.equal_fixed.saving_latency,
        "losers": policy.losers,
        "winners": policy.winners,
        "mcnemar_p": policy.mcnemar_p,
        "drop_upper95": policy.drop_upper95,
        "gap_closed": policy.gap_closed,
        "guarantee_risk": promise.risk if promise else None,
        "guarantee_epsilon": promise.epsilon if promise else None,
        "guarantee_delta": promise.delta if promise else None,
        "spikes_per_image": policy.spikes_per_image,
        "synops_per_image": policy.synops_per_image,
        "macs_per_image": policy.macs_per_image,
        **_energies(policy.energy),
    }


def _energies(presets: dict[str, float]) -> dict[str, float]:
    return {f"energy_{name.replace('-', '_')}_pj": value for name, value in presets.items()}


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _frame(tables: Sequence[Table]) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame(rows(tables))
    # Whole numbers stay whole, and texts texts, where some or all are missing.
    kinds = dict.fromkeys(WHOLE, "Int64") | dict.fromkeys(TEXTS, "string")
    return frame.astype({name: kind for name, kind in kinds.items() if name in frame})


def _csv(tables: Sequence[Table], _: Sequence[Source]) -> bytes:
    text: str = _frame(tables).to_csv(index=False)
    return text.encode()


def _document(tables: Sequence[Table], _: Sequence[Source]) -> bytes:
    return (json.dumps(rows(tables), indent=1, ensure_ascii=False) + "\n").encode()


def _parquet(tables: Sequence[Table], _: Sequence[Source]) -> bytes:
    return _frame(tables).to_parquet(index=False)


def _latex(tables: Sequence[Table], papers: Sequence[Source]) -> bytes:
    from tabulate import tabulate

    known = keys(papers)
    parts = ["% Made by `python -m benchmark leaderboard --export`; needs booktabs."]
    for table in tables:
        labels = table.labels()
        found = [_latex_cells(labels[row["record"]], row) for row in rows([table]) if row["status"] == "ok"]
        text = tabulate(found, LATEX, tablefmt="latex_booktabs", disable_numparse=True, colalign=["left"] * 2)
        cites = ", ".join(sorted(known[source] for source in sources_in(table.records)))
        parts.append(f"% {table.title}, {table.protocol}\n% cites: {cites or 'none'}\n{text}")
    return ("\n\n".join(parts) + "\n").encode()


def _latex_cells(method: str, row: dict[str, Any]) -> list[str]:
    is_fixed = row["rule"] == FIXED
    low, high = (numerals.percent(row[f"accuracy_{end}"]) for end in ("low", "high"))
    energy = next((value for name, value in row.items() if name.startswith("energy_int8")), None)
    per_step = not is_fixed and json.loads(row["params"]).get("per_step")
    rule = (
        f"T = {row['timesteps']}" if is_fixed else f"{row['rule']} ({row['selection']}{', per step' * bool(per_step)})"
    )
    return [
        method,
        rule,
        numerals.percent(row["ann_accuracy"]),
        f"{numerals.percent(row['accuracy'])} [{low}, {high}]",
        numerals.timesteps(row["latency"]) if is_fixed else numerals.rounded(row["latency"]),
        "--" if is_fixed else f"{numerals.percent(row['saving_latency'], 1)}%",
        numerals.count(row["spikes_per_image"]),
        numerals.energy(energy) if energy is not None else "--",
    ]


def _bibliography(_: Sequence[Table], papers: Sequence[Source]) -> bytes:
    parts = ["% Made by `python -m benchmark leaderboard --export`: methods, stopping rules and published figures."]
    parts += [bibtex(papers)] if papers else []
    return ("\n\n".join([*parts, project_entry()]) + "\n").encode()


_FORMATS = {".csv": _csv, ".json": _document, ".parquet": _parquet, ".tex": _latex, ".bib": _bibliography}
