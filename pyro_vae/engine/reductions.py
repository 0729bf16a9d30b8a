"""Sums that are the same to the bit for any number of threads.

Inductor lets threads share one sum, and adds up what each of them has: other numbers of threads round otherwise. Here
each sum is one thread's, and few long ones are made of many first, which threads can share.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.fx import Graph, Node

from pyro_vae.engine.recording import KIND

LONG = 8192  # terms of a sum from which it is worth to share it
FEW = 8  # sums that are too few for threads to share


def split_sums(graph: Graph) -> None:
    """Have few long sums on a CPU made in two steps: many shorter ones, and the sums of these."""
    aten = torch.ops.aten
    for node in list(graph.nodes):
        if node.target is aten.sum.default:
            dims, keep = [], False
        elif node.target is aten.sum.dim_IntList:
            dims, keep = list(node.args[1] or ()), len(node.args) > 2 and node.args[2]
        else:
            continue
        every = range(len(node.args[0].meta[KIND].shape))
        dims = sorted(every[d] for d in dims) or list(every)
        _split(graph, node, dims, keep=keep)


def _split(graph: Graph, node: Node, dims: list[int], *, keep: bool) -> None:
    """Have a sum over some dimensions made in two steps, where it is one of few and long."""
    numbers: Any = node.args[0]
    of = numbers.meta[KIND]
    terms = math.prod(of.shape[d] for d in dims)
    if of.device.type != "cpu" or terms < LONG or math.prod(of.shape) // terms >= FEW:
        return

    # What is left to the second step: the first dimension with several places, or rows of a long vector.
    last = next((d for d in dims if FEW <= of.shape[d] < terms), None)
    rows = next((n for n in range(math.isqrt(terms), 1, -1) if terms % n == 0), 1)
    total = torch.ops.aten.sum.dim_IntList
    kind = dict(node.kwargs)
    with graph.inserting_before(node):
        if last is not None:
            rest = [d for d in dims if d != last]
            parts = graph.call_function(total, (numbers, rest, True), kind)
            made = graph.call_function(total, (parts, dims, keep), kind)
        elif len(of.shape) == 1 and rows >= FEW:
            shape = [rows, terms // rows]
            table = graph.call_function(
                torch.ops.aten.reshape.default, (numbers, shape)
            )
            parts = graph.call_function(total, (table, [1]), kind)
            made = graph.call_function(total, (parts, [0], keep), kind)
        else:
            return
    made.meta[KIND] = node.meta[KIND]
    node.replace_all_uses_with(made)
    graph.erase_node(node)


@contextmanager
def whole_sums() -> Iterator[bool]:
    """In which Inductor leaves each sum to one thread; whether this PyTorch's can be told to."""
    try:
        from torch._inductor.codegen.cpp import LoopNest, ParallelDepth
    except ImportError:
        yield False
        return
    nests: Any = LoopNest
    usual = nests.max_parallel_depth

    def outer_loops(nest: Any) -> Any:
        """The loops that threads may share: those around sums, never a sum's own."""
        found = usual(nest)
        if not nest.loops or not nest.loops[found.start_depth].is_reduction:
            return found
        around = next(i for i, loop in enumerate(nest.loops) if loop.is_reduction)
        return ParallelDepth(parallel_depth=around, start_depth=0)

    nests.max_parallel_depth = outer_loops
    try:
        yield True
    finally:
        nests.max_parallel_depth = usual
