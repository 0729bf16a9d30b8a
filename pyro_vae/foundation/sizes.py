"""Members are made within the memory that there is: a size that is too large is said before it is taken."""

import inspect
import math
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import partial, wraps
from typing import Any

from torch import Tensor
from torch.nn import Module
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyro_vae.foundation.checks import PLAIN, checked, shown
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.memory import available_memory, in_words
from pyro_vae.foundation.terminal import is_out_of_memory

# bytes of a tensor from which it is worth asking how much memory there is
NOTICED = 2**24
# of each parameter in training: itself, its gradient, and two averages of Adam's
COPIES = 4
FITTED = ("context", "features")  # arguments that other parts of a pair fix
MOST = 100_000  # tensors made for one member

_watched = ContextVar("_watched", default=False)


class Bounded(TorchDispatchMode):
    """Tensors made inside are held against the memory available, or against `limit` bytes in all, `most` in number.

    Raises:
        InputError: naming `what` is made, the size and what there is; also for more than `most` tensors.
    """

    def __init__(
        self, what: str, limit: float = math.inf, most: int | None = None
    ) -> None:
        super().__init__()
        self.what, self.limit, self.most = what, limit, MOST if most is None else most
        self.made = self.total = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if not any(isinstance(leaf, Tensor) for leaf in tree_leaves((args, kwargs))):
            self.made += 1
            if self.made > self.most:
                raise InputError(
                    f"{self.what} cannot be made: it has more than {self.most:,} tensors; choose smaller numbers"
                )
            self._hold(func, args, kwargs)
        return func(*args, **kwargs)

    def _hold(self, func: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """Raise unless what `func` is about to make can be held."""
        if all(argument.name != "device" for argument in func._schema.arguments):
            return  # it makes no tensor
        numbers = [n for n in tree_leaves(args) if isinstance(n, int) and n > 0]
        if math.prod(numbers) < NOTICED // 8 and self.limit == math.inf:
            return
        try:
            size = func(*args, **{**kwargs, "device": "meta"}).nbytes
        except (NotImplementedError, TypeError, AttributeError):
            return
        self.total += size
        if self.total > self.limit:
            raise InputError(
                f"{self.what} takes more memory than the {in_words(self.limit)} expected"
            )
        if size > NOTICED and COPIES * self.total > available_memory():
            raise InputError(
                f"{self.what} cannot be made: it takes {in_words(self.total)} of memory, in training "
                f"{in_words(COPIES * self.total)}, and {in_words(available_memory())} are available; choose smaller "
                "numbers"
            )


def declared(init: Callable[..., None]) -> Callable[..., None]:
    """A member's `__init__`: its arguments checked against their annotations, its sizes against the memory."""
    function = checked(init)

    @wraps(init)
    def make(self: Any, *args: Any, **kwargs: Any) -> None:
        self.__dict__.setdefault("_given", (args, kwargs))  # of the outermost class
        if _watched.get():  # the outermost call watches
            return function(self, *args, **kwargs)
        what = _written(init, self, args, kwargs)
        token = _watched.set(True)
        try:
            with Bounded(what):
                return function(self, *args, **kwargs)
        except (OverflowError, MemoryError, RuntimeError, TypeError) as error:
            if not (isinstance(error, OverflowError) or is_too_large(error)):
                raise
            too_large = f"{what} cannot be made: it is too large for memory"
            raise InputError(too_large) from error
        finally:
            _watched.reset(token)

    return make


class Declared:
    """A family whose members' `__init__` are `declared`, with nothing for a member to do."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = declared(cls.__init__)  # type: ignore[method-assign]

    def __repr__(self) -> str:
        """The call that makes it; of a module the tree of its parts, as in torch."""
        return (
            super().__repr__()
            if isinstance(self, Module)
            else written(self, list(given(self)))
        )


def given(made: Any) -> dict[str, Any]:
    """The arguments that a member was made with, defaults among them; empty for what is no member."""
    if "_given" not in vars(made):
        return {}
    args, kwargs = vars(made)["_given"]
    bound = inspect.signature(type(made)).bind(*args, **kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)


def written(made: Any, own: Sequence[str] | None = None) -> str:
    """A member in the grammar of the command line, with its own arguments where they are not the usual ones.

    Args:
        made: a member, or any other module.
        own: which arguments these are; by default all that can only be given by name, but for those that other parts
            fix.
    """
    name = type(made).__name__
    if "_given" not in vars(made):
        return f"{name}({_outside(made)})"
    parameters, known = inspect.signature(type(made)).parameters, given(made)
    by_name = [k for k, p in parameters.items() if p.kind is p.KEYWORD_ONLY]
    by_name = [k for k in by_name if k not in FITTED]
    chosen = [k for k in (by_name if own is None else own) if k in known]
    changed = [k for k in chosen if known[k] is not parameters[k].default]
    return f"{name}({', '.join(f'{k}={spelled(known[k])}' for k in changed)})"


def _outside(made: Any) -> str:
    """What there is to say of a module of torch: its sizes, or how many it is made of."""
    if not isinstance(made, Module):
        return ""
    parts = len([*made.children()])
    return made.extra_repr() or (f"{parts} modules" if parts > 1 else "")


def spelled(value: Any) -> str:
    """A value as the command line has it; a class is a member, and so is one with arguments."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k!r}: {spelled(v)}' for k, v in value.items())}}}"
    if isinstance(value, partial) and isinstance(value.func, type) and not value.args:
        told = (f"{k}={spelled(v)}" for k, v in value.keywords.items())
        return f"{value.func.__name__}({', '.join(told)})"
    return f"{value.__name__}()" if isinstance(value, type) else repr(value)


def is_too_large(error: BaseException) -> bool:
    """Whether an error says that memory ran out, or that a size is beyond what can be counted."""
    beyond = any(words in str(error) for words in ("overflow", "Overflow", "too large"))
    return is_out_of_memory(error) or (
        isinstance(error, RuntimeError | TypeError) and beyond
    )


def _written(
    init: Callable[..., None], made: Any, args: Any, kwargs: dict[str, Any]
) -> str:
    """The call, with its plain arguments by name."""
    names = list(inspect.signature(init).parameters)[1:]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    plain = [f"{k}={shown(v)}" for k, v in given.items() if isinstance(v, PLAIN)]
    return f"{type(made).__name__}({', '.join(plain)})"
