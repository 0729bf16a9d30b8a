"""The user's own data: the reader of each kind of file, or of a folder of images."""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pyro_vae.data.archives import npy, npz
from pyro_vae.data.files import Loaded, Request
from pyro_vae.data.folders import SUFFIXES
from pyro_vae.data.foreign import way_in
from pyro_vae.data.h5ad import h5ad
from pyro_vae.data.images import image_folder
from pyro_vae.data.named import NAMED
from pyro_vae.data.tables import parquet, text_table
from pyro_vae.data.text import COMPRESSED, kind_of
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.reading import user_path


class Reader(NamedTuple):
    """What reads a kind of file, and the options that it takes beside `labels`."""

    read: Callable[[Path, Request], Loaded]
    options: frozenset[str] = frozenset()


COLUMNS = frozenset({"drop", "id", "missing"})
TEXT = Reader(text_table, COLUMNS | {"header", "delimiter", "decimal"})
TEXTS = (".csv", ".tsv", ".tab", ".txt", ".dat", ".data", ".psv", ".ssv", ".asc")
READERS = {
    ".npy": Reader(npy, frozenset({"channels", "missing"})),
    ".npz": Reader(npz, frozenset({"channels", "drop", "key", "missing"})),
    ".parquet": Reader(parquet, COLUMNS),
    ".pq": Reader(parquet, COLUMNS),
    ".h5ad": Reader(h5ad, frozenset({"layer", "missing"})),
    **dict.fromkeys(TEXTS, TEXT),
}
FOLDER = Reader(image_folder)
OWN = (
    "labels",
    *sorted({option for reader in READERS.values() for option in reader.options}),
)


def _reader(path: Path) -> Reader | None:
    reader = FOLDER if path.is_dir() else READERS.get(kind_of(path))
    return None if path.suffix.lower() in COMPRESSED and reader is not TEXT else reader


def options_for(other: str, trained: str) -> frozenset[str]:
    """The options that told how to read the file `trained` and that hold for the file `other` too."""
    first, second = (_reader(user_path(file)) for file in (trained, other))
    if first is None or second is None:
        return frozenset()
    if kind_of(Path(other)) == kind_of(Path(trained)):
        return second.options
    tables = first.options >= COLUMNS and second.options >= COLUMNS
    return COLUMNS if tables else frozenset()


def options_of(file: str) -> frozenset[str]:
    """The options that tell how to read a file, beside `labels`; none of a folder, and of what cannot be read."""
    reader = _reader(user_path(file))
    return frozenset() if reader is None else reader.options


def may_have_holes(file: str) -> bool:
    """Whether a file is of a kind in which values can be missing."""
    reader = _reader(user_path(file))
    return reader is not None and "missing" in reader.options


def own(request: Request) -> Loaded:
    """Read the file or folder that `request.dataset` names."""
    if not request.dataset.strip():
        raise InputError(
            "--dataset is empty: name a data set, a file, or a folder of images"
        )
    path = user_path(request.dataset)
    reader = _reader(path)
    if reader is None:
        raise InputError(_unknown(path, request.dataset))
    for option in OWN[1:]:
        if getattr(request, option) is not None and option not in reader.options:
            fit = [suffix for suffix, r in READERS.items() if option in r.options]
            raise InputError(
                f"--{option} is for data in {', '.join(fit)}, which {request.dataset} is not"
            )
    if reader is not FOLDER:
        if not path.is_file():
            raise InputError(f"the file {path} does not exist")
        if path.stat().st_size == 0:
            raise InputError(f"the file {path} is empty")
    return reader.read(path, request)


def _unknown(path: Path, given: str) -> str:
    """The sentence about what is neither a known name nor a kind of file that is read."""
    if path.is_file() and (way := way_in(path)) is not None:
        return f"--dataset {given} {way}"
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return (
            f"--dataset {given} is one image: name the folder in which all of them lie"
        )
    near = difflib.get_close_matches(given, NAMED, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    if path.is_file():
        hint = f"; store its numbers as a .npy, .npz or .csv file{hint}"
    return (
        f"--dataset {given} is neither a folder of images, nor a file of a kind that is read "
        f"({', '.join(READERS)}), nor one of {', '.join(NAMED)}{hint}"
    )
