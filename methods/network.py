"""The spiking network that every method returns: begin, step, keep, replace."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from methods.accounting import Accounting, AnalogLayer, Site
from methods.ahead import Ahead, folds
from methods.constant_part import split_constant_part
from methods.layerwise import AtNeurons, simulate_layerwise
from methods.limits import AHEAD, AT_ONCE, ENOUGH_PLACES, GPU_AHEAD, GPU_AT_ONCE, IMAGES_AT_ONCE, Limits
from methods.neurons import SpikingNeuron, Stateful
from methods.packed import PackedLayers, expect_silence, place_twins
from methods.pooling import CurrentMaxPool, SpikeMaxPool
from methods.replaying import Replaying, plain, replays
from methods.rewrite import without_shifts
from methods.schedule import Phase, Schedule
from methods.tally import SpikeTally
from methods.tracing import module_of

# Convolutions of a single float32 image may take another code path on CPUs and round differently, so that spikes flip. Where
# they are not packed, a lone image is therefore computed in duplicate: its answer must not depend on its company.
SMALLEST_BATCH = 2


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


@dataclass
class _Batch:
    """What a network knows of its images besides the states of its neurons.

    `currents` are the stem's [R, ...]; a lone image may be computed in duplicate, so that there are more rows R than images
    B. `site_spikes` float64 [L, B] and `synops` float64 [B] are those of the last timestep. `ages` int64 [B], on the CPU, are
    the timesteps since the prelude; known only where a schedule asks for them. `packed`: see `PackedLayers`; `folded`:
    whether several timesteps may be computed at once. `unshown` timesteps have been computed of which nobody has seen
    anything yet.
    """

    count: int
    dtype: torch.dtype
    currents: tuple[Tensor, ...]
    site_spikes: Tensor
    synops: Tensor
    ages: Tensor | None
    packed: bool
    folded: bool
    unshown: int = 0

    def rows(self, images: Tensor) -> Tensor:
        """The rows to compute for these images (int64 indices): as many, or a lone one several times."""
        rounds_alone = images.device.type == "cpu" and self.dtype != torch.float64 and not self.packed
        alone = rounds_alone and 0 < len(images) < SMALLEST_BATCH
        return images[:1].expand(SMALLEST_BATCH) if alone else images


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
        place_twins(graph)
        self._graph = graph
        self._before, self._body = split_constant_part(graph)
        self._settling = without_shifts(self._body) if self.schedule.drive is not None else None
        if self._settling is not None:
            expect_silence(self._settling)
        bodies = {Phase.DRIVEN: self._body, Phase.SETTLING: self._settling}
        self._ahead = nn.ModuleDict({phase.name: Ahead(body) for phase, body in bodies.items() if body is not None})
        self._layers = PackedLayers(self._before, self._body, *([self._settling] if self._settling else []))
        called = [(str(node.target), module_of(graph, node)) for node in graph.graph.nodes]
        self._stateful = [module for _, module in called if isinstance(module, Stateful)]
        self._neurons = {name: module for name, module in called if isinstance(module, SpikingNeuron)}
        self._replaying = Replaying(self._stateful) if all(each.replayable for each in self._stateful) else None
        self._batch: _Batch | None = None
        self._accounting: Accounting | None = None
        self._image_shape: tuple[int, ...] | None = None
        self._classes = 0
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

    def _apply(self, *args: Any, **kwargs: Any) -> SpikingNetwork:
        if self._replaying is not None:
            self._replaying.forget()
        return super()._apply(*args, **kwargs)

    @torch.no_grad()
    def begin(self, images: Tensor) -> None:
        """Start on new images [B, ...]: reset all state, compute the constant current, run the prelude.

        `spikes` and `synops` then hold the prelude's totals (zero if there is none).
        """
        self.account(images[:1])
        self._batch = None
        self._reset()
        count, device = len(images), images.device
        packed = self._layers.activate(images)
        order = torch.channels_last if packed else preferred_order(device)
        if order is not None and images.dim() == 4:
            images = images.contiguous(memory_format=order)
            if not packed and self._layers.arrange(order) and self._replaying is not None:
                self._replaying.forget()
        silence = torch.zeros(len(self._neurons), count, dtype=torch.float64, device=device)
        batch = _Batch(
            count,
            images.dtype,
            currents=(),
            site_spikes=silence,
            synops=silence.new_zeros(count),
            ages=None if self.schedule.drive is None else torch.zeros(count, dtype=torch.long),
            packed=packed,
            folded=packed or (self._layers.fit(images) and folds(device)),
        )
        batch.currents = self._before(images[batch.rows(torch.arange(count, device=device))])
        self._batch = batch
        if self._prelude is not None:
            self._prelude(self)
            if batch.ages is not None:
                batch.ages.zero_()

    def _reset(self) -> None:
        for module in self._stateful:
            module.reset()

    @property
    def _begun(self) -> _Batch:
        if self._batch is None:
            raise RuntimeError("call begin(images) first")
        return self._batch

    @property
    def _at_rest(self) -> _Batch:
        """The batch, if its neurons are not ahead of what has been shown of it."""
        batch = self._begun
        if batch.unshown:
            raise RuntimeError(f"{batch.unshown} timesteps of steps() are left to be taken")
        return batch

    @torch.no_grad()
    def step(self) -> Tensor:
        """One timestep: this timestep's logits [B, K]. Raises RuntimeError before `begin`."""
        batch = self._at_rest
        phase = Phase.DRIVEN
        if batch.ages is not None:
            batch.ages += 1
            phases = self.schedule.phases(batch.ages)
            if len(phases) > 1:
                return self._step_by_phase(batch, phases)
            phase = next(iter(phases), phase)
        logits, site_spikes, synops, batch.currents = self._simulate(phase, batch.currents)
        batch.site_spikes, batch.synops = site_spikes[:, : batch.count], synops[: batch.count]
        return logits[: batch.count]

    def batch_size_for(self, images: Tensor) -> int:
        """How many of these images [B, ...] are simulated fastest at a time: few on a CPU, elsewhere all of them."""
        return min(len(images), IMAGES_AT_ONCE * torch.get_num_threads()) if self._layers.serve(images) else len(images)

    def places_for(self, images: Tensor) -> int:
        """The same where images leave early and others take their places."""
        most = max(ENOUGH_PLACES, IMAGES_AT_ONCE * torch.get_num_threads())
        return min(len(images), most) if self._layers.serve(images) else len(images)

    def row_sizes(self, images: Tensor) -> list[int] | None:
        """The only numbers of rows to compute, up to that of these images [B, ...], where some leave; None: any.

        A GPU's libraries look for kernels anew for every number that they have not seen, and there are as many as images.
        """
        if images.device.type != "cuda":
            return None
        steps = (size for power in range(len(images).bit_length()) for size in (2**power, 3 * 2**power // 2))
        return sorted({size for size in steps if 0 < size < len(images)} | {len(images)})

    @property
    def parts_ages(self) -> bool:
        """Whether images in different phases of the schedule share a batch only one phase after the other."""
        return self.schedule.drive is not None

    @property
    def lookahead(self) -> int:
        """How many timesteps to ask `steps` for where images may leave after each of them: more than one for few images."""
        batch = self._at_rest
        most = self._fitting(AHEAD if batch.packed else GPU_AHEAD)
        return max(1, self._next_phase(batch, most)[1]) if most > 1 else 1

    def _fitting(self, limits: Limits) -> int:
        """How many timesteps of the batch are computed at once within these limits."""
        row_bytes = 4 * max(math.prod(site.shape) for site in self.sites)
        batch = self._begun
        return limits.fit(batch.count, row_bytes, torch.get_num_threads() if batch.packed else 1)

    @torch.no_grad()
    def steps(self, count: int) -> Iterator[Tensor]:
        """The logits [B, K] of the next `count` timesteps, as so many calls of `step` give them; faster where B is small.

        On a GPU they may be rounded differently, as those of another batch size are.

        After each, `spikes`, `synops` and `site_spikes` are those of that timestep, but neurons may be some timesteps ahead:
        the network must go through all of them, or begin anew, before anything else is done with it.
        """
        while count:
            batch = self._at_rest
            most = self._fitting(AT_ONCE if batch.packed else GPU_AT_ONCE)
            phase, ahead = self._next_phase(batch, min(count, most))
            count -= max(1, ahead)
            # A single timestep is faster replayed than launched kernel by kernel.
            if not ahead or (ahead == 1 and not batch.packed):
                yield self.step()
                continue
            logits, site_spikes, synops = self._ahead[phase.name](self._inputs(phase, batch.currents), ahead)
            self._classes = logits.shape[1]
            if batch.ages is not None:
                batch.ages += ahead
            batch.unshown = ahead
            for own, *counted in zip(
                logits.chunk(ahead), site_spikes.chunk(ahead, 1), synops.chunk(ahead), strict=True
            ):
                batch.site_spikes, batch.synops = counted
                batch.unshown -= 1
                yield own

    def _next_phase(self, batch: _Batch, most: int) -> tuple[Phase, int]:
        """The phase of the next timesteps, and for how many of them it can be computed at once; 0: for none."""
        if not batch.folded or not batch.count:
            return Phase.DRIVEN, 0
        if batch.ages is None:
            return Phase.DRIVEN, most
        found = [self.schedule.phases(batch.ages + step) for step in range(1, most + 1)]
        same = list(itertools.takewhile(lambda phases: phases.keys() == found[0].keys(), found))
        alone = len(found) > 0 and len(found[0]) == 1 and Phase.FROZEN not in found[0]
        return (next(iter(found[0])), len(same)) if alone else (Phase.DRIVEN, 0)

    def _simulate(
        self, phase: Phase, currents: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """One timestep of all rows that the neurons hold: logits [R, K], spikes [L, R], SynOps [R]; the currents to keep."""
        if phase is Phase.FROZEN:
            silence = currents[0].new_zeros(len(self._neurons), len(currents[0]), dtype=torch.float64)
            return currents[0].new_zeros(len(currents[0]), self._classes), silence, silence.sum(0), currents
        if self._begun.packed:
            logits, site_spikes, synops = self._ahead[phase.name](self._inputs(phase, currents), 1)
            self._classes = logits.shape[1]
            return logits, site_spikes, synops, currents
        body = self._body if phase is Phase.DRIVEN else self._settling
        assert body is not None

        def timestep(currents: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            logits: Tensor = body(*self._inputs(phase, currents))
            counts = [neuron.counts for neuron in self._neurons.values() if neuron.counts is not None]
            return (
                logits,
                torch.stack([spikes for spikes, _ in counts]).double(),
                torch.stack([synops for _, synops in counts]).double().sum(0),
            )

        run = self._replaying if self._replaying is not None and replays(currents[0].device) else plain
        (logits, site_spikes, synops), currents = run(phase, currents, timestep)
        self._classes = logits.shape[1]
        return logits, site_spikes, synops, currents

    def _inputs(self, phase: Phase, currents: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What the network is fed with in a phase."""
        if phase is Phase.DRIVEN:
            return currents
        return tuple(current.new_zeros(()).expand_as(current) for current in currents)

    def _step_by_phase(self, batch: _Batch, phases: dict[Phase, Tensor]) -> Tensor:
        """One timestep of images that are in different phases of the schedule, one phase after the other.

        It copies the states of all images twice.
        """
        states = [module.set_aside() for module in self._stateful]
        batch.site_spikes, batch.synops = torch.zeros_like(batch.site_spikes), torch.zeros_like(batch.synops)
        logits = torch.zeros(())
        for phase, images in phases.items():
            if phase is Phase.FROZEN:
                continue
            places = images.to(batch.synops.device)
            rows = batch.rows(places)
            for module, state in zip(self._stateful, states, strict=True):
                module.restore(state)
                module.keep(rows)
            own, site_spikes, synops, _ = self._simulate(phase, tuple(current[rows] for current in batch.currents))
            for module, state in zip(self._stateful, states, strict=True):
                module.replace(state, places)
            if not logits.dim():
                logits = own.new_zeros(batch.count, self._classes)
            logits[places] = own[: len(places)]
            batch.site_spikes[:, places] = site_spikes[:, : len(places)]
            batch.synops[places] = synops[: len(places)]
        return logits

    def presimulate(self, steps: int) -> None:
        """For a prelude: `steps` timesteps whose logits are dropped and whose spikes and SynOps are kept as its totals."""
        batch = self._begun
        spikes, synops = batch.site_spikes, batch.synops
        for _ in range(steps):
            self.step()
            spikes, synops = spikes + batch.site_spikes, synops + batch.synops
        batch.site_spikes, batch.synops = spikes, synops

    def restart_pools(self) -> None:
        """For a prelude: let max-pools forget it. Neurons are restarted by their method."""
        for module in self._stateful:
            if isinstance(module, (SpikeMaxPool, CurrentMaxPool)):
                module.reset()

    def calibrate_layers(self, steps: int, at_neurons: AtNeurons) -> None:
        """For a prelude: `steps` timesteps layer after layer (see `simulate_layerwise`), counted as its totals.

        `at_neurons(name, neuron, currents)` turns a layer's currents of all timesteps into its spikes.
        """
        batch = self._begun
        totals = dict(zip(self._neurons, batch.site_spikes, strict=True))

        def counted(name: str, neuron: SpikingNeuron, currents: list[Tensor]) -> list[Tensor]:
            emitted = at_neurons(name, neuron, currents)
            if neuron.tally is not None:
                for spikes in emitted:
                    events, operations = neuron.tally(spikes[: batch.count])
                    totals[name] += events
                    batch.synops.add_(operations)
            return emitted

        simulate_layerwise(self._body, batch.currents, steps, counted)

    @torch.no_grad()
    def simulate_layers(self, images: Tensor, steps: int, at_neurons: AtNeurons) -> None:
        """Simulate `images` layer after layer, to calibrate neurons on them; all per-image state is forgotten again."""
        self._reset()
        self._layers.activate(None)
        simulate_layerwise(self._body, self._before(images), steps, at_neurons)
        self._reset()

    @torch.no_grad()
    def keep(self, mask: Tensor) -> None:
        """Go on with the images where `mask` [B] (bool) is True, as if the others had never been there."""
        batch = self._at_rest
        kept = torch.nonzero(mask)[:, 0]
        rows = batch.rows(kept)
        batch.count = len(kept)
        batch.currents = tuple(current[rows] for current in batch.currents)
        batch.site_spikes, batch.synops = batch.site_spikes[:, kept], batch.synops[kept]
        if batch.ages is not None:
            batch.ages = batch.ages[kept.cpu()]
        for module in self._stateful:
            module.keep(rows)

    @torch.no_grad()
    def replace(self, places: Tensor, images: Tensor) -> None:
        """Put fresh images [n, ...] in the places (int64 [n], distinct) of others, which are dropped, at any timestep.

        They start as in `begin`: their currents are computed and their prelude is run, of them alone. The rest of the batch
        goes on as if nothing had happened. At these places `spikes` and `synops` are then the prelude's. Raises RuntimeError
        before `begin`, ValueError for images of another shape or precision than the batch's, or of another number than places.
        """
        batch = self._at_rest
        if len(places) != len(images):
            raise ValueError(f"{len(images)} images for {len(places)} places")
        if images.shape[1:] != self._image_shape or images.dtype != batch.dtype:
            raise ValueError(
                f"images of a batch must be alike: these are {list(images.shape[1:])} {images.dtype}, "
                f"the others {list(self._image_shape or ())} {batch.dtype}"
            )
        if not len(images):
            return
        states = [module.set_aside() for module in self._stateful]
        self.begin(images)
        fresh = self._begun
        # Of a lone image that is computed in duplicate, its first row is enough: the second one is mere company.
        for module, state in zip(self._stateful, states, strict=True):
            module.replace(state, places)
        for current, own in zip(batch.currents, fresh.currents, strict=True):
            current[places] = own[: len(places)].clone()
        batch.site_spikes[:, places], batch.synops[places] = fresh.site_spikes, fresh.synops
        if batch.ages is not None:
            batch.ages[places.cpu()] = 0
        self._batch = batch

    @torch.no_grad()
    def account(self, image: Tensor) -> None:
        """Count synapses and MACs for images of this shape ([1, ...]); `begin` does it by itself."""
        shape = tuple(image.shape[1:])
        if shape == self._image_shape:
            return
        # What is left of images of another shape.
        self._layers.activate(None)
        self._reset()
        for layer in self._neurons.values():
            layer.tally = None
        accounting = Accounting(self._graph, image)
        for name, fan_out in accounting.fan_out.items():
            neuron = self._graph.get_submodule(name)
            assert isinstance(neuron, SpikingNeuron)
            neuron.tally = SpikeTally(fan_out, signed=neuron.kind == "signed")
        self._accounting, self._image_shape = accounting, shape

    @property
    def spikes(self) -> Tensor:
        """Spikes of the last timestep per image, int64 [B]; after `begin`, those of the prelude."""
        return self._begun.site_spikes.sum(0).long()

    @property
    def site_spikes(self) -> Tensor:
        """The same for every spiking layer, int64 [B, L], in the order of `sites`; the sum of a row is `spikes`."""
        return self._begun.site_spikes.long().T

    @property
    def synops(self) -> Tensor:
        """SynOps of the last timestep per image, int64 [B]; after `begin`, those of the prelude."""
        return self._begun.synops.long()

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


def preferred_order(device: torch.device) -> torch.memory_format | None:
    """The memory format in which this device's convolutions are faster, unless they are packed; None: whichever there is.

    Tensor cores, for which a GPU rounds inputs (TF32, autocast), work on channels_last: there ResNet-18 took an H100 1.4 times
    as long in NCHW, but in float32 0.92 times. In bf16 NCHW took a CPU without AVX-512 3.5 to 13 times as long.
    """
    if device.type == "cpu":
        return torch.channels_last if torch.is_autocast_enabled("cpu") else None
    if device.type != "cuda":
        return None
    rounds = torch.backends.cudnn.allow_tf32 or torch.is_autocast_enabled("cuda")
    return torch.channels_last if rounds else torch.contiguous_format
