"""How an ANN becomes a spiking network: one file per method. Needs torch; knows no dataset, file or command line.

`METHODS` is a plain table, so listing the methods imports nothing heavy; `get` imports the one asked for.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from methods.base import ConversionMethod


@dataclass(frozen=True)
class MethodEntry:
    """One line of the table: where the class is, and what a user wants to know before importing it.

    `network` says what is converted: a `quantised` network (any uniform quantiser will do), a plain `relu` network, or a
    `spiking` one that was trained as such; `trained_as` names the method whose activations a quantised network is
    trained with, if that is another. `version` is raised whenever the method's numbers change, so that old and new
    results never share an id.
    """

    target: str
    summary: str
    paper: str
    needs: str
    prelude: str
    network: str = "quantised"
    trained_as: str = ""
    version: int = 1
    timesteps: int = 32


METHODS: dict[str, MethodEntry] = {
    "qcfs": MethodEntry(
        target="methods.qcfs:QCFS",
        summary="integrate-and-fire with soft reset from a quantisation clip-floor-shift network",
        paper="Bu et al., ICLR 2022, arXiv:2303.04347",
        needs="training",
        prelude="none",
    ),
    "qffs": MethodEntry(
        target="methods.qffs:QFFS",
        summary="signed spikes with count guards; input and biases for Q timesteps, then settling to the quantised network",
        paper="Li, Ma, Furber, Front. Neurosci. 2022, 918793",
        needs="training",
        prelude="none",
    ),
    "srp": MethodEntry(
        target="methods.srp:SRP",
        summary="a pre-pass finds neurons that fire too often by their residual membrane; the second pass masks them",
        paper="Hao et al., AAAI 2023, arXiv:2302.02091",
        needs="training",
        prelude="tau timesteps",
        trained_as="qcfs",
    ),
    "cos": MethodEntry(
        target="methods.cos:COS",
        summary="initial membranes shifted layer by layer until spike counts are right",
        paper="Hao et al., ICLR 2023, arXiv:2302.10685",
        needs="training",
        prelude="rho timesteps (streaming: depth * rho)",
        trained_as="qcfs",
    ),
    "snm": MethodEntry(
        target="methods.snm:SNM",
        summary="signed neurons with memory: negative spikes, no upper guard, no drive window",
        paper="Wang et al., IJCAI 2022",
        needs="training",
        prelude="none",
        trained_as="qcfs",
    ),
    "st-bif": MethodEntry(
        target="methods.st_bif:STBIF",
        summary="bipolar neurons with a spike counter; the whole input at once, then settling to the quantised network",
        paper="You et al., ICML 2024, arXiv:2406.03470",
        needs="training",
        prelude="none",
        trained_as="qffs",
    ),
    "ftbc": MethodEntry(
        target="methods.ftbc:FTBC",
        summary="QCFS neurons with a calibrated correction of the current per channel and timestep",
        paper="Wu et al., ECCV 2024, arXiv:2403.18388",
        needs="training, calibration",
        prelude="none",
        trained_as="qcfs",
    ),
    "threshold-balancing": MethodEntry(
        target="methods.threshold_balancing:ThresholdBalancing",
        summary="any ReLU network; thresholds are the largest activations, or a high percentile of them",
        paper="Diehl et al., IJCNN 2015; Rueckauer et al., Front. Neurosci. 2017",
        needs="calibration",
        prelude="none",
        network="relu",
    ),
    "ltb": MethodEntry(
        target="methods.local_balancing:LocalThresholdBalancing",
        summary="any ReLU network; thresholds grow by local gradient steps on what they clip",
        paper="Bu, Li, Yu, CVPR 2025, arXiv:2409.03368",
        needs="calibration",
        prelude="none, or delay timesteps",
        network="relu",
    ),
    "snn-calibration": MethodEntry(
        target="methods.snn_calibration:SNNCalibration",
        summary="any ReLU network; thresholds of least squared error, then bias or initial membrane corrected",
        paper="Li et al., ICML 2021, arXiv:2106.06984",
        needs="calibration",
        prelude="none",
        network="relu",
    ),
    "surrogate": MethodEntry(
        target="methods.surrogate:Surrogate",
        summary="leaky neurons trained directly by backpropagation through time; nothing is converted",
        paper="Zheng et al., AAAI 2021, arXiv:2011.05280; Deng et al., ICLR 2022, arXiv:2202.11946",
        needs="training",
        prelude="none",
        timesteps=8,
        network="spiking",
    ),
}


def get(name: str) -> type[ConversionMethod]:
    """The method class called `name`. Raises KeyError that lists the known names."""
    if name not in METHODS:
        raise KeyError(f"unknown method {name!r}; known: {', '.join(sorted(METHODS))}")
    module, _, attribute = METHODS[name].target.partition(":")
    return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]
