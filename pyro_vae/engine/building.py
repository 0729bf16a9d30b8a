"""Inductor without the questions whose answers are known: programs made before, and what the compiler can do.

A graph that an earlier process compiled is loaded in a second. Of a new one Inductor would first try by half a dozen
programs which vector instructions the compiler knows: here that is found out where a program cannot be built.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.fx import GraphModule

from pyro_vae.engine import reductions

T = TypeVar("T")


def kept_program(
    module: GraphModule, inputs: list[Any], options: dict[str, Any]
) -> Callable[..., Sequence[Tensor]]:
    """A program of a graph by Inductor, which looks it up among those that it made before.

    It does where it is given a place for symbols of shapes, of which there are none here.

    Args:
        module: the graph.
        inputs: of it, whose shapes stay.
        options: for Inductor.
    """
    from torch._guards import TracingContext, tracing
    from torch._inductor.compile_fx import compile_fx
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    options = {"post_grad_custom_pre_pass": _mark(), **options}
    with tracing(TracingContext(mode)):
        found: Any = compile_fx(
            module, inputs, config_patches=options, ignore_shape_env=True
        )
    return found


@cache
def _mark() -> Any:
    """A pass that leaves graphs as they are and names what else a program hangs on: a part of its key.

    That is what is changed in Inductor here, and the processor's vectors, as machines may share a folder.
    """
    from torch._inductor.custom_graph_pass import CustomGraphPass

    digest = hashlib.blake2b(Path(reductions.__file__).read_bytes(), digest_size=8)
    vectors = torch.backends.cpu.get_cpu_capability()

    class Mark(CustomGraphPass):
        def __call__(self, graph: torch.fx.Graph) -> None:
            pass

        def uuid(self) -> str:
            return f"pyro_vae, {digest.hexdigest()}, {vectors}"

    return Mark()


class _Vectors:
    """Whether the compiler is believed to know the vector instructions of this processor."""

    believed = True
    seen = False  # by a program that was built


def built(make: Callable[[], T]) -> T:
    """What a function has Inductor build: for the processor's vectors, and only where that fails for those that tell.

    They are tried then, which takes seconds.
    """
    if not _Vectors.believed:
        return make()
    try:
        with _untried():
            found = make()
    except Exception:
        if _Vectors.seen:
            raise
        _Vectors.believed = False
        _forget()
        return make()
    _Vectors.seen = True
    return found


@contextmanager
def _untried() -> Iterator[None]:
    """In which Inductor takes it that the compiler knows all vector instructions that the processor has."""
    try:
        from torch._inductor.cpu_vec_isa import VecISA
    except ImportError:
        yield
        return
    kinds: Any = VecISA
    usual = kinds.check_build
    kinds.check_build = lambda kind, code: True
    try:
        yield
    finally:
        kinds.check_build = usual


def _forget() -> None:
    """Have Inductor find out anew which vector instructions there are."""
    from torch._inductor import cpu_vec_isa

    kinds = [type(each) for each in cpu_vec_isa.supported_vec_isa_list]
    places = [cpu_vec_isa, *(base for kind in kinds for base in kind.__mro__)]
    for place in places:
        for value in vars(place).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()
