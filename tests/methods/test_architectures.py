"""Networks of torchvision and timm: converted exactly, or refused with the reason, never half converted.

The settled QFFS network must equal its quantised ANN in float64, which no graph passes with one operation misread.
"""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision.models
from torch import nn

import methods
from benchmark import backbones
from benchmark.training.thresholds import initialise_thresholds
from methods.errors import ConversionError


def randomised(network: nn.Module) -> nn.Module:
    """Float64, eval mode, batch norms that do something."""
    network = network.double().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return network


def built(name: str, size: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        library, _, rest = name.partition(":")
        if library == "tv":
            options = {"init_weights": False, "aux_logits": False} if rest == "googlenet" else {}
            return randomised(torchvision.models.get_model(rest, num_classes=7, **options))
        return randomised(backbones.build(name, 3, 7, size))


def pictures(size: int) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


CONVERTED = {
    "tv:resnet18": 64,
    "tv:squeezenet1_0": 64,
    "tv:mobilenet_v2": 32,
    "tv:densenet121": 32,
    "tv:googlenet": 64,
    "tv:regnet_x_400mf": 32,
    "tv:resnext50_32x4d": 32,
    "timm:resnet18d": 64,
    "timm:mobilenetv2_050": 32,
    "timm:densenet121": 32,
    "timm:resnetv2_50": 32,
    "timm:repvgg_a0": 32,
    "timm:selecsls42": 32,
}


# Whose kind is among the others: densely connected, grouped, inverted bottlenecks.
AKIN = ("timm:densenet121", "tv:resnext50_32x4d", "timm:mobilenetv2_050")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in AKIN else ()) for name in CONVERTED]
)
@torch.no_grad()
def test_prepared_networks_are_the_same_and_settled_ones_are_exact(name):
    size = CONVERTED[name]
    ann, images = built(name, size), pictures(size)
    # Without thresholds the training-free preparation is the plain network, whatever was in place or fused.
    assert torch.equal(methods.get("threshold-balancing")().prepare(ann)(images), ann(images))

    method = methods.get("qffs")(levels=3)
    quantised = method.prepare(ann)
    initialise_thresholds(quantised, images)
    network = method.convert(quantised, images)
    network.begin(images)
    total, silent = torch.zeros((), dtype=torch.float64), 0
    for _ in range(3 * (network.depth + 1)):
        total = total + network.step()
        silent = silent + 1 if not bool(network.spikes.any()) else 0
        if silent == 2:
            break
    expected = quantised(images)
    assert silent == 2  # within the bound of levels * (depth + 1) timesteps
    assert torch.allclose(total / 3, expected, rtol=0, atol=1e-12 * float(expected.abs().max()))
    assert float(expected.std()) > 0


@pytest.mark.slow
@torch.no_grad()
def test_timms_vgg_converts_at_its_own_size():
    ann, images = built("timm:vgg11_bn", 224), pictures(224)[:1]
    assert isinstance(methods.get("ltb")().prepare(ann), nn.Module)
    assert torch.equal(methods.get("ltb")().prepare(ann)(images), ann(images))
    assert ann.state_dict().keys() == timm.create_model("vgg11_bn", num_classes=7).state_dict().keys()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tv:shufflenet_v2_x0_5", "chunk.* has no spiking counterpart"),
        ("tv:efficientnet_b0", "no ReLU"),
        ("tv:mobilenet_v3_small", "Hardsigmoid .* has no spiking counterpart"),
        ("timm:convnext_atto", "no ReLU"),
        ("timm:vgg11_bn", r"cannot be traced by torch\.fx"),  # at 32 pixels its head branches
        ("timm:tf_efficientnet_lite0", r"cannot be traced by torch\.fx"),
        ("timm:hrnet_w18_small", "Upsample .* has no spiking counterpart"),
        ("timm:resnetblur18", "pad .* has no spiking counterpart"),
    ],
)
def test_what_cannot_be_converted_is_refused_with_the_reason(name, reason):
    ann = built(name, 32)
    method = methods.get("threshold-balancing")()
    with pytest.raises(ConversionError, match=reason):
        method.convert(method.prepare(ann), pictures(64))
