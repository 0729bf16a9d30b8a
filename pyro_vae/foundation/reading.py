"""Reading what comes from outside: whatever is unexpected in a file becomes one sentence with its name."""

import json
import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyro_vae.foundation.errors import InputError, one_line

LARGEST = 2**26  # bytes of a text that describes something
REASONS = {
    UnicodeError: "it is no text in UTF-8",
    RecursionError: "it is nested too deeply",
    MemoryError: "it is too large for memory",
}


def user_path(text: str | Path) -> Path:
    """A path as a person writes it: `~` is the home folder, where there is one; any other name stays as it is."""
    return Path(os.path.expanduser(text))  # pathlib fails where there is no home


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Anything that goes wrong inside says that `path` is not `what` it should be.

    Raises:
        InputError: in one sentence; those that are raised inside pass.
    """
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"the file {path} does not exist") from None
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise InputError(f"the file {path} cannot be read: {reason}") from error
    except Exception as error:
        said = one_line(error)
        if isinstance(error, KeyError):
            said = f"{said} is missing"
        reasons = [text for kind, text in REASONS.items() if isinstance(error, kind)]
        reason = reasons[0] if reasons else said[:200]
        raise InputError(f"the file {path} is not {what}: {reason}") from error


def text_of(path: Path, what: str) -> str:
    """The text in a regular file, in UTF-8."""
    with reading(path, what):
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "a pipe or device"
            raise InputError(f"{path} is {kind}, and not {what}")
        if path.stat().st_size > LARGEST:
            raise InputError(f"the file {path} is not {what}: it has more than 64 MiB")
        return path.read_text(encoding="utf-8-sig")


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file."""
    with reading(path, "valid TOML"):
        return tomllib.loads(text_of(path, "valid TOML"))


def read_json(path: Path) -> Any:
    """What a JSON file holds."""
    with reading(path, "valid JSON"):
        return json.loads(text_of(path, "valid JSON"))
