"""Checkpoints: weights and card come back, and foreign networks become ours as exactly the same function."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn

from benchmark import registry
from benchmark.backbones.resnet import resnet20
from benchmark.backbones.small_cnn import small_cnn
from benchmark.card import Card, read_card
from benchmark.checkpoints import as_stored, likely_backbone, load_into, read_weights, write_checkpoint
from benchmark.errors import CheckpointError
from benchmark.foreign import from_akamaster
from benchmark.locating import zoo
from methods.qcfs import QCFS


def card(**changes):
    fields = {
        "model": "small-cnn",
        "method": "qcfs",
        "method_options": {"levels": 4, "threshold": 8.0, "on": True, "mode": "a"},
        "dataset": "digits",
        "num_classes": 10,
        "in_channels": 1,
        "training_fingerprint": "0123",
        "preprocessing": {"divisor": 16.0, "mean": [0.1 + 0.2], "std": [1 / 3]},
        "recipe": {"epochs": 3, "lr": 0.1},
        "trained_from": "relu.th",
        "calibration_accuracy": 2 / 3,
        "flags": ("a remark", "another"),
    }
    return Card(**{**fields, **changes})


def randomised(model, seed=0):
    """Random weights and batch norm statistics, in eval mode: nothing is 0 or 1 by chance of initialisation."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif value.is_floating_point():
            value.copy_(torch.randn(value.shape, generator=generator) * (0.1 if value.dim() > 1 else 0.3))
    return model.eval()


# There and back


def test_weights_and_card_come_back(tmp_path):
    path = tmp_path / "folder" / "net.safetensors"
    state = randomised(QCFS().prepare(small_cnn())).state_dict()
    write_checkpoint(path, state, card())
    found = read_weights(path)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in state.items())
    assert read_card(path) == card()
    assert [file.name for file in path.parent.iterdir()] == ["net.safetensors"]


def test_half_precision_narrows_weights_and_nothing_else(tmp_path):
    path = tmp_path / "net.safetensors"
    state = randomised(QCFS().prepare(small_cnn())).state_dict()
    write_checkpoint(path, state, card(), half=True)
    with safe_open(path, "pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    found = read_weights(path)
    kinds = set()
    for name, value in state.items():
        narrow = value.dim() > 1
        kinds.add((narrow, stored[name].dtype))
        assert torch.equal(found[name], value.half().float() if narrow else value)
        assert found[name].dtype == value.dtype
    assert kinds == {(True, torch.float16), (False, torch.float32), (False, torch.int64)}
    rounded = as_stored(state, half=True)
    assert rounded.keys() == stored.keys()
    assert all(
        rounded[name].dtype == stored[name].dtype and torch.equal(rounded[name], stored[name]) for name in stored
    )
    assert all(torch.equal(value, state[name]) for name, value in as_stored(state).items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "best_prec1": 91.7},
        lambda state: {"model": {"net": state}, "epoch": 3},
        lambda state: {f"module.{name}": value for name, value in state.items()},
    ],
    ids=["plain", "state_dict", "nested", "module."],
)
def test_the_usual_wrappings_of_pickled_files_are_understood(tmp_path, wrap):
    state = dict(small_cnn().state_dict())
    torch.save(wrap(state), tmp_path / "net.pt")
    found = read_weights(tmp_path / "net.pt")
    assert found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)
    assert read_card(tmp_path / "net.pt") is None


def test_a_safetensors_file_without_a_card(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2, dtype=torch.float64)}, tmp_path / "net.safetensors")
    assert read_card(tmp_path / "net.safetensors") is None
    assert read_weights(tmp_path / "net.safetensors")["a"].dtype == torch.float32


# Fitting


def test_every_checkpoint_of_the_zoo_fits_its_card():
    for name, path in zoo().items():
        found = read_card(path)
        assert found is not None, name
        method = registry.load("methods", found.method)(**found.method_options)
        ann = registry.load("models", found.model)(found.in_channels, found.num_classes)
        load_into(method.prepare(ann), read_weights(path), path, found.model)


@pytest.mark.parametrize("name", registry.names("models"))
@pytest.mark.parametrize("quantised", [False, True], ids=["relu", "quantised"])
def test_the_likely_backbone_is_recognised(name, quantised):
    with torch.device("meta"):
        model = registry.load("models", name)(num_classes=7)  # as for another dataset
        state = (QCFS().prepare(model) if quantised else model).state_dict()
    # These two are one network; only the number of classes says that 1000 are ImageNet's.
    assert likely_backbone(state) == {"resnet34-qcfs": "resnet34"}.get(name, name)


@pytest.mark.parametrize("state", [{}, {"a.weight": torch.ones(3)}, {"conv1.weight": torch.ones(16, 3, 3, 3)}])
def test_a_foreign_network_is_like_none_of_ours(state):
    assert likely_backbone(state) is None


def test_what_does_not_fit_is_named(tmp_path):
    state = dict(resnet20().state_dict())
    with pytest.raises(CheckpointError) as refused:
        load_into(small_cnn(), state, tmp_path / "net.pt", "small-cnn")
    message = str(refused.value)
    assert message.startswith(f"{tmp_path / 'net.pt'} does not fit small-cnn; missing: features.0.weight")
    assert "not known: bn1.bias" in message and " more" in message
    assert "It looks like 'resnet20': try --model resnet20." in message


def written(tmp_path, state, **changes):
    path = tmp_path / "net.safetensors"
    write_checkpoint(path, state, card(**changes))
    return path


def test_a_card_for_other_weights_is_not_believed(tmp_path):
    """Without this the two messages would send a user from one model to the other and back."""
    path = written(tmp_path, QCFS().prepare(small_cnn()).state_dict(), model="resnet20")
    with pytest.raises(CheckpointError) as refused:
        load_into(QCFS().prepare(resnet20()), read_weights(path), path, "resnet20")
    message = str(refused.value)
    assert message.startswith(f"{path} does not fit resnet20; missing: bn1.bias") and "features.0.weight" in message
    assert "Its card says qcfs on resnet20 with 10 classes, but the weights look like 'small-cnn'" in message
    assert "try --model" not in message


def test_a_card_that_names_other_activations(tmp_path):
    path = written(tmp_path, QCFS().prepare(small_cnn()).state_dict(), method="qffs", method_options={"levels": 3})
    with pytest.raises(CheckpointError) as refused:
        load_into(
            registry.load("methods", "qffs")(levels=3).prepare(small_cnn()), read_weights(path), path, "small-cnn"
        )
    message = str(refused.value)
    assert "missing: features.2.step" in message and "not known: features.2.threshold" in message
    assert "Its card says qffs on small-cnn with 10 classes, but the weights differ" in message


def test_the_card_is_not_blamed_for_a_wrong_request(tmp_path):
    path = written(tmp_path, QCFS().prepare(small_cnn()).state_dict())
    with pytest.raises(CheckpointError) as refused:
        load_into(QCFS().prepare(resnet20()), read_weights(path), path, "resnet20")
    assert "It looks like 'small-cnn': try --model small-cnn." in str(refused.value)
    assert "Its card" not in str(refused.value)


def test_integers_in_the_place_of_real_weights(tmp_path):
    state = {**small_cnn().state_dict(), "head.bias": torch.ones(10, dtype=torch.int8)}
    with pytest.raises(
        CheckpointError, match=r"net\.pt does not fit small-cnn; integers, not real numbers: head\.bias"
    ):
        load_into(small_cnn(), state, tmp_path / "net.pt", "small-cnn")


def test_weights_that_are_there_twice(tmp_path):
    torch.save({"a": torch.ones(2), "module.a": torch.zeros(2)}, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match="holds weights twice"):
        read_weights(tmp_path / "net.pt")


def test_weights_are_loaded(tmp_path):
    model, other = randomised(small_cnn(), 1), randomised(small_cnn(), 2)
    load_into(model, other.state_dict(), tmp_path, "small-cnn")
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


# akamaster's ResNets: option-A shortcuts, written here from He et al. 2016, section 4.2


class OptionABlock(nn.Module):
    def __init__(self, before, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.padding = stride, (channels - before) // 2

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.padding:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(y + x)


class OptionAResNet20(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(OptionABlock(16, 16, 1) for _ in range(3)))
        self.layer2 = nn.Sequential(OptionABlock(16, 32, 2), *(OptionABlock(32, 32, 1) for _ in range(2)))
        self.layer3 = nn.Sequential(OptionABlock(32, 64, 2), *(OptionABlock(64, 64, 1) for _ in range(2)))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


def assert_same_function(theirs, ours, size=32):
    images = torch.randn(3, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        expected, found = theirs.double().eval()(images), ours.eval()(images)
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [32, 31], ids=["even", "odd"])
def test_the_option_a_shortcut_is_exact(size):
    theirs, ours = randomised(OptionAResNet20()), resnet20().double()
    load_into(ours, from_akamaster(theirs.state_dict()), "net.th", "resnet20")
    assert_same_function(theirs, ours, size)


def test_batch_counters_may_be_there_or_not():
    state = randomised(OptionAResNet20()).state_dict()
    without = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert len(without) < len(state)
    for given in (state, without):
        assert from_akamaster(given).keys() == resnet20().state_dict().keys()


def test_a_foreign_file_is_named(tmp_path):
    for state in (small_cnn().state_dict(), {"layer_norm.weight": torch.ones(1), "layerX.bias": torch.ones(1)}):
        with pytest.raises(CheckpointError, match=r"net\.th does not fit resnet20; missing: bn1\.bias"):
            load_into(resnet20(), from_akamaster(state), tmp_path / "net.th", "resnet20")


def test_the_real_file_loads_as_the_same_function(shared):
    path = shared("weights/resnet20-12fca82f.th")
    theirs, ours = OptionAResNet20(), resnet20().double()
    state = read_weights(path)
    theirs.load_state_dict(state, strict=False)
    missing = set(theirs.state_dict()) - set(state)
    assert all(name.endswith("num_batches_tracked") for name in missing)
    load_into(ours, from_akamaster(state), path, "resnet20")
    assert_same_function(theirs, ours)
