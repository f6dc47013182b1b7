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
from dynconf.online import DynamicInference
from dynconf.policies import FitError, Policy
from dynconf.recorder import record
from dynconf.recording import Recording
from methods.base import ConversionMethod
from methods.network import SpikingNetwork

TIMESTEPS = 6
CLASSES = 5
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


TINY: dict[str, Callable[[], nn.Module]] = {"plain": _Plain, "residual": _Residual}


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
    for parameter_name, parameter in quantised.named_parameters():
        if parameter_name.endswith("threshold"):
            with torch.no_grad():
                parameter.fill_(1.25)
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
    for name in registry.names("policies"):
        findings += _guarded(f"policy {name}", check_policy(name))
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
    network = method.convert(quantised, images)
    yield (
        "the input network is left unchanged",
        all(torch.equal(value, before[key]) for key, value in quantised.state_dict().items()),
    )
    yield "every activation became a spiking layer", len(network.sites) == len(network.report.spiking_layers) > 0
    logits, spikes, synops = simulate(network, images)
    again = simulate(network, images)
    yield "the same images give the same result again", all(map(torch.equal, (logits, spikes, synops), again))
    yield "the network spikes", bool(spikes.sum() > 0)
    limit = sum(site.neurons for site in network.sites)
    yield "no neuron spikes twice in a timestep", bool((spikes <= limit).all())
    yield "SynOps stay within all synapses", bool((synops <= sum(site.synapses for site in network.sites)).all())
    alone = [simulate(network, images[index : index + 1]) for index in range(len(images))]
    yield "an image's spikes do not depend on its batch", torch.equal(torch.cat([part[1] for part in alone], 1), spikes)
    yield (
        "an image's logits do not depend on its batch",
        torch.allclose(torch.cat([part[0] for part in alone], 1), logits, rtol=1e-12, atol=1e-12),
    )
    yield "keep(mask) equals the kept images alone", _keep_is_exact(network, images)


def _keep_is_exact(network: SpikingNetwork, images: Tensor) -> bool:
    mask = torch.tensor([True, False, True, True, False, False, True])
    network.begin(images)
    first = network.step()[mask]
    network.keep(mask)
    kept = [first, *(network.step() for _ in range(TIMESTEPS - 1))]
    spikes = network.spikes
    alone, alone_spikes, _ = simulate(network, images[mask])
    return torch.allclose(torch.stack(kept), alone, rtol=1e-12, atol=1e-12) and torch.equal(spikes, alone_spikes[-1])


def check_policy(name: str) -> Iterator[tuple[str, bool]]:
    """The promises of a policy, as (promise, kept)."""
    method: ConversionMethod = registry.load("methods", "qcfs")()
    network = method.convert(quantised_network(method, "plain"), random_images(1))
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
