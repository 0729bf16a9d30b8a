"""What is asked for, and reading arrays from files."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.errors import one_line as one_line  # noqa: PLC0414  # the readers take it from here
from pyro_vae.foundation.terminal import printable

if TYPE_CHECKING:
    from pyro_vae.data.schema import Schema, Wish
    from pyro_vae.data.streams import Stream


@dataclass(frozen=True)
class Request:
    """What to load and where to look: the options of the programs that concern data; `load_data` describes them."""

    dataset: str = "digits"
    data_dir: str | None = None
    labels: str | None = None
    condition: str | None = None
    header: str | None = None
    delimiter: str | None = None
    decimal: str | None = None
    drop: str | None = None
    id: str | None = None
    key: str | None = None
    layer: str | None = None
    channels: str | None = None
    validation_fraction: float | None = None
    test_fraction: float | None = None
    stream: bool | None = None
    workers: int = 2
    maximum: int | None = None
    background: str | None = None
    columns: "Schema | Mapping[str, Wish] | None" = None  # of a table of mixed kinds
    missing: str | None = None
    hide: float | None = None
    hide_seed: int = 0
    field: str | None = None  # which of several is read
    others: Sequence[str] = ()  # the arrays that hold other fields

    @property
    def keeps_missing(self) -> bool:
        """Whether values may be missing where they are read."""
        return self.missing == "keep"


INTERNAL = ("field", "others")  # what readers are told beside what is asked for
Parts = dict[str, np.ndarray]


class Loaded(NamedTuple):
    """What a reader found in a file or folder, before it is checked and divided.

    Attributes:
        parts: values `(N, *shape)` by split; what has no splits of its own is all `"train"`.
        labels: one for each datum, by split, or `None`.
        source: where it was found.
        names: what each row is called (a file, an id), by split, or `None` where rows are only counted.
        notes: one sentence for each thing that was taken for something (a header, an index column).
        columns: names of the columns of a table, or `None`.
        schema: what the columns of a table of mixed kinds hold, or `None`.
        maximum: the largest value that the whole numbers can take where the files say it (65535 for images of 16
            bits), or `None`.
        conditions: by the name of a column what the data are given, one for each datum, by split.
    """

    parts: Mapping[str, "np.ndarray | Stream"]
    labels: Parts | None
    source: str
    names: Parts | None = None
    notes: Sequence[str] = ()
    columns: Sequence[str] | None = None
    maximum: float | None = None
    schema: "Schema | None" = None
    conditions: Mapping[str, Parts] = MappingProxyType({})


WAYS_OUT = {
    "c": "store real and imaginary parts, as by np.stack([x.real, x.imag], 1)",
    "M": "store times as numbers, as by (x - x.min()) / np.timedelta64(1, 's')",
    "m": "store durations as numbers, as by x / np.timedelta64(1, 's')",
    "V": "store its fields as columns, as by numpy.lib.recfunctions.structured_to_unstructured(x)",
    "O": "Python objects are never unpickled: store numbers in rows of one length, as by np.array(x.tolist(), float)",
    "U": "turn texts into numbers first",
    "S": "turn texts into numbers first",
}


@contextmanager
def telling(complaint: str, *passing: type[Exception]) -> Iterator[None]:
    """Whatever a library finds wrong with a file, each in its own way, in one sentence that begins with `complaint`.

    Raises:
        InputError: for all exceptions but one such as this, and those that are `passing`.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, (InputError, *passing)):
            raise
        raise InputError(f"{complaint}: {one_line(error)}") from error


def few(things: Sequence[Any], most: int, spell: Callable[[Any], str] = str) -> str:
    """The first of some things, for use inside a sentence.

    >>> few("abcd", 2), few("ab", 2)
    ('a, b, ... 4 in all', 'a, b')
    """
    more = f", ... {len(things)} in all" if len(things) > most else ""
    return ", ".join(map(spell, things[:most])) + more


def check_numbers(name: str, dtype: np.dtype) -> None:
    """Raise `InputError` unless these are real numbers or truth values, saying how to make numbers of them."""
    if dtype.kind not in "biuf":
        raise InputError(
            f"{name} holds {dtype} and not numbers; {WAYS_OUT[dtype.kind]}"
        )


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and the type of the array in an open .npy file; the array follows."""
    version = np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
    header = "read_array_header_1_0" if version == (1, 0) else "read_array_header_2_0"
    shape, _, dtype = getattr(np.lib.format, header)(file)
    return tuple(shape), dtype


def read_npy(path: Path) -> np.ndarray:
    """The array in a .npy file, never unpickled."""
    with reading_npy(path) as file:
        _, dtype = read_header(file)
        if dtype.hasobject:
            check_numbers(str(path), dtype)
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)


@contextmanager
def reading_npy(path: Path) -> Iterator[IO[bytes]]:
    """A .npy file; a damaged header can fail in any part of NumPy's reader."""
    complaint = f"{path} is not a .npy file of numbers"
    with telling(complaint, OSError), path.open("rb") as file:
        yield file


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays in a .npz file by name, never unpickled."""
    with reading_npz(path) as archive:
        return {key: archive[key] for key in archive.files}


@contextmanager
def reading_npz(path: Path) -> Iterator[Any]:
    """The arrays in a .npz file, never unpickled; NumPy, zipfile and zlib each complain in their own way."""
    complaint = f"{path} is not a .npz file of numbers"
    with (
        telling(complaint, PermissionError),
        path.open("rb") as file,
        np.load(file, allow_pickle=False) as archive,
    ):
        yield archive


def shown(name: str | Path) -> str:
    """A file's name as it can be printed: no line breaks, and bytes that are no text by their numbers."""
    return printable(os.fsencode(name).decode("utf-8", "backslashreplace"))
