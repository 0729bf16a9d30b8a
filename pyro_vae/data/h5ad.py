"""Annotated matrices of single cells: .h5ad."""

from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.data.conditions import asked
from pyro_vae.data.files import Loaded, Parts, Request, telling
from pyro_vae.data.labels import one_each, separate_labels
from pyro_vae.data.sparse import Sparse, sparse_values
from pyro_vae.data.streams import SHARE
from pyro_vae.foundation.errors import InputError
from pyro_vae.foundation.memory import available_memory
from pyro_vae.foundation.reading import user_path


def h5ad(path: Path, request: Request) -> Loaded:
    """The matrix `X` of an AnnData file, or a layer; rows are called by `obs_names`, columns by `var_names`.

    Labels are a column of `obs`. Nothing else of the file is read.

    Raises:
        InputError: without the package anndata, for a damaged file, and for a layer or label that is not there.
    """
    try:
        import h5py
        from anndata.io import read_elem
    except ImportError as error:
        raise InputError(
            f'{path} needs the package anndata, which is not installed: pip install "pyro-vae[anndata]"'
        ) from error
    complaint = f"{path} cannot be read as an .h5ad file"
    with telling(complaint, PermissionError), h5py.File(path, "r") as file:
        return _loaded(path, request, file, read_elem)


def _loaded(path: Path, request: Request, file: Any, read_elem: Any) -> Loaded:
    layers = [*file.get("layers", {}), *(["raw"] if "raw" in file else [])]
    place, annotation = "X", "var"
    if request.layer == "raw" and "raw" in file and "raw" not in file.get("layers", {}):
        place, annotation = "raw/X", "raw/var"
    elif request.layer is not None:
        place = f"layers/{request.layer}"
    if place not in file:
        there = f"it has {', '.join(layers)}" if layers else "it has no layers"
        what = f"no layer {request.layer}" if request.layer else "no matrix X"
        raise InputError(f"{path} has {what}; {there} (--layer NAME)")
    obs, var = read_elem(file["obs"]), read_elem(file[annotation])
    values, notes = _matrix(path, file[place], read_elem, request.stream)
    others = ", ".join(layer for layer in layers if layer != request.layer)
    others = others and f"; --layer takes {others}"
    notes = [f"{place} of the file{others}", *notes]
    names = {"train": obs.index.to_numpy().astype(str)}
    labels: Parts | None
    if request.labels is not None and request.labels in obs:
        of_obs, more = one_each(_of_obs(obs, request.labels), request.labels)
        labels = {"train": of_obs}
    elif request.labels is not None and not user_path(request.labels).is_file():
        raise InputError(
            f"--labels {request.labels} is no file and no column of obs in {path}, which has "
            f"{', '.join(map(str, obs.columns)) or 'none'}"
        )
    else:
        sizes = {"train": len(obs)}
        labels, more = separate_labels(path, request, sizes, names=names)
        if request.labels is None and len(obs.columns):
            more = [f"no labels; --labels takes {', '.join(map(str, obs.columns[:8]))}"]
    conditions = {
        name: {"train": _of_obs(obs, name)}
        for name in asked(request.condition)
        if name in obs
    }
    return Loaded(
        {"train": values},
        labels,
        str(path),
        names,
        [*notes, *more],
        [str(name) for name in var.index],
        conditions=conditions,
    )


def _of_obs(obs: Any, name: str) -> Any:
    """A column of `obs`: numbers as they are, all else as texts, empty where one is missing."""
    column = obs[name]
    if column.dtype.kind in "biuf":
        return column.to_numpy()
    texts = column.astype(object).where(column.notna(), "").astype(str)
    return texts.to_numpy(str)


def _matrix(
    path: Path, node: Any, read_elem: Any, stream: bool | None
) -> tuple[np.ndarray | Sparse, list[str]]:
    """A dense or a sparse matrix of the file, which must fit in memory as it is."""
    arrays = [node] if hasattr(node, "dtype") else [node["data"], node["indices"]]
    size = sum(array.size * array.dtype.itemsize for array in arrays)
    if size > 2 * SHARE * available_memory():
        raise InputError(
            f"{path} holds a matrix of {size / 1e9:.3g} GB, too much for memory"
        )
    matrix = read_elem(node)
    if isinstance(matrix, np.ndarray):
        return matrix, []
    values, note = sparse_values(path, matrix, stream)
    return values, [note]
