"""Losses against torch's own, mixing, teachers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from benchmark.data.images import Preprocessing
from benchmark.training.objective import Objective, Teacher
from benchmark.training.recipe import Recipe
from methods.surrogate import Surrogate

UNIT = Preprocessing(255.0, (0.0,) * 3, (1.0,) * 3)


@pytest.fixture
def batch():
    random = torch.Generator().manual_seed(0)
    return torch.rand(8, 3, 4, 4, generator=random), torch.randint(0, 5, (8,), generator=random)


@pytest.fixture
def logits():
    return torch.randn(8, 5, generator=torch.Generator().manual_seed(1), requires_grad=True)


def objective(loss=F.cross_entropy, teacher=None, **recipe):
    return Objective(loss, Recipe(epochs=1, **recipe), 5, teacher)


def test_the_plain_loss_is_the_methods(batch, logits):
    images, labels = batch
    plain = objective()
    assert plain.mixed(images, labels)[1] is labels
    assert torch.equal(plain(logits, images, labels), F.cross_entropy(logits, labels))


def test_smoothed_labels_are_torchs(batch, logits):
    images, labels = batch
    smooth = objective(label_smoothing=0.2)
    found = smooth(logits, *smooth.mixed(images, labels))
    assert found.item() == pytest.approx(F.cross_entropy(logits, labels, label_smoothing=0.2).item(), rel=1e-6)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_images_have_mixed_labels(batch, kind):
    images, labels = batch
    images = torch.ones_like(images) * labels[:, None, None, None]  # an image is its label
    mixing = objective(**{kind: 1.0})
    assert mixing.mixes
    torch.manual_seed(4)
    mixed, shares = mixing.mixed(images, labels)
    assert shares.shape == (8, 5) and torch.allclose(shares.sum(1), torch.ones(8))
    assert ((shares > 0).sum(1) == 2).any()
    expected = (shares * torch.arange(5.0)).sum(1)
    assert torch.allclose(mixed.mean((1, 2, 3)), expected, atol=1e-5)
    torch.manual_seed(4)
    assert torch.equal(mixing.mixed(images, labels)[0], mixed)


def test_smoothing_of_mixed_labels(batch):
    images, labels = batch
    torch.manual_seed(0)
    _, shares = objective(mixup=1.0).mixed(images, labels)
    torch.manual_seed(0)
    _, smoothed = objective(mixup=1.0, label_smoothing=0.1).mixed(images, labels)
    assert torch.allclose(smoothed, shares * 0.9 + 0.02)


def teacher(students=UNIT, its=UNIT):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 5))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        torch.nn.init.normal_(network[1].weight)
    return Teacher(network.eval(), its, students)


def test_distillation_by_hand(batch, logits):
    images, labels = batch
    wise = teacher()
    found = objective(teacher=wise, distill=0.3, temperature=2.0)(logits, images, labels)
    wanted, own = F.softmax(wise(images) / 2, 1), F.log_softmax(logits / 2, 1)
    distance = (wanted * (wanted.log() - own)).sum(1).mean()
    expected = 0.7 * F.cross_entropy(logits, labels) + 0.3 * 4 * distance
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    found.backward()
    assert all(parameter.grad is None for parameter in wise.network.parameters())


def test_a_student_that_answers_as_its_teacher_is_at_the_least_distance(batch):
    images, labels = batch
    wise = teacher()
    found = objective(loss=lambda outputs, labels: outputs.sum() * 0, teacher=wise, distill=1.0)
    answers = wise(images)
    assert found(answers, images, labels).item() == pytest.approx(0, abs=1e-6)
    assert found(answers + torch.arange(5.0), images, labels).item() > 0.1


def test_a_teacher_sees_its_own_preprocessing(batch):
    pixels = (batch[0] * 255).round()
    students = Preprocessing(255.0, (0.2, 0.3, 0.4), (0.5, 0.6, 0.7))
    its = Preprocessing(1.0, (100.0, 110.0, 120.0), (2.0, 3.0, 4.0))

    def made(preprocessing):
        mean, std = (torch.tensor(part)[:, None, None] for part in (preprocessing.mean, preprocessing.std))
        return (pixels / preprocessing.divisor - mean) / std

    wise = teacher(students, its)
    assert torch.allclose(wise(made(students)), wise.network(made(its)), rtol=1e-4, atol=1e-3)


def test_the_loss_over_time_takes_shares_of_classes():
    outputs = torch.randn(3, 8, 5, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(8) % 5
    method = Surrogate(steps=3)
    assert method.loss(outputs, F.one_hot(labels, 5).float()).item() == pytest.approx(
        method.loss(outputs, labels).item(), rel=1e-6
    )


def test_distillation_of_a_network_over_time(batch):
    images, labels = batch
    outputs = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(2))
    wise = teacher()
    over_time = objective(Surrogate(steps=2).loss, wise, distill=1.0)
    plain = objective(teacher=wise, distill=1.0)
    assert over_time(outputs, images, labels).item() == pytest.approx(plain(outputs.mean(0), images, labels).item())
