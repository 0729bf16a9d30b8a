"""What values an argument takes: declared in its annotation, checked where the call is made; without torch.

A member says what its arguments are, and nothing else has to be done:

    def __init__(self, latent_dim: Count, *, kind: Literal["a", "b"] = "a", scale: Positive | None = None) -> None:

The annotation is a type with ranges: `Annotated[int, at_least(2)]`, `tuple[Count, ...]`, `Literal`, unions of these.
"""

import collections.abc
import difflib
import functools
import inspect
import itertools
import math
import numbers
import re
import reprlib
import types
import typing
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.memory import affordable, available_memory

LARGEST = 3.4e38  # a finite number in float32
LONGEST = 1000  # entries of a tuple
UNIONS = (typing.Union, types.UnionType)
NOUNS = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("a text", "texts"),
    bool: ("True or False", "True or False"),
}
PLAIN = (bool, int, float, complex, str, bytes, tuple, list, dict, set, types.NoneType)

Given = ParamSpec("Given")
Made = TypeVar("Made")


# A rule is a condition that an annotation adds to a type: whether it `holds` for a value of the type, and the `words`
# for what the value must be, of a noun, the type in words.


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, without an end that is open."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: Any) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return bool(above and below)

    def words(self, noun: str) -> str:
        if self.low == -math.inf:
            return f"{noun} and at most {self.high:,}"
        if self.high == math.inf:
            if not self.open_low:
                return f"{noun} of at least {self.low:g}"
            positive = re.sub(r"(?=number)", "positive ", noun)
            return positive if self.low == 0 else f"{noun} above {self.low:g}"
        if not (self.open_low or self.open_high):
            return f"{noun} from {self.low:,g} to {self.high:,.10g}"
        ends = f"{'(' if self.open_low else '['}{self.low:g}, {self.high:g}{')' if self.open_high else ']'}"
        return f"{noun} in {ends}"


def at_least(low: float) -> Range:
    """`low` or more."""
    return Range(low)


def above(low: float) -> Range:
    """More than `low`."""
    return Range(low, open_low=True)


def at_most(high: int) -> Range:
    """Up to `high`."""
    return Range(high=high)


def between(low: float, high: float) -> Range:
    """From `low` to `high`, both included."""
    return Range(low, high)


def share(*, zero: bool = True, one: bool = False) -> Range:
    """A part of the whole, from 0 to 1; `zero` and `one` say whether the ends are included."""
    return Range(0, 1, open_low=not zero, open_high=not one)


@dataclass(frozen=True)
class OneOf:
    """One of the texts in a collection."""

    choices: Collection[str]

    def holds(self, value: Any) -> bool:
        return value in self.choices

    def words(self, noun: str) -> str:
        return _either([repr(choice) for choice in self.choices])


one_of = OneOf


@dataclass(frozen=True)
class Increasing:
    """A tuple whose entries grow."""

    def holds(self, value: Any) -> bool:
        return all(a < b for a, b in itertools.pairwise(value))

    def words(self, noun: str) -> str:
        return f"{noun}, each larger than the one before"


increasing = Increasing()


@dataclass(frozen=True)
class Takes:
    """A number of things, of which each takes so many bytes of memory or more."""

    size: int

    def holds(self, value: Any) -> bool:
        return bool(value * self.size <= available_memory())

    def words(self, noun: str) -> str:
        return f"{noun} of things that memory can hold"


takes = Takes

MOST = 10**15  # of anything that is done one by one
# of things that are done one after another, and not held
Number = Annotated[int, at_least(1), at_most(MOST)]
Draws = Annotated[int, at_least(2), at_most(MOST)]  # the same, with a spread
# of numbers, which training holds four times
Count = Annotated[int, at_least(1), takes(16)]
Whole = Annotated[int, at_least(0), takes(16)]  # the same, or none
Layers = Annotated[int, between(1, 1000)]  # of modules
Steps = Annotated[int, between(1, 10_000)]  # of gradients, for each datum
Positive = Annotated[float, above(0)]
NotNegative = Annotated[float, at_least(0)]


def checked(function: Callable[Given, Made]) -> Callable[Given, Made]:
    """The function (or a class's `__init__`), its arguments checked against their annotations before it runs.

    Raises:
        InputError: for the first argument that is not what its annotation says: in one sentence with its name, what it
            got and what it must be.
    """
    signature = inspect.signature(function)
    method = function.__name__ == "__init__"

    @functools.wraps(function)
    def call(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        try:
            given = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # Python's own words for a wrong call
        owner = type(args[0]).__name__ if method else function.__name__
        for name, hint in annotations(function).items():
            if name in given.arguments:
                default = signature.parameters[name].default
                value = given.arguments[name]
                given.arguments[name] = check(
                    name, value, hint, owner=owner, example=default
                )
        return function(*given.args, **given.kwargs)

    return call


@functools.cache
def annotations(function: Callable[..., Any]) -> dict[str, Any]:
    """What each argument of a function takes; annotations that cannot be read are left alone."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception:  # a name that is known to type checkers only
        return {}
    kinds = {name: p.kind for name, p in inspect.signature(function).parameters.items()}
    several = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {k: v for k, v in hints.items() if k in kinds and kinds[k] not in several}


def check(
    name: str, value: Any, hint: Any, *, owner: str | None = None, example: Any = None
) -> Any:
    """`value` as `hint` has it: a list is taken as a tuple, and one number as a tuple of it where tuples are wanted.

    Args:
        name: of the argument.
        value: what was given.
        hint: a type, `Annotated` with rules, `Literal`, or a union of these.
        owner: of the argument, for the sentence.
        example: a tuple that would do, for the sentence.

    Raises:
        InputError: when it is something else.

    >>> check("hidden", [3, 4], tuple[Count, ...])
    (3, 4)
    >>> check("scale", -1, Positive | Literal["learned"], owner="Gaussian")
    Traceback (most recent call last):
        ...
    pyro_vae.foundation.errors.InputError: scale=-1 of Gaussian must be a positive number or 'learned'
    """
    taken = _taken(value, hint)
    if taken is not _REFUSED:
        return taken
    subject = f"{name}={shown(value)}" + (f" of {owner}" if owner else "")
    if isinstance(value, (tuple, list)) and len(value) > LONGEST:
        raise InputError(
            f"{subject} has {len(value):,} entries; {LONGEST:,} are the most"
        )
    affordable(_too_large(value, hint), subject)
    such = ""
    if isinstance(value, float) and not -LARGEST <= value <= LARGEST:
        such = f", and finite in float32, which ends at {LARGEST:g}"
    if isinstance(example, tuple) and example and not isinstance(value, str):
        such = f", such as {name}={example}"
    if isinstance(example, type):
        such = f", such as {name}={example.__name__}"
    raise InputError(f"{subject} must be {words(hint)}{such}{_near(value, hint)}")


_REFUSED = object()


def _taken(value: Any, hint: Any) -> Any:
    """The value as `hint` has it, or `_REFUSED`."""
    kind, arguments = typing.get_origin(hint), typing.get_args(hint)
    if kind is Annotated:
        taken = _taken(value, arguments[0])
        fits = taken is not _REFUSED and all(r.holds(taken) for r in _rules(hint))
        return taken if fits else _REFUSED
    if kind in UNIONS:
        each = (_taken(value, choice) for choice in arguments)
        return next((taken for taken in each if taken is not _REFUSED), _REFUSED)
    if kind is tuple:
        return _tuple(value, arguments)
    if hint is int:
        return _whole(value)
    if hint is float:
        return _number(value)
    if kind is Literal:
        fits = any(type(value) is type(c) and value == c for c in arguments)
    elif hint in (None, types.NoneType):
        fits = value is None
    elif hint in (bool, str):
        fits = isinstance(value, hint)
    elif kind is collections.abc.Callable:
        fits = callable(value)
    elif hint is Any or (isinstance(hint, type) and isinstance(value, hint)):
        fits = True
    else:  # Of a type from elsewhere, such as a torch module, anything can play the part that is no plain value.
        ours = getattr(hint, "__module__", "").startswith("pyro_vae.")
        fits = not ours and not isinstance(value, PLAIN)
    return value if fits else _REFUSED


def _rules(hint: Any) -> list[Any]:
    """What an annotation adds to its type."""
    return [rule for rule in typing.get_args(hint)[1:] if hasattr(rule, "holds")]


def _whole(value: Any) -> Any:
    """A whole number, as Python's own."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        return _REFUSED
    return value if isinstance(value, int) else int(value)


def _number(value: Any) -> Any:
    """A finite number in float32."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not -LARGEST <= value <= LARGEST:  # nan is not in any range
        return _REFUSED
    # others are more than torch can count
    small = isinstance(value, int) and abs(value) < 2**53
    return value if small or isinstance(value, float) else float(value)


def _tuple(value: Any, hints: tuple[Any, ...]) -> Any:
    """A tuple of so many hints, or with `...` of any length; a single number stands for a tuple of it."""
    several = len(hints) == 2 and hints[1] is Ellipsis
    if several and isinstance(value, numbers.Real) and not isinstance(value, bool):
        value = (value,)
    if not isinstance(value, (tuple, list)) or len(value) > LONGEST:
        return _REFUSED
    wanted: Sequence[Any] = [hints[0]] * len(value) if several else hints
    if len(value) != len(wanted):
        return _REFUSED
    taken = tuple(map(_taken, value, wanted))
    return _REFUSED if _REFUSED in taken else taken


def _too_large(value: Any, hint: Any) -> float:
    """The bytes that a value takes which is only too large; 0 where something else is wrong with it."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Annotated and isinstance(value, int):
        size = sum(rule.size for rule in arguments if isinstance(rule, Takes))
        others = [rule for rule in _rules(hint) if not isinstance(rule, Takes)]
        right = _taken(value, arguments[0]) is not _REFUSED
        alone = right and all(rule.holds(value) for rule in others)
        return float(min(size * value, 10**300)) if alone else 0.0
    if typing.get_origin(hint) is tuple and isinstance(value, (tuple, list, int)):
        entries = value if isinstance(value, (tuple, list)) else (value,)
        sizes = [_too_large(entry, arguments[0]) for entry in entries[:LONGEST]]
        return max(sizes, default=0.0)
    if typing.get_origin(hint) in UNIONS:
        return max(_too_large(value, choice) for choice in arguments)
    return 0.0


def words(hint: Any, *, many: bool = False) -> str:
    """What a value must be, in words.

    >>> print(words(tuple[Count, ...] | None))
    a tuple of whole numbers of at least 1 or None
    """
    kind, arguments = typing.get_origin(hint), typing.get_args(hint)
    if kind is Annotated:
        said = words(arguments[0], many=many)
        for rule in _rules(hint):
            if not isinstance(rule, Takes):
                said = rule.words(said)
        return said
    if kind in UNIONS:
        return _either([words(h) for h in arguments])
    if kind is Literal:
        return _either([repr(choice) for choice in arguments])
    if kind is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return f"a tuple of {words(arguments[0], many=True)}"
        if len(set(arguments)) == 1:
            return f"a tuple of {len(arguments)} {words(arguments[0], many=True)}"
        return f"a tuple of {', '.join(words(h) for h in arguments)}"
    if hint in (None, types.NoneType):
        return "None"
    if hint in NOUNS:
        singular, plural = NOUNS[hint]
        return plural if many else singular
    returned = arguments[-1] if arguments and kind is not None else hint
    name = getattr(returned, "__name__", "member")
    return f"an {name}" if name[0] in "AEIO" else f"a {name}"


def _either(choices: Sequence[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    *most, last = dict.fromkeys(choices)
    return f"{', '.join(most)} or {last}" if most else last


def _near(value: Any, hint: Any) -> str:
    """The choice that a text is nearest to."""
    if not isinstance(value, str):
        return ""
    near = difflib.get_close_matches(value, _texts(hint), 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _texts(hint: Any) -> list[str]:
    """The texts that a hint takes."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return [choice for choice in arguments if isinstance(choice, str)]
    texts: list[str] = []
    for part in arguments:
        texts += part.choices if isinstance(part, OneOf) else _texts(part)
    return texts


class _Shown(reprlib.Repr):
    """`repr` in a line: what is long is cut in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlong = self.maxstring = self.maxother = 60
        self.maxtuple = self.maxlist = self.maxdict = 6
        self.maxlevel = 4

    def repr_int(self, x: int, level: int) -> str:
        if x.bit_length() > 400:  # Python writes out no more than 4,300 digits
            digits = int(x.bit_length() * math.log10(2)) + 1
            return f"a whole number of {digits:,} digits"
        return super().repr_int(x, level)


def shown(value: Any) -> str:
    """A value as it would be written, in one short line whatever it is."""
    try:
        text = _Shown().repr(value)
    except Exception:  # its class has a `repr` of its own
        text = f"a {type(value).__name__}"
    return " ".join(text.split())
