"""The optimizer, its learning rate, and the average of the weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmark.training.recipe import Recipe


def optimizer_of(model: nn.Module, thresholds: list[nn.Parameter], recipe: Recipe) -> Optimizer:
    """Momentum SGD or AdamW on all parameters; the thresholds are a group of their own."""
    apart = {id(parameter) for parameter in thresholds}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in apart]
    groups: list[dict[str, Any]] = [{"params": rest}]
    if thresholds:
        decay = recipe.weight_decay if recipe.decay_thresholds else 0.0
        groups.append({"params": thresholds, "weight_decay": decay})
    if recipe.optimizer == "adamw":
        return AdamW(groups, recipe.lr, weight_decay=recipe.weight_decay)
    nesterov = recipe.momentum > 0
    return SGD(groups, recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=nesterov)


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """That of a step, counted from 0 over all epochs: a linear rise to `recipe.lr`, then half a cosine to zero."""
    total, warmup = recipe.epochs * steps_per_epoch, round(recipe.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def set_learning_rate(optimizer: Optimizer, value: float) -> None:
    """For all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = value


def averaged(model: nn.Module, recipe: Recipe) -> AveragedModel | None:
    """The exponential moving average of weights and buffers, on the same device; None if the recipe has none."""
    if recipe.ema is None:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)


def norm_clipped(model: nn.Module, recipe: Recipe) -> None:
    """Clip the gradient, if the recipe says so."""
    if recipe.clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
