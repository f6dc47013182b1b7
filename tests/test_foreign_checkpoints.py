"""Other repositories' checkpoints: their key layouts written here by hand, with forward passes of their own."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from real_tiles import real_tiles
from torch import nn
from torchvision import models

import methods
from benchmark.backbones import build
from benchmark.checkpoints import likely_backbone, load_into, read_weights
from benchmark.errors import CheckpointError
from benchmark.foreign import from_akamaster, translate, with_activations

NARROW, WIDE = (16, 32, 64), (64, 128, 256, 512)
RESNETS = {"resnet18": (WIDE, (2, 2, 2, 2)), "resnet20": (NARROW, (3, 3, 3)), "resnet34": (WIDE, (3, 4, 6, 3))}
VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
DOUBLE = torch.float64


class Writer:
    """A state dict written key by key, with random numbers of a sensible size. On the meta device with none."""

    def __init__(self, seed=0, device="cpu"):
        self.state = {}
        self.device = device
        self.generator = torch.Generator().manual_seed(seed)

    def random(self, *shape):
        if self.device == "meta":
            return torch.empty(shape, device="meta")
        return torch.rand(shape, dtype=DOUBLE, generator=self.generator)

    def conv(self, key, before, after, size, bias=False):
        scale = 2 * (6 / (before * size * size)) ** 0.5
        self.state[f"{key}.weight"] = (self.random(after, before, size, size) - 0.45) * scale
        if bias:
            self.state[f"{key}.bias"] = self.random(after) - 0.5

    def norm(self, key, channels):
        self.state[f"{key}.weight"] = self.random(channels) + 0.5
        self.state[f"{key}.bias"] = self.random(channels) - 0.3
        self.state[f"{key}.running_mean"] = self.random(channels) - 0.5
        self.state[f"{key}.running_var"] = self.random(channels) + 0.5
        self.state[f"{key}.num_batches_tracked"] = torch.tensor(7)

    def linear(self, key, before, after, bias=True):
        self.state[f"{key}.weight"] = (self.random(after, before) - 0.45) * 2 / before**0.5
        if bias:
            self.state[f"{key}.bias"] = self.random(after) - 0.5

    def scalar(self, key, low, high):
        self.state[key] = low + (high - low) * self.random(1)


class Reader:
    """Layers by the key of their weights, on the raw state dict."""

    def __init__(self, state):
        self.state = state

    def conv(self, x, key, stride=1):
        weight = self.state[f"{key}.weight"]
        return F.conv2d(x, weight, self.state.get(f"{key}.bias"), stride, weight.shape[-1] // 2)

    def norm(self, x, key):
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(self.state[f"{key}.{name}"] for name in names))

    def linear(self, x, key):
        return F.linear(x, self.state[f"{key}.weight"], self.state.get(f"{key}.bias"))

    def clamp_then_floor(self, x, key, levels):
        threshold = self.state[key]
        return torch.floor((x / threshold).clamp(0, 1) * levels + 0.5) / levels * threshold

    def floor_then_clamp(self, x, key, levels):
        threshold = self.state[key]
        return (torch.floor(x / threshold * levels + 0.5) / levels).clamp(0, 1) * threshold

    def lsq(self, x, key, bits):
        scale = self.state[key]
        return torch.round(F.hardtanh(x / scale, 0, 2**bits - 1)) * scale


def loaded(name, translation, classes=10, image_size=32, **options):
    """Our network with the translated weights, quantised as the translation says, in float64."""
    network = build(name, 3, classes, image_size)
    if translation.method != "relu":
        method = methods.get(translation.method)(**{**translation.options, **options})
        network = method.prepare(network)
    load_into(network.double(), translation.state, "theirs.pth", name)
    return network.eval()


def images(count=2, size=32):
    return torch.randn(count, 3, size, size, dtype=DOUBLE, generator=torch.Generator().manual_seed(9))


def assert_same(expected, found):
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


# QCFS, SRP and COS


def qcfs_resnet(name, parameter, classes=10, device="cpu"):
    """Keys of Models/ResNet.py; `parameter` is thresh in the new repository, up elsewhere, None before quantisation."""
    widths, blocks = RESNETS[name]
    writer = Writer(1, device)

    def activation(key):
        if parameter:
            writer.scalar(f"{key}.{parameter}", 1.5, 3.0)

    last = "act" if parameter == "thresh" else "relu"
    writer.conv("conv1.0", 3, widths[0], 3)
    writer.norm("conv1.1", widths[0])
    activation("conv1.2")
    before = widths[0]
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        for position in range(count):
            key = f"conv{stage + 2}_x.{position}"
            writer.conv(f"{key}.residual_function.0", before, width, 3)
            writer.norm(f"{key}.residual_function.1", width)
            activation(f"{key}.residual_function.2")
            writer.conv(f"{key}.residual_function.3", width, width, 3)
            writer.norm(f"{key}.residual_function.4", width)
            if before != width:
                writer.conv(f"{key}.shortcut.0", before, width, 1)
                writer.norm(f"{key}.shortcut.1", width)
            activation(f"{key}.{last}")
            before = width
    writer.linear("fc", before, classes)
    return writer.state


def qcfs_resnet_logits(state, name, activation, last, x):
    read = Reader(state)
    x = activation(read.norm(read.conv(x, "conv1.0"), "conv1.1"), "conv1.2")
    for stage, count in enumerate(RESNETS[name][1]):
        for position in range(count):
            key = f"conv{stage + 2}_x.{position}"
            stride = 2 if stage and not position else 1
            y = read.norm(read.conv(x, f"{key}.residual_function.0", stride), f"{key}.residual_function.1")
            y = activation(y, f"{key}.residual_function.2")
            y = read.norm(read.conv(y, f"{key}.residual_function.3"), f"{key}.residual_function.4")
            if f"{key}.shortcut.0.weight" in state:
                x = read.norm(read.conv(x, f"{key}.shortcut.0", stride), f"{key}.shortcut.1")
            x = activation(y + x, f"{key}.{last}")
    return read.linear(x.mean((2, 3)), "fc")


def qcfs_vgg(parameter, classes=10, bias=True, side=1, device="cpu"):
    """Keys of Models/VGG.py: five blocks of (convolution, norm, activation, dropout)..., pool; then the classifier."""
    writer = Writer(2, device)
    before = 3
    for block, widths in enumerate(VGG16, start=1):
        for position, width in enumerate(widths):
            index = 4 * position
            writer.conv(f"layer{block}.{index}", before, width, 3, bias)
            writer.norm(f"layer{block}.{index + 1}", width)
            if parameter:
                writer.scalar(f"layer{block}.{index + 2}.{parameter}", 1.5, 3.0)
            before = width
    for index, (before, after) in zip((1, 4, 7), ((512 * side**2, 4096), (4096, 4096), (4096, classes)), strict=True):
        writer.linear(f"classifier.{index}", before, after, bias)
        if parameter and index < 7:
            writer.scalar(f"classifier.{index + 1}.{parameter}", 1.5, 3.0)
    return writer.state


def qcfs_vgg_logits(state, activation, x):
    read = Reader(state)
    for block, widths in enumerate(VGG16, start=1):
        for position in range(len(widths)):
            key = f"layer{block}.{4 * position}"
            x = read.norm(read.conv(x, key), f"layer{block}.{4 * position + 1}")
            x = activation(x, f"layer{block}.{4 * position + 2}")
        x = F.avg_pool2d(x, 2)
    x = x.flatten(1)
    for index in (1, 4):
        x = activation(read.linear(x, f"classifier.{index}"), f"classifier.{index + 1}")
    return read.linear(x, "classifier.7")


def qcfs_activation(state, parameter, levels=4):
    read = Reader(state)
    if parameter is None:
        return lambda x, key: x.relu()
    quantise = read.clamp_then_floor if parameter == "thresh" else read.floor_then_clamp
    return lambda x, key: quantise(x, f"{key}.{parameter}", levels)


SOURCES = {
    "thresh": ("QCFS, new repository", "qcfs"),
    "up": ("QCFS, old repository, or SRP or COS", "qcfs"),
    None: ("QCFS, SRP or COS, before quantisation", "relu"),
}


def assert_described(translation, parameter):
    assert (translation.source, translation.method) == SOURCES[parameter]
    assert translation.options == {}
    assert any("levels" in flag for flag in translation.flags) == (parameter is not None)


@pytest.mark.parametrize("name", RESNETS)
@pytest.mark.parametrize("parameter", SOURCES)
def test_the_resnets_of_qcfs_srp_and_cos(name, parameter):
    state = qcfs_resnet(name, parameter)
    translation = translate(state, name)
    assert_described(translation, parameter)
    options = {"levels": 8} if parameter else {}
    network = loaded(name, translation, **options)
    last = "act" if parameter == "thresh" else "relu"
    x = images(1)
    expected = qcfs_resnet_logits(state, name, qcfs_activation(state, parameter, 8), last, x)
    with torch.no_grad():
        assert_same(expected, network(x))


@pytest.mark.parametrize("parameter", SOURCES)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_the_vgg16_of_qcfs_srp_and_cos(parameter, bias):
    state = qcfs_vgg(parameter, bias=bias)
    translation = translate(state, "vgg16")
    assert_described(translation, parameter)
    network = loaded("vgg16", translation)
    x = images(1)
    with torch.no_grad():
        assert_same(qcfs_vgg_logits(state, qcfs_activation(state, parameter), x), network(x))


@pytest.mark.parametrize("name", ["resnet34-qcfs", "vgg16-qcfs"])
def test_their_imagenet_networks_fit(name):
    theirs = {"resnet34-qcfs": lambda: qcfs_resnet("resnet34", "up", 1000, "meta")}.get(
        name, lambda: qcfs_vgg("up", 1000, side=7, device="meta")
    )()
    with torch.device("meta"):
        own = methods.get("qcfs")().prepare(build(name, 3, 1000, 224)).state_dict()
    for wanted in (name, name.removesuffix("-qcfs")):
        translation = translate(theirs, wanted)
        assert {key: value.shape for key, value in translation.state.items()} == {
            key: value.shape for key, value in own.items()
        }
    assert likely_backbone(translation.state) == name


def test_a_vgg_without_batch_norm_is_not_taken_for_one_with(tmp_path):
    """vgg16_wobn of the new repository has maximum pools and no norms: nothing of ours is that."""
    writer = Writer()
    before = 3
    for block, widths in enumerate(VGG16, start=1):
        for position, width in enumerate(widths):
            writer.conv(f"layer{block}.{3 * position}", before, width, 3, bias=True)
            writer.scalar(f"layer{block}.{3 * position + 1}.thresh", 1, 2)
            before = width
    writer.linear("classifier.1", 512, 10)
    translation = translate(writer.state, "vgg16")
    assert translation.source == "native" and translation.state.keys() == writer.state.keys()
    with pytest.raises(CheckpointError, match=r"not known: .*layer1\.0\.bias"):
        loaded("vgg16", translation)


# The Dynamic Confidence demo


def demo_resnet18(logits_quantiser=True):
    """Keys of NeuralNet in main.py, with the 2-bit activations that it puts in."""
    writer = Writer(3)
    writer.conv("conv1", 3, 64, 3)
    writer.norm("bn1", 64)
    writer.scalar("activation1.scale", 0.4, 0.8)
    before = 64
    for stage, width in enumerate(WIDE, start=1):
        for position in range(2):
            key = f"layer{stage}.{position}"
            writer.conv(f"{key}.conv1", before, width, 3)
            writer.norm(f"{key}.bn1", width)
            writer.scalar(f"{key}.activation1.scale", 0.3, 0.7)
            writer.conv(f"{key}.conv2", width, width, 3)
            writer.norm(f"{key}.bn2", width)
            writer.scalar(f"{key}.activation2.scale", 0.3, 0.7)
            if before != width:
                writer.conv(f"{key}.downsample.0", before, width, 1)
                writer.norm(f"{key}.downsample.1", width)
            before = width
    writer.linear("fc", 512, 10)
    if logits_quantiser:
        writer.scalar("activation2.scale", 0.4, 0.6)
    return writer.state


def demo_logits(state, x):
    """Before the quantiser of the logits."""
    read = Reader(state)
    x = read.lsq(read.norm(read.conv(x, "conv1"), "bn1"), "activation1.scale", 2)
    for stage, position in itertools.product(range(1, 5), range(2)):
        key = f"layer{stage}.{position}"
        stride = 2 if stage > 1 and not position else 1
        y = read.norm(read.conv(x, f"{key}.conv1", stride), f"{key}.bn1")
        y = read.lsq(y, f"{key}.activation1.scale", 2)
        y = read.norm(read.conv(y, f"{key}.conv2"), f"{key}.bn2")
        if f"{key}.downsample.0.weight" in state:
            x = read.norm(read.conv(x, f"{key}.downsample.0", stride), f"{key}.downsample.1")
        x = read.lsq(y + x, f"{key}.activation2.scale", 2)
    return read.linear(F.avg_pool2d(x, 4).flatten(1), "fc")


def test_the_demo_of_dynamic_confidence():
    state = demo_resnet18()
    translation = translate(state, "resnet18")
    assert (translation.source, translation.method) == ("Dynamic Confidence demo", "qffs")
    assert translation.options == {"levels": 3}
    assert len(translation.flags) == 2 and "logits" in translation.flags[1]
    assert len(translate(demo_resnet18(logits_quantiser=False), "resnet18").flags) == 1
    network = loaded("resnet18", translation)
    x = images(2)
    expected = demo_logits(state, x)
    with torch.no_grad():
        assert_same(expected, network(x))

    as_qcfs = methods.get("qcfs")(levels=3).prepare(build("resnet18", 3, 10, 32)).double().eval()
    load_into(as_qcfs, with_activations(translation.state, "threshold", 3), "demo.pth", "resnet18")
    with torch.no_grad():
        assert_same(expected, as_qcfs(x))


def test_thresholds_and_steps_change_into_each_other():
    state = {"relu.step": torch.tensor(0.7), "head.weight": torch.ones(2)}
    there = with_activations(state, "threshold", 3)
    assert there.keys() == {"relu.threshold", "head.weight"} and float(there["relu.threshold"]) == pytest.approx(2.1)
    back = with_activations(there, "step", 3)
    assert back.keys() == state.keys() and float(back["relu.step"]) == pytest.approx(0.7)
    assert with_activations(state, "step", 3) == state
    with pytest.raises(ValueError, match="threshold or step"):
        with_activations(state, "scale", 3)


# CIFAR ResNets of akamaster and kuangliu


def akamaster_resnet(count, projection=False, widths=NARROW):
    writer = Writer(4)
    writer.conv("conv1", 3, widths[0], 3)
    writer.norm("bn1", widths[0])
    before = widths[0]
    for stage, width in enumerate(widths, start=1):
        for position in range(count):
            key = f"layer{stage}.{position}"
            writer.conv(f"{key}.conv1", before, width, 3)
            writer.norm(f"{key}.bn1", width)
            writer.conv(f"{key}.conv2", width, width, 3)
            writer.norm(f"{key}.bn2", width)
            if projection and before != width:
                writer.conv(f"{key}.shortcut.0", before, width, 1)
                writer.norm(f"{key}.shortcut.1", width)
            before = width
    writer.linear("linear", before, 10)
    return writer.state


def akamaster_logits(state, x):
    read = Reader(state)
    x = read.norm(read.conv(x, "conv1"), "bn1").relu()
    for key in dict.fromkeys(key.rpartition(".conv1")[0] for key in state if ".conv1." in key):
        stride = 2 if not key.startswith("layer1.") and key.endswith(".0") else 1
        y = read.norm(read.conv(x, f"{key}.conv1", stride), f"{key}.bn1").relu()
        y = read.norm(read.conv(y, f"{key}.conv2"), f"{key}.bn2")
        if f"{key}.shortcut.0.weight" in state:
            x = read.norm(read.conv(x, f"{key}.shortcut.0", stride), f"{key}.shortcut.1")
        elif x.shape[1] != y.shape[1]:
            padding = (y.shape[1] - x.shape[1]) // 2
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, padding, padding))
        x = (x + y).relu()
    return read.linear(x.mean((2, 3)), "linear")


@pytest.mark.parametrize(("name", "count"), [("resnet20", 3), ("resnet32", 5), ("resnet44", 7), ("resnet56", 9)])
@pytest.mark.parametrize("suffix", ["", "-a"])
def test_akamasters_resnets_fit_both_kinds_of_shortcut(name, count, suffix):
    state = akamaster_resnet(count)
    translation = translate(state, name + suffix)
    assert (translation.method, translation.options, translation.flags) == ("relu", {}, ())
    assert translation.source.startswith("akamaster")
    x = images(1)
    with torch.no_grad():
        assert_same(akamaster_logits(state, x), loaded(name + suffix, translation)(x))


def test_shortcuts_with_weights_keep_them():
    for name, state in (
        ("resnet20", akamaster_resnet(3, projection=True)),
        ("resnet18", akamaster_resnet(2, projection=True, widths=WIDE)),
    ):
        x = images(1)
        with torch.no_grad():
            assert_same(akamaster_logits(state, x), loaded(name, translate(state, name))(x))


def test_missing_counters_are_added():
    for make, name in (
        (lambda: akamaster_resnet(3), "resnet20-a"),
        (lambda: qcfs_resnet("resnet20", "thresh"), "resnet20"),
        (demo_resnet18, "resnet18"),
        (lambda: build("resnet18", 3, 1000, 224).state_dict(), "resnet18"),
    ):
        state = {key: value for key, value in make().items() if not key.endswith("num_batches_tracked")}
        assert translate(state, name).state.keys() == translate(make(), name).state.keys()


@pytest.fixture(scope="module")
def real_images(shared):
    """500 test images of CIFAR-10 as akamaster's networks take them, float32 [N, 3, 32, 32], and their labels."""
    tiles, labels = real_tiles(shared, rows=5)
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (tiles / 255 - mean) / std, labels


def test_the_real_resnet20_sees_real_images(shared, real_images):
    path = shared("weights/resnet20-12fca82f.th")
    pictures, labels = real_images
    logits = {}
    for name in ("resnet20", "resnet20-a"):
        network = build(name, 3, 10, 32)
        load_into(network, translate(read_weights(path), name).state, path, name)
        with torch.no_grad():
            logits[name] = network.eval()(pictures)
    torch.testing.assert_close(logits["resnet20"], logits["resnet20-a"], rtol=1e-4, atol=1e-4)
    right = (logits["resnet20-a"].argmax(1) == labels).double().mean()
    assert 0.89 < right < 0.95  # 91.73% on all 10,000
    with torch.no_grad():
        theirs = akamaster_logits(
            {key: value.double() for key, value in read_weights(path).items()}, pictures[:50].double()
        )
    torch.testing.assert_close(logits["resnet20-a"][:50], theirs.float(), rtol=1e-4, atol=1e-4)


def test_projections_are_the_default():
    """Without a wish for one kind of shortcut, akamaster's weights become those of the option-B networks."""
    assert from_akamaster(akamaster_resnet(3)).keys() == build("resnet20", 3, 10, 32).state_dict().keys()


# What is ours or a library's already


@pytest.mark.parametrize("method", ["qcfs", "qffs"])
def test_our_own_state_dicts_pass(method):
    state = methods.get(method)().prepare(build("resnet20", 3, 10, 32)).state_dict()
    translation = translate(state, "resnet20")
    assert (translation.source, translation.method, translation.options) == ("native", method, {})
    assert translation.state.keys() == state.keys()
    assert all(translation.state[key] is state[key] for key in state)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg16_bn", "squeezenet1_0", "mobilenet_v2"])
def test_torchvisions_state_dicts_pass_and_load(name):
    ours = name.replace("_bn", "-bn")
    with torch.device("meta"):
        state = getattr(models, name)().state_dict()
        own = build(ours, 3, 1000, 224).state_dict()
    translation = translate(state, ours)
    assert (translation.source, translation.method, translation.flags) == ("native", "relu", ())
    assert translation.state.keys() == own.keys()


def test_timms_state_dicts_pass_and_load():
    import timm

    state = timm.create_model("resnet18", num_classes=5).state_dict()
    translation = translate(state, "timm:resnet18")
    assert (translation.source, translation.method) == ("native", "relu")
    load_into(build("timm:resnet18", 3, 5, 224), translation.state, "model.safetensors", "timm:resnet18")


# What does not fit


@pytest.mark.parametrize(
    ("make", "wanted", "likely"),
    [
        (lambda: qcfs_resnet("resnet20", "up"), "resnet18", "resnet20"),
        (lambda: qcfs_resnet("resnet34", "thresh"), "vgg16", "resnet34"),
        (lambda: qcfs_vgg("up"), "vgg16-slim", "vgg16"),
        (demo_resnet18, "resnet20", "resnet18"),
        (lambda: akamaster_resnet(9), "resnet18", "resnet56"),
        (lambda: akamaster_resnet(9), "resnet20-a", "resnet56-a"),
    ],
)
def test_the_wrong_network_is_told_which_is_right(make, wanted, likely):
    state = make()
    with pytest.raises(CheckpointError, match=f"does not fit {wanted}") as refused:
        loaded(wanted, translate(state, wanted))
    assert f"It looks like {likely!r}: try --model {likely}." in str(refused.value)


def test_two_keys_for_one_weight_are_refused():
    state = {**akamaster_resnet(3), "head.weight": torch.ones(10, 64)}
    with pytest.raises(CheckpointError, match=r"holds head\.weight twice"):
        translate(state, "resnet20")


def test_files_of_parallel_training_load(tmp_path):
    state = qcfs_resnet("resnet20", "thresh")
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "theirs.pth")
    translation = translate(read_weights(tmp_path / "theirs.pth"), "resnet20")
    assert translation.source == "QCFS, new repository"
    network = loaded("resnet20", translation)
    assert network.relu.top == pytest.approx(float(state["conv1.2.thresh"]))


@pytest.mark.parametrize("state", [{}, {"a": torch.ones(2)}, {"layer1.0.weight": nn.Parameter(torch.ones(2))}])
def test_anything_else_is_left_alone(state):
    translation = translate(state, "resnet20")
    assert (translation.source, translation.method) == ("native", "relu") and translation.state == state
