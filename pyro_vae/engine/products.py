"""Matrix products of compiled graphs on a CPU, by `products.cpp`."""

import logging
from functools import cache
from pathlib import Path

import torch
from torch.fx import Graph

from pyro_vae.engine.building import built
from pyro_vae.engine.recording import KIND

SMALLEST = 100_000  # multiplications of a product from which the call is repaid


def by_kernels(graph: Graph) -> None:
    """Hand the float32 products of a graph on a CPU to `torch.ops.pyro_vae.product`, if that can be had here."""
    for node in graph.nodes:
        if node.target is not torch.ops.aten.mm.default:
            continue
        a, b = (factor.meta[KIND] for factor in node.args)
        if a.device.type != "cpu" or a.dtype != torch.float32:
            continue
        if a.shape[0] * b.shape.numel() < SMALLEST or 1 in (a.shape[0], b.shape[1]):
            continue
        if has_kernels():
            node.target = torch.ops.pyro_vae.product.default


@cache
def has_kernels() -> bool:
    """Whether there is a `torch.ops.pyro_vae.product` here; found out once.

    It is compiled by the compiler that the graphs need too, in some seconds, and kept where Inductor keeps its own.
    """
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return False
    try:
        _compile()
    except Exception as error:  # no compiler here, or a PyTorch without these kernels: its own products do
        logging.getLogger(__name__).info("products are PyTorch's: %s", error)
        return False
    return True


@cache
def _compile() -> None:
    from torch._inductor.codecache import CppCodeCache

    source = Path(__file__).with_name("products.cpp").read_text()
    built(lambda: CppCodeCache.load(source))
    torch.library.register_fake(
        "pyro_vae::product", lambda a, b: a.new_empty(a.shape[0], b.shape[1])
    )
