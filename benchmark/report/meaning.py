"""What the numbers of the page mean, in few words."""

from __future__ import annotations

from benchmark.report.markup import Markup, element

POINTS = (
    (
        "Latency",
        "is the number of timesteps until an image leaves, averaged over images, and includes every timestep of a prelude that "
        "the method needs before its first answer.",
    ),
    (
        "Thresholds and scales",
        "were chosen on the calibration split, which holds no test image. Curves over all thresholds, oracles, and the "
        "shortest equal fixed T look at test images; they are there to compare with, not to be chosen from.",
    ),
    (
        "Saved vs shortest equal fixed T",
        "compares with the fewest timesteps that, given to every image, are at least as accurate on the same images. It is the "
        "comparison that counts: against all timesteps everything looks good.",
    ),
    (
        "Gap closed",
        "is the share that a rule covers of the way from the shortest fixed T that is as accurate as all timesteps to the "
        "consistency oracle, in mean latency. It is negative where fixed time is faster.",
    ),
    (
        "Lost and won",
        "are the images that only the full run, and only the early exit, gets right. The drop is the upper end of a one-sided "
        "95% interval of their difference (Tango's score interval), and a large McNemar p does not show that nothing is lost.",
    ),
    (
        "Intervals",
        "of accuracies are Wilson intervals over test images. Those of a mean latency are bootstrap intervals in which the "
        "threshold is chosen anew on resampled calibration images, so the mean need not lie in their middle. Neither knows of "
        "another training run.",
    ),
    (
        "Spikes",
        "count with either sign. A SynOp is one spike arriving at one synapse, padding and stride counted exactly. All counts "
        "stop at the exit of an image and include the prelude.",
    ),
    (
        "Energy",
        "is arithmetic only: MACs and SynOps times published costs of one operation in 45 nm, without memory, leakage or any "
        "chip. A conclusion that differs between the presets is none.",
    ),
    (
        "Oracles",
        "stop at the best time by looking at what comes later: any-time-correct at the first right answer, stable-correct "
        "where the answer stays right, consistency where it stays the final one. No rule can know that.",
    ),
)


def meaning() -> Markup:
    """A list of terms."""
    return element("ul", [element("li", element("b", name), " ", words) for name, words in POINTS])
