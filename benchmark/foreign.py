"""Other people's checkpoints: state dicts of the field's repositories in the key names of our networks.

A format is recognised by its keys alone. What has no counterpart keeps its name, so that loading names it. Every
translation is the same function: tensors are renamed, never changed, apart from shortcuts and biases written out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmark.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    State = Mapping[str, Tensor]

LEVELS_UNKNOWN = "the weights do not say how many levels they were trained with"
LOGITS_QUANTISER = "the quantiser that the weights have on the logits was dropped; spiking networks have analog logits"
TWO_BITS = "3 levels (2 bits) as in the Dynamic Confidence demo; the weights do not say"


@dataclass(frozen=True)
class Translation:
    """A state dict in our key names, and what its format says.

    `method` is the one whose activations the weights were trained with: `qcfs` (thresholds), `qffs` (steps) or `relu`
    (neither). `options` are options of that method that the format fixes. `flags` are remarks for readers of a table.
    """

    state: dict[str, Tensor]
    source: str
    method: str
    options: dict[str, int] = field(default_factory=dict)
    flags: tuple[str, ...] = ()


def translate(state: State, model_name: str) -> Translation:
    """A state dict {key: tensor}, whosever it is, for our network `model_name`, quantised or plain.

    Known are the QCFS repositories (putshua/SNN_conversion_QCFS, putshua/ANN_SNN_QCFS), SRP and COS
    (hzc1208/ANN2SNN_SRP, hzc1208/ANN2SNN_COS), the Dynamic Confidence demo, and akamaster's and kuangliu's CIFAR
    ResNets. All else, ours, torchvision's and timm's among it, keeps its keys and has the source `native`. Counters of
    batch norms are added where they are missing.
    """
    if any(re.match(r"conv2_x\.\d+\.residual_function\.", key) for key in state):
        return _from_qcfs(state, _renamed(state, _qcfs_resnet_key))
    if {"layer1.0.weight", "layer1.1.running_mean", "classifier.1.weight"} <= state.keys():
        renamed = _renamed(state, _qcfs_vgg_keys(state))
        return _from_qcfs(state, _with_biases(renamed))
    if {"activation1.scale", "layer1.0.activation1.scale"} <= state.keys():
        return _from_dynamic_confidence(state)
    if {"layer1.0.conv1.weight", "linear.weight"} <= state.keys():
        # ResNet-20 and its kin are option B here, and `resnet20-a` and its kin option A.
        projection = re.fullmatch(r"resnet\d+", model_name) is not None
        return Translation(from_akamaster(state, projection), "akamaster or kuangliu, CIFAR ResNet", "relu")
    return Translation(_with_counters(state), "native", _method_of(state))


def with_activations(state: State, parameter: str, levels: int) -> dict[str, Tensor]:
    """The same quantisers with the other parameter: `threshold` (QCFS) or `step` (LSQ), where threshold = levels * step.

    Keys of the other kind are renamed, their values scaled; all others stay.
    """
    if parameter not in ("threshold", "step"):
        raise ValueError(f"parameter must be threshold or step, got {parameter!r}")
    result = dict(state)
    for key in state:
        if parameter == "threshold" and _ends(key, "step"):
            result[key.removesuffix("step") + parameter] = result.pop(key) * levels
        elif parameter == "step" and _ends(key, "threshold"):
            result[key.removesuffix("threshold") + parameter] = result.pop(key) / levels
    return result


def from_akamaster(state: State, projection: bool = True) -> dict[str, Tensor]:
    """Weights of akamaster's CIFAR ResNets (option-A shortcuts) for our ResNets, as exactly the same function.

    The option-A shortcut, every second pixel with zero channels around, is a 1x1 convolution of stride 2 with a shifted
    identity as its weight. With `projection` that and a batch norm that does nothing are written out, as in our
    option-B networks; without, shortcuts have no weights, as in our option-A ones. Shortcuts that have weights keep
    them (option B, kuangliu's networks).
    """
    import torch

    from benchmark.backbones.resnet import shifted_identity

    result = _renamed(state, _akamaster_key)
    for stage in (1, 2) if projection else ():
        prefix = f"stages.{stage}.0.shortcut"
        convolution = result.get(f"stages.{stage}.0.conv1.weight")
        if convolution is None or f"{prefix}.0.weight" in result:
            continue  # a foreign file: load_into names all that is missing
        wide, narrow = convolution.shape[:2]
        zeros, ones = torch.zeros(wide), torch.ones(wide)
        # The variance plus the batch norm's epsilon is 1, in float64 too.
        norm = {"weight": ones, "bias": zeros, "running_mean": zeros, "running_var": ones.double() - 1e-5}
        result |= {
            f"{prefix}.0.weight": shifted_identity(narrow, wide),
            **{f"{prefix}.1.{name}": value for name, value in norm.items()},
        }
    return _with_counters(result)


def _from_qcfs(state: State, renamed: dict[str, Tensor]) -> Translation:
    if any(_ends(key, "thresh") for key in state):
        source, method = "QCFS, new repository", "qcfs"
    elif any(_ends(key, "up") for key in state):
        source, method = "QCFS, old repository, or SRP or COS", "qcfs"
    else:
        source, method = "QCFS, SRP or COS, before quantisation", "relu"
    flags = (LEVELS_UNKNOWN,) if method == "qcfs" else ()
    return Translation(_with_counters(renamed), source, method, {}, flags)


_RESIDUAL = ("conv1", "bn1", "relu1", "conv2", "bn2")
_THRESHOLD = re.compile(r"\.(thresh|up)$")


def _qcfs_resnet_key(key: str) -> str:
    key = _THRESHOLD.sub(".threshold", key)
    if stem := re.fullmatch(r"conv1\.([0-2])\.(.+)", key):
        return f"{('conv1', 'bn1', 'relu')[int(stem[1])]}.{stem[2]}"
    if block := re.fullmatch(r"conv([2-5])_x\.(\d+)\.(.+)", key):
        inside = re.sub(r"^(act|relu)\.", "relu2.", block[3])
        if residual := re.fullmatch(r"residual_function\.([0-4])\.(.+)", inside):
            inside = f"{_RESIDUAL[int(residual[1])]}.{residual[2]}"
        return f"stages.{int(block[1]) - 2}.{block[2]}.{inside}"
    return re.sub(r"^fc\.", "head.", key)


def _qcfs_vgg_keys(state: State) -> Callable[[str], str]:
    """Their five blocks repeat convolution, batch norm, activation, dropout, and end with a pool; ours is one list."""
    convolutions = [
        sum(re.fullmatch(rf"layer{block}\.\d+\.running_mean", key) is not None for key in state)
        for block in range(1, 6)
    ]
    first = [sum(3 * count + 1 for count in convolutions[:block]) for block in range(5)]

    def rename(key: str) -> str:
        key = _THRESHOLD.sub(".threshold", key)
        if layer := re.fullmatch(r"layer([1-5])\.(\d+)\.(.+)", key):
            repeat, part = divmod(int(layer[2]), 4)
            return f"features.{first[int(layer[1]) - 1] + 3 * repeat + part}.{layer[3]}"
        if layer := re.fullmatch(r"classifier\.(\d+)\.(.+)", key):
            index = int(layer[1])
            # Dropout stands at 3 and 6.
            return f"classifier.{index - (index > 3) - (index > 6)}.{layer[2]}"
        return key

    return rename


def _with_biases(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """SRP's VGG without biases, as one with biases of zero."""
    added = {
        key.replace(".weight", ".bias"): value.new_zeros(len(value))
        for key, value in state.items()
        if key.endswith(".weight") and value.dim() > 1
    }
    return {**added, **state}


def _from_dynamic_confidence(state: State) -> Translation:
    kept = {key: value for key, value in state.items() if key != "activation2.scale"}
    flags = (TWO_BITS, *([LOGITS_QUANTISER] if len(kept) < len(state) else []))
    renamed = _with_counters(_renamed(kept, _dynamic_confidence_key))
    return Translation(renamed, "Dynamic Confidence demo", "qffs", {"levels": 3}, flags)


def _dynamic_confidence_key(key: str) -> str:
    key = re.sub(r"\.scale$", ".step", key)
    if block := re.fullmatch(r"layer([1-4])\.(\d+)\.(.+)", key):
        inside = re.sub(r"^activation([12])\.", r"relu\1.", block[3]).replace("downsample.", "shortcut.")
        return f"stages.{int(block[1]) - 1}.{block[2]}.{inside}"
    return re.sub(r"^fc\.", "head.", re.sub(r"^activation1\.", "relu.", key))


def _akamaster_key(key: str) -> str:
    if layer := re.fullmatch(r"layer(\d+)\.(.+)", key):
        return f"stages.{int(layer[1]) - 1}.{layer[2]}"
    return key.replace("linear.", "head.")


def _renamed(state: State, rename: Callable[[str], str]) -> dict[str, Tensor]:
    """Every key renamed; the parameter of an activation, [1] in other repositories, is a scalar here."""
    result: dict[str, Tensor] = {}
    for key, value in state.items():
        new = rename(key)
        if new in result:
            raise CheckpointError(f"the checkpoint holds {new} twice, once as {key}.")
        result[new] = (
            value.reshape(()) if (_ends(new, "threshold") or _ends(new, "step")) and value.numel() == 1 else value
        )
    return result


def _with_counters(state: State) -> dict[str, Tensor]:
    """Files written by old versions of PyTorch, or by hand, lack the counters of batch norms."""
    import torch

    counters = [key.replace("running_mean", "num_batches_tracked") for key in state if _ends(key, "running_mean")]
    return {**{key: torch.tensor(0) for key in counters if key not in state}, **state}


def _method_of(state: State) -> str:
    if any(_ends(key, "threshold") for key in state):
        return "qcfs"
    return "qffs" if any(_ends(key, "step") for key in state) else "relu"


def _ends(key: str, name: str) -> bool:
    return key.rpartition(".")[2] == name
