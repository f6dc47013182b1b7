"""Networks of other packages as stepwise networks: SpikingJelly, snnTorch, and any pair of functions.

What comes out can be recorded with `dynconf.record` and run with `dynconf.DynamicInference`. Both packages are optional and
imported only by the function of their name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# Called as encode(images [B, ...], timestep from 1); returns what the network sees at that timestep, [B, ...].
Encoder = Callable[[Tensor, int], Tensor]


class AdaptedNetwork(ABC):
    """A `dynconf.recorder.StepwiseNetwork` around a foreign one.

    `synops` are always zero: counting them needs the fan-out of every spike, which a foreign network does not tell. There is
    no prelude. In float32 the same image may round differently in batches of different size, as everywhere in PyTorch;
    this can flip spikes near a threshold, and with them an exit.
    """

    prelude_steps = 0
    counts_spikes = True
    counts_synops = False

    def __init__(self, encode: Encoder | None = None):
        self._encode = encode
        self._images: Tensor | None = None
        self._ages = torch.zeros(0, dtype=torch.long)  # timesteps of each image, on the CPU; for the encoder
        self._spikes: Tensor | None = None

    @torch.no_grad()
    def begin(self, images: Tensor) -> None:
        """Forget all state and start on images [B, ...]."""
        self._reset()
        self._images, self._ages = images, torch.zeros(len(images), dtype=torch.long)
        self._spikes = torch.zeros(len(images), dtype=torch.long, device=images.device)

    @torch.no_grad()
    def step(self) -> Tensor:
        """One timestep's logits [B, K]. Raises RuntimeError before `begin`, ValueError if they are not [B, K]."""
        images = self._begun()
        logits = self._advance(images if self._encode is None else self._encoded(images, self._encode))
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(images):
            found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"one timestep must give logits [{len(images)}, classes], got {found}")
        return logits

    @torch.no_grad()
    def keep(self, mask: Tensor) -> None:
        """Go on with the images where `mask` [B] (bool) is True. Raises RuntimeError for state that has no row per image."""
        images = self._begun()
        rows = torch.nonzero(mask)[:, 0]
        self._keep_state(rows, len(images))
        self._images, self._spikes = images[rows], self.spikes[rows]
        if self._encode is not None:
            self._ages = self._ages[rows.cpu()]

    def _encoded(self, images: Tensor, encode: Encoder) -> Tensor:
        """What the network sees at this timestep; images of different age are encoded one age after the other."""
        self._ages += 1
        ages = self._ages.unique().tolist()
        if len(ages) == 1:
            return encode(images, ages[0])
        rows = [torch.nonzero(self._ages == age)[:, 0] for age in ages]
        parts = [encode(images[own.to(images.device)], age) for own, age in zip(rows, ages, strict=True)]
        return torch.cat(parts)[torch.cat(rows).argsort().to(images.device)]

    @property
    def spikes(self) -> Tensor:
        """Non-zero outputs of spiking layers in the last timestep per image, int64 [B]; zero after `begin`."""
        self._begun()
        assert self._spikes is not None
        return self._spikes

    @property
    def synops(self) -> Tensor:
        """Zero: not countable here. int64 [B]."""
        return torch.zeros_like(self.spikes)

    def _begun(self) -> Tensor:
        if self._images is None:
            raise RuntimeError("call begin(images) first")
        return self._images

    @abstractmethod
    def _reset(self) -> None:
        """Forget all state."""

    @abstractmethod
    def _advance(self, inputs: Tensor) -> Tensor:
        """One timestep."""

    @abstractmethod
    def _keep_state(self, rows: Tensor, count: int) -> None:
        """Drop all rows of the state but these; there were `count`."""


class RefillableAdaptedNetwork(AdaptedNetwork):
    """One that is a `dynconf.continuous.RefillableNetwork` too."""

    @torch.no_grad()
    def replace(self, places: Tensor, images: Tensor) -> None:
        """Put fresh images [n, ...] in these places of the batch (int64 [n]); the others go on as they are.

        Raises RuntimeError before `begin`, and for state of which some rows cannot begin anew.
        """
        held = self._begun()
        self._restart_state(places, len(held))
        self._images = held.index_copy(0, places, images)
        self._spikes = self.spikes.index_fill(0, places, 0)
        if self._encode is not None:
            self._ages[places.cpu()] = 0

    @abstractmethod
    def _restart_state(self, rows: Tensor, count: int) -> None:
        """Let these rows of the state, of which there are `count`, begin anew."""


class _AdaptedPair(AdaptedNetwork):
    """Two functions. Without `keep_fn` the whole batch goes on being simulated, and only the kept rows are shown."""

    counts_spikes = False

    def __init__(
        self,
        step_fn: Callable[[Tensor], Tensor],
        reset_fn: Callable[[], None],
        keep_fn: Callable[[Tensor], None] | None,
    ):
        super().__init__()
        self._step_fn, self._reset_fn, self._keep_fn = step_fn, reset_fn, keep_fn
        self._all: Tensor | None = None
        self._shown: Tensor | None = None

    def begin(self, images: Tensor) -> None:
        super().begin(images)
        self._all, self._shown = images, torch.arange(len(images), device=images.device)

    def _reset(self) -> None:
        self._reset_fn()

    def _advance(self, inputs: Tensor) -> Tensor:
        if self._keep_fn is not None:
            return self._step_fn(inputs)
        assert self._all is not None and self._shown is not None
        return self._step_fn(self._all)[self._shown]

    def _keep_state(self, rows: Tensor, count: int) -> None:
        assert self._shown is not None
        self._shown = self._shown[rows]
        if self._keep_fn is not None:
            mask = torch.zeros(count, dtype=torch.bool, device=rows.device)
            mask[rows] = True
            self._keep_fn(mask)


class _RestartablePair(_AdaptedPair, RefillableAdaptedNetwork):
    """The same with a function that lets rows begin anew."""

    def __init__(
        self,
        step_fn: Callable[[Tensor], Tensor],
        reset_fn: Callable[[], None],
        keep_fn: Callable[[Tensor], None] | None,
        restart_fn: Callable[[Tensor], None],
    ):
        super().__init__(step_fn, reset_fn, keep_fn)
        self._restart_fn = restart_fn

    def replace(self, places: Tensor, images: Tensor) -> None:
        super().replace(places, images)
        if self._keep_fn is None:
            assert self._all is not None and self._shown is not None
            self._all = self._all.index_copy(0, self._shown[places], images)

    def _restart_state(self, rows: Tensor, count: int) -> None:
        assert self._shown is not None
        self._restart_fn(rows if self._keep_fn is not None else self._shown[rows])


class _AdaptedModule(RefillableAdaptedNetwork):
    """A module whose spiking layers are watched by hooks, but only while it takes a timestep."""

    def __init__(self, network: nn.Module, spiking: list[nn.Module], encode: Encoder | None, sequences: bool = False):
        super().__init__(encode)
        if not spiking:
            raise ValueError(f"{type(network).__name__} has no spiking layer of this package")
        self.network = network
        self._spiking = spiking
        self._sequences = sequences

    def begin(self, images: Tensor) -> None:
        self.network.eval()
        super().begin(images)

    @contextmanager
    def _counting(self) -> Iterator[None]:
        assert self._spikes is not None
        counts = torch.zeros_like(self._spikes)

        def count(module: nn.Module, inputs: Any, output: Any) -> None:
            spikes = output[0] if isinstance(output, tuple) else output
            # A layer may be called for a sequence of one timestep; its images are then one axis further.
            rows = spikes.flatten(0, 1) if self._sequences and spikes.shape[0] != len(counts) else spikes
            counts.add_((rows != 0).reshape(len(counts), -1).sum(1))

        handles = [module.register_forward_hook(count) for module in self._spiking]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        self._spikes = counts


class _AdaptedSpikingJelly(_AdaptedModule):
    def __init__(
        self, network: nn.Module, spiking: list[nn.Module], memories: list[Any], encode: Encoder | None, m: bool
    ):
        super().__init__(network, spiking, encode, sequences=m)
        self._memories = memories

    def _reset(self) -> None:
        for module in self._memories:
            module.reset()

    def _advance(self, inputs: Tensor) -> Tensor:
        with self._counting():
            if not self._sequences:
                return self.network(inputs)
            logits = self.network(inputs[None])
        if not isinstance(logits, Tensor) or logits.dim() != 3 or len(logits) != 1:
            raise ValueError("a multi-step network must map [T, B, ...] to logits [T, B, classes], also for T = 1")
        return logits[0]

    def _keep_state(self, rows: Tensor, count: int) -> None:
        for module in self._memories:
            for name, value in list(module.named_memories()):
                # A memory of the shape of its reset value has no row per image: it is the same for all of them.
                shared = module.get_reset_value(name)
                if isinstance(value, Tensor) and isinstance(shared, Tensor) and torch.equal(value, shared):
                    continue
                setattr(module, name, _rows_of(value, rows, count, f"{name!r} of {type(module).__name__}"))

    def _restart_state(self, rows: Tensor, count: int) -> None:
        for module in self._memories:
            for name, value in list(module.named_memories()):
                start = module.get_reset_value(name)
                if (
                    isinstance(value, Tensor)
                    and value.dim()
                    and len(value) == count
                    and isinstance(start, (int, float))
                ):
                    setattr(module, name, value.index_fill(0, rows, start))
                elif not _is_same(value, start):
                    raise _cannot_restart(name, module)


class _AdaptedSnnTorch(_AdaptedModule):
    def __init__(self, network: nn.Module, spiking: list[nn.Module], encode: Encoder | None, output: int):
        super().__init__(network, spiking, encode)
        self._output = output

    def _states(self) -> Iterator[tuple[nn.Module, str, Tensor]]:
        # snnTorch keeps states, and nothing else, in buffers that are not saved with the weights.
        for module in self._spiking:
            for name in sorted(module._non_persistent_buffers_set):
                yield module, name, getattr(module, name)

    def _reset(self) -> None:
        # Empty, as after construction; the next call makes zeros of the right shape.
        for module, name, value in self._states():
            setattr(module, name, value.new_zeros(0))

    def _advance(self, inputs: Tensor) -> Tensor:
        with self._counting():
            outputs = self.network(inputs)
        return outputs[self._output] if isinstance(outputs, tuple) else outputs

    def _keep_state(self, rows: Tensor, count: int) -> None:
        for module, name, value in self._states():
            setattr(module, name, _rows_of(value, rows, count, f"{name!r} of {type(module).__name__}"))

    def _restart_state(self, rows: Tensor, count: int) -> None:
        for module, name, value in self._states():
            if value.dim() and len(value) == count:
                setattr(module, name, value.index_fill(0, rows, 0))
            elif value.numel():
                raise _cannot_restart(name, module)


def stepwise(
    step_fn: Callable[[Tensor], Tensor],
    reset_fn: Callable[[], None],
    keep_fn: Callable[[Tensor], None] | None = None,
    restart_fn: Callable[[Tensor], None] | None = None,
) -> AdaptedNetwork:
    """Any simulator that is a pair of functions, ready to be recorded.

    Args:
        step_fn: `step_fn(images [B, ...]) -> logits [B, K]` of one timestep.
        reset_fn: forgets all state.
        keep_fn: `keep_fn(mask [B] bool)` drops the rows of images that have left; `step_fn` is then called with the other
            images alone. Without it they go on being simulated, at full cost, and only the rows that stay are shown.
        restart_fn: `restart_fn(rows [n] int64)` lets these rows of the state begin anew, as after `reset_fn`, for fresh images
            that `step_fn` is then called with; never before the first timestep. Without it `DynamicInference.stream` goes batch
            after batch.

    Spikes and SynOps are not known and reported as zero.
    """
    if restart_fn is not None:
        return _RestartablePair(step_fn, reset_fn, keep_fn, restart_fn)
    return _AdaptedPair(step_fn, reset_fn, keep_fn)


def spikingjelly(network: nn.Module, *, multi_step: bool = False, encode: Encoder | None = None) -> AdaptedNetwork:
    """A network of SpikingJelly (`spikingjelly.activation_based`), with state rows dropped as images leave.

    Args:
        network: `network(images [B, ...]) -> logits [B, K]`, one timestep. Put into eval mode by `begin`; state lives in its
            `MemoryModule` objects, as it does for all layers of the package.
        multi_step: the network is in step mode `m`, [T, B, ...] to [T, B, K]; it is then called for one timestep at a time.
        encode: `encode(images, timestep from 1)`, for event frames or rate coding; the image itself by default. Images of
            different age, which share a batch in `DynamicInference.stream`, are encoded in one call for each age.

    Spikes are the non-zero outputs, of either sign, of the layers in `spikingjelly.activation_based.neuron`.

    Raises:
        ImportError: the package is missing.
        ValueError: no spiking layer; a step mode that does not fit; or a layer that has to see all timesteps at once.
    """
    try:
        from spikingjelly.activation_based import base, layer, neuron
    except ImportError as error:
        raise ImportError("dynconf.adapters.spikingjelly needs SpikingJelly: pip install spikingjelly") from error
    modules = list(network.modules())
    harmless = (layer.MultiStepContainer, layer.SeqToANNContainer, nn.modules.batchnorm._BatchNorm)
    sequences = False
    for module in modules:
        if not isinstance(module, base.StepModule):
            continue
        only_sequences = "s" not in module.supported_step_mode()
        in_sequences = only_sequences or getattr(module, "step_mode", "s") == "m"
        sequences |= in_sequences
        parallel = isinstance(module, (neuron.MaskedPSN, neuron.SlidingPSN)) and in_sequences
        if parallel or (only_sequences and not isinstance(module, harmless)):
            raise ValueError(f"{type(module).__name__} sees all timesteps at once; it cannot take them one by one")
    if sequences and not multi_step:
        raise ValueError(
            "the network is in step mode 'm': pass multi_step=True, or functional.set_step_mode(network, 's')"
        )
    if multi_step and not sequences:
        raise ValueError(
            "the network is in step mode 's': leave multi_step out, or functional.set_step_mode(network, 'm')"
        )
    memories = [module for module in modules if isinstance(module, base.MemoryModule)]
    package = neuron.__name__
    spiking: list[nn.Module] = [
        module
        for module in memories
        if isinstance(module, (neuron.BaseNode, neuron.SimpleBaseNode)) or type(module).__module__.startswith(package)
    ]
    return _AdaptedSpikingJelly(network, spiking, memories, encode, multi_step)


def snntorch(network: nn.Module, *, output: int = 0, encode: Encoder | None = None) -> AdaptedNetwork:
    """A network of snnTorch whose neurons hold their own state, with state rows dropped as images leave.

    Args:
        network: `network(images [B, ...])` gives one timestep's logits [B, K], or a tuple such as (spikes, membrane). Put
            into eval mode by `begin`. Neurons need `init_hidden=True`.
        output: which element of such a tuple is read as logits.
        encode: `encode(images, timestep from 1)`, for event frames or rate coding; the image itself by default. Images of
            different age, which share a batch in `DynamicInference.stream`, are encoded in one call for each age.

    Spikes are the non-zero outputs, of either sign, of its `SpikingNeuron` layers.

    Raises:
        ImportError: the package is missing.
        ValueError: no spiking layer, or one without `init_hidden=True`, whose state the network's own code carries: use
            `stepwise` with functions of your own for it.
    """
    try:
        from snntorch import SpikingNeuron
    except ImportError as error:
        raise ImportError("dynconf.adapters.snntorch needs snnTorch: pip install snntorch") from error
    spiking: list[nn.Module] = []
    for name, module in network.named_modules():
        if isinstance(module, SpikingNeuron):
            if not module.init_hidden:
                raise ValueError(
                    f"{name or type(module).__name__} needs init_hidden=True; see dynconf.adapters.stepwise"
                )
            spiking.append(module)
    return _AdaptedSnnTorch(network, spiking, encode, output)


def _rows_of(value: Any, rows: Tensor, count: int, name: str) -> Any:
    """Some rows of a state, which may be a tensor or a collection of tensors. Numbers and empty tensors are not per image."""
    if isinstance(value, (list, tuple, deque)):
        return type(value)(_rows_of(part, rows, count, name) for part in value)
    if not isinstance(value, Tensor) or value.numel() == 0:
        return value
    if value.dim() == 0 or len(value) != count:
        raise RuntimeError(
            f"state {name} is {list(value.shape)} for {count} images: it cannot be cut down to some of them"
        )
    return value[rows.to(value.device)]


def _is_same(value: Any, start: Any) -> bool:
    """Whether a state still is what it begins as: a number, nothing, or a tensor that all images share."""
    if isinstance(value, Tensor) or isinstance(start, Tensor):
        return isinstance(value, Tensor) and isinstance(start, Tensor) and torch.equal(value, start)
    return bool(value == start)


def _cannot_restart(name: str, module: nn.Module) -> RuntimeError:
    return RuntimeError(
        f"state {name!r} of {type(module).__name__} cannot begin anew for some of the images: stream with refill=1, batch "
        "after batch"
    )
