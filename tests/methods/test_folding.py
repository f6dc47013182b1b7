"""Several timesteps at once on a GPU, as far as that can be told without one: how many, of whom, and that no step is lost."""

from __future__ import annotations

import pytest
import torch
from test_packed import all_of, backbone, noise, tiny

import methods.network
from methods.ahead import Ahead, folds
from methods.limits import GPU_AT_ONCE
from methods.packed import PackedLayers


@pytest.fixture
def pretended(monkeypatch):
    """A processor that is taken for a GPU: layers are not packed, timesteps are folded. Gives the timesteps of each call."""
    monkeypatch.setattr(PackedLayers, "serve", lambda self, images: False)
    monkeypatch.setattr(methods.network, "folds", lambda device: True)
    monkeypatch.setattr(methods.network, "SMALLEST_BATCH", 1)
    called, real = [], Ahead.forward
    monkeypatch.setattr(
        Ahead, "forward", lambda self, currents, steps: called.append(steps) or real(self, currents, steps)
    )
    return called


def test_processors_do_not_fold_by_themselves():
    assert not folds(torch.device("cpu")) and folds(torch.device("cuda"))


@pytest.mark.parametrize(
    ("images", "steps", "at_once", "lookahead"),
    [
        (1, 40, [32, 8], 6),
        (64, 40, [32, 8], 1),
        (100, 40, [20, 20], 1),
        (4, 3, [3], 4),
        (1024, 5, [2, 2], 1),
        (1025, 2, [], 1),
    ],
)
def test_timesteps_fill_the_device_and_a_single_one_is_replayed(
    pretended, monkeypatch, images, steps, at_once, lookahead
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)  # of a processor: no matter there
    network = tiny("qcfs", "plain")
    network.begin(noise(images, 3, 8, 8))
    assert network.lookahead == lookahead
    assert sum(1 for _ in network.steps(steps)) == steps
    assert pretended == at_once


def test_large_images_are_fewer_at_once(pretended):
    network = backbone("resnet20")
    network.begin(noise(2, 3, 512, 512))  # 16 MiB each in the largest layer
    assert network.lookahead == 2
    assert network._fitting(GPU_AT_ONCE) == 16


@pytest.mark.parametrize("name", ["qcfs", "qffs", "srp", "cos", "st-bif"])
def test_folded_timesteps_are_those_in_turn(pretended, name):
    network, images = tiny(name, "residual"), noise(3, 3, 8, 8)
    expected = all_of(network, images, 12)
    assert not pretended
    found = all_of(network, images, 12, together=True)
    assert max(pretended) > 1
    # Other numbers of rows may be rounded otherwise, but in so small a network no spike hangs on that.
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-4)
    assert all(map(torch.equal, found[1:], expected[1:]))


def test_other_precisions_are_not_folded(pretended):
    network = tiny("qcfs", "plain").double()
    network.begin(noise(1, 3, 8, 8).double())
    assert network.lookahead == 1
    list(network.steps(4))
    assert not pretended


class Images:
    """As many images on a device, as far as their sizes go."""

    def __init__(self, count, device):
        self.count, self.device = count, torch.device(device)

    def __len__(self):
        return self.count


def test_a_gpu_computes_few_numbers_of_rows():
    network = tiny("qcfs", "plain")
    assert network.row_sizes(Images(64, "cpu")) is None
    assert network.row_sizes(Images(64, "cuda")) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    assert network.row_sizes(Images(50, "cuda")) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 50]
    assert network.row_sizes(Images(1, "cuda")) == [1]
    assert len(network.row_sizes(Images(512, "cuda"))) == 18
