"""Real networks of SpikingJelly and snnTorch, and a pair of functions: recorded, compacted, stopped early.

Weights and images are multiples of powers of two wherever equality across batch sizes is claimed, so that nothing rounds.
"""

from __future__ import annotations

import copy
import sys

import pytest
import snntorch
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from dynconf import DynamicConfidence, DynamicInference, adapters, record

T = 8
POLICY = DynamicConfidence(scale=4.0, threshold=0.6)


def on_a_grid(network, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randint(-8, 9, parameter.shape, generator=generator) / 16)
    return network


def images(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 17, (count, 1, 6, 6), generator=generator) / 16


def labels(count):
    return torch.arange(count) % 5


def jelly(make=None, step_mode="s"):
    make = make or (lambda: neuron.IFNode(v_reset=None))
    network = nn.Sequential(
        layer.Conv2d(1, 4, 3), make(), layer.Flatten(), layer.Linear(64, 16), make(), layer.Linear(16, 5)
    )
    functional.set_step_mode(network, step_mode)
    return on_a_grid(network)


def torch_net(make=None, **options):
    make = make or (lambda **more: snntorch.Leaky(beta=0.5, threshold=0.5, init_hidden=True, **more))
    network = nn.Sequential(nn.Conv2d(1, 4, 3), make(), nn.Flatten(), nn.Linear(64, 16), make(), nn.Linear(16, 5))
    if options.get("ends_in_spikes"):
        network.append(make(output=True))
    return on_a_grid(network)


def pair(compacts=False):
    """Integrate-and-fire on linear maps, its state in a dictionary."""
    generator = torch.Generator().manual_seed(3)
    first = torch.randint(-8, 9, (36, 16), generator=generator) / 16
    second = torch.randint(-8, 9, (16, 5), generator=generator) / 16
    state = {}

    def step(x):
        state["v"] = state.get("v", 0) + x.flatten(1) @ first
        spikes = (state["v"] >= 1).float()
        state["v"] = state["v"] - spikes
        return spikes @ second

    def keep(mask):
        state["v"] = state["v"][mask]

    return adapters.stepwise(step, state.clear, keep if compacts else None)


NETWORKS = {
    "spikingjelly, soft reset": lambda: adapters.spikingjelly(jelly()),
    "spikingjelly, leaky": lambda: adapters.spikingjelly(jelly(lambda: neuron.LIFNode(tau=2.0, v_threshold=0.5))),
    "spikingjelly, multi-step": lambda: adapters.spikingjelly(jelly(step_mode="m"), multi_step=True),
    "snntorch, leaky": lambda: adapters.snntorch(torch_net()),
    "snntorch, two states": lambda: adapters.snntorch(
        torch_net(lambda: snntorch.Synaptic(alpha=0.5, beta=0.5, threshold=0.5, init_hidden=True))
    ),
    "snntorch, spikes and membrane": lambda: adapters.snntorch(torch_net(ends_in_spikes=True), output=1),
    "a pair": pair,
    "a pair that compacts": lambda: pair(compacts=True),
}
any_network = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS.keys())


def run(network, batch, steps=T):
    network.begin(batch)
    return zip(*[(network.step().clone(), network.spikes.clone()) for _ in range(steps)], strict=True)


@pytest.mark.parametrize("make", [lambda: neuron.IFNode(v_reset=None), neuron.IFNode, lambda: neuron.LIFNode(tau=3.0)])
@pytest.mark.parametrize("step_mode", ["s", "m"])
def test_recording_equals_a_loop_of_spikingjelly(make, step_mode):
    torch.manual_seed(0)
    network = nn.Sequential(layer.Conv2d(1, 4, 3), layer.BatchNorm2d(4), make(), layer.Flatten(), layer.Linear(64, 5))
    functional.set_step_mode(network, step_mode)
    batch = 4 * torch.rand(9, 1, 6, 6)
    recording = record(adapters.spikingjelly(network, multi_step=step_mode == "m"), [(batch, labels(9))], timesteps=T)
    functional.set_step_mode(network, "s")
    functional.reset_net(network)
    network.eval()
    total = torch.zeros(9, 5, dtype=torch.float64)
    spikes = []
    with torch.no_grad():
        for t in range(T):
            current = network[2](network[1](network[0](batch)))
            spikes.append((current != 0).flatten(1).sum(1))
            total += network[4](network[3](current)).double()
            assert torch.equal(recording.evidence.logits[:, t], total.float())
    assert torch.equal(recording.spikes, torch.stack(spikes, 1))
    assert recording.spikes.sum() > 0
    assert recording.synops.sum() == 0 and recording.info.counts_spikes and not recording.info.counts_synops


def test_recording_equals_a_loop_of_snntorch():
    torch.manual_seed(0)
    network = torch_net()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    batch = torch.rand(9, 1, 6, 6)
    recording = record(adapters.snntorch(network), [(batch, labels(9))], timesteps=T)
    first, second = (snntorch.Leaky(beta=0.5, threshold=0.5) for _ in range(2))
    v1, v2 = first.reset_mem(), second.reset_mem()
    total = torch.zeros(9, 5, dtype=torch.float64)
    with torch.no_grad():
        for t in range(T):
            s1, v1 = first(network[0](batch), v1)
            s2, v2 = second(network[3](s1.flatten(1)), v2)
            total += network[5](s2).double()
            assert torch.equal(recording.evidence.logits[:, t], total.float())
            assert torch.equal(recording.spikes[:, t], (s1.flatten(1).sum(1) + s2.sum(1)).long())


@any_network
def test_state_is_reset_between_batches(make):
    network = make()
    first_logits, first_spikes = run(network, images(12))
    run(network, images(5, seed=2), steps=3)
    again_logits, again_spikes = run(network, images(12))
    assert all(map(torch.equal, first_logits, again_logits))
    assert all(map(torch.equal, first_spikes, again_spikes))
    assert torch.stack(first_logits).std(0).max() > 0, "nothing happens over time"


@any_network
def test_kept_images_go_on_as_if_alone(make):
    batch = images(12)
    network = make()
    whole, spikes = run(make(), batch)
    kept = torch.arange(12)
    network.begin(batch)
    for t in range(T):
        assert torch.equal(network.step(), whole[t][kept])
        if t in (0, 2, 3):
            mask = torch.arange(len(kept)) % 3 != t % 3
            network.keep(mask)
            kept = kept[mask]
        assert torch.equal(network.spikes, spikes[t][kept])
    assert len(kept) < 6
    alone, _ = run(make(), batch[kept])
    assert all(torch.equal(logits[kept], own) for logits, own in zip(whole, alone, strict=True))


@any_network
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_online_exits_equal_the_replay_image_by_image(make, batch_size):
    shown, right = images(70), labels(70)
    recording = record(make(), [(shown, right)], timesteps=T, split="calibration")
    exits = POLICY.exit_steps(recording)
    assert len(exits.unique()) > 2, "all images leave at once"
    online = DynamicInference(make(), POLICY, T)
    for start in range(0, 70, batch_size):
        part = slice(start, start + batch_size)
        answers = online(shown[part])
        assert torch.equal(answers.timesteps, exits[part])
        rows = torch.arange(70)[part]
        assert torch.equal(answers.prediction, recording.predictions[rows, exits[part] - 1])
        assert torch.equal(answers.spikes, recording.spikes.cumsum(1)[rows, exits[part] - 1])


def test_state_really_shrinks():
    network = jelly()
    adapted = adapters.spikingjelly(network)
    adapted.begin(images(12))
    adapted.step()
    adapted.keep(torch.arange(12) < 5)
    assert [len(module.v) for module in network if isinstance(module, neuron.IFNode)] == [5, 5]
    other = torch_net()
    adapted = adapters.snntorch(other)
    adapted.begin(images(12))
    adapted.step()
    adapted.keep(torch.arange(12) < 5)
    assert [len(module.mem) for module in other if isinstance(module, snntorch.Leaky)] == [5, 5]


def test_a_queue_of_states_is_cut_too():
    network = nn.Sequential(layer.Delay(2), jelly())
    whole, _ = run(adapters.spikingjelly(copy.deepcopy(network)), images(6))
    adapted = adapters.spikingjelly(network)
    adapted.begin(images(6))
    adapted.step()
    adapted.step()
    adapted.keep(torch.arange(6) % 2 == 0)
    for t in range(2, T):
        assert torch.equal(adapted.step(), whole[t][::2])


def test_state_without_a_row_per_image_is_refused():
    class Mean(neuron.IFNode):
        def __init__(self):
            super().__init__()
            self.register_memory("level", 0.0)

        def single_step_forward(self, x):
            self.level = self.level + x.mean(0)
            return (x > self.level).float()

    adapted = adapters.spikingjelly(nn.Sequential(nn.Flatten(), nn.Linear(36, 16), Mean(), nn.Linear(16, 5)))
    adapted.begin(images(6))
    adapted.step()
    with pytest.raises(RuntimeError, match=r"state 'level' of Mean is \[16\] for 6 images"):
        adapted.keep(torch.arange(6) < 3)


def test_hooks_stay_only_for_the_timestep_and_count_negative_spikes():
    network = jelly(neuron.TernaryIFNode)
    adapted = adapters.spikingjelly(network)
    recorded = []
    handle = network[1].register_forward_hook(lambda module, inputs, output: recorded.append(output))
    other = network[4].register_forward_hook(lambda module, inputs, output: recorded.append(output))
    adapted.begin(images(4))
    adapted.step()
    adapted.step()
    handle.remove()
    other.remove()
    assert any(bool((spikes < 0).any()) for spikes in recorded)
    assert torch.equal(adapted.spikes, sum((spikes != 0).flatten(1).sum(1) for spikes in recorded[2:]))
    assert not any(module._forward_hooks for module in network.modules())
    broken = nn.Sequential(neuron.IFNode(), nn.Flatten(), nn.Linear(2, 5))
    adapted = adapters.spikingjelly(broken)
    adapted.begin(images(4))
    with pytest.raises(RuntimeError, match="shapes"):
        adapted.step()
    assert not any(module._forward_hooks for module in broken.modules())


def test_multi_step_containers_around_single_step_layers():
    plain = jelly()
    wrapped = nn.Sequential(
        layer.SeqToANNContainer(plain[0]),
        layer.MultiStepContainer(plain[1]),
        layer.SeqToANNContainer(plain[2], plain[3]),
        layer.MultiStepContainer(plain[4]),
        layer.SeqToANNContainer(plain[5]),
    )
    expected = run(adapters.spikingjelly(jelly()), images(6))
    found = run(adapters.spikingjelly(wrapped, multi_step=True), images(6))
    for ours, theirs in zip(found, expected, strict=True):
        assert all(map(torch.equal, ours, theirs))
    with pytest.raises(ValueError, match="pass multi_step=True"):
        adapters.spikingjelly(wrapped)


def test_frames_of_an_event_camera():
    frames = torch.stack([images(6, seed=t) for t in range(T)], dim=1)
    shown = []

    def encode(clips, t):
        shown.append(t)
        return clips[:, t - 1]

    whole, _ = run(adapters.spikingjelly(jelly(), encode=encode), frames)
    assert shown == list(range(1, T + 1))
    by_hand = jelly().eval()
    with torch.no_grad():
        for t in range(T):
            assert torch.equal(whole[t], by_hand(frames[:, t]))
    network = adapters.snntorch(torch_net(), encode=encode)
    _, _ = run(network, frames)


def test_user_batch_norm_is_not_moved():
    network = nn.Sequential(
        layer.Conv2d(1, 2, 3), layer.BatchNorm2d(2), neuron.IFNode(), nn.Flatten(), nn.Linear(32, 5)
    )
    before = network[1].running_mean.clone()
    run(adapters.spikingjelly(network.train()), images(4))
    assert torch.equal(network[1].running_mean, before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: adapters.spikingjelly(nn.Linear(2, 2)), "Linear has no spiking layer"),
        (lambda: adapters.snntorch(nn.Linear(2, 2)), "Linear has no spiking layer"),
        (lambda: adapters.spikingjelly(jelly(step_mode="m")), "pass multi_step=True"),
        (lambda: adapters.spikingjelly(jelly(), multi_step=True), "leave multi_step out"),
        (
            lambda: adapters.spikingjelly(nn.Sequential(neuron.PSN(T=4)), multi_step=True),
            "PSN sees all timesteps at once",
        ),
        (
            lambda: adapters.snntorch(nn.Sequential(nn.Flatten(), snntorch.Leaky(beta=0.5))),
            "1 needs init_hidden=True; see dynconf.adapters.stepwise",
        ),
    ],
)
def test_networks_that_cannot_be_stepped_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_wrong_outputs_and_wrong_order():
    with pytest.raises(RuntimeError, match="call begin"):
        pair().step()
    spatial = adapters.spikingjelly(nn.Sequential(layer.Conv2d(1, 4, 3), neuron.IFNode()))
    spatial.begin(images(3))
    with pytest.raises(ValueError, match=r"logits \[3, classes\], got \[3, 4, 4, 4\]"):
        spatial.step()
    tuples = adapters.stepwise(lambda x: (x, x), lambda: None, lambda mask: None)
    tuples.begin(images(3))
    with pytest.raises(ValueError, match="got tuple"):
        tuples.step()


@pytest.mark.parametrize(
    ("module", "adapt", "pip"),
    [
        ("spikingjelly.activation_based", adapters.spikingjelly, "pip install spikingjelly"),
        ("snntorch", adapters.snntorch, "pip install snntorch"),
    ],
)
def test_missing_package_says_what_to_install(monkeypatch, module, adapt, pip):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=pip):
        adapt(nn.Identity())
