"""Whether a function becomes a graph, where nobody decided."""

import logging
from collections.abc import Callable
from typing import Any

from torch import nn

from pyro_vae.engine.affine import products_of
from pyro_vae.engine.compiled import Compiled
from pyro_vae.foundation.errors import InputError

REPAID = 3e10  # bytes that compiling has to save the writing of, to be worth its time


def choice(wanted: bool | str, *, repaid: bool) -> bool:
    """Whether to compile, where that may be `'auto'`."""
    if wanted not in (True, False, "auto"):
        raise InputError(f"compile={wanted!r} must be True, False or 'auto'")
    return repaid if isinstance(wanted, str) else wanted


def compiled(
    function: Callable[..., Any], modules: list[nn.Module], name: str, *, asked: bool
) -> Compiled:
    """A function of tensors and of modules that do not change; unasked, a failure is logged and not warned of."""
    state = list(
        dict.fromkeys(t for m in modules for t in (*m.parameters(), *m.buffers()))
    )
    warn = None if asked else logging.getLogger(__name__).info
    products = products_of(m for program in modules for m in program.modules())
    return Compiled(
        function, state=lambda: (state, None), name=name, warn=warn, products=products
    )
