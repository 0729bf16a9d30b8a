"""Families of classes: what a Pyro program of this package is, and who belongs to a family."""

import inspect
import sys
import threading
import weakref
from abc import ABCMeta
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pyro
import torch
from pyro.distributions import Unit, constraints
from pyro.nn import PyroModule
from pyro.poutine.runtime import am_i_wrapped, effectful

# The allocator of Linux returns free memory above twice the largest block that was ever freed, and the next pass over
# data pays for every page anew, up to half of its time. Freed once, a block of nearly 32 MiB, the most that counts,
# raises that limit (mallopt(3), M_MMAP_THRESHOLD). No memory is touched.
torch.empty(2**25 - 2**16, dtype=torch.uint8)

_PACKAGE = __name__.partition(".")[0] + "."

MOST_LISTED = 1000  # combinations of values that are enumerated

_process = threading.RLock()  # whose holder may use what a process has one of


class _Mode(threading.local):
    """What holds for the programs that this thread runs."""

    announce = True
    traced = False
    labelled = False


_mode = _Mode()


@contextmanager
def alone(**mode: bool) -> Iterator[None]:
    """Let no other thread of this package run meanwhile; `mode` holds for the programs that this one runs.

    Pyro keeps one stack of handlers for all threads, and PyTorch one stream of random numbers: a thread that ran a
    program while another does would find the other's handlers around it.
    """
    before = {name: getattr(_mode, name) for name in mode}
    vars(_mode).update(mode)
    try:
        with _process:
            yield
    finally:
        vars(_mode).update(before)


def localise(*programs: Any) -> None:
    """Prepare Pyro modules for `local_parameters`: one that was made outside that mode lacks a store of its own."""
    for program in programs:
        for module in program.modules() if isinstance(program, torch.nn.Module) else ():
            if isinstance(module, PyroModule):
                stores = vars(module._pyro_context)
                stores.setdefault("param_state", {"params": {}, "constraints": {}})


@contextmanager
def local_parameters() -> Iterator[None]:
    """Run Pyro modules without the global parameter store: their parameters are the module's own, as in PyTorch."""
    with alone(announce=False), pyro.settings.context(module_local_params=True):
        yield


class Around(torch.nn.Module):
    """A program that runs another with something changed, and is of its kind: of this package, or foreign."""

    program: Any

    def __init__(self, program: Any) -> None:
        super().__init__()
        if isinstance(program, torch.nn.Module):
            self.program = program
        else:
            object.__setattr__(self, "program", program)

    @property
    def context(self) -> int:
        """How many numbers of a condition the program reads."""
        return context_of(self.program)


class Ignoring(Around):
    """A program that is called as another is, which takes more: it does not see what is given by these names."""

    def __init__(self, program: Any, *names: str) -> None:
        super().__init__(program)
        self.names = names

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.program(
            *args, **{k: v for k, v in kwargs.items() if k not in self.names}
        )


def is_own(*programs: Any) -> bool:
    """Whether all of some programs are of this package: an `AbstractProgram`, or an instance of a class in it.

    Any other pair (functions, plain Pyro modules, AutoGuides, bound methods, what `poutine` or a `partial` wraps) is
    foreign, and one program of each kind makes a foreign pair.
    """
    return all(_is_own(program) for program in programs)


def lists(program: Any) -> bool:
    """Whether a program of this package has sites of few values, all of which are enumerated."""
    while isinstance(program, Around):
        program = program.program
    return isinstance(program, AbstractProgram) and program.lists


def _is_own(program: Any) -> bool:
    if isinstance(program, Around):
        return _is_own(program.program)
    return isinstance(program, AbstractProgram) or type(program).__module__.startswith(
        _PACKAGE
    )


@contextmanager
def parameters_of(*programs: Any) -> Iterator[None]:
    """Run programs with their parameters where they are: in the modules, or for a foreign pair where Pyro has them.

    Programs of this package run in `local_parameters`. A foreign pair runs as in `pyro.infer.SVI`: `pyro.param`, Pyro
    modules and the settings of Pyro do what they do outside.
    """
    with local_parameters() if is_own(*programs) else alone():
        yield


def unchecked(*programs: Any) -> AbstractContextManager[Any]:
    """Leave out Pyro's validation of programs of this package, once it was done; foreign ones keep the user's."""
    return pyro.validation_enabled(False) if is_own(*programs) else nullcontext()


@contextmanager
def running(*programs: Any) -> Iterator[None]:
    """Ask some programs, of which `None` is none: their parameters where they are, those of ours without validation."""
    there = [program for program in programs if program is not None]
    localise(*there)
    with parameters_of(*there), unchecked(*there):
        yield


def traced() -> AbstractContextManager[None]:
    """What runs inside is written down as a graph, see `is_traced`."""
    return alone(traced=True)


def is_traced() -> bool:
    """Whether what runs now becomes a graph, in which many small operations cost little."""
    return _mode.traced


def labelled(every: bool = True) -> AbstractContextManager[None]:
    """All data that programs are called with inside have a label: then a class is observed, and not enumerated."""
    return alone(labelled=True) if every else nullcontext()


def is_labelled() -> bool:
    """Whether all data have a label, see `labelled`."""
    return _mode.labelled


@contextmanager
def forked_random() -> Iterator[None]:
    """Leave the random streams as they were, whatever is drawn inside."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with alone(), torch.random.fork_rng(devices):
        yield


class _ProgramMeta(type(PyroModule), ABCMeta):  # type: ignore[misc]
    """Pyro's metaclass and Python's abstract one, so that a program can have abstract methods."""


class AbstractProgram(PyroModule, metaclass=_ProgramMeta):  # type: ignore[misc,metaclass]
    """A Pyro program (model or guide) whose parameters live in the module and nowhere else.

    A plain `PyroModule` copies its parameters to and *from* Pyro's global store under their names, so that a second
    program with the same names is silently overwritten by the first. Here the parameters are only *announced* to the
    handlers around the call: `pyro.infer.SVI`, `Trace_ELBO` and the other tools of Pyro work, two programs never meet.
    """

    @property
    def lists(self) -> bool:
        """Whether it has sites of few values, all of which are enumerated."""
        return False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if _mode.announce:
            _announce_parameters(self, self._pyro_name)
        return torch.nn.Module.__call__(self, *args, **kwargs)


def announced(program: Any) -> Any:
    """A program that, where it is a plain torch module, tells the handlers around it of its parameters."""
    if not isinstance(program, torch.nn.Module) or isinstance(program, PyroModule):
        return program

    def run(*args: Any, **kwargs: Any) -> Any:
        _announce_parameters(program)
        return program(*args, **kwargs)

    return run


def movable(site: str, parameters: Callable[[], torch.Tensor]) -> torch.Tensor:
    """The variational parameters of a site, `(batch, P)`, unless a handler moves or replaces them."""
    if not am_i_wrapped():
        return parameters()
    statement = effectful(parameters, type="parameters")
    return statement(name=site)  # type: ignore[no-any-return]


def aim(name: str, value: torch.Tensor) -> None:
    """Add a number for each datum to what is maximised, in a guide: it is part of no density and of no evaluation.

    Objectives of this package add it to their bound; to `pyro.infer.Trace_ELBO` it is a factor of the guide.
    """
    nothing = value.new_empty(*value.shape, 0)
    aimed = Unit(-value, has_rsample=True, validate_args=False)
    infer: Any = {"is_auxiliary": True, AIM: True}
    pyro.sample(name, aimed, obs=nothing, infer=infer)


AIM = "is_aim"  # what `infer` of such a site says


def _announce_parameters(program: torch.nn.Module, prefix: str = "") -> None:
    """Tell the handlers around a program, if there are some, of its parameters."""
    for name, parameter in program.named_parameters(prefix) if am_i_wrapped() else ():
        _announce_parameter(name, parameter)


def _announce_parameter(name: str, parameter: torch.nn.Parameter) -> None:
    parameter.unconstrained = weakref.ref(parameter)  # type: ignore[attr-defined]  # what pyro.infer.SVI asks for
    statement = effectful(lambda *_, **__: parameter, type="param")
    statement(name, parameter, constraint=constraints.real, name=name)


def context_of(part: Any) -> int:
    """How many numbers of a condition c a network, prior, guide or model reads: its `context`; 0 where it has none."""
    return getattr(part, "context", 0)


def variants(family: type) -> dict[str, type]:
    """The final classes of a family by name: every subclass in this package that is neither abstract nor subclassed.

    >>> from pyro_vae import Guide, variants
    >>> list(variants(Guide))[:3]
    ['Categorical', 'Codebook', 'Delta']
    """
    package = family.__module__.partition(".")[0]
    members: dict[str, type] = {}
    queue: list[type] = [family]
    while queue:
        cls = queue.pop()
        subclasses: list[type] = type.__subclasses__(cls)
        own = [c for c in subclasses if c.__module__.partition(".")[0] == package]
        children = [c for c in own if _stands_in_its_module(c)]
        queue += children
        if not children and not inspect.isabstract(cls) and cls is not family:
            members[cls.__name__] = cls
    return dict(sorted(members.items()))


def _stands_in_its_module(cls: type) -> bool:
    """Whether a class is the one of its name, unlike the subclasses that `torch.export` makes of those of modules."""
    place: Any = sys.modules.get(cls.__module__)
    for name in cls.__qualname__.split("."):
        place = getattr(place, name, None)
    return place is cls
