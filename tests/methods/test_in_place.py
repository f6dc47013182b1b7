"""Networks that write into tensors they read later: the prepared network must compute what torch computes, or refuse.

Threshold balancing's activation is a plain ReLU until it is calibrated, so the prepared network must equal its source to
the last bit; all weights and images are dyadic. Nothing is asked of a network that torch itself refuses to run.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from dyadic import multiples, on_the_grid, prepared
from timm.layers import BatchNormAct2d
from torch import nn

import methods
from benchmark.conformance import simulate
from methods import tracing as tracing_module
from methods.errors import ConversionError
from methods.qffs import QFFS
from methods.tracing import QuantisedActivation

ThresholdBalancing = methods.get("threshold-balancing")


class Net(nn.Module):
    """Three convolutions that keep the shape; a subclass says in which order."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(i, 4, 3, padding=1) for i in (3, 4, 4))
        self.relu, self.six = nn.ReLU(inplace=True), nn.ReLU6(inplace=True)
        self.identity, self.dropout = nn.Identity(), nn.Dropout(0.5)
        self.hard = nn.Hardtanh(0.0, 0.5, inplace=True)

    def forward(self, x):
        return self.body(self.a(x)).mean((2, 3))


def pre_activation(self, x):
    return self.b(self.relu(x)) + x


def pre_activation_read_before(self, x):
    return self.c(x) + self.b(self.relu(x)) + x


def two_blocks(self, x):
    for conv in (self.b, self.c):
        x = conv(self.relu(x)) + x
    return self.relu(x)


def function_in_place(self, x):
    return self.b(F.relu(x, inplace=True)) + x


def function_in_place_by_position(self, x):
    return self.b(F.relu(x, True)) + x


def method_in_place(self, x):
    return self.b(x.relu_()) + x


def torch_in_place(self, x):
    return self.b(torch.relu_(x)) + x


def result_not_used(self, x):
    F.relu_(x)
    return self.b(x)


def module_result_not_used(self, x):
    self.relu(x)
    return self.b(x) + x


def added_in_place(self, x):
    y = self.b(torch.relu(x))
    y += x
    return self.c(torch.relu(y)) + y


def added_in_place_to_what_is_read_again(self, x):
    y = self.b(torch.relu(x))
    z = x
    x += y
    return self.c(torch.relu(x)) + z


def added_by_method(self, x):
    y = torch.relu(self.b(torch.relu(x)))
    x.add_(y)
    return self.c(x) + x


def added_by_method_with_a_factor(self, x):
    y = torch.relu(self.b(torch.relu(x)))
    x.add_(y, alpha=2)
    return self.c(x) + x


def added_then_activated(self, x):
    y = self.b(torch.relu(x))
    y += x
    self.relu(y)
    return self.c(y) + y


def through_an_identity(self, x):
    y = self.identity(x)
    return self.b(self.relu(y)) + x


def through_two_identities_and_back(self, x):
    y = self.identity(self.identity(x))
    self.relu(y)
    z = self.identity(x)
    return self.b(x) + z + y


def identity_taken_before(self, x):
    y = self.identity(x)
    self.relu(x)
    return self.b(y) + x


def several_writes(self, x):
    y = self.relu(x)
    y += self.b(y)
    z = self.relu(y)
    return self.c(x) + z + y


def clipped_by_module(self, x):
    return self.b(self.six(x)) + x


def clipped_by_function(self, x):
    return self.b(F.relu6(x, inplace=True)) + x


def clipped_by_function_by_position(self, x):
    return self.b(F.relu6(x, True)) + x


def clipped_by_hardtanh(self, x):
    return self.b(self.hard(x)) + x


def clipped_by_hardtanh_function(self, x):
    return self.b(F.hardtanh(x, 0.0, 0.5, True)) + x


def clipped_by_hardtanh_in_place(self, x):
    return self.b(F.hardtanh_(x, 0.0, 0.5)) + x


def not_in_place(self, x):
    return self.b(F.relu(x)) + x


def view_made_afterwards(self, x):
    self.relu(x)
    return self.b(x.contiguous().view(x.shape)) + x.flatten(2).reshape(x.shape)


def activated_in_a_view(self, x):
    y = F.relu(x.flatten(1), inplace=True)
    return y.reshape(x.size(0), 4, 6, 6)


BODIES = (
    pre_activation,
    pre_activation_read_before,
    two_blocks,
    function_in_place,
    function_in_place_by_position,
    method_in_place,
    torch_in_place,
    result_not_used,
    module_result_not_used,
    added_in_place,
    added_in_place_to_what_is_read_again,
    added_by_method,
    added_by_method_with_a_factor,
    added_then_activated,
    through_an_identity,
    through_two_identities_and_back,
    identity_taken_before,
    several_writes,
    clipped_by_module,
    clipped_by_function,
    clipped_by_function_by_position,
    clipped_by_hardtanh,
    clipped_by_hardtanh_function,
    clipped_by_hardtanh_in_place,
    not_in_place,
    view_made_afterwards,
    activated_in_a_view,
)


def net(body, training: bool = False, seed: int = 0) -> Net:
    made = on_the_grid(type("Made", (Net,), {"body": body})(), seed, step=1 / 8, size=0.5)
    return made.train(training)


def images() -> torch.Tensor:
    return multiples(torch.Generator().manual_seed(1), 4, 3, 6, 6, step=1 / 8, size=1.0)


def seeded(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(5)
        return network(x)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_the_prepared_network_computes_what_torch_computes(body, training):
    ann, x = net(body, training), images()
    network = ThresholdBalancing().prepare(ann)
    assert any(isinstance(module, QuantisedActivation) for module in network.modules())
    assert network.training == training
    assert torch.equal(seeded(network, x), seeded(ann, x))
    assert torch.equal(seeded(network, x), seeded(network, x))


NEEDS_RESOLUTION = [
    body
    for body in BODIES
    if not body.__name__.startswith("added") and body not in (not_in_place, view_made_afterwards, activated_in_a_view)
]


@pytest.mark.parametrize("body", NEEDS_RESOLUTION, ids=lambda body: body.__name__)
def test_each_of_these_networks_would_be_prepared_wrongly_as_traced(body, monkeypatch):
    monkeypatch.setattr(tracing_module, "_resolve_in_place", lambda graph: None)
    ann, x = net(body), images()
    assert not torch.equal(seeded(ThresholdBalancing().prepare(ann), x), seeded(ann, x))


SETTLING = [body for body in BODIES if not body.__name__.startswith(("clipped", "view", "activated"))]


@pytest.mark.parametrize("body", SETTLING, ids=lambda body: body.__name__)
def test_the_spiking_network_settles_on_the_network_that_was_meant(body):
    """QFFS settles on its quantised network, and that one has been made of a network that writes in place."""
    network, x = prepared(QFFS(), net(body), 1.5), images()
    assert torch.allclose(
        simulate(QFFS().convert(network), x, 15)[0].sum(0) / 3, network(x).detach(), rtol=1e-12, atol=1e-12
    )


def test_images_and_cached_currents_are_not_overwritten():
    class Greedy(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.ones(3, 1, 1))
            self.a, self.b, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, 2)

        def forward(self, x):
            x += self.shift
            x = self.a(x)
            y = self.b(F.relu(x))
            x += y
            return self.head(F.relu_(x).mean((2, 3)))

    network, x = prepared(QFFS(), on_the_grid(Greedy(), 2, step=1 / 8), 1.5), images()
    untouched = x.clone()
    expected = network(x).detach()
    assert torch.equal(x, untouched)
    converted = QFFS().convert(network, x)
    first = simulate(converted, x, 9)
    assert torch.equal(x, untouched)
    assert all(map(torch.equal, simulate(converted, x, 9), first))
    assert torch.allclose(first[0].sum(0) / 3, expected, rtol=1e-12, atol=1e-12)


def refused_view_read_later(self, x):
    y = x.flatten(1)
    self.relu(x)
    return self.b(x) + y.reshape(-1, 4, 6, 6)


def refused_transposed_read_later(self, x):
    y = x.transpose(2, 3)
    F.relu_(x)
    return self.b(x) + y


@pytest.mark.parametrize(
    "body", [refused_view_read_later, refused_transposed_read_later], ids=["flattened", "transposed"]
)
def test_an_overwritten_tensor_that_is_read_through_a_view_is_refused(body):
    with pytest.raises(ConversionError, match=r"writes in place into what .* reads through a view"):
        ThresholdBalancing().prepare(net(body))


def computes_the_same_or_refuses(ann: nn.Module) -> bool:
    x = images()
    expected = seeded(ann, x)
    try:
        network = ThresholdBalancing().prepare(ann)
    except ConversionError:
        return True
    return torch.equal(seeded(network, x), expected)


def flattened_view_written(self, x):
    y = x.flatten(1)
    y.relu_()
    return self.b(x)


def transposed_view_written(self, x):
    y = x.transpose(2, 3)
    y.relu_()
    return self.b(x)


def squeezed_view_written(self, x):
    F.relu_(x.unsqueeze(1))
    return x


def some_channels_written(self, x):
    y = x[:, :2]
    y.relu_()
    return self.b(x)


def narrowed_view_written(self, x):
    F.relu(x.narrow(1, 0, 2), inplace=True)
    return self.b(x)


@pytest.mark.parametrize(
    "body",
    [
        flattened_view_written,
        transposed_view_written,
        squeezed_view_written,
        some_channels_written,
        narrowed_view_written,
    ],
    ids=lambda body: body.__name__,
)
def test_writing_through_a_view_is_computed_or_refused(body):
    assert computes_the_same_or_refuses(net(body))


def dropped_by_module(self, x):
    y = self.dropout(x)
    return self.b(self.relu(y)) + x


def dropped_by_function(self, x):
    y = F.dropout(x, 0.5, self.training)
    return self.b(F.relu(y, inplace=True)) + x


def dropped_after_activation(self, x):
    y = F.dropout(F.relu(x), 0.5, self.training)
    y = self.b(y)
    y += x
    return F.dropout(self.relu(y), p=0.25, training=self.training)


def dropped_in_place(self, x):
    F.dropout(x, 0.5, self.training, inplace=True)
    return self.b(F.relu(x)) + x


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "body",
    [dropped_by_module, dropped_by_function, dropped_after_activation, dropped_in_place],
    ids=lambda body: body.__name__,
)
def test_dropout_with_what_is_written_in_place(body, training):
    """In eval mode dropout passes the tensor itself on; in training mode it makes a new one, from the same random numbers."""
    assert computes_the_same_or_refuses(net(body, training))


def test_functional_dropout_follows_the_mode_of_the_prepared_network():
    ann, x = net(dropped_after_activation, training=True), images()
    network = ThresholdBalancing().prepare(ann)
    assert torch.equal(seeded(network, x), seeded(ann, x))
    with torch.no_grad():
        assert not torch.equal(network(x), network(x))
    network.eval()
    ann.eval()
    assert torch.equal(network(x), network(x))
    assert torch.equal(seeded(network, x), seeded(ann, x))
    again = ThresholdBalancing().prepare(ann)
    again.train()
    ann.train()
    assert torch.equal(seeded(again, x), seeded(ann, x))


class Normed(nn.Module):
    """Norms that carry their activation, one of them on a branch that is read again, one without an activation."""

    def __init__(self, **options):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(i, 4, 3, padding=1, bias=False) for i in (3, 4, 4))
        self.first = BatchNormAct2d(4, **options)
        self.second = BatchNormAct2d(4, apply_act=False, **options)
        self.third = BatchNormAct2d(4, act_layer=nn.ReLU6, **options)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.a(x)
        y = self.first(x)
        y = self.second(self.b(y)) + y + x
        return self.head((self.third(self.c(y)) + y).mean((2, 3)))


def normed(**options) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = Normed(**options).double().eval()
        for norm in (network.first, network.second, network.third):
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.5, 1.5)
            if norm.affine:
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                nn.init.normal_(norm.bias, 0, 0.3)
    return network


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize("training", [False, True])
def test_norms_with_an_activation_are_separated(inplace, training, dtype, tolerance):
    ann, x = normed(inplace=inplace).to(dtype).train(training), images().to(dtype)
    state = {name: value.clone() for name, value in ann.state_dict().items()}
    network = ThresholdBalancing().prepare(ann)
    kinds = [type(module).__name__ for module in network.modules()]
    assert kinds.count("ClippedReLU") == 2 and kinds.count("BatchNorm2d") == 3
    assert sorted(module.ceiling for module in network.modules() if hasattr(module, "ceiling")) == [6.0, float("inf")]
    assert torch.allclose(seeded(network, x), seeded(ann, x), rtol=tolerance, atol=tolerance)
    if not training:
        assert all(torch.equal(value, state[name]) for name, value in ann.state_dict().items())
    assert type(ann.first) is BatchNormAct2d


def test_norms_with_an_activation_and_a_dropout():
    ann, x = normed(drop_layer=nn.Identity), images()
    assert torch.allclose(seeded(ThresholdBalancing().prepare(ann), x), seeded(ann, x), rtol=1e-12, atol=1e-12)
    ann = normed(drop_layer=nn.Dropout).train()
    network = ThresholdBalancing().prepare(ann)
    assert torch.allclose(seeded(network, x), seeded(ann, x), rtol=1e-12, atol=1e-12)


def test_norms_with_an_activation_but_without_weights():
    ann, x = normed(affine=False), images()
    assert torch.allclose(seeded(ThresholdBalancing().prepare(ann), x), seeded(ann, x), rtol=1e-12, atol=1e-12)


def test_norms_with_an_activation_settle_on_their_network():
    """The norm on the first convolution's output cannot be folded: that output is read twice."""
    network, x = prepared(QFFS(), normed(), 1.0), images()
    converted = QFFS().convert(network)
    assert (converted.report.folded_batch_norms, converted.report.remaining_batch_norms) == (2, 1)
    logits = simulate(converted, x, 12)[0].sum(0) / 3
    assert torch.allclose(logits, network(x).detach(), rtol=1e-12, atol=1e-12)
