"""What the fields of data may be called."""

import re
from collections.abc import Sequence
from typing import Any

from pyro_vae.foundation.errors import InputError

RESERVED = ("c", "total", "x", "y", "z")  # sites and data that are no field
LAYER = re.compile(r"z\d+")  # what layers of latents are called


def check_names(names: Sequence[Any], what: str, fewest: int = 2) -> tuple[str, ...]:
    """The names of fields, once each can be one of a site and stands once.

    Raises:
        InputError: for others, of `what`.
    """
    for name in names:
        if not isinstance(name, str) or not name.isidentifier():
            raise InputError(
                f"{what} has a field {name!r}: a name is made of letters, digits and _"
            )
        if name in RESERVED or LAYER.fullmatch(name):
            raise InputError(
                f"{what} has a field called {name}, which names something else in a formula: call it otherwise, as in "
                f"image={name}"
            )
    twice = [name for name in names if list(names).count(name) > 1]
    if twice:
        raise InputError(f"{what} has two fields called {twice[0]}")
    if len(names) < fewest:
        raise InputError(f"{what} has one field: give two or more")
    return tuple(names)
