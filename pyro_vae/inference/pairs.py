"""A pair as one thing, or as its model and its guide: functions take both."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from pyro_vae.foundation.errors import InputError
from pyro_vae.inference.particles import Program
from pyro_vae.models.vae import VAE

Given = ParamSpec("Given")
Made_co = TypeVar("Made_co", covariant=True)


class Both(Protocol):
    """What has a model and a guide, such as a `VAE`."""

    @property
    def model(self) -> Program: ...

    @property
    def guide(self) -> Program: ...


Pair = Both | tuple[Program, Program]


class OfPair(Protocol[Given, Made_co]):
    """A function of a model, its guide and more, `f(model, guide, ...)`, or of both as one, `f(vae, ...)`."""

    @overload
    def __call__(
        self, pair: Pair, /, *args: Given.args, **kwargs: Given.kwargs
    ) -> Made_co: ...

    @overload
    def __call__(
        self,
        model: Program,
        guide: Program,
        /,
        *args: Given.args,
        **kwargs: Given.kwargs,
    ) -> Made_co: ...


def of_pair(
    function: Callable[Concatenate[Program, Program, Given], Made_co],
) -> OfPair[Given, Made_co]:
    """Let `function(model, guide, ...)` take a pair as one thing too, `function(vae, ...)`."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Made_co:
        return function(*_apart(function.__name__, args, kwargs), **kwargs)

    return call  # type: ignore[return-value]


def _apart(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The arguments of a call with model and guide in front."""
    if not args or "guide" in kwargs:
        return args
    first, *rest = args
    if not (rest and callable(rest[0])):  # no guide behind it
        return (*pair_of(first), *rest)
    if isinstance(first, VAE):
        raise InputError(
            f"a VAE is model and guide, and {name} was given another guide: take {name}(vae, ...), or "
            f"{name}(vae.model, guide, ...)"
        )
    return args


def method_of_pair(method: Callable[..., Made_co]) -> Callable[..., Made_co]:
    """As `of_pair`, of a method: `loss(vae, ...)` is `loss(vae.model, vae.guide, ...)`."""

    @wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Made_co:
        return method(self, *_apart(method.__name__, args, kwargs), **kwargs)

    return call


def opened(
    owner: str, names: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, ...]:
    """The arguments of a call that takes a model, a guide and others that must be given, where a pair may come first.

    What follows may be callable, so that a pair is known by what it is and by how much is given.

    Args:
        owner: what is called, for the message.
        names: of all that must be given, the first two for the model and the guide.
        args: given by their places.
        kwargs: given by name.

    Raises:
        InputError: for a `VAE` beside a guide.
    """
    given = len(args[: len(names)]) + sum(name in kwargs for name in names[1:])
    if not args or given >= len(names):
        if args and isinstance(args[0], VAE):
            raise InputError(
                f"a VAE is model and guide, and {owner} was given another guide: take {owner}(vae, ...), or "
                f"{owner}(vae.model, guide, ...)"
            )
        return args
    first, *rest = args
    return (*pair_of(first), *rest) if _is_pair(first) else args


def _is_pair(value: Any) -> bool:
    """Whether a value has a model and a guide, or is a tuple of two."""
    if isinstance(value, tuple):
        return len(value) == 2
    return all(callable(getattr(value, name, None)) for name in ("model", "guide"))


def pair_of(pair: Any) -> tuple[Program, Program]:
    """Model and guide of a VAE, of anything else that has both, or of a tuple of both.

    Raises:
        InputError: for anything else.
    """
    if isinstance(pair, tuple) and len(pair) == 2 and all(map(callable, pair)):
        return pair
    model, guide = getattr(pair, "model", None), getattr(pair, "guide", None)
    if not callable(model) or not callable(guide):
        raise InputError(
            f"a {type(pair).__name__} is no pair: give a VAE, a tuple of model and guide, or one after the other"
        )
    return model, guide


def model_of(program: Any) -> Program:
    """The model of a pair; any other program is one."""
    both = (getattr(program, name, None) for name in ("model", "guide"))
    return pair_of(program)[0] if all(map(callable, both)) else program
