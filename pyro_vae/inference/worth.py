"""Whether compiling the steps of a run gains more time than it takes: told from operations, not by a stopwatch.

A stopwatch would decide otherwise on a busy machine, and compiled steps round otherwise than uncompiled ones: the same
command would give other bits.
"""

import logging
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from pyro_vae.inference.svi import SVI

LARGEST = (
    10_000  # operations of a graph that is compiled unasked: more would take minutes
)


class Rates(NamedTuple):
    """Seconds of a kind of machine, by `benchmarks.training` on two threads of an AMD EPYC and on an H200."""

    least: int  # steps below which nobody looks
    start: float  # to compile anything
    operation: float  # to compile one more operation
    saved_operation: float  # in each step: what Python takes to call it
    saved_element: float  # in each step: what an element takes that is written to memory and read back


RATES = {
    "cpu": Rates(1000, 3.0, 0.015, 6.5e-6, 0.35e-9),
    "cuda": Rates(200, 2.0, 0.01, 20e-6, 0.0),
}
# Operations and elements taken for pairs that cannot be tried before the run.
FUNCTIONS = (
    200,
    0,
)


def worth(svi: SVI, data: Any, *, steps: int, batch_size: int) -> str | None:
    """Why compiling pays, in words; `None` where it does not.

    Each operation that a compiled graph spares Python, and each element that it need not write to memory and read back,
    is worth a fixed time; products of matrices take theirs either way. So much is saved in each of `steps` steps, and
    the time to compile grows with the operations.
    """
    device = (
        svi.optimizer.param_groups[0]["params"][0].device.type
        if svi.has_optimizer
        else "cpu"
    )
    rates = RATES.get(device)
    if rates is None or steps < rates.least:
        return None
    found = _count(svi, data, batch_size)
    if found is None:
        return None
    operations, elements = found
    saved = steps * (
        operations * rates.saved_operation + elements * rates.saved_element
    )
    cost = rates.start + operations * rates.operation
    if saved <= cost:
        return None
    return f"{steps:,} steps repay it, saving about {saved:.0f} s for {cost:.0f} s in the first epoch"


def _count(svi: SVI, data: Any, batch_size: int) -> tuple[int, int] | None:
    """Operations of a step, and elements that they write; `None` for a step that cannot be tried."""
    with _Counter() as counter:
        try:
            tried = svi.rehearse(
                lambda: data[
                    torch.arange(batch_size, device=getattr(data, "device", "cpu"))
                ]
            )
        except Exception as error:  # the first step will say it better
            logging.getLogger(__name__).info(
                "the operations of a step were not counted: %s", error
            )
            return None
    return (counter.operations, counter.elements) if tried else FUNCTIONS


class _Counter(TorchDispatchMode):
    """Counts operations, and the elements that those write which are no products and no views."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        if not func.is_view and func._overloadpacket not in flop_registry:
            outputs = out if isinstance(out, tuple | list) else [out]
            self.elements += sum(o.numel() for o in outputs if isinstance(o, Tensor))
        return out
