"""A guard against compilers that lose gradients without a word."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmark.errors import BenchmarkError


def refuse_lost_gradients(model: nn.Module, loss: Callable[[nn.Module], Tensor]) -> None:
    """Compare with plain torch those parameters that have no gradient, or none but zeros, after a compiled step.

    torch.compile of torch 2.11 gives zeros to everything before an autograd function that works in place, and such a training
    runs to its end with only the last layer trained.

    Args:
        model: with the gradients of the compiled step.
        loss: of the same images, from a network.

    Raises:
        BenchmarkError: plain torch finds a gradient there.
    """
    suspects = [
        name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    if not suspects:
        return
    plain = copy.deepcopy(model)
    plain.zero_grad()
    with torch.random.fork_rng(devices=[]):
        loss(plain).backward()
    wanted = {name: parameter.grad for name, parameter in plain.named_parameters()}
    lost = [name for name in suspects if (grad := wanted[name]) is not None and grad.any()]
    if lost:
        raise BenchmarkError(
            f"torch.compile of torch {torch.__version__} loses the gradients of {len(lost)} parameters, {lost[0]} among them.",
            "Train without --compile, or with another version of torch.",
        )
