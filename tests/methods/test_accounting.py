"""Operation counts against counts by hand, and against brute force over every single spike."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmark import registry
from benchmark.conformance import quantised_network, random_images
from methods.neurons import IFNeuron
from methods.qcfs import QCFS, QCFSActivation
from methods.tally import SpikeTally


def converted(*layers: nn.Module, image: tuple[int, ...]):
    return QCFS().convert(nn.Sequential(*layers), torch.zeros(1, *image))


def site_of(*behind: nn.Module, channels: int, size: int):
    """The one spiking layer of channels x size x size, followed by `behind`."""
    network = converted(nn.Conv2d(1, channels, 1), QCFSActivation(4), *behind, image=(1, size, size))
    return network.sites[0], network


@pytest.mark.parametrize(
    ("behind", "expected"),
    [
        # 4x4 input, 3x3 kernel, padding 1: each row and column is seen by 2, 3, 3, 2 kernel positions -> 10 x 10 a channel.
        (nn.Conv2d(2, 5, 3, padding=1), 2 * 100 * 5),
        # no padding: 1, 2, 2, 1 -> 6 x 6
        (nn.Conv2d(2, 5, 3), 2 * 36 * 5),
        # stride 2, padding 1: outputs at 0 and 2 -> rows seen by 1, 2, 1, 1 -> 5 x 5
        (nn.Conv2d(2, 5, 3, stride=2, padding=1), 2 * 25 * 5),
        # two groups: each channel reaches 3 of 6 output channels
        (nn.Conv2d(2, 6, 3, padding=1, groups=2), 2 * 100 * 3),
        # dilation 2, padding 2: kernel at -2, 0, 2 -> 2, 2, 2, 2 -> 8 x 8
        (nn.Conv2d(2, 5, 3, padding=2, dilation=2), 2 * 64 * 5),
        (nn.Conv2d(2, 5, 3, padding="same"), 2 * 100 * 5),
        (nn.Conv2d(2, 5, 3, padding=1, padding_mode="circular"), 2 * 9 * 16 * 5),
        (nn.Conv2d(2, 5, 1, stride=2), 2 * 4 * 5),
        (nn.AvgPool2d(2), 2 * 16),
        (nn.AvgPool2d(3, stride=1), 2 * 36),
        # padding 1, kernel 3, stride 2: windows begin at -1 and 1 -> rows seen by 1, 2, 1, 1 -> 5 x 5
        (nn.AvgPool2d(3, stride=2, padding=1), 2 * 25),
        # kernel 3, stride 3: one window, and with ceil_mode a second one over the last row -> 1, 1, 1, 1
        (nn.AvgPool2d(3), 2 * 9),
        (nn.AvgPool2d(3, ceil_mode=True), 2 * 16),
        (nn.AdaptiveAvgPool2d(1), 2 * 16),
        (nn.AdaptiveAvgPool2d(3), 2 * 36),
        (nn.Sequential(nn.Flatten(), nn.Linear(32, 7)), 32 * 7),
        (nn.Sequential(nn.Dropout(0.5), nn.Identity(), nn.Conv2d(2, 5, 3, padding=1)), 2 * 100 * 5),
    ],
)
def test_synapses_behind_a_layer_by_hand(behind, expected):
    site, _ = site_of(behind, channels=2, size=4)
    assert site.synapses == expected
    assert site.fan_out == expected / 32
    assert site.kind == "binary"


def test_a_corner_spike_costs_less_than_one_in_the_middle():
    tally = QCFS().convert(
        nn.Sequential(nn.Conv2d(1, 2, 1), QCFSActivation(4), nn.Conv2d(2, 5, 3, padding=1)), torch.zeros(1, 1, 4, 4)
    )
    neuron = next(module for module in tally.modules() if isinstance(module, IFNeuron))
    spikes = torch.zeros(3, 2, 4, 4)
    spikes[0, 0, 0, 0] = 1  # corner: 4 outputs x 5 channels
    spikes[1, 1, 0, 2] = 1  # edge: 6 x 5
    spikes[2, :, 2, 1] = 1  # two in the middle: 2 x 9 x 5
    counts, synops = neuron.tally(spikes)
    assert counts.tolist() == [1, 1, 2]
    assert synops.tolist() == [20, 30, 90]


def test_macs_by_hand():
    network = converted(
        nn.Conv2d(3, 4, 3, padding=1),
        QCFSActivation(4),
        nn.AvgPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1),
        QCFSActivation(4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 10),
        image=(3, 4, 4),
    )
    assert network.macs_once == 3 * 100 * 4  # the stem, padding not counted
    # On 2x2 averages every pixel reaches 4 outputs: 4 channels x 16 x 6; and the readout of averages.
    assert network.macs_per_timestep == 4 * 16 * 6 + 6 * 10
    assert [(layer.runs, layer.input) for layer in network.analog_layers] == [
        ("once", "constant"),
        ("timestep", "graded"),
        ("timestep", "graded"),
    ]


def test_a_readout_of_spikes_does_no_macs():
    network = converted(nn.Flatten(), nn.Linear(4, 8), QCFSActivation(4), nn.Linear(8, 3), image=(1, 2, 2))
    assert (network.macs_once, network.macs_per_timestep) == (32, 0)
    assert network.sites[0].synapses == 24


def test_residual_shortcuts_count():
    network = QCFS().convert(quantised_network(QCFS(), "residual"), random_images(1))
    sites = {site.shape: site for site in network.sites}
    stem, middle = [site for site in network.sites if site.shape == (6, 8, 8)]
    assert stem.synapses == 6 * 22 * 22 * 6 + 6 * 64  # 3x3 convolution, and one synapse each on the identity
    # 3x3 with stride 2 and padding 1 on 8 pixels: 1, 2, 1, 2, 1, 2, 1, 1 -> 11 x 11; and the 1x1 projection of stride 2
    assert middle.synapses == 6 * 11 * 11 * 8 + 6 * 16 * 8
    assert sites[(8, 4, 4)].synapses == 8 * 16  # the mean over all pixels


@pytest.mark.parametrize("tiny", ["plain", "residual"])
def test_synops_of_a_step_by_brute_force(tiny):
    """Send every spike alone through the layers behind it and count the outputs it reaches."""
    network = QCFS().convert(quantised_network(QCFS(), tiny), random_images(1))
    emitted: dict[int, torch.Tensor] = {}
    for module in network.modules():
        if isinstance(module, IFNeuron):
            module.register_forward_hook(lambda module, inputs, output: emitted.__setitem__(id(module), output.clone()))
    network.begin(random_images(2))
    network.step()
    network.step()
    total = torch.zeros(2)
    for node in network._graph.graph.nodes:
        module = network._graph.get_submodule(node.target) if node.op == "call_module" else None
        if not isinstance(module, IFNeuron):
            continue
        spikes = emitted[id(module)]
        for image, *position in spikes.nonzero().tolist():
            single = torch.zeros(1, *spikes.shape[1:], dtype=torch.float64)
            single[(0, *position)] = 1
            total[image] += sum(_reached(network, user, single) for user in node.users)
    assert torch.equal(network.synops, total.long())
    assert bool((total > 0).all())


def _reached(network, user, single: torch.Tensor) -> int:
    """Non-zero outputs of a consumer with all weights one."""
    if user.op == "call_module":
        module = network._graph.get_submodule(user.target)
        if isinstance(module, nn.Flatten):
            return sum(_reached(network, next_user, module(single)) for next_user in user.users)
        if isinstance(module, nn.Conv2d):
            ones = nn.Conv2d(
                module.in_channels, module.out_channels, module.kernel_size, module.stride, module.padding, bias=False
            ).double()
            nn.init.ones_(ones.weight)
            return int((ones(single) != 0).sum())
        if isinstance(module, nn.Linear):
            return int((single != 0).sum()) * module.out_features
        return int((module(single) != 0).sum())
    if user.target in ("mean",):
        return 1
    assert user.target is torch.add, user
    return 1


@pytest.mark.parametrize("name", ["resnet18", "resnet20", "vgg16"])
def test_all_synapses_and_macs_add_up_to_the_dense_network(name):
    """Every multiply of the plain network is either a synapse behind a spike or a MAC of an analog layer."""
    ann = registry.load("models", name)(3, 10).eval()
    network = QCFS().convert(QCFS().prepare(ann), torch.zeros(1, 3, 32, 32))
    dense = _padding_free_macs(ann, torch.zeros(1, 3, 32, 32))
    passive = sum(site.neurons for site in network.sites if _feeds_pool_or_add(network, site.name))
    assert (
        sum(site.synapses for site in network.sites) + network.macs_once + network.macs_per_timestep == dense + passive
    )


def _feeds_pool_or_add(network, name: str) -> bool:
    node = next(node for node in network._graph.graph.nodes if node.target == name)
    passive = 0
    for user in node.users:
        module = network._graph.get_submodule(user.target) if user.op == "call_module" else None
        passive += not isinstance(module, (nn.Conv2d, nn.Linear, nn.Flatten))
    assert passive <= 1
    return passive == 1


def _padding_free_macs(model: nn.Module, image: torch.Tensor) -> int:
    total = 0

    def count(module, inputs, output):
        nonlocal total
        if isinstance(module, nn.Linear):
            total += module.in_features * module.out_features
        else:
            inside = nn.functional.conv2d(
                torch.ones(1, 1, *inputs[0].shape[2:]),
                torch.ones(1, 1, *module.kernel_size),
                None,
                module.stride,
                module.padding,
            )
            total += int(inside.sum()) * module.in_channels * module.out_channels

    handles = [
        module.register_forward_hook(count) for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    model(image)
    for handle in handles:
        handle.remove()
    return total


def test_tally_is_exact_for_large_counts():
    fan_out = torch.full((512, 64, 64), 4609.0)
    spikes, synops = SpikeTally(fan_out)(torch.ones(1, 512, 64, 64))
    assert spikes.item() == 512 * 64 * 64
    assert synops.item() == 512 * 64 * 64 * 4609  # beyond float32's integers


def test_tally_with_different_fan_out_per_channel():
    fan_out = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    spikes, synops = SpikeTally(fan_out)(torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]]))
    assert (spikes.tolist(), synops.tolist()) == ([2, 4], [5, 10])


def test_signed_tally_counts_both_signs():
    spikes, synops = SpikeTally(torch.ones(3) * 2, signed=True)(torch.tensor([[1.0, -1.0, 0.0]]))
    assert (spikes.tolist(), synops.tolist()) == ([2], [4])
