"""Streams through networks of SpikingJelly and snnTorch and through pairs of functions: rows that begin anew among others.

Weights and images are multiples of powers of two, so that nothing rounds and equality is to the last bit.
"""

from __future__ import annotations

import pytest
import snntorch
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from dynconf import DynamicConfidence, DynamicInference, Patience, adapters, record
from dynconf.judging import outcome

T = 8
COUNT = 60


def on_a_grid(network, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randint(-8, 9, parameter.shape, generator=generator) / 16)
    return network


def images(count=COUNT, seed=1):
    return torch.randint(0, 17, (count, 1, 6, 6), generator=torch.Generator().manual_seed(seed)) / 16


def jelly(make, step_mode="s"):
    network = nn.Sequential(
        layer.Conv2d(1, 4, 3), make(), layer.Flatten(), layer.Linear(64, 16), make(), layer.Linear(16, 5)
    )
    functional.set_step_mode(network, step_mode)
    return on_a_grid(network)


def torch_net(make):
    return on_a_grid(
        nn.Sequential(nn.Conv2d(1, 4, 3), make(), nn.Flatten(), nn.Linear(64, 16), make(), nn.Linear(16, 5))
    )


def pair(compacts, restarts=True):
    """Integrate-and-fire on linear maps. It also counts timesteps per row and shows its image less at each."""
    generator = torch.Generator().manual_seed(3)
    first = torch.randint(-8, 9, (36, 16), generator=generator) / 16
    second = torch.randint(-8, 9, (16, 5), generator=generator) / 16
    state = {}

    def step(x):
        if not state:
            state.update(v=torch.zeros(len(x), 16), t=torch.zeros(len(x), 1))
        v = state["v"] + (x.flatten(1) @ first) * 0.5 ** state["t"].clamp(max=3)
        spikes = (v >= 1).float()
        state["v"], state["t"] = v - spikes, state["t"] + 1
        return spikes @ second

    def keep(mask):
        state.update({name: value[mask] for name, value in state.items()})

    def restart(rows):
        state.update({name: value.index_fill(0, rows, 0) for name, value in state.items()})

    return adapters.stepwise(step, state.clear, keep if compacts else None, restart if restarts else None)


def fading(batch, timestep):
    return batch * 0.5 ** min(timestep - 1, 3)


NETWORKS = {
    "spikingjelly, soft reset": lambda: adapters.spikingjelly(jelly(lambda: neuron.IFNode(v_reset=None))),
    "spikingjelly, reset to a level": lambda: adapters.spikingjelly(jelly(lambda: neuron.IFNode(v_reset=-0.25))),
    "spikingjelly, leaky": lambda: adapters.spikingjelly(jelly(lambda: neuron.LIFNode(tau=2.0, v_threshold=0.5))),
    "spikingjelly, multi-step": lambda: adapters.spikingjelly(
        jelly(lambda: neuron.IFNode(v_reset=None), step_mode="m"), multi_step=True
    ),
    "spikingjelly, encoded": lambda: adapters.spikingjelly(jelly(lambda: neuron.IFNode(v_reset=None)), encode=fading),
    "snntorch, leaky": lambda: adapters.snntorch(
        torch_net(lambda: snntorch.Leaky(beta=0.5, threshold=0.5, init_hidden=True))
    ),
    "snntorch, two states": lambda: adapters.snntorch(
        torch_net(lambda: snntorch.Synaptic(alpha=0.5, beta=0.5, threshold=0.5, init_hidden=True))
    ),
    "snntorch, encoded": lambda: adapters.snntorch(
        torch_net(lambda: snntorch.Leaky(beta=0.5, threshold=0.5, init_hidden=True)), encode=fading
    ),
    "a pair": lambda: pair(compacts=False),
    "a pair that compacts": lambda: pair(compacts=True),
    "a pair that cannot restart": lambda: pair(compacts=True, restarts=False),
    "a pair that can do neither": lambda: pair(compacts=False, restarts=False),
}
any_network = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS.keys())


@any_network
@pytest.mark.parametrize("policy", [Patience(steps=3), DynamicConfidence(scale=1.0, threshold=0.8)], ids=str)
def test_a_stream_equals_the_replay(make, policy):
    recording = record(make(), [(images(), torch.zeros(COUNT))], timesteps=T)
    exits = policy.exit_steps(recording)
    assert isinstance(policy, Patience) or len(exits.unique()) > 2
    expected = outcome(recording, exits)
    run = DynamicInference(make(), policy, T)
    for batch_size, refill, buckets in (
        (1, 0.0, None),
        (7, 0.0, None),
        (16, 0.25, None),
        (16, 0.0, (4, 16)),
        (64, 0, None),
    ):
        answers = run.stream(images().split(11), batch_size, refill, buckets)
        for name in ("prediction", "timesteps", "latency", "spikes", "synops"):
            assert torch.equal(getattr(answers, name), getattr(expected, name)), (batch_size, name)


@pytest.mark.parametrize("name", [name for name in NETWORKS if "can" not in name])
def test_rows_that_begin_anew_and_the_others(name):
    network = NETWORKS[name]()
    network.begin(images(9))
    alone = [(network.step(), network.spikes) for _ in range(T)]
    given = images(4), images(9)[[7, 8]]
    before = [batch.clone() for batch in given]
    network.begin(given[0])
    for timestep in range(3):
        assert torch.equal(network.step(), alone[timestep][0][:4])
    network.replace(torch.tensor([2, 0]), given[1])
    assert network.spikes[[0, 2]].tolist() == [0, 0]
    for timestep in range(3):
        logits = network.step()
        assert torch.equal(logits[[2, 0]], alone[timestep][0][[7, 8]])
        assert torch.equal(logits[[1, 3]], alone[timestep + 3][0][[1, 3]])
        assert torch.equal(network.spikes[[2, 0]], alone[timestep][1][[7, 8]])
    network.keep(torch.tensor([True, False, True, True]))
    assert torch.equal(network.step(), torch.stack([alone[t][0][image] for t, image in ((3, 8), (3, 7), (6, 3))]))
    assert all(map(torch.equal, given, before))


def test_images_of_different_age_are_encoded_age_by_age():
    asked = []

    def encode(batch, timestep):
        asked.append((len(batch), timestep))
        return torch.cat([batch, batch], 1) / timestep  # another shape than the image's

    network = adapters.spikingjelly(
        on_a_grid(nn.Sequential(nn.Conv2d(2, 4, 3), neuron.IFNode(), nn.Flatten(), nn.Linear(64, 5))), encode=encode
    )
    network.begin(images(5))
    network.step()
    network.step()
    network.replace(torch.tensor([1, 4]), images(2, seed=5))
    network.step()
    network.keep(torch.tensor([False, True, False, False, True]))
    network.step()
    assert asked == [(5, 1), (5, 2), (2, 1), (3, 3), (2, 2)]


def test_a_state_that_cannot_begin_anew_for_some_is_refused_and_goes_batch_after_batch():
    class Delay(neuron.IFNode):
        """Remembers its last input in a list, of which only it knows what an empty one means."""

        def __init__(self):
            super().__init__(v_reset=None)
            self.register_memory("past", [])

        def forward(self, x):
            delayed = self.past[0] if self.past else torch.zeros_like(x)
            self.past = [x]
            return super().forward(delayed)

    network = adapters.spikingjelly(jelly(Delay))
    run = DynamicInference(network, DynamicConfidence(scale=1.0, threshold=0.8), T)
    with pytest.raises(RuntimeError, match=r"'past' of Delay cannot begin anew.*refill=1"):
        run.stream([images()], batch_size=16)
    recording = record(network, [(images(), torch.zeros(COUNT))], timesteps=T)
    assert torch.equal(run.stream([images()], 16, refill=1.0).timesteps, run.policy.exit_steps(recording))


def test_a_wrapped_pair_can_be_streamed():
    state = {}

    def step(x):
        state["sum"] = state.get("sum", torch.zeros_like(x)) + x
        return state["sum"]

    def restart(rows):
        state["sum"] = state["sum"].index_fill(0, rows, 0)

    def keep(mask):
        state["sum"] = state["sum"][mask]

    batch = torch.randint(-4, 5, (30, 5), generator=torch.Generator().manual_seed(0)).float()
    policy = DynamicConfidence(scale=4.0, threshold=0.7)
    whole = DynamicInference.wrap(step, state.clear, policy, T)(batch)
    answers = DynamicInference.wrap(step, state.clear, policy, T, keep, restart).stream(batch.split(4), 8, refill=0.0)
    assert torch.equal(answers.timesteps, whole.timesteps) and torch.equal(answers.prediction, whole.prediction)
    assert len(whole.timesteps.unique()) > 2


def test_replace_before_begin_says_so():
    with pytest.raises(RuntimeError, match="begin"):
        pair(compacts=True).replace(torch.tensor([0]), images(1))
