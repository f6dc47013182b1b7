"""The fixed driver of every conversion. A method fills in its activation and its neuron; the driver does the rest."""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from methods.errors import ConversionError
from methods.network import ConversionReport, SpikingNetwork
from methods.neurons import SpikingNeuron
from methods.rewrite import fold_amplitudes, fold_batch_norms
from methods.tracing import BATCH_NORMS, QuantisedActivation, is_relu, module_of, replace_nodes, trace


class ConversionMethod(ABC):
    """How an ANN becomes a spiking network. Subclasses are frozen dataclasses whose fields are the method's options.

    `prepare` and `convert` are the driver and are not overridden.
    """

    name: ClassVar[str]

    @abstractmethod
    def activation(self) -> QuantisedActivation:
        """A fresh activation for the quantised ANN, in place of one ReLU."""

    @abstractmethod
    def neuron(self, activation: QuantisedActivation) -> SpikingNeuron:
        """The spiking neuron that stands for a trained activation. Raises ConversionError if it cannot."""

    def options(self) -> dict[str, Any]:
        """The fields of the dataclass with their values."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    @property
    def prelude_steps(self) -> int:
        """Timesteps that every image pays before its first answer."""
        return 0

    def prelude(self, network: SpikingNetwork) -> None:  # noqa: B027  (most methods have none)
        """Run the prelude on the images that `network` has just begun."""

    def prepare(self, ann: nn.Module) -> nn.Module:
        """The quantised ANN: a copy of `ann` with every ReLU replaced; train it, or load weights into it.

        Raises ConversionError if the network cannot be traced or has no ReLU.
        """
        graph = trace(copy.deepcopy(ann))
        replaced = replace_nodes(graph, lambda node: is_relu(graph, node), lambda node: self.activation())
        if replaced == 0:
            raise ConversionError(f"{type(ann).__name__} has no ReLU that {self.name} could replace.")
        return graph.train(ann.training)

    @torch.no_grad()
    def convert(self, quantised: nn.Module, calibration: Tensor | Iterable[Any] | None = None) -> SpikingNetwork:
        """The spiking network of a prepared and trained ANN, which is left unchanged.

        Args:
            quantised: what `prepare` returned, trained or with weights loaded.
            calibration: images [N, ...], or batches of images or (images, labels); gives the image shape.

        Raises:
            ConversionError: weights not finite, threshold not positive, nothing to convert, a ReLU left over, an
                operation without a spiking counterpart.
        """
        check_finite(quantised)
        graph = trace(copy.deepcopy(quantised).eval())
        folded = fold_batch_norms(graph)
        names = self._replace_activations(graph)
        fold_amplitudes(graph)
        left = sum(isinstance(module_of(graph, node), BATCH_NORMS) for node in graph.graph.nodes)
        report = ConversionReport(self.name, names, folded, left)
        has_prelude = self.prelude_steps > 0
        network = SpikingNetwork(graph, report, self.prelude_steps, self.prelude if has_prelude else None)
        image = first_image(calibration)
        if image is not None:
            network.account(image)
        return network

    def _replace_activations(self, graph: fx.GraphModule) -> tuple[str, ...]:
        def neuron_for(node: fx.Node) -> SpikingNeuron:
            activation = module_of(graph, node)
            assert isinstance(activation, QuantisedActivation)
            try:
                return self.neuron(activation)
            except ConversionError as error:
                raise ConversionError(f"layer {str(node.target)!r}: {error}") from error

        replaced = replace_nodes(
            graph, lambda node: isinstance(module_of(graph, node), QuantisedActivation), neuron_for
        )
        if replaced == 0:
            raise ConversionError(
                "there is nothing to convert: no quantised activation in this network. "
                f"Call {type(self).__name__}().prepare(ann) first, then train it or load its weights."
            )
        nodes = [node for node in graph.graph.nodes if isinstance(module_of(graph, node), SpikingNeuron)]
        return tuple(str(node.target) for node in nodes)


def check_finite(model: nn.Module) -> None:
    """Raise ConversionError naming the first parameter or buffer with a NaN or infinite value."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ConversionError(f"{name} has NaN or infinite values; the checkpoint is damaged or training diverged.")


def first_image(calibration: Tensor | Iterable[Any] | None) -> Tensor | None:
    """The first calibration image as [1, ...]. Raises ConversionError if there is none in it."""
    if calibration is None:
        return None
    images: Any = calibration
    if not isinstance(calibration, Tensor):
        batch = next(iter(calibration), None)
        images = batch[0] if isinstance(batch, (tuple, list)) else batch
    if not isinstance(images, Tensor) or len(images) == 0:
        raise ConversionError("calibration holds no images.")
    return images[:1]
