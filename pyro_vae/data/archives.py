"""Arrays of NumPy: .npy and .npz."""

from pathlib import Path

import numpy as np

from pyro_vae._errors import InputError
from pyro_vae.data.files import Loaded, Request, read_npy, read_npz
from pyro_vae.data.labels import separate_labels
from pyro_vae.data.streams import Mapped, stays_on_disk


def npy(path: Path, request: Request) -> Loaded:
    """One array."""
    if stays_on_disk(path.stat().st_size, request.stream):
        values: np.ndarray | Mapped = Mapped(path, request.workers)
    else:
        values = read_npy(path)
    labels, notes = separate_labels(path, request, _sizes(values))
    return Loaded({"train": values}, labels, str(path), notes=notes)


def npz(path: Path, request: Request) -> Loaded:
    """An archive of arrays with names."""
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


def _sizes(values: np.ndarray | Mapped) -> dict[str, int]:
    return {"train": values.shape[0] if values.shape else 0}
