"""The user's own data: .npy, .npz, .csv, or a folder of images."""

import difflib
from pathlib import Path

import numpy as np

from pyro_vae._errors import InputError
from pyro_vae.data.files import Loaded, Parts, Request, one_line, read_npy, read_npz
from pyro_vae.data.images import image_folder
from pyro_vae.data.labels import separate_labels
from pyro_vae.data.named import NAMED
from pyro_vae.data.streams import Mapped, stays_on_disk


def own(request: Request) -> Loaded:
    """Read the file or folder that `request.dataset` names."""
    path = Path(request.dataset).expanduser()
    if path.is_dir():
        return image_folder(path, request)
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".npz", ".csv"):
        near = difflib.get_close_matches(request.dataset, NAMED, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(
            f"--dataset {request.dataset} is neither a folder of images, nor a .npy, .npz or .csv file, nor one of "
            f"{', '.join(NAMED)}{hint}"
        )
    if not path.is_file():
        raise InputError(f"the file {path} does not exist")
    if path.stat().st_size == 0:
        raise InputError(f"the file {path} is empty")
    read = {".npy": _own_npy, ".npz": _own_npz, ".csv": _own_csv}[suffix]
    return read(path, request)


def _own_npy(path: Path, request: Request) -> Loaded:
    if stays_on_disk(path.stat().st_size, request.stream):
        values: np.ndarray | Mapped = Mapped(path, request.workers)
    else:
        values = read_npy(path)
    labels, notes = separate_labels(path, request, _sizes(values))
    return Loaded({"train": values}, labels, str(path), notes=notes)


def _own_npz(path: Path, request: Request) -> Loaded:
    archive = read_npz(path)
    keys = ", ".join(archive) or "no arrays"
    if "train" in archive:
        names = {
            "train": "train",
            "validation": "validation",
            "valid": "validation",
            "test": "test",
        }
        parts = {split: archive[key] for key, split in names.items() if key in archive}
        suffix = request.labels or "labels"
        found = {
            s: archive[f"{k}_{suffix}"]
            for k, s in names.items()
            if k in archive and f"{k}_{suffix}" in archive
        }
        if request.labels and len(found) < len(parts):
            raise InputError(
                f"{path} has no arrays train_{suffix}, ... for --labels {suffix}; it has {keys}"
            )
        return Loaded(parts, found if len(found) == len(parts) else None, str(path))
    key: str | None = next((k for k in ("x", "images", "data") if k in archive), None)
    rest = [k for k in archive if k != request.labels]
    if key is None and len(rest) == 1:
        key = rest[0]
    if key is None:
        raise InputError(
            f"{path} must hold its data under the name x, images, data or train; it has {keys}"
        )
    label_key = request.labels or next((k for k in ("y", "labels") if k in archive), None)
    if label_key is None or label_key in archive:
        inside = None if label_key is None else {"train": archive[label_key]}
        return Loaded({"train": archive[key]}, inside, str(path))
    labels, notes = separate_labels(path, request, _sizes(archive[key]))
    return Loaded({"train": archive[key]}, labels, str(path), notes=notes)


def _own_csv(path: Path, request: Request) -> Loaded:
    import pandas

    try:
        with path.open() as file:
            first = file.readline().strip().split(",")
        header = None if all(_is_number(cell) for cell in first) else 0
        table = pandas.read_csv(path, header=header)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a table: {one_line(error)}") from error
    if len(table) == 0:
        raise InputError(f"the file {path} has no rows of data")
    table.columns = [str(column) for column in table.columns]
    labels: Parts | None = None
    notes: list[str] = []
    if request.labels is not None and request.labels in table:
        labels = {"train": table.pop(request.labels).to_numpy()}
    elif request.labels is not None:
        labels, notes = separate_labels(path, request, {"train": len(table)})
    for column in table:
        if not pandas.api.types.is_numeric_dtype(table[column]):
            raise InputError(
                f"column {column!r} of {path} does not hold numbers; name it with --labels or remove it"
            )
        if table[column].isna().any():
            row = int(table[column].isna().to_numpy().argmax())
            raise InputError(
                f"column {column!r} of {path} has a missing value in data row {row} (counted from 0)"
            )
    return Loaded({"train": table.to_numpy()}, labels, str(path), None, notes, list(table.columns))


def _sizes(values: np.ndarray | Mapped) -> dict[str, int]:
    return {"train": values.shape[0] if values.shape else 0}


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
