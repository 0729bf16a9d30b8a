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
