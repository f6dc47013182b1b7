"""Checkpoints as files: weights and card written, weights read and put into networks.

Pickled PyTorch files are read with `weights_only=True`; code in them is refused, never executed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.backbones import builders
from benchmark.card import KEY, Card, read_card
from benchmark.errors import CheckpointError
from benchmark.store import write_atomic
from benchmark.tensor_files import SUFFIX, kind_hint, read_header

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, in float32 where it is floating point.

    Raises CheckpointError if the file is truncated, holds code, or holds no state dict.
    """
    import torch

    if path.suffix == SUFFIX:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        read_header(path)
        try:
            state: Any = load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is not a complete safetensors file: {error}.") from error
    else:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds on damaged or unsafe files
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(
                f"{path} cannot be read as weights only (nothing in it was executed): {reason}", kind_hint(path)
            ) from error
        while isinstance(state, Mapping):
            inner = next(
                (state[key] for key in ("state_dict", "model", "net") if isinstance(state.get(key), Mapping)), None
            )
            if inner is None:
                break
            state = inner
    if (
        not isinstance(state, Mapping)
        or not state
        or not all(isinstance(value, torch.Tensor) for value in state.values())
    ):
        raise CheckpointError(f"{path} holds no state dict.")
    names = {key: str(key).removeprefix("module.") for key in state}
    if len(set(names.values())) < len(names):
        raise CheckpointError(f"{path} holds weights twice, with and without `module.` in front.")
    return {names[key]: value.float() if value.is_floating_point() else value for key, value in state.items()}


def as_stored(state: Mapping[str, Tensor], half: bool = False) -> dict[str, Tensor]:
    """Copies of weights as a checkpoint keeps them: with `half` in float16 but for norms and scalars, on the CPU."""

    def stored(value: Tensor) -> Tensor:
        narrow = half and value.is_floating_point() and value.dim() > 1
        return (value.half() if narrow else value).detach().cpu().contiguous().clone()

    return {name: stored(value) for name, value in state.items()}


def write_checkpoint(path: Path, state: Mapping[str, Tensor], card: Card, half: bool = False) -> None:
    """Write weights, `as_stored`, and card atomically."""
    from safetensors.torch import save

    write_atomic(path, save(as_stored(state, half), {KEY: card.to_json()}))


def load_into(model: nn.Module, state: Mapping[str, Tensor], path: Path, model_name: str) -> None:
    """Load weights strictly. Raises CheckpointError naming the keys and shapes that differ, and the likely architecture."""
    import torch

    own = model.state_dict()
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    shapes = [
        f"{name} is {list(state[name].shape)}, not {list(own[name].shape)}"
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape
    ]
    integers = [
        name
        for name in own.keys() & state.keys()
        if own[name].is_floating_point() and not state[name].is_floating_point()
    ]
    wrong = {
        "missing:": missing,
        "not known:": unexpected,
        "wrong shape:": sorted(shapes),
        "integers, not real numbers:": sorted(integers),
    }
    if any(wrong.values()):
        parts = [f"{label} {_few(keys)}" for label, keys in wrong.items() if keys]
        likely = likely_backbone(state)
        hint = f"It looks like {likely!r}: try --model {likely}." if likely and likely != model_name else None
        card = read_card(Path(path)) if Path(path).is_file() else None
        if card is not None and card.model == model_name:  # so nothing that is asked for would make it fit
            looks = f"the weights look like {likely!r}" if likely and likely != model_name else "the weights differ"
            hint = (
                f"Its card says {card.method} on {card.model} with {card.num_classes} classes, but {looks}: one of the two"
                " is wrong."
            )
        raise CheckpointError(f"{path} does not fit {model_name}; {'; '.join(parts)}.", hint)
    broken = [name for name, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if broken:
        raise CheckpointError(f"{path} has NaN or infinite values in {_few(broken)}.")
    model.load_state_dict(state)


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def likely_backbone(state: Mapping[str, Tensor]) -> str | None:
    """The backbone of ours, in any of its forms, whose weights match most of these by name and shape.

    None if no more than half do.
    """
    from benchmark import registry

    best, share = None, 0.5
    for name in registry.names("models"):
        for builder in builders(name):
            try:
                own = _shapes(builder)
            except TypeError:  # a plug-in whose builder has no defaults
                continue
            hits = sum(own.get(key) == value.shape for key, value in state.items())
            # Of all keys of the two: a smaller network, or one without some parts, must not look as good.
            score = hits / len(own.keys() | state.keys())
            if score > share:
                best, share = name, score
    return best


@cache
def _shapes(builder: Callable[[], nn.Module]) -> dict[str, torch.Size]:
    """Names and shapes of a backbone's weights; on the meta device no numbers are made."""
    import torch

    with torch.device("meta"):
        return {name: value.shape for name, value in builder().state_dict().items()}
