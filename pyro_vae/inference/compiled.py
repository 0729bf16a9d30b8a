"""Functions of tensors that run Pyro programs, as compiled graphs."""

import logging
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyro.infer
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.fx import GraphModule

from pyro_vae._abstract import forked_random, traced
from pyro_vae.inference.products import by_kernels

PATIENCE = 100  # visits of a further shape before it gets a graph of its own, such as the last batch of an epoch
MOST_GRAPHS = 8
OPTIONS = {
    "fallback_random": True,
    "size_asserts": False,
    "alignment_asserts": False,
}  # eager's random numbers
TOLERANCE = {
    torch.float64: 1e-6,
    torch.float32: 1e-3,
}  # of the first call, relative; 0.05 in lower precision


class CompileWarning(UserWarning):
    """What was to be compiled runs as it is; the message says why."""


class _CannotCompileError(Exception):
    """The reason, in words, why a function has no graph."""


class Graph(NamedTuple):
    """A traced function: `run(*state, *tensors of the arguments)` returns a list of tensors."""

    module: GraphModule
    inputs: list[Tensor]
    outputs: list[Tensor]  # of the call that was traced
    static: Any


class Later(NamedTuple):
    """A tensor that is made where it is used, inside a compiled graph: `function(*tensors)`, with `size` rows.

    What `function` does beside its tensors is part of its value: functions that compare equal do the same.
    """

    function: Callable[..., Tensor]
    tensors: tuple[Tensor, ...]
    size: int

    def made(self) -> Tensor:
        return self.function(*self.tensors)


class Compiled:
    """A function that runs Pyro programs, traced through Pyro's handlers to one graph for each shape, and compiled.

    The graph holds the tensor operations alone: no handlers, no Python. It is a function of `state` and of the tensors
    among the arguments; what else the function reads is fixed when it is traced, and belongs into `state` too. Random
    numbers stay random, and are those that the function itself would draw. The first shape is traced when it is first
    seen, a further one when it has been seen a hundred times, so that a smaller last batch does not cost more than it
    saves. What cannot be traced, or gives other numbers than the function on the first call, runs as it is, after one
    `CompileWarning`.

    Args:
        function: called with `args`; returns a list of tensors, and anything else that is the same in every call.
        state: gives the tensors that the function reads or changes, such as parameters and buffers, always in the same
            order; and a hashable value of all else that it depends on, of which a new value means a new graph.
        name: of what is compiled, for the warning.
        limit: the most operations that a graph may have.
        warn: called with the reason why there is no graph, instead of a `CompileWarning`.
        products: `'torch'`, or `'onednn'` to hand products in float32 on a CPU to the kernels of `products.cpp`.
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
    ) -> None:
        self._function, self._state = function, state
        self._products = products
        self._name, self._limit, self._warn = name, limit, warn
        self._graphs: dict[Hashable, tuple[Callable[..., Sequence[Tensor]], Any]] = {}
        self._visits: dict[Hashable, int] = {}
        self.failed = False

    def __call__(self, *args: Any) -> tuple[list[Tensor], Any]:
        if self.failed:
            return self._function(*args)
        state, constants = self._state()
        tensors: list[Tensor] = []
        structure = _without_tensors(args, tensors)
        kinds = tuple(
            [(t.shape, t.stride(), t.dtype, t.device, t.requires_grad) for t in (*state, *tensors)]
        )
        key = (structure, kinds, constants, torch.is_grad_enabled())
        if key not in self._graphs:
            self._visits[key] = visits = self._visits.get(key, 0) + 1
            if self._graphs and visits < PATIENCE:
                return self._function(*args)
            try:
                self._graphs[key] = self._make(state, tensors, args)
            except _CannotCompileError as error:
                self.failed = True
                text = f"{self._name} runs uncompiled: {error}"
                if self._warn is None:
                    warnings.warn(text, CompileWarning, stacklevel=4)
                else:
                    self._warn(text)
                return self._function(*args)
        run, static = self._graphs[key]
        with torch.no_grad():
            return list(run(*state, *tensors)), static

    def _make(self, state: list[Tensor], tensors: list[Tensor], args: Any) -> tuple[Any, Any]:
        if len(self._graphs) == MOST_GRAPHS:
            raise _CannotCompileError(
                f"it was called in more than {MOST_GRAPHS} ways that need graphs of their own; keep to a few batch "
                "shapes, and let values that change be tensors"
            )
        graph = trace(self._function, state, tensors, args)
        if self._limit is not None and len(graph.module.graph.nodes) > self._limit:
            raise _CannotCompileError(
                f"its graph has {len(graph.module.graph.nodes):,} operations, which would take minutes to compile"
            )
        try:
            if self._products == "onednn":
                by_kernels(graph.module)
            run = compile_graph(graph)
            _verify(graph, run, state)
        except _CannotCompileError:
            raise
        except (
            Exception
        ) as error:  # no compiler here, an operation that it does not know: all is well eagerly
            raise _CannotCompileError(f"the compiler failed with {_reason(error)}") from error
        return run, graph.static


def _without_tensors(value: Any, found: list[Tensor]) -> Hashable:
    """What is left of arguments when their tensors are moved to `found`, in a fixed order."""
    if isinstance(value, Tensor):
        found.append(value)
        return Tensor
    if isinstance(value, tuple | list):
        return (type(value), *[_without_tensors(v, found) for v in value])
    if isinstance(value, dict):
        return (dict, *[(name, _without_tensors(v, found)) for name, v in value.items()])
    return value  # type: ignore[no-any-return]


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
    from torch.fx.experimental.proxy_tensor import make_fx

    outputs: list[Tensor] = []
    static: Any = None

    def followed(*_: Tensor) -> list[Tensor]:
        nonlocal outputs, static
        outputs, static = function(*args)
        return outputs

    inputs = [*state, *tensors]
    with forked_random(), restored(state), _without_reading(), traced(), _Watch() as watch:
        try:
            module = make_fx(followed)(*inputs)
        except Exception as error:
            near = f" near site {watch.site!r}" if watch.site else ""
            raise _CannotCompileError(f"tracing stopped{near}: {_reason(error)}") from error
    return Graph(module, inputs, outputs, static)


def compile_graph(graph: Graph) -> Callable[..., Sequence[Tensor]]:
    """The graph as machine code, by Inductor: on a CPU one C++ program, on CUDA one CUDA graph."""
    import torch._inductor

    module: GraphModule = graph.module
    inputs: list[Any] = list(graph.inputs)
    with _quietly(), torch.no_grad(), forked_random():
        if inputs[0].is_cuda:
            return _Recorded(torch._inductor.compile(module, inputs, options=OPTIONS), graph.inputs)
        for node in module.graph.nodes:
            node.meta.clear()  # Inductor finds shapes anew, which for C++ must not be mixed with the tracer's
        try:
            return torch._inductor.compile(module, inputs, options={**OPTIONS, "cpp_wrapper": True})
        except Exception as error:  # an operation that only the Python wrapper knows
            logging.getLogger(__name__).info("compiled without the C++ wrapper: %s", _reason(error))
            return torch._inductor.compile(module, inputs, options=OPTIONS)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what PyTorch's own parts warn each other of: deprecations, and operations called in a slower way."""
    logger = logging.getLogger("torch._inductor.ir")
    level = logger.level
    with warnings.catch_warnings():
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
    """

    def __init__(self, run: Callable[..., Sequence[Tensor]], inputs: list[Tensor]) -> None:
        self._run = run
        self._inputs = [t.detach() for t in inputs]
        self._own: set[int] = set()
        self._record()

    def _record(self) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), restored(self._inputs), forked_random():
            for _ in range(3):  # allocations and the choice of kernels happen before the recording
                self._run(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._outputs = self._run(*self._inputs)

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        pairs = zip(self._inputs, inputs, strict=True)
        moved = [i for i, (mine, given) in enumerate(pairs) if mine.data_ptr() != given.data_ptr()]
        if new := set(moved) - self._own:
            self._own |= new
            self._inputs = [
                given.clone() if i in new else self._inputs[i] for i, given in enumerate(inputs)
            ]
            self._record()
        for i in moved:
            self._inputs[i].copy_(inputs[i])
        self._graph.replay()
        return self._outputs


def _verify(graph: Graph, run: Callable[..., Sequence[Tensor]], state: list[Tensor]) -> None:
    """Hold the first call against the eager one that was traced."""
    with torch.no_grad(), forked_random(), restored(state):
        outputs = run(*graph.inputs)
    for compiled, eager in zip(outputs, graph.outputs, strict=True):
        if eager.is_floating_point() and eager.numel() and eager.isfinite().all():
            bound = TOLERANCE.get(eager.dtype, 0.05) * eager.abs().max().clamp_min(1e-6)
            if not (compiled - eager).abs().max() <= bound:
                raise _CannotCompileError("the compiled graph gave other numbers than Python did")


@contextmanager
def restored(state: Sequence[Tensor]) -> Iterator[None]:
    """Put back what is changed in place inside, such as the running statistics of batch normalisation."""
    before = [t.detach().clone() for t in state]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(state, before, strict=True):
                tensor.copy_(
                    value
                )  # always: batch normalisation leaves no trace in the tensor's version


@contextmanager
def _without_reading() -> Iterator[None]:
    """Keep Pyro's own losses from reading their value back to Python, which a graph cannot do."""
    instead = {"torch_item": _detached, "warn_if_nan": lambda value, *_: value}
    modules = [getattr(pyro.infer, name) for name in ("trace_elbo", "trace_mean_field_elbo")]
    before = [
        (module, name, getattr(module, name))
        for module in modules
        for name in instead
        if hasattr(module, name)
    ]
    try:
        for module, name, _ in before:
            setattr(module, name, instead[name])
        yield
    finally:
        for module, name, function in before:
            setattr(module, name, function)


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


class _Watch(Messenger):
    """Remembers the last sample site."""

    site = ""

    def _pyro_sample(self, msg: Any) -> None:
        self.site = msg["name"]


def _reason(error: Exception) -> str:
    text = str(error)
    if "aten._local_scalar_dense" in text or "data-dependent" in text:
        return "a tensor's value decides what Python does next (an if, float() or .item())"
    return (
        f"{type(error).__name__}: {text.strip().splitlines()[0] if text.strip() else 'no message'}"
    )
