"""Functions of tensors that run Pyro programs, as compiled graphs."""

import logging
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from functools import partial
from types import FunctionType, MethodType
from typing import Any, NamedTuple

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg
from torch.nn import Module

from pyro_vae.engine.building import built, kept_program
from pyro_vae.engine.fusing import (
    biases_apart,
    once_for_products,
    tanh_by_fraction,
)
from pyro_vae.engine.order import in_order
from pyro_vae.engine.products import by_kernels
from pyro_vae.engine.readings import DECIDES, ReadingError, Readings
from pyro_vae.engine.recording import (
    KIND,
    Recorder,
    ValueNeededError,
    changed_inputs,
    draws,
    reshape_for_view,
    simplify,
)
from pyro_vae.engine.reductions import split_sums, whole_sums
from pyro_vae.engine.threads import free_threads, same_bits, threads
from pyro_vae.foundation.abstract import alone, forked_random, traced

# Calls of a graph that are held against Python.
CHECKS = (
    2,
    3,
    5,
    10,
    20,
    50,
    100,
    1000,
)
REFUTED = (
    3  # calls in which an assumption did not hold, at least, before a graph is given up
)
LARGE = (
    1000  # operations of a graph that is interpreted first, and made machine code later
)
HUGE = 10_000  # operations of a graph that is never made machine code
# calls after which it is made: an operation takes 1.4 microseconds to interpret, 11 to 18 milliseconds to compile
REPAID = 10_000
MOST_WAYS = 500  # to be called that are remembered
DEEPEST = 4  # objects within objects among the arguments
PATIENCE = 100  # visits of a further shape before it gets a graph of its own, such as the last batch of an epoch
MOST_GRAPHS = 8
OPTIONS = {
    "fallback_random": True,  # eager's random numbers
    "cpp.dynamic_threads": True,  # as many as there are at each call
    "size_asserts": False,
    "alignment_asserts": False,
}
# Relative, of the largest number.
TOLERANCE = {
    torch.float64: 1e-6,
    torch.float32: 1e-3,
}
ROUGH = 0.1  # relative, of the norm, where something is computed in 16 bits


class CompileWarning(UserWarning):
    """What was to be compiled runs as it is; the message says why."""


class _CannotCompileError(Exception):
    """The reason, in words, why a function has no graph."""


class Graph(NamedTuple):
    """A traced function: `run(*state, *tensors of the arguments, *others)` returns a list of tensors.

    Attributes:
        operations: one after the other.
        constants: what the attributes among the operations are, by name.
        inputs: the tensors of the call that was traced.
        outputs: what it returned.
        static: what the function returned beside tensors.
        others: the last of the inputs, tensors that were met on the way and are read where they lie at each call.
        assumed: whether the last output says if what Python read of tensors still holds.
        draws: whether random numbers are drawn.
        changes: the places of the inputs that are changed in place.
        rough: whether something is computed in 16 bits.
    """

    operations: torch.fx.Graph
    constants: dict[str, Tensor]
    inputs: list[Tensor]
    outputs: list[Tensor]
    static: Any
    others: list[Tensor]
    assumed: bool
    draws: bool
    changes: tuple[int, ...]
    rough: bool

    @property
    def module(self) -> GraphModule:
        """The operations as a module with code of its own, which takes long to make for many."""
        return GraphModule(self.constants, self.operations)


class Later(NamedTuple):
    """A tensor that is made where it is used, inside a compiled graph: `function(*tensors)`, with `size` rows.

    What `function` does beside its tensors is part of its value: functions that compare equal do the same.
    """

    function: Callable[..., Tensor]
    tensors: tuple[Tensor, ...]
    size: int

    def made(self) -> Tensor:
        return self.function(*self.tensors)


def made(value: Any) -> Any:
    """Arguments with their tensors made: those that are to be made later, alone or in a tuple, list or dict."""
    if isinstance(value, Later):
        return value.made()
    if isinstance(value, dict):
        return {name: made(part) for name, part in value.items()}
    if type(value) in (tuple, list):
        return type(value)(map(made, value))
    return value


class _Entry:
    """A compiled graph, and how often it was called and its assumptions did not hold."""

    def __init__(
        self,
        run: Callable[..., Sequence[Tensor]],
        graph: Graph,
        *,
        machine: bool,
        alike: bool,
    ) -> None:
        self.machine = machine  # code, not one operation after the other
        self.alike = alike  # to the bit, by any number of threads
        self.waiting: Graph | None = None  # to be made machine code, with other inputs
        self.run, self.static, self.others = run, graph.static, graph.others
        self.assumed, self.draws, self.changes = (
            graph.assumed,
            graph.draws,
            graph.changes,
        )
        self.rough = graph.rough
        self.calls = self.refuted = 0

    def __call__(self, inputs: Sequence[Tensor]) -> list[Any]:
        """What the graph returns, by as many threads as others leave room for where that changes no bit."""
        count = free_threads() if self.alike else torch.get_num_threads()
        with torch.no_grad(), threads(count):
            return list(self.run(*inputs))

    def attempt(self, inputs: Sequence[Tensor]) -> list[Any]:
        """What the graph returns; where assumptions do not hold it may break, such as by an index, and returns that."""
        try:
            return self(inputs)
        except (RuntimeError, IndexError):
            if not self.assumed:
                raise
            return [False]


class Compiled:
    """A function that runs Pyro programs, traced through Pyro's handlers to one graph for each shape, and compiled.

    The graph holds the tensor operations alone: no handlers, no Python. It is a function of `state` and of the tensors
    among the arguments; what else the function reads is fixed when it is traced, and belongs into `state` too. Random
    numbers stay random, and are those that the function itself would draw. The first shape is traced when it is first
    seen, a further one when it has been seen a hundred times, so that a smaller last batch does not cost more than it
    saves; of more than eight graphs the one that waited longest is dropped. A truth or a whole number that Python reads
    of a tensor is assumed to stay: a call in which it does not is made without the graph, see `Readings`. What cannot
    be traced, or gives other numbers than the function on the first call, runs as it is, after one `CompileWarning`.

    Args:
        function: called with `args`; returns a list of tensors, and anything else that is the same in every call.
        state: gives the tensors that the function reads or changes, such as parameters and buffers, always in the same
            order; and a hashable value of all else that it depends on, of which a new value means a new graph.
        name: of what is compiled, for the warning.
        limit: the most operations that a graph may have.
        warn: called with the reason why there is no graph, instead of a `CompileWarning`.
        products: `'torch'`, or `'onednn'` to hand products in float32 on a CPU to the kernels of `products.cpp`.
        checked: hold some of the first hundred calls of each graph, and every thousandth, against the function itself,
            which may read what nobody knows of; where they differ, the function's own numbers count from then on.
    """

    def __init__(
        self,
        function: Callable[..., tuple[list[Tensor], Any]],
        *,
        state: Callable[[], tuple[list[Tensor], Hashable]],
        name: str = "the function",
        limit: int | None = None,
        warn: Callable[[str], None] | None = None,
        products: str = "torch",
        checked: bool = False,
    ) -> None:
        self._function, self._state = function, state
        self._products, self._checked = products, checked
        self._name, self._limit, self._warn = name, limit, warn
        self._graphs: dict[Hashable, _Entry] = {}
        self._visits: dict[Hashable, int] = {}
        self._last: tuple[Hashable, _Entry | None] = (None, None)
        self._missed = 0
        self.failed = False

    def __call__(self, *args: Any) -> tuple[list[Tensor], Any]:
        if self.failed:
            return self._function(*args)
        tensors: list[Tensor] = []
        try:
            state, constants = self._state()
            structure = without_tensors(args, tensors)
            inputs = [*state, *tensors]
            key = (
                structure,
                _kinds(inputs),
                _same(inputs),
                constants,
                torch.is_grad_enabled(),
            )
            entry = (
                self._last[1]
                if key == self._last[0]
                else self._find(key, state, tensors, args)
            )
        except _CannotCompileError as error:
            return self._give_up(str(error), args)
        if entry is None:
            return self._function(*args)
        return self._run(entry, [*inputs, *entry.others], args)

    def _run(
        self, entry: _Entry, inputs: list[Tensor], args: Any
    ) -> tuple[list[Tensor], Any]:
        """Call a graph, and the function in its place where an assumption or the numbers do not hold."""
        entry.calls += 1
        if entry.waiting is not None and entry.calls == REPAID:
            self._promote(entry, entry.waiting, inputs)
        check = self._checked and (
            entry.calls in CHECKS or entry.calls % CHECKS[-1] == 0
        )
        if not (entry.assumed or check):
            return entry(inputs), entry.static
        # Streams of random numbers and parameters are put back, which others would feel.
        with alone():
            return self._run_checked(entry, inputs, args, check=check)

    def _run_checked(
        self, entry: _Entry, inputs: list[Tensor], args: Any, *, check: bool
    ) -> tuple[list[Tensor], Any]:
        """Call a graph whose assumptions may not hold or, with `check`, that is held against the function."""
        # What the call may change is kept, so that the function can be called in its place.
        random = _Random() if entry.draws or check else None
        changed = [inputs[i] for i in entry.changes]
        before = [t.detach().clone() for t in changed]
        outputs = entry.attempt(inputs)
        holds = bool(outputs.pop()) if entry.assumed else True
        if holds and not check:
            return outputs, entry.static

        after = _Random() if random is not None else None
        ends = [t.detach().clone() for t in changed] if holds else []
        if random is not None:
            random.restore()
        _put_back(changed, before)
        mine, static = self._function(*args)
        if not holds:
            entry.refuted += 1
            if entry.refuted >= REFUTED and entry.refuted > entry.calls / 5:
                self._fail(
                    "a value that decides what Python does (a branch, a length, an index of truths) changes "
                    "from call to call"
                )
        elif static != entry.static or _differ(outputs, mine, rough=entry.rough):
            self._fail(
                "the graph gave other numbers than Python after some calls, so the pair reads something that "
                "changes and is neither an argument nor a global, closure or attribute that can be watched"
            )
        elif after is not None:
            after.restore()
            _put_back(changed, ends)
            return outputs, entry.static
        return mine, static

    def _promote(self, entry: _Entry, graph: Graph, inputs: list[Tensor]) -> None:
        """Have a graph that was interpreted run as machine code from now on, which gives the same numbers.

        The number of calls decides, not a stopwatch, by which the same program would not always give the same bits.
        """
        entry.waiting = None
        with torch.no_grad(), forked_random(), restored(inputs):
            outputs = [t.clone() for t in entry.run(*inputs)]
        graph = graph._replace(inputs=inputs, outputs=outputs)
        try:
            made = _checked_entry(graph, compile_graph, inputs)
        except _CannotCompileError as error:
            text = "%s goes on operation by operation: %s"
            logging.getLogger(__name__).info(text, self._name, error)
        else:
            entry.run, entry.alike, entry.machine = made.run, made.alike, True

    def _find(
        self, key: Hashable, state: list[Tensor], tensors: list[Tensor], args: Any
    ) -> _Entry | None:
        """The graph for a way to be called, if it has one or gets one now."""
        entry = self._graphs.pop(key, None) or self._new(key, state, tensors, args)
        if entry is not None:
            self._graphs[key] = entry  # at the end: the first has waited longest
            self._last = (key, entry)  # sooner compared with than looked up
        return entry

    def _new(
        self, key: Hashable, state: list[Tensor], tensors: list[Tensor], args: Any
    ) -> _Entry | None:
        """The graph for a way to be called that has none yet, if it has come often enough."""
        self._visits[key] = visits = self._visits.pop(key, 0) + 1
        if len(self._visits) > MOST_WAYS:
            self._visits.pop(next(iter(self._visits)))
        if self._graphs and visits < PATIENCE:
            self._missed += 1
            if self._missed == MOST_WAYS:
                self._tell(
                    f"most calls of {self._name} run uncompiled: each comes in a way of its own; keep to a few batch "
                    "shapes, and let values that change be tensors"
                )
            return None
        entry = self._make(state, tensors, args)
        if len(self._graphs) == MOST_GRAPHS:
            self._graphs.pop(next(iter(self._graphs)))
        return entry

    def _make(self, state: list[Tensor], tensors: list[Tensor], args: Any) -> _Entry:
        graph = trace(self._function, state, tensors, args)
        size = len(graph.operations.nodes)
        if self._limit is not None and size > self._limit:
            raise _CannotCompileError(
                f"its graph has {size:,} operations, which would take minutes to compile"
            )
        biases_apart(graph.operations)
        if self._products == "onednn":
            by_kernels(graph.operations)
        if size <= LARGE:
            try:
                return _checked_entry(graph, compile_graph, [*state, *tensors])
            except _CannotCompileError as error:
                self._tell(
                    f"{self._name} runs as a graph without machine code: {error}"
                )
        entry = _checked_entry(graph, interpret_graph, [*state, *tensors])
        if LARGE < size <= HUGE:
            entry.waiting = graph._replace(inputs=[], outputs=[])
        return entry

    def _give_up(self, reason: str, args: Any) -> tuple[list[Tensor], Any]:
        self._fail(reason)
        return self._function(*args)

    def _fail(self, reason: str) -> None:
        self.failed = True
        self._graphs.clear()
        self._visits.clear()
        self._tell(f"{self._name} runs uncompiled: {reason}")

    def _tell(self, text: str) -> None:
        if self._warn is None:
            warnings.warn(text, CompileWarning, stacklevel=6)
        else:
            self._warn(text)


def _checked_entry(
    graph: Graph,
    make: Callable[[Graph], Callable[..., Sequence[Tensor]]],
    state: list[Tensor],
) -> _Entry:
    """A graph made callable, whose first call gave the numbers of Python."""
    try:
        with whole_sums() as whole:
            run = make(graph)
        alike = _verify(graph, run, state) and whole and make is compile_graph
    except _CannotCompileError:
        raise
    except Exception as error:  # no compiler here, an operation that it does not know
        raise _CannotCompileError(
            f"the compiler failed with {_reason(error)}"
        ) from error
    return _Entry(run, graph, machine=make is not interpret_graph, alike=alike)


class _Random:
    """The random streams as they are now."""

    def __init__(self) -> None:
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None

    def restore(self) -> None:
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda)


def _kinds(tensors: Sequence[Tensor]) -> tuple[Any, ...]:
    return tuple(
        [(t.shape, t.stride(), t.dtype, t.device, t.requires_grad) for t in tensors]
    )


def _same(tensors: Sequence[Tensor]) -> tuple[int, ...] | None:
    """Which of the tensors are one and the same, by the first place of each; `None` where all differ.

    A graph that was made from one tensor in two places knows one place only.
    """
    objects = [id(tensor) for tensor in tensors]
    if len(set(objects)) == len(objects):
        return None
    return tuple(objects.index(this) for this in objects)


VALUES = (
    int,
    float,
    complex,
    bool,
    str,
    bytes,
    type(None),
    type,
    torch.dtype,
    torch.device,
)


def without_tensors(value: Any, aside: list[Tensor], depth: int = 0) -> Hashable:
    """What is left of arguments when their tensors are moved to `aside`, in a fixed order: a value that can be hashed.

    Tensors are looked for in lists, tuples, dicts and in the attributes of objects. What is left holds no object of the
    caller's.
    """
    if isinstance(value, Tensor):
        aside.append(value)
        return Tensor
    if isinstance(value, VALUES):
        return (type(value), value)
    if isinstance(value, Later):
        aside += value.tensors
        return (Later, value.function, len(value.tensors), value.size)
    if isinstance(value, tuple | list | set | frozenset):
        entries = value if isinstance(value, tuple | list) else sorted(value, key=repr)
        return (type(value), *[without_tensors(v, aside, depth + 1) for v in entries])
    if isinstance(value, dict):
        return (
            dict,
            *[(n, without_tensors(v, aside, depth + 1)) for n, v in value.items()],
        )
    if isinstance(value, range | slice | Enum):
        return (type(value), repr(value))
    if isinstance(value, FunctionType | MethodType | partial) and depth > 1:
        return value
    if isinstance(value, Module):
        tensors = [*value.parameters(), *value.buffers()]
        return (
            type(value),
            *[without_tensors(t, aside) for t in tensors],
            value.training,
        )
    if type(value).__module__ == "numpy":
        raise _CannotCompileError(
            "an argument is a NumPy array or number, whose value a graph cannot follow; give a tensor"
        )
    if depth < DEEPEST and hasattr(value, "__dict__"):
        attributes = vars(value).items()
        return (
            type(value),
            *[(n, without_tensors(v, aside, depth + 1)) for n, v in attributes],
        )
    raise _CannotCompileError(
        f"an argument is a {type(value).__name__}, which a graph cannot follow; give tensors"
    )


def trace(
    function: Callable[..., tuple[list[Tensor], Any]],
    state: list[Tensor],
    tensors: list[Tensor],
    args: Any,
) -> Graph:
    """Run the function once and write down what it does to `state` and to the tensors among its arguments.

    The tensors themselves are followed, wherever the function finds them, so nothing is swapped in or out. The random
    streams and the state are left as they were.
    """
    inputs = [*state, *tensors]
    if not inputs:
        raise _CannotCompileError(
            "it has neither a parameter nor a tensor among its arguments"
        )
    readings = Readings()
    recorder = Recorder(inputs, readings.whole)
    with (
        forked_random(),
        restored(inputs),
        traced(),
        _Watch() as watch,
        _without_casts_of_before(),
    ):
        try:
            with recorder, readings:
                outputs, static = function(*args)
                holds = readings.holds()
        except Exception as error:
            near = f" near site {watch.site!r}" if watch.site else ""
            raise _CannotCompileError(
                f"tracing stopped{near}: {_reason(error)}"
            ) from error
    if holds is not None:
        outputs = [*outputs, holds]
    recorder.finish(outputs)
    operations = recorder.graph
    simplify(operations)
    for node in operations.nodes:
        if _depends_on_values(node):
            raise _CannotCompileError(
                f"the shape of a result depends on values ({node.target}), which a graph cannot follow"
            )
    return Graph(
        operations,
        recorder.constants,
        [*inputs, *recorder.others],
        outputs,
        static,
        recorder.others,
        assumed=holds is not None,
        draws=any(map(draws, operations.nodes)),
        changes=changed_inputs(operations),
        rough=any(map(_in_16_bits, operations.nodes)),
    )


@contextmanager
def _without_casts_of_before() -> Iterator[None]:
    """Have autocast keep no tensors in lower precision, which a graph would not make anew."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def _in_16_bits(node: Node) -> bool:
    """Whether an operation returns a tensor in half precision."""
    return KIND in node.meta and node.meta[KIND].dtype in (
        torch.bfloat16,
        torch.float16,
    )


def _depends_on_values(node: Any) -> bool:
    """Whether the shape of what an operation returns depends on values."""
    if not isinstance(node.target, OpOverload):
        return False
    # An index of truths was made one of places while the function was traced.
    by_index = node.target is torch.ops.aten.index.Tensor
    return torch.Tag.dynamic_output_shape in node.target.tags and not by_index


def compile_graph(graph: Graph) -> Callable[..., Sequence[Tensor]]:
    """The graph as machine code, by Inductor: on a CPU one C++ program, on CUDA one CUDA graph."""
    import torch._inductor

    inputs: list[Any] = list(graph.inputs)
    _draw_truths_as_python_does(graph.operations)
    _draw_normals_unlooked(graph.operations)
    split_sums(graph.operations)
    reshape_for_view(graph.operations)
    once_for_products(graph.operations)
    tanh_by_fraction(graph.operations)
    module: GraphModule = graph.module
    options = OPTIONS | in_order()
    with _quietly(), torch.no_grad(), forked_random():
        if any(t.is_cuda for t in inputs):
            return _on_cuda(graph, module, options)
        wrapped = {**options, "cpp_wrapper": True}
        try:
            return built(lambda: kept_program(module, inputs, wrapped))
        except Exception as error:  # an operation that only the Python wrapper knows
            logging.getLogger(__name__).info(
                "compiled without the C++ wrapper: %s", _reason(error)
            )
            return kept_program(module, inputs, options)


def _on_cuda(
    graph: Graph, module: GraphModule, options: dict[str, Any]
) -> Callable[..., Sequence[Tensor]]:
    """One CUDA graph; or, where the host takes part in each call, machine code that Python starts.

    Numbers on the host among the inputs, such as a weight that changes from step to step, are moved to the GPU: a
    recording reads what lies there, and would keep for ever what it found on the host.
    """
    import torch._inductor

    # Kernels that are not chosen by a stopwatch.
    options = {
        **options,
        "deterministic": True,
    }
    place = next(t.device for t in graph.inputs if t.is_cuda)
    inputs: list[Any] = list(graph.inputs)
    if _works_on_the_host(graph):
        return torch._inductor.compile(module, inputs, options=options)
    inputs = [t if t.is_cuda else t.detach().to(place) for t in graph.inputs]
    return _Recorded(torch._inductor.compile(module, inputs, options=options), inputs)


def _works_on_the_host(graph: Graph) -> bool:
    """Whether an operation draws, writes, makes or returns what lies on the host and may be other in each call."""
    nodes = list(graph.operations.nodes)
    outputs = set(nodes[-1].all_input_nodes)
    if any(not graph.inputs[place].is_cuda for place in graph.changes):
        return True
    for node in nodes:
        if KIND not in node.meta or node.meta[KIND].device.type == "cuda":
            continue
        named = (
            isinstance(node.target, OpOverload)
            and node.kwargs.get("device") is not None
        )
        if draws(node) or node in outputs or (named and node.all_input_nodes):
            return True
    return False


def interpret_graph(graph: Graph) -> Callable[..., Sequence[Tensor]]:
    """The graph run operation by operation, without Pyro between them; made in seconds, whatever its size."""
    returned = len(graph.outputs)
    inputs = tuple(t.detach() for t in graph.inputs)
    with _quietly(), torch.no_grad(), forked_random(), restored(graph.inputs):
        try:
            script: Any = torch.jit.trace(_in_order(graph), inputs, check_trace=False)
        except (
            RuntimeError
        ):  # an argument that TorchScript does not know: Python runs the graph
            script = graph.module

    def run(*inputs: Tensor) -> Sequence[Tensor]:
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            outputs: Sequence[Tensor] = script(*inputs)
        return outputs[:returned]

    return run


def _in_order(graph: Graph) -> Callable[..., list[Tensor]]:
    """A function that calls the operations one after the other.

    For TorchScript, which asks at each where in the code it stands; in a module's own code, a function of as many
    lines, the answer takes longer the longer it is. What is drawn and not used is returned after the outputs:
    TorchScript would not draw it, and all that follows otherwise.
    """
    *nodes, output = graph.operations.nodes
    unused = [node for node in nodes if draws(node) and not node.users]

    def run(*inputs: Tensor) -> list[Tensor]:
        values: dict[Node, Any] = {}
        given = iter(inputs)
        for node in nodes:
            if node.op == "placeholder":
                values[node] = next(given)
            elif node.op == "get_attr":
                values[node] = graph.constants[node.target]  # type: ignore[index]
            else:
                args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        return [values[node] for node in [*output.args[0], *unused]]  # type: ignore[misc]

    return run


def _draw_truths_as_python_does(graph: torch.fx.Graph) -> None:
    """Have Bernoulli variables in float64 or on CUDA drawn in place, by the random numbers that PyTorch takes."""
    aten = torch.ops.aten
    for node in list(graph.nodes):
        if node.target is not aten.bernoulli.default:
            continue
        if (
            node.meta[KIND].dtype != torch.float64
            and node.meta[KIND].device.type != "cuda"
        ):
            continue
        with graph.inserting_before(node):
            empty = graph.call_function(aten.empty_like.default, (node.args[0],))
            drawn = graph.call_function(aten.bernoulli_.Tensor, (empty, node.args[0]))
        node.replace_all_uses_with(drawn)
        graph.erase_node(node)


def _draw_normals_unlooked(graph: torch.fx.Graph) -> None:
    """Have normal variables made of standard ones, the same that PyTorch draws: it looks at all scales first.

    For the answer a GPU is waited for, which no recording of its work can do.
    """
    aten = torch.ops.aten
    for node in list(graph.nodes):
        if node.target not in (aten.normal.Tensor_Tensor, aten.normal.float_Tensor):
            continue
        loc, scale = node.args[:2]
        made = node.meta[KIND]
        kind = {"dtype": made.dtype, "device": made.device}
        with graph.inserting_before(node):
            drawn = graph.call_function(aten.randn.default, ([*made.shape],), kind)
            deviation = graph.call_function(aten.mul.Tensor, (drawn, scale))
            value = graph.call_function(aten.add.Tensor, (deviation, loc))
        node.replace_all_uses_with(value)
        graph.erase_node(node)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what PyTorch's own parts warn each other of: deprecations, and operations called in a slower way.

    What is warned of belongs to the process, so no other thread may run meanwhile.
    """
    logger = logging.getLogger("torch._inductor.ir")
    level = logger.level
    with alone(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


class _Recorded:
    """A function of tensors on CUDA as a CUDA graph: a call copies what lies elsewhere and replays all kernels at once.

    The kernels read each input where it was when they were recorded. What a later call has elsewhere, such as another
    batch, gets memory of its own and a recording anew, so that nobody's data are written to; what stays, such as
    parameters and resident data, is never copied. The outputs lie where the next call puts its own.

    What waits for the GPU on its way cannot be recorded, and is started by Python, kernel by kernel.

    Args:
        run: the function, of tensors on CUDA.
        inputs: those to record with.
    """

    def __init__(
        self, run: Callable[..., Sequence[Tensor]], inputs: list[Tensor]
    ) -> None:
        self._run = run
        self._inputs = [t.detach() for t in inputs]
        self._own: set[int] = set()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._record()

    def _record(self) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), restored(self._inputs), forked_random():
            for _ in range(
                3
            ):  # allocations and the choice of kernels happen before the recording
                self._run(*self._inputs)
        current = torch.cuda.current_stream()
        current.wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        try:
            # What other threads do meanwhile is no part of it.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._outputs = self._run(*self._inputs)
        except RuntimeError as error:
            self._graph = None
            torch.cuda.set_stream(current)
            _end_recording(current.device)
            logging.getLogger(__name__).info(
                "not recorded, started kernel by kernel: %s", _reason(error)
            )

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        pairs = zip(self._inputs, inputs, strict=True)
        moved = [
            i
            for i, (mine, given) in enumerate(pairs)
            if mine.data_ptr() != given.data_ptr()
        ]
        elsewhere = {i for i in moved if inputs[i].device == self._inputs[i].device}
        if new := elsewhere - self._own:
            self._own |= new
            self._inputs = [
                given.clone() if i in new else self._inputs[i]
                for i, given in enumerate(inputs)
            ]
            self._record()
        for i in moved:
            self._inputs[i].copy_(inputs[i], non_blocking=True)
        if self._graph is None:
            return self._run(*self._inputs)
        self._graph.replay()
        return self._outputs


def _end_recording(device: torch.device) -> None:
    """Record something else to the end: until then PyTorch takes its random numbers for those of one that broke off."""
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        torch.zeros((), device=device)


def _verify(
    graph: Graph, run: Callable[..., Sequence[Tensor]], state: list[Tensor]
) -> bool:
    """Hold the first call against the eager one that was traced; whether one thread of several gives the same bits."""

    def outputs() -> list[Tensor]:
        with torch.no_grad(), forked_random(), restored(state):
            return [t.clone() for t in run(*graph.inputs)]

    found = outputs()
    if _differ(found, graph.outputs, rough=graph.rough):
        raise _CannotCompileError(
            "the compiled graph gave other numbers than Python did"
        )
    if torch.get_num_threads() == 1 or any(t.is_cuda for t in graph.inputs):
        return False
    with threads(1):
        return all(map(same_bits, found, outputs()))


def _differ(
    outputs: Sequence[Tensor], expected: Sequence[Tensor], *, rough: bool = False
) -> bool:
    """Whether a graph's numbers are others than Python's by more than rounding.

    Rounding is relative to the largest number of a tensor, and in any case to the largest of all: the gradient of a
    bias before a batch normalisation is zero but for rounding. In 16 bits a graph rounds less often than Python does,
    and single numbers lie several hundredths apart: there it is relative to the tensor's norm.
    """
    if len(outputs) != len(expected):
        return True
    pairs: list[tuple[Tensor, Tensor]] = []
    for mine, theirs in zip(outputs, expected, strict=True):
        if not theirs.is_floating_point() or not theirs.numel():
            continue
        # What is infinite or no number has to stay so; the rest is compared as numbers.
        finite = theirs.detach().isfinite()
        if mine.shape != theirs.shape or not torch.equal(
            mine.detach().isfinite(), finite
        ):
            return True
        if finite.any():
            pairs.append((mine.detach()[finite], theirs.detach()[finite]))
    largest = max([theirs.abs().max().item() for _, theirs in pairs], default=0.0)
    for mine, theirs in pairs:
        apart = mine.double() - theirs
        if rough:
            eps, size = torch.finfo(torch.bfloat16).eps, theirs.double().norm().item()
            differ = not apart.norm() <= max(ROUGH * size, eps * largest)
        else:
            eps, size = (
                torch.finfo(theirs.dtype).eps,
                max(theirs.abs().max().item(), 1e-6),
            )
            differ = not apart.abs().max() <= max(
                TOLERANCE[theirs.dtype] * size, 64 * eps * largest
            )
        if differ:
            return True
    return False


def _put_back(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Write values back where others stand now; autograd counts every write to what a backward pass waits for."""
    with torch.no_grad():
        for tensor, value in zip(tensors, values, strict=True):
            # What shows one number in several places cannot have been written to.
            if 0 not in tensor.stride() and not torch.equal(tensor, value):
                tensor.copy_(value)


@contextmanager
def restored(state: Sequence[Tensor]) -> Iterator[None]:
    """Put back what is changed in place inside, such as the running statistics of batch normalisation."""
    before = [t.detach().clone() for t in state]
    try:
        yield
    finally:
        # By value: batch normalisation leaves no trace in the tensor's version.
        _put_back(state, before)


class _Watch(Messenger):
    """Remembers the last sample site."""

    site = ""

    def _pyro_sample(self, msg: Any) -> None:
        self.site = msg["name"]


def _reason(error: Exception) -> str:
    text = str(error)
    if isinstance(error, ReadingError):
        return text
    if isinstance(error, ValueNeededError):
        return f"{DECIDES} (an if, float() or .item())"
    return f"{type(error).__name__}: {text.strip().splitlines()[0] if text.strip() else 'no message'}"
