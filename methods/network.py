"""The spiking network that every method returns: begin, step, keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from methods.accounting import Accounting, AnalogLayer, Signal, Site, signals
from methods.layerwise import AtNeurons, simulate_layerwise
from methods.neurons import SpikingNeuron, Stateful
from methods.pooling import CurrentMaxPool, SpikeMaxPool
from methods.rewrite import without_shifts
from methods.tally import SpikeTally
from methods.tracing import module_of

# Convolutions of a single float32 image take another code path on CPUs and round differently, so that spikes flip. A lone
# image is therefore computed in duplicate there: its answer must not depend on its company.
SMALLEST_BATCH = 2


@dataclass(frozen=True)
class Schedule:
    """When a network is driven. Of every image, the timesteps are counted from 1 after the prelude.

    Attributes:
        drive: for how many timesteps the image and all biases act; None: always.
        settle: for how many more timesteps spikes still travel, before the network is frozen; None: always.
    """

    drive: int | None = None
    settle: int | None = None


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion did: names of the spiking layers, numbers of folded batch norms and analog layers."""

    method: str
    spiking_layers: tuple[str, ...]
    folded_batch_norms: int
    remaining_batch_norms: int

    def __str__(self) -> str:
        return (
            f"{self.method}: {len(self.spiking_layers)} activations became spiking layers, "
            f"{self.folded_batch_norms} batch norms folded, {self.remaining_batch_norms} left as affine maps"
        )


class SpikingNetwork(nn.Module):
    """A network that is simulated one timestep at a time.

    What depends on the image alone (the stem's current) is computed once, in `begin`; `step` runs the rest. All state
    is per image and lives in this object. Outputs are this timestep's logits; stopping rules work on their sum.

    Args:
        graph: the converted graph, with `SpikingNeuron` modules in it.
        report: what the conversion did.
        prelude_steps: timesteps that every image pays before the first answer.
        prelude: called at the end of `begin` to run them.
        schedule: when the image and the biases act.
    """

    def __init__(
        self,
        graph: fx.GraphModule,
        report: ConversionReport,
        prelude_steps: int = 0,
        prelude: Callable[[SpikingNetwork], None] | None = None,
        schedule: Schedule | None = None,
    ):
        super().__init__()
        self.report = report
        self.prelude_steps = prelude_steps
        self.streaming_prelude_steps = prelude_steps
        self.schedule = schedule or Schedule()
        self._prelude = prelude
        self._graph = graph
        self._before, self._body = split_constant_part(graph)
        self._settling = without_shifts(self._body) if self.schedule.drive is not None else None
        called = [(str(node.target), module_of(graph, node)) for node in graph.graph.nodes]
        self._stateful = [module for _, module in called if isinstance(module, Stateful)]
        self._neurons = {name: module for name, module in called if isinstance(module, SpikingNeuron)}
        self._currents: tuple[Tensor, ...] | None = None
        self._elapsed = 0
        self._count = 0
        self._duplicates = False
        self._accounting: Accounting | None = None
        self._image_shape: tuple[int, ...] | None = None
        self._classes = 0
        self._spikes: Tensor | None = None
        self._synops: Tensor | None = None
        self.eval()

    @property
    def graph(self) -> fx.GraphModule:
        """The converted network as a graph of operations; not to be changed."""
        return self._graph

    @property
    def neurons(self) -> dict[str, SpikingNeuron]:
        """The spiking layers by name, in the order of the forward pass; max-pools of spikes are among them."""
        return dict(self._neurons)

    @property
    def depth(self) -> int:
        """Layers of neurons on the longest path from image to logits; pools do not count."""
        reached: dict[fx.Node, int] = {}
        for node in self._graph.graph.nodes:
            module = module_of(self._graph, node)
            own = isinstance(module, SpikingNeuron) and not isinstance(module, SpikeMaxPool)
            reached[node] = max((reached[source] for source in node.all_input_nodes), default=0) + own
        return max(reached.values())

    def train(self, mode: bool = True) -> SpikingNetwork:
        """Spiking simulation is always in eval mode; asking for training mode raises RuntimeError."""
        if mode:
            raise RuntimeError("a converted network is simulated in eval mode only")
        return super().train(False)

    @torch.no_grad()
    def begin(self, images: Tensor) -> None:
        """Start on new images [B, ...]: reset all state, compute the constant current, run the prelude.

        `spikes` and `synops` then hold the prelude's totals (zero if there is none).
        """
        self.account(images[:1])
        self._reset()
        self._duplicates = images.device.type == "cpu" and images.dtype != torch.float64
        self._count = len(images)
        self._currents = self._before(images[self._rows(torch.arange(len(images), device=images.device))])
        self._spikes = torch.zeros(len(images), dtype=torch.float64, device=images.device)
        self._synops = self._spikes.clone()
        if self._prelude is not None:
            self._prelude(self)
            self._elapsed = 0

    def _reset(self) -> None:
        for module in self._stateful:
            module.reset()
        self._elapsed = 0

    @torch.no_grad()
    def step(self) -> Tensor:
        """One timestep: this timestep's logits [B, K]. Raises RuntimeError before `begin`."""
        if self._currents is None:
            raise RuntimeError("call begin(images) before step()")
        drive, settle = self.schedule.drive, self.schedule.settle
        self._elapsed += 1
        if drive is None or self._elapsed <= drive:
            logits: Tensor = self._body(*self._currents)
        else:
            assert self._settling is not None
            if settle is not None and self._elapsed > drive + settle:
                return self._frozen()
            nothing = [current.new_zeros(()).expand_as(current) for current in self._currents]
            logits = self._settling(*nothing)
        counts = [neuron.counts for neuron in self._neurons.values() if neuron.counts is not None]
        self._spikes = torch.stack([spikes for spikes, _ in counts]).sum(0)[: self._count]
        self._synops = torch.stack([synops for _, synops in counts]).sum(0)[: self._count]
        self._classes = logits.shape[1]
        return logits[: self._count]

    def _frozen(self) -> Tensor:
        """A timestep after the last one that the schedule allows: nothing moves."""
        assert self._spikes is not None and self._synops is not None and self._currents is not None
        self._spikes, self._synops = torch.zeros_like(self._spikes), torch.zeros_like(self._synops)
        return self._currents[0].new_zeros(self._count, self._classes)

    def presimulate(self, steps: int) -> None:
        """For a prelude: `steps` timesteps whose logits are dropped and whose spikes and SynOps are kept as its totals."""
        assert self._spikes is not None and self._synops is not None
        spikes, synops = self._spikes, self._synops
        for _ in range(steps):
            self.step()
            spikes, synops = spikes + self._spikes, synops + self._synops
        self._spikes, self._synops = spikes, synops

    def restart_pools(self) -> None:
        """For a prelude: let max-pools forget it. Neurons are restarted by their method."""
        for module in self._stateful:
            if isinstance(module, (SpikeMaxPool, CurrentMaxPool)):
                module.reset()

    def calibrate_layers(self, steps: int, at_neurons: AtNeurons) -> None:
        """For a prelude: `steps` timesteps layer after layer (see `simulate_layerwise`), counted as its totals.

        `at_neurons(name, neuron, currents)` turns a layer's currents of all timesteps into its spikes.
        """
        assert self._spikes is not None and self._synops is not None and self._currents is not None
        totals = {"spikes": self._spikes, "synops": self._synops}

        def counted(name: str, neuron: SpikingNeuron, currents: list[Tensor]) -> list[Tensor]:
            emitted = at_neurons(name, neuron, currents)
            if neuron.tally is not None:
                for spikes in emitted:
                    events, operations = neuron.tally(spikes[: self._count])
                    totals["spikes"] += events
                    totals["synops"] += operations
            return emitted

        simulate_layerwise(self._body, self._currents, steps, counted)
        self._spikes, self._synops = totals["spikes"], totals["synops"]

    @torch.no_grad()
    def simulate_layers(self, images: Tensor, steps: int, at_neurons: AtNeurons) -> None:
        """Simulate `images` layer after layer, to calibrate neurons on them; all per-image state is forgotten again."""
        self._reset()
        simulate_layerwise(self._body, self._before(images), steps, at_neurons)
        self._reset()

    @torch.no_grad()
    def keep(self, mask: Tensor) -> None:
        """Go on with the images where `mask` [B] (bool) is True, as if the others had never been there."""
        if self._currents is None or self._spikes is None or self._synops is None:
            raise RuntimeError("call begin(images) before keep(mask)")
        kept = torch.nonzero(mask)[:, 0]
        rows = self._rows(kept)
        self._count = len(kept)
        self._currents = tuple(current[rows] for current in self._currents)
        self._spikes, self._synops = self._spikes[kept], self._synops[kept]
        for module in self._stateful:
            module.keep(rows)

    def _rows(self, kept: Tensor) -> Tensor:
        """The rows to compute for the images at `kept`: those, or a lone one several times."""
        alone = self._duplicates and 0 < len(kept) < SMALLEST_BATCH
        return kept[:1].expand(SMALLEST_BATCH) if alone else kept

    @torch.no_grad()
    def account(self, image: Tensor) -> None:
        """Count synapses and MACs for images of this shape ([1, ...]); `begin` does it by itself."""
        shape = tuple(image.shape[1:])
        if shape == self._image_shape:
            return
        accounting = Accounting(self._graph, image)
        for name, fan_out in accounting.fan_out.items():
            neuron = self._graph.get_submodule(name)
            assert isinstance(neuron, SpikingNeuron)
            neuron.tally = SpikeTally(fan_out, signed=neuron.kind == "signed")
        self._accounting, self._image_shape = accounting, shape

    @property
    def spikes(self) -> Tensor:
        """Spikes of the last timestep per image, int64 [B]; after `begin`, those of the prelude."""
        return _counted(self._spikes)

    @property
    def synops(self) -> Tensor:
        """SynOps of the last timestep per image, int64 [B]; after `begin`, those of the prelude."""
        return _counted(self._synops)

    @property
    def sites(self) -> tuple[Site, ...]:
        """The spiking layers. Raises RuntimeError as long as no image shape is known."""
        return self._accounted.sites

    @property
    def analog_layers(self) -> tuple[AnalogLayer, ...]:
        """The layers that multiply. Raises RuntimeError as long as no image shape is known."""
        return self._accounted.analog

    @property
    def macs_once(self) -> int:
        """MACs per image of what is computed once, the stem."""
        return self._accounted.macs_once

    @property
    def macs_per_timestep(self) -> int:
        """MACs per image of every timestep: average-pooled inputs."""
        return self._accounted.macs_per_timestep

    @property
    def _accounted(self) -> Accounting:
        if self._accounting is None:
            raise RuntimeError("no image shape known yet: call begin(images), or convert with calibration images")
        return self._accounting


def _counted(value: Tensor | None) -> Tensor:
    if value is None:
        raise RuntimeError("call begin(images) first")
    return value.long()


def split_constant_part(graph: fx.GraphModule) -> tuple[fx.GraphModule, fx.GraphModule]:
    """What depends on the image alone, and the rest; the first returns the tuple that the second takes."""
    carried = signals(graph)
    nodes = list(graph.graph.nodes)
    constant = {node for node, signal in carried.items() if signal is Signal.CONSTANT}
    # What is made of parameters alone has no batch dimension to compact; each part computes it for itself.
    parameters: set[fx.Node] = set()
    # Sizes are read in each part, from what has been compacted there.
    sizes: set[fx.Node] = set()
    for node in nodes:
        if node in constant and node.op != "placeholder" and parameters.issuperset(node.all_input_nodes):
            parameters.add(node)
        if carried.get(node) is Signal.SIZE and (constant | sizes).issuperset(node.all_input_nodes):
            sizes.add(node)
    changing: set[fx.Node] = set()
    for node in reversed(nodes):
        needed = any(user in changing for user in node.users)
        if node not in constant | sizes or (needed and node in parameters | sizes):
            changing.add(node)
    boundary = [
        node for node in nodes if node in constant - parameters and any(user in changing for user in node.users)
    ]

    copied: dict[fx.Node, fx.Node] = {}
    before = fx.Graph()
    for node in nodes:
        if node in constant | sizes:
            copied[node] = before.node_copy(node, lambda source: copied[source])
    before.output(tuple(copied[node] for node in boundary))

    body = fx.Graph()
    copied = {node: body.placeholder(node.name) for node in boundary}
    for node in nodes:
        if node in changing:
            copied[node] = body.node_copy(node, lambda source: copied[source])
    return fx.GraphModule(graph, before), fx.GraphModule(graph, body)
