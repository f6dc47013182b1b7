"""Which threshold of a grid to take, given what each of them does on calibration images.

All three ways go from the safest threshold (the last of the grid, which nothing exceeds) downwards and stop before the
first that is not good enough. Taking the fastest threshold of the whole grid that looks good instead would pick one that
is so by luck.
"""

from __future__ import annotations

import math
from functools import cache

import torch

from dynconf.sweep import Sweep


def pareto_choice(sweep: Sweep, tolerance: float) -> int:
    """The fastest point of the accuracy-latency front that is reached before images are lost.

    From the safest threshold (the last, which never stops) downwards, as long as no threshold passed loses more than a
    share of `tolerance` of the images. Taking the fastest threshold of the whole grid without loss of accuracy instead
    would pick one that is accurate by luck: far below the point where losses begin, a few images that flicker to the
    right answer can make up for them on few calibration images.
    """
    # Shares can differ in their last bits; a billionth of an image does not count.
    unsafe = torch.nonzero(sweep.lost > tolerance + 1e-12)
    first_safe = int(unsafe[-1]) + 1 if len(unsafe) else 0
    safe = slice(first_safe, None)
    fastest = sweep.timesteps[safe] <= sweep.timesteps[safe].min() + 1e-12
    accuracy = torch.where(fastest, sweep.accuracy[safe], -torch.inf)
    best = torch.nonzero(accuracy >= accuracy.max() - 1e-12)
    return first_safe + int(best[-1])


def ltt_choice(sweep: Sweep, images: int, epsilon: float, delta: float) -> int:
    """The lowest threshold that a fixed sequence of tests reaches: P(share of lost images <= epsilon) >= 1 - delta.

    Learn then Test (Angelopoulos et al., arXiv:2110.01052) in fixed order, as Ringel et al. (ICML 2024, arXiv:2402.00857)
    do for early exit: at each threshold the exact binomial test of H0 "more than a share `epsilon` of all images is lost
    here", p = P(Bin(images, epsilon) <= losers), until it fails for the first time. The threshold before that one is kept:
    the failing one itself has no guarantee. The risk need not be monotone. The last threshold loses nothing by
    construction and needs no test.
    """
    losers = torch.ceil(sweep.lost * images - 1e-6)  # whole images but for rounding; in a weighted sweep, rounded up
    return _lowest_before_failure(losers <= losers_allowed(images, epsilon, delta))


def crc_choice(sweep: Sweep, images: int, epsilon: float) -> int:
    """The lowest threshold with (images * risk + 1) / (images + 1) <= epsilon.

    Conformal risk control (Angelopoulos et al., ICLR 2024, arXiv:2208.02814) of E[share of lost images], over the draw of
    the calibration images: no statement about the one at hand. It needs a loss that never falls towards faster thresholds,
    which that of early exit is not; so an image counts as lost from the safest threshold on at which it is lost, even where
    it is right again further down. A sweep that does not know `lost_safer` gives the maximum of the mean loss over safer
    thresholds instead, which is a little smaller.
    """
    risk = sweep.lost if sweep.lost_safer is None else sweep.lost_safer
    return _lowest_before_failure((images * risk + 1) / (images + 1) <= epsilon + 1e-12)


@cache
def losers_allowed(images: int, epsilon: float, delta: float) -> int:
    """The largest k with P(Bin(images, epsilon) <= k) <= delta; -1 if there is none."""
    import numpy
    from scipy.special import bdtr

    return int((bdtr(numpy.arange(images + 1), images, epsilon) <= delta).sum()) - 1


@cache
def losers_allowed_among(images: int, epsilon: float, delta: float) -> torch.Tensor:
    """`losers_allowed` of 0, 1, ..., `images` images, int64 [images + 1]; it only rises."""
    from scipy.special import bdtr

    allowed, most = [], -1
    for count in range(images + 1):
        while bdtr(most + 1.0, count, epsilon) <= delta:  # 1 where all of them are lost
            most += 1
        allowed.append(most)
    return torch.tensor(allowed)


def images_for_ltt(epsilon: float, delta: float) -> int:
    """With fewer images no threshold passes, even if not one image is lost: the smallest n with (1 - epsilon)^n <= delta."""
    return math.ceil(math.log(delta) / math.log1p(-epsilon) - 1e-9)


def images_for_crc(epsilon: float) -> int:
    """The smallest n with 1 / (n + 1) <= epsilon."""
    return math.ceil(1 / epsilon - 1 - 1e-9)


def lowest_within(sweep: Sweep, share: float) -> int:
    """The lowest threshold above every one that loses more than this share of the images; for comparisons, no promise."""
    return _lowest_before_failure(sweep.lost <= share + 1e-12)


def _lowest_before_failure(passes: torch.Tensor) -> int:
    """Index of the lowest threshold above every one that fails; the last is taken to pass."""
    failing = torch.nonzero(~passes[:-1])
    return int(failing[-1]) + 1 if len(failing) else 0
