"""How to read the columns, folded away at the top of the page."""

from __future__ import annotations

from leaderboard.site.markup import element

_COLUMNS = (
    (
        "rank",
        "1 + the number of rules of the table that beat this one: more accurate or faster beyond both intervals, and in the "
        "other respect not worse beyond them. Rows that overlap in both share a place.",
    ),
    ("ANN", "accuracy of the network that was converted."),
    (
        "stopping rule",
        "pareto: a threshold without loss on calibration images. ltt promises (Learn then Test) that at most ε of all images "
        "are lost, with probability 1 - δ over calibration images. Fixed T runs every image for all timesteps.",
    ),
    (
        "saved vs equal fixed T",
        "latency saved against the shortest fixed time T that is at least as accurate on the same images.",
    ),
    ("saved vs all T", "latency saved against running every image for all timesteps."),
    (
        "latency",
        "timesteps; where it names a prelude, those before the first answer are part of it. Streaming is the prelude on "
        "hardware where every layer waits for the one before it.",
    ),
    (
        "spikes, SynOps",
        "spikes of either sign count; SynOps are exact with padding and stride; both are means per image.",
    ),
    ("energy", "arithmetic only: 0.23 pJ per MAC, 0.03 pJ per AC."),
    (
        "gap closed",
        "share of the way, in mean latency, from the shortest fixed time as accurate as all timesteps (0%) to the consistency "
        "oracle, which stops at the first timestep from which on the answer stays (100%).",
    ),
    (
        "drop at most",
        "upper 95% bound of the loss of accuracy against all timesteps, in percentage points; below it the images that only "
        "fixed time, and that only the rule, classifies correctly.",
    ),
    (
        "best rule of each record",
        "the fastest rule with a guarantee; without any, Dynamic Confidence, or else fixed time. Which is the fastest was seen "
        "on the test images, so the choice flatters a little.",
    ),
)

READING = element(
    "details",
    element("summary", "How to read the columns"),
    element("dl", [element("div", element("dt", name), element("dd", words)) for name, words in _COLUMNS]),
)
