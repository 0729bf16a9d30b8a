"""Variational autoencoders in Pyro: any prior, likelihood, guide and objective; a log-likelihood with its errors."""

import ast
import importlib
import pkgutil
import sys
import warnings
from typing import Any

__version__ = "0.1.0"

# Pyro imports tqdm, which in a notebook asks for widgets; without them its bars are text, and nothing is missing.
warnings.filterwarnings("ignore", "IProgress not found")

# Each public name and the module that has it, read from the stub beside this file.
_HOMES = {
    alias.name: node.module
    for node in ast.parse(pkgutil.get_data(__name__, "__init__.pyi") or b"").body
    if isinstance(node, ast.ImportFrom) and node.module
    for alias in node.names
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """A public name or a module, imported at its first use: importing torch takes seconds."""
    home = importlib.import_module(_HOMES.get(name, __name__))
    if home.__name__ != __name__ and hasattr(home, name):
        value = getattr(home, name)
        setattr(sys.modules[__name__], name, value)
        return value
    module = f"{home.__name__}.{name}"
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
