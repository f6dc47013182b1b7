"""On a GPU images and weights lie in the memory format that its convolutions are faster in, which changes no answer."""

from __future__ import annotations

import pytest
import torch
from test_packed import all_of, convolutions, noise, tiny

import methods.network
from methods.network import preferred_order
from methods.packed import PackedLayers
from methods.replaying import Replaying

LAST, FIRST = torch.channels_last, torch.contiguous_format


@pytest.mark.parametrize(("tf32", "order"), [(True, LAST), (False, FIRST)])
def test_tensor_cores_have_channels_last(tf32, order, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    assert preferred_order(torch.device("cuda")) is order
    assert preferred_order(torch.device("cpu")) is None


def test_so_has_bf16_on_a_cpu():
    network, images = tiny("qcfs", "residual"), noise(4, 3, 8, 8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        network.begin(images)
        network.step()
    assert all(layer.weight.is_contiguous(memory_format=LAST) for layer in convolutions(network))
    assert all(neuron.membrane.is_contiguous(memory_format=LAST) for neuron in network.neurons.values())


@pytest.mark.parametrize("kind", ["plain", "residual", "pooled"])
@pytest.mark.parametrize("name", ["qcfs", "qffs", "srp", "cos"])
def test_another_format_gives_the_same(name, kind, monkeypatch):
    monkeypatch.setattr(PackedLayers, "serve", lambda self, images: False)
    network, images = tiny(name, kind), noise(4, 3, 8, 8)
    expected = all_of(network, images)
    forgotten, forget = [], Replaying.forget
    monkeypatch.setattr(Replaying, "forget", lambda self: forgotten.append(self) or forget(self))
    for order in (LAST, LAST, FIRST):
        monkeypatch.setattr(methods.network, "preferred_order", lambda device, order=order: order)
        found = all_of(network, images)
        torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-4)
        assert all(map(torch.equal, found[1:], expected[1:]))
        assert all(layer.weight.is_contiguous(memory_format=order) for layer in convolutions(network))
        membranes = [
            neuron.membrane for neuron in network.neurons.values() if getattr(neuron, "membrane", None) is not None
        ]
        assert membranes and all(m.is_contiguous(memory_format=order) for m in membranes if m.dim() == 4)
    # What was recorded works on weights that are no longer there; where nothing moved, it stays.
    assert len(forgotten) == (2 if network._replaying is not None else 0)
