"""Promises that every conversion method and policy must keep, checked on tiny networks in float64.

Plug-in authors run them with `python -m benchmark selftest --plugin FILE`; the test-suite runs them on all of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmark import registry
from benchmark.evaluation import make_policy
from benchmark.spec import PolicySpec
from benchmark.training.thresholds import initialise_thresholds
from dynconf.online import DynamicInference
from dynconf.policies import FitError, Policy
from dynconf.recorder import record
from dynconf.recording import Recording
from methods.base import ConversionMethod
from methods.network import SpikingNetwork
from methods.neurons import SpikingNeuron

TIMESTEPS = 6
CLASSES = 5
ACTIVATIONS = {"plain": 3, "residual": 3, "pooled": 5}
IMAGE = (3, 8, 8)


@dataclass(frozen=True)
class Finding:
    """One promise, kept or broken."""

    subject: str
    promise: str
    passed: bool
    detail: str = ""


class _Plain(nn.Module):
    """Two convolutions with batch norm, average pooling, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8 * 16, 16),
            nn.ReLU(),
            nn.Linear(16, CLASSES),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images)  # type: ignore[no-any-return]


class _Residual(nn.Module):
    """A residual block with an identity shortcut and one with a strided projection; one ReLU is a function."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.first, self.second = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.projection = nn.Conv2d(6, 8, 1, stride=2)
        self.relu = nn.ReLU()
        self.head = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(images)))
        x = self.relu(self.first(x) + x)
        x = self.relu(self.second(x) + self.projection(x))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class _Pooled(nn.Module):
    """What ImageNet's networks have: a max-pool behind the stem and a concatenation, a clipped ReLU, ReLUs in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.squeeze = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 1)
        self.left, self.right = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 6, 3, padding=1)
        self.relu, self.clipped = nn.ReLU(inplace=True), nn.ReLU6(inplace=True)
        self.pool, self.overlapping = nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1)
        self.last, self.head = nn.Conv2d(10, 8, 3, padding=1), nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.squeeze(self.pool(self.relu(self.stem(images)))))
        x = self.overlapping(torch.cat([self.relu(self.left(x)), self.clipped(self.right(x))], 1))
        return self.head(self.relu(self.last(x)).mean((2, 3)))  # type: ignore[no-any-return]


TINY: dict[str, Callable[[], nn.Module]] = {"plain": _Plain, "residual": _Residual, "pooled": _Pooled}


def tiny_network(name: str, seed: int = 0) -> nn.Module:
    """A tiny ReLU network with random weights and batch norm statistics, float64, eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = TINY[name]().double().eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.2)
    return network


def quantised_network(method: ConversionMethod, name: str, seed: int = 0) -> nn.Module:
    """A tiny network prepared for a method, with thresholds near the activations' range, float64, eval mode."""
    quantised = method.prepare(tiny_network(name, seed)).double().eval()
    initialise_thresholds(quantised, random_images(16, seed=6), quantile=0.95)
    return quantised


def random_images(count: int, seed: int = 1) -> Tensor:
    """float64 [count, 3, 8, 8]."""
    return torch.randn(count, *IMAGE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def simulate(network: SpikingNetwork, images: Tensor, timesteps: int = TIMESTEPS) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [T, B, K], spikes [T, B] and SynOps [T, B] of every timestep."""
    network.begin(images)
    steps = [(network.step(), network.spikes, network.synops) for _ in range(timesteps)]
    logits, spikes, synops = zip(*steps, strict=True)
    return torch.stack(logits), torch.stack(spikes), torch.stack(synops)


def check_all() -> list[Finding]:
    """Every promise for every registered method and policy."""
    findings = []
    for name in registry.names("methods"):
        for tiny in TINY:
            findings += _guarded(f"method {name} / {tiny}", check_method(name, tiny))
    for policy in registry.names("policies"):
        for name in registry.names("methods"):
            findings += _guarded(f"policy {policy} / {name}", check_policy(policy, name))
    return findings


def _guarded(subject: str, checks: Iterator[tuple[str, bool]]) -> list[Finding]:
    findings = []
    try:
        for promise, passed in checks:
            findings.append(Finding(subject, promise, bool(passed)))
    except Exception as error:  # a plug-in may raise anything; it is reported, and fails
        findings.append(Finding(subject, "runs without an error", False, f"{type(error).__name__}: {error}"))
    return findings


def check_method(name: str, tiny: str) -> Iterator[tuple[str, bool]]:
    """The promises of a conversion method, as (promise, kept)."""
    method: ConversionMethod = registry.load("methods", name)()
    quantised = quantised_network(method, tiny)
    before = {key: value.clone() for key, value in quantised.state_dict().items()}
    images = random_images(7)
    network = method.convert(quantised, calibration_images(method))
    yield (
        "the input network is left unchanged",
        all(torch.equal(value, before[key]) for key, value in quantised.state_dict().items()),
    )
    replaced = set(network.report.spiking_layers)
    yield (
        "every activation became a spiking layer",
        len(replaced) == ACTIVATIONS[tiny] and replaced <= {site.name for site in network.sites},
    )
    yield (
        "latency has a prelude of at least zero timesteps",
        0 <= network.prelude_steps <= network.streaming_prelude_steps,
    )
    logits, spikes, synops = simulate(network, images)
    again = simulate(network, images)
    yield "the same images give the same result again", all(map(torch.equal, (logits, spikes, synops), again))
    yield "the network spikes", bool(spikes.sum() > 0)
    yield "neurons emit unit spikes, negative ones only where declared", _emits_what_it_declares(network, images)
    yield "a prelude is counted", _prelude_is_counted(network, images)
    yield "SynOps stay within all synapses", bool((synops <= sum(site.synapses for site in network.sites)).all())
    alone = [simulate(network, images[index : index + 1]) for index in range(len(images))]
    yield "an image's spikes do not depend on its batch", torch.equal(torch.cat([part[1] for part in alone], 1), spikes)
    yield (
        "an image's logits do not depend on its batch",
        torch.allclose(torch.cat([part[0] for part in alone], 1), logits, rtol=1e-12, atol=1e-12),
    )
    yield "keep(mask) equals the kept images alone", _keep_is_exact(network, images)


def calibration_images(method: ConversionMethod) -> Tensor:
    """Random images, as many as the method asks for, up to 16."""
    return random_images(min(16, max(1, method.calibration_images)), seed=5)


def _emits_what_it_declares(network: SpikingNetwork, images: Tensor) -> bool:
    """Every spiking layer gives 0 and 1, or -1, 0 and 1 if it says `signed`, at every timestep."""
    wrong: list[str] = []

    def watch(name: str, neuron: SpikingNeuron) -> Callable[[nn.Module, object, Tensor], None]:
        allowed = torch.tensor([-1.0, 0.0, 1.0] if neuron.kind == "signed" else [0.0, 1.0], dtype=torch.float64)

        def check(module: nn.Module, inputs: object, spikes: Tensor) -> None:
            if not bool(torch.isin(spikes.double(), allowed).all()):
                wrong.append(name)

        return check

    handles = [neuron.register_forward_hook(watch(name, neuron)) for name, neuron in network.neurons.items()]
    simulate(network, images)
    for handle in handles:
        handle.remove()
    return not wrong


def _prelude_is_counted(network: SpikingNetwork, images: Tensor) -> bool:
    """After `begin` there are spikes and SynOps if and only if there is a prelude."""
    network.begin(images)
    some = bool(network.spikes.sum() > 0) and bool(network.synops.sum() > 0)
    none = not bool(network.spikes.any()) and not bool(network.synops.any())
    return some if network.prelude_steps else none


def _keep_is_exact(network: SpikingNetwork, images: Tensor) -> bool:
    mask = torch.tensor([True, False, True, True, False, False, True])
    network.begin(images)
    first = network.step()[mask]
    network.keep(mask)
    kept = [first, *(network.step() for _ in range(TIMESTEPS - 1))]
    spikes = network.spikes
    alone, alone_spikes, _ = simulate(network, images[mask])
    return torch.allclose(torch.stack(kept), alone, rtol=1e-12, atol=1e-12) and torch.equal(spikes, alone_spikes[-1])


def check_policy(name: str, method_name: str = "qcfs") -> Iterator[tuple[str, bool]]:
    """The promises of a policy on recordings of a method, as (promise, kept)."""
    method: ConversionMethod = registry.load("methods", method_name)()
    network = method.convert(quantised_network(method, "plain"), calibration_images(method))
    recordings = {split: _recording(network, split) for split in ("calibration", "test")}
    policy = make_policy(PolicySpec(name=name))
    yield "it refuses to be fitted on test images", _refuses(policy, recordings["test"])
    fitted = policy.fit(recordings["calibration"])
    yield "fitting twice gives the same parameters", fitted.params() == policy.fit(recordings["calibration"]).params()
    exits = fitted.exit_steps(recordings["test"])
    yield "every image leaves between 1 and T", bool(((exits >= 1) & (exits <= TIMESTEPS)).all())
    yield "its parameters are JSON", _is_json(fitted.params())
    for batch_size in (1, 40):
        answers = [
            DynamicInference(network, fitted, TIMESTEPS)(batch) for batch in random_images(40, 3).split(batch_size)
        ]
        online = torch.cat([answer.timesteps for answer in answers])
        yield f"the running network stops like the replay, batch {batch_size}", torch.equal(online, exits)


def _recording(network: SpikingNetwork, split: str) -> Recording:
    images = random_images(40, seed=2 if split == "calibration" else 3)
    labels = torch.randint(0, CLASSES, (40,), generator=torch.Generator().manual_seed(4))
    return record(network, [(images, labels)], timesteps=TIMESTEPS, split=split)


def _refuses(policy: Policy, test: Recording) -> bool:
    try:
        policy.fit(test)
    except FitError:
        return True
    return False


def _is_json(value: Any) -> bool:
    import json

    return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
