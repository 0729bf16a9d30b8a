"""What programs read beside their arguments: globals, closures, attributes, and the modules that they call."""

import dis
import functools
import types
from collections.abc import Hashable, Iterator
from typing import Any, NamedTuple

import torch
from pyro.poutine import Trace
from torch import Tensor, nn

PLAIN = (
    int,
    float,
    complex,
    bool,
    str,
    bytes,
    type(None),
    torch.dtype,
    torch.device,
    torch.Size,
)
DEEPEST = 6  # containers within containers
MOST = 2000  # values that are watched
# Packages whose own globals stay.
INSIDE = (
    "torch",
    "pyro",
    "numpy",
    "zuko",
    "builtins",
)


class Binding(NamedTuple):
    """A place that a name, an attribute or an index stands for: `container[key]`, in words `label`."""

    container: Any  # a dict, list or tuple, or the cell of a closure
    key: Any
    label: str

    def value(self) -> Any:
        """What stands there now; `None` where nothing does any more."""
        if isinstance(self.container, types.CellType):
            return self.container.cell_contents
        try:
            return self.container[self.key]
        except (KeyError, IndexError):
            return None


class Bindings:
    """The tensors and plain values that programs can reach beside their arguments, by where they stand.

    A graph that was made with a value of then must notice a new one: tensors go in anew at each call, and of a new
    plain value a new graph is made. Found are the globals and closures of functions and of functions that they call,
    attributes of the objects they are bound to, and entries of lists, tuples and dicts in them, so far as they are
    tensors, numbers, texts and truths.
    """

    def __init__(self, *programs: Any) -> None:
        self._tensors: list[Binding] = []
        self._plain: list[Binding] = []
        self._modules: dict[nn.Module, None] = {}
        self._seen: dict[int, Any] = {}
        for program in programs:
            self._visit(program, "", 0)
        self._seen = {}

    def tensors(self) -> list[Tensor]:
        """The tensors that stand there now, always in the same order."""
        values = [binding.value() for binding in self._tensors]
        return [value for value in values if isinstance(value, Tensor)]

    def plain(self) -> tuple[Hashable, ...]:
        """The plain values that stand there now, and whether each module is in training mode."""
        values = [binding.value() for binding in self._plain]
        known: list[Any] = [
            (type(v), v) if isinstance(v, PLAIN) else type(v) for v in values
        ]
        missing = [
            i for i, b in enumerate(self._tensors) if not isinstance(b.value(), Tensor)
        ]
        return (*known, *missing, *[module.training for module in self._modules])

    def changed(self, before: tuple[Hashable, ...]) -> str | None:
        """The first place whose plain value is another than in `before`, in words."""
        for binding, then, now in zip(self._plain, before, self.plain(), strict=False):
            if then != now and then is not now:
                return binding.label
        return None

    @property
    def modules(self) -> list[nn.Module]:
        """The modules that were reached."""
        return list(self._modules)

    def _visit(self, value: Any, label: str, depth: int) -> None:
        """Look into an object that is no tensor and no plain value."""
        if id(value) in self._seen or depth > DEEPEST or len(self._seen) > MOST:
            return
        self._seen[id(value)] = value
        if isinstance(value, types.MethodType):
            self._visit(value.__self__, label, depth)
            self._visit(value.__func__, label, depth)
        elif isinstance(value, functools.partial):
            self._visit(value.func, label, depth)
            self._entries(
                {**dict(enumerate(value.args)), **value.keywords}, label, depth
            )
        elif isinstance(value, types.FunctionType):
            self._function(value, depth)
        elif isinstance(value, nn.Module):
            self._module(value, label, depth)
        elif isinstance(value, dict | list | tuple) and len(value) <= MOST:
            self._entries(value, label, depth)
        elif _is_own(type(value)) and hasattr(value, "__dict__"):
            self._entries(vars(value), label, depth)
            self._visit(vars(type(value)).get("__call__"), label, depth)

    def _function(self, function: types.FunctionType, depth: int) -> None:
        wrapped = getattr(function, "__wrapped__", None)
        if wrapped is not None:
            self._visit(wrapped, "", depth)
        for name, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=False
        ):
            try:
                self._bind(cell, None, name, cell.cell_contents, depth)
            except ValueError:  # not filled yet
                continue
        for name, value in _defaults(function).items():
            self._visit(value, name, depth + 1)
        if function.__module__ and function.__module__.partition(".")[0] in INSIDE:
            return
        for name in _globals_read(function.__code__):
            if name in function.__globals__:
                self._bind(
                    function.__globals__, name, name, function.__globals__[name], depth
                )

    def _module(self, module: nn.Module, label: str, depth: int) -> None:
        self._modules[module] = None
        own = {k: v for k, v in vars(module).items() if not k.startswith("_")}
        own.pop("training", None)
        for name, value in own.items():
            self._bind(vars(module), name, f"{label}.{name}".lstrip("."), value, depth)
        for name, child in module._modules.items():
            if child is not None:
                self._visit(child, f"{label}.{name}".lstrip("."), depth)
        if _is_own(type(module)):
            for function in vars(type(module)).values():
                if isinstance(function, types.FunctionType):
                    self._function(function, depth + 1)

    def _entries(self, container: Any, label: str, depth: int) -> None:
        items = (
            container.items() if isinstance(container, dict) else enumerate(container)
        )
        for key, value in list(items):
            self._bind(container, key, f"{label}.{key}".lstrip("."), value, depth + 1)

    def _bind(
        self, container: Any, key: Any, label: str, value: Any, depth: int
    ) -> None:
        if isinstance(value, nn.Parameter):
            return
        if isinstance(value, Tensor):
            self._tensors.append(Binding(container, key, label))
        elif isinstance(value, PLAIN):
            self._plain.append(Binding(container, key, label))
        elif not isinstance(value, types.ModuleType | type | Trace):
            self._visit(value, label, depth + 1)


def _is_own(cls: type) -> bool:
    """Whether a class is somebody's own, not one of the packages that pairs are written with."""
    return cls.__module__.partition(".")[0] not in INSIDE


def _defaults(function: types.FunctionType) -> dict[str, Any]:
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    positional = function.__defaults__ or ()
    return {
        **dict(zip(names[len(names) - len(positional) :], positional, strict=True)),
        **(function.__kwdefaults__ or {}),
    }


@functools.lru_cache(maxsize=1000)
def _globals_read(code: types.CodeType) -> tuple[str, ...]:
    """The names of globals that a function and the functions in it read."""

    def names(code: types.CodeType) -> Iterator[str]:
        for instruction in dis.get_instructions(code):
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                yield instruction.argval
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                yield from names(constant)

    return tuple(dict.fromkeys(names(code)))
