"""All stopping rules in one place. Each has its own file; `dynconf.names` lists them for the command line."""

from dynconf.agreement import Agreement
from dynconf.chance import RandomExit
from dynconf.choosing import pareto_choice
from dynconf.confidence import DynamicConfidence
from dynconf.conformal import Conformal
from dynconf.entropy import Entropy
from dynconf.fixed import FixedTime
from dynconf.margin import Margin
from dynconf.patience import Patience
from dynconf.policy import GIVEN, FitError, Policy, Promise, Watch
from dynconf.scaling import scale_by_ece, scale_by_nll
from dynconf.silence import Silence
from dynconf.threshold import CONFIDENCE_THRESHOLDS, ChosenThreshold, ThresholdPolicy

__all__ = [
    "CONFIDENCE_THRESHOLDS",
    "GIVEN",
    "Agreement",
    "ChosenThreshold",
    "Conformal",
    "DynamicConfidence",
    "Entropy",
    "FitError",
    "FixedTime",
    "Margin",
    "Patience",
    "Policy",
    "Promise",
    "RandomExit",
    "Silence",
    "ThresholdPolicy",
    "Watch",
    "pareto_choice",
    "scale_by_ece",
    "scale_by_nll",
]
