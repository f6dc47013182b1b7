"""The fixed driver of every conversion. A method fills in its activation and its neuron; the driver does the rest."""

from __future__ import annotations

import copy
import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from methods.accounting import Signal, signals
from methods.errors import ConversionError
from methods.network import ConversionReport, Schedule, SpikingNetwork
from methods.neurons import SpikingNeuron
from methods.pooling import (
    CurrentMaxPool,
    SpikeMaxPool,
    max_pool_module,
    move_max_pools_before_activations,
    place_max_pool,
)
from methods.rewrite import fold_amplitudes, fold_batch_norms
from methods.tracing import (
    BATCH_NORMS,
    CONCATENATIONS,
    QuantisedActivation,
    describe,
    is_call,
    is_max_pool,
    is_relu,
    is_reshaping,
    module_of,
    relu_ceiling,
    replace_nodes,
    trace,
)


class ConversionMethod(ABC):
    """How an ANN becomes a spiking network. Subclasses are frozen dataclasses whose fields are the method's options.

    `prepare` and `convert` are the driver and are not overridden; the other methods are what a conversion may decide.

    Attributes:
        signed: whether the neurons emit negative spikes; max-pools then follow the neurons instead of preceding them.
    """

    name: ClassVar[str]
    signed: ClassVar[bool] = False

    @abstractmethod
    def activation(self) -> QuantisedActivation:
        """A fresh activation for the quantised ANN, in place of one ReLU."""

    @abstractmethod
    def neuron(self, activation: QuantisedActivation) -> SpikingNeuron:
        """The spiking neuron that stands for a trained activation. Raises ConversionError if it cannot."""

    def clipped_activation(self, ceiling: float) -> QuantisedActivation:
        """The same in place of a ReLU that is clipped at `ceiling` (ReLU6). By default no different."""
        return self.activation()

    def schedule(self, activations: Sequence[QuantisedActivation]) -> Schedule:
        """When image and biases act, from the activations that are being replaced. By default always."""
        return Schedule()

    def begin_conversion(self, graph: fx.GraphModule) -> None:  # noqa: B027  (most methods have nothing to undo)
        """Take away from the traced network what only its training needed."""

    def calibrate(self, graph: fx.GraphModule, batches: Sequence[Tensor]) -> None:  # noqa: B027
        """Set the activations of `graph` from calibration images, before they are replaced."""

    def correct(self, network: SpikingNetwork, reference: fx.GraphModule, batches: Sequence[Tensor]) -> None:  # noqa: B027
        """Adjust the converted network; `reference` still has the activations, under the names of the neurons."""

    def options(self) -> dict[str, Any]:
        """The fields of the dataclass with their values."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    @property
    def calibration_images(self) -> int:
        """How many calibration images `convert` uses, at most; 0: none but for the image shape."""
        return 0

    @property
    def prelude_steps(self) -> int:
        """Timesteps that every image pays before its first answer, as the literature counts them."""
        return 0

    def streaming_prelude_steps(self, depth: int) -> int:
        """The same on hardware where every layer waits for the one before it; `depth` layers of neurons."""
        return self.prelude_steps

    def prelude(self, network: SpikingNetwork) -> None:  # noqa: B027  (most methods have none)
        """Run the prelude on the images that `network` has just begun."""

    def prepare(self, ann: nn.Module) -> nn.Module:
        """The quantised ANN: a copy of `ann` with every ReLU replaced; train it, or load weights into it.

        Raises ConversionError if the network cannot be traced or has no ReLU.
        """
        graph = trace(copy.deepcopy(ann))

        def activation_for(node: fx.Node) -> QuantisedActivation:
            ceiling = relu_ceiling(graph, node)
            assert ceiling is not None
            return self.activation() if math.isinf(ceiling) else self.clipped_activation(ceiling)

        replaced = replace_nodes(graph, lambda node: is_relu(graph, node), activation_for)
        if replaced == 0:
            raise ConversionError(f"{type(ann).__name__} has no ReLU that {self.name} could replace.")
        self.finish_preparation(graph)
        return graph.train(ann.training)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """What training minimises, from the prepared network's output in training mode and labels [B], or shares [B, K]."""
        return F.cross_entropy(outputs, labels)

    def finish_preparation(self, graph: fx.GraphModule) -> None:  # noqa: B027  (most methods add nothing)
        """Add to the prepared network what its training needs."""

    @torch.no_grad()
    def convert(self, quantised: nn.Module, calibration: Tensor | Iterable[Any] | None = None) -> SpikingNetwork:
        """The spiking network of a prepared and trained ANN, which is left unchanged.

        Args:
            quantised: what `prepare` returned, trained or with weights loaded.
            calibration: images [N, ...], or batches of images or (images, labels); gives the image shape, and is what
                methods without training set their thresholds from. Never test images.

        Raises:
            ConversionError: weights not finite, threshold not positive, nothing to convert, a ReLU left over, an
                operation without a spiking counterpart, calibration images needed but not given.
        """
        check_finite(quantised)
        batches = collect_images(calibration, max(1, self.calibration_images))
        if self.calibration_images and not batches:
            raise ConversionError(f"{self.name} needs calibration images: convert(network, calibration).")
        graph = trace(copy.deepcopy(quantised).eval())
        self.begin_conversion(graph)
        refuse_batch_statistics(graph)
        folded = fold_batch_norms(graph)
        if not self.signed:
            move_max_pools_before_activations(graph)
        activations = [
            module for node in graph.graph.nodes if isinstance(module := module_of(graph, node), QuantisedActivation)
        ]
        self.calibrate(graph, batches)
        reference = copy.deepcopy(graph)
        names = self._replace_activations(graph)
        if batches:
            ShapeProp(graph).propagate(batches[0][:1])
        self._replace_max_pools(graph)
        fold_amplitudes(graph)
        left = sum(isinstance(module_of(graph, node), BATCH_NORMS) for node in graph.graph.nodes)
        report = ConversionReport(self.name, names, folded, left)
        has_prelude = self.prelude_steps > 0
        network = SpikingNetwork(
            graph, report, self.prelude_steps, self.prelude if has_prelude else None, self.schedule(activations)
        )
        network.streaming_prelude_steps = self.streaming_prelude_steps(network.depth)
        if batches:
            network.account(batches[0][:1])
            self.correct(network, reference, batches)
        return network

    def _replace_max_pools(self, graph: fx.GraphModule) -> None:
        """Pools of spikes and of changing currents work on their sums; a pool of the constant stem stays as it is."""
        carried = signals(graph)
        signed = {node for node in graph.graph.nodes if getattr(module_of(graph, node), "kind", "") == "signed"}
        for node in graph.graph.nodes:
            if not is_reshaping(graph, node) and not is_call(node, CONCATENATIONS) and not is_max_pool(graph, node):
                continue
            source = node.all_input_nodes[0]
            if signed.intersection(node.all_input_nodes):
                signed.add(node)
            if not is_max_pool(graph, node) or carried[node] is Signal.CONSTANT:
                continue
            pool = max_pool_module(graph, node)
            if carried[source] is Signal.SPIKE:
                place_max_pool(graph, node, SpikeMaxPool(pool, "signed" if node in signed else "binary"))
            else:
                place_max_pool(graph, node, CurrentMaxPool(pool))
        graph.graph.lint()
        graph.recompile()

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
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ConversionError(f"{name} has NaN or infinite values; the checkpoint is damaged or training diverged.")


def refuse_batch_statistics(graph: fx.GraphModule) -> None:
    """Raise ConversionError naming a batch norm whose answer for an image depends on the rest of its batch."""
    for node in graph.graph.nodes:
        module = module_of(graph, node)
        if isinstance(module, BATCH_NORMS) and module.running_mean is None:
            raise ConversionError(
                f"{describe(graph, node)} has no running statistics: an image's answer would depend on its batch."
            )


def collect_images(calibration: Tensor | Iterable[Any] | None, limit: int) -> list[Tensor]:
    """Up to `limit` calibration images as batches [b, ...]. Raises ConversionError if images are given but there are none."""
    if calibration is None:
        return []
    batches: list[Tensor] = []
    left = limit
    for batch in (calibration,) if isinstance(calibration, Tensor) else calibration:
        images = batch[0] if isinstance(batch, (tuple, list)) else batch
        if not isinstance(images, Tensor) or len(images) == 0:
            break
        batches.append(images[:left])
        left -= len(batches[-1])
        if left <= 0:
            break
    if not batches:
        raise ConversionError("calibration holds no images.")
    return batches
