"""Spiking networks that are trained directly, with a surrogate for the gradient of the spike; nothing is converted.

tdBN: Zheng et al., AAAI 2021, arXiv:2011.05280. TET loss: Deng et al., ICLR 2022, arXiv:2202.11946.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from methods.base import ConversionMethod
from methods.errors import ConversionError
from methods.neurons import SpikingNeuron, ThresholdNeuron
from methods.tracing import BATCH_NORMS, QuantisedActivation, Untraced, is_addition, module_of

RESETS = ("hard", "soft")
NORMS = ("tdbn", "bn")


class _TriangularSpike(torch.autograd.Function):
    """[m >= threshold] forward; backward the triangle max(0, 1 - |m - threshold|/threshold)/threshold."""

    @staticmethod
    def forward(ctx: Any, membrane: Tensor, threshold: float) -> Tensor:
        ctx.save_for_backward(membrane)
        ctx.threshold = threshold
        return (membrane >= threshold).to(membrane.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (grad,) = grad_outputs
        (membrane,) = ctx.saved_tensors
        distance = (membrane - ctx.threshold).abs() / ctx.threshold
        return grad * (1 - distance).clamp_min(0) / ctx.threshold, None


class LIFActivation(QuantisedActivation):
    """All timesteps of a layer of leaky integrate-and-fire neurons at once, with gradients through time.

    m(t) = decay * v(t-1) + I(t);  s(t) = [m(t) >= threshold];  v(t) = m(t) (1 - s(t)), or m(t) - threshold * s(t).

    Shapes: currents [T * B, ...], time first, to spikes of the same shape.
    """

    def __init__(self, timesteps: int, threshold: float, decay: float, reset: str):
        super().__init__()
        self.timesteps, self.threshold, self.decay, self.reset = timesteps, threshold, decay, reset

    def forward(self, currents: Tensor) -> Tensor:
        """Spikes 0/1."""
        membrane = torch.zeros_like(currents[: len(currents) // self.timesteps])
        emitted = []
        for current in currents.chunk(self.timesteps):
            membrane = self.decay * membrane + current
            spikes: Tensor = _TriangularSpike.apply(membrane, self.threshold)
            membrane = membrane * (1 - spikes) if self.reset == "hard" else membrane - self.threshold * spikes
            emitted.append(spikes)
        return torch.cat(emitted)

    def extra_repr(self) -> str:
        return f"timesteps={self.timesteps}, threshold={self.threshold:g}, decay={self.decay:g}, reset={self.reset}"


class LIFNeuron(ThresholdNeuron):
    """The same neurons one timestep at a time; spikes are worth 1, whatever the threshold."""

    def __init__(self, threshold: float, decay: float, reset: str):
        super().__init__(threshold, initial=0.0)
        self.decay = decay
        self.hard = reset == "hard"

    @property
    def amplitude(self) -> float:
        return 1.0

    def fire(self, current: Tensor) -> Tensor:
        if self.membrane is not None:
            self.membrane.mul_(self.decay)
        membrane, threshold = self.charge(current), self.level(current)
        spikes = torch.ge(membrane, threshold, out=torch.empty_like(membrane))
        if self.hard:
            membrane.mul_(1 - spikes)
        else:
            membrane.sub_(spikes * threshold)
        return spikes


class RepeatOverTime(Untraced):
    """[B, ...] to [T * B, ...]: the same image at every timestep, time first."""

    def __init__(self, timesteps: int):
        super().__init__()
        self.timesteps = timesteps

    def forward(self, images: Tensor) -> Tensor:
        """All timesteps as one batch; batch norms behind it take their statistics over time too."""
        return images.repeat(self.timesteps, *[1] * (images.dim() - 1))


class LogitsOverTime(Untraced):
    """[T * B, K] to the logits of every timestep [T, B, K] in training mode, to their mean [B, K] in eval mode."""

    def __init__(self, timesteps: int):
        super().__init__()
        self.timesteps = timesteps

    def forward(self, logits: Tensor) -> Tensor:
        """See the class."""
        steps = logits.reshape(self.timesteps, -1, *logits.shape[1:])
        return steps if self.training else steps.mean(0)


@dataclass(frozen=True)
class Surrogate(ConversionMethod):
    """LIF neurons unrolled over `steps` timesteps, trained by backpropagation through time, then simulated stepwise.

    Options:
        steps: T of training; the simulation may take fewer or more.
        threshold: of the neurons.
        decay: of the membrane; 1 is integrate-and-fire.
        reset: `hard` (to zero) or `soft` (by subtraction).
        norm: `tdbn` starts batch norms at threshold, and at threshold/sqrt(2) where two branches are added; `bn` leaves
            them at 1. Statistics are over time as well in both.
        tet: weight of TET's regulariser, which draws all logits towards 1. The rest is the mean cross entropy of the
            timesteps.
    """

    name: ClassVar[str] = "surrogate"

    steps: int = 4
    threshold: float = 1.0
    decay: float = 0.5
    reset: str = "hard"
    norm: str = "tdbn"
    tet: float = 0.001

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if not self.threshold > 0:
            raise ValueError(f"threshold must be positive, got {self.threshold:g}")
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay must be above 0 and at most 1, got {self.decay:g}")
        if not 0 <= self.tet < 1:
            raise ValueError(f"tet must be at least 0 and below 1, got {self.tet:g}")
        for option, known in (("reset", RESETS), ("norm", NORMS)):
            if getattr(self, option) not in known:
                raise ValueError(f"{option} must be one of {', '.join(known)}, not {getattr(self, option)!r}")

    def activation(self) -> QuantisedActivation:
        return LIFActivation(self.steps, self.threshold, self.decay, self.reset)

    def neuron(self, activation: QuantisedActivation) -> SpikingNeuron:
        if not isinstance(activation, LIFActivation):
            raise ConversionError(f"surrogate simulates LIF activations, not {type(activation).__name__}.")
        return LIFNeuron(activation.threshold, activation.decay, activation.reset)

    def finish_preparation(self, graph: fx.GraphModule) -> None:
        image = next(node for node in graph.graph.nodes if node.op == "placeholder")
        output = next(node for node in graph.graph.nodes if node.op == "output")
        graph.add_submodule("over_time", RepeatOverTime(self.steps))
        graph.add_submodule("steps", LogitsOverTime(self.steps))
        with graph.graph.inserting_after(image):
            repeated = graph.graph.call_module("over_time", (image,))
        image.replace_all_uses_with(repeated, delete_user_cb=lambda user: user is not repeated)
        with graph.graph.inserting_before(output):
            logits = graph.graph.call_module("steps", (output.all_input_nodes[0],))
        output.args = (logits,)
        graph.graph.lint()
        graph.recompile()
        if self.norm == "tdbn":
            self._start_norms(graph)

    def _start_norms(self, graph: fx.GraphModule) -> None:
        for node in graph.graph.nodes:
            norm = module_of(graph, node)
            if isinstance(norm, BATCH_NORMS) and norm.weight is not None:
                added = any(is_addition(user) for user in node.users)
                nn.init.constant_(norm.weight, self.threshold * (math.sqrt(0.5) if added else 1.0))

    def begin_conversion(self, graph: fx.GraphModule) -> None:
        for node in list(graph.graph.nodes):
            if isinstance(module_of(graph, node), (RepeatOverTime, LogitsOverTime)):
                node.replace_all_uses_with(node.all_input_nodes[0])
                graph.graph.erase_node(node)
        graph.graph.lint()
        graph.recompile()

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """TET: cross entropy of every timestep's logits [T, B, K], and their squared distance from 1."""
        steps, _, classes = outputs.shape
        wanted = labels.repeat(steps, *[1] * (labels.dim() - 1))
        right = F.cross_entropy(outputs.reshape(-1, classes), wanted)
        return (1 - self.tet) * right + self.tet * (outputs - 1).square().mean()
