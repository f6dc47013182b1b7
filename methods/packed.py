"""Synapses for simulation on a CPU: images in channels_last, weights packed for the kernel once.

PyTorch reorders the weights of a convolution for oneDNN's kernels at every call, and hands a single small image to another
kernel, which rounds differently, so that spikes flip. Asked directly with weights that are reordered already, oneDNN
computes each image as it does in any other company. MKL, which multiplies matrices for PyTorch, divides the sums of few or
many rows differently, in a way that depends on the processor and its threads; oneDNN's kernels do not, for so many rows.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from methods.tracing import CONVOLUTIONS, module_of

# Rows of a linear layer that oneDNN gets at once. Among many more it divides long sums among threads (25,088 inputs of 64
# outputs), and a lone row goes to another kernel.
PACKED_ROWS = 64
# A convolution to so few pixels is up to three times as fast where oneDNN keeps channels in blocks of 16, although images and
# weights go there and back at every call; kernels for channels_last work on the pixels of a row, of which there are few.
FEW_PIXELS, BLOCK = 16, 16
# MKL gets this many rows, no more and no fewer, so that it chooses the same kernel every time, and each of them on a cache line
# of its own, in whatever precision: without AVX-512 it begins the sums of a small layer where memory is aligned.
PLAIN_ROWS, ALIGNED = 16, 32
KERNELS = (
    "_reorder_convolution_weight",
    "_convolution_pointwise",
    "_reorder_linear_weight",
    "_linear_pointwise",
)


class _Packed(nn.Module):
    """A layer that keeps weights packed for its kernel, until they are moved or changed in place; copies make their own."""

    active: bool
    _packed: Tensor | None
    _origin: tuple[int, ...]
    weight: Tensor

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None, "_origin": ()}

    def activate(self, active: bool) -> None:
        """Compute with packed weights from now on, or like any other layer."""
        self.active = active
        weight = self.weight
        # Tensors of inference mode do not tell when they are changed.
        origin = (weight.data_ptr(), weight._version) if active and not weight.is_inference() else ()
        if not origin or origin != self._origin:
            self._packed, self._origin = None, origin


class PackedConvolution(_Packed, nn.Conv2d):
    """A convolution with the parameters of another, which computes like that one until it is `active`.

    Active, it takes float32 [B, C, H, W] on the CPU and gives channels_last; where gradients are asked for, or for another
    type, it still computes as ever. One that `expects_silence` looks for images of zeros first, which need no computing
    where there is no bias.
    """

    expects_silence: bool

    @classmethod
    def sharing(cls, layer: nn.Conv2d) -> PackedConvolution:
        """A twin of `layer`."""
        twin = _twin(layer, cls)
        twin.expects_silence = False
        return twin

    def _get_name(self) -> str:
        return "Conv2d"

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H', W']."""
        if not self.active or not len(input) or input.dtype != torch.float32 or torch.is_grad_enabled():
            return super().forward(input)
        return self._of_sounding(input) if self.expects_silence and self.bias is None else self._convolved(input)

    def _of_sounding(self, input: Tensor) -> Tensor:
        """Without a bias images of zeros stay zeros: only the others are computed."""
        pixels = input.permute(0, 2, 3, 1).flatten(1)
        sounding = (pixels.amax(1) != 0).logical_or_(pixels.amin(1) != 0)
        count = int(sounding.sum())
        if count == len(input):
            return self._convolved(input)
        shape = (len(input), *self._shape(input))
        given = torch.empty(shape, dtype=input.dtype, memory_format=torch.channels_last).zero_()
        if count:
            places = sounding.nonzero()[:, 0]
            given[places] = self._convolved(input[places])
        return given

    def _shape(self, input: Tensor) -> tuple[int, int, int]:
        """One image's shape behind this layer."""
        assert not isinstance(self.padding, str)
        settings: tuple[Sequence[int], ...] = (
            input.shape[2:],
            self.padding,
            self.dilation,
            self.kernel_size,
            self.stride,
        )
        height, width = (
            (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
            for size, pad, dilation, kernel, stride in zip(*settings, strict=True)
        )
        return self.out_channels, height, width

    def _convolved(self, input: Tensor) -> Tensor:
        settings = self.padding, self.stride, self.dilation, self.groups
        if self._gives_few_pixels(input):
            # `conv2d` would choose by the number of images.
            blocked = torch.ops.aten.mkldnn_convolution(input.contiguous(), self.weight, self.bias, *settings)
            return blocked.contiguous(memory_format=torch.channels_last)  # type: ignore[no-any-return]
        if self._packed is None:
            self._packed = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight.detach(), *settings, list(input.shape)
            )
        return torch.ops.mkldnn._convolution_pointwise(  # type: ignore[no-any-return]
            input, self._packed, self.bias, *settings, "none", [], ""
        )

    def _gives_few_pixels(self, input: Tensor) -> bool:
        if self.kernel_size == (1, 1) or self.groups > 1 or self.in_channels % BLOCK or self.out_channels % BLOCK:
            return False
        _, height, width = self._shape(input)
        return height * width <= FEW_PIXELS


class PackedLinear(_Packed, nn.Linear):
    """A linear layer with the parameters of another, which on a CPU gives few float32 rows what they get among many.

    It does so by oneDNN where it is `active`, otherwise by multiplying no other number of rows than `PLAIN_ROWS`, aligned.
    """

    @classmethod
    def sharing(cls, layer: nn.Linear) -> PackedLinear:
        """A twin of `layer`."""
        return _twin(layer, cls)

    def _get_name(self) -> str:
        return "Linear"

    def forward(self, input: Tensor) -> Tensor:
        """[B, ..., F] to [B, ..., F']."""
        if not input.is_cpu or input.dtype == torch.float64 or not input.numel():
            return super().forward(input)
        rows = input.reshape(-1, self.in_features)
        count = len(rows)
        if self.active and input.dtype == torch.float32 and not torch.is_grad_enabled():
            if count % PACKED_ROWS == 1:
                rows = torch.cat([rows, rows[-1:]])
            found = [self._multiplied(part) for part in rows.split(PACKED_ROWS)]
        else:
            missing = -self.in_features % ALIGNED
            weight = F.pad(self.weight, (0, missing)) if missing else self.weight
            # Padded or not, it is a copy, which begins on a cache line.
            rows = F.pad(rows.contiguous(), (0, missing, 0, -count % PLAIN_ROWS))
            found = [F.linear(part, weight, self.bias) for part in rows.split(PLAIN_ROWS)]
        return torch.cat(found)[:count].reshape(*input.shape[:-1], self.out_features)

    def _multiplied(self, rows: Tensor) -> Tensor:
        if self._packed is None:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), PACKED_ROWS)
        return torch.ops.mkldnn._linear_pointwise(rows, self._packed, self.bias, "none", [], "")  # type: ignore[no-any-return]


Layer = TypeVar("Layer", bound=_Packed)


def _twin(layer: nn.Module, kind: type[Layer]) -> Layer:
    twin = copy.copy(layer)
    # Parameters, hooks and the like are held in dictionaries, which are each module's own.
    twin.__dict__.update({name: copy.copy(value) for name, value in vars(twin).items() if isinstance(value, dict)})
    twin.__class__ = kind  # type: ignore[assignment]
    assert isinstance(twin, kind)
    twin.active, twin._packed, twin._origin = False, None, ()
    return twin


def place_twins(graph: fx.GraphModule) -> None:
    """Put packed layers in the place of the convolutions and linear layers of `graph`, whose parameters they share."""
    for path in {str(node.target) for node in graph.graph.nodes if node.op == "call_module"}:
        layer = graph.get_submodule(path)
        if type(layer) is nn.Conv2d:
            graph.add_submodule(path, PackedConvolution.sharing(layer))
        elif type(layer) is nn.Linear:
            graph.add_submodule(path, PackedLinear.sharing(layer))


def expect_silence(graph: fx.GraphModule) -> None:
    """Let the packed convolutions of `graph` look for images without spikes."""
    for module in graph.modules():
        if isinstance(module, PackedConvolution):
            module.expects_silence = True


class PackedLayers:
    """The synapses of some graphs, to be used packed where all convolutions can be: float32 images on a CPU with oneDNN."""

    def __init__(self, *graphs: fx.GraphModule):
        called = [module_of(graph, node) for graph in graphs for node in graph.graph.nodes]
        convolutions = [module for module in called if isinstance(module, CONVOLUTIONS)]
        self._all_fit = bool(convolutions) and all(
            isinstance(layer, PackedConvolution) and _fits(layer) for layer in convolutions
        )
        self._layers = [module for module in called if isinstance(module, _Packed)]

    def activate(self, images: Tensor | None) -> bool:
        """Whether these images [B, C, H, W] meet packed convolutions alone from now on; None: use none."""
        active = images is not None and self.serve(images)
        for layer in self._layers:
            layer.activate(active)
        return active

    def arrange(self, order: torch.memory_format) -> bool:
        """Hold the weights of convolutions in this memory format from now on; whether any had another."""
        others = [
            layer
            for layer in self._layers
            if isinstance(layer, nn.Conv2d) and not layer.weight.is_contiguous(memory_format=order)
        ]
        for layer in others:
            layer.weight.data = layer.weight.data.contiguous(memory_format=order)
        return bool(others)

    def fit(self, images: Tensor) -> bool:
        """Whether rows of these images [B, C, H, W] may stand for several timesteps of fewer: float32 and convolutions."""
        return self._all_fit and images.dim() == 4 and images.dtype == torch.float32

    def serve(self, images: Tensor) -> bool:
        """Whether `activate` would do it."""
        return (
            self.fit(images)
            and images.is_cpu
            and torch.backends.mkldnn.is_available()
            and torch._C._get_mkldnn_enabled()
            and not torch.is_autocast_enabled("cpu")
            and _has_kernels()
            and all(layer.weight.is_cpu and layer.weight.dtype == torch.float32 for layer in self._layers)
        )


def _has_kernels() -> bool:
    """Whether this torch has the operators behind its own compiled layers, which are not promised to stay."""
    return all(hasattr(torch.ops.mkldnn, name) for name in KERNELS)


def _fits(layer: nn.Conv2d) -> bool:
    return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
