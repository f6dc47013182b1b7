"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # listings show no records and need no pydantic
    from benchmark.records import Against, Estimate, Measured, PolicyResult, ResultRecord, Static


def plain_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of strings, exactly as given."""
    from tabulate import tabulate

    return str(tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True))


def percent(value: float) -> str:
    """A share as a percentage with two decimals."""
    return f"{100 * value:.2f}%"


def with_interval(estimate: Estimate) -> str:
    """Accuracy with its 95% interval."""
    return f"{100 * estimate.value:.2f}% [{100 * estimate.ci95[0]:.2f}, {100 * estimate.ci95[1]:.2f}]"


def count(value: float) -> str:
    """A large number with a unit prefix."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f}"


UNKNOWN = "unknown"

HEADERS = (
    "stopping rule",
    "accuracy [95%]",
    "timesteps [95%]",
    "saved",
    "saved vs equal fixed T",
    "gap closed",
    "lost/won",
    "drop at most",
    "spikes",
    "SynOps",
)


def policy_row(policy: PolicyResult) -> list[str]:
    """One line of the result table."""
    equal = policy.equal_fixed
    against = "-" if equal.saving_latency is None else f"{percent(equal.saving_latency)} (T={equal.timesteps})"
    return [
        policy_name(policy.name, policy.params, policy.selection),
        with_interval(policy.accuracy),
        f"{policy.latency.mean:.2f} [{policy.latency.ci95[0]:.2f}, {policy.latency.ci95[1]:.2f}]",
        percent(policy.saving.latency),
        against,
        "-" if policy.gap_closed is None else f"{100 * policy.gap_closed:.0f}%",
        f"{policy.losers}/{policy.winners}",
        f"{100 * policy.drop_upper95:.2f} pp",
        UNKNOWN if "spikes" in policy.uncounted else count(policy.spikes_per_image),
        UNKNOWN if "synops" in policy.uncounted else count(policy.synops_per_image),
    ]


def against_row(policy: PolicyResult, against: Against) -> list[str]:
    """One line of the table that compares every rule with the same other one."""
    return [
        policy_name(policy.name, policy.params, policy.selection),
        _signed(against.saving_latency, against.saving_latency_ci95, "%"),
        _signed(against.accuracy_difference, against.accuracy_difference_ci95, " pp"),
    ]


def _signed(share: float, interval: tuple[float, float], unit: str) -> str:
    return f"{100 * share:+.2f}{unit} [{100 * interval[0]:+.2f}, {100 * interval[1]:+.2f}]"


def policy_name(name: str, params: Mapping[str, Any], selection: str) -> str:
    """The rule with the parameters in force, those first that a reader asks for first."""
    main = [key for key in ("scale", "threshold") if key in params]
    shown = [
        key if value is True else f"{key} {value:.4g}"
        for key, value in ((key, params[key]) for key in [*main, *(key for key in params if key not in main)])
        if isinstance(value, (int, float)) and value is not False and (key != "tolerance" or value)
    ]
    return f"{name} ({', '.join(shown)}; {selection})"


def record_table(record: ResultRecord) -> str:
    """What a run found, with and without early exit."""
    spec = record.spec
    lines = [f"{spec.method} · {spec.dataset} · {spec.model} · T = {spec.timesteps} · record {record.id}"]
    if record.status != "ok" or record.static is None or record.ann is None or record.oracle is None:
        return "\n".join([*lines, f"{record.status}: {record.reason}"])
    static = record.static
    fixed = [
        f"all {spec.timesteps} timesteps",
        with_interval(static.accuracy),
        f"{static.latency:.0f}",
        "-",
        "-",
        "-",
        "-",
        "-",
        count(static.spikes_per_image),
        count(static.synops_per_image),
    ]
    lines += [plain_table(HEADERS, [fixed, *map(policy_row, record.policies)]), ""]
    lines.append(
        f"ANN {with_interval(record.ann.accuracy)} on {record.ann.accuracy.n} test images; "
        f"consistency oracle {record.oracle.consistency.latency:.2f} timesteps"
    )
    for policy in record.policies:
        lines.append(f"{policy.name}: McNemar p = {policy.mcnemar_p:.3g} against all timesteps")
        lines += what_is_promised(policy)
    lines += map(_on_the_clock, record.clock)
    return "\n".join([*lines, *(f"note: {flag}" for flag in record.flags)])


def what_is_promised(policy: PolicyResult) -> list[str]:
    """The guarantee, if there is one, and whether there were too few calibration images to stop anything early."""
    lines = []
    if policy.guarantee is not None:
        promise = policy.guarantee
        lines.append(
            f"{policy.name}: {promise.risk} at most {100 * promise.epsilon:.4g}% with probability "
            f"{100 * (1 - promise.delta):.4g}% over draws of the calibration images"
        )
    needed, images = policy.params.get("images_needed"), policy.params.get("images")
    if needed is not None:
        lines.append(
            f"{policy.name}: nothing stops early; its choice is on {images} calibration images and takes {needed} or more"
        )
    return lines


MILESTONES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def comparison_tables(records: Sequence[ResultRecord]) -> str:
    """Several methods side by side: accuracy after T timesteps, the same with the prelude counted, and what it costs."""
    longest = max((_static(record).latency for record in records), default=0)
    steps = [step for step in MILESTONES if step <= longest]
    free = [[*_heading(record), *(_accuracy_at(record, step) for step in steps)] for record in records]
    paid = [
        [*_heading(record), *(_accuracy_at(record, step - _static(record).prelude) for step in steps)]
        for record in records
    ]
    # A record from the store has its presets in another order than a fresh one.
    presets = sorted({preset for record in records for preset in _static(record).energy})
    costs = [
        [
            record.spec.method,
            str(record.spec.timesteps),
            count(_static(record).spikes_per_image),
            count(_static(record).synops_per_image),
            count(_static(record).macs_per_image),
            *(f"{_static(record).energy[preset] / 1e6:.2f}" for preset in presets),
            record.id,
        ]
        for record in records
    ]
    names = ["method", "ANN", "prelude", *(str(step) for step in steps)]
    return "\n".join(
        [
            "accuracy in % after that many timesteps, the prelude not counted",
            plain_table(names, free),
            "",
            "accuracy in % at that latency: the prelude is part of it",
            plain_table(names, paid),
            "",
            "one image, all timesteps and the prelude; energy of the arithmetic alone in µJ",
            plain_table(["method", "T", "spikes", "SynOps", "MACs", *presets, "record"], costs),
        ]
    )


def _static(record: ResultRecord) -> Static:
    assert record.static is not None
    return record.static


def _heading(record: ResultRecord) -> list[str]:
    assert record.ann is not None
    static = _static(record)
    streaming = static.streaming_prelude
    prelude = str(static.prelude)
    if streaming is not None and streaming != static.prelude:
        prelude += f" (streaming {streaming})"
    return [record.spec.method, f"{100 * record.ann.accuracy.value:.2f}", prelude]


def _accuracy_at(record: ResultRecord, timestep: int) -> str:
    assert record.curve is not None
    if not 1 <= timestep <= len(record.curve.accuracy):
        return "-"
    return f"{100 * record.curve.accuracy[timestep - 1]:.2f}"


def _on_the_clock(measured: Measured) -> str:
    stream, floor = measured.stream_seconds, measured.floor_seconds
    streamed = "" if stream is None else f" ({stream:.2f} s as a stream)"
    passes = "" if floor is None else f"; as many forward passes {floor:.2f} s"
    return (
        f"on the clock (batch {measured.batch_size}, {measured.images} images, {measured.device}): "
        f"{measured.static_seconds:.2f} s with all timesteps, {measured.dynamic_seconds:.2f} s with early exit{streamed}, "
        f"{measured.speedup:.2f}x (ideal {measured.ideal_speedup:.2f}x){passes}; {measured.differing_images} images differ "
        "from the replay"
    )
