"""What a function does to tensors, written down operation by operation as a graph."""

import operator
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Graph, Node
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

aten = torch.ops.aten
KIND = "kind"  # under which a node keeps the `Kind` of its tensor


class ValueNeededError(Exception):
    """An operation asks for the value of a tensor, which a graph does not know."""


class Kind(NamedTuple):
    """What is known of a tensor beside its values; the strides are `None` where it has none.

    `turned` says whether it shows what lies in memory conjugated, or with the other sign.
    """

    shape: torch.Size
    stride: tuple[int, ...] | None
    offset: int
    dtype: torch.dtype
    device: torch.device
    turned: tuple[bool, bool]


class Recorder(TorchDispatchMode):
    """Writes down the operations that run inside `with recorder:`, below autograd, whose own are among them.

    Each runs as it would, and becomes a node of `graph`, which keeps the `Kind` of the result. The given tensors are
    followed as they are, wherever a function finds them; those that are met on the way are further inputs.

    Args:
        inputs: what the graph is a function of.
        answer: gives the value of one truth or whole number that PyTorch itself reads, such as the end of a slice;
            without it there is a `ValueNeededError`.

    Attributes:
        graph: the operations so far, without an output.
        others: tensors that were met on the way, inputs of the graph after the given ones.
        constants: what the graph's attributes are, by name.
    """

    def __init__(
        self, inputs: Sequence[Tensor], answer: Callable[[Tensor], Any] | None = None
    ) -> None:
        super().__init__()
        self._answer = answer
        self.graph = Graph()
        self.others: list[Tensor] = []
        self.constants: dict[str, Tensor] = {}
        self._nodes: MutableMapping[Tensor, Node] = WeakTensorKeyDictionary()
        self._constants: dict[Any, Node] = {}
        self._fixed: dict[
            int, set[Node]
        ] = {}  # the same in every call, by their memory
        for tensor in inputs:
            self._last = self._keep(
                tensor, self.graph.placeholder(f"input_{len(self._nodes)}")
            )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if not isinstance(func, OpOverload) or any(map(_has_own_way, types)):
            return NotImplemented
        kwargs = kwargs or {}
        if _is_composite(func):
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        with torch._C.DisableTorchFunction():
            return self._call(func, args, kwargs)

    def finish(self, outputs: Sequence[Tensor]) -> None:
        """Let the graph return these tensors, a list."""
        self.graph.output([self._node(tensor) for tensor in outputs])

    def _call(self, func: OpOverload[..., Any], args: Any, kwargs: Any) -> Any:
        if func is aten.lift_fresh.default:
            return self._made(args[0])
        met: list[Tensor] = []
        recorded_args = self._recorded(args, met)
        recorded_kwargs = {
            name: self._recorded(value, met) for name, value in kwargs.items()
        }
        fixed = _is_plain(func) and all(map(self._is_fixed, met))
        if torch.Tag.data_dependent_output in func.tags and not fixed:
            if self._answer is None or func is not aten._local_scalar_dense.default:
                raise ValueNeededError(str(func))
            with self:  # what the answer rests on is written down too
                return self._answer(*args)

        result = func(*args, **kwargs)
        if writes(func) and not fixed:
            for tensor in met:
                self._fixed.pop(_storage(tensor), None)
        node = self.graph.create_node(
            "call_function", func, recorded_args, recorded_kwargs
        )
        if isinstance(result, Tensor):
            self._keep(result, node, fixed=fixed)
        elif isinstance(result, tuple | list):
            for place, output in enumerate(result):
                if isinstance(output, Tensor):
                    item = self.graph.call_function(operator.getitem, (node, place))
                    self._keep(output, item, fixed=fixed)
        return result

    def _made(self, tensor: Tensor) -> Tensor:
        """A tensor that Python made of numbers, a constant; a copy, since it may be written to."""
        if tensor in self._nodes:
            return tensor
        name = f"constant_{len(self.constants)}"
        alike = (kind(tensor), repr(tensor.item())) if tensor.numel() == 1 else name
        constant = self._constants.get(alike)
        if constant is None:
            self.constants[name] = tensor.detach().clone()
            constant = self._constants[alike] = self.graph.get_attr(name)
            constant.meta[KIND] = kind(tensor)
        node = self.graph.call_function(aten.lift_fresh_copy.default, (constant,))
        self._keep(tensor, node, fixed=True)
        return tensor

    def _recorded(self, value: Any, met: list[Tensor]) -> Any:
        """An argument with nodes in the place of tensors, which are added to `met`."""
        if isinstance(value, Tensor):
            met.append(value)
            return self._node(value)
        if isinstance(value, tuple | list):
            return type(value)([self._recorded(entry, met) for entry in value])
        return value

    def _node(self, tensor: Tensor) -> Node:
        """The node of a tensor, which becomes an input if it was not seen before."""
        node = self._nodes.get(tensor)
        if node is None:
            self.others.append(tensor)
            with self.graph.inserting_after(self._last):
                node = self.graph.placeholder(f"other_{len(self.others)}")
            self._last = self._keep(tensor, node)
        return node

    def _keep(self, tensor: Tensor, node: Node, *, fixed: bool = False) -> Node:
        node.meta[KIND] = kind(tensor)
        self._nodes[tensor] = node
        if fixed:
            self._fixed.setdefault(_storage(tensor), set()).add(node)
        return node

    def _is_fixed(self, tensor: Tensor) -> bool:
        return self._nodes[tensor] in self._fixed.get(_storage(tensor), ())


def _storage(tensor: Tensor) -> int:
    """The memory of a tensor; 0 for one that has none of its own."""
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else 0


@contextmanager
def unrecorded() -> Iterator[None]:
    """What runs inside is seen by no recorder."""
    with torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch():
        yield


def kind(tensor: Tensor) -> Kind:
    """What is known of a tensor beside its values."""
    plain = tensor.layout is torch.strided
    stride, offset = (
        (tensor.stride(), int(tensor.storage_offset())) if plain else (None, 0)
    )
    turned = (tensor.is_conj(), tensor.is_neg())
    return Kind(tensor.shape, stride, offset, tensor.dtype, tensor.device, turned)


def draws(node: Node) -> bool:
    """Whether an operation draws random numbers."""
    random = torch.Tag.nondeterministic_seeded
    return isinstance(node.target, OpOverload) and random in node.target.tags


@cache
def _has_own_way(cls: type) -> bool:
    """Whether a class of tensors does operations in a way of its own."""
    return cls.__torch_dispatch__ is not Tensor.__torch_dispatch__  # type: ignore[attr-defined]


@cache
def _is_composite(func: OpOverload[..., Any]) -> bool:
    """Whether an operation is made of others, which autograd would have called in its place."""
    return func.has_kernel_for_dispatch_key(
        torch._C.DispatchKey.CompositeImplicitAutograd
    )


@cache
def _is_plain(target: OpOverload[..., Any]) -> bool:
    """Whether an operation is one of PyTorch's own, and draws nothing."""
    random = torch.Tag.nondeterministic_seeded in target.tags
    return target.namespace == "aten" and not random


@cache
def _same_for_same(target: Any) -> bool:
    """Whether an operation does nothing but give a result, which is the same for the same arguments."""
    if not isinstance(target, OpOverload):
        return target is operator.getitem
    return _is_plain(target) and not writes(target)


@cache
def is_view(target: Any) -> bool:
    """Whether the result of an operation lies in the memory of its first argument."""
    if target in (aten._unsafe_view.default, operator.getitem):
        return True
    return isinstance(target, OpOverload) and target.is_view


@cache
def writes(target: Any) -> bool:
    """Whether an operation changes its arguments."""
    if not isinstance(target, OpOverload):
        return False
    # Batch normalisation changes its running statistics, of which its schema does not tell.
    return target._schema.is_mutable or target._overloadpacket.__name__.endswith(
        "batch_norm"
    )


def simplify(graph: Graph) -> None:
    """Leave out operations whose results are not used, are those of another, or are their argument itself.

    Every number that the graph returns stays what it is to the last bit, and no two outputs share memory that did not
    before.
    """
    nodes = list(graph.nodes)
    for node in nodes:
        if node.target is aten._is_all_true.default:  # the same, which Inductor knows
            node.target = aten.all.default
    # What changes the shape or the memory of a tensor in place is nothing that is followed here.
    if not any(
        torch.Tag.inplace_view in getattr(node.target, "tags", ()) for node in nodes
    ):
        _merge(nodes)
    for node in reversed(nodes):
        if not (node.users or node.is_impure() or writes(node.target)):
            graph.erase_node(node)


def _merge(nodes: Sequence[Node]) -> None:
    """Have one node stand for all that give the same."""
    returned = set(nodes[-1].all_input_nodes)
    memory = memory_of(nodes)
    returned_memory = {memory[node] for node in returned}
    written = written_in(nodes, memory)
    seen: dict[Any, Node] = {}
    for node in nodes:
        if node.op != "call_function" or node in returned:
            continue
        if _shows_all(node):
            whole = node.args[0]
            assert isinstance(whole, Node)
            node.replace_all_uses_with(whole)
            continue
        touched = {memory[node], *(memory[n] for n in node.all_input_nodes)}
        if not _same_for_same(node.target) or touched & written:
            continue
        first = seen.setdefault(
            (node.target, _frozen(node.args), _frozen(node.kwargs)), node
        )
        if first is not node and memory[node] not in returned_memory:
            node.replace_all_uses_with(first)


def reshape_for_view(graph: Graph) -> None:
    """Have tensors that nothing writes to reshaped, which copies them where their strides are not those of the record.

    Inductor lays out in its own way what a broadcast operation makes, and a view of that may not be possible.
    """
    nodes = list(graph.nodes)
    memory = memory_of(nodes)
    written = written_in(nodes, memory)
    for node in nodes:
        if node.target is aten.view.default and memory[node] not in written:
            node.target = aten.reshape.default


def changed_inputs(graph: Graph) -> tuple[int, ...]:
    """The places of the inputs that a graph writes to, itself or through views of them."""
    nodes = list(graph.nodes)
    memory = memory_of(nodes)
    changed = {
        memory[n] for node in nodes if writes(node.target) for n in _changed_by(node)
    }
    inputs = [node for node in nodes if node.op == "placeholder"]
    return tuple(place for place, node in enumerate(inputs) if node in changed)


def memory_of(nodes: Sequence[Node]) -> dict[Node, Node]:
    """Of each node the one that made the memory in which its result lies."""
    memory: dict[Node, Node] = {}
    for node in nodes:
        shown: list[Node] = []
        if is_view(node.target):
            shown = node.all_input_nodes[:1]
        elif isinstance(node.target, OpOverload) and node.target._schema.is_mutable:
            shown = _changed_by(node)
        memory[node] = memory[shown[0]] if shown else node
    return memory


def written_in(nodes: Sequence[Node], memory: dict[Node, Node]) -> set[Node]:
    """The memory that any operation writes to, by the node that made it."""
    written = {
        memory[n] for node in nodes if writes(node.target) for n in _changed_by(node)
    }
    inputs = {node for node in nodes if node.op == "placeholder"}
    # One may show what another shows.
    return written | inputs if written & inputs else written


def _changed_by(node: Node) -> list[Node]:
    """The arguments that an operation writes to."""
    schema = node.target._schema  # type: ignore[union-attr]
    if (
        not schema.is_mutable
    ):  # batch normalisation, and where its running statistics are
        return [given for given in node.args[3:5] if isinstance(given, Node)]
    changed: list[Node] = []
    for place, argument in enumerate(schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        given = (
            node.args[place]
            if place < len(node.args)
            else node.kwargs.get(argument.name)
        )
        entries = given if isinstance(given, tuple | list) else [given]
        changed += [entry for entry in entries if isinstance(entry, Node)]
    return changed


def _shows_all(node: Node) -> bool:
    """Whether the result of an operation is its first argument, place for place."""
    if not (isinstance(node.target, OpOverload) and node.target.is_view):
        return False
    first, shown = node.args[0], node.meta.get(KIND)
    if not isinstance(first, Node) or shown is None or shown.stride is None:
        return False
    return bool(shown == first.meta[KIND])


def _frozen(value: Any) -> Any:
    """An argument as a value that can be hashed, other for each that is another."""
    if isinstance(value, tuple | list):
        return tuple(map(_frozen, value))
    if isinstance(value, dict):
        return tuple((name, _frozen(entry)) for name, entry in value.items())
    if isinstance(value, float):
        return (float, repr(value))
    return value if isinstance(value, Node) else (type(value), value)
