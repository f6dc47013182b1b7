"""timm's networks by name, and their pretrained weights: where they lie on this disk, how their images are made."""

from __future__ import annotations

import math
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import CheckpointError, unknown_name

if TYPE_CHECKING:
    from torch import nn

_LISTING = 'python -c "import timm; print(*timm.list_models())"'
_FILES = ("model.safetensors", "pytorch_model.bin")


def check_name(name: str) -> None:
    """Raise UsageError with near matches unless timm has an architecture `name`, or a checkpoint `name.tag` of one."""
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise unknown_name("timm model", name, timm.list_models(), _LISTING)
    tagged = timm.list_models(f"{architecture}.*", include_tags=True) if tag else []
    if tag and name not in tagged:
        raise unknown_name("timm model", name, [*tagged, architecture], _LISTING)


def create(name: str, in_channels: int, num_classes: int, image_size: int) -> nn.Module:
    """The network without weights. Raises UsageError for an unknown name."""
    import timm

    check_name(name)
    network: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes, in_chans=in_channels)
    _straighten_heads(network, image_size)
    return network


def _straighten_heads(network: nn.Module, image_size: int) -> None:
    """Take the branch on the image size out of the head of timm's VGGs, for images that are large enough for it.

    The branch only pads what is too small, but no graph can be traced through it. Names of weights stay.
    """
    from timm.models.vgg import ConvMlp
    from torch import nn

    for parent in list(network.modules()):
        for child_name, child in list(parent.named_children()):
            if isinstance(child, ConvMlp) and image_size // 32 >= child.input_kernel_size:
                setattr(parent, child_name, nn.Sequential(OrderedDict(child.named_children())))


def locate_timm(name: str) -> Path:
    """The pretrained weights in the local cache of the Hugging Face Hub; nothing is fetched.

    Raises UsageError for an unknown name, CheckpointError if timm has no such weights or they are not on this disk.
    """
    from huggingface_hub import try_to_load_from_cache

    repository, files = _on_the_hub(name)
    for file in files:
        found = try_to_load_from_cache(repository, file)
        if isinstance(found, str):
            return Path(found)
    raise CheckpointError(
        f"the weights of timm:{name} are not on this disk.",
        f"Fetch them, which needs internet, with: python -m benchmark prepare timm:{name}",
    )


def download_timm(name: str) -> Path:
    """Fetch the pretrained weights into the local cache; only `prepare` calls it.

    Raises UsageError for an unknown name, CheckpointError if timm has no such weights or the Hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    repository, files = _on_the_hub(name)
    for file in files:
        try:
            return Path(hf_hub_download(repository, file))
        except LocalEntryNotFoundError as error:
            raise CheckpointError(f"the Hugging Face Hub cannot be reached for {repository}: {error}") from error
        except EntryNotFoundError:
            continue  # older repositories have the second kind of file only
        except (HfHubHTTPError, OSError) as error:
            raise CheckpointError(f"{repository}/{file} cannot be fetched: {error}") from error
    raise CheckpointError(f"{repository} holds none of {', '.join(files)}.")


def timm_preprocessing(name: str) -> dict[str, Any]:
    """How the images of a pretrained network are made, as its authors say.

    Returns:
        `mean` and `std` per channel, for pixels from 0 to 1; `crop`, the side of the central square that is cut out;
        `resize`, the length of the shorter side before that; `interpolation`, such as `bicubic`.

    Raises:
        UsageError: unknown name.
        CheckpointError: timm has no weights of that name, or their images are not a central square.
    """
    config = _config(name)
    _, height, width = config.input_size
    if height != width or config.crop_mode != "center":
        raise CheckpointError(
            f"timm:{name} takes {height} x {width} pixels, cropped by {config.crop_mode!r}; only a central square is read."
        )
    return {
        "mean": tuple(config.mean),
        "std": tuple(config.std),
        "crop": int(height),
        # As in timm's own evaluation, which rounds down.
        "resize": math.floor(height / config.crop_pct),
        "interpolation": str(config.interpolation),
    }


def _config(name: str) -> Any:
    import timm

    check_name(name)
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise CheckpointError(f"timm has no pretrained weights for {name!r}.")
    return config


def _on_the_hub(name: str) -> tuple[str, tuple[str, ...]]:
    config = _config(name)
    if not config.hf_hub_id:
        raise CheckpointError(f"the pretrained weights of timm:{name} are not on the Hugging Face Hub.")
    return config.hf_hub_id, (config.hf_hub_filename,) if config.hf_hub_filename else _FILES
