"""A function of vectors as a list of operations that a page can run without PyTorch."""

import base64
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from pyro_vae.foundation.abstract import traced
from pyro_vae.foundation.errors import InputError

aten, prims = torch.ops.aten, torch.ops.prims

# Operations of one number, and how the page calls them.
OF_ONE = {
    aten.neg: "neg",
    aten.exp: "exp",
    aten.expm1: "expm1",
    aten.log: "log",
    aten.log1p: "log1p",
    aten.sqrt: "sqrt",
    aten.rsqrt: "rsqrt",
    prims.rsqrt: "rsqrt",
    aten.reciprocal: "reciprocal",
    aten.sigmoid: "sigmoid",
    aten.tanh: "tanh",
    aten.relu: "relu",
    aten.abs: "abs",
    aten.sign: "sign",
    aten.floor: "floor",
    aten.ceil: "ceil",
    aten.trunc: "trunc",
    aten.round: "round",
    aten.sin: "sin",
    aten.cos: "cos",
    aten.erf: "erf",
    aten.lgamma: "lgamma",
    aten.isnan: "isnan",
    aten.logical_not: "not",
}
# Operations of two numbers, each repeated along the dimensions that it does not have.
OF_TWO = {
    aten.add: "add",
    prims.add: "add",
    aten.sub: "sub",
    prims.sub: "sub",
    aten.rsub: "rsub",
    aten.mul: "mul",
    prims.mul: "mul",
    aten.div: "div",
    prims.div: "div",
    aten.pow: "pow",
    aten.maximum: "maximum",
    aten.minimum: "minimum",
    aten.eq: "eq",
    aten.ne: "ne",
    aten.lt: "lt",
    aten.le: "le",
    aten.gt: "gt",
    aten.ge: "ge",
    aten.logical_and: "and",
    aten.logical_or: "or",
    aten.bitwise_and: "and",
    aten.bitwise_or: "or",
}
OVER = {
    aten.sum: "sum",
    prims.sum: "sum",
    aten.mean: "mean",
    aten.prod: "prod",
    aten.amax: "max",
    aten.amin: "min",
    aten.any: "max",
    aten.all: "min",
}
# Operations that hand numbers on: what they do is found by handing on the places of numbers.
HANDED_ON = {
    aten.alias,
    aten.as_strided,
    aten.cat,
    aten.clone,
    aten.contiguous,
    aten.detach,
    aten.diagonal,
    aten.expand,
    aten.flip,
    aten.index,
    aten.index_put,
    aten.index_select,
    aten.gather,
    aten.lift_fresh,
    aten.lift_fresh_copy,
    aten.permute,
    aten.repeat,
    aten.reshape,
    aten.roll,
    aten.select,
    aten.select_scatter,
    aten.slice,
    aten.slice_scatter,
    aten.split,
    aten.split_with_sizes,
    aten.squeeze,
    aten.stack,
    aten.t,
    aten.transpose,
    aten.unbind,
    aten.unfold,
    aten.unsqueeze,
    aten.upsample_nearest2d,
    aten.view,
    aten._reshape_alias,
    aten._unsafe_view,
    prims.broadcast_in_dim,
}
# Those of them that put several sources together.
JOINED = {
    aten.cat,
    aten.index_put,
    aten.select_scatter,
    aten.slice_scatter,
    aten.stack,
}
# Functions of PyTorch that are taken apart into those above.
TAKEN_APART = [
    aten.addcmul,
    aten.addmv,
    aten.elu,
    aten.gelu,
    aten.glu,
    aten.hardtanh,
    aten.leaky_relu,
    aten.log_sigmoid_forward,
    aten.logit,
    aten.logsumexp,
    aten._log_softmax,
    aten.mish,
    aten.native_batch_norm,
    aten._native_batch_norm_legit,
    aten._native_batch_norm_legit_no_training,
    aten._native_batch_norm_legit_functional,
    aten.native_group_norm,
    aten.native_layer_norm,
    aten.silu,
    aten._softmax,
    aten.softplus,
    aten.special_log_ndtr,
    aten.square,
    aten.std,
    aten.threshold,
    aten.var,
    aten.var_mean,
    aten.xlogy,
]
# Operations that are written down by a method of their own.
OWN = {
    aten.addmm: "_affine",
    aten.argmax: "_argmax",
    aten.baddbmm: "_affine",
    aten.bmm: "_product",
    aten.clamp: "_clamp",
    aten.clamp_max: "_clamp_max",
    aten.clamp_min: "_clamp",
    aten.constant_pad_nd: "_pad",
    aten.convolution: "_convolution",
    aten.cumsum: "_cumsum",
    aten.empty_like: "_alike",
    aten.full_like: "_alike",
    aten.mm: "_product",
    aten.ones_like: "_alike",
    aten.var: "_variance",
    aten.where: "_where",
    aten.zeros_like: "_alike",
    aten._to_copy: "_converted",
    prims.convert_element_type: "_converted",
    prims.var: "_variance",
}
SINGLE, HALF = "f4", "f2"
MANY = 1000  # numbers of a matrix of weights; what is smaller is not worth 16 bits


@dataclass
class Graph:
    """Operations one after the other; values are numbered: the inputs, the constants and results as they come.

    Attributes:
        values: of each value its shape, and of a constant what it holds, an array.
        operations: each with its name `op`, the numbers of its inputs `in` and of its result `out`.
        outputs: the numbers of what comes out.
        half: whether constants are written in 16 bits.
    """

    values: list[tuple[tuple[int, ...], np.ndarray | None]] = field(
        default_factory=list
    )
    operations: list[dict[str, Any]] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    half: bool = False

    def new(self, shape: Sequence[int], constant: np.ndarray | None = None) -> int:
        """The number of a new value."""
        self.values.append((tuple(shape), constant))
        return len(self.values) - 1

    def do(self, op: str, of: Sequence[int], shape: Sequence[int], **how: Any) -> int:
        """Add an operation, and return the number of its result."""
        out = self.new(shape)
        self.operations.append({"op": op, "in": [*of], "out": out, **how})
        return out

    @property
    def numbers(self) -> int:
        """How many numbers the constants hold that 16 bits may stand for."""
        held = (c for _, c in self.values if c is not None)
        return sum(c.size for c in held if c.dtype == np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        values = []
        for shape, constant in self.values:
            value: dict[str, Any] = {"shape": [*shape]}
            if constant is not None:
                value |= packed(constant, half=self.half and constant.size >= MANY)
            values.append(value)
        return {
            "values": values,
            "operations": self.operations,
            "inputs": self.inputs,
            "outputs": self.outputs,
        }


def packed(array: np.ndarray, *, half: bool = False) -> dict[str, str]:
    """The numbers of an array as text: little-endian, base64, with their type.

    >>> packed(np.array([1.0], np.float32))
    {'type': 'f4', 'data': 'AACAPw=='}
    """
    kind = f"{array.dtype.kind}{array.dtype.itemsize}"
    if half and kind == SINGLE:
        kind = HALF
    data = np.ascontiguousarray(array, np.dtype(f"<{kind}")).tobytes()
    return {"type": kind, "data": base64.b64encode(data).decode()}


class _Seen(fx.Interpreter):
    """Runs a graph and keeps what each node gave."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.given: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.given[n] = super().run_node(n)
        return self.given[n]


@torch.no_grad()
def graph_of(
    function: Callable[..., Sequence[Tensor]], examples: Sequence[Tensor]
) -> Graph:
    """The operations by which a function makes its tensors from those that it is given, in these shapes.

    What does not depend on them is a constant. What the function decides by the values of its tensors is decided as
    for the examples.

    Raises:
        InputError: for a function with an operation that a page cannot run.
    """
    from torch._decomp import core_aten_decompositions, get_decompositions
    from torch.fx.experimental.proxy_tensor import make_fx

    table = {**core_aten_decompositions(), **get_decompositions(TAKEN_APART)}
    try:
        with traced():
            whole = torch.func.functionalize(function)
            module = make_fx(whole, decomposition_table=table)(*examples)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"the decoder cannot be written into a page, since PyTorch makes no graph of it: {said[0]}"
        ) from error
    seen = _Seen(module)
    seen.run(*examples)
    return _Writer(module, seen.given).graph


class _Writer:
    """Writes a traced function down as a `Graph`."""

    def __init__(self, module: fx.GraphModule, given: dict[fx.Node, Any]) -> None:
        self.graph, self.given = Graph(), given
        self.place: dict[fx.Node, int] = {}
        depends: set[fx.Node] = set()
        wanted = _wanted(module)
        for node in module.graph.nodes:
            if node.op == "placeholder":
                self.place[node] = self.graph.new(given[node].shape)
                self.graph.inputs.append(self.place[node])
                depends.add(node)
            elif node.op == "output":
                self.graph.outputs = [self._number(value) for value in node.args[0]]
            elif node in wanted and depends.intersection(node.all_input_nodes):
                depends.add(node)
                self._write(node)

    def _number(self, value: Any) -> int:
        """The number of what a node gave, or of a constant."""
        if isinstance(value, fx.Node):
            if value not in self.place:
                self.place[value] = self._constant(self.given[value])
            return self.place[value]
        return self._constant(value)

    def _constant(self, value: Any) -> int:
        array = torch.as_tensor(value, device="cpu").detach()
        if array.dtype is torch.bfloat16:
            array = array.float()
        numbers = array.numpy()
        if numbers.dtype != np.float32:
            numbers = numbers.astype(np.float64)
        return self.graph.new(numbers.shape, numbers)

    def _write(self, node: fx.Node) -> None:
        """Add the operations of one node."""
        target: Any = node.target
        if target.__class__.__name__ == "builtin_function_or_method":  # getitem
            self._hand_on(node)
            return
        operator = target.overloadpacket
        if isinstance(self.given[node], (tuple, list)):
            if operator not in HANDED_ON:
                self._refuse(node)
            return  # its parts are taken one by one
        if operator in OWN:
            self.place[node] = getattr(self, OWN[operator])(node)
        elif operator in OF_ONE:
            self.place[node] = self._do(node, OF_ONE[operator], node.args[:1])
        elif operator in OF_TWO:
            self.place[node] = self._of_two(node, OF_TWO[operator])
        elif operator in OVER:
            self.place[node] = self._over(node, OVER[operator])
        elif operator in HANDED_ON:
            self._hand_on(node)
        else:
            self._refuse(node)

    def _refuse(self, node: fx.Node) -> None:
        raise InputError(
            f"the decoder has an operation that the page cannot run: {node.target}"
        )

    def _do(self, node: fx.Node, op: str, of: Sequence[Any], **how: Any) -> int:
        shape = self.given[node].shape
        return self.graph.do(op, [self._number(value) for value in of], shape, **how)

    def _of_two(self, node: fx.Node, op: str) -> int:
        first, second = node.args[:2]
        alpha: Any = node.kwargs.get("alpha", 1)
        if op == "rsub":
            op, first, second = "sub", second, first
        rounding = node.kwargs.get("rounding_mode")
        if alpha != 1:
            shape = self._shape(second)
            of = [self._number(second), self._constant(float(alpha))]
            scaled = self.graph.do("mul", of, shape)
            of = [self._number(first), scaled]
            return self.graph.do(op, of, self.given[node].shape)
        made = self._do(node, op, [first, second])
        if rounding is None:
            return made
        return self.graph.do(str(rounding), [made], self.given[node].shape)

    def _shape(self, value: Any) -> tuple[int, ...]:
        given = self.given[value] if isinstance(value, fx.Node) else value
        return tuple(torch.as_tensor(given).shape)

    def _over(self, node: fx.Node, op: str) -> int:
        source: Any = node.args[0]
        dims: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        count = self.given[source].dim()
        dims = [] if dims is None else [dims] if isinstance(dims, int) else [*dims]
        dims = [d % count for d in dims] or [*range(count)]
        return self._do(node, op, [source], dims=dims)

    # Operations of their own.

    def _where(self, node: fx.Node) -> int:
        return self._do(node, "where", node.args)

    def _clamp(self, node: fx.Node) -> int:
        value, low, high = (*node.args, None, None)[:3]
        low = node.kwargs.get("min", low)
        high = node.kwargs.get("max", high)
        made = self._number(value)
        for op, end in (("maximum", low), ("minimum", high)):
            if end is not None:
                of = [made, self._number(end)]
                made = self.graph.do(op, of, self.given[node].shape)
        return made

    def _clamp_max(self, node: fx.Node) -> int:
        return self._do(node, "minimum", node.args[:2])

    def _product(self, node: fx.Node) -> int:
        return self._do(node, "matmul", node.args[:2])

    def _affine(self, node: fx.Node) -> int:
        bias, first, second = node.args[:3]
        if node.kwargs:
            self._refuse(node)
        product = self._do(node, "matmul", [first, second])
        of = [product, self._number(bias)]
        return self.graph.do("add", of, self.given[node].shape)

    def _convolution(self, node: fx.Node) -> int:
        x, w, bias, stride, padding, dilation, turned, _, groups = node.args
        if self.given[x].dim() not in (3, 4):  # type: ignore[index]
            self._refuse(node)
        how: Any = {"stride": stride, "padding": padding, "dilation": dilation}
        how = {name: [*ends] for name, ends in how.items()} | {"groups": groups}
        op = "conv_transposed" if turned else "conv"
        made = self._do(node, op, [x, w], **how)
        if bias is None:
            return made
        channels = self.given[node].shape[1]
        column = (channels, *[1] * (self.given[x].dim() - 2))  # type: ignore[index]
        shaped = self._constant(self.given[bias].reshape(column))  # type: ignore[index]
        return self.graph.do("add", [made, shaped], self.given[node].shape)

    def _cumsum(self, node: fx.Node) -> int:
        source: Any = node.args[0]
        dim: Any = node.args[1]
        count = self.given[source].dim()
        return self._do(node, "cumsum", [source], dim=dim % max(count, 1))

    def _argmax(self, node: fx.Node) -> int:
        source: Any = node.args[0]
        dim: Any = node.args[1] if len(node.args) > 1 else None
        if dim is None:
            self._refuse(node)
        count = self.given[source].dim()
        return self._do(node, "argmax", [source], dims=[dim % count])

    def _variance(self, node: fx.Node) -> int:
        source: Any = node.args[0]
        shape = self.given[source].shape
        dims: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        dims = [d % len(shape) for d in dims or range(len(shape))]
        correction: Any = node.kwargs.get("correction", 1)
        correction = node.args[2] if len(node.args) > 2 else correction
        kept = [1 if d in dims else size for d, size in enumerate(shape)]
        count = math.prod(shape[d] for d in dims)
        number = self._number(source)

        # The sum of squares about the mean.
        mean = self.graph.do("mean", [number], kept, dims=dims)
        centred = self.graph.do("sub", [number, mean], shape)
        squares = self.graph.do("mul", [centred, centred], shape)
        total = self.graph.do("sum", [squares], self.given[node].shape, dims=dims)
        freedom = count - (1 if correction is None else correction)
        of = [total, self._constant(float(freedom))]
        return self.graph.do("div", of, self.given[node].shape)

    def _alike(self, node: fx.Node) -> int:
        return self._constant(self.given[node])

    def _pad(self, node: fx.Node) -> int:
        source, pad = node.args[:2]
        fill = node.args[2] if len(node.args) > 2 else 0
        places = self._places([source])
        padded = aten.constant_pad_nd(places[0], pad, -1)
        index = padded.long()
        index = index.where(index >= 0, places[0].numel())
        return self._take([self._number(source), self._constant(float(fill))], index)  # type: ignore[arg-type]

    def _converted(self, node: fx.Node) -> int:
        before, after = self.given[node.args[0]], self.given[node]  # type: ignore[index]
        number = self._number(node.args[0])
        if before.is_floating_point() and not after.is_floating_point():
            op = "ne" if after.dtype is torch.bool else "trunc"
            of = [number, self._constant(0.0)] if op == "ne" else [number]
            return self.graph.do(op, of, after.shape)
        return number

    # What hands numbers on.

    def _places(self, sources: Sequence[Any]) -> list[Tensor]:
        """In the shape of each source the places of its numbers among those of all sources, one after the other."""
        places, start = [], 0
        for source in sources:
            shape = self.given[source].shape
            size = math.prod(shape)
            numbers = torch.arange(start, start + size, dtype=torch.float64)
            places.append(numbers.reshape(shape))
            start += size
        return places

    def _hand_on(self, node: fx.Node) -> None:
        whole: Any = node
        if node.op == "call_function" and not hasattr(node.target, "overloadpacket"):
            whole = node.args[0]
        sources = [n for n in _sources(whole) if n in self.place]
        moved = dict(zip(sources, self._places(sources), strict=True))
        operator = whole.target.overloadpacket
        if operator in (aten.index, aten.gather, aten.index_select) and (
            len(sources) != 1 or sources[0] is not whole.args[0]
        ):
            self._refuse(node)

        # Constants beside them are sources too.
        if operator in JOINED:
            sources = [*dict.fromkeys(_sources(whole))]
            for other in sources:
                self._number(other)
            moved = dict(zip(sources, self._places(sources), strict=True))

        def of(n: fx.Node) -> Any:
            return moved.get(n, self.given[n])

        args = fx.map_arg(whole.args, of)
        index = whole.target(*args, **fx.map_arg(whole.kwargs, of))
        if whole is not node:
            index = index[node.args[1]]
        numbers = [self._number(source) for source in sources]
        self.place[node] = self._take(numbers, index.long())

    def _take(self, sources: list[int], index: Tensor) -> int:
        """The numbers at these places of the sources, one after the other."""
        shape, flat = tuple(index.shape), index.flatten()
        sizes = [math.prod(self.graph.values[source][0]) for source in sources]
        in_order = torch.equal(flat, torch.arange(sum(sizes)))
        if in_order:
            return self.graph.do("take", sources, shape)
        if flat.numel() and (steps := _steps(index)) is not None:
            offset = int(flat[0])
            return self.graph.do("take", sources, shape, offset=offset, steps=steps)
        places = packed(flat.numpy().astype(np.int32))["data"]
        return self.graph.do("take", sources, shape, places=places)


def _steps(index: Tensor) -> list[int] | None:
    """How far apart places lie along each dimension, where that is the same everywhere."""
    first, steps = index.flatten()[0], []
    expected = torch.zeros_like(index) + first
    for dim, size in enumerate(index.shape):
        at = [0] * index.dim()
        at[dim] = min(1, size - 1)
        step = int(index[tuple(at)] - first)
        steps.append(step)
        along = [1] * index.dim()
        along[dim] = size
        expected = expected + step * torch.arange(size).reshape(along)
    return steps if torch.equal(expected, index) else None


def _sources(node: fx.Node) -> list[fx.Node]:
    """The tensors that a node puts together; the places at which it does so are none of them."""
    if node.target.overloadpacket is aten.index_put:  # type: ignore[union-attr]
        return [node.args[0], node.args[2]]  # type: ignore[list-item]
    return node.all_input_nodes


def _wanted(module: fx.GraphModule) -> set[fx.Node]:
    """The nodes that the output depends on."""
    wanted: set[fx.Node] = set()
    for node in reversed(module.graph.nodes):
        if node.op == "output" or node in wanted:
            wanted |= {node, *node.all_input_nodes}
    return wanted
