"""A small network that says how likely the present answer is the final one, from what an image has shown so far."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dynconf.evidence import Evidence, LogitEvidence, StatisticEvidence
from dynconf.leads import WINDOWS, Leads
from dynconf.policy import FitError

HIDDEN = 16
# Of the squared weights, against the log-likelihood of all timesteps of an image: images are independent, timesteps are not.
PENALTY = 0.1
# More rows than this teach nothing more; images are then taken at regular distances.
ROWS = 200_000
ITERATIONS = 150
# Features are standardised and cut here, so that an image unlike any of the calibration images is not extrapolated far.
CUT = 6.0


class Trace:
    """Follows a batch of images and says what the network below is to look at."""

    def __init__(self, scale: float):
        self._scale = scale
        self._leads = Leads()
        self._answer: Tensor | None = None
        self._streak: Tensor | None = None
        self._changes: Tensor | None = None

    def advance(self, evidence: Evidence, timestep: int) -> Tensor:
        """The features after one more timestep, float64 [B, F]; `timestep` counts from 1.

        The margin of the sum; its smoothed confidence in log-odds; the logarithms of the timestep and of the number of
        timesteps that the answer has been the same; how often it changed; the leads of `dynconf.leads`. Raises FitError if
        the evidence does not tell them.
        """
        answer = evidence.prediction
        if self._answer is None or self._streak is None or self._changes is None:
            self._streak, self._changes = torch.ones_like(answer), torch.zeros_like(answer)
        else:
            same = answer == self._answer
            self._streak = torch.where(same, self._streak + 1, 1)
            self._changes = self._changes + (~same).long()
        self._answer = answer
        margin = evidence.margin.double()
        # log(p / (1 - p)) of p = exp(log_p), without the cancellation where p is close to 1.
        log_p = (evidence.top[..., 0].double() / self._scale - evidence.log_sum_exp(self._scale)).clamp(-50.0, -1e-12)
        odds = log_p - torch.log(-torch.expm1(log_p))
        steps = torch.full_like(margin, math.log(timestep))
        own = [margin, odds, steps, self._streak.double().log(), self._changes.double()]
        return torch.cat([torch.stack(own, -1), self._leads_of(evidence).double()], -1)

    def _leads_of(self, evidence: Evidence) -> Tensor:
        if isinstance(evidence, LogitEvidence):
            return self._leads.advance(evidence.logits)
        if isinstance(evidence, StatisticEvidence) and "leads" in evidence.statistics:
            return evidence.statistics["leads"]
        raise FitError("agreement needs the logits of all classes or recorded leads, and this recording has neither")

    def keep(self, mask: Tensor) -> None:
        """Go on with the images where `mask` [B] is True."""
        self._leads.keep(mask)
        if self._answer is not None and self._streak is not None and self._changes is not None:
            self._answer, self._streak = self._answer[mask], self._streak[mask]
            self._changes = self._changes[mask]


FEATURES = 5 + len(WINDOWS)


class Finality:
    """P(final) = sigmoid(w2 · tanh(W1 x + b1) + b2) for standardised features x.

    Args:
        numbers: means [F], deviations [F], W1 [HIDDEN, F], b1 [HIDDEN], w2 [HIDDEN], b2, one after the other.
    """

    SIZES = (FEATURES, FEATURES, HIDDEN * FEATURES, HIDDEN, HIDDEN, 1)

    def __init__(self, numbers: tuple[float, ...]):
        if len(numbers) != sum(self.SIZES):
            raise ValueError(f"expected {sum(self.SIZES)} numbers, got {len(numbers)}")
        parts = torch.tensor(numbers, dtype=torch.float64).split(self.SIZES)
        self._mean, self._deviation = parts[0], parts[1]
        self._layers = list(parts[2:])

    def __call__(self, features: Tensor) -> Tensor:
        """Probabilities in (0, 1), float64 [...], for features [..., F]."""
        self._mean, self._deviation = self._mean.to(features.device), self._deviation.to(features.device)
        self._layers = [part.to(features.device) for part in self._layers]
        standardised = ((features - self._mean) / self._deviation).clamp(-CUT, CUT)
        return torch.sigmoid(_log_odds(self._layers, standardised))


def fit_finality(features: Tensor, final: Tensor) -> tuple[float, ...]:
    """The numbers of a `Finality`, by penalised maximum likelihood: L-BFGS from a fixed random start.

    Minimised is the mean cross-entropy over images and timesteps plus PENALTY / N times the sum of the squared weights.

    Args:
        features: float64 [N, T', F], of T' timesteps.
        final: bool [N, T'], whether the answer is the one after T.
    """
    every = math.ceil(final.numel() / ROWS)
    penalty = PENALTY / len(final[::every])
    rows, target = features[::every].flatten(0, 1), final[::every].flatten().double()
    mean, deviation = rows.mean(0), rows.std(0).clamp_min(1e-6)
    standardised = ((rows - mean) / deviation).clamp(-CUT, CUT)
    generator = torch.Generator().manual_seed(0)
    layers = [
        torch.randn(HIDDEN * FEATURES, generator=generator, dtype=torch.float64) / math.sqrt(FEATURES),
        torch.zeros(HIDDEN, dtype=torch.float64),
        torch.randn(HIDDEN, generator=generator, dtype=torch.float64) / math.sqrt(HIDDEN),
        torch.zeros(1, dtype=torch.float64),
    ]
    for part in layers:
        part.requires_grad_()
    optimiser = torch.optim.LBFGS(layers, max_iter=ITERATIONS, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimiser.zero_grad()
        likelihood = torch.nn.functional.binary_cross_entropy_with_logits(_log_odds(layers, standardised), target)
        value = likelihood + penalty * ((layers[0] ** 2).sum() + (layers[2] ** 2).sum())
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    # Threads would add up in another order, and the model would depend on how many there are.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.enable_grad():
            optimiser.step(loss)  # type: ignore[no-untyped-call]
    finally:
        torch.set_num_threads(threads)
    return tuple(torch.cat([mean, deviation, *layers]).detach().tolist())


def _log_odds(layers: list[Tensor], standardised: Tensor) -> Tensor:
    first, shift, second, constant = layers
    hidden = torch.tanh(standardised @ first.reshape(HIDDEN, FEATURES).T + shift)
    return hidden @ second + constant
