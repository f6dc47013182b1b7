"""Checkpoints: safetensors with a card that says what the weights are and how their input is made.

Pickled PyTorch files are read with `weights_only=True`; code in them is refused, never executed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError, field_validator

from benchmark.backbones import TIMM, builders
from benchmark.data.images import Preprocessing
from benchmark.errors import CheckpointError, unknown_name
from benchmark.spec import Frozen, Scalar
from benchmark.store import write_atomic

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SUFFIX = ".safetensors"


class Card(Frozen):
    """What travels with the weights. `preprocessing` is the one they were trained with; `flags` go into the table."""

    model: str
    method: str
    method_options: dict[str, Scalar] = Field(default_factory=dict)
    dataset: str
    num_classes: int
    in_channels: int
    preprocessing: dict[str, Any]
    training_fingerprint: str
    recipe: dict[str, Any] = Field(default_factory=dict)
    trained_from: str | None = None
    calibration_accuracy: float | None = None
    flags: tuple[str, ...] = ()

    @field_validator("preprocessing")
    @classmethod
    def _is_preprocessing(cls, values: dict[str, Any]) -> dict[str, Any]:
        try:
            Preprocessing.from_dict(values)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a preprocessing: {error!r}") from error
        return values


def zoo() -> dict[str, Path]:
    """Checkpoints shipped with the package, by name."""
    folder = Path(str(files("benchmark").joinpath("zoo")))
    return {path.stem: path for path in sorted(folder.glob(f"*{SUFFIX}"))}


def locate(source: str) -> Path:
    """The file behind FILE, zoo:NAME or timm:NAME; nothing is fetched.

    Raises UsageError for an unknown name, CheckpointError for no file.
    """
    if source.startswith("zoo:"):
        known = zoo()
        name = source.removeprefix("zoo:")
        if name not in known:
            raise unknown_name("checkpoint", name, known, "python -m benchmark list checkpoints")
        return known[name]
    if source.startswith(TIMM):
        from benchmark.backbones.from_timm import locate_timm

        return locate_timm(source.removeprefix(TIMM))
    path = Path(source)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {source} does not exist.", "Pass a file, zoo:NAME or timm:NAME.")
    return path


def read_card(path: Path) -> Card | None:
    """The card of a safetensors file, None for other files. Raises CheckpointError for a damaged file or card."""
    if path.suffix != SUFFIX:
        return None
    header = _header(path).get("__metadata__", {})
    if "card" not in header:
        return None
    try:
        return Card.model_validate_json(header["card"])
    except ValidationError as error:
        raise CheckpointError(
            f"{path}: its card is invalid: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}."
        ) from error


def _header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file, read without torch so that ids are quick."""
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > path.stat().st_size:
                raise ValueError("header is longer than the file")
            header = json.loads(stream.read(length))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a complete safetensors file: {error}.") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} is not a safetensors file.")
    return header


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, in float32 where it is floating point.

    Raises CheckpointError if the file is truncated, holds code, or holds no state dict.
    """
    import torch

    if path.suffix == SUFFIX:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

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
                f"{path} cannot be read as weights only (nothing in it was executed): {reason}"
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
    state = {name.removeprefix("module."): value for name, value in state.items()}
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def write_checkpoint(path: Path, state: Mapping[str, Tensor], card: Card, half: bool = False) -> None:
    """Write weights and card atomically; with `half` in float16 (but batch norm statistics and scalars in float32)."""
    from safetensors.torch import save

    def stored(name: str, value: Tensor) -> Tensor:
        narrow = half and value.is_floating_point() and value.dim() > 1
        return (value.half() if narrow else value).detach().cpu().contiguous().clone()

    content = save({name: stored(name, value) for name, value in state.items()}, {"card": card.model_dump_json()})
    write_atomic(path, content)


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
    if missing or unexpected or shapes:
        parts = [
            f"{label} {_few(keys)}"
            for label, keys in (("missing:", missing), ("not known:", unexpected), ("wrong shape:", sorted(shapes)))
            if keys
        ]
        likely = likely_backbone(state)
        hint = f"It looks like {likely!r}: try --model {likely}." if likely and likely != model_name else None
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
