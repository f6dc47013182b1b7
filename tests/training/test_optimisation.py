"""Learning rate by hand, parameter groups, recipes that cannot be."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from benchmark.backbones.small_cnn import small_cnn
from benchmark.training.optimisation import averaged, learning_rate, optimizer_of
from benchmark.training.presets import PRESETS
from benchmark.training.recipe import Recipe
from benchmark.training.thresholds import Floors
from methods.qcfs import QCFS


def test_the_learning_rate_rises_and_falls():
    recipe = Recipe(epochs=4, lr=0.5, warmup_epochs=1)
    rates = [learning_rate(recipe, step, 10) for step in range(40)]
    assert rates[:10] == pytest.approx([0.05 * (step + 1) for step in range(10)])
    assert rates[10] == 0.5
    assert rates[25] == pytest.approx(0.25)
    assert rates[39] == pytest.approx(0.25 * (1 + math.cos(math.pi * 29 / 30)))
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert learning_rate(Recipe(epochs=4, lr=0.5), 0, 10) == 0.5


def test_it_is_torchs_cosine():
    recipe = Recipe(epochs=5, lr=0.3)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 35)
    for step in range(35):
        assert learning_rate(recipe, step, 7) == pytest.approx(schedule.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("decay", [True, False])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_thresholds_are_a_group_of_their_own(kind, decay):
    model = QCFS().prepare(small_cnn(3, 4))
    thresholds = Floors(model).parameters
    recipe = Recipe(epochs=1, optimizer=kind, weight_decay=0.25, decay_thresholds=decay)
    optimizer = optimizer_of(model, thresholds, recipe)
    rest, own = optimizer.param_groups
    assert len(own["params"]) == 3 and own["weight_decay"] == (0.25 if decay else 0.0)
    assert rest["weight_decay"] == 0.25
    assert len(rest["params"]) + 3 == len(list(model.parameters()))
    assert isinstance(optimizer, torch.optim.SGD if kind == "sgd" else torch.optim.AdamW)


def test_the_average_follows_the_weights():
    model = torch.nn.Linear(1, 1, bias=False)
    average = averaged(model, Recipe(epochs=1, ema=0.75))
    expected = None
    for value in (1.0, 2.0, 4.0):
        model.weight.data.fill_(value)
        average.update_parameters(model)
        expected = value if expected is None else 0.75 * expected + 0.25 * value
    assert average.module.weight.item() == pytest.approx(expected)
    assert averaged(model, Recipe(epochs=1)) is None


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_recipes(name):
    recipe = Recipe.model_validate(PRESETS[name].recipe)
    assert recipe.epochs >= 10 and PRESETS[name].source


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, "greater than 0"),
        ({"lr": 0}, "greater than 0"),
        ({"lr": math.nan}, "finite"),
        ({"warmup_epochs": 3}, "a warm-up of 3 epochs does not fit into 3"),
        ({"augment": ("crop-flip", "resized-crop")}, "exclude each other"),
        ({"augment": ("cutout", "cutout")}, "named twice"),
        ({"ema": 1.0}, "less than 1"),
        ({"label_smoothing": 1.0}, "less than 1"),
        ({"rate": 1}, "Extra inputs"),
    ],
)
def test_recipes_that_cannot_be(fields, message):
    with pytest.raises(ValidationError, match=message):
        Recipe(**{"epochs": 3, **fields})
