"""How much memory a computation takes, and in what pieces it is done."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae.foundation.abstract import forked_random
from pyro_vae.foundation.memory import available_memory

MEMORY = 256 * 2**20


# Draws decoded at a time: what stays in a processor's caches is faster.
CHUNK = {"cpu": 4096}


LARGEST_CHUNK = 100_000  # elsewhere, and of draws whose weights are summed up


class Allocations(TorchDispatchMode):
    """Adds up the bytes of everything that is computed inside: an upper bound on what it needs at a time."""

    bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor) and tensor._base is None:
                self.bytes += tensor.numel() * tensor.element_size()
        return out


def bytes_of(call: Callable[[], Any]) -> int:
    """Memory for what a call computes when it is not the first; the random streams are left as they were."""
    with forked_random():
        call()  # makes what is kept, such as the choice of a library, which measures with matrices of its own
        with Allocations() as allocations:
            call()
    return allocations.bytes


def bytes_of_one_more(call: Callable[[int], Any]) -> int:
    """Memory that one more draw takes in a call with a number of draws.

    It is the difference between 3 draws and 1, or between 5 and 3, whichever is less: from some size on a library of
    products copies the weights, which no draw takes.
    """
    one, three, five = (bytes_of(partial(call, count)) for count in (1, 3, 5))
    return min(three - one, five - three) // 2


def free_bytes(device: torch.device) -> float:
    """Memory that can still be taken on a device: a CUDA card's own, elsewhere that of the system."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return available_memory()


def pieces(count: int, most: int) -> Iterator[int]:
    """`count` in pieces of at most so many."""
    for done in range(0, count, most):
        yield min(most, count - done)
