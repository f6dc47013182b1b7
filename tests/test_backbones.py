"""Backbones by name: the right form for the image size, the published sizes, exact shortcuts, timm's and plug-ins'."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, environment
from torch import nn
from torchvision import models

from benchmark import backbones
from benchmark.backbones import BACKBONES, BackboneEntry, build, builders, check
from benchmark.backbones.from_timm import download_timm, locate_timm, timm_preprocessing
from benchmark.backbones.resnet import resnet20_a, zero_padded_shortcut
from benchmark.checkpoints import likely_backbone, load_into, read_weights
from benchmark.errors import CheckpointError, UsageError
from benchmark.locating import locate
from methods.qcfs import QCFS
from methods.tracing import trace

TORCHVISION = {
    "resnet18": "resnet18",
    "resnet34": "resnet34",
    "resnet50": "resnet50",
    "vgg16": "vgg16",
    "vgg16-bn": "vgg16_bn",
    "squeezenet1_0": "squeezenet1_0",
    "mobilenet_v2": "mobilenet_v2",
}
# Millions of weights, with 10 classes at 32 px and 1000 at 224 px.
CIFAR_SIZES = {
    "resnet20": 0.272,
    "resnet20-a": 0.270,
    "resnet32": 0.467,
    "resnet32-a": 0.464,
    "resnet44": 0.661,
    "resnet44-a": 0.659,
    "resnet56": 0.856,
    "resnet56-a": 0.853,
    "resnet18": 11.17,
    "resnet34": 21.28,
    "vgg16": 33.65,
    "vgg16-slim": 14.73,
}
IMAGENET_SIZES = {
    "resnet18": 11.69,
    "resnet34": 21.80,
    "resnet34-qcfs": 21.79,
    "resnet50": 25.56,
    "vgg16": 138.36,
    "vgg16-bn": 138.37,
    "vgg16-qcfs": 138.37,
    "squeezenet1_0": 1.25,
    "mobilenet_v2": 3.50,
}


def on_meta(name, in_channels=3, num_classes=10, image_size=32):
    with torch.device("meta"):
        return build(name, in_channels, num_classes, image_size)


def shapes(network):
    return {key: value.shape for key, value in network.state_dict().items()}


def macs(network, image_size):
    """Multiplications of all convolutions and linear layers for one image; nothing is computed."""
    total = 0

    def count(layer, _, output):
        nonlocal total
        total += output.numel() * layer.weight.numel() // len(layer.weight)

    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(count)
    network.eval()(torch.zeros(1, 3, image_size, image_size, device="meta"))
    return total


# The table


@pytest.mark.parametrize(
    ("name", "image_size"), [*((name, 32) for name in CIFAR_SIZES), *((name, 224) for name in IMAGENET_SIZES)]
)
def test_logits_have_the_right_shape(name, image_size):
    network = on_meta(name, 3, 7, image_size).eval()
    assert network(torch.zeros(2, 3, image_size, image_size, device="meta")).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "classes", "size", "millions"),
    [(name, 10, 32, value) for name, value in CIFAR_SIZES.items()]
    + [(name, 1000, 224, value) for name, value in IMAGENET_SIZES.items()],
)
def test_numbers_of_weights_are_the_published_ones(name, classes, size, millions):
    found = sum(parameter.numel() for parameter in on_meta(name, 3, classes, size).parameters()) / 1e6
    assert found == pytest.approx(millions, abs=0.006 if millions > 1 else 0.0006)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_form_can_be_traced(name):
    for size in (32, 64):
        trace(on_meta(name, 1, 10, size))


@pytest.mark.parametrize("size", [63, 64])
def test_large_images_get_the_imagenet_form(size):
    found = on_meta("resnet18", 3, 10, size)
    assert isinstance(found, models.ResNet) == (size == 64)
    assert len(builders("resnet18")) == 2 and len(builders("resnet20")) == 1


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_networks_are_torchvisions(name):
    with torch.device("meta"):
        theirs = getattr(models, TORCHVISION[name])()
    ours = on_meta(name, 3, 1000, 224)
    assert shapes(ours) == shapes(theirs) and str(ours) == str(theirs)


@pytest.mark.parametrize("name", TORCHVISION)
@pytest.mark.parametrize("in_channels", [1, 4])
def test_torchvisions_networks_take_other_channels(name, in_channels):
    network = on_meta(name, in_channels, 10, 224).eval()
    assert network(torch.zeros(1, in_channels, 224, 224, device="meta")).shape == (1, 10)
    fresh, plain = shapes(network), shapes(on_meta(name, 3, 10, 224))
    assert fresh.keys() == plain.keys() and sum(fresh[key] != plain[key] for key in fresh) == 1


def test_the_papers_resnet34_costs_fifteen_times_the_usual_one():
    papers, usual = (macs(on_meta(name, 3, 1000, 224), 224) for name in ("resnet34-qcfs", "resnet34"))
    assert papers / 1e9 == pytest.approx(56.8, abs=0.05)
    assert usual / 1e9 == pytest.approx(3.66, abs=0.01)
    sizes = []
    network = on_meta("resnet34-qcfs", 3, 1000, 224)
    for part in (network.conv1, *network.stages):
        part.register_forward_hook(lambda _, __, output: sizes.append(tuple(output.shape[1:])))
    network.eval()(torch.zeros(1, 3, 224, 224, device="meta"))
    assert sizes == [(64, 224, 224), (64, 224, 224), (128, 112, 112), (256, 56, 56), (512, 28, 28)]


def test_the_usual_costs():
    for name, expected in (("resnet18", 1.81), ("resnet50", 4.09), ("vgg16", 15.47), ("mobilenet_v2", 0.30)):
        assert macs(on_meta(name, 3, 1000, 224), 224) / 1e9 == pytest.approx(expected, abs=0.011), name


def test_the_slim_vgg_is_the_vgg_up_to_its_head():
    slim, full = build("vgg16-slim", 3, 10, 32), build("vgg16", 3, 10, 32)
    slim.features.load_state_dict(full.features.state_dict())
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(slim.eval().features(images), full.eval().features(images))
        assert slim(torch.rand(1, 3, 64, 64)).shape == (1, 10)


# Option-A shortcuts


@pytest.mark.parametrize(("size", "stride"), [(8, 2), (7, 2), (8, 1)])
def test_the_fixed_shortcut_is_slice_and_pad_exactly(size, stride):
    x = torch.randn(2, 5, size, size, generator=torch.Generator().manual_seed(1))
    expected = F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 3, 4))
    shortcut = zero_padded_shortcut(5, 12, stride)
    for kind in (torch.float32, torch.float64):
        assert torch.equal(shortcut.to(kind)(x.to(kind)), expected.to(kind))


def test_the_fixed_shortcut_is_neither_trained_nor_stored():
    network = resnet20_a()
    assert not any("shortcut" in name for name, _ in network.named_parameters())
    assert not any("shortcut" in name for name in network.state_dict())
    before = network.stages[1][0].shortcut.weight.clone()
    assert before.sum() == 16 and before[8:24, :, 0, 0].equal(torch.eye(16))
    optimiser = torch.optim.SGD(network.requires_grad_(True).parameters(), lr=1.0, weight_decay=0.1)
    network(torch.rand(2, 3, 32, 32)).sum().backward()
    optimiser.step()
    assert torch.equal(network.stages[1][0].shortcut.weight, before)


@pytest.mark.parametrize("name", ["resnet20-a", "vgg16-slim"])
def test_they_become_spiking_networks(name):
    torch.manual_seed(0)
    method = QCFS(levels=4, threshold=1.0)
    quantised = method.prepare(build(name, 3, 10, 32)).eval()
    images = torch.rand(2, 3, 32, 32)
    network = method.convert(quantised, images)
    network.begin(images)
    with torch.no_grad():
        total = sum(network.step() for _ in range(64)) / 64
    assert total.shape == (2, 10) and torch.isfinite(total).all()


# Names


def test_an_unknown_name_suggests_near_ones():
    for use in (check, lambda name: build(name, 3, 10, 32)):
        with pytest.raises(UsageError, match="unknown model 'resnet2o'") as refused:
            use("resnet2o")
        assert "'resnet20'" in str(refused.value)
        with pytest.raises(UsageError, match="unknown timm model 'resnet_18'") as refused:
            use("timm:resnet_18")
        assert "'resnet18'" in str(refused.value)
        with pytest.raises(UsageError, match=r"unknown timm model 'resnet18\.tv_in1k1'") as refused:
            use("timm:resnet18.tv_in1k1")
        assert "'resnet18.tv_in1k'" in str(refused.value)
    check("resnet20")
    check("timm:resnet18")
    check("timm:resnet18.tv_in1k")


@pytest.mark.parametrize("name", ["timm:resnet18", "timm:resnet18.tv_in1k", "timm:vgg16_bn"])
def test_timms_networks_are_built_by_name(name):
    network = on_meta(name, 1, 7, 64).eval()
    assert network(torch.zeros(1, 1, 64, 64, device="meta")).shape == (1, 7)


def test_plug_ins_are_built_by_name(fresh_registry):
    made = []

    def mine(in_channels, num_classes):
        made.append((in_channels, num_classes))
        return nn.Linear(in_channels, num_classes)

    fresh_registry.register("models", "mine", mine)
    fresh_registry.register(
        "models", "both", BackboneEntry("benchmark.backbones.resnet:resnet20", "", "torch.nn:Linear")
    )
    assert isinstance(build("mine", 2, 5, 224), nn.Linear) and made == [(2, 5)]
    assert isinstance(on_meta("both", 2, 5, 64), nn.Linear) and not isinstance(on_meta("both", 2, 5, 63), nn.Linear)
    check("mine")


def test_the_likely_backbone_knows_every_form_and_leaves_timm_alone():
    for name in ("resnet18", "resnet34", "vgg16"):
        assert likely_backbone(on_meta(name, 3, 1000, 224).state_dict()) == name
    assert likely_backbone(on_meta("resnet34-qcfs", 3, 1000, 224).state_dict()) == "resnet34-qcfs"
    assert likely_backbone(on_meta("resnet34", 3, 10, 32).state_dict()) == "resnet34"
    program = (
        "import sys, torch; from benchmark.checkpoints import likely_backbone;"
        "likely_backbone({'a.weight': torch.ones(2)}); sys.exit('timm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], env=environment(), check=False, timeout=120)
    assert done.returncode == 0


def test_the_table_and_the_names_need_no_torch():
    program = (
        "import sys; from benchmark import backbones; backbones.check('resnet34');"
        "sys.exit(bool({'torch', 'timm', 'torchvision'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], env=environment(), check=False, timeout=120)
    assert done.returncode == 0
    assert all(entry.summary for entry in backbones.BACKBONES.values())


def test_a_real_torchvision_file_loads(shared):
    path = shared("weights/squeezenet1_0-imagenet.safetensors")
    network = build("squeezenet1_0", 3, 1000, 227)
    load_into(network, read_weights(path), path, "squeezenet1_0")
    with torch.no_grad():
        assert network.eval()(torch.zeros(1, 3, 227, 227)).shape == (1, 1000)


# timm's weights


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of the Hugging Face Hub, and a function that puts a file into it as the Hub's client does."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(repository, file, commit="0" * 40):
        folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        (folder / "blobs").mkdir(parents=True, exist_ok=True)
        (folder / "blobs" / f"{len(file):064x}").write_bytes(file.encode())
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(commit)
        link = folder / "snapshots" / commit / file
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(folder / "blobs" / f"{len(file):064x}", link.parent))
        return link

    return put


def test_cached_weights_are_found(hub):
    with pytest.raises(CheckpointError, match="timm:resnet18 are not on this disk") as refused:
        locate("timm:resnet18")
    assert "python -m benchmark prepare timm:resnet18" in str(refused.value)
    pickled = hub("timm/resnet18.a1_in1k", "pytorch_model.bin")
    assert locate("timm:resnet18") == pickled
    safe = hub("timm/resnet18.a1_in1k", "model.safetensors")
    assert locate("timm:resnet18") == locate("timm:resnet18.a1_in1k") == safe
    with pytest.raises(CheckpointError, match=r"timm:resnet18\.tv_in1k are not"):
        locate("timm:resnet18.tv_in1k")


def test_the_cache_is_the_one_of_the_environment(hub, tmp_path):
    safe = hub("timm/resnet18.a1_in1k", "model.safetensors")
    program = "import json; from benchmark.locating import locate; print(json.dumps(str(locate('timm:resnet18'))))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment(HF_HUB_CACHE=str(tmp_path / "hub"), HF_HUB_OFFLINE="1"),
        capture_output=True,
        check=True,
        timeout=120,
    )
    assert json.loads(done.stdout) == str(safe)


def test_weights_that_timm_does_not_have():
    for name in ("beit3_giant_patch14_224", "resnet_18"):
        with pytest.raises(UsageError, match=name):
            locate_timm(name)
        with pytest.raises(UsageError, match=name):
            timm_preprocessing(name)


def test_download_takes_the_first_file_there_is(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    asked = []
    there = {"pytorch_model.bin"}

    def fetch(repository, file):
        asked.append((repository, file))
        if file not in there:
            raise EntryNotFoundError("404")
        return f"/cache/{file}"

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    assert download_timm("resnet18").name == "pytorch_model.bin"
    assert asked == [("timm/resnet18.a1_in1k", file) for file in ("model.safetensors", "pytorch_model.bin")]
    there.clear()
    with pytest.raises(CheckpointError, match="holds none of"):
        download_timm("resnet18")

    def unreachable(repository, file):
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(CheckpointError, match="cannot be reached"):
        download_timm("resnet18")

    def refused(repository, file):
        raise OSError("disk full")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refused)
    with pytest.raises(CheckpointError, match="disk full"):
        download_timm("resnet18")


def test_preprocessing_is_what_timm_evaluates_with():
    assert timm_preprocessing("resnet18.tv_in1k") == {
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "crop": 224,
        "resize": 256,
        "interpolation": "bilinear",
    }
    # 224 / 0.95 = 235.8, which timm rounds down.
    assert timm_preprocessing("resnet18")["resize"] == 235
    import timm

    for name in ("resnet18", "resnet50.a1_in1k", "vgg16_bn", "mobilenetv2_100", "test_resnet"):
        found = timm_preprocessing(name)
        config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
        resize, crop = timm.data.create_transform(**config).transforms[:2]
        assert (found["resize"], found["interpolation"]) == (resize.size, resize.interpolation.value), name
        assert crop.size in (found["crop"], (found["crop"], found["crop"])), name
        assert (found["mean"], found["std"]) == (config["mean"], config["std"]), name
    with pytest.raises(CheckpointError, match="central square"):
        timm_preprocessing("convnext_small.in12k_ft_in1k_384")
