"""Functions that give the same bits by any number of threads, found out by trying."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import Module

from pyro_vae.engine.affine import products_of
from pyro_vae.engine.compiled import restored, without_tensors
from pyro_vae.engine.threads import free_threads, same_bits, threads
from pyro_vae.foundation.abstract import forked_random

TRIALS = 4  # calls that have to agree: a single number may round alike by chance


class Alike:
    """Calls functions by as many threads as others leave cores for, once that was seen to change no bit.

    As long as nobody else uses cores, nothing is tried. How an operation shares its work among threads follows from
    shapes, not from values: a way to be called that agreed in some calls agrees in all.

    >>> Alike()("ones", lambda: [torch.ones(2)])
    [tensor([1., 1.])]
    """

    def __init__(self) -> None:
        self._agreed: dict[Hashable, int] = {}  # calls; -1 once one did not

    def __call__(
        self,
        way: Hashable,
        function: Callable[[], list[Tensor]],
        changed: Sequence[Tensor] = (),
    ) -> list[Tensor]:
        """What the function returns.

        Args:
            way: what the shapes of all that is computed follow from.
            function: may draw random numbers.
            changed: tensors that it changes in place.
        """
        count = free_threads()
        way = (way, count)
        agreed = self._agreed.get(way, 0)
        if count == torch.get_num_threads() or agreed < 0:
            return function()
        if agreed >= TRIALS:
            with threads(count):
                return function()

        # By both numbers of threads, from the same random numbers.
        with threads(count), forked_random(), restored(changed):
            few = [t.clone() for t in function()]
        many = function()
        alike = all(map(same_bits, few, many))
        self._agreed[way] = agreed + 1 if alike else -1
        return many


def by_all_threads(_: Hashable, function: Callable[[], list[Tensor]]) -> list[Tensor]:
    """The same without a look at how many others leave."""
    return function()


_KEPT: WeakKeyDictionary[Module, Alike] = WeakKeyDictionary()


def sparing(
    function: Callable[..., tuple[list[Tensor], Any]], by: Module | None = None
) -> Callable[..., tuple[list[Tensor], Any]]:
    """A function of data and numbers, called by as many threads as others leave cores for where that changes no bit.

    Args:
        function: returns tensors and anything else, and changes nothing.
        by: what computes, where the function is made anew for each use: what was found out holds for the next.
    """
    alike = Alike()
    known: tuple[Hashable, ...] = (function.__qualname__,)
    if by is not None:
        alike, known = _KEPT.setdefault(by, alike), (*known, *_described(by))

    def call(*args: Any) -> tuple[list[Tensor], Any]:
        if free_threads() == torch.get_num_threads():
            return function(*args)
        tensors: list[Tensor] = []
        structure = without_tensors(args, tensors)
        others: list[Any] = []

        def run() -> list[Tensor]:
            found, other = function(*args)
            others[:] = [other]
            return found

        found = alike((*known, structure, *(t.shape for t in tensors)), run)
        return found, others[0]

    return call


def _described(module: Module) -> tuple[Hashable, ...]:
    """What of a module, beside its inputs, the way follows in which it computes."""
    kept = tuple((p.shape, p.dtype) for p in module.parameters())
    modules = [*module.modules()]
    return (kept, products_of(modules), *(m.training for m in modules))
